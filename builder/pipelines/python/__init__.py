"""Python: a handler, an application behind a server, a program or a command, with what the source names. Runs nothing.

With the network, and no file of the source but a lock: uv resolves requirements that this package wrote from what it
parsed, and a program of ours downloads the wheels. Without it: uv installs the wheels that the node verified, and they
are compiled, once for each lock; then the runtime's own Python checks and compiles the source, so that its syntax
decides. None of these runs code of the source; the last one sees all of it and has no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from builder.pipelines.arguments import START, SUB_PATH, Argument, names
from builder.pipelines.base import Need, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import Tree

NAME = "python"
EXTENSIONS: tuple[str, ...] = (".py",)
ARGUMENTS = (
    Argument(
        name="entry",
        meaning="what starts: a file, a module, `module:object` (an ASGI or WSGI application, a handler), "
        "`module:factory()`, or a script of `project.scripts`",
        example="shop.web:app",
    ),
    replace(
        SUB_PATH, meaning="the folder of the source that is built; nothing else of what was sent joins the artifact"
    ),
    replace(
        START,
        example='["gunicorn", "shop.web:app", "--bind", "0.0.0.0:$PORT"]',
    ),
    Argument(name="extras", meaning="extras of the project that are installed, apart by commas", example="postgres"),
    Argument(
        name="groups",
        meaning="dependency groups (PEP 735) that are installed, apart by commas, beside `tool.uv.default-groups`",
        example="prod",
    ),
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
MANIFESTS: tuple[str, ...] = ("pyproject.toml", "uv.lock", "pylock.toml", "requirements.txt")
SAMPLE = {"handler.py": "def handler(payload, ctx):\n    return payload\n"}


def detect(tree: Tree) -> Detection | None:
    """A file that can start, or a manifest of dependencies, at the root; else a Procfile or any Python file there."""
    from builder.pipelines.python.entry import NAMES_OF_ENTRIES
    from builder.pipelines.python.manifest import MANIFESTS, OTHER_MANIFESTS

    found = next((name for name in (*NAMES_OF_ENTRIES, *MANIFESTS, *OTHER_MANIFESTS) if tree.has(name)), "")
    found = found or next(iter(tree.glob("*.py")), "")
    return Detection(runtime=NAME, because=f"{found} is at the root") if found else None


def looks_like(source: bytes) -> bool:
    """Any text may be Python, so this runtime stands last in the list."""
    return True


def single_file_name(source: bytes) -> str:
    """A single Python file is handler.py."""
    return "handler.py"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Install dependencies (network, no code), then check and compile (no network)."""
    from builder.pipelines.python import planning

    return planning.plan(tree, detection, request, catalog)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What a failed step's last lines mean."""
    from builder.pipelines.python import diagnosis

    return diagnosis.diagnose(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The wheels that the resolver chose, once it has."""
    from builder.pipelines.python import planning

    return planning.fetched(plan, stubs)


def required_files(tree: Tree) -> Iterator[Need]:
    """The modules of its own that a source cannot start without."""
    from builder.pipelines.python import required

    yield from required.required_files(tree)
