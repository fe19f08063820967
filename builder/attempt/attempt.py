"""One attempt at a build: what was granted and asked for, its lease, its log, its work folder, its node."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.attempt.exchange import Budget
from builder.attempt.log import Log
from builder.attempt.reader import Readers, Reading
from builder.attempt.uses import Uses
from builder.claims.calls import Calls
from builder.claims.lease import Lease
from builder.claims.spool import Line
from builder.claims.timelimit import TimeLimit
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import START_CHECK, compiled_runtime, runtime_of
from builder.errors import BuildError
from builder.images.destination import Destination
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Fetched, Toolchain
from builder.sandbox import Blank
from builder.settings import Settings
from builder.toolchains.provider import Toolchains

DISCARDED = ".caches"
"""What the name of caches ends with that a build put aside."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What all attempts of one process share."""

    settings: Settings
    calls: Calls
    catalog: Catalog
    known: tuple[Pipeline, ...]
    toolchains: Toolchains
    destination: Callable[[Attempt], Destination]
    """Where the artifact of an attempt goes. Its waits end when the attempt must."""
    readers: Readers
    """Processes that read hostile text, with `catalog` and `known`."""
    uid: int
    """The build user of this process; its group is `settings.build_uid`."""
    label: Callable[[str], None] = lambda name: None
    """Names a point of the line; a fault test ends the process here."""
    fetch: Callable[[Toolchain, Callable[[str], None]], object] | None = None
    """Gets a toolchain that is not on this node, with lines about it; None where the settings let no build do so."""
    blank: Blank | None = None
    """The file system that the work folder of each attempt gets a copy of; None: it lies in the node's own."""
    apart: Path | None = None
    """Where its work folders and spools are, if not in the node's folder: other processes settle what is left there."""

    @property
    def folder(self) -> Path:
        """The node's own folder."""
        return Path(self.settings.node_dir)

    @property
    def scratch(self) -> Path:
        """The folder of work folders and spools."""
        return self.apart or self.folder


