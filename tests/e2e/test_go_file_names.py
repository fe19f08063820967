"""The plan's rule for names of Go files against `go list`, which decides what a build takes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from builder.pipelines.go.source import is_built, read_head
from builder.toolchains.host import find_program
from tests.go_file_names import BY_NAME

pytestmark = pytest.mark.e2e
TESTS = ("a_test.go", "a_windows_test.go", "a_linux_test.go", "a_windows_helper_test.go", "a_arm64_linux_test.go")


def test_go_takes_the_files_that_the_plan_takes(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.com/app\n\ngo 1.20\n")
    for name in (*BY_NAME, *TESTS):
        (tmp_path / name).write_text("package app\n")
    go = find_program("go")
    assert go
    env = os.environ | {"GOOS": "linux", "GOARCH": "amd64", "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    env |= {"GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "on", "GOWORK": "off"}
    done = subprocess.run([go, "list", "-json", "."], cwd=tmp_path, env=env, capture_output=True, check=True)
    listed = json.loads(done.stdout)
    taken = {*listed["GoFiles"], *listed["TestGoFiles"]}
    ours = {name for name in (*BY_NAME, *TESTS) if is_built(read_head(name, "package app\n"))}
    assert ours == taken
    assert {name for name, built in BY_NAME.items() if built} == set(listed["GoFiles"])
