"""What is measured on a real one-node Kubernetes: that of `make cluster` where it runs, else one of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import cluster as clusters
from tests.cluster.cluster import PLACE
from tests.cluster_fixtures import Jobs, jobs_of


def is_up() -> bool:
    """Whether `make cluster` was made in this checkout, and runs."""
    return clusters.up() is not None


@contextmanager
def on_cluster() -> Iterator[tuple[Jobs, Path]]:
    """The cluster, and a folder that build users may enter. Raises `BuildError` where no cluster can be started."""
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-bench-", dir=PLACE))
    folder.chmod(0o755)
    try:
        if (running := clusters.up()) is not None:
            with jobs_of(running) as jobs:
                yield jobs, folder
        else:
            with clusters.running() as started, jobs_of(started) as jobs:
                yield jobs, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
