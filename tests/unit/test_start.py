"""The start check beside the push: what ends a build, what is a warning, what is never started. Its sandbox is played;
the real one starts artifacts in tests/e2e/test_start.py."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import sandbox
from builder.attempt import start, uses
from builder.attempt.attempt import Attempt, plan_request
from builder.attempt.running import finish_build
from builder.claims.outcome import Artifact, StartStatus
from builder.claims.requests import artifact_record
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import START_CHECK
from builder.errors import BuildError, PlatformError
from builder.pipelines.arguments import COMMON_ARGS
from builder.plan import ComponentOutput, Output
from builder.sandbox import Command, Root, Stream, app
from builder.toolchains import wasmtime
from builder.toolchains.elf import loader_of
from tests.oci_fixtures import make_tree
from tests.unit.test_line import OneSource, attempt_in, make_base, planned

Play = Callable[..., list[tuple[Command, Root]]]
TRACEBACK = (b"Traceback (most recent call last):", b'  File "x", line 1', b"KeyError: 'API_KEY'")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Plays the sandbox of the check: the lines of the program, then how it ended. Returns what was run."""
    ran: list[tuple[Command, Root]] = []

    def put(exit_code: int = 0, reason: str | None = None, lines: tuple[bytes, ...] = (), error: Any = None) -> Any:
        def run(command: Command, root: Root, limits: Any, **options: Any) -> sandbox.Result:
            ran.append((command, root))
            assert options["egress"] is None
            if error:
                raise error
            for line in lines:
                options["on_line"](Stream.STDERR, line)
            return sandbox.Result(
                exit_code=exit_code, signal=None, reason=reason, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
            )

        monkeypatch.setattr(sandbox, "run", run)
        return ran

    return put


def attempt(folder: Path, mode: str, **settings: Any) -> Attempt:
    for name in ("base-old", "base-new"):
        (folder / name).mkdir()
    make_base(folder, "old")
    made = attempt_in(folder, OneSource())
    made.grant.start_check = mode
    if settings:
        object.__setattr__(made.node, "settings", made.node.settings.replace(**settings))
    return made


def finished(made: Attempt) -> Artifact:
    return finish_build(made, planned(made))


def lines(made: Attempt) -> str:
    return "\n".join(line.text for line in made.log.spool.batch(1000))


def test_what_stops_a_program_is_a_warning_with_its_first_error_line(tmp_path: Path, play: Play) -> None:
    ran = play(1, lines=TRACEBACK)
    made = attempt(tmp_path, "warn")
    found = finished(made).start
    assert found and found.status is StartStatus.EXITED
    assert "warning: start check: the program exited 1 before it listened on $PORT: KeyError: 'API_KEY'" in lines(made)
    ((command, root),) = ran
    assert command.argv == ("/app/app",) and command.env["PORT"] == str(app.PORT) and command.user == (65532, 65532)
    assert [(mount.dest, mount.writable) for mount in root.mounts] == [("/app/app", False)]
    assert root.rootfs is not None and (root.rootfs / "etc/release").read_text() == "old"
    assert not command.work.exists() and command.work.parent == made.work.parent, "the check's folder is removed"


@pytest.mark.parametrize(("exit_code", "reason", "words"), [(1, None, "exited 1"), (137, "Timeout", "within 5 s")])
def test_where_a_start_is_required_the_build_ends(
    tmp_path: Path, play: Play, exit_code: int, reason: str | None, words: str
) -> None:
    play(exit_code, reason, TRACEBACK)
    with pytest.raises(BuildError) as caught:
        finished(attempt(tmp_path, "require"))
    error = caught.value
    assert (error.reason, error.phase, str(error.error_class)) == ("StartFailed", "PUSH", "user_code")
    assert words in error.message and error.said[0] == "KeyError: 'API_KEY'"


@pytest.mark.parametrize(
    "line",
    [
        b"ImportError: libpq.so.5: cannot open shared object file: No such file",
        b"bwrap: execvp /app/app: No such",
        b"ignite: cannot start /app/run.sh: No such file or directory (os error 2)",
        b"ignite: cannot start gunicorn: No such file or directory",
    ],
)
def test_what_starts_on_no_machine_ends_the_build_without_being_required(
    tmp_path: Path, play: Play, line: bytes
) -> None:
    play(127, lines=(line,))
    with pytest.raises(BuildError) as caught:
        finished(attempt(tmp_path, "warn"))
    assert caught.value.reason == "StartFailed"


