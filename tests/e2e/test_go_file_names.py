"""The plan's rules for names and constraints of Go files against `go list`, which decides what a build takes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.source import is_built, read_head
from builder.toolchains.host import find_program
from tests.go_file_names import BY_NAME
from tests.go_file_shapes import SHAPES

pytestmark = pytest.mark.e2e
TESTS = ("a_test.go", "a_windows_test.go", "a_linux_test.go", "a_windows_helper_test.go", "a_arm64_linux_test.go")


def go_list(folder: Path, files: Mapping[str, str], *more: str) -> tuple[dict[str, Any], frozenset[str]]:
    """What `go list` finds in a folder with these files, and the tags of its version."""
    (folder / "go.mod").write_text("module example.com/app\n\ngo 1.20\n")
    for name, text in files.items():
        (folder / name).write_text(text, newline="")
    go = find_program("go")
    assert go
    env = os.environ | {"GOOS": "linux", "GOARCH": "amd64", "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    env |= {"GOCACHE": str(folder / "cache"), "GO111MODULE": "on", "GOWORK": "off"}
    done = subprocess.run([go, "list", "-e", "-json", *more, "."], cwd=folder, env=env, capture_output=True, check=True)
    version = subprocess.run([go, "env", "GOVERSION"], env=env, capture_output=True, check=True, text=True).stdout
    return json.loads(done.stdout), tags_of(version.removeprefix("go"))


def test_go_takes_the_files_that_the_plan_takes(tmp_path: Path) -> None:
    listed, tags = go_list(tmp_path, dict.fromkeys((*BY_NAME, *TESTS), "package app\n"))
    taken = {*listed["GoFiles"], *listed["TestGoFiles"]}
    ours = {name for name in (*BY_NAME, *TESTS) if is_built(read_head(name, "package app\n"), tags)}
    assert ours == taken
    assert {name for name, built in BY_NAME.items() if built} == set(listed["GoFiles"])


@pytest.mark.parametrize("more", [(), ("integration", "windows", "go1.99")], ids=["no tags", "tags"])
def test_go_reads_constraints_as_the_plan_does(tmp_path: Path, more: tuple[str, ...]) -> None:
    listed, tags = go_list(tmp_path, SHAPES, *((f"-tags={','.join(more)}",) if more else ()))
    heads = {name: read_head(name, text) for name, text in SHAPES.items()}
    assert len(heads) >= 100
    refused = {name for name, head in heads.items() if head.constraint.fault}
    assert refused == set(listed["InvalidGoFiles"])
    assert {name for name, head in heads.items() if is_built(head, tags | set(more))} == set(listed["GoFiles"])
