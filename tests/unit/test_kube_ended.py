"""Every end of a Job from the objects that the API gives, and none where it goes on."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from builder.errors import REASONS
from builder.kube.ended import Ended, Patience, Running, of_upload, quantity, seconds_of, state_of
from builder.kube.job import ORGANIZATION, OWN_LIMITS

NOW = "2026-01-01T00:10:00Z"
EARLY = "2026-01-01T00:00:00Z"
PATIENCE = Patience(schedule_s=300, image_s=60)


def job(kind: str = "", reason: str = "", message: str = "") -> dict[str, Any]:
    conditions = [{"type": kind, "status": "True", "reason": reason, "message": message}] if kind else []
    return {
        "metadata": {"name": "j", "creationTimestamp": EARLY},
        "spec": {"activeDeadlineSeconds": 600},
        "status": {"conditions": conditions},
    }


def pod(fetch: dict[str, Any] | None = None, main: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """A pod with the states of its two containers; None for one that has no status yet."""

    def statuses(name: str, state: dict[str, Any] | None) -> list[dict[str, Any]]:
        return [{"name": name, "state": state}] if state else []

    limits = {"limits": {"memory": "64Mi", "ephemeral-storage": "1Gi"}}
    return {
        "metadata": {"name": "p", "creationTimestamp": EARLY},
        "spec": {
            "initContainers": [{"name": "fetch", "resources": limits}],
            "containers": [{"name": "kaniko", "resources": limits}],
        },
        "status": {
            "phase": "Running",
            "startTime": EARLY,
            "initContainerStatuses": statuses("fetch", fetch),
            "containerStatuses": statuses("kaniko", main),
            **status,
        },
    }


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def deleted(main: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    found = pod(ended(0), main or ended(137), **status)
    found["metadata"]["deletionTimestamp"] = NOW
    return found


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> list[dict[str, Any]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": EARLY}]


DONE = ended(0, "Completed", "sha256:" + "ab" * 32)
FAILED = job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
CREATING = waiting("ContainerCreating")
SCHEDULED = condition("PodScheduled", "True")
FULL = 'Usage of EmptyDir volume "%s" exceeds the limit "%s". '
"""The kubelet's words, with the blank at their end."""
NO_ROOM = "0/1 nodes are available: 1 Insufficient memory."


