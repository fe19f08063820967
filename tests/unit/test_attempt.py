"""An attempt that must stop does so in the middle of its own work too, not only in the sandbox's steps."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder import build, sandbox
from builder.build import Claim
from builder.claims.owner import Ownership, failure_record
from builder.claims.spool import Spool
from builder.client.api import Api, ApiError, ApiUnreachable
from builder.config import Settings
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.images.layer import write_layer
from builder.node import attempt as attempts
from builder.node import ports, steps
from builder.node.attempt import Attempt, NodeParts
from builder.node.fetch import open_source
from builder.pipelines.base import PlanRequest
from builder.plan import Network, Plan, Step, WriteFile
from builder.source.unpack import Limits, unpack
from builder.toolchains.host import Provided
from tests.oci_fixtures import make_tree


class Clock:
    """Seconds; it moves when somebody looks."""

    def __init__(self, step: float = 0.0) -> None:
        self.seconds, self.step = 0.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def make(folder: Path, api: object = None, clock: Clock | None = None, timeout_ms: int = 60_000) -> Attempt:
    spool = Spool(folder / "b.1.jsonl", lambda: 5, 1 << 20)
    spool.close()  # no test here says a line
    held = Ownership(
        api=cast(Api, api), build_id="b", claim=1, attempt=1, spool=spool, lease_s=60, beat_s=30,
        draining=lambda: False, listen=lambda *_: None,
    )  # fmt: skip
    granted = pb.ClaimBuildResponse(granted=True, build_id="b", claim=1, limits=pb.Limits(timeout_ms=timeout_ms))
    node = cast(NodeParts, SimpleNamespace(settings=Settings(), api=api, known=(), uid=0))
    (folder / "work").mkdir()
    return Attempt(node=node, granted=granted, held=held, work=folder / "work", now=clock or Clock())


def claim(data: bytes = b"") -> Claim:
    return Claim(
        build_id="b", number=1, attempt=1, organization="o", request=PlanRequest(runtime="go"),
        source_sha256=hashlib.sha256(data).hexdigest(), single_file=False, no_cache=False, timeout_ms=0,
    )  # fmt: skip


def reason(work: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        work()
    return caught.value.reason


def test_a_check_says_why_it_must_stop(tmp_path: Path) -> None:
    clock = Clock()
    one = make(tmp_path, clock=clock, timeout_ms=5000)
    one.check()
    clock.seconds = 5.1
    assert reason(one.check) == "Timeout"
    one.held.drained.set()
    assert reason(one.check) == "Cancelled"


def test_a_pause_ends_with_the_time_and_with_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PAUSE_S", 0)
    clock = Clock(step=0.1)
    one = make(tmp_path, clock=clock, timeout_ms=5000)
    one.pause(2)
    assert 2 < clock.seconds < 3
    assert reason(lambda: one.pause(60)) == "Timeout"
    one.held.lost.set()
    assert reason(lambda: one.pause(60)) == "Cancelled"
    assert clock.seconds < 6


class Stopping:
    """An API that cancels the build in the middle of an answer."""

    def __init__(self, data: bytes = b"", silent: bool = False) -> None:
        self.data, self.silent, self.sent = data, silent, 0
        self.stop: Callable[[], None] = lambda: None

    def download(self, path: str) -> Iterator[bytes]:
        for at in range(0, len(self.data), 512):
            self.sent += 1
            if self.sent == 3:
                self.stop()
            yield self.data[at : at + 512]

    def call(self, name: str, request: Any) -> Any:
        self.sent += 1
        self.stop()
        raise ApiUnreachable("away")


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as into:
        for number in range(20):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 3
            into.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def test_a_download_stops(tmp_path: Path) -> None:
    api = Stopping(archive())
    one = make(tmp_path, api)
    api.stop = one.held.cancelled.set
    assert reason(lambda: open_source(one, claim(api.data))) == "Cancelled"
    assert api.sent == 3


def test_the_size_of_a_source_is_that_of_its_archive_and_says_so(tmp_path: Path) -> None:
    """The command line shows the size of the files: without a word the same source would have two sizes."""
    api = Stopping(archive())
    summary = open_source(make(tmp_path, api), claim(api.data)).summary
    assert summary.startswith(f"20 files, {len(api.data) // 1024} KiB packed, sha256:")


class Breaking:
    """An API whose answers to a download break off, the last one in nothing. `error` is what the client says then."""

    def __init__(self, data: bytes, error: Exception, times: int) -> None:
        self.data, self.error, self.left, self.asked = data, error, times, 0

    def download(self, path: str) -> Iterator[bytes]:
        self.asked += 1
        if self.left:
            self.left -= 1
            yield self.data[: 512 * self.left]
            raise self.error
        yield self.data


def test_a_download_that_breaks_off_begins_anew(tmp_path: Path) -> None:
    api = Breaking(archive(), ApiUnreachable("reset"), times=3)
    one = make(tmp_path, api, Clock(step=0.1))
    assert open_source(one, claim(api.data)).summary.startswith("20 files")
    assert api.asked == 4


def test_a_download_that_is_refused_is_not_asked_for_again(tmp_path: Path) -> None:
    api = Breaking(archive(), ApiError(404, "NOT_FOUND", "gone", {}), times=3)
    one = make(tmp_path, api, Clock(step=0.1))
    assert reason(lambda: open_source(one, claim(api.data))) == "SourceStoreUnavailable"
    assert api.asked == 1


def test_a_download_ends_with_the_claim(tmp_path: Path) -> None:
    api = Breaking(archive(), ApiUnreachable("reset"), times=99)
    one = make(tmp_path, api, Clock(step=0.1))
    answers = api.download

    def lost_at_the_third(path: str) -> Iterator[bytes]:
        if api.asked == 2:
            one.held.lost.set()
        return answers(path)

    api.download = lost_at_the_third  # type: ignore[method-assign]
    assert reason(lambda: open_source(one, claim(api.data))) == "Cancelled"
    assert api.asked == 3


def test_a_source_whose_time_is_over_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    api = Stopping(archive())
    downloaded = len(api.data) // 512  # one look at the clock each
    one = make(tmp_path, api, Clock(step=0.1), timeout_ms=100 * (downloaded + 20))
    assert reason(lambda: open_source(one, claim(api.data))) == "Timeout"
    assert 0 < len(list(one.source.iterdir())) < 20


def test_a_plan_nobody_answers_is_given_up(tmp_path: Path) -> None:
    api = Stopping()
    one = make(tmp_path, api)
    api.stop = one.held.lost.set
    source = cast(Any, SimpleNamespace(code_hash="sha256:0"))
    plan = cast(Plan, SimpleNamespace(toolchain=SimpleNamespace(runtime="go")))
    assert reason(lambda: ports.planned(one, claim(), "key", source, plan)) == "Cancelled"
    assert api.sent == 1


@pytest.mark.parametrize(
    ("made", "file"), [("go.mod/x", "go.mod"), ("gen", "gen/main.go"), ("a/gen", "a/gen/deep/main.go")]
)
def test_what_stands_in_the_way_of_the_plans_files_is_named(tmp_path: Path, made: str, file: str) -> None:
    one = make(tmp_path)
    make_tree(one.source, {"main.go": "package main", made: ""})
    plan = cast(Plan, SimpleNamespace(files=(WriteFile(path=file, content="x"),), materials=()))
    with pytest.raises(BuildError) as caught:
        steps.prepare(one, plan)
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", file)


@pytest.mark.parametrize(
    ("why", "limit", "peak"),
    [
        ("OutOfMemory", Settings().memory_bytes, 11),
        ("DiskQuotaExceeded", Settings().disk_bytes, 22),
        ("ProcessLimitExceeded", Settings().pids, 33),
        ("Timeout", 5_000, 6_000),
        ("Cancelled", 0, 0),
    ],
)
def test_the_record_has_the_limit_that_was_reached_and_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, limit: int, peak: int
) -> None:
    clock = Clock()
    one = make(tmp_path, clock=clock, timeout_ms=5_000)
    one.bind(Provided(root=sandbox.Root(), path=(), digests={}))

    def stopped(*args: object, **kwargs: object) -> sandbox.Result:
        clock.seconds = 6.0
        return sandbox.Result(
            exit_code=137, signal=9, reason=why, peak_memory=11, peak_disk=22, peak_pids=33, duration_ms=900
        )

    monkeypatch.setattr(sandbox, "run", stopped)
    step = Step(name="build", argv=("go",), network=Network.NONE)
    plan = cast(Plan, SimpleNamespace(steps=(step,)))
    with pytest.raises(BuildError) as caught:
        build._judge(plan, step, steps.run(one, plan, step), ())
    record = failure_record(caught.value, "BUILD")
    assert (record.reason, record.limit, record.peak, record.exit_code) == (why, limit, peak, 137)


def test_a_timeout_between_the_steps_has_them_too(tmp_path: Path) -> None:
    clock = Clock()
    one = make(tmp_path, clock=clock, timeout_ms=5_000)
    clock.seconds = 5.5
    with pytest.raises(BuildError) as caught:
        one.check()
    assert (caught.value.limit, caught.value.peak) == (5_000, 5_500)


def after(calls: int) -> Callable[[], None]:
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise BuildError("Cancelled", "stopped")

    return check


def test_unpacking_asks_at_each_entry_and_piece(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(archive())
    assert reason(lambda: unpack(tmp_path / "archive", tmp_path / "out", Limits(), None, after(10))) == "Cancelled"
    assert len(list((tmp_path / "out").iterdir())) == 5
    unpack(tmp_path / "archive", tmp_path / "whole", Limits(), None, after(40))


def test_a_layer_asks_at_each_file_and_each_mib(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", {"a": "a", "big": "x" * (3 << 20), "c": "c"})
    assert reason(lambda: write_layer([(tree, "/app")], tmp_path / "l", check=after(4))) == "Cancelled"
    assert reason(lambda: write_layer([(tree, "/app")], tmp_path / "l", check=after(6))) == "Cancelled"
    write_layer([(tree, "/app")], tmp_path / "l", check=after(9))
