"""Buildpacks builds by the CNB lifecycle on a real cluster: what is pushed is pulled, started and called."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.buildpacks.ended import diagnose, pushed_digest
from builder.buildpacks.image import Builder, read_app, read_builder
from builder.buildpacks.manifest import PHASES, BuildpacksBuild, Rebase, cache_image, manifest, rebase_manifest
from builder.images.registry import connect
from builder.kube.job import Limits, Site
from builder.source.tree import DictTree
from tests.build_fixtures import Files
from tests.cluster import images
from tests.cluster.cluster import wait_for
from tests.cluster_fixtures import LIMITS, MIB, ORGANIZATION, Jobs, Ran

NAMESPACE = "ignite-buildpacks"
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

    def run(self, files: Files, build: BuildpacksBuild, *, limits: Limits = LIMITS, site: Site | None = None) -> Ran:
        attempt = self.jobs.attempt()
        job = manifest(site or self.site, attempt, self.jobs.sources.put(files), limits, build)
        return self.jobs.attended(job, attempt)

    @contextmanager
    def started(self, reference: str) -> Iterator[str]:
        """The URL of an image that runs as a pod of the cluster, answering."""
        name = f"app-{next(self.jobs._ids)}"
        container = {"name": "app", "image": reference, "env": [{"name": "PORT", "value": "8081"}]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"automountServiceAccountToken": False, "containers": [container]},
        }
        kubectl = self.jobs.cluster.kubectl
        kubectl("create", "-f", "-", stdin=json.dumps(pod))
        try:
            kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
            url = f"http://{kubectl('get', 'pod', name, '-o', 'jsonpath={.status.podIP}')}:8081"
            assert wait_for(lambda: _answers(url), 60), kubectl("logs", name)
            yield url
        finally:
            kubectl("delete", "pod", name, "--now", "--wait=false", check=False)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def packs(jobs: Jobs) -> Packs:
    host = jobs.cluster.registry
    assert wait_for(lambda: "default" in jobs.cluster.kubectl("get", "sa", "-n", NAMESPACE, "-o", "name"), 30)
    reference = images.push_builder(host)
    return Packs(jobs, reference, images.push_run(host, "one\n"), read_builder(config_of(host, reference)))


def config_of(host: str, reference: str) -> dict[str, Any]:
    """The config of an image in the cluster's registry."""
    repository, _, digest = reference.removeprefix(f"{host}/").partition("@")
    registry = connect(host, insecure=True)
    try:
        found = registry.get_manifest(repository, digest)
        assert found
        body = b"".join(registry.open_blob(repository, json.loads(found.body)["config"]["digest"]))
    finally:
        registry.close()
    value: dict[str, Any] = json.loads(body)
    return value


def test_an_app_without_a_dockerfile_is_built_pulled_started_and_called(packs: Packs, tmp_path: Path) -> None:
    build = packs.build("page", sub_path="site", arguments=(("BP_GREETING", "hello, $(HOME) $$\n"),))
    ran = packs.run({"site/index.html": PAGE["index.html"], "other/secret": "not of this app"}, build)
    assert ran.ended.succeeded, (ran.ended, ran.lines)
    root, config, digest = packs.jobs.pulled(build, tmp_path)
    assert pushed_digest(ran.ended.said) == digest, "the Job reports what the tag points at"
    assert sorted(path.name for path in (root / "workspace").iterdir()) == ["greeting.txt", "index.html"]
    assert config["User"] == "1000:1000"
    with packs.started(f"{build.repository}@{digest}") as url:
        assert httpx.get(url, trust_env=False).text == PAGE["index.html"]
        assert httpx.get(f"{url}/greeting.txt", trust_env=False).text == "hello, $(HOME) $$\n"
    _ = DictTree, PHASES, MIB, read_app, rebase_manifest, Rebase, cache_image, diagnose, ran