@pytest.mark.parametrize(
    ("code", "why", "hint"),
    [
        (127, "No such file or directory", "bring bin/web along"),
        (126, "Permission denied", "Mark bin/web as executable"),
        (126, "Exec format error", "must name its interpreter"),
    ],
)
def test_what_a_launcher_cannot_start_is_named_with_the_reason(
    tmp_path: Path, play: Play, code: int, why: str, hint: str
) -> None:
    play(code, lines=(f"ignite: cannot start bin/web: {why}".encode(),))
    with pytest.raises(BuildError) as caught:
        finished(attempt(tmp_path, "warn"))
    error = caught.value
    assert (error.reason, str(error.error_class)) == ("StartFailed", "user_code")
    assert f"bin/web: {why}" in error.message and hint in error.next


def test_a_check_that_cannot_be_made_is_a_warning_unless_it_is_required(tmp_path: Path, play: Play) -> None:
    play(error=PlatformError("SandboxUnavailable", "no namespaces"))
    (tmp_path / "warn").mkdir()
    (tmp_path / "require").mkdir()
    found = finished(attempt(tmp_path / "warn", "warn")).start
    assert found and found.status is StartStatus.UNKNOWN and "no namespaces" in found.line
    with pytest.raises(PlatformError) as caught:
        finished(attempt(tmp_path / "require", "require"))
    assert caught.value.retried


def test_without_a_sandbox_nothing_of_the_source_is_started(tmp_path: Path, play: Play) -> None:
    ran = play(1)
    made = attempt(tmp_path, "require", unsandboxed=True)
    found = finished(made).start
    assert found and found.status is StartStatus.SKIPPED and not ran
    assert "warning: start check: skipped" in lines(made)


@pytest.mark.parametrize("mode", ["off", ""])
def test_a_build_that_asks_for_none_starts_nothing(tmp_path: Path, play: Play, mode: str) -> None:
    ran = play(1)
    assert finished(attempt(tmp_path, mode)).start is None and not ran


@pytest.mark.parametrize("mode", ["off", "warn"])
def test_a_library_is_never_pushed_in_any_mode(tmp_path: Path, play: Play, mode: str) -> None:
    play(1)
    made = attempt(tmp_path, mode)
    bound = planned(made)
    (made.work / "out/app").write_bytes(b"!<arch>\n__.PKGDEF" + bytes(64))
    with pytest.raises(BuildError) as caught:
        finish_build(made, bound)
    assert caught.value.reason == "StartFailed" and "object archive" in caught.value.message
    assert "package main" in caught.value.next
    assert not (tmp_path / "artifacts").exists()


def test_what_a_launcher_starts_must_be_a_program_too(tmp_path: Path, play: Play) -> None:
    play(1)
    made = attempt(tmp_path, "off")
    bound = planned(made)
    assert isinstance(bound.plan.output, Output)
    launched = replace(bound.plan.output, entrypoint=("/ignite/start", "NAME", "/app/app"), launcher=2)
    (made.work / "out/app").write_bytes(b"echo no interpreter is named\n")
    with pytest.raises(BuildError, match="/app/app cannot be started: it is no executable file") as caught:
        finish_build(made, replace(bound, plan=replace(bound.plan, output=launched)))
    assert caught.value.reason == "StartFailed"


def elf(loader: str) -> bytes:
    """A program of linux/amd64 (elf(5)) that the program `loader` loads."""
    name = loader.encode() + b"\0"
    part = struct.pack("<IIQQQQQQ", 3, 4, 64 + 56, 0, 0, len(name), len(name), 1)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    return head + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 64, 64, 0, 0, 64, 56, 1, 0, 0, 0) + part + name


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"!<arch>\n__.PKGDEF" + bytes(64), "object archive"), (elf("/lib64/ld-no.so.2"), "the loader /lib64/ld-no.so.2")],
    ids=["library", "dynamic"],
)
@pytest.mark.parametrize("with_files", [False, True])
def test_a_program_that_starts_nowhere_is_refused_with_files_around_it(
    tmp_path: Path, play: Play, data: bytes, words: str, with_files: bool
) -> None:
    play(1)
    made = attempt(tmp_path, "off")
    bound = planned(made)
    output = bound.plan.output
    assert isinstance(output, Output)
    if with_files:
        make_tree(made.work / "out/files", {"page.html": "hello"})
        around = replace(output.layers[0], source="/work/out/files", dest="/app")
        output = replace(output, layers=(*output.layers, around))
    (made.work / "out/app").write_bytes(data)
    with pytest.raises(BuildError, match=words) as caught:
        finish_build(made, replace(bound, plan=replace(bound.plan, output=output)))
    assert (caught.value.reason, str(caught.value.error_class)) == ("StartFailed", "user_code")


