"""git is the judge of what a `.gitignore` leaves out: random rule files over random trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.cli.folder import find

pytestmark = pytest.mark.e2e

NAMES = ["a", "b", "ab", "x.py", "a.b", "ax", "a*", "c d", "é", "[a]", "!a", "#a"]
PARTS = [
    "a", "b", "ab", "x.py", "a.b", "*", "a*", "*b", "*.py", "?", "??", "**", "a**", "**b", "[ab]", "[!a]", "[^a]x",
    "[a-c]x", "[]a]", "[a", "[[:alpha:]]", "[[:x:]]", "a\\*", "\\a", "\\!a", "\\#a", "é", "c d", "c\\ d ", "\\[a]",
]  # fmt: skip


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A line of a `.gitignore`."""
    text = "/".join(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)))
    before = draw(st.sampled_from(["", "", "", "/", "!", "!/", "**/"]))
    return before + text + draw(st.sampled_from(["", "", "", "/", "/**", "/*", " ", "\t", "\r"]))


files = st.lists(lines(), min_size=1, max_size=4).map(lambda rows: "\n".join(["# a comment", *rows, ""]))
trees = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join), st.just(""), min_size=3, max_size=12
)


def write(root: Path, contents: dict[str, str]) -> None:
    """Files; one whose folder is a file already is left away."""
    for name, text in contents.items():
        path = root / name
        if not any(parent.is_file() for parent in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, newline="")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(tree=trees, root_file=files, nested=st.dictionaries(st.sampled_from(["a", "b", "a/b"]), files, max_size=2))
def test_git_is_the_judge_of_gitignore(
    tree: dict[str, str], root_file: str, nested: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    write(root, tree | {f"{folder}/.gitignore": text for folder, text in nested.items()} | {".gitignore": root_file})
    clean = {"HOME": str(root), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", root], check=True, env=clean)
    paths = [
        path.relative_to(root).as_posix() for path in root.rglob("*") if ".git" not in path.parts and path.is_file()
    ]
    judged = subprocess.run(
        ["git", "-C", root, "check-ignore", "-z", "--stdin"], input="\0".join(paths), capture_output=True, text=True,
        env=clean, check=False,
    )  # fmt: skip
    assert judged.stderr == ""
    ignored = set(judged.stdout.split("\0")) - {""}
    assert {entry.path for entry in find(root).files} == set(paths) - ignored, (root_file, nested)
