"""The disk of one of two nodes is full: no build ends for it, and the node says that it takes none."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local.embedded import private_redis
from builder.local.ports import free_port
from tests import uids
from tests.build_fixtures import TERMINAL, small_disk, until
from tests.program_fixtures import Program, serving

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
SMALL_MIB = 8
SERVER_PY = "open('/work/out/server.py', 'w').write('print(1)')\n"
FILLS = "open('/work/out/x', 'wb').write(bytes(24 << 20))\n" + SERVER_PY
"""A step that needs more than the small disk has."""


def test_builds_end_well_on_the_other_node_and_the_full_one_takes_no_more(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, script in (("step", FILLS), ("source", SERVER_PY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "build.py").write_text(script)
    (tmp_path / "source" / "large").write_bytes(os.urandom((SMALL_MIB + 4) << 20))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ignite-builder-full-", dir="/var/tmp")))
        folder.chmod(0o755)
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        url = f"http://127.0.0.1:{(port := free_port())}"
        shared = {
            "redis_url": redis_url, "pipelines": "tests.pipeline_script", "slots": "1", "retry_backoff_ms": "100",
            "catalog": str(ROOT / "tests/data/catalog.toml"), "node_free_bytes": str(1 << 20), "node_free_inodes": "50",
        }  # fmt: skip
        tokens = '[{token="c", organization="acme"}, {token="w", scopes=["worker"]}, {token="o", scopes=["operate"]}]'
        serve = {"listen": f"127.0.0.1:{port}", "message_key": "k", "tokens": tokens, "data_dir": str(folder / "data")}
        control = Program(folder / "control", shared | serve)
        client = Program(folder / "client", {"server": url, "token": "c"})
        operator = Program(folder / "operator", {"server": url, "token": "o"})
        building, operating = Api(url, "c"), Api(url, "o")
        stack.callback(building.close)
        stack.callback(operating.close)
        works = []
        for number, name in enumerate(("small", "large")):
            node = folder / name
            node.mkdir()
            (node / "bases").symlink_to(kept / "bases")
            mine = {"server": url, "token": "w", "node_id": name, "node_dir": str(node)}
            works.append(
                Program(folder / f"of-{name}", shared | mine | {"build_uid": str(uids.NODE + 10 + 5 * number)})
            )
        stack.enter_context(small_disk(folder / "small" / "work", SMALL_MIB))
        making = Program(folder / "bases", {"node_dir": str(folder / "large")})
        assert making.run("bases", "build", "python-3.11").code == 0
        _, said = stack.enter_context(serving(control, "serve"))

        def is_ready() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(url + "/readyz", timeout=5, trust_env=False, verify=False).is_success
            return False

        def nodes() -> dict[str, pb.Node]:
            found: pb.ListNodesResponse = operating.call("ListNodes", pb.ListNodesRequest())
            return {node.node_id: node for node in found.nodes}

        def start(name: str, number: int) -> str:
            ran = client.run("build", str(tmp_path / name), "--name", f"{name}-{number}", "--detach", "--no-cache")
            assert ran.code == 0, ran.err
            return ran.out.strip()

        def ended(build_id: str) -> pb.Build:
            def get() -> pb.Build:
                build: pb.Build = building.call("GetBuild", pb.GetBuildRequest(build_id=build_id))
                return build

            assert until(lambda: get().status in TERMINAL), [
                work.home.joinpath("worker.log").read_text() for work in works
            ]
            return get()

        assert until(is_ready), said.read_text()
        for work in works:
            stack.enter_context(serving(work, "worker"))
        assert until(lambda: len(nodes()) == 2), [work.home.joinpath("worker.log").read_text() for work in works]
        builds = [ended(one) for one in [start(name, number) for number in range(3) for name in ("step", "source")]]
        while not any(build.retries for build in builds) and len(builds) < 30:  # the small node may start late
            builds.append(ended(start("step", len(builds))))
        failures = [
            (build.name, build.failure.reason, build.failure.message) for build in builds if build.failure.reason
        ]
        assert not failures
        assert {build.node_id for build in builds} == {"large"}
        tried = [build for build in builds if build.retries]
        assert tried, "none of them was tried on the small node"
        for build in tried:
            log = client.run("logs", build.build_id)
            assert "NodeDiskFull: " in log.out and "the platform's fault" in log.out, log

        with suppress(OSError), (folder / "small/work/filler").open("wb", 0) as filler:
            while True:
                filler.write(bytes(1 << 16))
        assert until(lambda: bool(nodes()["small"].lacks))
        assert (nodes()["small"].slots, nodes()["large"].slots) == (0, 1)
        listed = operator.run("nodes", "ls").out
        assert "small takes no builds: less than 1 MiB free on its disk (node_free_bytes)" in listed
        assert 'ignite_node_lacks{node="small"' in httpx.get(url + "/metrics", timeout=120, trust_env=False).text
        last = ended(start("step", 9))
        assert (last.status, last.node_id, last.retries) == (pb.BUILD_STATUS_SUCCEEDED, "large", 0)
