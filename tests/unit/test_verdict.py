"""Whose fault it is: a full disk, a broken cache, a refused host."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from builder import build, sandbox
from builder.attempt import running, steps
from builder.attempt.attempt import DISCARDED, Attempt
from builder.attempt.steps import StepResult
from builder.attempt.verdict import caches_of, of_error, of_fault, of_limit, of_sandbox, of_step
from builder.claims.outcome import Outcome
from builder.errors import BuildError, PlatformError
from builder.node.drive import do_work
from builder.node.floor import lacks
from builder.pipelines import PIPELINES
from builder.plan import Access, Cache, Detection, LayerSource, Network, Output, Plan, Sees, Step, Toolchain
from builder.sandbox import Room, Root
from builder.settings import Settings
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import attempt_at

ROOM = Room(bytes=1 << 40, inodes=1 << 20)
FULL = Room(bytes=0, inodes=1 << 20)
ENOSPC = "error: failed to write to file `/work/out/x`: No space left on device (os error 28)"
STEP = Step(
    name="fetch",
    argv=("uv",),
    network=Network.INDEX,
    sees=Sees.STUBS,
    runs_source=False,
    caches=(Cache(name="uv", access=Access.WRITE),),
    cwd="/work/fetch",
)


def plan_of(runtime: str, *materials: str) -> Plan:
    layer = LayerSource(source="/work/out", dest="/app", created_by="x")
    return Plan(
        detection=Detection(runtime=runtime, because="b"),
        toolchain=Toolchain(name="t", runtime=runtime, version="1", target="native", base="b"),
        choices=(),
        steps=(STEP,),
        output=Output(layers=(layer,), entrypoint=("/app",), workdir="/", summary="s"),
        materials=materials,
    )


def judged(
    folder: Path, *tail: str, room: Room = ROOM, refused: tuple[str, ...] = (), runtime: str = "python", tries: int = 1
) -> BuildError:
    """What a step means that ended with exit code 2 and these lines; the last of so many tries of the build."""
    attempt = attempt_at(folder, known=PIPELINES)
    attempt.source.mkdir(exist_ok=True)
    (attempt.source / "uv.lock").write_text("version = 1\n\n# https://files.evil.example/x\n# evil.example\n")
    (attempt.source / "go.mod").write_text("module m\n\nrequire git.corp.example/lib v1.0.0\n")
    result = StepResult(exit_code=2, tail=tail, room=room, refused=refused)
    for number in range(tries):
        if number:
            shutil.rmtree(folder / "work.caches", ignore_errors=True)
        caches_of(attempt).mkdir(parents=True, exist_ok=True)
        with pytest.raises(BuildError) as raised:
            running.judge(attempt, plan_of(runtime, "uv.lock" if runtime == "python" else "go.mod"), STEP, result)
    return raised.value


@pytest.mark.parametrize("room", [FULL, Room(bytes=1 << 40, inodes=3), Room(bytes=100 << 20, inodes=None)])
def test_a_step_that_a_full_disk_of_the_node_ended_is_ours_and_tried_again(tmp_path: Path, room: Room) -> None:
    found = judged(tmp_path, "Installing", ENOSPC, room=room)
    assert (found.reason, found.error_class, found.retried, found.said) == ("NodeDiskFull", "platform", True, (ENOSPC,))


def test_a_step_that_dies_without_a_word_where_nothing_is_left(tmp_path: Path) -> None:
    assert judged(tmp_path, "Bus error", room=FULL).reason == "NodeDiskFull"


@pytest.mark.parametrize("room", [ROOM, Room(bytes=1 << 40, inodes=None)])
def test_what_a_step_says_of_a_full_disk_is_not_believed_while_the_node_has_room(tmp_path: Path, room: Room) -> None:
    assert judged(tmp_path, ENOSPC, room=room).reason == "StepFailed"


def test_a_limit_that_ended_a_step_goes_first(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path, known=PIPELINES)
    result = StepResult(exit_code=137, tail=(ENOSPC,), room=FULL, reason="DiskQuotaExceeded", limit=5, peak=6)
    with pytest.raises(BuildError, match="DiskQuotaExceeded"):
        running.judge(attempt, plan_of("python"), STEP, result)


@pytest.mark.parametrize(
    "line",
    [
        "error: failed to open file `/cache/uv/wheels-v5/x`: Permission denied (os error 13)",
        "open /cache/go-mod/cache/download/x.zip: input/output error",
        "error: Failed to read from the cache /cache/uv/simple-v16: failed to deserialize cache entry",
    ],
)
def test_a_cache_that_cannot_be_used_is_ours_and_the_next_try_has_none(tmp_path: Path, line: str) -> None:
    found = judged(tmp_path, line)
    assert (found.reason, found.error_class, found.retried) == ("CacheUnavailable", "platform", True)
    assert not (tmp_path / "caches/o").exists() and (tmp_path / "work.caches").is_dir()


def test_what_code_of_the_source_prints_discards_no_cache(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path, known=PIPELINES)
    caches_of(attempt).mkdir(parents=True)
    result = StepResult(exit_code=2, tail=("/cache/wheels/x: Read-only file system",), room=ROOM)
    step = Step(name="script", argv=("x",), caches=(Cache(name="wheels", access=Access.READ),))
    assert of_step(attempt, step, result) is None and caches_of(attempt).is_dir()


@pytest.mark.parametrize(
    "line",
    [
        "error: Uncaught (in promise) Error: Is a directory (os error 21), open '/work/out/deno/npm/x/1.0.0/cache/y'",
        "tar: x-1.0.0/cache/y: Cannot open: Not a directory",
    ],
)
def test_a_folder_of_a_download_that_is_named_cache_is_none_of_ours(tmp_path: Path, line: str) -> None:
    """Its author decides what an unpacker prints: it shall neither discard a cache nor be our fault."""
    assert judged(tmp_path, line).error_class != "platform"
    assert not (tmp_path / "work.caches").exists()


@pytest.mark.parametrize("place", ["1", "1:5"])
def test_the_name_that_a_source_gives_its_file_discards_no_cache(tmp_path: Path, place: str) -> None:
    line = f"/cache/permission denied.go:{place}: syntax error: unexpected name x"
    assert judged(tmp_path, line).error_class != "platform"
    assert not (tmp_path / "work.caches").exists()


def test_a_build_that_began_with_empty_caches_cannot_blame_them_again(tmp_path: Path) -> None:
    line = "error: failed to open file `/cache/uv/wheels-v5/x`: Permission denied (os error 13)"
    assert judged(tmp_path, line, tries=2).reason == "StepFailed"


@pytest.mark.parametrize(
    ("runtime", "host", "where"),
    [
        ("python", "files.evil.example:443", "uv.lock:3"),
        ("python", "evil.example:443", "uv.lock:4"),
        ("go", "git.corp.example:443", "go.mod:3"),
        ("go", "unnamed.example:443", ""),
    ],
)
def test_a_refused_host_is_the_clients_once_with_the_line_that_names_it(
    tmp_path: Path, runtime: str, host: str, where: str
) -> None:
    trouble = "error: error sending request for url: tunnel error: unsuccessful"
    found = judged(tmp_path, trouble, refused=(host,), runtime=runtime)
    assert (found.reason, found.error_class, found.retried, found.where) == ("ManifestInvalid", "client", False, where)
    assert host in found.message


def test_what_the_tool_says_itself_goes_before_a_host_that_it_tried_besides(tmp_path: Path) -> None:
    said = "error: Because there are no versions of nothing-here and you require nothing-here, it is unsatisfiable."
    assert judged(tmp_path, said, refused=("evil.example:443",)).reason == "DependencyNotFound"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/node/work/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        shutil.Error([("/a", "/b", "[Errno 28] No space left on device: '/b'")]),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_disk_that_is_full_beneath_our_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, wrapped: bool
) -> None:
    def fails(*_: object) -> None:
        if not wrapped:
            raise error
        raise RuntimeError("wrapped") from error

    attempt = attempt_at(tmp_path)
    monkeypatch.setattr(build, "plan_build", fails)
    outcome = build.run_build(attempt)
    assert outcome.failure is not None and outcome.failure.reason == "NodeDiskFull"
    assert outcome.failure.phase == "FETCH_SOURCE" and repr(outcome.failure) not in outcome.unexpected


def test_what_is_nested_too_deeply_is_never_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(attempt: object) -> None:
        deep(attempt)

    attempt = attempt_at(tmp_path)
    monkeypatch.setattr(build, "plan_build", deep)
    outcome = build.run_build(attempt)
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.retried) == ("ManifestInvalid", False)


def test_a_disk_that_takes_not_even_the_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = attempt_at(tmp_path)
    attempt.work = tmp_path / "work/b-1"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    outcome: Outcome = do_work(attempt)
    assert outcome.failure is not None and outcome.failure.reason == "NodeDiskFull"


def test_a_cache_folder_that_our_own_code_cannot_use(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    caches_of(attempt).mkdir(parents=True)
    found = of_error(attempt, PermissionError(errno.EACCES, "Permission denied", str(caches_of(attempt) / "uv")))
    assert isinstance(found, PlatformError) and found.reason == "CacheUnavailable"
    assert not caches_of(attempt).exists()
    assert of_error(attempt, PermissionError(errno.EACCES, "Permission denied", "/etc/x")) is None
    assert of_error(attempt, ValueError("a bug")) is None


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"node_free_bytes": 1 << 60}, "node_free_bytes"), ({"node_free_inodes": 1 << 60}, "node_free_inodes"), ({}, "")],
)
def test_a_node_below_a_floor_says_which(tmp_path: Path, settings: dict[str, int], word: str) -> None:
    floors: dict[str, Any] = {"node_free_bytes": 0, "node_free_inodes": 0} | settings
    said = lacks(Settings(node_dir=str(tmp_path / "not" / "yet"), **floors))
    assert word in said and bool(said) == bool(word)


def test_a_node_whose_disk_became_read_only_takes_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel mounts a disk anew that fails. Root may write everywhere else."""
    settings = Settings(node_dir=str(tmp_path), node_free_bytes=0, node_free_inodes=0)
    (tmp_path / "work").mkdir()
    for read_only in (tmp_path, tmp_path / "work"):
        monkeypatch.setattr(os, "access", lambda path, mode, one=read_only: path != one)
        assert lacks(settings) == "its folder cannot be written (node_dir)"
    monkeypatch.undo()
    assert lacks(settings) == ""


