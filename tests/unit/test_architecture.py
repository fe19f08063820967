"""The documents are what the code is: modules and arrows, reasons, and one list of runtimes."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from builder import doc, indexes, pipelines
from builder.data import runtimes_dir
from builder.errors import EXIT_CODES, REASONS, ErrorClass
from builder.pipelines import PIPELINES, catalog

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
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
        ("| attempt, claims, errors, key, plan |", "| attempt, claims, errors, key |"),
        ("| errors, indexes, settings |", "| errors, indexes, settings, store |"),
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


def test_an_import_is_found_however_deep_it_stands() -> None:
    places = [
        "if 1:\n  {}", "if 1:\n  pass\nelse:\n  {}", "while 1:\n  {}", "for x in y:\n  pass\nelse:\n  {}",
        "with x:\n  {}",
        "try:\n  {}\nfinally:\n  pass", "try:\n  pass\nexcept E:\n  {}", "try:\n  pass\nexcept* E:\n  {}",
        "try:\n  pass\nexcept E:\n  pass\nelse:\n  {}", "try:\n  pass\nfinally:\n  {}", "match x:\n  case 1:\n    {}",
        "class A:\n  {}", "def f():\n  {}", "async def f():\n  async with x:\n    {}", "x = lambda: 1 if 2 else 3\n{}",
        "class A:\n  def f(self):\n    if 1:\n      {}",
    ]  # fmt: skip
    for place in places:
        tree = ast.parse(place.format("from builder.key import x; from builder import plan; import builder.text"))
        assert doc._imports(tree) == {"key", "plan", "text"}, place


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
    named = {  # as Celery's settings name what they load
        (path.relative_to(ROOT).parts[1], package)
        for path in (ROOT / "builder").rglob("*.py")
        for package in re.findall(r"[\"']builder\.(\w+)[\w.]*:\w", path.read_text())
    }
    assert {(owner, package) for owner, package in named if owner != package} == set()
    assert named, "the search finds what there is"


def test_the_contract_uses_nothing_of_ours() -> None:
    """Whatever part comes: the import contract lists those that there were."""
    assert doc.parts()["contract"][1] == ()


def test_every_module_that_a_page_names_exists() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    named = {path for page in pages for path in re.findall(r"`((?:builder|bench|tests)/[\w./]*\w)`", page.read_text())}
    assert len(named) > 50
    assert {path for path in named if not (ROOT / path).exists()} == set()


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


def test_nothing_imports_a_runtime_but_the_one_list() -> None:
    """A runtime is one package below `builder/pipelines/`; only its own modules and the list import it."""
    owned = {module.__name__ for module in PIPELINES if isinstance(module, ModuleType)}
    assert len(owned) == len(PIPELINES)
    importers = {
        (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"), imported)
        for path in (ROOT / "builder").rglob("*.py")
        if "pipelines" in path.read_text(encoding="utf-8")  # parsing all others takes most of the time
        for imported in imported_modules(path)
        if imported.startswith(tuple(owned))
    }
    own = {(importer, imported) for importer, imported in importers if importer.startswith(tuple(owned))}
    assert all(importer.split(".")[:3] == imported.split(".")[:3] for importer, imported in own)
    assert importers - own == {("builder.pipelines", name) for name in owned}


def test_a_runtime_is_one_package_one_line_one_folder_its_catalog_rows_and_an_example() -> None:
    """What the product holds of a runtime, counted: docs/adding-a-runtime.md lists the same places."""
    for module in PIPELINES:
        name = module.NAME
        assert isinstance(module, ModuleType)
        package = Path(str(module.__file__)).parent
        assert package == ROOT / "builder/pipelines" / name, "one package"
        lines = [
            line
            for line in (ROOT / "builder/pipelines/__init__.py").read_text().splitlines()
            if re.search(rf"\b{name}\b", line)
        ]
        assert [bool(re.match(r"from builder.pipelines import |PIPELINES: ", line)) for line in lines] == [True, True]
        assert (ROOT / "runtimes" / name / "toolchain.toml").is_file(), "one folder"
        rows = [row for row in catalog.read(runtimes_dir() / "catalog.toml").rows if row.toolchain.runtime == name]
        defaults = [row.toolchain.target for row in rows if row.is_default]
        assert sorted(defaults) == sorted({row.toolchain.target for row in rows}), "catalog rows, a default per target"
        runtimes_of = [
            json.loads(path.read_text())["detection"]["runtime"] for path in ROOT.glob("examples/*/plan.json")
        ]
        assert name in runtimes_of, "an example"
    folders = {path.parent.name for path in (ROOT / "runtimes").glob("*/toolchain.toml")}
    assert folders == {module.NAME for module in PIPELINES}


def test_the_runtime_that_takes_any_text_stands_last() -> None:
    """One behind it would get no single file without a name, and nobody would learn why."""
    text = b"a text of no runtime\n"
    assert [module.NAME for module in PIPELINES if module.looks_like(text)] == [PIPELINES[-1].NAME]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A module of the product, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that a file imports, `from package import module` included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


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


@pytest.mark.slow
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
        and "pipelines" not in path.parts
        and path.name != "doc.py"  # it reads our own files
        for text in strings_of(path)
        if text.strip() in whole or inside & set(re.split(r"[^\w.-]+", text))
    }
    assert found == set()


def strings_of(path: Path) -> Iterator[str]:
    """The string literals of a module, without its docstrings: those are for people and may give an example."""
    nodes = list(ast.walk(tree_of(path)))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_a_docstring_names_its_subject_first() -> None:
    """ "Of a message" is half a sentence, whose subject is the name of a constant above it."""
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {node.value.value[:60]}"
        for folder in ("builder", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"[\"']Of ", path.read_text(encoding="utf-8"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.startswith("Of ")
    }
    assert found == set()
