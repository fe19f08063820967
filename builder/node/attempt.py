"""One attempt at a build on this node: what was granted, its work folder, and what the line finds on its way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from builder.bases.base import BaseStore
from builder.build import working_copy
from builder.claims.owner import Ownership
from builder.client.api import Api
from builder.config import Settings
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.images.destination import Destination
from builder.pipelines.base import Pipeline
from builder.pipelines.catalog import Catalog
from builder.toolchains.host import Provided, Toolchains

PAUSE_S = 0.2
"""How late a pause hears that its attempt must stop."""


@dataclass(frozen=True, kw_only=True)
class NodeParts:
    """What all builds of this process share."""

    settings: Settings
    api: Api
    catalog: Catalog
    known: tuple[Pipeline, ...]
    toolchains: Toolchains
    bases: BaseStore
    destination: Callable[[pb.Destination, Attempt], Destination]
    """Where the artifact of this attempt goes; its waits end when the attempt must."""
    label: Callable[[str], None]
    uid: int


@dataclass
class Attempt:
    """The claim's answer (`granted`), the life of the claim (`held`), the folder that is `/work` inside the sandbox."""

    node: NodeParts
    granted: pb.ClaimBuildResponse
    held: Ownership
    work: Path
    now: Callable[[], float] = time.monotonic
    deadline: float = 0.0
    """When the time of this attempt is over, ms of `now`."""
    materials: list[tuple[str, str]] = field(default_factory=list)
    """(name, digest) of what goes into the artifact, as it becomes known: toolchain, base, files sent, packages."""
    _provided: Provided | None = None

    def __post_init__(self) -> None:
        self.deadline = self.now() * 1000 + self.timeout_ms

    @property
    def timeout_ms(self) -> int:
        """How long this attempt may take."""
        return int(self.granted.limits.timeout_ms) or self.node.settings.timeout_ms

    @property
    def elapsed_ms(self) -> int:
        """How long it has taken by now."""
        return int(self.now() * 1000 - self.deadline) + self.timeout_ms

    def check(self) -> None:
        """For work of ours that takes long: raises `BuildError` Cancelled where the claim must stop, Timeout."""
        if self.held.must_stop():
            raise BuildError("Cancelled", "stopped while it went on")
        if self.now() * 1000 > self.deadline:
            said = f"reached the time limit of the build, {self.timeout_ms} ms"
            raise BuildError("Timeout", said, limit=self.timeout_ms, peak=self.elapsed_ms)

    def pause(self, seconds: float) -> None:
        """Wait so long, and ask `check` meanwhile; as it raises."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            self.check()
            self.held.lost.wait(min(left, PAUSE_S))
        self.check()

    @property
    def source(self) -> Path:
        """The working copy of the source."""
        return working_copy(self.work)

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who the working copy belongs to: the build user where we may give it away."""
        return (self.node.uid, self.node.settings.build_uid) if os.geteuid() == 0 else None

    @property
    def provided(self) -> Provided:
        """The plan's toolchain as this node has it; known once the plan is bound."""
        assert self._provided is not None, "the plan is not bound to a toolchain yet"
        return self._provided

    def bind(self, provided: Provided) -> None:
        """This toolchain it is."""
        self._provided = provided
        self.materials += sorted(provided.digests.items())

    def give(self, path: Path) -> None:
        """To the build user, where we may give it away."""
        if self.owner:
            os.lchown(path, *self.owner)
