"""Tools, manifests and variables of a runtime are named by its pipeline alone, also within a longer text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import builder
from builder import pipelines
from builder.pipelines.base import Linked, Manifested
from tests.unit.test_architecture import strings_of

FACT = re.compile(
    r"(?<![A-Za-z])(?:cgo|golang|cargo|rustc|deno|jsr|pip|uv|npm|pypi|wasm32|package main|crt-static|buildmode"
    r"|(?:CGO|CARGO|DENO|NPM|PIP|PYTHON|RUST|UV)_?[A-Z]\w*|GO(?:ARCH|FLAGS|MOD|OS|PROXY|TOOLCHAIN|WORK)"
    r"|[\w-]+\.(?:mod|sum|lock|toml|cfg))(?![A-Za-z])|\b(?:Cargo|Deno|Rust)\b"
)
OURS = re.compile(r"\b(?:base|recipe|toolchain|toolchain-image|catalog)\.toml\b")
"""Files of our own."""
NOT_OF_A_RUNTIME = {
    "attempt/dirhash.py": "an algorithm of digests, which `WantedFile` names",
    "bases/bytecode.py": "what a base image compiles, as its recipe says",
    "buildpacks/manifest.py": "files of the lifecycle of buildpacks",
    "buildpacks/project.py": "the file by which a source speaks to buildpacks",
    "cli/ignore.py": "what tools leave in a folder, of runtimes that we have and of others",
    "config.py": "where a machine says whom it trusts",
    "contract/generate.py": "a tool of ours, for developers",
    "dockerfile/check.py": "the names of Docker's official images",
    "engine/api.py": "how our own package is installed",
    "errors.py": "a reason of the wire, whose step stands beside those of all others",
    "kube/fetcher.py": "how a program of ours is compiled",
    "kube/api.py": "how our own package is installed",
    "local/doctor.py": "our own lock",
    "toolchains/packages.py": "the format of the registry that toolchain.toml names",
    "toolchains/wheel.py": "the tool by which a node fetches a wheel of its own",
}
"""Where a text names one, and whose fact it is."""


@pytest.mark.slow
def test_a_fact_of_a_runtime_is_in_its_pipeline() -> None:
    folder = Path(builder.__file__).parent
    found = {
        path.relative_to(folder).as_posix(): text[:80]
        for path in folder.rglob("*.py")
        if not {"dodil", "pipelines"} & set(path.parts) and path.name != "doc.py"
        if FACT.search(path.read_text(encoding="utf-8"))
        for text in strings_of(path)
        if FACT.search(OURS.sub("", text))
    }
    assert {name: text for name, text in found.items() if name not in NOT_OF_A_RUNTIME} == {}
    assert set(NOT_OF_A_RUNTIME) <= set(found), "no row that nothing needs"


def test_who_links_programs_says_what_to_change_and_who_has_manifests_names_them() -> None:
    linked = {one.NAME for one in pipelines.PIPELINES if isinstance(one, Linked)}
    manifested = {one.NAME for one in pipelines.PIPELINES if isinstance(one, Manifested)}
    assert (linked, manifested) == ({"go", "rust"}, {"go", "python"})
