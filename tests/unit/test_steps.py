"""What a build's log says of a step beside the step's own lines; steps in a real sandbox: tests/e2e."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from builder import indexes, sandbox
from builder.attempt import steps
from builder.errors import BuildError, PlatformError
from builder.images.image import BaseImage
from builder.indexes import Indexes
from builder.mask import mask_of
from builder.plan import Access, Cache, Network, Sees, Step
from builder.sandbox import EgressRecord, Verdict
from builder.sandbox.lines import LINE_LIMIT, LineSplitter
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import attempt_at

DONE = sandbox.Result(
    exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
)  # fmt: skip


def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Network, *tried: EgressRecord, code: int = 0) -> Any:
    """The lines that a step adds to the log, when its connections were these."""

    def run(*_: object, egress: sandbox.Egress | None, **others: object) -> sandbox.Result:
        for record in tried:
            assert egress is not None
            egress.record(record)
        return sandbox.Result(**{**vars(DONE), "exit_code": code})

    monkeypatch.setattr(sandbox, "run", run)
    attempt = attempt_at(tmp_path, settings={"index_env": {"UV_DEFAULT_INDEX": "https://pypi.corp/simple"}})
    base = BaseImage(name="go", digest="sha256:" + "a" * 64, layers=())
    toolchain = Provided(base=base, root=sandbox.Root(), digests={}, indexes=indexes.shipped()["python"])
    step = Step(name="fetch", argv=("x",), network=network, sees=Sees.STUBS, runs_source=False, cwd="/work/fetch")
    reasons: list[tuple[str, str, str]] = []
    try:
        with attempt.phase("BUILD"):
            steps.execute_step(attempt, toolchain, step)
    except PlatformError as error:
        reasons.append(("", "", error.reason))
    return [(line.phase, line.stream, line.text) for line in attempt.log.spool.batch(100)] + reasons


@pytest.mark.parametrize(
    ("brought", "told"), [((("RUST_VERSION", "1.95.2"),), "1.95.2"), ((), "1.95")], ids=["its own", "none"]
)
def test_a_variable_of_the_toolchain_goes_before_the_default_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: tuple[tuple[str, str], ...], told: str
) -> None:
    found: list[sandbox.Command] = []

    def run(command: sandbox.Command, *_: object, **others: object) -> sandbox.Result:
        found.append(command)
        return DONE

    monkeypatch.setattr(sandbox, "run", run)
    toolchain = Provided(base=None, root=sandbox.Root(), digests={}, env=brought)
    step = Step(name="compile", argv=("x",), env=(("RUST_VERSION", "${RUST_VERSION:-1.95}"),))
    steps.execute_step(attempt_at(tmp_path), toolchain, step)
    assert found[0].env["RUST_VERSION"] == told


def test_what_is_shown_is_mounted_over_a_folder_of_the_build_and_over_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[sandbox.Command] = []

    def run(command: sandbox.Command, *_: object, **others: object) -> sandbox.Result:
        found.append(command)
        return DONE

    monkeypatch.setattr(sandbox, "run", run)
    attempt, step = attempt_at(tmp_path), Step(name="compile", argv=("x",))
    toolchain = Provided(base=None, root=sandbox.Root(), digests={})
    attempt.shown["/work/fetch/vendor"] = tmp_path / "stored"
    steps.execute_step(attempt, toolchain, step)
    assert found[0].shown == {"/work/fetch/vendor": tmp_path / "stored"} and (attempt.work / "fetch/vendor").is_dir()
    steps.execute_step(attempt, toolchain, step, tmp_path / "apart")
    assert not found[1].shown, "a step apart has a work folder of its own"
    (attempt.work / "fetch/vendor").rmdir()
    (attempt.work / "fetch/vendor").symlink_to(tmp_path)
    with pytest.raises(BuildError, match="/work/fetch/vendor"):
        steps.execute_step(attempt, toolchain, step)


def connection(host: str, verdict: Verdict, came: int = 0) -> EgressRecord:
    return EgressRecord(host=host, port=443, bytes_in=came, bytes_out=came, verdict=verdict)


def test_the_operators_list_of_hosts_is_open_to_a_client_that_fetches_modules_and_to_no_other(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path, settings={"import_hosts": ("deno.land", "modules.corp:8443")})
    base = BaseImage(name="go", digest="sha256:" + "a" * 64, layers=())
    for client, hosts in (
        (Indexes(), frozenset[tuple[str, int]]()),
        (Indexes(listed=True), frozenset({("deno.land", 443), ("modules.corp", 8443)})),
    ):
        toolchain = Provided(base=base, root=sandbox.Root(), digests={}, indexes=client)
        step = Step(
            name="fetch", argv=("x",), network=Network.INDEX, sees=Sees.STUBS, runs_source=False, cwd="/work/fetch"
        )
        assert steps.sandbox_egress(attempt, toolchain, step).policy.hosts == hosts


def test_the_build_user_passes_to_what_it_writes_of_a_cache_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def run(command: sandbox.Command, *_: object, **others: object) -> sandbox.Result:
        for name, over in command.overlays.items():
            seen.extend((name, each.stat().st_mode & 0o777) for each in (over.folder.parent, over.folder, over.upper))
        return DONE

    monkeypatch.setattr(sandbox, "run", run)
    attempt = attempt_at(tmp_path)
    attempt.work.parent.mkdir(parents=True, exist_ok=True)
    toolchain = Provided(base=None, root=sandbox.Root(), digests={})
    step = Step(name="compile", argv=("x",), caches=(Cache(name="go-build", access=Access.OVERLAY),))
    before = os.umask(0o077)
    try:
        steps.execute_step(attempt, toolchain, step)
        steps.execute_step(attempt, toolchain, step)
    finally:
        os.umask(before)
    assert seen[:2] == [("go-build", 0o755)] * 2 and len(seen) == 6
    assert not list(attempt.work.parent.glob("*.overlay")), "it ends with the step"


def test_a_fetch_step_ends_with_whom_it_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = connection("pypi.corp", Verdict.ALLOWED, 2048), connection("evil.example", Verdict.REFUSED)
    assert ran(tmp_path, monkeypatch, Network.INDEX, *tried) == [
        ("BUILD", "SYSTEM", "egress pypi.corp:443 allowed, 2 KiB in, 2 KiB out"),
        ("BUILD", "SYSTEM", "egress evil.example:443 refused"),
    ]


def test_it_is_said_also_where_the_index_did_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = connection("pypi.corp", Verdict.UNREACHABLE)
    assert ran(tmp_path, monkeypatch, Network.INDEX, tried, code=1) == [
        ("BUILD", "SYSTEM", "egress pypi.corp:443 unreachable"),
        ("", "", "PackageIndexUnavailable"),
    ]


def test_a_step_without_network_says_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(tmp_path, monkeypatch, Network.NONE) == []


def test_no_secret_of_a_build_is_in_the_lines_of_a_step_nor_in_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "ghp_0123456789abcdéf"
    encoded = base64.b64encode(f"ada:{token}".encode()).decode()

    def run(*_: object, on_line: sandbox.OnLine, **others: object) -> sandbox.Result:
        splitter = LineSplitter()
        long = b"x" * (LINE_LIMIT - 19) + token.encode() + b" long"  # cut inside of its only character of two bytes
        for line in [f"password {token}".encode(), *splitter.feed(long + b"\n"), encoded[:20].encode()]:
            on_line(sandbox.Stream.STDOUT, line)
        on_line(sandbox.Stream.STDERR, b"of another stream")
        on_line(sandbox.Stream.STDOUT, encoded[20:].encode())
        on_line(sandbox.Stream.STDOUT, token[:10].encode())
        return DONE

    monkeypatch.setattr(sandbox, "run", run)
    attempt = attempt_at(tmp_path)
    attempt.log.mask = mask_of({"git.token": token, "git.username": "password"})
    result = steps.execute_step(
        attempt, Provided(base=None, root=sandbox.Root(), digests={}), Step(name="compile", argv=("x",))
    )
    attempt.log.system(f"the token is {token}")
    lines = [line.text for line in attempt.log.spool.batch(100)]
    assert lines == [*result.tail, "the token is ***"]
    said = "\n".join(lines)
    assert lines[0] == "password ***" and " long" in said and "of another stream" in said
    assert not any(part in said for part in (token, "ghp_0123456789ab", "cdéf", encoded[:18], encoded[20:]))
    assert lines[-2] == "***", "what waited for its next line is there at the end"
