"""Output that the node stored: what is the same in every part answers, whole, and for a step that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from builder.attempt import memo
from builder.plan import Access, Cache, Network, Sees, Step
from tests.attempt_fixtures import attempt_at
from tests.unit.test_downloads import plans

LINES = ("warning: a", "\x1b[31mb")


def test_a_step_is_recalled_by_all_that_it_depends_on(tmp_path: Path) -> None:
    plan, attempt = plans()["go-deps"], attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    assert memo.recall(attempt, plan, step) is None
    memo.record(attempt, plan, step, LINES)
    assert memo.recall(attempt, plan, step) == LINES
    newer = dataclasses.replace(plan, toolchain=dataclasses.replace(plan.toolchain, name="go-9"))
    assert memo.recall(attempt, newer, step) is None
    for change in ({"memo": "other"}, {"argv": (*step.argv, "-x")}, {"env": ()}):
        assert memo.recall(attempt, plan, dataclasses.replace(step, **change)) is None  # type: ignore[arg-type]


def test_a_step_that_names_nothing_is_never_recalled(tmp_path: Path) -> None:
    plan, attempt = plans()["go-deps"], attempt_at(tmp_path)
    step = Step(name="x", argv=("true",))
    memo.record(attempt, plan, step, LINES)
    assert memo.recall(attempt, plan, step) is None
    assert not list(tmp_path.rglob(memo.CACHE))


@pytest.mark.parametrize("bytes_", [b"", b"[1", b"[1]", b'{"a": 1}', b"[" + b'"x",' * memo.MOST + b'"x"]'])
def test_what_is_no_output_of_a_step_is_not_believed(tmp_path: Path, bytes_: bytes) -> None:
    plan, attempt = plans()["go-deps"], attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    memo.record(attempt, plan, step, LINES)
    (stored,) = [path for path in tmp_path.rglob(f"{memo.CACHE}/*") if path.is_file()]
    stored.write_bytes(bytes_)
    assert memo.recall(attempt, plan, step) is None


def test_more_than_the_limit_is_not_stored(tmp_path: Path) -> None:
    plan, attempt = plans()["go-deps"], attempt_at(tmp_path)
    (step,) = [step for step in plan.steps if step.memo]
    memo.record(attempt, plan, step, ("x" * memo.MOST,))
    assert memo.recall(attempt, plan, step) is None


def test_a_step_with_a_network_or_code_of_the_source_has_no_memo() -> None:
    wheels = (Cache(name="w", access=Access.DOWNLOAD),)
    with pytest.raises(ValueError, match="memo"):
        Step(name="x", argv=("true",), memo="m")
    with pytest.raises(ValueError, match="memo"):
        Step(
            name="x", argv=("true",), memo="m", network=Network.INDEX, sees=Sees.STUBS, runs_source=False,
            caches=wheels, cwd="/work/fetch",
        )  # fmt: skip
