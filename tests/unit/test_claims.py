"""The owner's protocol as values: a lease under a clock of the test, requests, what a killed process left."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.attest.artifact import reported
from builder.claims import spool as spools
from builder.claims.calls import Backoff, Unanswered
from builder.claims.lease import Lease, lease_of
from builder.claims.left import send_left_behind
from builder.claims.outcome import Artifact, Outcome, Verdict
from builder.claims.requests import Close, close_of, failure_record, finish_request
from builder.claims.spool import Spool, forget_dead_owners, is_owned, left_behind, own, spool_path
from builder.claims.timelimit import TimeLimit
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError, PlatformError
from tests.attempt_fixtures import MemoryCalls

DEAD = "4194999 1"  # above the kernel's largest pid; a link to it is a mark as earlier versions made them
GOOD = "sha256:" + "a" * 64
ARTIFACT = Artifact(digest="sha256:1", summary="", materials=(("base", "sha256:2"),))


def lease(lease_s: float = 30, beat_s: float = 10, now: float = 100) -> Lease:
    grant = pb.ClaimBuildResponse(build_id="b", claim=4, lease_ms=int(lease_s * 1000))
    return lease_of(grant, beat_s, now)


# --- the lease


def drive(owned: Lease, answer: pb.HeartbeatResponse | None, beats: int = 200) -> float:
    """Send heartbeats as they come due until the work must stop; the time of the last."""
    now = owned.heard_at
    for _ in range(beats):
        now += owned.due_in(now)
        assert owned.beat_due(now)
        owned.answered(now, now, answer)
        assert not owned.beat_due(now)
        if owned.must_stop():
            break
    return now


def test_a_stale_claim_is_lost_at_once() -> None:
    owned = lease()
    assert drive(owned, pb.HeartbeatResponse(stale=True)) == 110
    assert (owned.lost, owned.cancelled) == (True, False)


def test_two_leases_of_silence_are_the_end_and_not_sooner() -> None:
    owned = lease()
    stopped_at = drive(owned, None)
    assert owned.lost and not owned.cancelled
    assert 60 < stopped_at - 100 <= 62


def test_an_answer_ends_the_silence() -> None:
    owned = lease()
    for now in range(110, 1000, 50):
        owned.answered(now, now, None)
        owned.answered(now, now + 1, pb.HeartbeatResponse())
    assert not owned.must_stop()


def test_a_lease_counts_from_the_call_and_not_from_its_late_answer() -> None:
    """The control side renewed it at some time between the two: before that time plus a lease nobody else has it."""
    owned = lease(lease_s=30, beat_s=10)
    owned.answered(110, 125, pb.HeartbeatResponse())
    assert owned.holds(139.9) and not owned.holds(140)
    assert (owned.until, owned.due_in(125)) == (170, 0)


def test_a_cancel_arrives_with_a_heartbeat() -> None:
    owned = lease()
    drive(owned, pb.HeartbeatResponse(cancel=True))
    assert (owned.lost, owned.cancelled) == (False, True)


def test_a_quiet_lease_goes_on() -> None:
    owned = lease()
    assert drive(owned, pb.HeartbeatResponse()) == 100 + 200 * 10
    assert not owned.must_stop()


def test_at_least_three_heartbeats_fit_into_a_lease() -> None:
    owned = lease(lease_s=3, beat_s=10)
    assert [owned.beat_due(now) for now in (100, 100.9, 101)] == [False, False, True]


def test_a_heartbeat_carries_claim_phase_and_wait() -> None:
    request = lease().beat_request("PUSH", 1500)
    assert (request.build_id, request.claim, request.phase, request.waited_ms) == ("b", 4, pb.BUILD_PHASE_PUSH, 1500)


# --- the time limit


@given(st.lists(st.tuples(st.booleans(), st.integers(min_value=0, max_value=1000)), max_size=30))
def test_work_and_waits_add_up_to_the_time_that_passed(spans: list[tuple[bool, int]]) -> None:
    limit, now = TimeLimit(limit_ms=10_000, started_at=0), 0
    for waits, seconds in spans:
        if waits:
            limit.wait(now)
        now += seconds
        worked = sum(span for waited, span in spans if not waited)
        assert limit.waited_ms(now) + limit.elapsed_ms(now) == now * 1000
        if waits:
            limit.resume(now)
    worked = sum(span for waited, span in spans if not waited)
    assert limit.elapsed_ms(now) == worked * 1000
    assert limit.left_ms(now) == 10_000 - worked * 1000


def test_pauses_grow_to_the_longest_and_begin_anew_after_an_answer() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.pause_s() for _ in range(4)] == [0.1, 0.2, 0.4, 0.5]
    backoff.reset()
    assert backoff.pause_s() == 0.1


# --- the end


@pytest.mark.parametrize(
    ("flags", "outcome", "how"),
    [
        ({}, Outcome(artifact=ARTIFACT), Close.FINISH),
        ({"lost": True}, Outcome(artifact=ARTIFACT), Close.LOST),
        ({"lost": True}, Outcome(verdict=Verdict.REUSE), Close.LOST),
        ({}, Outcome(verdict=Verdict.STALE), Close.LOST),
        ({}, Outcome(verdict=Verdict.ATTACHED), Close.RELEASED),
        ({"drained": True}, Outcome(failure=BuildError("Cancelled", "")), Close.HAND_BACK),
        ({"drained": True}, Outcome(artifact=ARTIFACT), Close.FINISH),
        ({"drained": True, "cancelled": True}, Outcome(failure=BuildError("Cancelled", "")), Close.FINISH),
    ],
)
def test_how_an_owner_leaves_its_claim(flags: dict[str, bool], outcome: Outcome, how: Close) -> None:
    owned = lease()
    for name, value in flags.items():
        setattr(owned, name, value)
    assert close_of(owned, outcome) is how


def test_a_finish_carries_the_artifact_and_what_went_into_it() -> None:
    request = finish_request(lease(), Outcome(artifact=ARTIFACT), log_count=9, phase="PUSH", phases=())
    assert (request.claim, request.log_count, request.success.digest) == (4, 9, "sha256:1")
    assert [(part.name, part.digest) for part in request.success.materials] == [("base", "sha256:2")]


def test_what_is_hidden_in_the_name_of_a_material_is_escaped_and_long_names_are_cut() -> None:
    """An honest source may have such names: its build is not refused for them."""
    hostile = ("a\x1b[31m\u202e.txt", "x" * 5000, "\ud800", "ü.txt")
    artifact = Artifact(digest=GOOD, summary="", materials=tuple((name, GOOD) for name in hostile))
    sent = finish_request(lease(), Outcome(artifact=artifact), log_count=0, phase="PUSH", phases=()).success
    assert [part.name for part in sent.materials] == ["a\\x1b[31m\\u202e.txt", "x" * 2048, "\\ud800", "ü.txt"]
    assert reported(sent) == sent


def test_a_cancel_beats_the_failure_it_led_to() -> None:
    owned = lease()
    owned.cancelled = True
    outcome = Outcome(failure=BuildError("StepFailed", "killed"))
    failure = finish_request(owned, outcome, log_count=0, phase="BUILD", phases=()).failure
    assert (failure.reason, failure.phase) == ("Cancelled", pb.BUILD_PHASE_BUILD)


def test_the_record_carries_how_long_the_other_side_asked_to_wait() -> None:
    busy = PlatformError("RegistryUnavailable", "answered 429", retry_after_ms=3_600_000)
    assert failure_record(busy, "PUSH").retry_after_ms == 3_600_000
    assert failure_record(BuildError("CompileFailed", "no"), "BUILD").retry_after_ms == 0


# --- what a killed process left


def left(folder: Path, build_id: str, lines: int) -> Path:
    path = spool_path(folder, build_id, 1)
    spool = Spool(path, 1 << 20)
    for number in range(lines):
        spool.add(5, "BUILD", "STDOUT", str(number))
    spool.close()
    os.symlink(DEAD, path.with_suffix(".pid"))
    return path


def test_a_refused_spool_keeps_no_other_waiting(tmp_path: Path) -> None:
    refused, fine = left(tmp_path, "a", 3), left(tmp_path, "b", 1200)
    calls = MemoryCalls(refuses=("a",))
    assert send_left_behind(calls, tmp_path) == 1
    assert calls.kept == {"b": [str(number) for number in range(1200)]}
    assert calls.handed_back == ["b"]
    assert refused.exists() and not fine.exists()
    calls.refuses = ()
    assert send_left_behind(calls, tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_left_lines_wait_for_an_api_that_is_away(tmp_path: Path) -> None:
    class Away(MemoryCalls):
        def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
            raise Unanswered("away")

    path = left(tmp_path, "a", 3)
    with pytest.raises(Unanswered):
        send_left_behind(Away(), tmp_path)
    assert path.exists()


def test_a_spool_of_bytes_that_are_no_text_is_sent_as_far_as_it_goes(tmp_path: Path) -> None:
    path = left(tmp_path, "a", 2)
    with path.open("ab") as torn:
        torn.write(b"\xff\xfe\x00\x00")
    calls = MemoryCalls()
    assert send_left_behind(calls, tmp_path) == 1
    assert calls.kept["a"] == ["0", "1"]


def test_an_identity_without_a_spool_goes_only_when_its_process_is_gone(tmp_path: Path) -> None:
    dead, live = spool_path(tmp_path, "dead", 1), spool_path(tmp_path, "live", 1)
    os.symlink(DEAD, dead.with_suffix(".pid"))
    own(live)
    own(live)  # a second time is no error
    assert (is_owned(dead), is_owned(live)) == (False, True)
    forget_dead_owners(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["live.1.pid"]
    assert list(left_behind(tmp_path)) == []


def test_two_processes_that_settle_one_folder_pass_over_what_the_other_has_removed(tmp_path: Path) -> None:
    first, second = left(tmp_path, "a", 3), left(tmp_path, "b", 3)

    class Beside(MemoryCalls):
        def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
            if request.build_id == "a":
                assert send_left_behind(other, tmp_path) == 2
            return super().hand_back(request)

    other, calls = MemoryCalls(), Beside()
    assert send_left_behind(calls, tmp_path) == 1
    assert (calls.handed_back, other.handed_back) == (["a"], ["a", "b"])
    assert not first.exists() and not second.exists()


def test_an_owner_of_another_pid_namespace_lives_while_it_holds_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "process_start", lambda pid: pytest.fail("its number says nothing here"))
    path = spool_path(tmp_path, "a", 1)
    own(path)
    Spool(path, 1 << 20).close()
    assert is_owned(path) and list(left_behind(tmp_path)) == []
    os.close(spools._held.pop(path))  # as the kernel does at the end of a process
    assert not is_owned(path)
    assert [build_id for build_id, _, _, _ in left_behind(tmp_path)] == ["a"]


def test_a_mark_goes_with_its_spool(tmp_path: Path) -> None:
    path = spool_path(tmp_path, "a", 1)
    own(path)
    spool = Spool(path, 1 << 20)
    spool.remove()
    assert list(tmp_path.iterdir()) == []
    assert path not in spools._held


def test_a_mark_that_was_removed_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, looks = fcntl.flock, [True]

    def seen(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX and looks.pop():
            looks.append(False)
            forget_dead_owners(tmp_path)
            assert list(tmp_path.iterdir()) == []
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", seen)
    path = spool_path(tmp_path, "a", 1)
    own(path)
    assert is_owned(path)
    forget_dead_owners(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.1.pid"]


def test_a_mark_that_cannot_be_looked_at_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    path = left(tmp_path, "a", 1)
    monkeypatch.setattr(os, "open", full)
    assert is_owned(path)
