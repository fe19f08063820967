"""What a local build of a compiled app loads before it knows that it needs it: nothing of the runtimes, image mode and
sandboxed work that it may do without. Read from the import statements; those of functions do not count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTS = ("builder.cli.commands.build", "builder.local.client", "builder.local.build", "builder.local.machine")
LATER = {
    "builder.attempt.git",
    "builder.attempt.running",
    "builder.attempt.start",
    "builder.attempt.steps",
    "builder.attempt.verdict",
    "builder.dockerfile.check",
    "builder.dockerfile.choose",
    "builder.pipelines.deno.planning",
    "builder.pipelines.go.planning",
    "builder.pipelines.python.planning",
    "builder.pipelines.rust.planning",
}


def path_of(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def named(path: Path) -> Iterator[str]:
    """The modules of ours, and names that may be some, that the statements at the top of a file import."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            yield from (one.name for one in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield from (f"{statement.module}.{one.name}" for one in statement.names)


def loaded(starts: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    pending = list(starts)
    while pending:
        parts = pending.pop().split(".")
        for count in range(1, len(parts) + 1):  # a package is loaded before its modules
            module = ".".join(parts[:count])
            path = path_of(module) if parts[0] == "builder" else None
            if path is not None and module not in found:
                found.add(module)
                pending.extend(named(path))
    return found


def test_a_local_build_loads_what_it_may_do_without_once_it_needs_it() -> None:
    assert all(path_of(module) for module in LATER)
    assert loaded(STARTS) & LATER == set()


def test_a_worker_has_the_whole_line_before_its_children_are_forked() -> None:
    line = {module for module in LATER if module.startswith("builder.attempt.")}
    assert line <= loaded(("builder.node.worker",))
