"""What a seed decides: all of a history, and the eight of `make test` meet every kind of fault."""

from __future__ import annotations

from tests.chaos import schedule
from tests.chaos.schedule import Cancel, Fault, Submit, history

KINDS = {
    *schedule.WORKER_FAULTS,
    *schedule.API_FAULTS,
    *schedule.REDIS_FAULTS,
    *schedule.REGISTRY_FAULTS,
    *schedule.DATABASE_FAULTS,
}


def test_the_seed_alone_decides() -> None:
    assert history(11) == history(11)
    assert history(11) != history(12)


def test_a_cancel_follows_its_submit() -> None:
    for seed in range(200):
        submitted = set()
        for _, step in history(seed).steps:
            if isinstance(step, Submit):
                submitted.add(step.number)
            elif isinstance(step, Cancel):
                assert step.number in submitted
        assert submitted == set(range(schedule.BUILDS))


def test_the_eight_meet_every_kind() -> None:
    eight = [history(seed) for seed in schedule.SEEDS]
    steps = [step for one in eight for _, step in one.steps]
    assert {step.kind for step in steps if isinstance(step, Fault)} == KINDS
    assert {step.script for step in steps if isinstance(step, Submit)} == set(schedule.SCRIPTS)
    assert {one.postgres for one in eight} == {True, False}
    assert {one.apis for one in eight} == {1, 2}
    labels = {label for one in eight for label in (*one.worker_labels, one.api_label)}
    assert labels == {*schedule.LABELS, "finalize", ""}


def test_about_a_third_of_the_sources_come_again() -> None:
    builds = [step for seed in range(300) for _, step in history(seed).steps if isinstance(step, Submit)]
    again = sum(build.mark != build.number for build in builds) / len(builds)
    assert abs(again - schedule.DUPLICATES) < 0.05
