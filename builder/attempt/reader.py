"""The owner's side of the reader (`reading.py`): ask it, look after the attempt meanwhile, and judge how it ended.

What a source makes its reader cost is the source's fault: `ManifestInvalid` with the file that was being read, for an
archive `ArchiveTooLarge`, for the output of a step `StepFailed`. A reader that ends otherwise is ours.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from builder.attempt.desk import Named, PlanAnswer, Pointers, Unpacked
from builder.attempt.exchange import Budget, Check, Exchange, OverBudget
from builder.attempt.plain import Failed, from_plain, to_json
from builder.attempt.reading import Bounds, ReaderStart, serve
from builder.errors import BuildError, PlatformError
from builder.images.component import Component
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.limits import ArchiveLimits
from builder.text import size as in_words

if TYPE_CHECKING:
    from builder.dockerfile.choose import ImageRequest
    from builder.strategies.base import Choice, Planner

WRITES = 64 * 1024
"""Bytes of a file that a reader writes while it reads text: the note alone."""

Answer = TypeVar("Answer")
Ask = Callable[[bytes, Bounds], dict[str, Any]]
"""(message, what the answer may cost) → the answer."""


class Faulty(Exception):
    """A fault of the builder or of a pipeline, in a reader; its trace."""


class Readers:
    """The process that forks readers, for one owner. `start` it while this process has one thread.

    Without `images` it answers nothing about image mode, and loads none of it. `rehearsals`: the folder in which a
    reader that waits rehearses (`rehearsal.py`), nobody else's; without it none does.
    """

    def __init__(
        self,
        known: tuple[Pipeline, ...],
        catalog: Catalog,
        *,
        images: bool = True,
        rehearsals: Path | None = None,
    ) -> None:
        self._known, self._catalog, self._images, self._rehearsals = known, catalog, images, rehearsals
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._close: Callable[[], object] = lambda: None
        self._reader: _Reader | None = None

    def start(self) -> None:
        """Fork it, unless it is there. Raises OSError where the machine has no room for a process."""
        if self._control is not None:
            return
        owner = os.getpid()
        with ExitStack() as unless_forked:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            unless_forked.enter_context(mine)
            with theirs:
                pid = os.fork()
                if pid == 0:
                    serve(
                        theirs,
                        self._known,
                        self._catalog,
                        owner,
                        images=self._images,
                        rehearsals=self._rehearsals,
                    )
            unless_forked.pop_all()
        self._control = mine
        self._close = weakref.finalize(self, _end, mine, pid, owner)

    def close(self) -> None:
        """End it; the next reader starts another."""
        self._control = None
        if (reader := self._reader) is not None and reader.handle is not None:
            os.close(reader.handle)
            reader.handle = None
        self._close()

    @contextmanager
    def reading(
        self, work: Path, budget: Budget, check: Check, who: tuple[int, int] | None = None, source: int | None = None
    ) -> Iterator[Reading]:
        """A reader that stands in `work`, as the user `who`; when the context ends it is killed.

        `source` is a descriptor of the source's bytes; `check` is asked all the time, and may raise to end it all.
        """
        with self._lock, ExitStack() as stack:
            note = _closing(stack, os.memfd_create("ignite-note", os.MFD_CLOEXEC))
            folder = _closing(stack, os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
            channel, theirs = socket.socketpair()
            stack.enter_context(channel).setblocking(False)
            with theirs:
                passed = [theirs.fileno(), folder, note, *([] if source is None else [source])]
                self._fork(to_json(ReaderStart(who=who, memory=budget.memory)), passed)
            try:
                exchange = Exchange(channel, note, budget, check, ended=self._ended)
                yield Reading(exchange.ask, exchange.where, budget)
            finally:
                if (handle := self._started()) is not None:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)

    def _fork(self, start: bytes, passed: list[int]) -> None:
        """Ask for a reader. It starts while its owner goes on, as the one before it ended."""
        if self._reader is not None:
            self._ended()
        for _ in range(2):
            self.start()
            assert self._control is not None
            try:
                socket.send_fds(self._control, [start], passed)
            except OSError:  # it was killed, perhaps; another takes its place
                self.close()
                continue
            self._reader = _Reader()
            return
        raise PlatformError("Internal", "no process that reads the source can be started")

    def _started(self) -> int | None:
        """The pidfd of the reader; None where the process that forks readers is gone, and with it the reader."""
        reader = self._reader
        if reader is not None and reader.handle is None and self._control is not None:
            flags = 0
            with suppress(OSError):
                _, handles, flags, _ = socket.recv_fds(self._control, 16, 1, socket.MSG_CMSG_CLOEXEC)
                reader.handle = handles[0] if handles else None
            if reader.handle is None:
                self.close()
            if flags & socket.MSG_CTRUNC:  # the kernel had no descriptor for it (recvmsg(2))
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return reader.handle if reader is not None else None

    def _ended(self) -> int:
        """How the reader ended, as wait(2) has it; waits for that."""
        reader = self._reader
        assert reader is not None
        if reader.status is None:
            answer = b""
            if self._started() is not None and self._control is not None:
                with suppress(OSError):
                    answer = self._control.recv(16)
            reader.status = int(answer or signal.SIGKILL)
            if not answer:
                self.close()
            if reader.handle is not None:
                os.close(reader.handle)
                reader.handle = None
            self._reader = None
        return reader.status


@dataclass
class _Reader:
    """The last reader that was asked for, as far as the process that forks readers has reported it."""

    handle: int | None = None
    status: int | None = None


def _end(control: socket.socket, pid: int, owner: int) -> None:
    control.close()
    if os.getpid() != owner:  # a copy of the owner
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _closing(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


class Reading:
    """The questions to a reader. Each raises what `check` raises, `BuildError`, and `Faulty` for a fault of ours."""

    def __init__(self, ask: Ask, where: Callable[[], str], budget: Budget) -> None:
        self._send, self._where, self._budget = ask, where, budget

    def lfs_pointers(self) -> Pointers:
        """The files of the working copy that are pointers of Git LFS."""
        with _invalid():
            return self._ask(Pointers, "lfs_pointers", self._bounds)

    def unpack(self, single: bool, runtime: str | None, *, lift: bool = True) -> Unpacked:
        """Unpack the source into the working copy, and digest it. `lift`: a single folder becomes the root."""
        bounds = Bounds(cpu_s=self._budget.unpack_ms / 1000, file=ArchiveLimits().file + 1)
        try:
            return self._ask(Unpacked, "unpack", bounds, single=single, runtime=runtime, lift=lift)
        except OverBudget as over:
            raise BuildError("ArchiveTooLarge", f"unpacking it {over.what}", limit=over.limit) from None

    def strategy(self, asked: ImageRequest) -> Choice:
        """Which strategy makes an image of the source."""
        from builder.strategies.base import Choice  # with Kubernetes' side of it, which a compiled build does without

        with _invalid():
            return self._ask(Choice, "strategy", self._bounds, asked=asked)

    def image(self, strategy: Planner, asked: ImageRequest, known: str) -> Any:
        """The plan for the source, of the type `PLAN` of what makes it."""
        with _invalid():
            return self._ask(strategy.PLAN, "image", self._bounds, strategy=strategy.NAME, asked=asked, known=known)

    def detect(self, runtime: str | None, sub_path: str = "") -> Detection:
        """Which runtime the source, or that folder of it, is of."""
        with _invalid():
            return self._ask(Detection, "detect", self._bounds, runtime=runtime, sub_path=sub_path)

    def plan(self, detection: Detection, request: PlanRequest) -> PlanAnswer:
        """What would run."""
        with _invalid():
            return self._ask(PlanAnswer, "plan", self._bounds, detection=detection, request=request)

    def diagnose(self, runtime: str, step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
        """What a failed step's output means. Output that costs too much means that the step failed, and no more."""
        try:
            return self._ask(
                Diagnosis, "diagnose", self._bounds, runtime=runtime, step=step, exit_code=exit_code, lines=lines
            )
        except OverBudget as over:
            message = f"step {step.name} ended with exit code {exit_code}; reading its output {over.what}"
            return Diagnosis(reason="StepFailed", message=message, next="Read the log of the step.")

    def fetched(self, plan: Plan) -> Fetched | None:
        """What the plan's steps download, as far as its stubs name it now."""
        with _invalid():
            return self._ask(Named, "fetched", self._bounds, plan=plan).fetched

    def component(self, path: str) -> Component:
        """What a component that the steps left at `path` of the work folder imports and exports."""
        try:
            return self._ask(Component, "component", self._bounds, path=path)
        except OverBudget as over:
            raise BuildError("StartFailed", f"reading the component {over.what}", limit=over.limit) from None

    @property
    def _bounds(self) -> Bounds:
        return Bounds(cpu_s=self._budget.cpu_ms / 1000, file=WRITES)

    def _ask(self, shape: type[Answer], question: str, bounds: Bounds, **arguments: object) -> Answer:
        message = to_json({"question": question, "bounds": bounds, "arguments": arguments})
        answer = self._send(message, bounds)
        if "over" in answer:
            raise self._gave_up(str(answer["over"]))
        if "fault" in answer:
            raise Faulty(str(answer["fault"]))
        try:
            if "failed" in answer:
                raise from_plain(Failed, answer["failed"]).error()
            return from_plain(shape, answer["answer"])
        except (ValueError, KeyError) as error:
            raise Faulty(f"the answer to {question} is malformed: {error}") from None

    def _gave_up(self, error: str) -> OverBudget:
        if error == "RecursionError":
            return OverBudget("meets nesting that is too deep", self._where())
        memory = self._budget.memory
        return OverBudget(f"took more than {in_words(memory)} of memory", self._where(), memory)


@contextmanager
def _invalid() -> Iterator[None]:
    """What a text costs above the budget makes it invalid."""
    try:
        yield
    except OverBudget as over:
        message = f"reading {over.where or 'the source'} {over.what}"
        raise BuildError("ManifestInvalid", message, where=over.where, limit=over.limit, next=_NEXT) from None


_NEXT = (
    "Make the file smaller or simpler; for an honest one an operator raises read_cpu_ms, read_ms or read_memory_bytes."
)
