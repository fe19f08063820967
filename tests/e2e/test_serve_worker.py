"""A control side and a build node as two processes, set up by the words of docs/operators.md."""

from __future__ import annotations

import re
import signal
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from builder.local.embedded import private_redis
from builder.local.ports import free_port
from tests import uids
from tests.build_fixtures import PYTHON_HANDLER, TERMINAL, processes_of, until
from tests.crash_fixtures import Reports, is_terminal
from tests.program_fixtures import Program, processes_that_name, serving

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).resolve().parents[2] / "docs/operators.md").read_text()
BUILD_UID = uids.NODE


@dataclass(frozen=True)
class Parts:
    """The three who have a part: each with the settings that the page gives it."""

    control: Program
    node: Program
    client: Program
    url: str
    reports: Reports
    folder: Path


@pytest.fixture
def parts(kept: Path, registry: str) -> Iterator[Parts]:
    reports = Reports()
    with (
        tempfile.TemporaryDirectory(prefix="ignite-builder-operator-", dir="/var/tmp") as name,
        private_redis(Path(name) / "redis") as (_, redis_url),
    ):
        folder = Path(name)
        folder.chmod(0o755)
        url = f"http://127.0.0.1:{(port := free_port())}"
        values = {
            "listen": f"127.0.0.1:{port}",
            "redis_url": redis_url,
            "store_url": f"sqlite:///{folder}/builder.db",
            "registry": registry,
            "report_url": reports.url,
            "message_key": "a long random text",
        }
        control = Program(folder / "control")
        tokens = ("acme-token", "node-token", "watcher-token", "operator-token")
        write_config(control.home / ".config/ignite-builder/config.toml", values, tokens)
        (folder / "token").write_text("node-token\n")
        exported = {
            "server": url,
            "token_file": str(folder / "token"),
            "redis_url": redis_url,
            "node_id": "node-1",
        }
        assert {f"IGNITE_BUILDER_{name.upper()}" for name in exported} == set(re.findall(r"(IGNITE_\w+)=", PAGE))
        node_dir = folder / "node"
        node_dir.mkdir()
        for shared in ("bases", "caches"):
            (node_dir / shared).symlink_to(kept / shared)
        node = Program(folder / "worker", exported | {"node_dir": str(node_dir), "build_uid": str(BUILD_UID)})
        client = Program(folder / "client", {"server": url, "token": "acme-token"})
        try:
            yield Parts(control, node, client, url, reports, folder)
        finally:
            reports.stop()


def write_config(path: Path, values: dict[str, str], tokens: tuple[str, ...]) -> None:
    """The page's settings file with our values in its places; one that it no longer names is an error."""
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    text = found[1]
    assert set(tomllib.loads(text)) == {*values, "tokens", "report_keys"}
    for name, value in values.items():
        text = re.sub(rf'^{name} = ".*"$', f'{name} = "{value}"', text, flags=re.MULTILINE)
    assert text.count('"…"') == len(tokens)
    for token in tokens:
        text = text.replace('"…"', f'"{token}"', 1)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def test_two_processes_build_what_a_client_asks_for(parts: Parts, tmp_path: Path) -> None:
    def is_ready() -> bool:
        assert serve.poll() is None, serve_said.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(parts.url + "/readyz", timeout=5, trust_env=False, verify=False).is_success
        return False

    def has_ended() -> bool:
        assert worker.poll() is None, worker_said.read_text()
        return parts.client.run("get", build_id, "--json").record.status in TERMINAL

    bases = parts.node.run("bases", "build", "go", "python-3.11")
    assert bases.code == 0
    made = dict(line.split(" sha256:") for line in bases.out.splitlines())
    assert set(made) == {"go", "python-3.11"} and {len(digest) for digest in made.values()} == {64}
    (tmp_path / "handler.py").write_text(PYTHON_HANDLER)
    with (
        serving(parts.control, "serve") as (serve, serve_said),
        serving(parts.node, "worker") as (worker, worker_said),
    ):
        assert until(is_ready), serve_said.read_text()
        build_id = parts.client.run("build", str(tmp_path), "--name", "hello", "--detach").out.strip()
        assert until(has_ended), serve_said.read_text() + worker_said.read_text()
        built = parts.client.run("get", build_id, "--json", "--exit-status")
        assert built.code == 0, built.out
        assert built.record.organization_name == "acme"
        assert built.record.repository == "acme/hello"
        assert until(lambda: told(parts.reports, build_id)), parts.reports.received
        for process, said in ((worker, worker_said), (serve, serve_said)):
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0, said.read_text()
    assert until(lambda: not processes_of(range(BUILD_UID, BUILD_UID + 10)))
    assert until(lambda: not [line for line in processes_that_name(parts.folder) if "redis-server" not in line])


def told(reports: Reports, build_id: str) -> bool:
    """Whether the end of a build was reported."""
    return any(is_terminal(same[0]) for same in reports.of(build_id).values())
