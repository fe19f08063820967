"""Detection, plans and diagnoses: pure functions over trees in memory and recorded tool output."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, go, python
from builder.pipelines.base import PlanRequest
from builder.plan import Network, Plan, Step
from builder.source.tree import DictTree
from tests.golden.update import examples, plan_text

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
MAIN = "package main\n\nfunc main() {}\n"


def planned(files: dict[str, str], **request: Any) -> Plan:
    tree = DictTree(files)
    wanted = PlanRequest(**request)
    return pipelines.plan(pipelines.detect(tree, wanted.runtime), tree, wanted, CATALOG)


@pytest.mark.parametrize("folder", examples(), ids=lambda path: path.name)
def test_the_plan_of_each_example_is_the_golden_one(folder: Path) -> None:
    assert (folder / "plan.json").read_text() == plan_text(folder)


def test_a_reader_has_every_module_of_the_pipelines_before_it_is_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[str] = set()
    monkeypatch.setattr(importlib, "import_module", loaded.add)
    pipelines.load_whole()
    folder = Path(pipelines.__file__).parent
    names = (path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py"))
    dotted = {".".join(parts).removesuffix(".__init__") for parts in names}
    assert loaded == {f"builder.pipelines.{name}" for name in dotted - {"__init__"}}


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Writes modules of an operator's, `theirs_…`, where Python finds them until the test ends."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in [name for name in sys.modules if name.startswith("theirs_")]:
        del sys.modules[name]


MODULE = "from builder.pipelines.python import *\n"


def test_an_operators_pipeline_is_loaded_whole_but_for_what_is_a_program(
    theirs: Callable[[dict[str, str]], None],
) -> None:
    files = {
        "theirs_one/__init__.py": MODULE,
        "theirs_one/planning.py": "",
        "theirs_one/deep/__init__.py": "",
        "theirs_one/deep/lock.py": "",
        "theirs_one/__main__.py": "raise SystemExit(1)",
        "theirs_plain.py": MODULE,
    }
    theirs(files)
    known = pipelines.load(("theirs_one", "theirs_plain"))
    assert "theirs_one.planning" not in sys.modules
    pipelines.load_whole(known)
    assert {"theirs_one.planning", "theirs_one.deep.lock"} <= set(sys.modules)


@pytest.mark.parametrize("text", ["import theirs_nowhere", "def (", "raise RuntimeError('theirs_nowhere')"])
def test_an_operators_module_that_cannot_be_loaded_is_the_settings_fault(
    theirs: Callable[[dict[str, str]], None], text: str
) -> None:
    files = {
        "theirs_two/__init__.py": MODULE,
        "theirs_two/planning.py": text,
        "theirs_three/__init__.py": MODULE,
        "theirs_three/planning.py": "",
        "theirs_four.py": text,
    }
    theirs(files)
    known = pipelines.load(("theirs_two", "theirs_three"))
    with pytest.raises(BuildError, match=r"^InvalidRequest: pipelines: theirs_two cannot be loaded: ") as whole:
        pipelines.load_whole(known)
    assert "theirs_three.planning" in sys.modules
    with pytest.raises(BuildError, match=r"^InvalidRequest: pipelines: theirs_four cannot be loaded: ") as one:
        pipelines.load(("theirs_four",))
    assert {(each.value.reason, each.value.where) for each in (whole, one)} == {("InvalidRequest", "pipelines")}


def test_no_golden_plan_is_an_orphan() -> None:
    kept = {path.parent for path in Path(__file__).parents[2].glob("examples/*/plan.json")}
    assert kept == set(examples())
    assert len(kept) >= 6


@pytest.mark.parametrize(
    ("runtime", "version"),
    [("python", "3.11"), ("python", "3.12"), ("rust", "1.82"), ("rust", "1.93"), ("go", "1.24"), ("go", "1.26"),
     ("deno", "2.0"), ("deno", "2.7")],
)  # fmt: skip
def test_the_catalog_has_the_versions_of_the_specification(runtime: str, version: str) -> None:
    assert CATALOG.find(runtime, version).version == version


def test_an_unknown_version_lists_what_there_is() -> None:
    with pytest.raises(
        BuildError, match=r"go 1\.19 is not in the catalog; it has 1\.24, 1\.25, 1\.26, 1\.27"
    ) as caught:
        CATALOG.find("go", "1.19")
    assert caught.value.reason == "UnknownRuntimeVersion"


@pytest.mark.parametrize(
    ("files", "reason", "where"),
    [
        ({"README.md": ""}, "EntryPointMissing", ""),
        ({"go.mod": "module x\n\ngo 1.26\n", "lib.go": "package lib\n"}, "EntryPointMissing", "lib.go:1"),
        ({"go.mod": "module x\n\ngo 1.99\n", "main.go": MAIN}, "UnknownRuntimeVersion", "go.mod:3"),
        ({"main.go": 'package main\n\nimport "C"\n'}, "CgoRefused", "main.go:3"),
        ({"requirements.txt": "idna\n"}, "EntryPointMissing", ""),
        ({"handler.py": "", "requirements.txt": "idna\n-e .\n"}, "ManifestInvalid", "requirements.txt:2"),
        (
            {"handler.py": "", "requirements.txt": "git+https://example.com/x\n"},
            "ManifestInvalid",
            "requirements.txt:1",
        ),
        ({"handler.py": "", "requirements.txt": "--index-url https://x\n"}, "ManifestInvalid", "requirements.txt:1"),
    ],
)
def test_what_cannot_be_planned_says_where(files: dict[str, str], reason: str, where: str) -> None:
    with pytest.raises(BuildError) as caught:
        planned(files)
    assert (caught.value.reason, caught.value.where) == (reason, where)


def test_the_wrong_runtime_is_named() -> None:
    with pytest.raises(BuildError, match="it looks like go"):
        planned({"main.go": MAIN}, runtime="python")


def test_only_fetching_steps_have_the_network() -> None:
    module = "module x\n\ngo 1.24\n\nrequire example.com/y v1.0.0\n"
    made = planned({"go.mod": module, "go.sum": "", "main.go": MAIN})
    assert [(step.name, step.network) for step in made.steps] == [
        ("download modules", Network.INDEX),
        ("look for cgo", Network.NONE),
        ("compile", Network.NONE),
    ]
    made = planned({"handler.py": "", "requirements.txt": "idna==3.10\n# comment\n\nnumpy\n"})
    assert [(step.name, step.network) for step in made.steps] == [
        ("resolve dependencies", Network.INDEX),
        ("download wheels", Network.INDEX),
        ("build sdists", Network.NONE),
        ("install dependencies", Network.NONE),
        ("compile", Network.NONE),
    ]


def test_a_vendored_module_needs_no_network() -> None:
    files = {"go.mod": "module x\n\ngo 1.26\n", "main.go": MAIN, "vendor/modules.txt": "# example.com/y v1.0.0\n"}
    made = planned(files)
    assert [step.name for step in made.steps] == ["look for cgo", "compile"]
    assert all("-mod=vendor" in step.argv for step in made.steps)


def test_the_sdk_is_resolved_in_the_working_copy_only() -> None:
    source = 'package main\n\nimport "ignite"\n\nfunc main() { ignite.Start(nil) }\n'
    made = planned({"go.mod": "module x\n\ngo 1.26\n", "main.go": source})
    [file] = made.files
    assert "require ignite v0.0.0" in file.content
    assert "replace ignite => /opt/ignite/sdk/go" in file.content
    own = "module x\n\ngo 1.26\n\nrequire ignite v0.0.0\n\nreplace ignite => ./mine\n"
    assert (
        planned(
            {"go.mod": own, "main.go": source, "mine/go.mod": "module ignite", "mine/ignite.go": "package ignite"}
        ).files
        == ()
    )


STEP = Step(name="compile", argv=("go",))
FETCH = Step(name="install dependencies", argv=("uv",))


def test_a_go_error_names_file_and_line() -> None:
    lines = ["# app", "./main.go:11:6: declared and not used: total", "./main.go:15:14: undefined: totl"]
    found = go.diagnose(STEP, 1, lines)
    assert (found.reason, found.where) == ("CompileFailed", "main.go:11:6  (first of 2)")
    assert found.said == tuple(lines[1:])


def test_a_missing_go_package_is_a_missing_dependency() -> None:
    line = "main.go:3:8: no required module provides package example.com/nope; to add it:"
    assert go.diagnose(STEP, 1, [line]).reason == "DependencyNotFound"


def test_a_stale_go_sum_is_an_outdated_lock() -> None:
    line = "main.go:4:2: missing go.sum entry for module providing package example.com/y (imported by x); to add:"
    assert go.diagnose(STEP, 1, [line]).reason == "LockOutdated"


def test_uv_that_finds_no_package_is_a_missing_dependency() -> None:
    lines = [
        "Using CPython 3.11.2 interpreter at: /usr/bin/python3.11",
        "error: No solution found when resolving dependencies",
        "  cause: Because numpyy was not found in the package registry and you require",
        "      numpyy==1.2, we can conclude that your requirements are unsatisfiable.",
    ]
    found = python.diagnose(FETCH, 1, lines)
    assert found.reason == "DependencyNotFound"
    assert "numpyy" in found.message
    assert found.said[0].startswith("error:")


def test_an_index_that_does_not_answer_is_ours() -> None:
    lines = [
        "error: Failed to fetch: `https://index/simple/x/`",
        "  cause: tcp connect error: Connection refused (os error 111)",
    ]
    assert python.diagnose(FETCH, 2, lines).reason == "PackageIndexUnavailable"
    assert go.diagnose(
        Step(name="download modules", argv=("go",)), 1, ["dial tcp 127.0.0.1:9: connect: connection refused"]
    ).reason == ("PackageIndexUnavailable")


def test_unknown_output_keeps_the_tools_words() -> None:
    found = python.diagnose(STEP, 3, ["what is this"])
    assert (found.reason, found.said) == ("StepFailed", ("what is this",))


def test_an_app_stays_on_its_version_when_the_default_moves_until_it_asks() -> None:
    def chosen(files: dict[str, str], **request: Any) -> tuple[str, str]:
        plan = planned(files, **request)
        (why,) = (one.why for one in plan.choices if one.name == "version")
        return plan.toolchain.version, why

    last = {"go": "1.24", "python": "3.13"}
    go_kept = ("1.24", "as its last success has it; the default is 1.26 by now")
    assert chosen({"main.go": MAIN}) == ("1.26", "the catalog's default")
    assert chosen({"main.go": MAIN}, default_versions=last) == go_kept
    assert chosen({"main.go": MAIN}, default_versions=last, version="1.27") == ("1.27", "asked for")
    assert chosen({"main.go": MAIN, "go.mod": "module x\n\ngo 1.25\n"}, default_versions=last)[0] == "1.26"
    assert chosen({"main.go": MAIN}, default_versions={"go": "1.26"})[1] == "the catalog's default"
    assert chosen({"main.go": MAIN}, default_versions={"go": "1.9"})[0] == "1.26", "the catalog has it no more"
    assert chosen({"main.py": "import x"}, default_versions=last)[0] == "3.13"
    pinned = {"main.py": "import x", ".python-version": "3.11"}
    assert chosen(pinned, default_versions=last)[0] == "3.11"


def test_a_version_past_its_end_of_life_is_a_warning_from_that_day_on() -> None:
    def warned(today: str, version: str = "1.24") -> list[str]:
        plan = planned({"main.go": MAIN}, version=version, today=today)
        return [each for each in plan.warnings if "end of life" in each]

    assert warned("2026-02-10") == [] and warned("") == []
    text = "go 1.24 is past its end of life (2026-02-10): nobody mends it any more; 1.26 is the default"
    assert warned("2026-02-11") == [text]
    assert warned("2027-02-28", "1.26") == [], "a month ends with its last day"
    assert warned("2027-03-01", "1.26") == ["go 1.26 is past its end of life (2027-02): nobody mends it any more"]
