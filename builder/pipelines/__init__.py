"""The pipelines: which there are (`PIPELINES`, the one list), and the choice between them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

from builder.errors import BuildError
from builder.pipelines import go, python
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Plan, Step
from builder.source.tree import Tree

PIPELINES: tuple[ModuleType, ...] = (go, python)


def load(names: Sequence[str]) -> tuple[ModuleType, ...]:
    """The list, and the modules a setting names beside it."""
    return (*PIPELINES, *(importlib.import_module(name) for name in names))


def names(known: tuple[ModuleType, ...] = PIPELINES) -> tuple[str, ...]:
    """The runtimes that can be planned."""
    return tuple(module.NAME for module in known)


def detect(tree: Tree, runtime: str | None = None, known: tuple[ModuleType, ...] = PIPELINES) -> Detection:
    """The runtime asked for, or the first that recognizes the source. Raises `BuildError` EntryPointMissing."""
    found: Detection | None
    if runtime:
        found = _named(runtime, known).detect(tree)
        if found:
            return found
        other = next((one.NAME for one in known if one.detect(tree)), "")
        looks = f"; it looks like {other}" if other else ""
        raise BuildError("EntryPointMissing", f"this is no {runtime} source{looks}", next=_shown(tree))
    for module in known:
        found = module.detect(tree)
        if found:
            return found
    supported = ", ".join(names(known))
    raise BuildError("EntryPointMissing", f"none of {supported} recognizes this source", next=_shown(tree))


def plan(
    detection: Detection,
    tree: Tree,
    request: PlanRequest,
    catalog: Catalog,
    known: tuple[ModuleType, ...] = PIPELINES,
) -> Plan:
    """What would run for a detected source. Raises `BuildError` BuildArgUnknown and what the pipeline raises."""
    module = _named(detection.runtime, known)
    takes: tuple[str, ...] = getattr(module, "BUILD_ARGS", ())
    if unknown := sorted(set(request.build_args) - set(takes)):
        has = f"it takes {', '.join(takes)}" if takes else "it takes none"
        message = f'{module.NAME} has no build argument "{unknown[0][:80]}"; {has}'
        raise BuildError("BuildArgUnknown", message, where=f"buildArgs.{unknown[0][:80]}")
    try:
        made: Plan = module.plan(tree, detection, request, catalog)
    except RecursionError:
        raise BuildError("ManifestInvalid", "a file of the source is nested too deeply to be read") from None
    return made


def diagnose(
    runtime: str, step: Step, exit_code: int, lines: Sequence[str], known: tuple[ModuleType, ...] = PIPELINES
) -> Diagnosis:
    """What a failed step's output means."""
    found: Diagnosis = _named(runtime, known).diagnose(step, exit_code, lines)
    return found


def resolved(runtime: str, tree: Tree, known: tuple[ModuleType, ...] = PIPELINES) -> tuple[tuple[str, str], ...]:
    """(package URL, "algorithm:hex") of what the resolver took, read after the steps; many pipelines tell none."""
    module = _named(runtime, known)
    found: tuple[tuple[str, str], ...] = module.resolved(tree) if hasattr(module, "resolved") else ()
    return found


def single_file_name(runtime: str | None, source: bytes, known: tuple[ModuleType, ...] = PIPELINES) -> str:
    """The name a single file gets; without a runtime, by what it looks like."""
    if runtime:
        return str(_named(runtime, known).single_file_name(source))
    return "main.go" if b"\npackage main" in b"\n" + source else "handler.py"


def _named(runtime: str, known: tuple[ModuleType, ...]) -> ModuleType:
    for module in known:
        if runtime == module.NAME:
            return module
    raise BuildError("UnsupportedTarget", f"{runtime} cannot be built here yet; {', '.join(names(known))} can")


def _shown(tree: Tree) -> str:
    roots = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in tree.files()})
    more = f" and {len(roots) - 8} more" if len(roots) > 8 else ""
    return f"At the root were looked at: {', '.join(roots[:8])}{more}"
