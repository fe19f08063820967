"""The Jobs that `plan` shows of the examples, from their folders alone."""

from __future__ import annotations

import pytest

from tests.golden import jobs


@pytest.mark.parametrize("name", sorted(jobs.previews()))
def test_a_job_that_plan_shows_is_the_golden_one(name: str) -> None:
    assert jobs.text_of(jobs.previews()[name]) == (jobs.FOLDER / f"{name}.json").read_text(), "run: make golden"
