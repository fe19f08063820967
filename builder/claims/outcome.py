"""How the work of one claim ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError

Material = tuple[str, str]
"""(name, digest) of something that went into the artifact."""


class Verdict(enum.Enum):
    """What the store decides about a key. On all but `GO_ON` this claim is over."""

    GO_ON = pb.PLANNED_GO_ON
    REUSE = pb.PLANNED_REUSE
    ATTACHED = pb.PLANNED_ATTACHED
    STALE = pb.PLANNED_STALE


class StartStatus(enum.Enum):
    """What the start check saw."""

    LISTENS = pb.START_STATUS_LISTENS
    EXITED = pb.START_STATUS_EXITED
    SILENT = pb.START_STATUS_SILENT
    UNKNOWN = pb.START_STATUS_UNKNOWN
    SKIPPED = pb.START_STATUS_SKIPPED


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the artifact started on this node. `message` is for a person, `said` the program's own lines."""

    status: StartStatus
    message: str = ""
    said: tuple[str, ...] = ()
    next: str = ""
    exit_code: int = 0
    cold_start_ms: int = 0
    memory_bytes: int = 0
    nowhere: bool = False
    """It can start on no machine: there is no program, or a shared library is missing."""

    @property
    def line(self) -> str:
        """The message with the program's first error line."""
        return f"{self.message}: {self.said[0]}" if self.said else self.message


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What was pushed: `digest` of the manifest, the bytes of its `config` where they are known, and what went into it.
    `summary` is for the log."""

    digest: str
    summary: str
    config: bytes = b""
    materials: tuple[Material, ...] = ()
    start: Start | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of: an artifact, a Job that goes on, a failure, or a verdict that ends the claim.

    `unexpected` is for the operator's log.
    """

    verdict: Verdict = Verdict.GO_ON
    job: pb.Job | None = None
    artifact: Artifact | None = None
    failure: BuildError | None = None
    unexpected: str = ""

    def without_config(self) -> Outcome:
        """The same for a control side that reads the config of an artifact itself."""
        return self if self.artifact is None else replace(self, artifact=replace(self.artifact, config=b""))
