"""The wheel alone, in an empty environment outside of the checkout: it builds, serves, works, and its doctor looks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder import __version__
from builder.local.embedded import private_redis
from builder.local.ports import free_port
from builder.toolchains.host import find_program
from tests import uids
from tests.build_fixtures import PYTHON_HANDLER, TERMINAL, until
from tests.program_fixtures import Program, serving

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PLAIN = uids.WHEEL + 10
NEEDLESS = ("pytest", "mypy", "hypothesis", "grpcio-tools", "sse-starlette", "pydantic-settings")


def uv(*argv: str | Path, cwd: Path) -> str:
    """The ordinary client, with the machine's own settings of its indexes."""
    program = find_program("uv")
    assert program
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run([program, *argv], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def no_checkout() -> Iterator[None]:
    """The wheel alone: nothing of the checkout is on the path, whatever other tests have put there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that build users may enter."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-wheel-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    uv("build", "--wheel", "--out-dir", folder / "dist", cwd=ROOT)
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def executable(folder: Path, wheel: Path) -> str:
    """`ignite-builder` of an environment that holds the wheel and what it asks for, by Debian's Python: any user runs
    it, wherever this session's own interpreter is."""
    uv("venv", "--python", "/usr/bin/python3", folder / "venv", cwd=folder)
    uv("pip", "install", "--python", folder / "venv/bin/python", wheel, cwd=folder)
    return str(folder / "venv/bin/ignite-builder")


@pytest.fixture
def installed(executable: str, kept: Path, folder: Path, tmp_path: Path) -> Program:
    """The installed program, with a node folder of its own that has the kept bases."""
    node = Path(tempfile.mkdtemp(prefix="node-", dir=folder))
    node.chmod(0o755)
    for name in ("bases", "caches"):
        (node / name).symlink_to(kept / name)
    settings = {"node_dir": str(node), "data_dir": str(tmp_path / "data"), "build_uid": str(uids.WHEEL)}
    return Program(tmp_path / "home", settings, executable=executable, cwd=Path("/"))


def test_the_wheel_holds_what_the_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for below, packed in (
        (ROOT / "runtimes", "builder/_data/runtimes"),
        (ROOT / "builder/contract", "builder/contract"),
    ):
        files = {path for path in below.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {f"{packed}/{path.relative_to(below)}" for path in files} <= names
    assert not {name for name in names if name.startswith(("tests/", "examples/", "bench/"))}


def test_it_is_itself_and_has_only_what_it_asks_for(installed: Program, executable: str, folder: Path) -> None:
    python = str(Path(executable).parent / "python")
    told = subprocess.run([python, "-c", "import builder; print(builder.__file__)"], cwd="/", stdout=-1, check=True)
    assert Path(told.stdout.decode().strip()).is_relative_to(folder / "venv")
    version = installed.run("--version")
    assert version.code == 0 and version.out.startswith("ignite-builder "), version
    packages = {
        one["name"] for one in json.loads(uv("pip", "list", "--format", "json", "--python", python, cwd=folder))
    }
    assert not packages & set(NEEDLESS)


def test_it_builds_without_a_server(installed: Program, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/handler.py").write_text(PYTHON_HANDLER)
    built = installed.run("build", str(tmp_path / "app"), "--name", "hello", "--json")
    assert built.code == 0, built.out + built.err
    assert built.record.image_digest.startswith("sha256:")


@pytest.mark.skipif(os.geteuid() != 0, reason="everything here already runs unprivileged")
def test_it_builds_for_a_user_without_privileges(executable: str, kept: Path, folder: Path) -> None:
    """Base images are the only thing that this user needs from others: to make them takes more than it has."""
    own = folder / "plain"
    shutil.copytree(kept / "bases/layout", own / "node/bases/layout")
    (own / "app").mkdir()
    (own / "app/handler.py").write_text(PYTHON_HANDLER)
    for path in (own, *own.rglob("*")):
        os.chown(path, PLAIN, PLAIN)
    entry = folder / "as-plain-user"
    entry.write_text(f'#!/bin/sh\nexec setpriv --reuid {PLAIN} --regid {PLAIN} --clear-groups {executable} "$@"\n')
    entry.chmod(0o755)
    settings = {"node_dir": str(own / "node"), "data_dir": str(own / "data")}
    program = Program(own / "home", settings, executable=str(entry), cwd=Path("/"))
    built = program.run("build", str(own / "app"), "--name", "hello", "--json")
    assert built.code == 0, built.out + built.err
    assert built.record.image_digest.startswith("sha256:")
    assert (own / "data").stat().st_uid == PLAIN


def test_it_serves_and_works(installed: Program, registry: str, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/handler.py").write_text(PYTHON_HANDLER)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    tokens = (
        '[{ token = "t-client", organization = "acme" }, { token = "t-node", scopes = ["worker"], node = "node-1" },'
        ' { token = "t-other", scopes = ["worker"], node = "node-2" }]'
    )
    with private_redis(tmp_path / "redis") as (_, redis_url):
        values = {"listen": f"127.0.0.1:{port}", "redis_url": redis_url, "registry": registry, "tokens": tokens}
        values |= {"message_key": "k" * 32, "data_dir": str(tmp_path / "control")}
        control = Program(tmp_path / "control-home", values, installed.executable, installed.cwd)
        joined = {"server": url, "token": "t-node", "redis_url": redis_url, "node_id": "node-1"}
        node = Program(tmp_path / "node-home", dict(installed.settings) | joined, installed.executable, installed.cwd)
        client = Program(tmp_path / "home", {"server": url, "token": "t-client"}, installed.executable, installed.cwd)

        def is_ready() -> bool:
            assert serve.poll() is None, serve_said.read_text()
            with suppress(httpx.TransportError):
                return httpx.get(url + "/readyz", timeout=5, trust_env=False, verify=False).is_success
            return False

        def has_ended() -> bool:
            assert worker.poll() is None, worker_said.read_text()
            return client.run("get", build_id, "--json").record.status in TERMINAL

        assert not looked_at(node)["server"]["ok"]
        with serving(control, "serve") as (serve, serve_said):
            assert until(is_ready), serve_said.read_text()
            found, broker = looked_at(node), f"broker redis://{redis_url.rpartition('@')[2]}"
            assert found[f"server {url} {__version__}, token, protocol 1"]["ok"] and found[broker]["ok"], found
            assert "redis-server" not in found
            for token, words in (
                ("t-unknown", "not known here"),
                ("t-client", "lacks the scope worker"),
                ("t-other", 'for the node "node-2"'),
            ):
                refused = looked_at(node, IGNITE_BUILDER_TOKEN=token)["token"]
                assert not refused["ok"] and words in str(refused["effect"]) and refused["mend"]
            with serving(node, "worker") as (worker, worker_said):
                build_id = client.run("build", str(tmp_path / "app"), "--name", "hello", "--detach").out.strip()
                assert until(has_ended), serve_said.read_text() + worker_said.read_text()
                built = client.run("get", build_id, "--json", "--exit-status")
                assert built.code == 0, built.out
                for process, said in ((worker, worker_said), (serve, serve_said)):
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(300) == 0, said.read_text()


def looked_at(node: Program, **more: Any) -> dict[str, dict[str, object]]:
    """What `doctor` finds, by name."""
    return {row["name"]: row for row in json.loads(node.run("doctor", "--json", **more).out)["findings"]}
