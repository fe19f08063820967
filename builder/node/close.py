"""Close a claim: its last lines and its one final call, which is repeated until it is answered.

The rules are values of `builder/claims/`; the threads that renew the lease and send the log are `drive.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from builder.attempt.attempt import Attempt
from builder.claims.calls import Backoff, Refused, Unanswered
from builder.claims.outcome import Outcome
from builder.claims.requests import Close, close_of, finish_request, hand_back_request, launched_request
from builder.claims.spool import Line
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.logs import logger
from builder.mask import masked

log = logger("worker")

Request = TypeVar("Request", pb.FinishRequest, pb.HandBackRequest, pb.LaunchedRequest)
Answer = TypeVar("Answer", pb.FinishResponse, pb.HandBackResponse, pb.LaunchedResponse)


def close(attempt: Attempt, outcome: Outcome) -> Close:
    """End the claim as the outcome asks, once every line is acknowledged. All of it is a wait for the control side."""
    lease, mask = attempt.lease, attempt.log.mask
    if outcome.unexpected:
        error = mask.text(outcome.unexpected)
        log.error("unexpected", action="unexpected", build_id=lease.build_id, error=error)
    if outcome.failure:
        masked(outcome.failure, mask)
    how = close_of(lease, outcome)
    if how is Close.LOST:
        attempt.lose()
    with attempt.waiting():
        if how is Close.RELEASED:
            _flush(attempt)
        elif how is Close.HAND_BACK:
            attempt.log.system("this node is draining; the build goes back to the queue")
            _flush(attempt)
            back = hand_back_request(lease.build_id, lease.claim, "drain")
            how = how if _insist(attempt, attempt.node.calls.hand_back, back) else Close.LOST
        elif how is Close.FINISH:
            how = _finish(attempt, outcome)
        elif how is Close.LAUNCHED:
            how = _launched(attempt)
    return how


def _finish(attempt: Attempt, outcome: Outcome) -> Close:
    """Send the outcome, with the last lines and the config where the control side takes them: they cost no call of
    their own."""
    lease, attempt_log, spool = attempt.lease, attempt.log, attempt.log.spool
    leaves = attempt.grant.takes_last_lines
    if not attempt.grant.takes_config:
        outcome = outcome.without_config()
    while True:
        count, last = _last_batch(attempt) if leaves else (_flush(attempt), ())
        phase, phases = attempt_log.phase_name, attempt_log.phases
        request = finish_request(lease, outcome, log_count=count, phase=phase, phases=phases, last=last)
        try:
            answer = _insist(attempt, attempt.node.calls.finish, request)
        except Refused:
            if not last and outcome == outcome.without_config():
                raise
            # By a control process of an earlier version, to which a finish has neither.
            leaves, outcome = False, outcome.without_config()
            continue
        if answer is None or not answer.log_incomplete:
            break
        if not spool.again(answer.kept_until_index):
            log.error("lines are gone from the spool", action="spool-damaged", build_id=lease.build_id)
            return Close.LOST
    if answer is None:
        return Close.LOST
    spool.acknowledge(count)
    if answer.refused_because:
        log.error("refused", action="finish-refused", build_id=lease.build_id, why=answer.refused_because)
    return Close.FINISH


def _launched(attempt: Attempt) -> Close:
    """Hand the build over to whoever watches its Job. Of a lost claim a watcher has the Job: it was marked before."""
    count = _flush(attempt)
    request = launched_request(attempt.lease, log_count=count, phases=attempt.log.phases)
    while (answer := _insist(attempt, attempt.node.calls.launched, request)) is not None and answer.log_incomplete:
        if not attempt.log.spool.again(answer.kept_until_index):
            log.error("lines are gone from the spool", action="spool-damaged", build_id=attempt.lease.build_id)
            return Close.LOST
        _flush(attempt)
    if answer is None:
        return Close.LOST
    return Close.LAUNCHED if answer.status == pb.BUILD_STATUS_RUNNING else Close.ABANDONED


def _flush(attempt: Attempt) -> int:
    """Close the spool and wait until all of it is acknowledged, or the claim is lost. Returns the number of lines."""
    spool = attempt.log.spool
    spool.leave(False)
    count = spool.close()
    with spool.changed:
        spool.changed.wait_for(lambda: spool.acknowledged or attempt.lease.lost)
    return count


def _last_batch(attempt: Attempt) -> tuple[int, tuple[Line, ...]]:
    """Close the spool and wait until all but its last batch is acknowledged, or the claim is lost.

    Returns the number of lines, and that batch.
    """
    spool = attempt.log.spool
    spool.leave(True)
    count = spool.close()
    with spool.changed:
        spool.changed.wait_for(lambda: spool.is_left or attempt.lease.lost)
        return count, spool.batch()


def _insist(attempt: Attempt, call: Callable[[Request], Answer], request: Request) -> Answer | None:
    """Repeat a fenced call until it is answered; returns the answer, None when the claim is lost."""
    backoff, changed = Backoff(0.1, 3.0), attempt.log.spool.changed
    while not attempt.lease.lost:
        try:
            answer = call(request)
        except Unanswered:
            with changed:
                changed.wait_for(lambda: attempt.lease.lost, backoff.pause_s())
            continue
        return None if answer.stale else answer
    return None
