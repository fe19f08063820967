"""Output that the node stored: what is the same in every part answers, whole, and for a step that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from builder import pipelines
from builder.attempt import memo
from builder.attempt.planned import Bound
from builder.attempt.steps import TAIL_LINES
from builder.pipelines.base import PlanRequest
from builder.pipelines.go.diagnosis import LOOK_STEP
from builder.plan import Access, Cache, Network, Sees, Step
from builder.source.tree import DictTree
from tests.attempt_fixtures import attempt_at
from tests.unit.test_downloads import CATALOG, plans


def bound_to(digest: str) -> Bound:
    """A plan that was bound to a toolchain of this digest; nothing else of it counts here."""
    return cast(Bound, SimpleNamespace(toolchain=SimpleNamespace(digests={"go": digest})))


LINES = ("warning: a", "\x1b[31mb")


def test_a_step_is_recalled_by_all_that_it_depends_on(tmp_path: Path) -> None:
    plan, bound, attempt = plans()["go-deps"], bound_to("sha256:1"), attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    assert memo.recall(attempt, bound, step) is None
    memo.record(attempt, bound, step, LINES)
    assert memo.recall(attempt, bound, step) == LINES
    assert memo.recall(attempt, bound_to("sha256:2"), step) is None
    for change in ({"memo": "other"}, {"argv": (*step.argv, "-x")}, {"env": ()}):
        assert memo.recall(attempt, bound, dataclasses.replace(step, **change)) is None


def test_a_step_that_names_nothing_is_never_recalled(tmp_path: Path) -> None:
    bound, attempt = bound_to("sha256:1"), attempt_at(tmp_path)
    step = Step(name="x", argv=("true",))
    memo.record(attempt, bound, step, LINES)
    assert memo.recall(attempt, bound, step) is None
    assert not list(tmp_path.rglob(memo.CACHE))


@pytest.mark.parametrize("bytes_", [b"", b"[1", b"[1]", b'{"a": 1}', b"[" + b'"x",' * memo.MOST + b'"x"]'])
def test_what_is_no_output_of_a_step_is_not_believed(tmp_path: Path, bytes_: bytes) -> None:
    plan, bound, attempt = plans()["go-deps"], bound_to("sha256:1"), attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    memo.record(attempt, bound, step, LINES)
    (stored,) = [path for path in tmp_path.rglob(f"{memo.CACHE}/*") if path.is_file()]
    stored.write_bytes(bytes_)
    assert memo.recall(attempt, bound, step) is None


def test_more_than_the_limit_is_not_stored(tmp_path: Path) -> None:
    plan, bound, attempt = plans()["go-deps"], bound_to("sha256:1"), attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    for lines in (("x" * memo.MOST,), ("x",) * TAIL_LINES):  # of a longer output only the end is known
        memo.record(attempt, bound, step, lines)
        assert memo.recall(attempt, bound, step) is None


def test_the_memo_of_a_look_changes_with_a_module_that_stands_in_for_another() -> None:
    mod = "module example.com/app\n\ngo 1.24\n\nrequire (\n\ta.example/y v1.0.0\n\tb.example/z v1.0.0\n)\n"
    main = 'package main\n\nimport (\n\t_ "a.example/y"\n\t_ "b.example/z"\n)\n\nfunc main() {}\n'
    files = {
        "go.mod": mod + "\nreplace a.example/y => ./y\n",
        "go.sum": f"b.example/z v1.0.0 h1:{'A' * 43}=\n",
        "main.go": main,
        "y/go.mod": "module a.example/y\n",
        "y/y.go": "package y\n",
    }

    def look(path: str = "", text: str = "") -> str:
        tree = DictTree(files | ({path: text} if path else {}))
        plan = pipelines.plan(pipelines.detect(tree), tree, PlanRequest(), CATALOG)
        return next(step.memo for step in plan.steps if step.name == LOOK_STEP)

    assert look() == look() != ""
    assert look("y/y.go", 'package y\n\nimport "os"\n') != look()
    assert look("y/go.mod", "module a.example/y\n\ngo 1.25\n") != look()
    assert look("main.go", main + "\n// a line\n") == look()


def test_a_step_with_a_network_or_code_of_the_source_has_no_memo() -> None:
    wheels = (Cache(name="w", access=Access.DOWNLOAD),)
    with pytest.raises(ValueError, match="memo"):
        Step(name="x", argv=("true",), memo="m")
    with pytest.raises(ValueError, match="memo"):
        Step(
            name="x", argv=("true",), memo="m", network=Network.INDEX, sees=Sees.STUBS, runs_source=False,
            caches=wheels, cwd="/work/fetch",
        )  # fmt: skip
