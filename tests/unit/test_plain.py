"""Plans, diagnoses and errors as JSON and back; what is none of them is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from builder import pipelines
from builder.attempt.desk import PlanAnswer
from builder.attempt.plain import Failed, failed, from_plain, to_json
from builder.attempt.reading import ReaderStart
from builder.data import runtimes_dir
from builder.errors import BuildError, ErrorClass, PlatformError
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.plan import Diagnosis, Step
from builder.source.tree import DictTree

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")


def through(shape: Any, value: object) -> Any:
    return from_plain(shape, json.loads(to_json(value)))


@pytest.mark.parametrize(
    ("runtime", "files"),
    [
        ("go", {"go.mod": "module x\n\ngo 1.24\n", "main.go": 'package main\nimport "ignite"\nfunc main() {}\n'}),
        ("python", {"handler.py": "", "requirements.txt": "six==1.17.0\n"}),
    ],
)
def test_a_plan_comes_back_as_it_was(runtime: str, files: dict[str, str]) -> None:
    tree = DictTree(files)
    plan = pipelines.plan(pipelines.detect(tree, runtime), tree, PlanRequest(), CATALOG)
    planned = PlanAnswer(plan=plan, materials=(("go.mod", "sha256:0"),))
    assert through(PlanAnswer, planned) == planned


def test_requests_and_diagnoses_come_back_as_they_were() -> None:
    request = PlanRequest(runtime="go", build_args={"a": "\ud800"}, single_file=True)
    assert through(PlanRequest, request) == request
    found = Diagnosis(reason="CompileFailed", message="m", said=("a", "b\x1b"))
    assert through(Diagnosis, found) == found
    assert [
        through(ReaderStart, one) for one in (ReaderStart(who=(1, 2), memory=3), ReaderStart(who=None, memory=3))
    ] == [
        ReaderStart(who=(1, 2), memory=3),
        ReaderStart(who=None, memory=3),
    ]


def test_errors_come_back_as_they_were() -> None:
    user = BuildError("CompileFailed", "m", where="w", said=("s",), next="n", exit_code=1, limit=2, peak=3)
    ours = PlatformError("NodeDiskFull", "full", retry_after_ms=5, where="w", said=("s",))
    clients = BuildError("ManifestInvalid", "m", error_class=ErrorClass.CLIENT)
    for error in (user, ours, clients):
        back = through(Failed, failed(error)).error()
        assert type(back) is type(error)
        assert vars(back) == vars(error)


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (Diagnosis, []),
        (Diagnosis, {"reason": "x"}),
        (Diagnosis, {"reason": 1, "message": "", "where": "", "said": [], "next": ""}),
        (Diagnosis, {"reason": "", "message": "", "where": "", "said": "ab", "next": ""}),
        (Diagnosis, {"reason": "", "message": "", "where": "", "said": [], "next": "", "more": ""}),
        (Step, {**dataclasses.asdict(Step(name="a", argv=())), "argv": [], "caches": [], "env": [], "network": "all"}),
        (Step, {**dataclasses.asdict(Step(name="a", argv=())), "argv": [], "caches": [], "env": [["a"]]}),
        (tuple[tuple[str, str], ...], [["a", "b", "c"]]),
        (tuple[tuple[str, str], ...], {"a": "b"}),
    ],
)
def test_what_is_something_else_is_refused(shape: Any, value: object) -> None:
    with pytest.raises(ValueError):
        from_plain(shape, value)


def test_an_error_of_no_reason_is_refused() -> None:
    value = json.loads(to_json(failed(BuildError("Internal", "m")))) | {"reason": "Invented"}
    with pytest.raises(ValueError, match="no reason"):
        from_plain(Failed, value).error()
