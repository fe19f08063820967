"""One cluster for the session, with the images of Jobs in its registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import cluster as clusters
from tests.cluster.cluster import Cluster
from tests.cluster_fixtures import Jobs, jobs_of


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with clusters.running() as running:
        yield running


@pytest.fixture(scope="session")
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    with jobs_of(cluster) as made:
        yield made
