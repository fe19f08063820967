"""A Docker engine of a test's own: data, state, socket and control groups are in places of their own and go with it.

No bridge and no rule of a firewall: containers have no network, and the machine's own engine, if any, is not met.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from builder.engine.api import connect
from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.local.embedded import end

START_S = 120.0
BASE = "ignite-test/python:1"


@contextmanager
def running_engine() -> Iterator[str]:
    """Start one; yields its address."""
    program = shutil.which("dockerd")
    assert program, "dockerd is not installed; next: deploy/setup"
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-engine-", dir="/var/tmp"))
    host = f"unix://{folder}/docker.sock"
    group = f"ignite-builder-engine-{os.getpid()}"
    argv = [
        program,
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        f"--host={host}",
        f"--config-file={folder}/daemon.json",
        f"--cgroup-parent=/{group}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--iptables=false",
        "--ip-forward=false",  # a setting of the machine, which others look at
        "--bridge=none",
    ]
    (folder / "daemon.json").write_text("{}")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        _await(host, process, log)
        yield host
    finally:
        end(process, 60)
        _remove(folder, group)


def _await(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        why: object = "it does not listen"
        if _listens(host):
            try:
                connect(host).close()
                return
            except BuildError as error:
                why = error
        words = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None and time.monotonic() < until, f"{why}\n{words}"
        time.sleep(0.05)


def _listens(host: str) -> bool:
    """Whether the engine's socket takes connections. The SDK leaves a socket open that it could not connect."""
    with socket.socket(socket.AF_UNIX) as plain:
        return plain.connect_ex(host.removeprefix("unix://")) == 0


def _remove(folder: Path, group: str) -> None:
    """What an engine leaves behind at its end: mounts of its state, empty groups, its data."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    groups = Path("/sys/fs/cgroup")  # at the root of each hierarchy: no walk, others make and remove groups meanwhile
    for below in (*groups.glob(group), *groups.glob(f"*/{group}")):
        with suppress(OSError):
            below.rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def client(host: str) -> Any:
    """The SDK's own client."""
    from docker import APIClient

    return APIClient(base_url=host, version="auto")


def load(host: str, base: BaseImage) -> None:
    """Give the engine a base image of ours under the name `BASE`, as `docker load` takes it."""
    layers = {f"{number}/layer.tar": one for number, one in enumerate(base.layers)}
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"{name}={value}" for name, value in base.env]},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in base.layers]},
    }
    row = {"Config": "config.json", "RepoTags": [BASE], "Layers": list(layers)}
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as packed:
            for name, value in (("config.json", config), ("manifest.json", [row])):
                data = json.dumps(value).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                packed.addfile(entry, io.BytesIO(data))
            for name, layer in layers.items():
                packed.add(layer.path, name)
        archive.seek(0)
        found = client(host)
        try:
            answers = list(found.load_image(archive))
            assert not [one for one in answers if "error" in one], answers
        finally:
            found.close()