@pytest.mark.parametrize(
    ("found", "pods", "reason"),
    [
        (None, [], "JobVanished"),
        (FAILED, [pod(ended(0), ended(1))], "StepFailed"),
        (FAILED, [pod(ended(0), ended(137, "OOMKilled"))], "OutOfMemory"),
        (FAILED, [pod(ended(0), ended(1, "OOMKilled"))], "OutOfMemory"),
        (
            FAILED,
            [pod(ended(1, message='{"reason":"SourceStoreUnavailable","message":"m"}'))],
            "SourceStoreUnavailable",
        ),
        (FAILED, [pod(ended(1, message="no JSON"))], "Internal"),
        (FAILED, [pod(ended(1, message='{"reason":"Unheard","message":"m"}'))], "Internal"),
        (FAILED, [pod(ended(137, "OOMKilled"))], "Internal"),
        (FAILED, [], "Evicted"),
        (job("Failed", "DeadlineExceeded"), [], "Timeout"),
        (job("FailureTarget", "DeadlineExceeded"), [pod(ended(0), ended(137))], "Timeout"),
        (
            job("FailureTarget", "PodFailurePolicy"),
            [pod(ended(0), ended(137), conditions=condition("DisruptionTarget", "True", message="preempted"))],
            "Evicted",
        ),
        (FAILED, [pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")], "Evicted"),
        (
            FAILED,
            [
                pod(
                    phase="Failed",
                    reason="Evicted",
                    message='Container kaniko exceeded its local ephemeral storage limit "1Gi". ',
                )
            ],
            "DiskQuotaExceeded",
        ),
        (
            FAILED,
            [
                pod(
                    phase="Failed",
                    reason="Evicted",
                    message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
                )
            ],
            "DiskQuotaExceeded",
        ),
        (FAILED, [pod(phase="Failed", reason="Evicted", message=FULL % ("layers", "4Gi"))], "DiskQuotaExceeded"),
        (
            FAILED,
            [pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral storage.")],
            "Evicted",
        ),
        (FAILED, [pod(phase="Failed")], "Internal"),
        (job(), [pod(main=waiting("ImagePullBackOff", "not found"))], "ExecutorImageUnavailable"),
        (job(), [pod(fetch=waiting("ErrImagePull", "refused"))], "ExecutorImageUnavailable"),
        (job(), [pod(main=waiting("CreateContainerConfigError", "no secret"))], "ClusterUnavailable"),
        (FAILED, [pod(main=ended(128, "StartError", "no such file"))], "ExecutorImageUnavailable"),
        (job(), [pod(conditions=condition("PodScheduled", "False", "Unschedulable", NO_ROOM))], "Unschedulable"),
        (job(), [pod(waiting("PodInitializing"), CREATING, conditions=SCHEDULED)], "ClusterUnavailable"),
        (job(), [pod(conditions=SCHEDULED)], "ClusterUnavailable"),
        (job("Failed", "DeadlineExceeded"), [pod(CREATING, CREATING, conditions=SCHEDULED)], "ClusterUnavailable"),
        (
            job("FailureTarget", "DeadlineExceeded"),
            [pod(conditions=condition("PodScheduled", "False", "Unschedulable", NO_ROOM))],
            "Unschedulable",
        ),
        (
            job("Failed", "DeadlineExceeded"),
            [pod({"running": {}}, CREATING, conditions=SCHEDULED)],
            "SourceStoreUnavailable",
        ),
        (
            job("FailureTarget", "DeadlineExceeded"),
            [pod(ended(143), CREATING, conditions=SCHEDULED)],
            "SourceStoreUnavailable",
        ),
        (
            job("FailureTarget", "DeadlineExceeded"),
            [pod(ended(0), CREATING, conditions=SCHEDULED)],
            "ClusterUnavailable",
        ),
        (job("Failed", "DeadlineExceeded"), [pod(ended(0), {"running": {}}, conditions=SCHEDULED)], "Timeout"),
    ],
)
def test_each_end_has_its_reason(found: dict[str, Any] | None, pods: list[dict[str, Any]], reason: str) -> None:
    state = state_of(found, pods, now=seconds_of(NOW), patience=PATIENCE)
    assert isinstance(state, Ended)
    assert (state.reason, bool(state.message)) == (reason, True)
    assert state.reason in REASONS


@pytest.mark.parametrize(
    ("found", "pods", "words"),
    [
        (job(), [], "not created"),
        (job(), [pod()], ""),
        (job(), [pod({"running": {}})], ""),
        (job(), [pod(DONE, {"running": {}})], ""),
        (job(), [pod(main=waiting("ContainerCreating"))], ""),
        (job(), [pod(ended(0), CREATING, conditions=SCHEDULED)], ""),
        (job(), [pod({"running": {}}, CREATING, conditions=SCHEDULED)], ""),
        (FAILED, [pod()], "ends"),
        (job(), [pod(ended(0), ended(137))], ""),
        (job(), [deleted()], ""),
        (job(), [deleted(phase="Succeeded", main=DONE)], ""),
        (job(), [pod(phase="Succeeded")], ""),
        (job("Complete"), [pod(ended(0), {"running": {}})], "ends"),
    ],
)
def test_a_job_goes_on(found: dict[str, Any], pods: list[dict[str, Any]], words: str) -> None:
    state = state_of(found, pods, now=seconds_of(NOW), patience=PATIENCE)
    assert isinstance(state, Running)
    assert words in state.words


@pytest.mark.parametrize(
    "one",
    [
        pod(conditions=condition("PodScheduled", "False", "Unschedulable", NO_ROOM)),
        pod(main=waiting("ErrImagePull", "refused")),
        pod(main=waiting("CreateContainerConfigError", "no secret")),
    ],
)
def test_what_may_mend_itself_is_waited_for_with_its_words(one: dict[str, Any]) -> None:
    state = state_of(job(), [one], now=seconds_of(EARLY) + 1, patience=PATIENCE)
    assert isinstance(state, Running) and state.words


@pytest.mark.parametrize("kind", ["Complete", "SuccessCriteriaMet"])
def test_success_carries_what_the_main_container_reported(kind: str) -> None:
    state = state_of(job(kind), [pod(ended(0, "Completed", "fetch said"), DONE)], now=0)
    assert isinstance(state, Ended) and state.succeeded
    assert state.said == "sha256:" + "ab" * 32


def test_a_pod_that_ended_well_waits_for_nobody_to_count_it() -> None:
    """The Job controller counts pods once a second."""
    state = state_of(job(), [pod(ended(0, "Completed", "fetch said"), DONE, phase="Succeeded")], now=0)
    assert state == Ended(said="sha256:" + "ab" * 32)


def test_success_stands_when_its_pod_is_gone() -> None:
    assert state_of(job("Complete"), [], now=0) == Ended()


def test_a_success_that_lost_a_process_to_memory_is_one() -> None:
    """The kernel may end a process that a build can do without; the container's exit code counts."""
    state = state_of(job("Complete"), [pod(ended(0), ended(0, "OOMKilled", "d"))], now=0)
    assert isinstance(state, Ended) and state.succeeded


def test_a_deleted_pod_is_the_clusters_doing_not_the_users() -> None:
    state = state_of(FAILED, [deleted()], now=0)
    assert isinstance(state, Ended) and state.reason == "Evicted"


def test_limits_are_in_the_failure() -> None:
    memory = state_of(FAILED, [pod(ended(0), ended(137, "OOMKilled"))], now=0)
    assert isinstance(memory, Ended)
    assert (memory.limit, memory.peak) == (64 * 1024 * 1024, 64 * 1024 * 1024)
    time = state_of(job("Failed", "DeadlineExceeded"), [], now=0)
    assert isinstance(time, Ended) and time.limit == 600_000


@pytest.mark.parametrize(
    ("container", "mount", "reason"),
    [
        ("fetch", {}, "Internal"),
        ("kaniko", {"readOnly": True}, "Internal"),
        ("kaniko", {}, "DiskQuotaExceeded"),
    ],
)
def test_a_full_volume_is_whose_program_may_write_it(container: str, mount: dict[str, Any], reason: str) -> None:
    """Where the build sees the source read-only we counted its bytes wrongly."""
    one = pod(ended(0), ended(137), phase="Failed", reason="Evicted", message=FULL % ("source", "64Mi"))
    for each in (*one["spec"]["initContainers"], *one["spec"]["containers"]):
        if each["name"] == container:
            each["volumeMounts"] = [{"name": "source", "mountPath": "/x", **mount}]
    state = state_of(FAILED, [one], now=0)
    assert isinstance(state, Ended) and state.reason == reason
    assert "67108864 bytes" in state.message and state.limit == (
        64 * 1024 * 1024 if reason == "DiskQuotaExceeded" else 0
    )


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (pod({"running": {}}, CREATING, conditions=SCHEDULED), "before its source was there"),
        (pod(ended(0), CREATING, conditions=SCHEDULED), "before its source was there"),
        (pod(CREATING, CREATING, conditions=SCHEDULED), "before a container of it began"),
    ],
)
def test_a_time_that_is_too_short_for_any_build_is_the_requests(one: dict[str, Any], words: str) -> None:
    short = job("Failed", "DeadlineExceeded")
    short["spec"]["activeDeadlineSeconds"] = 5
    state = state_of(short, [one], now=0)
    assert isinstance(state, Ended) and (state.reason, state.limit) == ("Timeout", 5000)
    assert "the build's 5 s were over" in state.message and words in state.message


@pytest.mark.parametrize(
    ("state", "ran_ms"),
    [
        ({"running": {"startedAt": "2026-01-01T00:08:00Z"}}, 120_000),
        (
            {"terminated": {"exitCode": 143, "startedAt": EARLY, "finishedAt": "2026-01-01T00:00:30Z"}},
            30_000,
        ),
        ({"running": {}}, 0),
    ],
)
def test_a_timeout_names_the_container_that_it_ended_and_how_long_that_ran(state: dict[str, Any], ran_ms: int) -> None:
    late = job("FailureTarget", "DeadlineExceeded")
    late["status"]["conditions"][0]["lastTransitionTime"] = NOW
    found = state_of(late, [pod(ended(0), state)], now=0)
    assert isinstance(found, Ended) and found.reason == "Timeout"
    assert (found.container, found.ran_ms) == ("kaniko", ran_ms)


def test_a_quota_that_refuses_the_pod_says_so_by_an_event() -> None:
    events = [
        {"reason": "FailedCreate", "message": "exceeded quota: builds", "lastTimestamp": NOW},
        {"reason": "SuccessfulCreate", "message": "made", "lastTimestamp": NOW},
    ]
    early = state_of(job(), [], now=seconds_of(EARLY), patience=PATIENCE, events=events)
    assert isinstance(early, Running) and "exceeded quota" in early.words
    late = state_of(job(), [], now=seconds_of(NOW), patience=PATIENCE, events=events)
    assert isinstance(late, Ended) and late.reason == "Unschedulable" and "exceeded quota" in late.message


def test_the_newest_pod_counts() -> None:
    older, newer = pod(ended(0), ended(3)), copy.deepcopy(pod(ended(0), {"running": {}}))
    newer["metadata"].update(name="q", creationTimestamp=NOW)
    assert isinstance(state_of(job(), [newer, older], now=seconds_of(NOW)), Running)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("64Mi", 67108864), ("1Gi", 2**30), ("1500M", 1500 * 10**6), ("1e3", 1000), ("2500m", 2), ("7", 7)],
)
def test_quantities(text: str, value: int) -> None:
    assert quantity(text) == value


