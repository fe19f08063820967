"""What is loaded when, read from the import statements.

A local build of a compiled app loads nothing of the runtimes, image mode and sandboxed work before it knows that it
needs it: imports of functions do not count. A reader of hostile text loads nothing once it is confined: they are
loaded before.
"""

from __future__ import annotations

import ast
import builtins
import codecs
import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.attempt import reading
from builder.errors import BuildError
from builder.pipelines.base import Pipeline
from builder.pipelines.catalog import Catalog
from builder.source import tree

ROOT = Path(__file__).resolve().parents[2]
STARTS = ("builder.cli.commands.build", "builder.local.client", "builder.local.build", "builder.local.machine")
LATER = {
    "builder.attempt.git",
    "builder.attempt.gitrun",
    "builder.attempt.running",
    "builder.attempt.start",
    "builder.attempt.steps",
    "builder.attempt.verdict",
    "builder.dockerfile.check",
    "builder.dockerfile.choose",
    "builder.dockerfile.context",
    "builder.pipelines.deno.planning",
    "builder.pipelines.go.planning",
    "builder.pipelines.python.planning",
    "builder.pipelines.rust.planning",
}


def path_of(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def file_of(module: str) -> Path:
    """The file of a module that is one of ours."""
    path = path_of(module)
    assert path is not None, module
    return path


def named(path: Path) -> Iterator[str]:
    """The modules of ours, and names that may be some, that the statements at the top of a file import."""
    for statement in ast.parse(path.read_text()).body:
        yield from imported(statement)


def imported(statement: ast.AST) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (one.name for one in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module:
        yield from (f"{statement.module}.{one.name}" for one in statement.names)


def imported_late(module: str) -> set[str]:
    """What the functions of a module of ours import."""
    parsed = ast.walk(ast.parse(file_of(module).read_text()))
    bodies = (inner for one in parsed if isinstance(one, ast.FunctionDef) for inner in ast.walk(one))
    return {name for inner in bodies for name in imported(inner)}


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


@pytest.mark.slow
def test_a_local_build_loads_what_it_may_do_without_once_it_needs_it() -> None:
    assert all(path_of(module) for module in LATER)
    assert loaded(STARTS) & LATER == set()


@pytest.mark.slow
def test_a_worker_has_the_whole_line_before_its_children_are_forked() -> None:
    line = {module for module in LATER if module.startswith("builder.attempt.")}
    assert line <= loaded(("builder.node.worker",))


# --- what a reader has before it is confined

UNASKED = {
    ("builder.images.layer", "concurrent.futures.ThreadPoolExecutor"): "no question makes a layer",
    ("builder.source.sniff", "magic"): "a name for people; where it cannot be loaded there is another",
}


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that are loaded before readers are forked, by name."""
    names, load = {"builder.attempt.reading"}, builtins.__import__

    def recorded(name: str, *rest: Any, **more: Any) -> Any:
        if rest and rest[0].get("__name__") == reading.__name__:
            names.update((name, *(f"{name}.{each}" for each in rest[2] or ())))
        return load(name, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", recorded)
        patch.setattr(importlib, "import_module", names.add)
        reading.load_all(pipelines.PIPELINES, images=True)
    return names


@pytest.mark.slow
def test_a_reader_has_what_functions_import_before_it_is_confined(asked_for: set[str]) -> None:
    whole = loaded(tuple(asked_for))
    assert {"builder.attempt.desk", "builder.source.zip", "builder.dockerfile.check"} <= whole
    late = {(module, name) for module in whole for name in imported_late(module)}
    assert {name for _, name in late} >= {"packaging.tags.cpython_tags", "builder.pipelines.go.planning"}

    has = asked_for | whole | {name for module in whole for name in named(file_of(module))}

    lacks = {(module, name) for module, name in late if not {name, name.rpartition(".")[0]} & has}
    assert lacks == set(UNASKED)


@pytest.mark.slow
def test_a_reader_has_the_codecs_of_what_it_reads(asked_for: set[str]) -> None:
    had = {codecs.lookup(name).name for name in (*reading.CODECS, "utf-8")}
    named, unknown = {encoding for _, encoding in tree._MARKS}, set[tuple[str, str]]()
    for module in loaded(tuple(asked_for)):
        for call in ast.walk(ast.parse(file_of(module).read_text())):
            if not isinstance(call, ast.Call):
                continue
            codes = isinstance(call.func, ast.Attribute) and call.func.attr in ("encode", "decode")
            keywords = [one.value for one in call.keywords if one.arg == "encoding"]
            for encoding in (*(call.args[:1] if codes else ()), *keywords):
                if isinstance(encoding, ast.Constant) and isinstance(encoding.value, str):
                    named.add(encoding.value)
                else:
                    unknown.add((module, ast.unparse(encoding)))
    assert {"cp437", "utf-16-le"} <= named
    assert {codecs.lookup(name).name for name in named} <= had
    assert unknown == {("builder.source.tree", "encoding")}  # of _MARKS


class Forked(Exception):
    pass


def forked(monkeypatch: pytest.MonkeyPatch, known: tuple[Pipeline, ...]) -> bool:
    """Whether a process that forks readers comes to its first; it has nothing of this one's to cut off."""
    seen = list[bool]()

    def fork(*_: object) -> None:
        seen.append(sys.dont_write_bytecode)
        raise Forked

    def gone(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for name in ("_cut_off", "rename"):
        monkeypatch.setattr(reading, name, lambda _: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(reading, "die_with", lambda *_: True)
    monkeypatch.setattr(reading, "_fork_next", fork)
    monkeypatch.setattr(reading, "_gone", gone)
    with pytest.raises(SystemExit):
        reading.serve(None, known, Catalog(rows=()), 1, images=False)  # type: ignore[arg-type]
    return seen == [True]


def test_a_reader_writes_no_bytecode_that_its_limits_would_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forked(monkeypatch, pipelines.PIPELINES)


def test_readers_are_forked_although_an_operators_pipeline_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(known: object) -> None:
        raise BuildError("InvalidRequest", "pipelines: theirs cannot be loaded", where="pipelines")

    monkeypatch.setattr(pipelines, "load_whole", refuses)
    assert forked(monkeypatch, pipelines.PIPELINES)