def test_a_cache_that_builds_of_another_uid_filled_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its users cannot write everywhere in it: go then finds no package of its own standard library."""
    attempt = attempt_at(tmp_path)
    group = os.getgid()
    monkeypatch.setattr(type(attempt), "build_user", property(lambda self: (os.getuid(), group)))
    monkeypatch.setattr(os, "chown", lambda *_: None)  # who is not root may give nothing away
    folder = steps._cache(attempt, "go-build")
    (folder / "mine").touch()
    assert steps._cache(attempt, "go-build") == folder and (folder / "mine").exists()
    group += 1
    assert steps._cache(attempt, "go-build") == folder and not any(folder.iterdir())
    (aside,) = attempt.work.parent.glob(f"*.go-build{DISCARDED}")
    assert (aside / "mine").exists()
    group -= 1
    (folder / "again").touch()
    assert steps._cache(attempt, "go-build") == folder and (folder / "again").exists()


def test_a_cache_that_cannot_be_mounted_is_no_trouble_of_the_sandbox(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    place = caches_of(attempt) / "results/0"
    place.mkdir(parents=True)
    words = f"bwrap: Can't find source path {place}: Permission denied"
    found = of_sandbox(attempt, PlatformError("SandboxUnavailable", words))
    assert found.reason == "CacheUnavailable" and str(place) in found.message and not place.exists()
    place.mkdir(parents=True)
    again = PlatformError("SandboxUnavailable", words)
    assert of_sandbox(attempt, again) is again, "it began with empty caches: the trouble is none of theirs"
    other = PlatformError("SandboxUnavailable", "bwrap: setting up uid map: Permission denied")
    assert of_sandbox(attempt, other) is other


def test_a_fault_of_the_node_has_the_kernels_words_and_none_of_its_own(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    found = of_fault(attempt, OSError(errno.EBADF, "hunter2", "/secret/path"))
    assert found.failure is not None and found.failure.reason == "Internal"
    assert "OSError (Bad file descriptor) in the builder" in found.failure.message
    other = of_fault(attempt, ValueError("hunter2"))
    assert other.failure is not None and other.failure.message.startswith("ValueError in the builder")
    assert "hunter2" not in found.failure.message + other.failure.message
    assert "/secret" not in found.failure.message


LIMITS = [
    (OSError(errno.EMFILE, "hunter2", "/secret/path"), "no more open files", "ulimit -n"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes or threads", "ulimit -u"),
    (RuntimeError("can't start new thread"), "no more processes or threads", "ulimit -u"),
    (MemoryError(), "no more memory", "ulimit -v"),
]


@pytest.mark.parametrize(("error", "words", "step"), LIMITS, ids=[repr(error) for error, _, _ in LIMITS])
def test_a_limit_that_ends_a_build_is_the_machines_with_what_mends_it(
    tmp_path: Path, error: Exception, words: str, step: str
) -> None:
    """Whoever met it first: our own code, or what makes a reason of its own of it."""

    def raw(attempt: Attempt) -> Outcome:
        return of_fault(attempt, error)

    def reasoned(attempt: Attempt) -> Outcome:
        with pytest.raises(PlatformError) as raised:
            try:
                raise error
            except type(error):
                raise PlatformError("SandboxUnavailable", "the command does not start") from None
        raised.value.phase = "BUILD"
        return Outcome(failure=raised.value)

    for number, line in enumerate((raw, reasoned)):
        (tmp_path / str(number)).mkdir()
        attempt = attempt_at(tmp_path / str(number))
        attempt.work = tmp_path / f"{number}/work/b-1"
        found = do_work(attempt, line).failure
        assert found is not None and (found.reason, found.retried, found.row.exit_code) == ("Internal", True, 75)
        assert words in found.message and step in found.next and "secret" not in found.message
    assert found is not None and found.phase == "BUILD"


def test_a_fault_of_the_source_stays_one_whatever_limit_was_met_before(tmp_path: Path) -> None:
    failed = BuildError("CompileFailed", "words")
    failed.__context__ = OSError(errno.EMFILE, "words")
    attempt = attempt_at(tmp_path)
    attempt.work = tmp_path / "work/b-1"
    assert do_work(attempt, lambda attempt: Outcome(failure=failed)).failure is failed


def test_a_limit_that_keeps_a_step_from_starting_is_found_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object, **options: object) -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as error:
            raise PlatformError("SandboxUnavailable", f"the command does not start: {error}") from None

    monkeypatch.setattr(sandbox, "run", run)
    toolchain = Provided(base=None, root=Root(), digests={})
    with pytest.raises(PlatformError) as raised:
        steps.execute_step(attempt_at(tmp_path), toolchain, Step(name="compile", argv=("x",)))
    assert of_limit(raised.value).message == "this machine gives this process no more open files"
