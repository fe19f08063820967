"""Jobs of buildpacks: golden manifests, hostile values, and who sees what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.buildpacks.manifest import PHASES, RUNS_BUILDPACKS, BuildpacksBuild, cache_image, manifest
from builder.buildpacks.project import WantedBuildpack
from builder.kube.job import PUSH_VOLUME, Site
from tests.golden import jobs
from tests.unit.test_kaniko_manifest import expanded

ROOT = Path(__file__).parents[2]
SITE = Site(namespace="ignite-buildpacks", executor=jobs.BUILDER, fetcher=jobs.FETCHER)


def made(**fields: Any) -> dict[str, Any]:
    values = {
        "repository": "registry.example/acme/app",
        "tag": "t",
        "run_image": jobs.RUN,
        "uid": 1001,
        "gid": 1000,
        **fields,
    }
    return manifest(SITE, jobs.ATTEMPT, jobs.SOURCE, jobs.LIMITS, BuildpacksBuild(**values))


def containers(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pod = job["spec"]["template"]["spec"]
    return {one["name"]: one for one in (*pod["initContainers"], *pod["containers"])}


@pytest.mark.parametrize("name", sorted(jobs.buildpacks_manifests()))
def test_a_manifest_is_the_golden_one(name: str) -> None:
    text = (jobs.FOLDER / f"{name}.json").read_text()
    assert jobs.text_of(jobs.buildpacks_manifests()[name]) == text, "run: make golden"


def test_the_phases_come_one_after_the_other_behind_the_source() -> None:
    pod = made()["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["initContainers"]] == ["fetch", *PHASES[:-1]]
    assert [one["name"] for one in pod["containers"]] == [PHASES[-1]]


@pytest.mark.parametrize("phase", RUNS_BUILDPACKS)
def test_what_runs_buildpacks_has_no_credential_and_only_reads_what_was_decided(phase: str) -> None:
    one = containers(made(cache_image="registry.example/cache:x"))[phase]
    mounts = {mount["name"]: mount for mount in one["volumeMounts"]}
    assert PUSH_VOLUME not in mounts
    assert "registry.example" not in json.dumps([one["args"], one["env"]]), "it does not even know where"
    assert mounts["analyzed"]["readOnly"] and mounts["platform"]["readOnly"]
    assert phase == "detect" or mounts["detected"]["readOnly"]


def test_each_phase_that_speaks_to_a_registry_has_the_credential() -> None:
    connected = {name for name, one in containers(made()).items() if PUSH_VOLUME in json.dumps(one["volumeMounts"])}
    assert connected == set(PHASES) - set(RUNS_BUILDPACKS)
    without = made(has_push_secret=False)
    assert "DOCKER_CONFIG" not in json.dumps(without) and PUSH_VOLUME not in json.dumps(without)


def test_every_container_is_the_builders_user_without_any_right_of_root() -> None:
    job = made()
    assert job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for name, one in containers(job).items():
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["securityContext"].get("runAsUser", 1001) == 1001, name


@pytest.mark.parametrize(("uid", "gid"), [(0, 1000), (1000, 0), (-1, 5)])
def test_root_builds_nothing(uid: int, gid: int) -> None:
    with pytest.raises(ValueError, match="not root"):
        made(uid=uid, gid=gid)


@pytest.mark.parametrize("value", ["-run-image=evil.example/x", "$(HOME)", "$$", "a\n-layers=/etc", '"', "ü"])
def test_a_users_value_is_a_file_of_its_own_or_one_token(value: str) -> None:
    plain, hostile = made(), made(arguments=(("BP_A", value),), process=value)
    annotations = hostile["spec"]["template"]["metadata"]["annotations"]
    assert annotations["ignite.dodil.dev/argument-0"] == value
    (platform,) = [one for one in hostile["spec"]["template"]["spec"]["volumes"] if one["name"] == "platform"]
    path = {"fieldPath": "metadata.annotations['ignite.dodil.dev/argument-0']"}
    assert platform["downwardAPI"]["items"] == [{"path": "env/BP_A", "fieldRef": path}]
    for name, one in containers(plain).items():
        more = [token for token in containers(hostile)[name]["args"] if token not in one["args"]]
        assert [expanded(token) for token in more] == ([f"-process-type={value}"] if name == "export" else [])


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc", ".."])
def test_a_path_out_of_the_source_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not below"):
        made(sub_path=path)


def test_the_run_image_is_named_by_digest_and_listed_without() -> None:
    job = made()
    assert f"-run-image={jobs.RUN}" in containers(job)["analyze"]["args"]
    run = job["spec"]["template"]["metadata"]["annotations"]["ignite.dodil.dev/run"]
    assert run == '[[images]]\nimage = "registry.example/cnb/run"\n', "so that a later one may take its place"


def test_an_order_takes_the_place_of_the_builders() -> None:
    job = made(order=(WantedBuildpack(id="a/b", version="1.0.0"),))
    assert "-order=/state/asked/order.toml" in containers(job)["detect"]["args"]
    assert not any(token.startswith("-order") for token in containers(made())["detect"]["args"])


def test_apps_and_organizations_share_no_cache_image() -> None:
    names = {
        cache_image("registry.example", organization, f"registry.example/{organization}/{app}", platform)
        for organization in ("acme", "other")
        for app in ("one", "two")
        for platform in ("linux/amd64", "linux/arm64")
    }
    assert len(names) == 8
    assert len({name.rpartition(":")[0] for name in names}) == 4, "one repository for each organization and platform"


def test_the_namespace_enforces_restricted_and_its_network_is_that_of_kaniko() -> None:
    kaniko, buildpacks = (
        (ROOT / "deploy/kubernetes" / f"{name}.yaml").read_text().split("\n---\n") for name in ("kaniko", "buildpacks")
    )
    assert "  pod-security.kubernetes.io/enforce: restricted\n" in buildpacks[0]
    policy = buildpacks[1][buildpacks[1].index("apiVersion") :]
    assert policy == kaniko[1][kaniko[1].index("apiVersion") :].replace("ignite-kaniko", "ignite-buildpacks")