def test_objects_are_not_changed() -> None:
    found, one = copy.deepcopy(FAILED), pod(ended(0), ended(1))
    before = json.dumps([found, one])
    state_of(found, [one], now=0)
    assert json.dumps([found, one]) == before


@pytest.mark.parametrize(
    ("limit_s", "uploading_s", "reason"),
    [
        (600, 60, "RegistryUnavailable"),
        (600, 59, "Timeout"),
        (80, 40, "RegistryUnavailable"),
        (80, 39, "Timeout"),
        (59, 58, "Timeout"),
        (3600, 61, "Timeout"),
        (3600, 360, "RegistryUnavailable"),
        (600, 0, "Timeout"),
    ],
)
def test_time_that_the_registry_took_is_not_the_users(limit_s: int, uploading_s: int, reason: str) -> None:
    late = Ended(reason="Timeout", message="m", container="kaniko", limit=limit_s * 1000)
    found = of_upload(late, uploading_s * 1000, "registry.example:5000")
    assert found.reason == reason
    assert found == late or ("registry.example:5000" in found.message and f"{uploading_s} s" in found.message)
    own = replace(late, message="m; timeout_ms of job_resources for acme decides it")
    assert "timeout_ms of job_resources for acme decides it" in of_upload(own, uploading_s * 1000, "r").message
    for other in (Ended(), Ended(reason="StepFailed"), Ended(reason="OutOfMemory")):
        assert of_upload(other, 1_000_000, "r") == other


