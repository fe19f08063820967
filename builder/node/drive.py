"""Drive one claim: its heartbeat and its log on two threads, its work in a folder of its own.

The rules are values of `builder/claims/`; this module has their threads and their clock. When the claim is lost the
work is killed and leaves no trace: another owner may have the build. A thread that dies loses the claim too, since work
without a heartbeat or a log is worth nothing.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace

from builder.attempt.attempt import Attempt, Node, plan_request
from builder.attempt.log import Log
from builder.build import run_build
from builder.claims.calls import Backoff, Refused, Unanswered
from builder.claims.lease import lease_of
from builder.claims.outcome import Outcome
from builder.claims.requests import CLAIM_PAUSES_S, append_request, appended, claim_request
from builder.claims.spool import Spool, own, spool_path
from builder.claims.timelimit import TimeLimit
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.logs import logger
from builder.mask import mask_of, trace_of
from builder.node.leftovers import DISK, FENCE
from builder.sandbox.remove import remove_tree

log = logger("worker")

GATHER_S = 0.003
"""From a line to the batch that it travels in, unless somebody waits for it: what follows soon travels with it. A batch
costs a call and a transaction, whatever is in it; a tail should have a line within 10 ms."""
GATHER_OWN_S = 0.02
"""What the builder's own lines wait longer while no command prints: the next call about the claim takes them along, and
a step that begins has the processor to itself."""

Listening = Callable[[str, Callable[[], None]], AbstractContextManager[None]]
"""(build id, what to call at a cancel): listens while the context is open."""


def no_listener(build_id: str, on_cancel: Callable[[], None]) -> AbstractContextManager[None]:
    """Cancels arrive with a heartbeat only."""
    return nullcontext()


def claim_build(node: Node, build_id: str) -> pb.ClaimBuildResponse | None:
    """Claim the build; None when it is not granted. A claim whose answer is lost is repeated with its nonce."""
    request = claim_request(node.settings.node_id, build_id, uuid.uuid4().hex)
    for pause in (*CLAIM_PAUSES_S, None):
        try:
            answer = node.calls.claim(request)
        except Unanswered as error:
            if pause is None:
                log.warning("claim unanswered", action="claim-unanswered", build_id=build_id, error=str(error))
                return None
            time.sleep(pause * (0.5 + random.random()))
            continue
        except Refused as error:
            log.warning("claim refused", action="claim-refused", build_id=build_id, error=str(error))
            return None
        if answer.granted:
            return answer
        log.info("claim refused", action="claim-refused", build_id=build_id, why=answer.refused_because)
        return None
    return None


@contextmanager
def driving(
    node: Node,
    grant: pb.ClaimBuildResponse,
    *,
    draining: Callable[[], bool] = lambda: False,
    listening: Listening = no_listener,
    counts_until: Callable[[float], None] = lambda until: None,
    asked_at: float | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Attempt]:
    """The attempt of a granted claim. Inside, its lease is renewed and its log sent; afterwards its spool is gone.

    `counts_until` is called with the time until which the claim counts, at its start and after each heartbeat.
    `asked_at`: when the claim was asked for, from which its lease counts; without it now.
    """
    work, fence = node.scratch / "work" / f"{grant.build_id}-{grant.claim}", None
    if node.blank is not None:
        fence = work.with_suffix(FENCE)
        work = fence / work.name
    path = spool_path(node.scratch / "spool", grant.build_id, grant.claim)
    own(path)
    spool = Spool(path, node.settings.log_bytes)
    attempt = Attempt(
        node=node,
        grant=grant,
        request=replace(
            plan_request(grant.request),
            default_versions=dict(grant.default_versions),
            today=time.strftime("%Y-%m-%d", time.gmtime()),
            import_hosts=node.settings.import_hosts,
            secret_version=int(grant.secrets.get("modules.version", "") or 0),
        ),
        lease=lease_of(grant, node.settings.heartbeat_ms / 1000, now() if asked_at is None else asked_at),
        log=Log(spool=spool, mask=mask_of(grant.secrets), now=now),
        time_limit=TimeLimit(limit_ms=int(grant.limits.timeout_ms) or node.settings.timeout_ms, started_at=now()),
        work=work,
        fence=fence,
        now=now,
    )
    driver = _Driver(attempt, draining, counts_until)
    try:
        driver.start()
        with listening(grant.build_id, driver.beat_now):
            yield attempt
    except BaseException:
        attempt.lose()  # the log sender must not wait for an API that may never answer
        raise
    finally:
        driver.stop()
        spool.remove()
        attempt.leave()


class _Driver:
    """The two threads of one claim."""

    def __init__(self, attempt: Attempt, draining: Callable[[], bool], counts_until: Callable[[float], None]) -> None:
        self._attempt, self._draining, self._counts_until = attempt, draining, counts_until
        self._lease, self._spool = attempt.lease, attempt.log.spool
        self._done = False
        self._woken = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._beat, self._send)
        ]
        self._started: list[threading.Thread] = []

    def start(self) -> None:
        self._counts_until(self._lease.until)
        for thread in self._threads:
            thread.start()
            self._started.append(thread)

    def stop(self) -> None:
        """Let the log sender end. The heartbeat may be inside a call; it sends no other, and nothing waits for it."""
        with self._spool.changed:
            self._done = True
            self._spool.changed.notify_all()
        self._woken.set()
        if self._threads[1] in self._started:
            self._threads[1].join()

    def beat_now(self) -> None:
        """Send a heartbeat at once: its answer may have news."""
        self._woken.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._attempt.lose()  # first: the build must not go on, whatever becomes of the line
            mask = self._attempt.log.mask
            error_text, trace = mask.text(repr(error)), trace_of(error, mask)
            build_id = self._lease.build_id
            log.error("side task died", action="side-task-died", build_id=build_id, error=error_text, exception=trace)

    def _beat(self) -> None:
        attempt, lease = self._attempt, self._lease
        while True:
            woken = self._woken.wait(lease.due_in(attempt.now()))
            self._woken.clear()
            if self._done:
                return
            if not woken and not lease.beat_due(attempt.now()):
                continue
            request = lease.beat_request(attempt.log.phase_name, attempt.time_limit.waited_ms(attempt.now()))
            asked_at = attempt.now()
            answer: pb.HeartbeatResponse | None = None
            with suppress(Unanswered):
                answer = attempt.node.calls.heartbeat(request)
            with self._spool.changed:
                lease.answered(asked_at, attempt.now(), answer)
                lease.drained = lease.drained or self._draining()
                if not self._done:  # afterwards there is no claim to report on
                    self._counts_until(lease.until)
                self._spool.changed.notify_all()

    def _send(self) -> None:
        lease, spool, backoff = self._lease, self._spool, Backoff(0.02, 2.0)
        while True:
            with spool.changed:
                spool.changed.wait_for(lambda: spool.is_due or self._done or lease.lost)
            spool.stirred.wait(GATHER_OWN_S)
            spool.urgent.wait(GATHER_S)
            lines = spool.begin()
            if lease.lost or (self._done and not lines):
                return
            if not lines:  # they are left to the end of the claim
                continue
            request = append_request(lease.build_id, lease.claim, lines)
            try:
                answer = self._attempt.node.calls.append_log(request)
                with spool.changed:
                    appended(lease, spool, request, answer)
            except Unanswered:
                spool.ended()
                self._wait(backoff.pause_s())
                continue
            spool.ended()
            backoff.reset()

    def _wait(self, seconds: float) -> None:
        with self._spool.changed:
            self._spool.changed.wait_for(lambda: self._lease.lost or not self._spool.is_due, seconds)


@contextmanager
def work_folder(attempt: Attempt) -> Iterator[None]:
    """The attempt's work folder and its private one while the context is open; afterwards nothing is left of them.

    Raises OSError where the disk takes no such folder, `BuildError` where it takes no fence.
    """
    root = attempt.private.parent
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o711)
    top, scratch = attempt.node.folder, attempt.node.scratch
    for above in (top, *(each for each in (scratch, *scratch.parents) if top in each.parents)):
        above.chmod(0o755)  # whatever the worker's umask: the build user passes
    attempt.private.mkdir(mode=0o700)
    try:
        with _fence(attempt):
            try:
                attempt.work.mkdir(mode=0o700)
                attempt.chown_to_build_user(attempt.work)
                yield
            finally:
                remove_tree(attempt.work)  # also of a fence: what is removed is not written out first
    finally:
        remove_tree(attempt.private)


def _fence(attempt: Attempt) -> AbstractContextManager[None]:
    """What the work folder lies in: a file system of its own where the node fences, else the node's."""
    if attempt.fence is None or attempt.node.blank is None:
        return nullcontext()
    return attempt.node.blank.mounted(attempt.beside(DISK), attempt.fence)


def do_work(attempt: Attempt, line: Callable[[Attempt], Outcome] = run_build) -> Outcome:
    """Run a line in the attempt's work folder. A disk that takes not even the folder is the outcome, but of a Job that
    was created: it goes on, whatever is left of the folder."""
    outcome = Outcome()
    try:
        with work_folder(attempt):
            outcome = line(attempt)
            if outcome.failure:
                from builder.attempt.verdict import of_full, of_limit

                outcome = replace(outcome, failure=of_full(attempt, of_limit(outcome.failure)))
            return outcome
    except BuildError as error:  # of the fence
        if outcome.job:
            return _left(attempt, outcome, error)
        from builder.attempt.verdict import of_limit

        return Outcome(failure=of_limit(error))
    except OSError as error:
        if outcome.job:
            return _left(attempt, outcome, error)
        from builder.attempt.verdict import of_error

        if known := of_error(attempt, error):
            return Outcome(failure=known, unexpected=repr(error))
        raise


def _left(attempt: Attempt, outcome: Outcome, error: Exception) -> Outcome:
    log.warning("a folder was left", action="folder-left", build_id=attempt.lease.build_id, error=repr(error))
    return outcome
