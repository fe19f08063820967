"""An image of a private registry: resolved with a secret of the organization, pulled by a pod with a login, called."""

from __future__ import annotations

from pathlib import Path

import httpx

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.registry import connect
from tests.cluster import images, pods
from tests.cluster.service import served
from tests.cluster_fixtures import Jobs
from tests.e2e.test_oci_registry import HTPASSWD, PASSWORD, docker_registry

PAGE = "<h1>An image of a private registry</h1>\n"


def test_a_private_image_is_recorded_by_its_digest_pulled_started_and_called(jobs: Jobs, tmp_path: Path) -> None:
    cluster, login = jobs.cluster, pb.RegistryLogin(username="robot", password=PASSWORD)
    with docker_registry(tmp_path / "private", htpasswd=HTPASSWD) as host:
        registry = connect(host, username=login.username, password=login.password)
        image = images.page(PAGE, tmp_path / "image")
        registry.push(image, "acme/page", "v1")
        registry.close()
        with served(jobs, tmp_path / "service", private_registries=host) as service:
            with service.serve.api("both") as api:
                secret = pb.NamedSecret(name="hub", host=host, registry=login)
                api.call("SaveBuildSecrets", pb.SaveBuildSecretsRequest(named=[secret]))
            asked = {"imageRef": f"{host}/acme/page:v1", "registrySecretRef": "hub"}
            build = service.succeeded(service.submit_image("page", {"prebuilt": asked}))
            refused = service.ended(service.submit_image("page", {"prebuilt": {**asked, "registrySecretRef": ""}}))
        assert refused.failure.reason == "ImageForbidden", refused.failure
        assert build.image_refs[0] == f"{host}/acme/page@{image.digest}"
        cluster.trust(host)
        with pods.serving(cluster, build.image_refs[0], login=(host, login.username, PASSWORD)) as url:
            assert httpx.get(url, trust_env=False, timeout=120).text == PAGE