@dataclass(kw_only=True)
class Attempt:
    """The one value that travels the line. `grant` is the claim's answer; `work` is `/work` inside the sandbox."""

    node: Node
    grant: pb.ClaimBuildResponse
    request: PlanRequest
    lease: Lease
    log: Log
    time_limit: TimeLimit
    work: Path
    fence: Path | None = None
    """Where the file system of the work folder is mounted, where it has one of its own."""
    now: Callable[[], float] = time.monotonic
    shown: dict[str, Path] = field(default_factory=dict)
    """Place inside of the sandbox → what the node stored earlier and later steps see there, read-only."""
    named: tuple[Fetched | None] | None = None
    """What the stubs name; None: not read since a step ran, or something else that may have changed them."""
    _uses: Uses | None = field(default=None, repr=False)

    def use(self, *units: str) -> None:
        """Let nothing remove these of the node's folder until this attempt ends (`uses.py`)."""
        self._uses = self._uses or Uses(self.node.folder)
        self._uses.add(*units)

    def leave(self) -> None:
        """Nothing of this attempt uses the node's folder any more."""
        if self._uses is not None:
            self._uses.close()

    @property
    def source(self) -> Path:
        """The working copy of the source; `/work/src` inside the sandbox."""
        return self.work / "src"

    @property
    def private(self) -> Path:
        """The folder of files of ours about this build, beside its work folder: no step sees it."""
        return self.beside(".private")

    def beside(self, suffix: str) -> Path:
        """What is this attempt's in the node's folder and out of its build's reach."""
        return (self.fence or self.work).with_suffix(suffix)

    @property
    def blob(self) -> Path:
        """The source's bytes, until they are unpacked."""
        return self.private / "source"

    @property
    def build_user(self) -> tuple[int, int] | None:
        """(uid, gid) that the work folder belongs to; None: this process may not change owners."""
        return (self.node.uid, self.node.settings.build_uid) if os.geteuid() == 0 else None

    def chown_to_build_user(self, path: Path | str, folder: int | None = None) -> None:
        """Change the owner, where this process may. `folder`: the descriptor of the folder that has the name `path`."""
        if self.build_user:
            os.chown(path, *self.build_user, dir_fd=folder, follow_symlinks=False)

    @contextmanager
    def reading(self, source: int | None = None) -> Iterator[Reading]:
        """A process that reads this build's hostile text as the build user; `source` is a descriptor of its bytes."""
        settings = self.node.settings
        budget = Budget(
            cpu_ms=settings.read_cpu_ms,
            unpack_ms=settings.unpack_cpu_ms,
            wall_ms=settings.read_ms,
            memory=settings.read_memory_bytes,
        )
        with self.node.readers.reading(self.work, budget, self.check, self.build_user, source) as reading:
            yield reading

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One phase of the line. A failure inside carries its name; a stop request ends the build before the next."""
        if self.lease.must_stop():
            raise BuildError("Cancelled", "stopped before " + name)
        with self.log.phase(name):
            try:
                yield
            except BuildError as error:
                error.phase = error.phase or name
                raise

    def check(self) -> None:
        """Between the pieces of long work: raises `BuildError` Cancelled when the lease must stop, Timeout."""
        if self.lease.must_stop():
            raise BuildError("Cancelled", "stopped while it went on")
        now, limit = self.now(), self.time_limit.limit_ms
        if self.time_limit.left_ms(now) < 0:
            message = f"reached the time limit of the build, {limit} ms"
            raise BuildError("Timeout", message, limit=limit, peak=self.time_limit.elapsed_ms(now))

    def lose(self) -> None:
        """Leave the claim silently, and wake what waits."""
        with self.log.spool.changed:
            self.lease.lost = True
            self.log.spool.changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait so long, at most until the attempt must stop; raises as `check` does."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            self.check()
            left = min(left, max(0.0, self.time_limit.left_ms(self.now()) / 1000) + 0.001)
            self._wait_for(self.lease.must_stop, left)
        self.check()

    def wait_until_acknowledged(self) -> None:
        """Wait until the control side has every line so far, or the attempt must stop."""
        spool = self.log.spool
        with spool.awaiting():
            self._wait_for(lambda: spool.acknowledged or self.lease.must_stop(), None)

    @contextmanager
    def leaving(self) -> Iterator[Callable[[], tuple[int, tuple[Line, ...]]]]:
        """Inside the newest lines are the caller's to send. What it gets waits until the control side has all but one
        batch, or the attempt must stop; then it returns how many lines the claim has, and that batch."""
        spool = self.log.spool

        def batch() -> tuple[int, tuple[Line, ...]]:
            with spool.changed:
                self._wait_for(lambda: spool.is_left or self.lease.must_stop(), None)
                return spool.count, spool.batch()

        spool.leave(True)
        try:
            yield batch
        finally:
            spool.leave(False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside waits for the control side; its time is not the build's."""
        self.time_limit.wait(self.now())
        try:
            yield
        finally:
            self.time_limit.resume(self.now())

    def _wait_for(self, condition: Callable[[], bool], seconds: float | None) -> None:
        changed = self.log.spool.changed
        with changed:
            changed.wait_for(condition, seconds)


def plan_request(request: pb.CreateBuildRequest) -> PlanRequest:
    """The request as a pipeline reads it."""
    source, named = request.code.compile, compiled_runtime(request)
    version, target = runtime_of(named)
    folder = request.git_source.context_dir
    return PlanRequest(
        runtime=named.WhichOneof("runtime"),
        version=version,
        target=target,
        build_args={
            name: value
            for name, value in (source.build_args or request.build_args).items()
            if name != START_CHECK  # it decides nothing of the artifact
        }
        | ({"sub_path": folder} if folder else {}),
        single_file=source.WhichOneof("body") == "source_code",
    )