def test_a_program_whose_loader_is_in_the_base_is_one(tmp_path: Path, play: Play) -> None:
    play(1)
    made = attempt(tmp_path, "off")
    bound = planned(made)
    for loader in ("/etc/release", "../../etc/release"):
        (made.work / "out/app").write_bytes(elf(loader))
        assert finish_build(made, bound).digest


@pytest.mark.parametrize("at", [0, 64, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("size", [(1 << 64) - 1, 8])
def test_headers_of_a_program_that_lie_are_read_up_to_a_bound(tmp_path: Path, at: int, size: int) -> None:
    whole = bytearray(elf("/lib64/ld.so"))
    whole[32:40] = struct.pack("<Q", at)
    whole[64 + 8 : 64 + 16] = struct.pack("<Q", (1 << 64) - 1)
    whole[64 + 32 : 64 + 40] = struct.pack("<Q", size)
    with io.BytesIO(bytes(whole)) as file:
        assert loader_of(file) == ""


def test_a_layer_around_another_is_placed_by_its_parts(tmp_path: Path, play: Play) -> None:
    """Nothing can be mounted at /app/app where /app is a folder, read-only and without it."""
    ran = play(1)
    made = attempt(tmp_path, "warn")
    bound = planned(made)
    files = made.work / "out/files"
    (files / "templates").mkdir(parents=True)
    (files / "run.sh").write_text("")
    (files / "out").symlink_to("/etc")
    output = bound.plan.output
    assert isinstance(output, Output)
    around = replace(output.layers[0], source="/work/out/files", dest="/app")
    plan = replace(bound.plan, output=replace(output, layers=(*output.layers, around)))
    finish_build(made, replace(bound, plan=plan))
    ((_, root),) = ran
    assert [mount.dest for mount in root.mounts] == ["/app/app", "/app/run.sh", "/app/templates"]
    assert [mount.source for mount in root.mounts[1:]] == [files / "run.sh", files / "templates"]


def test_a_lost_claim_ends_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = attempt(tmp_path, "require")
    asked: list[bool] = []

    def run(command: Command, root: Root, limits: Any, **options: Any) -> sandbox.Result:
        made.lease.cancelled = True
        asked.append(options["cancelled"]())
        return sandbox.Result(
            exit_code=143, signal=15, reason="Cancelled", peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
        )

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(BuildError):
        finished(made)
    assert asked == [True]


def test_the_argument_is_none_of_the_pipeline() -> None:
    assert COMMON_ARGS == (START_CHECK,)
    request = pb.CreateBuildRequest(build_args={START_CHECK: "require", "tags": "x"})
    assert plan_request(request).build_args == {"tags": "x"}


def test_the_record_has_what_was_measured(tmp_path: Path, play: Play) -> None:
    play(1, lines=TRACEBACK)
    wire = artifact_record(finished(attempt(tmp_path, "warn"))).start_check
    assert wire.status == pb.START_STATUS_EXITED and wire.message.endswith(": KeyError: 'API_KEY'")


def test_the_disk_budget_leaves_what_serves_a_component_while_it_is_tried(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(1)
    monkeypatch.setattr(start, "program_here", lambda node_dir: wasmtime.program_here(node_dir, lambda name: None))
    made = attempt(tmp_path, "warn")
    bound = planned(made)
    program = wasmtime.WHEEL.place(wasmtime.store_of(made.node.settings.node_dir))
    program.parent.mkdir(parents=True)
    program.write_bytes(b"")
    unit = f"toolchains/{program.parent.name}"
    component = replace(bound.plan, output=ComponentOutput(component="/work/out/app.wasm"))
    for plan, free in ((bound.plan, True), (component, False)):
        with start.starting(made, replace(bound, plan=plan)), uses.unused(made.node.folder, unit) as unused:
            assert unused is free
    made.leave()
    with uses.unused(made.node.folder, unit) as unused:
        assert unused


def test_the_first_error_is_found_behind_the_colours_that_a_program_gives_it(tmp_path: Path, play: Play) -> None:
    """Deno colours what it prints of an uncaught error, wherever that goes."""
    lines_of = (
        b"\x1b[0m\x1b[1m\x1b[31merror\x1b[0m: Uncaught NotCapable: Requires sys access",
        b"    \x1b[0m\x1b[2m\x1b[38;5;245mat \x1b[0mfile:///app/main.ts:1:2",
    )
    play(1, lines=lines_of)
    made = attempt(tmp_path, "warn")
    finished(made)
    assert "before it listened on $PORT: error: Uncaught NotCapable: Requires sys access" in lines(made)
