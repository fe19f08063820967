"""Typical mistakes in a Dockerfile as the real executor ends on them: line, words, and whose fault."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from builder.kaniko.ended import diagnose
from builder.plan import Diagnosis
from tests.cluster_fixtures import LIMITS, Jobs, numbered

AT_ONCE = 3
CASES = {
    "a base that is not there": ("FROM {registry}/test/absent:1\nRUN true\n", "StepFailed", 1, "there is no image "),
    "a base whose registry has no name": ("FROM {registry}/UPPER\nRUN true\n", "StepFailed", 0, "could not parse"),
    "COPY of what is not there": ("FROM {debian}\nRUN true\nCOPY nothing /x\n", "StepFailed", 3, "nothing is not in"),
    "COPY from what is no stage": (
        "FROM {debian}\nCOPY --from={registry}/test/absent:2 /x /x\n",
        "StepFailed",
        2,
        "there is no image ",
    ),
    "an unknown instruction": ("FROM {debian}\nRUNN true\n", "StepFailed", 2, "unknown instruction: RUNN"),
    "no FROM": ("RUN true\n", "StepFailed", 0, "parsing dockerfile: no build stage"),
    "a program that is not there": (
        "FROM {debian}\nRUN absent-program\n",
        "StepFailed",
        2,
        "RUN ended with exit code 127",
    ),
    "the same without a shell": ('FROM {debian}\nRUN ["/absent"]\n', "StepFailed", 2, "RUN could not start: "),
    "a user that is not there": ("FROM {debian}\nUSER ghost\nRUN true\n", "StepFailed", 3, "credentials: get uid/gid"),
    "a signal": ("FROM {debian}\nRUN kill -9 $$\n", "StepFailed", 2, "RUN was ended by signal killed"),
    "an empty base": ("ARG BASE\nFROM $BASE\nRUN true\n", "StepFailed", 0, "could not parse reference"),
    "a stage in the second of two": (
        "FROM {debian} AS one\nRUN true\nFROM {debian}\nRUN true\nCOPY --from=one /etc/passwd /p\nRUN exit 9\n",
        "StepFailed",
        6,
        "RUN ended with exit code 9",
    ),
}


@pytest.fixture(scope="module")
def found(jobs: Jobs) -> dict[str, tuple[Diagnosis, list[str]]]:
    """All of them built, a few at once."""
    limits = dataclasses.replace(LIMITS, cpus=0.25)

    def build(name: str) -> tuple[Diagnosis, list[str]]:
        text = CASES[name][0].format(registry=jobs.cluster.registry, debian=jobs.debian)
        ran = jobs.run({"Dockerfile": text}, jobs.build("mistake"), limits=limits)
        return diagnose(ran.ended, ran.log, numbered(text)), ran.log

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(CASES, pool.map(build, CASES), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_has_its_line_and_words(found: dict[str, tuple[Diagnosis, list[str]]], name: str) -> None:
    _, reason, line, message = CASES[name]
    diagnosis, log = found[name]
    where = f"Dockerfile:{line}" if line else "Dockerfile"
    assert (diagnosis.reason, diagnosis.where) == (reason, where), (diagnosis, log)
    assert diagnosis.message.startswith(message), diagnosis
    assert diagnosis.said, "the executor's or the program's own first words"