@pytest.mark.parametrize(
    ("found", "pods", "own", "named"),
    [
        (FAILED, [pod(ended(0), ended(137, "OOMKilled"))], "cpus,memory_bytes", "memory_bytes"),
        (FAILED, [pod(ended(0), ended(137, "OOMKilled"))], "cpus", ""),
        (FAILED, [pod(phase="Failed", reason="Evicted", message=FULL % ("layers", "4Gi"))], "disk_bytes", "disk_bytes"),
        (job("Failed", "DeadlineExceeded"), [], "timeout_ms", "timeout_ms"),
        (job("Failed", "DeadlineExceeded"), [], "--evil", ""),
        (
            job(),
            [pod(conditions=condition("PodScheduled", "False", "Unschedulable", NO_ROOM))],
            "cpus,memory_bytes,timeout_ms",
            "cpus, memory_bytes",
        ),
        (FAILED, [pod(ended(0), ended(1))], "cpus,memory_bytes,disk_bytes,timeout_ms", ""),
    ],
)
def test_an_end_at_a_limit_of_the_organization_itself_names_the_setting(
    found: dict[str, Any], pods: list[dict[str, Any]], own: str, named: str
) -> None:
    more = {"annotations": {OWN_LIMITS: own}, "labels": {ORGANIZATION: "acme"}}
    state = state_of({**found, "metadata": {**found["metadata"], **more}}, pods, now=seconds_of(NOW))
    plain = state_of(found, pods, now=seconds_of(NOW))
    assert isinstance(state, Ended) and isinstance(plain, Ended) and state.reason == plain.reason
    words = f"; {named} of job_resources for acme decides it" if named else ""
    assert state.message == plain.message + words
