"""One cluster for the session, with the images of Jobs in its registry."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.config import load
from tests import git_fixtures as hosts
from tests.cluster import cluster as clusters
from tests.cluster.cluster import Cluster
from tests.cluster_fixtures import Jobs, jobs_of
from tests.git_fixtures import Host


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with clusters.running() as running:
        yield running


@pytest.fixture(scope="session")
def jobs(cluster: Cluster) -> Iterator[Jobs]:
    with jobs_of(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that build users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-git-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    """A git host behind TLS: git reads the CA bundle as a build user."""
    with hosts.serving(folder, load({}).settings.ca_bundle) as served:
        yield served
