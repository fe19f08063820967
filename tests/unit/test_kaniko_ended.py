"""Kaniko's log and the Dockerfile's lines: which instruction failed, and with what."""

from __future__ import annotations

import json

import pytest

from builder.kaniko.ended import Instruction, diagnose, is_slip, last_instruction, shown
from builder.kaniko.plan import DockerfilePlan, read_facts, write_facts
from builder.kube.ended import Ended


def own(message: str) -> str:
    """A line of the executor's own."""
    return json.dumps({"level": "info", "msg": message, "time": "2026-01-01T00:00:00Z"})


DOCKERFILE = (
    Instruction(stage=0, line=1, text="FROM base AS first"),
    Instruction(stage=0, line=2, text="RUN echo one"),
    Instruction(stage=0, line=3, text="RUN echo one"),
    Instruction(stage=1, line=5, text="FROM base"),
    Instruction(stage=1, line=6, text="RUN echo one"),
    Instruction(stage=1, line=8, text="RUN printf 'x' &&     exit 3"),
)
FIRST = [own("Building stage 'base' [idx: '0', base-idx: '-1']"), own("RUN echo one"), "one"]
SECOND = [own("Building stage 'base' [idx: '1', base-idx: '-1']"), own("RUN echo one"), "one"]
FAILS = [
    own("RUN printf 'x' &&  exit 3"),
    own("Cmd: /bin/sh"),
    "first words",
    own("RUN echo one"),
    "error: no such thing",
    "error building image: error building stage: failed to execute command: waiting for process to exit: exit status 3",
]
STEP = Ended(reason="StepFailed", message="kaniko ended with 1", container="kaniko", exit_code=1)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], 0),
        ([own("Resolved base name base to first")], 0),
        (FIRST[:1], 1),
        (FIRST, 2),
        ([*FIRST, own("RUN echo one")], 3),
        ([*FIRST, *SECOND[:1]], 5),
        ([*FIRST, *SECOND], 6),
        ([*FIRST, *SECOND, FAILS[0]], 8),
        (["RUN echo one", '{"msg": "RUN echo one"}', "{", "[]"], 0),
    ],
)
def test_the_last_instruction_that_began(lines: list[str], line: int) -> None:
    found = last_instruction(lines, DOCKERFILE)
    assert (found.line if found else 0) == line


def test_a_failed_run_has_line_code_and_its_own_words() -> None:
    found = diagnose(STEP, [*SECOND, *FAILS[:3], *FAILS[4:]], DOCKERFILE)
    assert (found.reason, found.where) == ("StepFailed", "Dockerfile:8")
    assert found.message == "RUN ended with exit code 3"
    assert found.said == ("first words", "error: no such thing")


@pytest.mark.parametrize("at", range(1, 6))
def test_what_a_program_writes_at_once_may_stand_before_the_lines_of_its_start(at: int) -> None:
    began = [FAILS[0], own("Cmd: /bin/sh"), own("Args: [-c exit 3]"), own("Running: [/bin/sh -c exit 3]"), FAILS[-1]]
    found = diagnose(STEP, [*SECOND, *began[:at], "error: no such thing", *began[at:]], DOCKERFILE)
    assert found.said == ("error: no such thing",)
    silent = diagnose(STEP, [*SECOND, *began], DOCKERFILE)
    assert silent.said and "exit status 3" in silent.said[0], "what an earlier one wrote is none of this one's"


SNAPSHOTS = (own("Taking snapshot of full filesystem..."), own("No files were changed, appending empty layer"))


@pytest.mark.parametrize("at", range(1, 3))
def test_what_a_program_writes_at_once_may_stand_before_its_instruction(at: int) -> None:
    """Between the lines of the snapshot that the instruction before it ends with."""
    began = [*SNAPSHOTS, FAILS[0], own("Cmd: /bin/sh"), own("Running: [/bin/sh -c exit 3]"), FAILS[-1]]
    before = [*SECOND[:-1], own("Running: [/bin/sh -c echo one]"), SECOND[-1]]
    found = diagnose(STEP, [*before, *began[:at], "error: no such thing", *began[at:]], DOCKERFILE)
    assert found.said == ("error: no such thing",)
    silent = diagnose(STEP, [*before, *began], DOCKERFILE)
    assert silent.said and "exit status 3" in silent.said[0]


@pytest.mark.parametrize("at", range(5))
def test_the_first_program_of_a_stage_is_told_of_behind_the_first_snapshot(at: int) -> None:
    first = (Instruction(stage=0, line=1, text="FROM base"), Instruction(stage=0, line=2, text="RUN curl x"))
    began = [
        FIRST[0],
        own("RUN curl x"),
        own("Initializing snapshotter ..."),
        SNAPSHOTS[0],
        own("Cmd: /bin/sh"),
        FAILS[-1],
    ]
    found = diagnose(STEP, [*began[: at + 1], "curl: not found", *began[at + 1 :]], first)
    assert (found.said, found.where) == (("curl: not found",), "Dockerfile:2")


