"""What the program imports is declared: another version of some dependency may not bring it any more."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LATER = {"compression"}  # of the standard library, from Python 3.14 on
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def imported() -> dict[str, set[str]]:
    """top-level module of others → the files that import it, from the project's root on."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "builder").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | LATER | {"builder"}}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: Iterable[str]) -> set[str]:
    return {normal(found[0]) for each in requirements if (found := re.match(r"[A-Za-z0-9._-]+", each))}


@pytest.mark.parametrize("module", sorted(imported()))
def test_an_import_belongs_to_a_declared_distribution(module: str) -> None:
    project, extras = PROJECT["project"], PROJECT["project"]["optional-dependencies"]
    declared = named(project["dependencies"]).union(*map(named, extras.values()))
    if imported()[module] == {"builder/contract/generate.py"}:  # which no user runs
        declared |= named(PROJECT["dependency-groups"]["dev"])
    assert declared & {normal(name) for name in packages_distributions()[module]}, imported()[module]


def test_what_is_looked_for_is_found() -> None:
    assert {"h11", "anyio", "kombu", "billiard", "httpx"} <= set(imported())
