"""Embedded servers for the end-to-end tests of builds: real Redis, worker, sandbox, compilers and registry.

Bases, toolchains and package caches are kept between sessions in one folder (15 s and a network to make); everything
else is new for each session. Sessions take turns, because they share the caches and the build users.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from builder import config
from builder.client.api import Api
from builder.local import embedded
from tests import uids
from tests.build_fixtures import Server, closed_port
from tests.kept import SHARED, keeping

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What a file's tests leave open (a socket, a process) fails that file, and not whichever test runs when the
    collector comes by."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def kept() -> Iterator[Path]:
    """The folder that stays, with the bases made; ours alone while the session runs."""
    with keeping() as folder:
        yield folder


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private registry, "host:port"."""
    with embedded.private_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def start(kept: Path, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a server with its own records and node folder; `flags` are settings, over those of the tests.

    Two are none: `own_caches` (else the kept ones), `node_prefix` (how the node folder's name begins).
    """
    free = iter(uids.SERVERS)

    @contextmanager
    def started(**flags: Any) -> Iterator[Server]:
        prefix = flags.pop("node_prefix", "ignite-builder-node-")
        node = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
        node.chmod(0o755)
        own = {"caches"} if flags.pop("own_caches", True) else set()
        for name in SHARED:
            if name not in own:
                (node / name).symlink_to(kept / name)
        values = {
            "data_dir": str(tmp_path_factory.mktemp("data")),
            "node_dir": str(node),
            "registry": registry,
            "build_uid": next(free),
            "retry_backoff_ms": 50,
            "tick_ms": 500,
            **flags,
        }
        try:
            with embedded.start(config.load(values).settings) as running:
                api = Api(running.url, running.token, timeout_s=120)
                try:
                    yield Server(running, api)
                finally:
                    api.close()
        finally:
            shutil.rmtree(node, ignore_errors=True)

    return started


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Server]:
    """The server as it comes, and the package caches of earlier sessions."""
    with start(own_caches=False, build_uid=uids.SERVER) as running:
        yield running


@contextmanager
def scripting(start: Start, *more: str, **flags: Any) -> Iterator[Server]:
    """A server that knows the third pipeline (tests/pipeline_script.py) and `more`, with small limits."""
    mib = 1024 * 1024
    path = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT) + (os.pathsep + path if path else ""))
        with start(
            pipelines=("tests.pipeline_script", *more),
            catalog=str(ROOT / "tests/data/catalog.toml"),
            memory_bytes=256 * mib,
            disk_bytes=64 * mib,
            pids=64,
            **{"start_check": "off", **flags},  # hundreds of its builds are no programs
        ) as running:
            yield running


@pytest.fixture(scope="session")
def scripts(start: Start) -> Iterator[Server]:
    """A server that builds what a script of ours leaves: hostile code runs in its steps."""
    with scripting(start, stop_grace_ms=2000) as running:
        yield running


@pytest.fixture(scope="session")
def no_cgroups(start: Start) -> Iterator[Server]:
    """The same on a machine that lends no cgroup: rlimits and the watcher must do."""
    with scripting(start, use_cgroups=False) as running:
        yield running


@pytest.fixture(scope="session")
def cut_off(start: Start) -> Iterator[Server]:
    """A server whose registry and package index do not answer."""
    with closed_port() as port:
        index = {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{port}/simple"}
        with start(registry=f"127.0.0.1:{port}", index_env=index) as running:
            yield running