CACHED = (
    own("Pushing layer registry.example/acme/cache:1f to cache now"),
    own("Pushing image to registry.example/acme/cache:1f"),
    own("Pushed registry.example/acme/cache@sha256:1f"),
)


@pytest.mark.parametrize("at", range(1, 5))
def test_what_is_told_of_the_cache_beside_a_program_ends_none_of_its_words(at: int) -> None:
    """A layer of the instruction before is stored meanwhile."""
    began = [FAILS[0], own("Running: [/bin/sh -c exit 3]"), "first words", "error: no such thing", FAILS[-1]]
    for told in CACHED:
        lines = [*SECOND, own("Taking snapshot of full filesystem..."), *began[:at], told, *began[at:]]
        assert diagnose(STEP, lines, DOCKERFILE).said == ("first words", "error: no such thing")


def test_words_before_the_instruction_itself_are_its_own_but_behind_another_start() -> None:
    began = [FAILS[0], own("Cmd: /bin/sh"), own("Running: [/bin/sh -c exit 3]"), FAILS[-1]]
    snapshot = own("Taking snapshot of full filesystem...")
    found = diagnose(STEP, [*SECOND, snapshot, "error: no such thing", *began], DOCKERFILE)
    assert found.said == ("error: no such thing",)
    silent = diagnose(STEP, [*SECOND, snapshot, *began], DOCKERFILE)
    assert "exit status 3" in silent.said[0]


def test_output_of_a_step_that_looks_like_the_executor_leads_to_no_later_instruction() -> None:
    found = diagnose(STEP, [*SECOND, *FAILS], DOCKERFILE)
    assert found.where == "Dockerfile:8", "what a program prints names an earlier instruction"


def test_memory_names_the_instruction() -> None:
    ended = Ended(reason="OutOfMemory", message="used all of its memory", limit=64, peak=64)
    found = diagnose(ended, [*FIRST, *SECOND, FAILS[0]], DOCKERFILE, "docker/App.Dockerfile")
    assert (found.reason, found.where) == ("OutOfMemory", "docker/App.Dockerfile:8")


@pytest.mark.parametrize("reason", ["Timeout", "Evicted", "Unschedulable"])
def test_other_ends_blame_no_line(reason: str) -> None:
    found = diagnose(Ended(reason=reason, message="m", said="s"), [*FIRST], DOCKERFILE)
    assert (found.reason, found.message, found.where, found.said) == (reason, "m", "", ("s",))


def test_without_a_final_line_the_container_speaks() -> None:
    ended = Ended(reason="StepFailed", message="kaniko ended with 1", said="error building image: cannot parse")
    found = diagnose(ended, [], DOCKERFILE)
    assert (found.message, found.where) == ("cannot parse", "Dockerfile")


def test_people_read_words_and_a_programs_lines_as_they_are() -> None:
    lines = [own('RUN echo "a"'), '{"level": "info"}', "plain", '["x"]']
    assert [shown(line) for line in lines] == ['RUN echo "a"', *lines[1:]]


UNKNOWN = "GET http://r.example/v2/absent/manifests/1: MANIFEST_UNKNOWN: manifest unknown; map[Tag:1]"
AFTER = "error building image: unable to complete operation after 3 attempts, last error: "
NAMES = (
    Instruction(stage=0, line=1, text="FROM r.example/base:1"),
    Instruction(stage=0, line=2, text="COPY a /a"),
    Instruction(stage=0, line=4, text="RUN true"),
    Instruction(stage=0, line=5, text="COPY --from=r.example/absent:1 /x /x"),
    Instruction(stage=0, line=6, text="ADD nothing /x"),
)
RETRIEVE = own("Retrieving image manifest r.example/absent:1")


