"""The questions that a reader answers about one build's hostile text: unpack, detect, plan, diagnose. In plain values.

Who asks is `reader.py`; the confined process that answers is `reading.py`.
"""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import pipelines
from builder.attempt.plain import failed, from_plain, to_json
from builder.errors import BuildError
from builder.images.component import Component, Malformed, read_component, require_servable
from builder.images.gather import open_source as open_plain
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.below import open_file
from builder.source.digest import code_hash
from builder.source.tree import READ_LIMIT, DirTree
from builder.source.unpack import ArchiveLimits, unpack_file, write_single
from builder.text import visible

if TYPE_CHECKING:
    from builder.strategies.base import Choice

LFS_HEAD = b"version https://git-lfs.github.com/spec/"
LFS_BYTES, LFS_NAMED = 1024, 4
SOURCE = Path("src")
"""The working copy, relative to the work folder that a reader stands in: whatever is above it may be closed to it."""
STUBS = Path("fetch")
"""What a step with a network sees, likewise."""
NO_COMPONENT = "A program for this target is a component: nothing of the source may write another file there."


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """The source is in the working copy."""

    files: int
    code_hash: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pointers:
    """Files that Git LFS has elsewhere: the first of them, and how many there are."""

    paths: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        more = self.count - len(self.paths)
        return ", ".join(self.paths) + (f" and {more} more" if more else "")


@dataclass(frozen=True, kw_only=True)
class PlanAnswer:
    """A plan, and the digests of its lock files as they were sent."""

    plan: Plan
    materials: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the stubs name, once they do."""

    fetched: Fetched | None


class NotedTree(DirTree):
    """A tree that notes which file it reads, where the owner finds it after this process has been ended."""

    def __init__(self, root: Path, note: Callable[[str], None]) -> None:
        super().__init__(root)
        self._note = note

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        self._note(path)
        return super().read_text(path, limit)


class Desk:
    """The questions that a reader answers. Each is a method; its arguments and its answer are plain."""

    def __init__(
        self,
        known: tuple[Pipeline, ...],
        catalog: Catalog,
        note: Callable[[str], None],
        source: int | None,
        root: Path = SOURCE,
        stubs: Path = STUBS,
    ) -> None:
        self._known, self._catalog, self._source, self._root = known, catalog, source, root
        self._tree, self._stubs = NotedTree(root, note), NotedTree(stubs, note)

    def lfs_pointers(self) -> Pointers:
        found = []
        for path in self._tree.files():
            with open(open_file(self._root, path), "rb") as file:
                if os.fstat(file.fileno()).st_size <= LFS_BYTES and file.read(len(LFS_HEAD)) == LFS_HEAD:
                    found.append(path)
        return Pointers(paths=tuple(visible(path, limit=200) for path in found[:LFS_NAMED]), count=len(found))

    def unpack(self, single: bool, runtime: str | None, lift: bool = True) -> Unpacked:
        assert self._source is not None
        with open(self._source, "rb", buffering=0, closefd=False) as file:
            if single:
                data = file.read()
                done = write_single(pipelines.single_file_name(runtime, data, self._known), data, self._root)
            else:
                done = unpack_file(file, self._root, ArchiveLimits(), lift=lift)
        return Unpacked(files=done.files, code_hash=code_hash(self._root), warnings=done.warnings)

    def strategy(self, asked: dict[str, Any]) -> Choice:
        from builder import strategies
        from builder.dockerfile.choose import ImageRequest

        return strategies.choose(self._root, from_plain(ImageRequest, asked))

    def image(self, strategy: str, asked: dict[str, Any], known: str) -> Any:
        from builder import strategies
        from builder.dockerfile.choose import ImageRequest

        found = strategies.planner(strategy)
        assert found is not None
        return found.plan(self._root, from_plain(ImageRequest, asked), known)

    def detect(self, runtime: str | None, sub_path: str) -> Detection:
        return pipelines.detect(self._tree, runtime, self._known, sub_path)

    def plan(self, detection: dict[str, Any], request: dict[str, Any]) -> PlanAnswer:
        found, asked = from_plain(Detection, detection), from_plain(PlanRequest, request)
        plan = pipelines.plan(found, self._tree, asked, self._catalog, self._known)
        digests = ((path, self._tree.sha256(path)) for path in plan.materials if self._tree.has(path))
        return PlanAnswer(plan=plan, materials=tuple(digests))

    def diagnose(self, runtime: str, step: dict[str, Any], exit_code: int, lines: Sequence[str]) -> Diagnosis:
        return pipelines.diagnose(runtime, from_plain(Step, step), exit_code, lines, self._known)

    def fetched(self, plan: dict[str, Any]) -> Named:
        try:
            return Named(fetched=pipelines.fetched(from_plain(Plan, plan), self._stubs, self._known))
        except OSError as error:  # of the stubs as a step left them: nothing else is looked at here
            message = f"what the steps left in /work/fetch cannot be read: {error.strerror}"
            raise BuildError("StepFailed", message, where="/work/fetch") from None

    def component(self, path: str) -> Component:
        """A component that the steps left at `path` of the work folder. Raises `BuildError` StartFailed for one that
        cannot be served, StepFailed where there is none."""
        name = f"/work/{path}"
        try:
            descriptor = open_plain(Path(path), Path("."))
        except OSError as error:
            raise BuildError("StepFailed", f"the build left no component {name}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BuildError("StepFailed", f"the build left no file {name}")
        with open(descriptor, "rb") as file:
            try:
                found = read_component(file)
            except Malformed as error:
                message = f"the build left {error} at {name}"
                raise BuildError("StartFailed", message, where=name, next=NO_COMPONENT) from None
        require_servable(found, name)
        return found


def answer(desk: Desk, asked: dict[str, Any]) -> bytes:
    """The answer to a question, whatever becomes of it."""
    try:
        return _answer(desk, asked)
    except (MemoryError, RecursionError) as error:  # of the answer's form, too
        return to_json({"over": type(error).__name__})


def _answer(desk: Desk, asked: dict[str, Any]) -> bytes:
    try:
        return to_json({"answer": getattr(desk, asked["question"])(**asked["arguments"])})
    except BuildError as error:
        return to_json({"failed": failed(error)})
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        return to_json({"fault": "".join(traceback.format_exception(error))[-8000:]})
