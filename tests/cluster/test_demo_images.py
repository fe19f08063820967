"""`make demo-images` on the session's cluster: three images, each built, pulled, started, called and built again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from examples.demo_images import DEMO
from tests.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]


def demo(*argv: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
    command = [sys.executable, "-m", "examples.demo_images", *argv]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate()
    finally:
        if process.poll() is None:  # it ends what it started
            process.terminate()
            process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, said)


def test_the_demo_builds_starts_and_calls_three_images_and_ends_what_it_started(cluster: Cluster) -> None:
    done = demo(str(cluster.folder))
    assert done.returncode == 0, done.stdout
    rows = [line.split()[:2] for line in done.stdout.partition("ending what was started")[2].splitlines()]
    assert [row for row in rows if row[:1] != ["all"]][-len(DEMO) :] == [[one.name, one.kind] for one in DEMO]
    for one in DEMO:
        assert all(f"GET {path} -> {page.strip()}" in done.stdout for path, page in one.pages.items()), done.stdout
    assert all(cluster.is_running(name) for name in cluster.processes), "it is not the demo's to end"


def test_a_folder_without_a_cluster_is_named(tmp_path: Path) -> None:
    done = demo(str(tmp_path))
    assert done.returncode == 1 and f"there is no cluster in {tmp_path}" in done.stdout, done.stdout
