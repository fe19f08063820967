"""The documents are what the code is: modules and arrows, reasons, and one list of runtimes."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import doc, indexes, pipelines
from builder.data import runtimes_dir
from builder.errors import EXIT_CODES, REASONS, ErrorClass
from builder.pipelines import PIPELINES, catalog

ROOT = Path(__file__).parents[2]


def test_the_generated_pages_are_current() -> None:
    for path, text in doc.pages().items():
        assert path.read_text() == text, f"{path.name} is stale; run: make generate"


def arrows(page: str) -> dict[str, str]:
    """Each module of the page's table and what its row says it imports."""
    return dict(re.findall(r"^\| `(\w+)` \| .+ \| (.*) \|$", page, re.MULTILINE))


def test_every_module_and_arrow_is_in_the_table() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert arrows(page) == {name: ", ".join(used) for name, (said, used) in doc.parts().items()}
    assert all(said for said, _ in doc.parts().values())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("| attempt, claims, errors, key, pipelines, plan |", "| attempt, claims, errors, key, pipelines |"),
        ("| config, contract |", "| config, contract, store |"),
        ("| `build` |", "| `bild` |"),
    ],
    ids=["an arrow is missing", "an arrow too many", "another module"],
)
def test_a_page_that_is_not_the_code_is_noticed_and_written_again(right: str, wrong: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert page.count(right) == 1
    mutated = page.replace(right, wrong)
    assert arrows(mutated) != {name: ", ".join(used) for name, (said, used) in doc.parts().items()}
    assert doc.architecture_page(mutated) == page


def test_no_circle_between_packages() -> None:
    arrows_of = {name: set(used) for name, (_, used) in doc.parts().items()}
    while leaves := {name for name, used in arrows_of.items() if not used}:
        arrows_of = {name: used - leaves for name, used in arrows_of.items() if name not in leaves}
    assert arrows_of == {}


def test_no_import_hides_in_a_string() -> None:
    """The table of arrows and the import contracts read import statements; only the list of pipelines is a setting."""
    hidden = re.compile(r"import_module|__import__")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "builder").rglob("*.py")
        if hidden.search(path.read_text())
    }
    assert {path for path in found if not path.startswith("builder/pipelines/")} == set()


def test_reasons_are_whole() -> None:
    for name, reason in REASONS.items():
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name)
        assert reason.hint
        assert reason.exit_code == (130 if name == "Cancelled" else EXIT_CODES[reason.error_class])
        assert not (reason.retried and reason.error_class is not ErrorClass.PLATFORM)


def test_only_the_settings_module_reads_the_environment() -> None:
    readers = {
        path.relative_to(ROOT / "builder").as_posix()
        for path in (ROOT / "builder").rglob("*.py")
        if re.search(r"os\.(environ|getenv)", path.read_text())
    }
    # The entry point hands the mapping over and reads no name from it.
    assert readers == {"config.py", "cli/__init__.py"}


def test_the_import_contract_names_every_module_of_every_runtime() -> None:
    """Beside the one list nothing may import a pipeline; the contract would hold trivially for one it does not name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(one for one in contracts if "the one list" in one["name"])
    mine = {module.__name__ for module in PIPELINES}
    shared = {f"builder.pipelines.{name}" for name in ("base", "catalog", "limits", "output")}
    files = {f"builder.pipelines.{path.stem}" for path in (ROOT / "builder/pipelines").glob("[a-z]*.py")}
    assert mine <= set(contract["forbidden_modules"]) == files - shared
    assert set(contract["ignore_imports"]) == {f"builder.pipelines -> {name}" for name in mine}
    assert contract["source_modules"] == ["builder.*"]


def test_no_part_but_the_pipelines_names_a_path_of_one_runtime() -> None:
    folders = "|".join(module.NAME for module in PIPELINES)
    named = re.compile(rf"/opt/ignite/(?:toolchain|sdk)/(?:{folders}|uv)")
    found = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "builder").rglob("*.py") if named.search(path.read_text())
    }
    assert {path for path in found if not path.startswith("builder/pipelines/")} == set()


def test_links_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target.replace("\\", "")).exists(), target


def test_no_other_module_names_a_runtime() -> None:
    """Names, extensions, file names, index variables, hosts and targets are facts of a runtime's module and folder."""
    rows = catalog.read(runtimes_dir() / "catalog.toml").toolchains()
    whole = set(pipelines.names())
    whole |= {row.runtime for row in rows} | {row.target for row in rows if row.target}
    inside = {*pipelines.extensions(), *indexes.claimed(), *(module.single_file_name(b"") for module in PIPELINES)}
    inside |= {host.host for one in indexes.shipped().values() for host in one.hosts}
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {text}"
        for path in (ROOT / "builder").rglob("*.py")
        if "dodil" not in path.parts
        and path.parent.name != "pipelines"
        and path.name != "doc.py"  # it reads our own files
        for text in strings_of(path)
        if text.strip() in whole or inside & set(re.split(r"[^\w.-]+", text))
    }
    assert found == set()


def strings_of(path: Path) -> Iterator[str]:
    """The string literals of a module, without its docstrings: those are for people and may give an example."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
