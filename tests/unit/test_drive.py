"""A driven claim against an API that forgets, refuses, goes away: every line arrives in the end, no wait is endless."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from builder.attempt.attempt import Attempt
from builder.attempt.planned import report_key
from builder.claims.calls import Refused, Unanswered
from builder.claims.outcome import Artifact, Outcome, Verdict
from builder.claims.requests import Close
from builder.claims.spool import BATCH_LINES, CROWD, LAST_BYTES
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.node import drive
from builder.node.close import close
from builder.node.drive import claim_build, driving, work_folder
from builder.plan import Toolchain
from tests.attempt_fixtures import Clock, MemoryCalls, grant_of, node_at

FAILED = Outcome(failure=BuildError("CompileFailed", "no"))
PUSHED = Outcome(artifact=Artifact(digest="sha256:0", summary="", config=b"{}"))
LONG_S = 60.0


def own(
    folder: Path,
    calls: MemoryCalls,
    work: Callable[[Attempt], Outcome],
    *,
    lease_ms: int = 60_000,
    takes: bool = False,
    **settings: object,
) -> Close:
    """Drive one claim through `work` to its end; nothing of it may stay on the disk. `takes`: all that a grant may."""
    node = node_at(folder, calls, settings=settings)
    grant = grant_of(lease_ms=lease_ms, takes_last_lines=takes, takes_planned_lines=takes, takes_config=takes)
    with driving(node, grant) as attempt:
        with work_folder(attempt):
            outcome = work(attempt)
        how = close(attempt, outcome)
    assert list(folder.glob("*/*")) == []
    return how


def says(lines: int, outcome: Outcome = FAILED) -> Callable[[Attempt], Outcome]:
    def work(attempt: Attempt) -> Outcome:
        for number in range(lines):
            attempt.log.system(f"line {number}")
        return outcome

    return work


def wait_for(attempt: Attempt, condition: Callable[[], bool]) -> bool:
    """Wait as the attempt itself does."""
    with attempt.log.spool.changed:
        return attempt.log.spool.changed.wait_for(condition, LONG_S)


# --- its folder


def test_the_build_user_passes_to_the_work_folder_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    node = replace(node_at(folder, MemoryCalls()), apart=folder / "local" / "of-a-data-folder")
    before = os.umask(0o077)
    try:
        with driving(node, grant_of()) as attempt, work_folder(attempt):
            above = [each for each in attempt.work.parents if folder == each or folder in each.parents]
            assert [each.name for each in above] == ["work", "of-a-data-folder", "local", "node"]
            assert all(each.stat().st_mode & 0o001 for each in above)
            assert close(attempt, FAILED) is Close.FINISH
    finally:
        os.umask(before)


# --- the log


@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize(("forgets", "keep"), [(1, 0), (1, 700), (3, 1199)])
def test_a_finish_that_is_short_of_lines_sends_them_again(tmp_path: Path, forgets: int, keep: int, takes: bool) -> None:
    calls = MemoryCalls(forgets, keep)
    assert own(tmp_path, calls, says(1200), takes=takes) is Close.FINISH
    assert calls.kept["b"] == [f"line {number}" for number in range(1200)]
    assert [request.log_count for request in calls.finished] == [1200]


def test_no_secret_of_a_claim_is_in_its_lines_its_spool_and_its_failure(tmp_path: Path) -> None:
    calls, token = MemoryCalls(), "ghp_0123456789abcdef"
    grant = grant_of()
    grant.secrets.update({"git.token": token, "git.username": "username-of-all"})
    with driving(node_at(tmp_path, calls), grant) as attempt:
        with work_folder(attempt):
            attempt.log.system(f"username-of-all has {token}")
            spooled = attempt.log.spool.path.read_text()
        said = (f"git: {token[::-1]}", "x")
        failure = BuildError("GitAuthFailed", f"refused {token.encode().hex()}", where=token, said=said, next=token)
        assert close(attempt, Outcome(failure=failure)) is Close.FINISH
    assert token not in spooled and calls.kept["b"] == ["username-of-all has ***"]
    sent = calls.finished[0].failure
    assert (sent.message, sent.where, list(sent.said), sent.next) == ("refused ***", "***", ["git: ***", "x"], "***")


def test_an_api_that_forgets_in_mid_build_gets_its_lines_again(tmp_path: Path) -> None:
    calls = MemoryCalls()

    def work(attempt: Attempt) -> Outcome:
        says(100)(attempt)
        attempt.wait_until_acknowledged()
        del calls.kept["b"][10:]
        attempt.log.system("line 100")
        attempt.wait_until_acknowledged()
        assert calls.kept["b"] == [f"line {number}" for number in range(101)]
        return FAILED

    assert own(tmp_path, calls, work) is Close.FINISH


def test_a_finish_whose_lines_are_gone_from_the_disk_is_given_up(tmp_path: Path) -> None:
    class Damaging(MemoryCalls):
        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            (tmp_path / "spool/b.1.jsonl").write_text("")
            return super().finish(request)

    assert own(tmp_path, Damaging(1, 0), says(5)) is Close.LOST


def test_a_log_over_its_cap_ends_like_any_other(tmp_path: Path) -> None:
    calls = MemoryCalls(1, 3)
    assert own(tmp_path, calls, says(5000), log_bytes=64 * 1024) is Close.FINISH
    assert calls.kept["b"][-1] == "line 4999"
    assert len(calls.kept["b"]) == calls.finished[0].log_count < 2000


def test_lines_that_no_api_takes_yet_are_waited_for_and_the_wait_is_not_the_builds(tmp_path: Path) -> None:
    class Late(MemoryCalls):
        tries = 0

        def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            self.tries += 1
            if self.tries < 4:
                raise Unanswered("away")
            clock.seconds += 3600
            return super().append_log(request)

    clock, calls = Clock(), Late()
    node = node_at(tmp_path, calls)
    with driving(node, grant_of(timeout_ms=5000), now=clock) as attempt:
        with work_folder(attempt), attempt.waiting():
            attempt.log.system("x")
            attempt.wait_until_acknowledged()
        attempt.check()
        assert attempt.time_limit.waited_ms(clock.seconds) == 3_600_000
        assert close(attempt, FAILED) is Close.FINISH
    assert calls.kept["b"] == ["x"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lines each batch had. They are gathered for ever, unless something is urgent."""
    found: list[int] = []

    def append_log(self: MemoryCalls, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        found.append(len(request.lines))
        return taken(self, request)

    taken = MemoryCalls.append_log
    monkeypatch.setattr(MemoryCalls, "append_log", append_log)
    monkeypatch.setattr("builder.node.drive.GATHER_S", threading.TIMEOUT_MAX)
    monkeypatch.setattr("builder.node.drive.GATHER_OWN_S", threading.TIMEOUT_MAX)
    return found


def test_lines_of_a_moment_travel_together_once_somebody_waits(tmp_path: Path, batches: list[int]) -> None:
    def work(attempt: Attempt) -> Outcome:
        for _ in range(2):
            says(3)(attempt)
            attempt.wait_until_acknowledged()
        return FAILED

    assert own(tmp_path, MemoryCalls(), work) is Close.FINISH
    assert batches == [3, 3]


def test_the_last_lines_wait_for_no_others(tmp_path: Path, batches: list[int]) -> None:
    assert own(tmp_path, MemoryCalls(), says(7)) is Close.FINISH
    assert batches == [7]


def test_many_lines_wait_for_no_others(tmp_path: Path, batches: list[int]) -> None:
    def work(attempt: Attempt) -> Outcome:
        says(CROWD)(attempt)
        assert wait_for(attempt, lambda: attempt.log.spool.acknowledged)
        attempt.log.system("one more")
        return FAILED

    assert own(tmp_path, MemoryCalls(), work) is Close.FINISH
    assert sum(batches) == CROWD + 1


def test_a_line_of_a_command_takes_along_what_the_builder_has_to_say(
    tmp_path: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder's own lines wait for the next call, for ever here; those of a command wait a few ms."""
    monkeypatch.setattr("builder.node.drive.GATHER_S", 0.0)

    def work(attempt: Attempt) -> Outcome:
        says(2)(attempt)
        attempt.log.emit("STDOUT", "compiled")
        assert wait_for(attempt, lambda: attempt.log.spool.acknowledged)
        says(2)(attempt)
        return FAILED

    assert own(tmp_path, MemoryCalls(), work) is Close.FINISH
    assert batches == [3, 2]


# --- the last lines


def test_the_last_lines_travel_with_the_finish_where_they_are_taken(tmp_path: Path, batches: list[int]) -> None:
    calls = MemoryCalls()
    assert own(tmp_path, calls, says(7, PUSHED), takes=True) is Close.FINISH
    assert batches == [] and calls.kept["b"] == [f"line {number}" for number in range(7)]
    (sent,) = calls.finished
    assert (sent.first_index, len(sent.lines), sent.log_count) == (0, 7, 7)


def test_lines_that_were_kept_before_do_not_travel_again(tmp_path: Path, batches: list[int]) -> None:
    def work(attempt: Attempt) -> Outcome:
        says(3)(attempt)
        attempt.wait_until_acknowledged()
        return says(2)(attempt)

    calls = MemoryCalls()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert batches == [3] and [(one.first_index, len(one.lines)) for one in calls.finished] == [(3, 2)]
    assert len(calls.kept["b"]) == 5


def test_more_lines_than_a_batch_are_appended_until_one_is_left(tmp_path: Path, batches: list[int]) -> None:
    class Away(MemoryCalls):
        """It answers once the log has ended."""

        attempt: Attempt

        def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            if not self.attempt.log.spool._closed:
                raise Unanswered("away")
            return super().append_log(request)

    calls = Away()

    def work(attempt: Attempt) -> Outcome:
        calls.attempt = attempt
        return says(BATCH_LINES + 3)(attempt)

    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert batches == [BATCH_LINES] and [len(sent.lines) for sent in calls.finished] == [3]
    assert calls.kept["b"] == [f"line {number}" for number in range(BATCH_LINES + 3)]


def test_long_last_lines_are_appended(tmp_path: Path, batches: list[int]) -> None:
    def work(attempt: Attempt) -> Outcome:
        for _ in range(40):
            attempt.log.system("x" * 16_000)
        return FAILED

    calls = MemoryCalls()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert batches and len(calls.kept["b"]) == 40
    assert sum(len(line.line) for line in calls.finished[0].lines) <= LAST_BYTES


def test_last_lines_wait_for_the_batch_that_is_under_way(tmp_path: Path) -> None:
    """Behind it, so that none of them is sent twice in vain; its answer may be lost all the same."""
    under_way, finishing = threading.Event(), threading.Event()

    class Slow(MemoryCalls):
        def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            under_way.set()
            assert finishing.wait(LONG_S)
            super().append_log(request)
            raise Unanswered("its answer was lost")

    def work(attempt: Attempt) -> Outcome:
        says(2)(attempt)
        assert under_way.wait(LONG_S)
        attempt.log.system("line 2")
        attempt.log.spool.close()
        finishing.set()
        return FAILED

    calls = Slow()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert calls.kept["b"] == ["line 0", "line 1", "line 2"]
    assert [(one.first_index, len(one.lines)) for one in calls.finished] == [(0, 3)]


def test_a_finish_with_lines_is_repeated_with_them(tmp_path: Path, batches: list[int]) -> None:
    """Its answer was lost, once before it was stored and once after."""

    class Away(MemoryCalls):
        tries = 0

        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            self.tries += 1
            if self.tries == 2:
                super().finish(request)
            if self.tries < 3:
                raise Unanswered("away")
            return super().finish(request)

    calls = Away()
    assert own(tmp_path, calls, says(2, PUSHED), takes=True) is Close.FINISH
    assert (calls.tries, batches, calls.kept["b"]) == (3, [], ["line 0", "line 1"])


def test_a_control_process_that_knows_no_lines_in_a_finish_gets_them_before(tmp_path: Path, batches: list[int]) -> None:
    """While the control side is upgraded one process takes them, and the next one refuses the field."""

    class Earlier(MemoryCalls):
        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            if request.lines or request.success.config:
                raise Refused("INVALID_ARGUMENT: there is no such field")
            return super().finish(request)

    calls = Earlier()
    assert own(tmp_path, calls, says(3, PUSHED), takes=True) is Close.FINISH
    assert batches == [3] and calls.kept["b"] == ["line 0", "line 1", "line 2"]
    assert [request.success.digest for request in calls.finished] == ["sha256:0"]


@pytest.mark.parametrize("takes", [False, True])
def test_the_config_travels_with_the_finish_where_it_is_taken(tmp_path: Path, takes: bool) -> None:
    calls = MemoryCalls()
    assert own(tmp_path, calls, says(0, PUSHED), takes=takes) is Close.FINISH
    assert [one.success.config for one in calls.finished] == [b"{}" if takes else b""]


def test_a_control_process_that_knows_no_config_in_a_finish_reads_it(tmp_path: Path) -> None:
    class Earlier(MemoryCalls):
        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            if request.success.config:
                raise Refused("INVALID_ARGUMENT: success.config: there is no such field")
            return super().finish(request)

    calls = Earlier()
    assert own(tmp_path, calls, says(0, PUSHED), takes=True) is Close.FINISH
    assert [one.success.digest for one in calls.finished] == ["sha256:0"]


def test_a_finish_that_is_refused_for_itself_is_an_error(tmp_path: Path) -> None:
    class Refusing(MemoryCalls):
        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            raise Refused("INVALID_ARGUMENT: digest")

    with pytest.raises(Refused, match="digest"):
        own(tmp_path, Refusing(), says(3, PUSHED), takes=True)


def test_a_lost_claim_sends_no_last_lines(tmp_path: Path) -> None:
    def work(attempt: Attempt) -> Outcome:
        attempt.lose()
        says(3)(attempt)
        return PUSHED

    calls = MemoryCalls()
    assert own(tmp_path, calls, work, takes=True) is Close.LOST
    assert (calls.finished, calls.kept) == ([], {})


# --- lines of a plan


def plans(attempt: Attempt) -> Verdict:
    return report_key(
        attempt, "key", "sha256:0", Toolchain(runtime="go", version="1.26", target="", name="go-1.26", base="go")
    )


def plans_after(lines: int, more: int = 0) -> Callable[[Attempt], Outcome]:
    def work(attempt: Attempt) -> Outcome:
        says(lines)(attempt)
        assert plans(attempt) is Verdict.GO_ON
        return says(more)(attempt)

    return work


def test_the_lines_of_a_plan_travel_with_it_where_they_are_taken(tmp_path: Path, batches: list[int]) -> None:
    calls = MemoryCalls()
    assert own(tmp_path, calls, plans_after(4, more=2), takes=True) is Close.FINISH
    assert batches == [] and len(calls.kept["b"]) == 6
    requests: list[pb.PlannedRequest | pb.FinishRequest] = [*calls.plans, *calls.finished]
    sent = [(one.first_index, len(one.lines), one.log_count) for one in requests]
    assert sent == [(0, 4, 4), (4, 2, 6)]


def test_a_plan_without_new_lines_still_counts_them(tmp_path: Path) -> None:
    def work(attempt: Attempt) -> Outcome:
        says(4)(attempt)
        attempt.wait_until_acknowledged()
        return plans_after(0)(attempt)

    calls = MemoryCalls()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert [(len(one.lines), one.log_count) for one in calls.plans] == [(0, 4)]


def test_the_sender_goes_on_once_the_plan_has_its_verdict(tmp_path: Path) -> None:
    def work(attempt: Attempt) -> Outcome:
        plans_after(4)(attempt)
        attempt.log.system("more")
        assert wait_for(attempt, lambda: attempt.log.spool.acknowledged)
        return FAILED

    calls = MemoryCalls()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert calls.kept["b"][-1] == "more" and calls.finished[0].lines == []


def test_more_lines_before_a_plan_than_a_batch_are_appended(tmp_path: Path, batches: list[int]) -> None:
    calls = MemoryCalls()
    assert own(tmp_path, calls, plans_after(2 * BATCH_LINES), takes=True) is Close.FINISH
    assert sum(batches) + len(calls.plans[0].lines) == len(calls.kept["b"]) == 2 * BATCH_LINES


def test_a_plan_whose_answer_is_lost_keeps_its_lines_once(tmp_path: Path, batches: list[int]) -> None:
    class Losing(MemoryCalls):
        def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
            answer = super().planned(request)
            if len(self.plans) < 3:
                raise Unanswered("lost")
            return answer

    calls = Losing()
    assert own(tmp_path, calls, plans_after(3), takes=True) is Close.FINISH
    assert (batches, calls.kept["b"], len(calls.plans)) == ([], ["line 0", "line 1", "line 2"], 3)


def test_a_plan_asks_again_with_the_lines_that_the_control_side_lacks(tmp_path: Path) -> None:
    class Restored(MemoryCalls):
        """Its store goes back in time once, to the first line."""

        restored = False

        def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
            if not self.restored:
                self.restored = True
                del self.kept["b"][1:]
            return super().planned(request)

    def work(attempt: Attempt) -> Outcome:
        says(3)(attempt)
        attempt.wait_until_acknowledged()
        return plans_after(2)(attempt)

    calls = Restored()
    assert own(tmp_path, calls, work, takes=True) is Close.FINISH
    assert calls.kept["b"] == ["line 0", "line 1", "line 2", "line 0", "line 1"]


def test_a_plan_whose_lines_are_gone_from_the_disk_gives_the_claim_up(tmp_path: Path) -> None:
    class Damaging(MemoryCalls):
        def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
            (tmp_path / "spool/b.1.jsonl").write_text("")
            return pb.PlannedResponse(log_incomplete=True)

    def work(attempt: Attempt) -> Outcome:
        says(3)(attempt)
        attempt.wait_until_acknowledged()
        return Outcome(verdict=plans(attempt))

    assert own(tmp_path, Damaging(), work, takes=True) is Close.LOST


def test_a_control_process_that_knows_no_lines_in_a_plan_gets_them_before(tmp_path: Path, batches: list[int]) -> None:
    class Earlier(MemoryCalls):
        def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
            if request.lines or request.log_count:
                raise Refused("INVALID_ARGUMENT: lines: there is no such field")
            return super().planned(request)

    calls = Earlier()
    assert own(tmp_path, calls, plans_after(3), takes=True) is Close.FINISH
    assert (batches, calls.kept["b"], len(calls.plans)) == ([3], ["line 0", "line 1", "line 2"], 1)


def test_a_plan_that_is_refused_for_itself_fails_the_build(tmp_path: Path) -> None:
    class Refusing(MemoryCalls):
        def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
            raise Refused("INVALID_ARGUMENT: key")

    with pytest.raises(Refused, match="key"):
        own(tmp_path, Refusing(), plans_after(3), takes=True)


# --- the end


def test_an_owner_that_fails_waits_for_no_api(tmp_path: Path) -> None:
    class Away(MemoryCalls):
        def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            raise Unanswered("away")

    def broken(attempt: Attempt) -> Outcome:
        attempt.log.system("x")
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        own(tmp_path, Away(), broken)
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.parametrize("verdict", [Verdict.REUSE, Verdict.ATTACHED])
def test_a_verdict_that_ends_the_claim_completes_the_log_and_finishes_nothing(tmp_path: Path, verdict: Verdict) -> None:
    calls = MemoryCalls()
    assert own(tmp_path, calls, says(700, Outcome(verdict=verdict))) is Close.RELEASED
    assert (len(calls.kept["b"]), calls.finished) == (700, [])


def test_a_stale_verdict_waits_for_no_line(tmp_path: Path) -> None:
    class Away(MemoryCalls):
        def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
            raise Unanswered("away")

    assert own(tmp_path, Away(), says(3, Outcome(verdict=Verdict.STALE))) is Close.LOST


def test_a_finish_is_repeated_until_it_is_answered(tmp_path: Path) -> None:
    class Away(MemoryCalls):
        away = 2

        def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
            if self.away:
                self.away -= 1
                raise Unanswered("away")
            return super().finish(request)

    calls = Away()
    assert own(tmp_path, calls, says(2, PUSHED)) is Close.FINISH
    assert [request.success.digest for request in calls.finished] == ["sha256:0"]


@pytest.mark.parametrize(
    ("outcome", "how"), [(FAILED, Close.HAND_BACK), (PUSHED, Close.FINISH)], ids=["unfinished", "finished"]
)
def test_a_node_that_drains_hands_back_what_is_not_finished(tmp_path: Path, outcome: Outcome, how: Close) -> None:
    calls = MemoryCalls()
    node = node_at(tmp_path, calls, settings={"heartbeat_ms": 50})
    with driving(node, grant_of(), draining=lambda: True) as attempt:
        assert wait_for(attempt, attempt.lease.must_stop)
        with pytest.raises(BuildError, match="stopped before PUSH"), attempt.phase("PUSH"):
            pass
        assert close(attempt, outcome) is how
    assert calls.handed_back == (["b"] if how is Close.HAND_BACK else [])
    assert len(calls.finished) == (how is Close.FINISH)


# --- the lease


@pytest.mark.parametrize(("stale", "how", "finished"), [(True, Close.LOST, []), (False, Close.FINISH, ["Timeout"])])
def test_a_lost_claim_ends_without_a_word_and_a_timeout_does_not(
    tmp_path: Path, stale: bool, how: Close, finished: list[str]
) -> None:
    class Stale(MemoryCalls):
        def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
            return pb.HeartbeatResponse(stale=stale)

    def work(attempt: Attempt) -> Outcome:
        assert not stale or wait_for(attempt, lambda: attempt.lease.lost)
        return Outcome(failure=BuildError("Timeout", "over"))

    calls = Stale()
    assert own(tmp_path, calls, work, heartbeat_ms=50) is how
    assert [request.failure.reason for request in calls.finished] == finished


def test_a_heartbeat_carries_phase_and_wait(tmp_path: Path) -> None:
    calls = MemoryCalls()

    def work(attempt: Attempt) -> Outcome:
        with attempt.phase("PUSH"), attempt.waiting():
            assert wait_for(attempt, lambda: len(calls.beats) > 1 and calls.beats[-1].waited_ms > 0)
        return FAILED

    assert own(tmp_path, calls, work, heartbeat_ms=50) is Close.FINISH
    assert calls.beats[-1].phase == pb.BUILD_PHASE_PUSH


def test_a_hint_of_a_cancel_brings_the_heartbeat_forward(tmp_path: Path) -> None:
    """The hint comes while a heartbeat is under way whose answer does not know of the cancel yet."""
    hints: list[Callable[[], None]] = []

    class Cancelled(MemoryCalls):
        def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
            self.beats.append(request)
            if len(self.beats) == 1:
                hints[0]()
                return pb.HeartbeatResponse()
            return pb.HeartbeatResponse(cancel=True)

    def listening(build_id: str, on_cancel: Callable[[], None]) -> AbstractContextManager[None]:
        hints.append(on_cancel)
        return nullcontext()

    node = node_at(tmp_path, calls := Cancelled(), settings={"heartbeat_ms": 3_600_000})
    with driving(node, grant_of(lease_ms=36_000_000), listening=listening) as attempt:
        hints[0]()
        assert wait_for(attempt, lambda: attempt.lease.cancelled)
        assert close(attempt, FAILED) is Close.FINISH
    assert (len(calls.beats), calls.finished[0].failure.reason) == (2, "Cancelled")


@pytest.mark.parametrize("call", ["heartbeat", "append_log"])
@pytest.mark.parametrize("error", [Refused("no"), RuntimeError("a bug"), MemoryError()], ids=repr)
def test_a_dead_heartbeat_or_log_thread_ends_the_build(tmp_path: Path, call: str, error: BaseException) -> None:
    """Work whose lease nobody renews, or whose lines nobody sends, is killed like that of a lost claim."""

    def dies(request: object) -> None:
        raise error

    calls = MemoryCalls()
    setattr(calls, call, dies)

    def work(attempt: Attempt) -> Outcome:
        attempt.log.system("x")
        assert wait_for(attempt, attempt.lease.must_stop)
        with pytest.raises(BuildError, match="stopped"):
            attempt.check()
        with pytest.raises(BuildError, match="stopped before PUSH"), attempt.phase("PUSH"):
            pass
        return PUSHED

    assert own(tmp_path, calls, work, heartbeat_ms=50) is Close.LOST
    assert calls.finished == []


def test_a_claim_is_lost_before_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the worker's own log that cannot be written keeps no build hanging."""

    class Full:
        def error(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    def dies(request: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(drive, "log", Full())
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    calls = MemoryCalls()
    monkeypatch.setattr(calls, "heartbeat", dies)

    def work(attempt: Attempt) -> Outcome:
        assert wait_for(attempt, attempt.lease.must_stop)
        return PUSHED

    before = set(threading.enumerate())
    assert own(tmp_path, calls, work, heartbeat_ms=50) is Close.LOST
    assert calls.finished == []
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG_S)
    assert len(died) == 1


@pytest.mark.usefixtures("nothing_logged")
def test_no_secret_of_a_claim_is_in_the_trace_of_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "ghp-7c2f91d04be6"

    def dies(request: object) -> None:
        grant = {"git.token": secret}
        raise RuntimeError(f"{len(grant)}: https://x:{secret}@git.test refuses {secret}")

    calls = MemoryCalls()
    monkeypatch.setattr(calls, "heartbeat", dies)
    grant, before = grant_of(), set(threading.enumerate())
    grant.secrets["git.token"] = secret
    with driving(node_at(tmp_path, calls, settings={"heartbeat_ms": 50}), grant) as attempt:
        assert wait_for(attempt, attempt.lease.must_stop)
    for thread in set(threading.enumerate()) - before:  # the line comes after the claim is lost
        thread.join(LONG_S)
    said = capsys.readouterr()
    assert secret not in said.out + said.err
    assert "side-task-died" in said.err and "RuntimeError: 1: " in said.err


def test_no_thread_of_a_claim_outlives_it(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    own(tmp_path, MemoryCalls(), says(10))
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG_S)
        assert not thread.is_alive()


# --- the claim


def test_a_claim_whose_answer_is_lost_is_repeated_with_its_nonce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(MemoryCalls):
        def __init__(self) -> None:
            super().__init__()
            self.nonces: list[str] = []

        def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
            self.nonces.append(request.nonce)
            if len(self.nonces) < 3:
                raise Unanswered("away")
            return super().claim(request)

    monkeypatch.setattr("builder.node.drive.CLAIM_PAUSES_S", (0.0, 0.0, 0.0))
    calls = Lost()
    grant = claim_build(node_at(tmp_path, calls), "b")
    assert grant is not None and grant.claim == 1
    assert len(calls.nonces) == 3 and len(set(calls.nonces)) == 1


@pytest.mark.parametrize("error", [Unanswered("away"), Refused("no")], ids=["away", "refused"])
def test_a_claim_that_is_not_answered_or_refused_lets_the_hint_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Away(MemoryCalls):
        def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
            raise error

    monkeypatch.setattr("builder.node.drive.CLAIM_PAUSES_S", (0.0,))
    assert claim_build(node_at(tmp_path, Away()), "b") is None


# --- until when the claim counts


def test_a_lease_counts_from_when_it_was_asked_for(tmp_path: Path) -> None:
    """An answer that takes its time, to the claim or to a heartbeat, comes from a lease that has begun before it."""
    at = [100.0]

    class Late(MemoryCalls):
        def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
            at[0] += 15
            return super().heartbeat(request)

    node = node_at(tmp_path, Late(), settings={"heartbeat_ms": 10_000})
    until: list[float] = []
    with driving(
        node, grant_of(lease_ms=30_000), counts_until=until.append, asked_at=85.0, now=lambda: at[0]
    ) as attempt:
        assert wait_for(attempt, lambda: len(until) > 1)  # the first heartbeat is due at once
    assert until[:2] == [85.0 + 60, 100.0 + 60]


def test_each_heartbeat_reports_until_when_the_claim_counts(tmp_path: Path) -> None:
    class Stale(MemoryCalls):
        def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
            super().heartbeat(request)
            if len(self.beats) == 2:
                raise Unanswered("away")
            return pb.HeartbeatResponse(lease_ms=60_000, stale=len(self.beats) == 3)

    until: list[float] = []
    node = node_at(tmp_path, Stale(), settings={"heartbeat_ms": 50})
    began = time.monotonic()
    with driving(node, grant_of(lease_ms=60_000), counts_until=until.append) as attempt:
        assert wait_for(attempt, lambda: attempt.lease.lost)
    claimed, first, unanswered, stale = until[:4]  # heartbeats go on until the block ends
    assert began + 120 <= claimed < first == unanswered
    assert stale <= time.monotonic()
