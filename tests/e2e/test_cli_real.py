"""The installed program as its user types it: against a real server, and as its own embedded one. Nothing is played."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import uids
from tests.build_fixtures import CALLER, PYTHON_HANDLER, Server, processes_of, tar_of, until, zip_of
from tests.golden.update import EXAMPLES
from tests.program_fixtures import PROGRAM, Program, ended, processes_that_name

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_UID = uids.SERVER  # whose caches these are
REFERENCE = re.compile(r"^(?P<place>.+)/(?P<repository>[^/]+/[^/@]+)@(?P<digest>sha256:[0-9a-f]{64})\n$")
ANSWER = {
    "payload": "hello",
    "ctx": {"execution_id": "e-1", "function_id": "local/app", "organization_id": "local"},
}
SPEAKS = """\
import time
for number in range(20):
    print("line", number, flush=True)
    time.sleep(0.05)
open("/work/out/server.py", "w").close()
"""
HANGS = """\
import time
print("running now", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home below /var/tmp: the build user must be able to enter where artifacts are run."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-home-", dir="/var/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def program(server: Server, home: Path) -> Program:
    """The program with a server; `run` takes the registry and a node folder of this machine."""
    settings = server.embedded.settings
    here = {"registry": settings.registry, "node_dir": settings.node_dir, "build_uid": str(settings.build_uid)}
    return Program(home / "client", {"server": server.embedded.url, "token": server.embedded.token, **here})


@pytest.fixture(scope="module")
def scripting(scripts: Server, home: Path) -> Program:
    """The program with the server whose builds run a script of ours."""
    return Program(home / "scripting", {"server": scripts.embedded.url, "token": scripts.embedded.token})


@pytest.fixture(scope="module")
def alone(kept: Path, home: Path) -> Program:
    """The program without a server; the bases are those that other tests made."""
    node = home / "node"
    node.mkdir()
    for name in ("bases", "caches"):
        (node / name).symlink_to(kept / name)
    return Program(home / "alone", {"node_dir": str(node), "build_uid": str(EMBEDDED_UID), "slots": "1"})


def handler_folder(folder: Path) -> Path:
    root = folder / "hello"
    root.mkdir()
    (root / "handler.py").write_text(PYTHON_HANDLER)
    return root


def ask(url: str) -> httpx.Response:
    return httpx.post(url + "/", content="hello", headers=CALLER, timeout=120, trust_env=False)


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline().decode().rstrip("\n")
    assert line, process.stderr.read().decode()
    return line


def stopped(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return ended(process).code


# With a server


def test_a_folder_a_file_and_stdin_are_the_same_artifact(program: Program, server: Server, tmp_path: Path) -> None:
    root = handler_folder(tmp_path)
    archive = zip_of({"handler.py": PYTHON_HANDLER})
    runs = (
        program.run("build", str(root)),
        program.run("build", str(root / "handler.py"), "--no-cache"),
        program.run("build", "-", "--name", "piped", "--no-cache", stdin=archive),
    )
    found = []
    for ran in runs:
        assert ran.code == 0, ran.err
        match = REFERENCE.match(ran.out)
        assert match, ran.out
        found.append(match)
    assert [match["repository"] for match in found] == ["local/hello", "local/handler", "local/piped"]
    assert {match["place"] for match in found} == {server.embedded.settings.registry}
    assert len({match["digest"] for match in found}) == 1


def test_what_readers_say_is_what_the_build_said(program: Program, tmp_path: Path) -> None:
    built = program.run("build", str(handler_folder(tmp_path)), "--json", "--tag", "v1", "--no-cache")
    record = built.record
    assert (built.code, record.status) == (0, pb.BUILD_STATUS_SUCCEEDED), built.err
    assert list(record.tags) == ["v1"] and record.log_lines > 0
    short = record.build_id[:8]
    assert short in built.err
    assert program.run("get", short, "--json").record == record
    said = program.run("get")
    assert said.out.startswith(f"SUCCEEDED  {record.build_id}  hello  ")
    assert f"{record.artifact_ref}" in said.out and said.out.splitlines()[-1].endswith(f"run {short}")
    listed = codec.parse(pb.ListBuildsResponse, program.run("ls", "--limit", "1", "--json").out.encode())
    assert list(listed.builds) == [record]
    rows = program.run("ls").out.splitlines()
    assert rows[0].split()[:3] == ["BUILD", "NAME", "RUNTIME"] and rows[1].split()[:2] == [short, "hello"]
    for options in ((), ("-f",)):
        log = program.run("logs", *options, short, "--json")
        entries = [json.loads(line) for line in log.out.splitlines()]
        assert [int(entry["sequence"]) for entry in entries] == list(range(1, record.log_lines + 1)), log.err
    assert len(program.run("logs", short).out.splitlines()) == record.log_lines


def test_logs_follows_a_build_that_runs(scripting: Program, tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(SPEAKS)
    detached = scripting.run("build", str(tmp_path), "--detach")
    assert detached.code == 0 and re.fullmatch(r"[a-z][0-9a-z]{19}\n", detached.out), detached.err
    followed = scripting.run("logs", "-f", detached.out.strip(), "--raw", "--exit-status")
    assert followed.code == 0, followed.err
    said = [line for line in followed.out.splitlines() if re.fullmatch(r"line \d+", line)]
    assert said == [f"line {number}" for number in range(20)]
    assert scripting.run("get", "--json").record.status == pb.BUILD_STATUS_SUCCEEDED


def test_cancel_ends_a_running_build(scripting: Program, scripts: Server, tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(HANGS)
    build_id = scripting.run("build", str(tmp_path), "--detach").out.strip()
    scripts.wait_running(pb.Build(build_id=build_id), "running now")
    assert scripts.left_processes()
    cancelled = scripting.run("cancel", build_id[:8])
    assert (cancelled.code, cancelled.out) == (0, "")
    assert cancelled.err.splitlines()[-1].startswith(f"CANCELLED  {build_id[:8]}")
    scripts.assert_nothing_left()
    after = scripting.run("get", build_id, "--json", "--exit-status")
    assert (after.code, after.record.status) == (130, pb.BUILD_STATUS_CANCELLED)
    again = scripting.run("cancel", build_id)
    assert (again.code, again.err) == (0, f"{build_id[:8]} had ended before: CANCELLED\n")


def test_an_interrupt_cancels_the_build_and_its_processes(scripting: Program, scripts: Server, tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(HANGS + "# interrupted\n")
    with scripting.started("build", str(tmp_path), "--json") as process:
        assert process.stderr is not None
        while b"running now" not in (line := process.stderr.readline()):
            assert line, "the build ended"
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    assert (ran.code, ran.record.status) == (130, pb.BUILD_STATUS_CANCELLED), ran.err
    scripts.assert_nothing_left()


def test_run_serves_the_artifact_until_term(program: Program, server: Server, tmp_path: Path) -> None:
    built = program.run("build", str(handler_folder(tmp_path)), "--json")
    uids = range(server.embedded.settings.build_uid - 1, server.embedded.settings.build_uid)
    with program.started("run", built.record.build_id[:8]) as process:
        answer = ask(first_line(process))
        assert (answer.status_code, answer.json()) == (200, ANSWER)
        assert processes_of(uids), "the app does not run as the user of its own"
        assert stopped(process) == 0
    assert until(lambda: not processes_of(uids))
    assert not server.left_folders("run")


def test_run_of_a_failed_build_says_why_not(program: Program, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handler(payload, ctx)\n    return 1\n")
    failed = program.run("build", str(tmp_path), "--json")
    assert failed.code == 1
    ran = program.run("run", failed.record.build_id)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1].endswith(f"ignite-builder get {failed.record.build_id[:8]}")


# Without one


def test_plan_needs_no_path_no_network_and_no_server(tmp_path: Path) -> None:
    # A network namespace of its own, without even a loopback that is up; any program that it sought would be missing.
    isolated = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--net", PROGRAM]
    for name in ("go-hello", "python-numpy"):
        folder = EXAMPLES / name
        argv = [*isolated, "plan", str(folder), "--json"]
        done = subprocess.run(argv, env={"PATH": "", "HOME": str(tmp_path)}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["plan"] == json.loads((folder / "plan.json").read_text())
    assert not list(tmp_path.iterdir()), "planning left something in the home"


def test_doctor_tries_the_sandbox_and_names_what_is_missing(alone: Program, tmp_path: Path) -> None:
    found = alone.run("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(found.out)["findings"]}
    assert found.code == int(any(not row["ok"] for row in rows.values()))
    for part in ("bubblewrap", "sandbox"):
        assert [row["ok"] for name, row in rows.items() if name.startswith(f"{part}:")] == [True], rows
    assert all(row["mend"] for row in rows.values() if not row["ok"])
    bare = alone.run("doctor", PATH=str(tmp_path))
    assert bare.code == 1
    (row,) = (line for line in bare.out.splitlines() if "redis-server" in line)
    assert row.startswith("✗") and row.endswith("mend: apt-get install -y redis-server")


def test_a_build_of_its_own_leaves_records_and_artifact_but_no_process(alone: Program, tmp_path: Path) -> None:
    root = handler_folder(tmp_path)
    built = alone.run("build", str(root))
    assert built.code == 0, built.err
    assert built.err.splitlines()[0].endswith("  local")
    match = REFERENCE.match(built.out)
    assert match and match["repository"] == "local/hello", built.out
    assert until(lambda: not processes_that_name(alone.home))
    record = alone.run("get", "--json").record
    assert (record.status, record.image_digest) == (pb.BUILD_STATUS_SUCCEEDED, match["digest"])
    assert len(alone.run("logs").out.splitlines()) == record.log_lines
    assert alone.run("ls").out.splitlines()[1].split()[:2] == [record.build_id[:8], "hello"]
    with alone.started("run") as process:
        assert ask(first_line(process)).json() == ANSWER
        assert stopped(process) == 0
    failed = alone.run("build", "-", "--name", "broken", stdin=tar_of({"handler.py": "def main():\n    pass\n"}))
    assert (failed.code, failed.out) == (1, "")
    assert "EntryPointMissing" in failed.err and failed.err.splitlines()[-1].startswith("next   ")
    assert until(lambda: not processes_that_name(alone.home))
    node = alone.home.parent / "node"
    assert not [*node.glob("local/*/work/*"), *node.glob("local/*/spool/*"), *(node / "run").iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dev_serves_other_shells_until_it_is_stopped(
    alone: Program, home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with alone.started("dev", "--json") as process:
        said = json.loads(first_line(process))
        token = Path(said["tokenFile"])
        assert token.stat().st_mode & 0o777 == 0o600
        other = Program(home / "other", {"server": said["url"], "token_file": str(token)})
        built = other.run("build", str(handler_folder(tmp_path)))
        assert built.code == 0 and REFERENCE.match(built.out), built.err
        assert token.read_text(encoding="utf-8") not in built.out + built.err
        assert stopped(process, number) == 0
    assert not token.exists()
    assert until(lambda: not processes_that_name(alone.home)), processes_that_name(alone.home)
    lost = other.run("ls", "--json")
    assert (lost.code, json.loads(lost.out)["reason"]) in ((2, "InvalidRequest"), (9, "Unavailable"))


def test_a_second_interrupt_kills_the_sandbox_of_a_build_of_its_own(
    alone: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    scripts = {"pipelines": "tests.pipeline_script", "catalog": str(ROOT / "tests/data/catalog.toml")}
    scripted = Program(alone.home, {**alone.settings, **scripts})
    (tmp_path / "build.py").write_text(HANGS + "# interrupted twice\n")
    with scripted.started("build", str(tmp_path)) as process:
        assert process.stderr is not None
        heard = []
        for words in (b"running now", b"cancelling"):
            while words not in (line := process.stderr.readline()):
                heard.append(line)
                assert line, heard
            process.send_signal(signal.SIGINT)
        ran = ended(process)
    assert ran.code == 130, ran.err
    uids = range(EMBEDDED_UID, EMBEDDED_UID + 1)
    assert until(lambda: not processes_of(uids) and not processes_that_name(alone.home))


def test_making_a_client_loads_no_http_library() -> None:
    """In a fresh interpreter: this one has it loaded already."""
    made = "from builder.cli.client import Client; Client('http://x', 't').close()"
    code = made + "; import sys; print('httpx' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
