"""An artifact without us: copied by skopeo, unpacked by umoci, started from that root as the user its config names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.local.ports import free_port
from tests.build_fixtures import CALLER, Server, status_of, tar_gz_of, until
from tests.golden.update import EXAMPLES, files_of

pytestmark = pytest.mark.e2e
USER = 65532


@dataclass(frozen=True)
class Bundle:
    """What umoci unpacked: the root, and how a container runtime would start it (OCI runtime specification)."""

    root: Path
    process: dict[str, Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the artifact's user can enter; pytest's own ones are for their owner only."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-unpacked-", dir="/var/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def unpacked(image: str, folder: Path) -> Bundle:
    """The image of a registry as a root. Both programs check every digest on the way."""
    copy = ["skopeo", "copy", "-q", "--preserve-digests", "--src-tls-verify=false", image, f"oci:{folder}/copy:tag"]
    unpack = ["umoci", "unpack", "--image", f"{folder}/copy:tag", f"{folder}/bundle"]
    for argv in (copy, unpack):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    (folder / "bundle").chmod(0o755)
    return Bundle(folder / "bundle/rootfs", json.loads((folder / "bundle/config.json").read_text())["process"])


@contextmanager
def running(bundle: Bundle, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The entry point in its root, as its user, with its environment and nothing else: no /proc, no /dev, no /tmp."""
    user = bundle.process["user"]
    enter = ["unshare", f"--root={bundle.root}", f"--wd={bundle.process['cwd']}"]
    argv = [*enter, f"--setgid={user['gid']}", f"--setuid={user['uid']}", *bundle.process["args"]]
    env = dict(pair.partition("=")[::2] for pair in bundle.process["env"]) | {"PORT": str(port)}
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may enter another root as another user")
@pytest.mark.parametrize("name", ["go-hello", "python-hello"])
def test_an_artifact_runs_from_the_root_that_umoci_unpacked(
    server: Server, registry: str, folder: Path, name: str
) -> None:
    expect = tomllib.loads((EXAMPLES / name / "expect.toml").read_text())
    build = server.build(name, tar_gz_of(files_of(EXAMPLES / name)))
    bundle = unpacked(f"docker://{registry}/{build.repository}@{build.image_digest}", folder)
    port, log = free_port(), folder / "log"
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(url + "/healthz", timeout=5, trust_env=False, verify=False).is_success
        except httpx.TransportError:
            return False

    with running(bundle, port, log) as process:
        assert until(is_ready), log.read_text()
        status = status_of(process.pid)
        assert status["Uid"] == status["Gid"] == [str(USER)] * 4
        assert (status["Groups"], int(status["CapEff"][0], 16)) == ([], 0)
        assert Path(f"/proc/{process.pid}/root").readlink() == bundle.root
        headers = CALLER | {"x-ignite-execution-id": "demo-1"}
        answer = httpx.post(url, content=expect["send"], headers=headers, timeout=120, trust_env=False)
        assert (answer.status_code, answer.text) == (200, expect["answer"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0, log.read_text()
