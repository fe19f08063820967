"""The lease of one claim: when a heartbeat is due, what its answer means, why the work must stop.

A loop asks `due_in`, sends `beat_request` and passes the answer to `answered`. Times are seconds of the loop's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL

SILENT_LEASES = 2
"""After so many leases without an answer the claim counts as lost: another owner may have the build."""

RETRY_S = 1.0
"""A heartbeat without an answer is repeated after this time, or after a heartbeat's interval where that is shorter."""


@dataclass(kw_only=True)
class Lease:
    """Flags only go up: `lost` (no longer ours), `cancelled` (on request), `drained` (the node stops)."""

    build_id: str
    claim: int
    lease_s: float
    beat_s: float
    heard_at: float
    """When the last call that the control side answered was made, at first the claim: its lease ends no sooner than one
    lease after that, however late the answer came."""
    due_at: float
    cancelled: bool = False
    lost: bool = False
    drained: bool = False

    def must_stop(self) -> bool:
        """Whether whatever runs for this claim must end now."""
        return self.cancelled or self.lost or self.drained

    @property
    def until(self) -> float:
        """When the claim counts as lost, unless an answer comes before."""
        return self.heard_at if self.lost else self.heard_at + SILENT_LEASES * self.lease_s

    def holds(self, now: float) -> bool:
        """Whether nobody else can have the build yet: a call that the control side answered is younger than a lease."""
        return not self.lost and now < self.heard_at + self.lease_s

    def due_in(self, now: float) -> float:
        """Seconds until the next heartbeat, 0 when it is due."""
        return max(0.0, self.due_at - now)

    def beat_due(self, now: float) -> bool:
        """Whether a heartbeat is to be sent now."""
        return self.due_at <= now

    def beat_request(self, phase: str, waited_ms: int) -> pb.HeartbeatRequest:
        """The heartbeat. `waited_ms`: how long this claim has waited for the control side so far."""
        return pb.HeartbeatRequest(
            protocol=PROTOCOL,
            build_id=self.build_id,
            claim=self.claim,
            phase=pb.BuildPhase.Value("BUILD_PHASE_" + phase),
            waited_ms=waited_ms,
        )

    def answered(self, asked_at: float, now: float, answer: pb.HeartbeatResponse | None) -> None:
        """A heartbeat that was sent at `asked_at` is answered, or (None) is not."""
        if answer is None:
            self.due_at = now + min(RETRY_S, self.beat_s)
            self.lost = self.lost or now > self.until
            return
        self.heard_at, self.due_at = asked_at, asked_at + self.beat_s
        self.lost = self.lost or answer.stale
        self.cancelled = self.cancelled or answer.cancel


def lease_of(grant: pb.ClaimBuildResponse, beat_s: float, asked_at: float) -> Lease:
    """The lease of a claim that was asked for at `asked_at`; at least three heartbeats fit into it."""
    beat_s = min(beat_s, grant.lease_ms / 3000)
    return Lease(
        build_id=grant.build_id,
        claim=grant.claim,
        lease_s=grant.lease_ms / 1000,
        beat_s=beat_s,
        heard_at=asked_at,
        due_at=asked_at + beat_s,
    )
