"""Own one build: claim it, keep the lease, run the line, see every log line kept, finish. All writes carry the claim.

If the API says the claim is stale, or says nothing for two leases, the work is killed and leaves no trace: someone
else may already own the build. A dead helper thread (heartbeat, log sender) ends the build the same way.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from builder.build import Outcome
from builder.claims.spool import Line, Spool, forget_dead_owners, left_behind, own, spool_path
from builder.client.api import Api, ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import BuildError, PlatformError

BATCH_LINES = 500
BATCH_WAIT_S = 0.02

log = structlog.get_logger("worker")

Draining = Callable[[], bool]
Listen = Callable[[str, threading.Event, float], None]
"""Waits for a cancel of the build, its end, or so many seconds."""
Run = Callable[[pb.ClaimBuildResponse, "Ownership"], Outcome]


@dataclass
class Ownership:
    """The life of one claim on this node: why it must stop, which phase it is in, where its lines go."""

    api: Api
    build_id: str
    claim: int
    attempt: int
    spool: Spool
    lease_s: float
    beat_s: float
    draining: Draining
    listen: Listen
    phase_name: str = "FETCH_SOURCE"
    phases: list[pb.PhaseRecord] = field(default_factory=list)
    _began: tuple[int, float] = (0, 0.0)
    """When the phase began: ms of the node's clock, seconds of the monotonic one."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    drained: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def must_stop(self) -> bool:
        """Whether whatever runs for this claim must be killed now."""
        return self.cancelled.is_set() or self.lost.is_set() or self.drained.is_set()

    def said(self, line: str) -> None:
        """A line of ours (SYSTEM)."""
        self.spool.add(self.phase_name, "SYSTEM", line)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; a stop request ends the build at the next phase at the latest."""
        if self.must_stop():
            raise BuildError("Cancelled", "stopped before " + name)
        self.phase_name = name
        self._began = (time.time_ns() // 1_000_000, time.monotonic())
        status = pb.PHASE_STATUS_FAILED
        try:
            yield
            status = pb.PHASE_STATUS_SUCCEEDED
        finally:
            self.phases.append(self.current(status))

    def current(self, status: pb.PhaseStatus.ValueType) -> pb.PhaseRecord:
        """The phase that is going on, as if it ended now."""
        started, clock = self._began
        took = int((time.monotonic() - clock) * 1000)
        return pb.PhaseRecord(
            phase=pb.BuildPhase.Value("BUILD_PHASE_" + self.phase_name),
            status=status,
            started_at_ms=started,
            ended_at_ms=started + took,
            duration_ms=took,
        )

    def wait_until_kept(self) -> None:
        """Until the API has every line so far, or the work must stop."""
        while self.spool.batch(1, 0) and not self.must_stop():
            time.sleep(0.002)

    def beat(self) -> None:
        """Renew the lease until done. Nothing heard for two leases means: no longer ours."""
        heard = time.monotonic()
        wait = self.beat_s
        while not self.done.is_set():
            self.listen(self.build_id, self.done, wait)
            if self.done.is_set():
                return
            wait = self.beat_s
            if self.draining():
                self.drained.set()
            phase = pb.BuildPhase.Value("BUILD_PHASE_" + self.phase_name)
            try:
                answer: pb.HeartbeatResponse = self.api.call(
                    "Heartbeat",
                    pb.HeartbeatRequest(protocol=PROTOCOL, build_id=self.build_id, claim=self.claim, phase=phase),
                )
            except ApiUnreachable:
                wait = min(1.0, self.beat_s)
                if time.monotonic() - heard > 2 * self.lease_s:
                    self.lost.set()
                continue
            heard = time.monotonic()
            if answer.stale:
                self.lost.set()
            if answer.cancel:
                self.cancelled.set()

    def send(self) -> None:
        """Send batches until the spool is closed and empty, or the claim is lost."""
        backoff = BATCH_WAIT_S
        while not self.lost.is_set():
            lines = self.spool.batch(BATCH_LINES, BATCH_WAIT_S if not self.done.is_set() else 0.5)
            if not lines:
                if self.done.is_set():
                    return
                if self.spool.closed:  # `batch` no longer waits
                    self.done.wait(BATCH_WAIT_S)
                continue
            try:
                answer = send_lines(self.api, self.build_id, self.claim, lines)
            except ApiUnreachable:
                time.sleep(backoff)
                backoff = min(backoff * 2, 2.0)
                continue
            backoff = BATCH_WAIT_S
            if answer.stale:
                self.lost.set()
            if answer.kept_until_index < lines[0].index:  # it lacks what it once had (its store went back in time)
                self.spool.again(answer.kept_until_index)
            else:
                self.spool.kept(answer.kept_until_index)


def send_lines(api: Api, build_id: str, claim: int, lines: tuple[Line, ...]) -> pb.AppendLogResponse:
    """One batch under its claim."""
    request = pb.AppendLogRequest(protocol=PROTOCOL, build_id=build_id, claim=claim, first_index=lines[0].index)
    for line in lines:
        phase = pb.BuildPhase.Value("BUILD_PHASE_" + (line.phase or "UNSPECIFIED"))
        request.lines.append(
            pb.LogEntry(
                timestamp_ms=line.timestamp_ms,
                phase=phase,
                stream=pb.LogStream.Value("LOG_STREAM_" + line.stream),
                line=line.text,
            )
        )
    response: pb.AppendLogResponse = api.call("AppendLog", request)
    return response


@dataclass(frozen=True, kw_only=True)
class Node:
    """What an owner needs of its node."""

    api: Api
    node_id: str
    spool_dir: Path
    log_bytes: int
    beat_s: float
    draining: Draining
    run: Run
    listen: Listen


def own_build(build_id: str, node: Node) -> str:
    """From the hint to the finish. Returns a word for the worker's log: refused, lost, handed-back or the status."""
    granted = _claim(build_id, node)
    if granted is None:
        return "refused"
    path = spool_path(node.spool_dir, build_id, granted.claim)
    own(path)
    spool = Spool(path, lambda: time.time_ns() // 1_000_000, node.log_bytes)
    held = Ownership(
        api=node.api,
        build_id=build_id,
        claim=granted.claim,
        attempt=granted.attempt,
        spool=spool,
        lease_s=granted.lease_ms / 1000,
        beat_s=min(node.beat_s, granted.lease_ms / 3000),
        draining=node.draining,
        listen=node.listen,
    )
    beat, send = (threading.Thread(target=_guarded, args=(held, work), daemon=True) for work in (held.beat, held.send))
    beat.start()
    send.start()
    try:
        outcome = node.run(granted, held)
        return _finish(held, outcome)
    except BaseException:
        held.lost.set()  # else the sender would wait for an API that may never answer
        raise
    finally:
        held.done.set()
        send.join()  # `beat` may still listen for a moment; it says nothing any more, and the slot is free now
        spool.close()
        spool.remove()


def _guarded(held: Ownership, work: Callable[[], None]) -> None:
    """A side task that dies takes the build with it: work without a heartbeat or a log is worth nothing."""
    try:
        work()
    except Exception as error:
        log.error("side task died", action="side-task-died", build_id=held.build_id, error=repr(error))
        held.lost.set()


def _claim(build_id: str, node: Node) -> pb.ClaimBuildResponse | None:
    """Ask for the build; the same nonce again when the answer is lost, so the store answers the same."""
    request = pb.ClaimBuildRequest(protocol=PROTOCOL, node_id=node.node_id, build_id=build_id, nonce=uuid.uuid4().hex)
    for pause in (0.1, 0.3, 1.0, 2.0, None):
        try:
            answer: pb.ClaimBuildResponse = node.api.call("ClaimBuild", request)
        except ApiUnreachable:
            if pause is None:
                return None
            time.sleep(pause * (0.5 + random.random()))
            continue
        except ApiError as error:
            log.warning("claim refused", action="claim-refused", build_id=build_id, error=str(error))
            return None
        if not answer.granted:
            log.info("claim refused", action="claim-refused", build_id=build_id, why=answer.refused_because)
            return None
        return answer
    return None


def _finish(held: Ownership, outcome: Outcome) -> str:
    """Say how it ended, after every line is kept. A lost claim says nothing at all."""
    if outcome.unexpected:
        log.error("unexpected", action="unexpected", build_id=held.build_id, error=outcome.unexpected)
    if held.lost.is_set() or outcome.verdict == "STALE":
        return "lost"
    if outcome.verdict in ("REUSE", "ATTACHED"):
        _flush(held)
        return outcome.verdict.lower()
    if held.drained.is_set() and not held.cancelled.is_set() and outcome.artifact is None:
        held.said("this node is draining; the build goes back to the queue")
        _flush(held)
        back = pb.HandBackRequest(protocol=PROTOCOL, build_id=held.build_id, claim=held.claim, reason="drain")
        return "handed-back" if _insist(held, "HandBack", back) is not None else "lost"
    request = finish_request(held, outcome, _flush(held))
    while (answer := _insist(held, "Finish", request)) is not None and answer.log_incomplete:
        if not held.spool.again(answer.kept_until_index):
            log.error("lines are gone from the spool", action="spool-damaged", build_id=held.build_id)
            return "lost"
        _flush(held)
    return "finished" if answer is not None else "lost"


def _flush(held: Ownership) -> int:
    """Close the spool and wait until all of it is kept (or the claim is lost). Returns the number of lines."""
    count = held.spool.close()
    while held.spool.batch(1, 0) and not held.lost.is_set():
        time.sleep(0.002)
    return count


def finish_request(held: Ownership, outcome: Outcome, log_count: int) -> pb.FinishRequest:
    """The outcome as the wire has it."""
    request = pb.FinishRequest(
        protocol=PROTOCOL, build_id=held.build_id, claim=held.claim, log_count=log_count, phases=held.phases
    )
    if outcome.artifact is not None:
        artifact = outcome.artifact
        request.success.digest = artifact.digest
        request.success.reference = artifact.reference
        request.success.size_bytes = artifact.size_bytes
        for name, digest in artifact.materials:
            request.success.materials.append(pb.Material(name=name, digest=digest))
        return request
    error = outcome.failure or BuildError("Internal", "the build ended without an outcome")
    if held.cancelled.is_set():
        error = BuildError("Cancelled", "cancelled on request", phase=held.phase_name)
    request.failure.CopyFrom(failure_record(error, held.phase_name))
    return request


def failure_record(error: BuildError, phase: str) -> pb.Failure:
    """A `BuildError` as the record's failure."""
    record = pb.Failure(
        reason=error.reason,
        message=error.message,
        exit_code=error.exit_code,
        error_class=str(error.error_class),
        where=error.where,
        said=error.said,
        next=error.next,
        limit=error.limit,
        peak=error.peak,
    )
    if isinstance(error, PlatformError):
        record.retry_after_ms = error.retry_after_ms
    record.phase = pb.BuildPhase.Value("BUILD_PHASE_" + (error.phase or phase))
    return record


def _insist(held: Ownership, name: str, request: pb.FinishRequest | pb.HandBackRequest) -> Any:
    """Repeat a fenced, repeatable call until it is answered. The answer; None: the claim is lost."""
    pause = 0.1
    while not held.lost.is_set():
        try:
            answer = held.api.call(name, request)
        except ApiUnreachable:
            time.sleep(pause)
            pause = min(pause * 2, 3.0)
            continue
        return None if answer.stale else answer
    return None


def send_left_behind(api: Api, folder: Path) -> int:
    """Send what killed processes left under their claims, then give these claims up. Returns how many were settled.

    What the API refuses stays for the next round and keeps nothing else waiting. Raises `ApiUnreachable`.
    """
    settled = 0
    for build_id, claim, lines, path in left_behind(folder):
        try:
            if not _send_all(api, build_id, claim, lines):
                continue
            api.call("HandBack", pb.HandBackRequest(protocol=PROTOCOL, build_id=build_id, claim=claim, reason="lost"))
        except ApiError as error:
            log.warning("left lines refused", action="left-lines-refused", build_id=build_id, error=str(error))
            continue
        settled += 1
        path.unlink(missing_ok=True)
        path.with_suffix(".pid").unlink(missing_ok=True)
    forget_dead_owners(folder)
    return settled


def _send_all(api: Api, build_id: str, claim: int, lines: tuple[Line, ...]) -> bool:
    """Send until the API has every line, or says that the claim is stale. False: it does not get further."""
    start = 0
    while start < len(lines):
        answer = send_lines(api, build_id, claim, lines[start : start + BATCH_LINES])
        if answer.stale:
            return True
        if answer.kept_until_index <= start:
            log.warning("left lines not kept", action="left-lines-not-kept", build_id=build_id, claim=claim)
            return False
        start = answer.kept_until_index
    return True
