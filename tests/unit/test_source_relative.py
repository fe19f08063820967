"""Paths of a source are compared as text: what the current folder is, and whether it is there, is of no account."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import pipelines
from builder.pipelines.base import PlanRequest
from builder.source.tree import DictTree, relative
from tests.unit.test_downloads import CATALOG

_paths = st.lists(st.sampled_from(["a", "b", "c", ".."]), min_size=1, max_size=5).map("/".join) | st.just(".")
_inside = _paths.filter(lambda path: not posixpath.normpath(path).startswith(".."))


@given(_inside, _inside)
def test_a_path_is_written_in_a_folder_as_the_library_would(path: str, folder: str) -> None:
    assert relative(path, folder) == posixpath.relpath(f"/{path}", f"/{folder}")


@pytest.mark.parametrize(
    "files",
    [
        {"go.mod": "module x\ngo 1.24\n", "cmd/a/main.go": "package main\nfunc main() {}\n"},
        {
            "Cargo.toml": '[package]\nname = "x"\nversion = "1.0.0"\nedition = "2021"\n',
            "src/main.rs": "fn main() {}\n",
        },
        {"pyproject.toml": '[project]\nname = "x"\nversion = "1"\n', "main.py": "print()\n"},
        {"deno.json": "{}", "main.ts": "console.log(1)\n"},
    ],
    ids=["go", "rust", "python", "deno"],
)
def test_a_source_is_planned_where_the_current_folder_is_gone(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    tree = DictTree(files)
    detection = pipelines.detect(tree)
    assert pipelines.plan(detection, tree, PlanRequest(), CATALOG).steps
