"""The pipelines: which there are (`PIPELINES`, the one list), and the choice between them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from builder.errors import BuildError
from builder.pipelines import deno, go, python, rust
from builder.pipelines.arguments import COMMON, Argument, check_arguments
from builder.pipelines.base import Documented, Need, Pipeline, PlanRequest, Requiring, folder_of, missing
from builder.pipelines.catalog import DEFAULT, Catalog, Row
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import SubTree, Tree

PIPELINES: tuple[Pipeline, ...] = (go, rust, deno, python)
_NAME_IT = "Name its runtime: --runtime, or code.compile.runtime on the wire."


def load(names: Sequence[str]) -> tuple[Pipeline, ...]:
    """The modules that the setting `pipelines` names, and the list: an operator's own are asked before ours.

    Raises `BuildError` InvalidRequest for a module that cannot be loaded or is no pipeline.
    """
    return (*(_loaded(name) for name in names), *PIPELINES)


def load_whole(known: tuple[Pipeline, ...] = PIPELINES) -> None:
    """Import all of ours, and the whole package of each pipeline of an operator's own: a reader is confined before its
    first question.

    Raises `BuildError` InvalidRequest for a module of theirs that cannot be loaded, once all else is.
    """
    _load_below(__path__, __name__)
    refused: BuildError | None = None
    for module in known:
        if module in PIPELINES:
            continue
        name = getattr(module, "__name__", "")
        try:
            _load_below(getattr(module, "__path__", ()), name)  # a plain module has nothing below it
        except Exception as error:  # whatever their code raises
            refused = refused or _unloadable(name, error)
    if refused is not None:
        raise refused


def _load_below(folders: Iterable[str], package: str) -> None:
    """Import every module below a package but those that are programs."""
    for module in pkgutil.walk_packages(folders, f"{package}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


def _loaded(name: str) -> Pipeline:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever their code raises
        raise _unloadable(name, error) from None
    if lacks := missing(module):
        raise BuildError("InvalidRequest", f"pipelines: {name} has no {', '.join(lacks)}", where="pipelines")
    return cast(Pipeline, module)


def _unloadable(name: str, error: Exception) -> BuildError:
    message = f"pipelines: {name} cannot be loaded: {error if isinstance(error, ImportError) else repr(error)}"
    step = "Mend this module, install what it imports, or take it from the setting pipelines."
    return BuildError("InvalidRequest", message, where="pipelines", next=step)


def names(known: tuple[Pipeline, ...] = PIPELINES) -> tuple[str, ...]:
    """The runtimes that can be planned."""
    return tuple(module.NAME for module in known)


def arguments(known: tuple[Pipeline, ...] = PIPELINES) -> dict[str, tuple[str, ...]]:
    """Runtime → the build arguments that its plans read."""
    return {module.NAME: module.BUILD_ARGS for module in known}


def argument_rows(known: tuple[Pipeline, ...] = PIPELINES) -> dict[str, tuple[Argument, ...]]:
    """Runtime → what is documented of the build arguments that it takes."""
    return {module.NAME: (*(module.ARGUMENTS if isinstance(module, Documented) else ()), *COMMON) for module in known}


def detect(
    tree: Tree, runtime: str | None = None, known: tuple[Pipeline, ...] = PIPELINES, sub_path: str = ""
) -> Detection:
    """The runtime asked for, or the first that recognizes the source, or that folder of it.

    Raises `BuildError` EntryPointMissing, and InvalidRequest for a `sub_path` that is no folder of the source.
    """
    folder = folder_of(tree, sub_path)
    if folder != ".":
        found = _detect(SubTree(tree, folder), runtime, known)
        return replace(found, because=f"{found.because} of {folder}")
    return _detect(tree, runtime, known)


def _detect(tree: Tree, runtime: str | None, known: tuple[Pipeline, ...]) -> Detection:
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


def required_files(
    tree: Tree, runtime: str | None = None, known: tuple[Pipeline, ...] = PIPELINES, sub_path: str = ""
) -> Iterator[Need]:
    """The files that the source, or that folder of it, names and cannot do without, as far as its pipeline knows any.

    Raises `BuildError` EntryPointMissing, InvalidRequest for a `sub_path` that is none, or ManifestInvalid for a file
    that is too large.
    """
    module = _named(detect(tree, runtime, known, sub_path).runtime, known)
    if not isinstance(module, Requiring):
        return
    folder = folder_of(tree, sub_path)
    if folder == ".":
        yield from module.required_files(tree)
        return
    for need in module.required_files(SubTree(tree, folder)):
        paths = tuple(f"{folder}/{path}" for path in need.paths)
        yield Need(where=f"{folder}/{need.where}", what=need.what, paths=paths)


def plan(
    detection: Detection,
    tree: Tree,
    request: PlanRequest,
    catalog: Catalog,
    known: tuple[Pipeline, ...] = PIPELINES,
) -> Plan:
    """What would run for a detected source. Raises `BuildError` BuildArgUnknown and what the pipeline raises."""
    module = _named(detection.runtime, known)
    check_arguments(module.NAME, module.BUILD_ARGS, request.build_args)
    try:
        made = _planned(module, tree, detection, request, catalog)
    except RecursionError:
        raise BuildError("ManifestInvalid", "a file of the source is nested too deeply to be read") from None
    row = catalog.row_of(made.toolchain)
    if row is None or not row.has_ended(request.today):
        return made
    return replace(made, warnings=(*made.warnings, _past(row, catalog)))


def _planned(module: Pipeline, tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """The plan with the version of the app's last success where nobody asks for one; else with the catalog's default.

    A version that the catalog has no more stands for nothing.
    """
    runtime, target = module.NAME, request.target
    last = request.default_versions.get(runtime, "")
    known = {row.version for row in catalog.toolchains() if row.runtime == runtime and target in ("", row.target)}
    if last in known and last != (default := catalog.find(runtime, target=target).version):
        made = module.plan(tree, detection, request, catalog.with_defaults({runtime: last}))
        if any(one.why == DEFAULT for one in made.choices):
            why = f"as its last success has it; the default is {default} by now"
            choices = tuple(replace(one, why=why) if one.why == DEFAULT else one for one in made.choices)
            return replace(made, choices=choices)
    return module.plan(tree, detection, request, catalog)


def _past(row: Row, catalog: Catalog) -> str:
    """A warning for people: their app gets no security fixes any more."""
    runtime, version = row.toolchain.runtime, row.toolchain.version
    default = catalog.find(runtime, target=row.toolchain.target).version
    newer = f"; {default} is the default" if default != version else ""
    return f"{runtime} {version} is past its end of life ({row.ends}): nobody mends it any more{newer}"


def diagnose(
    runtime: str, step: Step, exit_code: int, lines: Sequence[str], known: tuple[Pipeline, ...] = PIPELINES
) -> Diagnosis:
    """What a failed step's output means."""
    return _named(runtime, known).diagnose(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree, known: tuple[Pipeline, ...] = PIPELINES) -> Fetched | None:
    """What a plan's steps download, as far as its stubs name it. Raises what the pipeline raises."""
    return _named(plan.detection.runtime, known).fetched(plan, stubs)


