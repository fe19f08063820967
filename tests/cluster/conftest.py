"""One cluster for the session, with the images of Jobs in its registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import cluster as clusters
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster_fixtures import NAMESPACE, Jobs, Sources


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with clusters.running() as running:
        yield running


@pytest.fixture(scope="session")
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    """The cluster with the builder's manifests applied, and what a Job needs around it."""
    cluster.kubectl("apply", "-f", str(clusters.DEPLOY))
    account = clusters.wait_for(
        lambda: "default" in cluster.kubectl("get", "serviceaccounts", "-n", NAMESPACE, "-o", "name"), 30
    )
    assert account, "the namespace got no service account"
    with Sources(cluster.address) as sources:
        yield Jobs(
            cluster,
            sources,
            executor=images.push_executor(cluster.registry),
            fetcher=images.push_fetcher(cluster.registry),
            debian=images.push_debian(cluster.registry),
            worker=account_of(cluster, "worker"),
            watcher=account_of(cluster, "watcher"),
        )


def account_of(cluster: Cluster, name: str) -> Path:
    """A kubeconfig with a token of one of the builder's accounts."""
    token = cluster.kubectl("create", "token", name, "-n", "ignite-builder", "--duration=1h").strip()
    path = cluster.folder / f"{name}.kubeconfig"
    path.write_text(json.dumps(clusters.kubeconfig(cluster, token, NAMESPACE)))
    path.chmod(0o600)
    return path
