"""How the work of one claim ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What was pushed: `digest` of the manifest, and what went into it. `summary` is for the log."""

    digest: str
    summary: str
    materials: tuple[Material, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of: an artifact, a failure, or a verdict that ends the claim. `unexpected` is for the operator's log."""

    verdict: Verdict = Verdict.GO_ON
    artifact: Artifact | None = None
    failure: BuildError | None = None
    unexpected: str = ""
