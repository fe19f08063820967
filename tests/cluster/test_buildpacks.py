"""Buildpacks builds by the CNB lifecycle on a real cluster: what is pushed is pulled, started and called."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.buildpacks.ended import diagnose, pushed_digest
from builder.buildpacks.image import Builder, read_app, read_builder
from builder.buildpacks.manifest import BuildpacksBuild, Rebase, cache_image, manifest, rebase_manifest
from builder.buildpacks.plan import plan_buildpacks
from builder.images.registry import connect
from builder.kube.job import JobLimits, Site
from builder.source.tree import DictTree
from tests.build_fixtures import Files
from tests.cluster import images
from tests.cluster.cluster import START_S, wait_for
from tests.cluster.test_policy import KINDS, WATCHER, WORKER, as_pod, dry_run, rights
from tests.cluster_fixtures import MIB, ORGANIZATION, Jobs, Ran
from tests.golden import jobs as golden

NAMESPACE = "ignite-buildpacks"
LIMITS = JobLimits(cpus=1, memory_bytes=512 * MIB, disk_bytes=1024 * MIB, timeout_ms=300_000)
"""A pod that ends still takes its place on the node: none of these tests is about that."""

PAGE = {"index.html": "<h1>a page</h1>\n"}


@dataclass
class Packs:
    """The cluster with a builder image and a run image."""

    jobs: Jobs
    builder_image: str
    run_image: str
    builder: Builder

    @property
    def site(self) -> Site:
        return dataclasses.replace(self.jobs.site, namespace=NAMESPACE, executor=self.builder_image)

    def build(self, name: str, **fields: Any) -> BuildpacksBuild:
        """A build that pushes to the cluster's registry."""
        host = self.jobs.cluster.registry
        values: dict[str, Any] = {
            "repository": f"{host}/{ORGANIZATION}/{name}",
            "tag": "attempt-1",
            "run_image": self.run_image,
            "uid": self.builder.uid,
            "gid": self.builder.gid,
            "insecure_registries": (host,),
            **fields,
        }
        return BuildpacksBuild(**values)

    def run(self, files: Files, build: BuildpacksBuild, *, limits: JobLimits = LIMITS, site: Site | None = None) -> Ran:
        attempt = self.jobs.attempt()
        job = manifest(site or self.site, attempt, self.jobs.sources.put(files), limits, build)
        return self.jobs.attended(job, attempt)

    def rebase(self, rebase: Rebase) -> Ran:
        attempt = self.jobs.attempt()
        job = rebase_manifest(self.site, attempt, LIMITS, rebase)
        return self.jobs.attended(job, attempt)


@pytest.fixture(scope="module")
def packs(jobs: Jobs) -> Packs:
    host = jobs.cluster.registry
    assert wait_for(lambda: "default" in jobs.cluster.kubectl("get", "sa", "-n", NAMESPACE, "-o", "name"), START_S)
    reference = images.push_builder(host)
    return Packs(jobs, reference, images.push_run(host, "one\n"), read_builder(config_of(host, reference)))


def config_of(host: str, reference: str) -> dict[str, Any]:
    """The config of an image in the cluster's registry."""
    return _read(host, reference)[1]


def layers_of(host: str, reference: str) -> list[str]:
    """The digests of an image's layers, lowest first."""
    return [str(row["digest"]) for row in _read(host, reference)[0]["layers"]]


