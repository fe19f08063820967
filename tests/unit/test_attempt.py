"""An attempt that must stop does so in the middle of its own work too, not only in the sandbox's steps."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from builder import sandbox
from builder.attempt import planned, running, steps
from builder.attempt.attempt import Attempt
from builder.claims.calls import Refused, Unanswered
from builder.claims.outcome import Verdict
from builder.claims.requests import failure_record
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.images.layer import write_layer
from builder.plan import Network, Plan, Step, WriteFile
from builder.settings import Settings
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import Clock, MemoryCalls, attempt_at, fetched
from tests.oci_fixtures import make_tree
from tests.unit.test_key import PLAN

TOOLCHAIN = Provided(base=BaseImage(name="go", digest="sha256:" + "a" * 64, layers=()), root=sandbox.Root(), digests={})


def reason(work: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        work()
    return caught.value.reason


def test_a_check_says_why_it_must_stop(tmp_path: Path) -> None:
    clock = Clock()
    one = attempt_at(tmp_path, clock=clock, timeout_ms=5000)
    one.check()
    clock.seconds = 5.1
    assert reason(one.check) == "Timeout"
    one.lease.drained = True
    assert reason(one.check) == "Cancelled"


def test_a_pause_ends_with_the_time_and_with_the_claim(tmp_path: Path) -> None:
    clock = Clock(step=0.1)
    one = attempt_at(tmp_path, clock=clock, timeout_ms=5000)
    began = clock.seconds
    one.pause(2)
    assert 2 < clock.seconds - began < 3
    assert reason(lambda: one.pause(60)) == "Timeout"
    one.lose()
    assert reason(lambda: one.pause(60)) == "Cancelled"
    assert clock.seconds < 7


class Stopping(MemoryCalls):
    """An API that stops the build in the middle of an answer, at the third call or piece."""

    def __init__(self, data: bytes = b"", away: int = 0) -> None:
        super().__init__()
        self.data, self.away, self.sent = data, away, 0
        self.stop: Callable[[], None] = lambda: None
        self.tick: Callable[[], object] = lambda: None

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        for at in range(0, len(self.data), 512):
            self.sent += 1
            if self.sent == 3:
                self.stop()
            if self.away and at:
                self.away -= 1
                self.tick()
                raise Unanswered("away")
            yield self.data[at : at + 512]

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        self.sent += 1
        self.tick()
        if self.sent == 3:
            self.stop()
        if self.away:
            self.away -= 1
            raise Unanswered("away")
        return pb.PlannedResponse(verdict=pb.PLANNED_REUSE)


def owned(attempt: Attempt, data: bytes) -> Attempt:
    """The attempt, granted the source `data`."""
    attempt.grant.source.sha256 = "sha256:" + hashlib.sha256(data).hexdigest()
    return attempt


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as into:
        for number in range(20):
            info = tarfile.TarInfo(f"f{number}")
            info.size = 3
            into.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def cancel(attempt: Attempt) -> Callable[[], None]:
    def stop() -> None:
        attempt.lease.cancelled = True

    return stop


def test_a_download_stops(tmp_path: Path) -> None:
    api = Stopping(archive())
    one = owned(attempt_at(tmp_path, api), api.data)
    api.stop = cancel(one)
    assert reason(lambda: fetched(one)) == "Cancelled"
    assert api.sent == 3


def test_the_size_of_a_source_is_that_of_its_archive_and_says_so(tmp_path: Path) -> None:
    """The command line shows the size of the files: without a word the same source would have two sizes."""
    api = Stopping(archive())
    summary = fetched(owned(attempt_at(tmp_path, api), api.data)).summary
    assert summary.startswith(f"20 files, {len(api.data) // 1024} KiB packed, sha256:")


class Breaking(MemoryCalls):
    """An API whose answers to a download break off, the last one in nothing. `error` is what the client says then."""

    def __init__(self, data: bytes, error: Exception, times: int) -> None:
        super().__init__()
        self.data, self.error, self.left, self.asked = data, error, times, 0

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        self.asked += 1
        if self.left:
            self.left -= 1
            yield self.data[: 512 * self.left]
            raise self.error
        yield self.data


def test_a_download_that_breaks_off_begins_anew(tmp_path: Path) -> None:
    api = Breaking(archive(), Unanswered("reset"), times=3)
    one = owned(attempt_at(tmp_path, api, Clock(step=0.1)), api.data)
    assert fetched(one).summary.startswith("20 files")
    assert api.asked == 4


def test_a_download_that_is_refused_is_not_asked_for_again(tmp_path: Path) -> None:
    api = Breaking(archive(), Refused("gone"), times=3)
    one = owned(attempt_at(tmp_path, api, Clock(step=0.1)), api.data)
    assert reason(lambda: fetched(one)) == "SourceStoreUnavailable"
    assert api.asked == 1


def test_a_source_that_came_with_the_claim_is_not_asked_for(tmp_path: Path) -> None:
    api = Breaking(archive(), Refused("gone"), times=99)
    one = owned(attempt_at(tmp_path, api), api.data)
    one.grant.source.content = api.data
    assert fetched(one).summary.startswith(f"20 files, {len(api.data) // 1024} KiB packed, sha256:")
    assert api.asked == 0


def test_other_bytes_than_the_source_s_that_came_with_the_claim_are_none(tmp_path: Path) -> None:
    api = Breaking(archive(), Refused("gone"), times=0)
    one = owned(attempt_at(tmp_path, api), api.data)
    one.grant.source.content = api.data[:-1] + b"x"
    assert fetched(one).summary.startswith("20 files")
    assert api.asked == 1


def test_a_source_that_came_with_a_cancelled_claim_is_not_unpacked(tmp_path: Path) -> None:
    one = owned(attempt_at(tmp_path), archive())
    one.grant.source.content = archive()
    one.lease.cancelled = True
    assert reason(lambda: fetched(one)) == "Cancelled"


def test_a_download_ends_with_the_claim(tmp_path: Path) -> None:
    api = Breaking(archive(), Unanswered("reset"), times=99)
    one = owned(attempt_at(tmp_path, api, Clock(step=0.1)), api.data)
    answers = api.open_source

    def lost_at_the_third(build_id: str, claim: int) -> Iterator[bytes]:
        if api.asked == 2:
            one.lose()
        return answers(build_id, claim)

    api.open_source = lost_at_the_third  # type: ignore[method-assign]
    assert reason(lambda: fetched(one)) == "Cancelled"
    assert api.asked == 3


def test_a_plan_without_an_answer_is_repeated_until_the_claim_ends(tmp_path: Path) -> None:
    api = Stopping(away=100)
    one = attempt_at(tmp_path, api, Clock(step=0.1))
    api.stop = one.lose
    assert reason(lambda: planned.report_key(one, "key", "sha256:0", PLAN.toolchain)) == "Cancelled"
    assert api.sent == 3


# --- the time that an owner waits for the control side is not the build's


def test_an_hour_without_an_answer_to_planned_costs_the_build_nothing(tmp_path: Path) -> None:
    clock, api = Clock(step=0.01), Stopping(away=2)
    one = attempt_at(tmp_path, api, clock, timeout_ms=5000)

    def an_hour() -> None:
        clock.seconds += 3600

    api.tick = an_hour
    assert planned.report_key(one, "key", "sha256:0", PLAN.toolchain) is Verdict.REUSE
    one.check()
    assert 3 * 3600_000 <= one.time_limit.waited_ms(clock.seconds) < 3 * 3600_000 + 5000
    clock.seconds += 5
    assert reason(one.check) == "Timeout"


def test_an_hour_without_a_source_costs_the_build_nothing(tmp_path: Path) -> None:
    clock, data = Clock(step=0.001), archive()
    api = Stopping(data, away=2)
    one = owned(attempt_at(tmp_path, api, clock, timeout_ms=5000), data)

    def an_hour() -> None:
        clock.seconds += 3600

    api.tick = an_hour
    assert fetched(one).summary.startswith("20 files")
    assert 2 * 3600_000 <= one.time_limit.waited_ms(clock.seconds) < 2 * 3600_000 + 5000


def test_a_wait_that_goes_on_counts_already(tmp_path: Path) -> None:
    clock = Clock()
    one = attempt_at(tmp_path, clock=clock, timeout_ms=5000)
    with one.waiting():
        clock.seconds = 100
        assert (one.time_limit.waited_ms(100), one.time_limit.elapsed_ms(100)) == (100_000, 0)
        one.check()
    clock.seconds = 104.0
    assert (one.time_limit.waited_ms(104), one.time_limit.left_ms(104)) == (100_000, 1_000)


@pytest.mark.parametrize(
    ("made", "file"), [("go.mod/x", "go.mod"), ("gen", "gen/main.go"), ("a/gen", "a/gen/deep/main.go")]
)
def test_what_stands_in_the_way_of_the_plans_files_is_named(tmp_path: Path, made: str, file: str) -> None:
    one = attempt_at(tmp_path)
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
    one = attempt_at(tmp_path, clock=clock, timeout_ms=5_000)

    def stopped(*args: object, **kwargs: object) -> sandbox.Result:
        clock.seconds = 6.0
        return sandbox.Result(
            exit_code=137, signal=9, reason=why, peak_memory=11, peak_disk=22, peak_pids=33, duration_ms=900
        )

    monkeypatch.setattr(sandbox, "run", stopped)
    step = Step(name="build", argv=("go",), network=Network.NONE)
    plan = cast(Plan, SimpleNamespace(steps=(step,)))
    with pytest.raises(BuildError) as caught:
        running.judge(one, plan, step, steps.execute_step(one, TOOLCHAIN, step))
    record = failure_record(caught.value, "BUILD")
    assert (record.reason, record.limit, record.peak, record.exit_code) == (why, limit, peak, 137)


def test_a_timeout_between_the_steps_has_them_too(tmp_path: Path) -> None:
    clock = Clock()
    one = attempt_at(tmp_path, clock=clock, timeout_ms=5_000)
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


def test_a_layer_asks_at_each_file_and_each_mib(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", {"a": "a", "big": "x" * (3 << 20), "c": "c"})
    assert reason(lambda: write_layer([(tree, "/app")], tmp_path / "l", check=after(4))) == "Cancelled"
    assert reason(lambda: write_layer([(tree, "/app")], tmp_path / "l", check=after(6))) == "Cancelled"
    write_layer([(tree, "/app")], tmp_path / "l", check=after(9))
