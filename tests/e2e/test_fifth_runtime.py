"""A fifth runtime from docs/adding-a-runtime.md alone: a patch, applied to a copy of the tree, builds and is called.

The patch is tests/fifth_runtime/perl.patch. What it touches is what the page names, and nothing else.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import uids
from tests.build_fixtures import CALLER
from tests.program_fixtures import Program, Ran, ended

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PATCH = ROOT / "tests/fifth_runtime/perl.patch"
RULES = "tests/unit/test_architecture.py"
COUNTED = tuple(f"tests/unit/test_{name}.py" for name in ("demo", "embedded", "intake", "mistakes"))
"""Tests over all runtimes that there are, beside those of one part."""
COPIED = ("builder", "docs", "examples", "runtimes", "tests")
ALONE = ("README.md", "pyproject.toml")
MAIN = "from builder.cli import run; raise SystemExit(run())"
EXAMPLE = "examples/perl-hello"
LINES = {
    "builder/pipelines/__init__.py": (2, 2),
    "runtimes/catalog.toml": (9, 0),
    "examples/demo.py": (1, 0),
}
"""The files that were there, and how many lines of each come and go: the list, the rows, the example's line."""
NEW = ("builder/pipelines/perl/", "runtimes/perl/", f"{EXAMPLE}/")
GENERATED = {"docs/runtimes.md", f"{EXAMPLE}/plan.json"}


@dataclass(frozen=True)
class Patched:
    """A copy of the tree with the patch, and what `ignite-builder` of that copy does."""

    tree: Path
    before: Mapping[str, str]
    program: Program

    def run(self, *argv: str) -> Ran:
        return self.program.run("-c", MAIN, *argv)

    def python(self, *argv: str) -> None:
        """A program of the copy, which must end well."""
        done = subprocess.run(
            [sys.executable, *argv],
            cwd=self.tree,
            env=self.program.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def digests(tree: Path) -> dict[str, str]:
    """Path → digest of each file of a copy."""
    return {
        path.relative_to(tree).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def patched(kept: Path) -> Iterator[Patched]:
    with tempfile.TemporaryDirectory(prefix="ignite-builder-fifth-", dir="/var/tmp") as name:
        folder = Path(name)
        tree, home, node = folder / "tree", folder / "home", folder / "node"
        for each in (folder, tree, home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        (node / "bases").symlink_to(kept / "bases")
        for path in COPIED:
            shutil.copytree(ROOT / path, tree / path, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for path in ALONE:
            shutil.copyfile(ROOT / path, tree / path)
        before = digests(tree)
        subprocess.run(["git", "apply", str(PATCH)], cwd=tree, check=True)
        settings = {"node_dir": str(node), "build_uid": str(uids.LOCAL), "slots": "1"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tree))
            patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
            made = Patched(tree, before, Program(home, settings, executable=sys.executable, cwd=tree))
            made.python("-m", "builder.doc")
            made.python("-m", "tests.golden.update")
            ran = made.run("bases", "build", "perl-5.36")
            assert ran.code == 0, ran.err
            yield made


def test_the_patch_touches_what_the_page_names_and_nothing_else(patched: Patched) -> None:
    after = digests(patched.tree)
    touched = {path for path in {*patched.before, *after} if patched.before.get(path) != after.get(path)}
    new = {path for path in touched if path.startswith(NEW)}
    assert touched - new == {*LINES, "docs/runtimes.md"}
    assert {path for path in new if path.startswith("builder/")} == {"builder/pipelines/perl/__init__.py"}, "one module"
    by_hand = set(re.findall(r"^\+\+\+ b/(\S+)", PATCH.read_text(), re.M))
    assert touched - by_hand == GENERATED
    page = (ROOT / "docs/adding-a-runtime.md").read_text()
    named = (
        "builder/pipelines/<name>/",
        "runtimes/<name>/",
        "examples/<name>-",
        "docs/runtimes.md",
        "plan.json",
        *LINES,
    )
    assert [one for one in named if one not in page] == []


def test_the_list_the_catalog_and_the_demo_get_a_line_or_a_row(patched: Patched) -> None:
    parts = re.split(r"^diff --git a/(\S+) b/\S+\n", PATCH.read_text(), flags=re.M)[1:]
    counts = {
        path: tuple(len(re.findall(rf"^{sign}(?!{sign})", text, re.M)) for sign in (r"\+", "-"))
        for path, text in zip(parts[::2], parts[1::2], strict=True)
    }
    assert {path: counts[path] for path in LINES} == LINES


def test_the_copy_is_as_whole_as_the_tree(patched: Patched) -> None:
    """The rules of the architecture, counted over five runtimes."""
    patched.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "runtime or pages", RULES)
    patched.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *COUNTED)


def test_a_text_without_a_name_is_of_it(patched: Patched) -> None:
    planned = patched.program.run("-c", MAIN, "plan", "-", stdin=(patched.tree / EXAMPLE / "handler.pl").read_bytes())
    assert planned.code == 0 and "handler.pl on Perl" in planned.out, planned.err


def test_its_example_is_built_called_and_reports_its_version(patched: Patched) -> None:
    built = patched.run("build", EXAMPLE, "--json")
    assert built.code == 0, built.err
    expect = tomllib.loads((patched.tree / EXAMPLE / "expect.toml").read_text())
    caller = CALLER | {"x-ignite-execution-id": "demo-1"}
    with patched.program.started("-c", MAIN, "run", built.record.build_id[:8]) as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().decode().strip()
        assert url, process.stderr.read().decode()
        answer = httpx.post(url + "/", content=expect["send"], headers=caller, timeout=120, trust_env=False)
        assert (answer.status_code, answer.text) == (200, expect["answer"])
        assert httpx.get(url + "/healthz", timeout=120, trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sub handler {\n  return 1 +;\n}\n1;\n", ("CompileFailed", "handler.pl:2")),
        ("use Nowhere::Made;\nsub handler { 1 }\n1;\n", ("DependencyNotFound", "handler.pl:1", "Nowhere::Made")),
        ("sub handle { 1 }\n1;\n", ("EntryPointMissing", "handler.pl")),
    ],
    ids=["syntax", "module", "no handler"],
)
def test_its_mistakes_have_reason_and_line(patched: Patched, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "handler.pl").write_text(text)
    failed = patched.run("build", str(tmp_path))
    assert failed.code == 1 and all(word in failed.err for word in words), failed.err
