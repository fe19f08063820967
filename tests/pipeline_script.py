"""A third pipeline, outside of the product: build.py at the root runs and what it leaves in /work/out is the artifact.

Loaded by the setting `pipelines`; its row and toolchain are `tests/data/`. It shows that a runtime is added without a
line in `builder/`, and runs code in a build step, which no other pipeline does.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.output import step_failed
from builder.plan import Access, Cache, Choice, Detection, Diagnosis, Fetched, LayerSource, Output, Plan, Step
from builder.source.tree import Tree

NAME = "script"
EXTENSIONS: tuple[str, ...] = (".script",)
BUILD_ARGS: tuple[str, ...] = ("GREETING", "sub_path")
PYTHON = "/usr/bin/python3.11"


def detect(tree: Tree) -> Detection | None:
    """build.py at the root."""
    return Detection(runtime=NAME, because="build.py is at the root") if tree.has("build.py") else None


def looks_like(source: bytes) -> bool:
    """Nothing is known about what a script looks like."""
    return False


def single_file_name(source: bytes) -> str:
    """A single file is the script."""
    return "build.py"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """One step, without a network. It reads the caches that a file `caches` names, one a line."""
    folder = folder_of(tree, request.build_args.get("sub_path", ""))
    if not tree.has(posixpath.normpath(f"{folder}/build.py")):
        raise BuildError("EntryPointMissing", "there is no build.py at the root")
    env = tuple(sorted((name, value) for name, value in request.build_args.items() if name != "sub_path"))
    cwd = posixpath.normpath(f"/work/src/{folder}")
    row = catalog.find(NAME, request.version, request.target)
    argv = (PYTHON, "-B", "build.py")
    named = tree.read_text("caches").split() if tree.has("caches") else []
    caches = tuple(Cache(name=name, access=Access.READ) for name in named)
    layer = LayerSource(source="/work/out", dest="/app", created_by="script: build.py")
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(Choice(name="runtime", value=NAME, why=detection.because),),
        steps=(Step(name="script", argv=argv, env=env, caches=caches, cwd=cwd),),
        output=Output(layers=(layer,), entrypoint=(PYTHON, "-B", "/app/server.py"), workdir="/app"),
    )


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """Nothing is known about what a script says."""
    return step_failed(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """A script downloads nothing."""
    return None
