"""The test cluster itself: beside another one, and gone without a trace, also when its session was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from builder.process import process_start
from tests.cluster import cluster as clusters
from tests.cluster.cluster import Cluster

STARTS = """\
import pathlib, sys, time
from tests.cluster import cluster
cluster.start(pathlib.Path(sys.argv[1]))
print("up", flush=True)
time.sleep(600)
"""
SYSTEM = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


def system() -> list[str]:
    return [Path("/proc/sys", name).read_text() for name in SYSTEM]


def test_a_cluster_whose_session_was_killed_is_ended_by_the_next_one(cluster: Cluster) -> None:
    """It runs beside the session's own, which goes on."""
    before = system()
    folder = Path(tempfile.mkdtemp(prefix=clusters.PREFIX, dir=clusters.PLACE))
    folder.rmdir()
    argv = [sys.executable, "-c", STARTS, str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as session:
        assert session.stdout
        try:
            assert session.stdout.readline() == b"up\n"
            state = json.loads((folder / "state.json").read_text())
            assert state["bridge"] != cluster.bridge and state["address"] != cluster.address
            other = clusters.load(folder)
            assert other
            other.kubectl("run", "sleeper", f"--image={other.registry}/test/pause:latest", "--restart=Never")
            other.kubectl("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=240s")
        finally:
            session.kill()
    living = {name: pid for name, (pid, start) in state["processes"].items() if process_start(pid) == start}
    assert living.keys() == {"registry", "etcd", "apiserver", "controllers", "scheduler", "node"}
    clusters.sweep()
    assert not folder.exists()
    assert not [pid for pid, start in state["processes"].values() if process_start(pid) == start]
    assert not Path("/sys/class/net", state["bridge"]).exists()
    # Others make and remove groups meanwhile, which a walk over all of them does not survive.
    assert not [one for one in clusters._hierarchies() if (one / state["bridge"]).exists()]
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert not processes_of(folder), "containers and their shims too"
    assert system() == before
    assert all(cluster.is_running(name) for name in cluster.processes)
    mounts = Path(f"/proc/{cluster.processes['node'][0]}/mountinfo").read_text()
    assert all(f" {place} " in mounts for place in clusters.SHARED_PLACES), "of a folder that is removed they go along"


def processes_of(folder: Path) -> list[str]:
    """Processes that name the folder in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found
