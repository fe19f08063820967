"""One cluster for the session, with the images of Jobs in its registry."""

from __future__ import annotations

from collections.abc import Iterator

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
    cluster.deploy(NAMESPACE)
    with Sources(cluster.address) as sources:
        yield Jobs(
            cluster,
            sources,
            executor=images.push_executor(cluster.registry),
            fetcher=images.push_fetcher(cluster.registry),
            debian=images.push_debian(cluster.registry),
            worker=cluster.account("worker", NAMESPACE),
            watcher=cluster.account("watcher", NAMESPACE),
        )
