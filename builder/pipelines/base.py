"""What a pipeline is: a module with a name and four pure functions. Adding a runtime is adding such a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Plan, Step
from builder.source.tree import Tree


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What the request says about the build; empty means "you decide"."""

    runtime: str | None = None
    version: str = ""
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    single_file: bool = False


class Pipeline(Protocol):
    """A runtime's module.

    It may have `BUILD_ARGS`: the build arguments its plans read; any other is refused. And `resolved(tree)`: after the
    steps, (package URL, "algorithm:hex") of each package the resolver took and pinned, for the provenance.
    """

    NAME: str

    def detect(self, tree: Tree) -> Detection | None:
        """Whether the source is of this runtime, and why."""
        ...

    def plan(self, tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
        """What would run. Raises `BuildError` EntryPointMissing, ManifestInvalid, UnknownRuntimeVersion and kin."""
        ...

    def diagnose(self, step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
        """What a failed step's last lines mean."""
        ...

    def single_file_name(self, source: bytes) -> str:
        """The name a single file gets."""
        ...
