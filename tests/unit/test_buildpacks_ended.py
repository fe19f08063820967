"""The lifecycle's log and exit codes: what went wrong, whose fault it is, and which buildpacks were tried."""

from __future__ import annotations

import time
from typing import Any

import pytest

from builder.buildpacks.ended import diagnose, participants, pushed_digest, tried
from builder.errors import REASONS, ErrorClass
from builder.kube.ended import Ended
from tests.growth import assert_linear

NONE = [
    "======== Results ========",
    "fail: acme/node@1.0.0",
    "skip: acme/stamp@2.0.0",
    "Resolving plan... (try #1)",
    "fail: acme/jar@3.1.0 requires jdk",
    "ERROR: No buildpack groups passed detection.",
    "ERROR: Please check that you are running against the correct path.",
    "ERROR: failed to detect: no buildpacks participating",
]
BROKEN = [
    "======== Output: acme/fine@1.0.0 ========",
    "fine words",
    "======== Output: acme/node@1.0.0 ========",
    "no such file: x",
    "======== Error: acme/node@1.0.0 ========",
    "exit status 7",
    "======== Results ========",
    "pass: acme/fine@1.0.0",
    "err:  acme/node@1.0.0 (7)",
    "ERROR: No buildpack groups passed detection.",
    "ERROR: failed to detect: buildpack(s) failed with err",
]
DIGEST = "sha256:" + "0f" * 32


def failed(container: str, code: int, reason: str = "StepFailed", **fields: Any) -> Ended:
    return Ended(reason=reason, message=f"{container} ended with {code}", container=container, exit_code=code, **fields)


def test_no_group_names_each_buildpack_and_what_one_needs() -> None:
    found = diagnose(failed("detect", 20), {"detect": NONE})
    assert found.reason == "NoBuildpack" and REASONS[found.reason].error_class is ErrorClass.USER_CODE
    for name in ("acme/node@1.0.0", "acme/stamp@2.0.0", "acme/jar@3.1.0"):
        assert f"{name} (does not match)" in found.message
    assert found.said == ("fail: acme/jar@3.1.0 requires jdk",)
    assert tried(NONE) == {"acme/node@1.0.0": "fail", "acme/stamp@2.0.0": "skip", "acme/jar@3.1.0": "fail"}


@pytest.mark.parametrize("shape", ["pass: {}\t", "pass: {} \t", "pass:{} a@b", "fail: a@{}\t"])
@pytest.mark.parametrize("part", ["@", "a@", " ", "a"])
def test_a_buildpacks_result_is_read_in_linear_time(shape: str, part: str) -> None:
    """What a buildpack prints in detection can look like the lifecycle's results, at any length."""

    def spent(count: int) -> float:
        began = time.process_time()
        tried([shape.format(part * count)])
        return time.process_time() - began

    assert_linear(lambda: spent(5_000), lambda: spent(20_000), 0.05)


def test_a_detection_that_breaks_has_the_words_of_that_buildpack() -> None:
    found = diagnose(failed("detect", 21), {"detect": BROKEN})
    assert (found.reason, found.message) == ("StepFailed", "the detection of acme/node@1.0.0 failed")
    assert found.said == ("no such file: x", "exit status 7")


@pytest.mark.parametrize(
    ("group", "final", "message"),
    [
        (["acme/node 1.0.0"], "exit status 3", "buildpack acme/node@1.0.0 ended with exit code 3"),
        (
            ["2 of 3 buildpacks participating", "acme/node 1.0.0", "acme/run  2.1"],
            "signal: killed",
            "a buildpack was ended by signal killed (the group is acme/node@1.0.0, acme/run@2.1)",
        ),
        ([], "exit status 1", "a buildpack ended with exit code 1"),
        (["acme/node 1.0.0"], "fork/exec /cnb/x: permission denied", "buildpack acme/node@1.0.0 could not run"),
    ],
)
def test_a_failed_build_has_code_group_and_the_last_lines(group: list[str], final: str, message: str) -> None:
    lines = [*(f"line {number}" for number in range(9)), "", f"ERROR: failed to build: {final}"]
    found = diagnose(failed("build", 51), {"detect": group, "build": lines})
    assert found.reason == "StepFailed" and found.message.startswith(message)
    assert found.said == tuple(f"line {number}" for number in range(3, 9))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_words_of_the_lifecycle_are_none_of_the_buildpacks(place: int) -> None:
    """They come over another stream, whose lines may be delivered before or behind the buildpack's."""
    lines = ["building pages", "pages: no such template"]
    lines.insert(place, "target distro name/version labels not found, reading /etc/os-release file")
    found = diagnose(failed("build", 51), {"build": [*lines, "ERROR: failed to build: exit status 3"]})
    assert found.said == ("building pages", "pages: no such template")


def test_a_build_whose_log_is_lost_is_read_from_its_end() -> None:
    ended = failed("build", 51, said="no template\nERROR: failed to build: exit status 3")
    assert diagnose(ended, {}).said == ("no template",)


