"""Kaniko's Jobs: golden manifests, hostile values, and the rules that every manifest follows."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from builder.kaniko.manifest import CONTEXT, EXEMPTIONS, DockerfileBuild, cache_repository, manifest
from builder.kube.job import SOURCE_VOLUME, JobAttempt, JobLimits, Site, job_name, labels_of, push_secret
from tests.golden import jobs

ROOT = Path(__file__).parents[2]
SITE = Site(namespace="ignite-kaniko", executor=jobs.EXECUTOR, fetcher=jobs.FETCHER)


def made(**fields: Any) -> dict[str, Any]:
    build = DockerfileBuild(**{"repository": "registry.example/acme/app", "tag": "t", **fields})
    return manifest(SITE, jobs.ATTEMPT, jobs.SOURCE, jobs.LIMITS, build)


def container(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("name", sorted(jobs.manifests()))
def test_a_manifest_is_the_golden_one(name: str) -> None:
    assert jobs.text_of(jobs.manifests()[name]) == (jobs.FOLDER / f"{name}.json").read_text(), "run: make golden"


@pytest.mark.parametrize(("cpus", "asked"), [(0.2, "200m"), (0.5, "500m"), (4, "500m")])
def test_fetching_asks_for_no_more_of_a_processor_than_the_build(cpus: float, asked: str) -> None:
    limits = dataclasses.replace(jobs.LIMITS, cpus=cpus)
    job = manifest(SITE, jobs.ATTEMPT, jobs.SOURCE, limits, DockerfileBuild(repository="h/r", tag="t"))
    resources = job["spec"]["template"]["spec"]["initContainers"][0]["resources"]
    assert resources["requests"] == resources["limits"] and resources["requests"]["cpu"] == asked


def test_golden_manifests_are_all_of_them() -> None:
    assert {path.stem for path in jobs.FOLDER.glob("*.json")} == set(jobs.all_manifests())


def expanded(token: str) -> str:
    """What a container gets of an argument: Kubernetes replaces $(NAME) by a variable, $$ by $."""
    return re.sub(r"\$(\$|\(([^)]*)\))", lambda found: "$" if found[1] == "$" else f"<{found[2]}>", token)


@pytest.mark.parametrize(
    "value",
    [
        "--destination=evil.example/x:1",
        "a b",
        "x\n--force",
        "$(touch /x)",
        "`id`",
        "$HOME",
        "$$",
        "a$$(B)$",
        "a=b=c",
        "ü",
        '"',
        "\\",
    ],
)
def test_a_users_value_stays_one_token(value: str) -> None:
    plain, hostile = container(made()), container(made(build_args=(("A", value),), target=value))
    extra = [token for token in hostile["args"] if token not in plain["args"]]
    assert [expanded(token) for token in extra] == [f"--target={value}", f"--build-arg=A={value}"]
    assert all(token.startswith("--") and "=" in token for token in plain["args"] if token != "--reproducible")


@pytest.mark.parametrize("field", ["sub_path", "dockerfile"])
@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", ".."])
def test_a_path_out_of_the_source_is_refused(field: str, path: str) -> None:
    with pytest.raises(ValueError, match="is not below"):
        made(**{field: path})


def test_a_dockerfile_beside_the_folder_that_is_built_is_refused() -> None:
    with pytest.raises(ValueError, match="is not below"):
        made(sub_path="app", dockerfile="../Dockerfile")


def test_the_name_comes_from_build_and_attempt_and_is_a_label() -> None:
    assert made()["metadata"]["name"] == job_name("babcdefghjkmnpqrstvw", 2) == "ignite-babcdefghjkmnpqrstvw-2"
    assert len(job_name("b" * 20, 10**9)) <= 63


def test_a_long_organization_still_fits_a_label() -> None:
    first, second = (
        labels_of(JobAttempt(build_id="b", number=1, organization="o" * 100 + end))["ignite.dodil.dev/organization"]
        for end in "ab"
    )
    assert len(first) == 63 and first != second


def test_a_job_never_starts_a_second_pod() -> None:
    spec = made()["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], spec["completions"]) == (0, "Failed", 1)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert {rule["action"] for rule in spec["podFailurePolicy"]["rules"]} == {"FailJob"}


def test_an_ended_job_stays_until_its_outcome_is_stored() -> None:
    """A Job of every kind: the watchers may be away for longer than any time that it could name."""
    kept = {name for name, job in jobs.all_manifests().items() if "ttlSecondsAfterFinished" not in job["spec"]}
    assert kept == set(jobs.all_manifests())


def test_the_deadline_is_what_is_left_and_never_nothing() -> None:
    assert made()["spec"]["activeDeadlineSeconds"] == 600, "599.001 s are left"
    limits = JobLimits(cpus=1, memory_bytes=1, disk_bytes=1, timeout_ms=0)
    build = DockerfileBuild(repository="r/a", tag="t")
    assert manifest(SITE, jobs.ATTEMPT, jobs.SOURCE, limits, build)["spec"]["activeDeadlineSeconds"] == 1


def test_the_url_of_the_source_reaches_the_init_container_alone() -> None:
    pod = made()["spec"]["template"]["spec"]
    (fetch,) = pod.pop("initContainers")
    assert jobs.SOURCE.url in json.dumps(fetch)
    assert jobs.SOURCE.url not in json.dumps(pod)


def test_run_cannot_change_the_context_and_its_mount_hides_no_folder_of_the_image() -> None:
    (mount,) = [one for one in container(made())["volumeMounts"] if one["name"] == SOURCE_VOLUME]
    assert mount == {"name": SOURCE_VOLUME, "mountPath": CONTEXT, "readOnly": True}
    assert CONTEXT.startswith("/kaniko/"), "what the executor leaves out of snapshots"


def test_no_pod_of_a_build_has_a_token_of_the_cluster() -> None:
    pod = made()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_organizations_and_platforms_share_no_cache() -> None:
    names = {
        cache_repository("registry.example", organization, platform)
        for organization in ("acme", "other")
        for platform in ("linux/amd64", "linux/arm64")
    }
    assert len(names) == 4


def test_the_push_credential_goes_with_its_job() -> None:
    secret = push_secret(SITE, jobs.ATTEMPT, "uid-1", {"registry.example": ("robot", "wörd")})
    assert secret["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": jobs.ATTEMPT.job, "uid": "uid-1"}
    ]
    config = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert base64.b64decode(config["auths"]["registry.example"]["auth"]).decode() == "robot:wörd"
    (volume,) = [one for one in made()["spec"]["template"]["spec"]["volumes"] if one["name"] == "push"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]


def test_the_page_lists_each_exemption_from_restricted() -> None:
    page = (ROOT / "docs/image-builds.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `fetch` |") or line.startswith("| `kaniko` |")]
    assert rows == [f"| `{one.container}` | `{one.control}` | {one.why} |" for one in EXEMPTIONS]
