"""Deno: main.ts or main.js, with the SDK's `start(handler)` or as its own server, and npm packages. Runs nothing.

With the network, and no file of the source but a lock: Deno writes a lock of the packages that this package found in
the imports, where the source has none, and a program of ours downloads what the lock pins, tarballs of npm and modules
of `https:` and `jsr:` imports. Without it: another lays what the node verified as Deno has it, then Deno installs
node_modules from that and checks the types. None of these runs code of the source or of a package; npm's lifecycle
scripts run only where a build argument names the package, last and alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.arguments import START, SUB_PATH, Argument, names
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import Tree

NAME = "deno"
EXTENSIONS: tuple[str, ...] = (".ts", ".mts", ".tsx", ".js", ".mjs", ".jsx")
ARGUMENTS = (
    Argument(name="entry", meaning="the script that is the program", example="src/server.ts"),
    SUB_PATH,
    START,
    Argument(
        name="allow",
        meaning="permissions beside those that every app has, apart by commas: `ffi`, `run`, and all of `read`, "
        "`write`, `sys`",
        example="ffi,sys",
    ),
    Argument(
        name="allow_scripts",
        meaning="npm packages whose lifecycle scripts run, without a network, apart by commas",
        example="sharp,better-sqlite3",
    ),
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
_LOOKS = re.compile(
    rb"""^[ \t]{0,40}import\b[^\n"']{0,500}["'][^\n"']{1,200}["']|\bDeno\.\w|^export (?:default|const|function)\b""",
    re.M,
)
_OTHERS = ("handler.py", "main.py", "pyproject.toml", "requirements.txt")
SAMPLE = {"main.ts": "Deno.serve(() => new Response());\n"}


def detect(tree: Tree) -> Detection | None:
    """deno.json(c) or deno.lock at the root; main.ts, package.json or the like where no other's file is."""
    from builder.pipelines.deno.lock import LOCK
    from builder.pipelines.deno.project import CONFIGS, ENTRIES, MAINS, PACKAGE

    for name in (*CONFIGS, LOCK):
        if tree.has(name):
            return Detection(runtime=NAME, because=f"{name} is at the root")
    if any(tree.has(name) for name in _OTHERS):  # a web page's own scripts lie beside such
        return None
    for name in (*MAINS, PACKAGE, *ENTRIES):
        if tree.has(name):
            return Detection(runtime=NAME, because=f"{name} is at the root")
    return None


def looks_like(source: bytes) -> bool:
    """An import of a module by a quoted name, an export, or Deno's own namespace."""
    return bool(_LOOKS.search(source[: 1 << 20]))


def single_file_name(source: bytes) -> str:
    """A single file is main.ts: TypeScript takes JavaScript, too."""
    return "main.ts"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Lock and download (network, stubs), unpack, then install and check (none)."""
    from builder.pipelines.deno import planning

    return planning.plan(tree, detection, request, catalog)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What a failed step's last lines mean."""
    from builder.pipelines.deno import diagnosis

    return diagnosis.diagnose(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """What the lock pins: the source's own, or the one that Deno wrote beside the stubs."""
    from builder.pipelines.deno import planning

    return planning.fetched(plan, stubs)