@pytest.mark.parametrize(
    ("container", "code", "final", "reason"),
    [
        ("analyze", 1, "failed to ensure registry read access to r/run@x: 401", "ExecutorImageUnavailable"),
        ("analyze", 1, "failed to ensure registry read access to r/a:1: UNAUTHORIZED", "RegistryRefused"),
        ("analyze", 1, "ensure registry read access to r/a:1: dial tcp: connection refused", "RegistryUnavailable"),
        ("analyze", 1, "validating registry write access: ensure registry read/write access", "RegistryRefused"),
        ("analyze", 11, "set platform API: platform API version '0.14' is incompatible", "ExecutorImageUnavailable"),
        ("detect", 12, "buildpack API version '9.0' is incompatible with the lifecycle", "ExecutorImageUnavailable"),
        ("analyze", 32, "analyze: something of its own", "Internal"),
        ("restore", 42, 'restore: Get "https://r/v2/": dial tcp: connection refused', "RegistryUnavailable"),
        ("restore", 1, "restore: unexpected status code 503 Service Unavailable", "RegistryUnavailable"),
        ("export", 62, "export: saving image: PUT https://r/v2/a: UNAUTHORIZED: …", "RegistryRefused"),
        ("export", 62, "export: determining entrypoint: tried to set web to default", "StepFailed"),
        ("rebase", 72, "rebase: app image is not marked as rebasable; please provide -force to override", "StepFailed"),
        ("rebase", 1, "access run image: connect to repo store 'r/run'", "ExecutorImageUnavailable"),
    ],
)  # fmt: skip
def test_each_phase_that_fails_has_its_reason(container: str, code: int, final: str, reason: str) -> None:
    lines = {container: ["some line", f"ERROR: failed to {final}"]}
    found = diagnose(failed(container, code), lines, "r/run@x")
    assert found.reason == reason
    assert any(final in line for line in found.said), "the lifecycle's own words"


def test_a_run_image_that_analyze_did_not_find_is_the_operators() -> None:
    lines = {
        "analyze": ['Image with name "r/a:1" not found', 'Image with name "r/run@sha256:1" not found'],
        "export": ["ERROR: failed to resolve inputs: run image not found in analyzed metadata"],
    }
    found = diagnose(failed("export", 3), lines)
    assert found.reason == "ExecutorImageUnavailable" and any("r/run@sha256:1" in line for line in found.said)


def test_an_end_that_the_cluster_decided_stays_what_it_is() -> None:
    memory = failed("build", 137, "OutOfMemory", limit=5)
    assert diagnose(memory, {"build": ["allocating", ""]}).said == ("allocating",)
    assert diagnose(memory, {}).message.startswith("build: ")
    for reason in ("Timeout", "Evicted", "JobVanished", "SourceStoreUnavailable", "DiskQuotaExceeded"):
        assert diagnose(Ended(reason=reason, message="words"), {}).reason == reason


@pytest.mark.parametrize(
    ("container", "limit_s", "ran_s", "reason"),
    [
        ("analyze", 600, 0, "RegistryUnavailable"),
        ("rebase", 600, 590, "RegistryUnavailable"),
        ("restore", 600, 590, "RegistryUnavailable"),
        ("restore", 600, 10, "Timeout"),
        ("analyze", 5, 4, "Timeout"),
        ("detect", 600, 590, "Timeout"),
        ("build", 600, 590, "Timeout"),
        ("export", 600, 590, "Timeout"),
        ("", 600, 0, "Timeout"),
    ],
)
def test_a_registry_that_hangs_is_not_the_users_time(container: str, limit_s: int, ran_s: int, reason: str) -> None:
    """Before code of the build began, and in a restore that took most of the time."""
    ended = Ended(reason="Timeout", message="m", container=container, limit=limit_s * 1000, ran_ms=ran_s * 1000)
    found = diagnose(ended, {})
    assert found.reason == reason
    assert reason == "Timeout" or (container in found.message and "600 s" in found.message)


@pytest.mark.parametrize(
    ("said", "digest"),
    [
        (f'[build]\n[image]\ntags = ["r/a:1"]\ndigest = "{DIGEST}"\nmanifest-size = 12\n', DIGEST),
        ("", ""),
        ("[image]", ""),
        ('[image]\ndigest = "sha256:12"', ""),
        ("[image]\ndigest = 3", ""),
        ("image = 1", ""),
        ("[image", ""),
    ],
)
def test_the_digest_of_the_report(said: str, digest: str) -> None:
    assert pushed_digest(said) == digest


def test_participants_are_the_lines_of_the_group() -> None:
    lines = [
        "Timer: Detector started",
        "2 of 3 buildpacks participating",
        "acme/node   1.0.0",
        "x 1",
        "a line of words",
    ]
    assert participants(lines) == ("acme/node@1.0.0", "x@1")


def test_last_words_of_any_length_cost_little() -> None:
    end = Ended(reason="StepFailed", message="m", container="analyze", exit_code=30)
    found = diagnose(end, {"analyze": ["ERROR: failed to " + "get " * 30_000]})
    assert len(found.message) <= 4096