@pytest.mark.parametrize(
    ("lines", "reason", "where", "message"),
    [
        ([RETRIEVE, AFTER + UNKNOWN], "StepFailed", "Dockerfile:5", "there is no image r.example/absent:1"),
        (
            [RETRIEVE, AFTER + "GET https://r.example/v2/absent/manifests/1: UNAUTHORIZED: authentication required"],
            "StepFailed",
            "Dockerfile:5",
            "image r.example/absent:1 may not be pulled",
        ),
        (
            [RETRIEVE, AFTER + 'Get "https://r.example/v2/": dial tcp: lookup r.example on 10.0.0.1:53: no such host'],
            "StepFailed",
            "Dockerfile:5",
            "the registry of image r.example/absent:1 has no address",
        ),
        (
            [RETRIEVE, AFTER + 'Get "https://r.example/v2/": dial tcp 192.0.2.1:443: i/o timeout'],
            "RegistryUnavailable",
            "Dockerfile:5",
            "the registry of image r.example/absent:1 does not answer",
        ),
        (
            ["error building image: parsing dockerfile: dockerfile parse error on line 2: unknown instruction: RUNN"],
            "StepFailed",
            "Dockerfile:2",
            "unknown instruction: RUNN",
        ),
        (
            [
                own("Building stage 'r.example/base:1' [idx: '0', base-idx: '-1']"),
                own("COPY a /a"),
                own("RUN true"),
                "error building image: error building stage: failed to get files used from context: failed to get "
                "fileinfo for /kaniko/buildcontext/nothing: lstat /kaniko/buildcontext/nothing: no such file or "
                "directory",
            ],
            "StepFailed",
            "Dockerfile:6",
            "nothing is not in the source",
        ),
        (
            ["error checking push permissions -- make sure you entered the correct tag name: UNAUTHORIZED: no"],
            "RegistryRefused",
            "",
            "the registry does not let this build push",
        ),
        (
            ['error pushing image: failed to push to destination r/x: Get "http://r/v2/": connection refused'],
            "RegistryUnavailable",
            "",
            "the image could not be pushed",
        ),
        (
            ["Error: error resolving dockerfile path: please provide a valid path", "Usage:", "  executor [flags]"],
            "StepFailed",
            "Dockerfile",
            "error resolving dockerfile path: please provide a valid path",
        ),
    ],
)
def test_mistakes_that_no_program_of_the_user_reports(lines: list[str], reason: str, where: str, message: str) -> None:
    found = diagnose(STEP, lines, NAMES)
    assert (found.reason, found.where, found.message) == (reason, where, message)
    assert found.said and not found.said[0].startswith("{")


def test_output_that_imitates_the_executor_costs_little_and_ends_nothing() -> None:
    """Lines of a hostile program, as long as a line may be: nested, full of what a pattern looks for, all alike."""
    deep = '{"level":' + "[" * 100_000
    assert shown(deep) == deep
    many = tuple(Instruction(stage=0, line=line, text=f"RUN echo {line}") for line in range(4_000))
    lines = [FIRST[0], *(own(f"RUN echo {line % 7} no") for line in range(20_000)), own("RUN echo 3999")]
    found = last_instruction(lines, many)
    assert found is not None and found.line == 3_999
    prefix = "error building image: failed to get fileinfo for /kaniko/buildcontext/"
    final = prefix + "failed to get fileinfo for /kaniko/buildcontext/" * 1_300 + ": lstat " * 8_000
    for ended in (STEP, Ended(reason="OutOfMemory", message="m")):
        assert len(diagnose(ended, [deep, final], DOCKERFILE).message) <= 4096


NO_ANSWER = AFTER + 'Get "https://index.docker.io/v2/": dial tcp 192.0.2.1:443: i/o timeout'
REFUSED = AFTER + "GET https://index.docker.io/v2/library/biuld/manifests/latest: UNAUTHORIZED: authentication required"
MISTYPED = (
    Instruction(stage=0, line=1, text="FROM r.example/base:1 AS build"),
    Instruction(stage=1, line=3, text="FROM r.example/base:1"),
    Instruction(stage=1, line=4, text="COPY --from=biuld /x /x"),
)


@pytest.mark.parametrize(
    ("image", "stage", "final", "reason"),
    [
        ("biuld", "build", NO_ANSWER, "StepFailed"),
        ("biuld", "build", REFUSED, "StepFailed"),
        ("builder", "build", REFUSED, "StepFailed"),
        ("builder", "build", NO_ANSWER, "RegistryUnavailable"),
    ],
)
def test_a_mistyped_stage_is_named_whatever_docker_hub_answers(image: str, stage: str, final: str, reason: str) -> None:
    named = [Instruction(stage=one.stage, line=one.line, text=one.text.replace("biuld", image)) for one in MISTYPED]
    found = diagnose(STEP, [own(f"Retrieving image manifest {image}"), final], named, "Dockerfile", [(image, stage)])
    assert (found.reason, found.where) == (reason, "Dockerfile:4")
    assert f'"{stage}" meant?' in found.message
    if reason == "StepFailed":
        assert found.next.startswith(f"Name the stage: {stage}.")


@pytest.mark.parametrize(
    ("one", "other", "slip"),
    [
        ("biuld", "build", True),
        ("bild", "build", True),
        ("builld", "build", True),
        ("buold", "build", True),
        ("Buidl", "build", True),
        ("build", "build", False),
        ("builder", "build", False),
        ("dliub", "build", False),
        ("app", "apps", False),
        ("", "build", False),
    ],
)
def test_a_slip_is_one_character(*, one: str, other: str, slip: bool) -> None:
    assert is_slip(one, other) is is_slip(other, one) is slip


def test_facts_of_a_mistyped_stage_travel_with_the_job_and_older_ones_are_read() -> None:
    plan = DockerfilePlan(
        because="", dockerfile="Dockerfile", sub_path="", bases=(), pinned=False, warnings=(), instructions=MISTYPED,
        mistyped=(("biuld", "build"),),
    )  # fmt: skip
    assert read_facts(write_facts(plan, ())).mistyped == (("biuld", "build"),)
    older = json.dumps({"dockerfile": "Dockerfile", "instructions": [], "materials": []})
    assert read_facts(older).mistyped == ()
