"""Every small input that people had trouble with names the tests that hold its right result, and these are there."""

from __future__ import annotations

import ast
import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES: list[dict[str, Any]] = tomllib.loads((ROOT / "tests/data/cases.toml").read_text(encoding="utf-8"))["case"]
COUNT = 63
"""The cases of Go, Python and packing. One is added and never taken out."""


@functools.cache
def names_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_case_names_tests_that_are_there(case: dict[str, Any]) -> None:
    assert case["right"] and case["tests"]
    for test in case["tests"]:
        path, _, name = test.partition("::")
        assert name.startswith("test_") and name in names_of(path), test


def test_every_case_is_here_once() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES) >= COUNT