def single_file_name(runtime: str | None, source: bytes, known: tuple[Pipeline, ...] = PIPELINES) -> str:
    """The name a single file gets; without a runtime, by the first pipeline that it looks like.

    Raises `BuildError` EntryPointMissing when it looks like none.
    """
    if runtime:
        return _named(runtime, known).single_file_name(source)
    for module in known:
        if module.looks_like(source):
            return module.single_file_name(source)
    raise BuildError("EntryPointMissing", f"none of {', '.join(names(known))} recognizes this file", next=_NAME_IT)


def runtime_of_file(name: str, known: tuple[Pipeline, ...] = PIPELINES) -> str:
    """The runtime that a single file's extension names, or "" for a name without one that any pipeline claims."""
    return next((one.NAME for one in known if name.endswith(one.EXTENSIONS)), "")


def extensions(known: tuple[Pipeline, ...] = PIPELINES) -> tuple[str, ...]:
    """All extensions that name a runtime."""
    return tuple(each for one in known for each in one.EXTENSIONS)


def _named(runtime: str, known: tuple[Pipeline, ...]) -> Pipeline:
    for module in known:
        if runtime == module.NAME:
            return module
    raise BuildError("UnsupportedTarget", f"{runtime} cannot be built here yet; {', '.join(names(known))} can")


def _shown(tree: Tree) -> str:
    roots = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in tree.files()})
    more = f" and {len(roots) - 8} more" if len(roots) > 8 else ""
    return f"At the root were looked at: {', '.join(roots[:8])}{more}"
