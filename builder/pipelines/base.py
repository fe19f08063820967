"""What a pipeline is: a module with a name and four pure functions. Adding a runtime is adding such a module."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from builder.errors import BuildError
from builder.pipelines.arguments import Argument
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Need:
    """A file that a source cannot do without: named at `where` (file:line), in words (`embeds x`), and the paths or
    globs of which one has to be there."""

    where: str
    what: str
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What the request asks of the build; empty means "you decide"."""

    runtime: str | None = None
    version: str = ""
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    single_file: bool = False
    default_versions: Mapping[str, str] = field(default_factory=dict)
    """Runtime → version that stands for the catalog's default: the one that the app was last built with."""
    today: str = ""
    """The day of the build ("2026-11-28"), for warnings alone; empty: none depends on it."""
    import_hosts: tuple[str, ...] = ()
    """The operator's list of hosts that `https:` imports may name: `host`, or `host:port`."""
    secret_version: int = 0
    """Version of the secret that a build argument names; 0: no claim has opened one."""


def folder_of(tree: Tree, sub_path: str) -> str:
    """The build argument `sub_path` as a folder of the source; "." is its root. Raises `BuildError` InvalidRequest."""
    folder = posixpath.normpath(sub_path or ".")
    if folder == ".":
        return folder
    shown = sub_path[:80]
    if folder.startswith(("/", "../")) or folder == "..":
        raise BuildError("InvalidRequest", f"sub_path {shown} leads out of the source", where="buildArgs.sub_path")
    if not any(path.startswith(folder + "/") for path in tree.files()):
        message = f"sub_path {shown} is no folder of what was sent"
        raise BuildError("InvalidRequest", message, where="buildArgs.sub_path", next="Name a folder of the source.")
    return folder


class Pipeline(Protocol):
    """A runtime's module: all facts of the runtime that are not in its folder of `runtimes/`.

    A module fulfils this protocol by its own names; mypy checks those in `PIPELINES`, `missing` those of a setting.
    """

    NAME: str
    """The runtime, as the wire names it."""
    EXTENSIONS: tuple[str, ...]
    """File name extensions that mean this runtime when a single file is sent by name (".go")."""
    BUILD_ARGS: tuple[str, ...]
    """The build arguments that its plans read; any other is refused. A module of ours also is `Documented`."""

    def detect(self, tree: Tree) -> Detection | None:
        """Whether the source is of this runtime, and why."""
        ...

    def looks_like(self, source: bytes) -> bool:
        """Whether a single file without a name is of this runtime. The first of the list that claims it has it."""
        ...

    def single_file_name(self, source: bytes) -> str:
        """The name a single file gets."""
        ...

    def plan(self, tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
        """What would run. Raises `BuildError` EntryPointMissing, ManifestInvalid, UnknownRuntimeVersion and kin."""
        ...

    def diagnose(self, step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
        """What a failed step's last lines mean."""
        ...

    def fetched(self, plan: Plan, stubs: Tree) -> Fetched | None:
        """What a step of the plan downloads, each by its digest; None while the stubs do not name it yet.

        `stubs` is `/work/fetch`: the plan's stubs, and what steps before wrote there. Called before and after each step
        that downloads. Raises `BuildError` LockOutdated where the index has not what the source pins.
        """
        ...


@runtime_checkable
class Documented(Protocol):
    """A pipeline with a row for each build argument, which `docs/runtimes.md` shows."""

    ARGUMENTS: tuple[Argument, ...]


@runtime_checkable
class Requiring(Protocol):
    """A pipeline that knows of files which a source cannot do without."""

    def required_files(self, tree: Tree) -> Iterator[Need]:
        """The files of its own that a source embeds or imports at its start, where the tree names any."""
        ...


@runtime_checkable
class Manifested(Protocol):
    """A pipeline that knows which files of a source name its packages, beside the materials of a plan."""

    MANIFESTS: tuple[str, ...]


@runtime_checkable
class Linked(Protocol):
    """A pipeline that links programs. What to change in a source, as a sentence, where its artifact cannot start."""

    NO_PROGRAM: str
    """It is no program."""
    NOT_STATIC: str
    """It wants a loader that its base has not."""


@runtime_checkable
class Sampled(Protocol):
    """A pipeline with a small source that it plans. A reader that waits plans it (`builder/attempt/rehearsal.py`)."""

    SAMPLE: Mapping[str, str]
    """File → text."""


MEMBERS = tuple(name for name in (*Pipeline.__annotations__, *vars(Pipeline)) if not name.startswith("_"))


def missing(module: object) -> tuple[str, ...]:
    """The names of the protocol that a module lacks."""
    return tuple(name for name in MEMBERS if not hasattr(module, name))