def _read(host: str, reference: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, config)."""
    repository, _, digest = reference.removeprefix(f"{host}/").partition("@")
    registry = connect(host, insecure=True)
    try:
        found = registry.get_manifest(repository, digest)
        assert found
        value: dict[str, Any] = json.loads(found.body)
        config: dict[str, Any] = json.loads(b"".join(registry.open_blob(repository, value["config"]["digest"])))
    finally:
        registry.close()
    return value, config


def test_an_app_without_a_dockerfile_is_built_pulled_started_and_called(packs: Packs, tmp_path: Path) -> None:
    build = packs.build("page", sub_path="site", arguments=(("BP_GREETING", "hello, $(HOME) $$\n"),))
    ran = packs.run({"site/index.html": PAGE["index.html"], "other/secret": "not of this app"}, build)
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    root, config, digest = packs.jobs.pulled(build, tmp_path)
    assert pushed_digest(ran.ended.said) == digest, "the Job reports what the tag points at"
    assert sorted(path.name for path in (root / "workspace").iterdir()) == ["greeting.txt", "index.html"]
    assert config["User"] == "1000:1000"
    with packs.jobs.serving(f"{build.repository}@{digest}") as url:
        assert httpx.get(url, trust_env=False, timeout=120).text == PAGE["index.html"]
        assert httpx.get(f"{url}/greeting.txt", trust_env=False, timeout=120).text == "hello, $(HOME) $$\n"
    app = read_app(config_of(packs.jobs.cluster.registry, f"{build.repository}@{digest}"))
    assert app and app.run_image == packs.run_image, "the run image is recorded by its digest"
    assert [(one.id, one.version) for one in app.buildpacks] == [("ignite/static", "1.2.0")]
    assert app.sbom
    (sbom,) = (root / "layers/sbom/launch/ignite_static").rglob("sbom.cdx.json")
    assert json.loads(sbom.read_text())["components"] == [{"type": "application", "name": "serve"}]


def test_the_same_source_gives_the_same_digest(packs: Packs) -> None:
    digests = {pushed_digest(packs.run(PAGE, packs.build("same", tag=tag)).ended.said) for tag in ("one", "two")}
    assert len(digests) == 1 and "" not in digests


def test_what_runs_buildpacks_sees_no_credential_and_changes_no_decision(packs: Packs, tmp_path: Path) -> None:
    build = packs.build("look", arguments=(("BP_GREETING", "hello"),))
    ran = packs.run({**PAGE, "look": ""}, build)
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    log = ran.lines["build"]
    assert "uid 1000, args hello, other none" in log
    assert not [line for line in log if line.startswith(("sees ", "writes ")) or "DOCKER_CONFIG" in line]
    root, _, _ = packs.jobs.pulled(build, tmp_path)
    assert os.readlink(root / "layers/ignite_static/stolen") == os.readlink(root / "workspace/registry") == "/registry"
    login = base64.b64encode(b"robot:s3cret")
    exported = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert exported and not [path for path in exported if login in path.read_bytes()], "export follows no link"


def test_no_buildpack_matches_and_the_message_names_those_that_were_tried(packs: Packs) -> None:
    ran = packs.run({"README": "no page"}, packs.build("none"))
    found = diagnose(ran.ended, ran.lines)
    assert found.reason == "NoBuildpack", (ran.ended, ran.lines)
    assert "ignite/stamp@1.0.0 (does not match), ignite/static@1.2.0 (does not match)" in found.message
    assert "build" not in ran.lines, "nothing was built"


def test_a_buildpack_whose_detection_breaks_is_named_with_its_words(packs: Packs) -> None:
    ran = packs.run({"broken-detect": ""}, packs.build("broken"))
    found = diagnose(ran.ended, ran.lines)
    assert found.reason == "StepFailed", (ran.ended, ran.lines)
    assert found.message == "the detection of ignite/stamp@1.0.0 failed"
    assert found.said == ("the stamp is broken",), ran.lines


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "buildpack ignite/static@1.2.0 ended with exit code 3"),
        ({"stamp": ""}, "a buildpack ended with exit code 3 (the group is ignite/stamp@1.0.0, ignite/static@1.2.0)"),
    ],
)
def test_a_build_script_that_exits_3_has_its_line(packs: Packs, files: Files, message: str) -> None:
    ran = packs.run({**PAGE, **files, "fails": ""}, packs.build("fails"))
    found = diagnose(ran.ended, ran.lines)
    assert (found.reason, found.message) == ("StepFailed", message), (ran.ended, ran.lines)
    assert found.said[-2:] == ("building pages", "pages: no such template")
    assert "export" not in ran.lines


def test_memory_has_its_limit_and_the_phase(packs: Packs) -> None:
    limits = dataclasses.replace(LIMITS, memory_bytes=192 * MIB)
    ran = packs.run({**PAGE, "hungry": ""}, packs.build("memory"), limits=limits)
    found = diagnose(ran.ended, ran.lines)
    assert (ran.ended.reason, ran.ended.container, ran.ended.limit) == ("OutOfMemory", "build", 192 * MIB), ran.ended
    assert found.message.startswith("build: ")


def test_the_second_build_takes_its_layer_of_the_cache(packs: Packs, tmp_path: Path) -> None:
    source = {**PAGE, "stamp": ""}
    host = packs.jobs.cluster.registry
    numbers = {}
    for name in ("first", "second", "other"):
        app = "other" if name == "other" else "cached"
        cache = cache_image(host, ORGANIZATION, f"{host}/{ORGANIZATION}/{app}")
        build = packs.build(app, tag=name, cache_image=cache)
        ran = packs.run(source, build)
        assert ran.ended.succeeded, (ran.ended, ran.lines)
        word = "the stamp is of the cache" if name == "second" else "a new stamp"
        assert word in ran.lines["build"], (name, ran.lines)
        root = packs.jobs.pulled(build, tmp_path / name)[0]
        numbers[name] = (root / "layers/ignite_stamp/stamp/number").read_text()
    assert numbers["first"] == numbers["second"] != numbers["other"]


def test_a_rebase_changes_the_base_and_no_layer_of_the_app(packs: Packs, tmp_path: Path) -> None:
    host = packs.jobs.cluster.registry
    build = packs.build("rebased")
    ran = packs.run({**PAGE, "stamp": ""}, build)
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    before = pushed_digest(ran.ended.said)
    image = f"{build.repository}@{before}"
    newer = images.push_run(host, "two\n")
    rebase = Rebase(
        image=image,
        repository=build.repository,
        tag="rebased",
        run_image=newer,
        uid=build.uid,
        gid=build.gid,
        insecure_registries=(host,),
    )
    done = packs.rebase(rebase)
    assert done.ended.succeeded, (done.ended, done.lines)
    root, _, digest = packs.jobs.pulled(rebase, tmp_path)
    assert pushed_digest(done.ended.said) == digest != before
    assert (root / "etc/run-version").read_text() == "two\n"
    old, new = layers_of(host, image), layers_of(host, f"{build.repository}@{digest}")
    base_of_old, base_of_new = (len(layers_of(host, one)) for one in (packs.run_image, newer))
    assert old[base_of_old:] == new[base_of_new:], "each layer of the app is the very same"
    assert old[:base_of_old] != new[:base_of_new] == layers_of(host, newer)
    app = read_app(config_of(host, f"{build.repository}@{digest}"))
    assert app and app.run_image == newer
    with packs.jobs.serving(f"{build.repository}@{digest}") as url:
        assert httpx.get(url, trust_env=False, timeout=120).text == PAGE["index.html"]


def test_an_app_that_is_none_cannot_be_rebased(packs: Packs) -> None:
    rebase = Rebase(
        image=packs.jobs.debian,
        repository=f"{packs.jobs.cluster.registry}/{ORGANIZATION}/none",
        tag="rebased",
        run_image=packs.run_image,
        uid=1000,
        gid=1000,
        insecure_registries=(packs.jobs.cluster.registry,),
    )
    done = packs.rebase(rebase)
    assert diagnose(done.ended, done.lines).reason == "StepFailed", (done.ended, done.lines)


def test_a_run_image_that_is_not_there_is_the_operators(packs: Packs) -> None:
    absent = packs.run_image[:-8] + "00000000"
    ran = packs.run(PAGE, packs.build("absent", run_image=absent))
    found = diagnose(ran.ended, ran.lines)
    assert found.reason == "ExecutorImageUnavailable", (ran.ended, ran.lines)
    assert absent in "".join((found.message, *found.said))


def test_a_registry_that_does_not_answer_is_not_the_users(packs: Packs) -> None:
    host = f"{packs.jobs.cluster.address}:1"
    build = packs.build("down", repository=f"{host}/{ORGANIZATION}/down", insecure_registries=(host,))
    ran = packs.run(PAGE, build)
    assert diagnose(ran.ended, ran.lines).reason == "RegistryUnavailable", (ran.ended, ran.lines)
    assert ran.ended.container == "analyze", "before anything was built"


def test_project_toml_chooses_buildpacks_variables_and_files(packs: Packs, tmp_path: Path) -> None:
    files = {
        **PAGE,
        "stamp": "",
        "draft.html": "not yet",
        "project.toml": """
            [_]
            schema-version = "0.2"
            [io.buildpacks]
            exclude = ["draft.*"]
            [[io.buildpacks.group]]
            id = "ignite/static"
            [[io.buildpacks.build.env]]
            name = "BP_GREETING"
            value = "of the project"
        """,
    }
    plan = plan_buildpacks(DictTree(files), packs.builder, because="", build_args={})
    is_part = plan.filter()
    build = packs.build("project", arguments=plan.arguments, order=plan.order)
    ran = packs.run({path: content for path, content in files.items() if is_part(path)}, build)
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    root, _, _ = packs.jobs.pulled(build, tmp_path)
    assert (root / "workspace/greeting.txt").read_text() == "of the project"
    assert not (root / "workspace/draft.html").exists()
    assert not (root / "layers/ignite_stamp").exists(), "the builder's own order has it, the project's has not"


@pytest.mark.parametrize("name", sorted(golden.buildpacks_manifests()))
def test_a_manifest_passes_every_check_of_the_server_and_restricted(jobs: Jobs, name: str) -> None:
    job = golden.buildpacks_manifests()[name]
    job["metadata"]["namespace"] = NAMESPACE
    for kind in KINDS:
        jobs.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(kind))
    accepted = dry_run(jobs.cluster, job)
    assert accepted.splitlines() == [f"job.batch/{job['metadata']['name']}"], "accepted, and without a warning"
    pod = dry_run(jobs.cluster, as_pod(job, NAMESPACE))
    assert pod.splitlines() == [f"pod/{job['metadata']['name']}"]
    worse = as_pod(job, NAMESPACE)
    del worse["spec"]["securityContext"]["runAsNonRoot"]
    assert 'violates PodSecurity "restricted:latest"' in dry_run(jobs.cluster, worse)


@pytest.mark.parametrize(("name", "expected"), [("worker", WORKER), ("watcher", WATCHER), ("", set())])
def test_an_account_may_do_there_what_its_calls_need(
    jobs: Jobs, name: str, expected: set[tuple[str, str, str]]
) -> None:
    account = f"ignite-builder:{name}" if name else f"{NAMESPACE}:default"
    assert rights(jobs.cluster, account, NAMESPACE) == expected
