"""Redis as docs/operators.md sets it up: a user for each role, TLS of a CA of one's own. The page's text is run."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from builder.local.embedded import end
from builder.local.ports import free_port
from tests.broker_fixtures import QUEUE, ROOT, hint, worker
from tests.serve_fixtures import serving

pytestmark = pytest.mark.e2e

HOST = "localhost"
START_S = 300.0


def blocks() -> list[str]:
    """The code blocks of the page's section about Redis."""
    page = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    section = page.partition("\n## Redis\n")[2].partition("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int
    url: str

    def of(self, user: str) -> str:
        return self.url.replace("control:CONTROL-PASSWORD", f"{user}:{user.upper()}-PASSWORD")

    @contextmanager
    def client(self, user: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(self.of(user)) as client:
            yield client

    def refused(self) -> list[Any]:
        """What the access rules refused since the last look; not what a client says of itself when it connects."""
        with self.client("admin") as admin:
            found: list[dict[str, Any]] = admin.acl_log()
            admin.acl_log_reset()
            return [entry for entry in found if not entry["object"].startswith("client")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis made by the page's commands and files."""
    folder, port = tmp_path_factory.mktemp("roles"), free_port()
    users, certificates, config, settings = blocks()
    made = certificates.replace("redis.example.com", HOST)
    subprocess.run(["sh", "-ec", made], cwd=folder, check=True, capture_output=True, timeout=120)
    (folder / "users.acl").write_text(users)
    text = config.replace("/etc/redis/", f"{folder}/").replace("tls-port 6379", f"tls-port {port}")
    (folder / "redis.conf").write_text(f"{text}bind 127.0.0.1 ::1\nsave ''\ndir {folder}\n")
    [url] = re.findall(r'redis_url = "(.*)"', settings)
    url = url.replace("redis.example.com:6379", f"{HOST}:{port}").replace(
        "/etc/ignite/redis-ca.crt", str(folder / "ca.crt")
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["redis-server", str(folder / "redis.conf")], stdout=log, stderr=log)
    try:
        made_here = Server(folder, port, url)
        deadline = time.monotonic() + START_S
        while True:
            try:
                with made_here.client("admin") as admin:
                    admin.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield made_here
    finally:
        end(process, 5)


def test_a_hint_goes_from_role_to_role_and_nothing_that_either_needs_is_refused(server: Server, tmp_path: Path) -> None:
    server.refused()
    with (
        serving(tmp_path / "serve", server.of("control")) as serve,
        worker(tmp_path / "worker", serve, server.of("worker")) as running,
    ):
        serve.register("another")  # has the toolchain, so that the build is offered; ours refuses it, and says so
        assert serve.ask("GET", "/readyz").status_code == 200
        build_id = serve.submit()
        assert running.took(build_id), running.said()
        with server.client("worker") as node, node.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe("ignite:cancel")
            channel.get_message(timeout=120)
            assert serve.ask("POST", f"/v1/ignite/builds/{build_id}/cancel", "both").status_code == 200
        running.process.terminate()
        assert running.process.wait(300) == 0, running.said()
        assert "NOPERM" not in running.said() + serve.out.read_text() + serve.err.read_text()
    assert server.refused() == []


FORBIDDEN: dict[str, list[tuple[str, ...]]] = {
    "worker": [
        ("LPUSH", "another", "x"),
        ("LRANGE", QUEUE, "0", "-1"),
        ("PUBLISH", "ignite:cancel", "x"),
        ("SUBSCRIBE", "another"),
        ("SUBSCRIBE", "ignite:changed"),
        ("BRPOP", "another", "1"),
        ("DEL", QUEUE),
    ],
    "control": [("BRPOP", QUEUE, "1"), ("DEL", QUEUE), ("LPUSH", "another", "x"), ("PUBLISH", "another", "x")],
}
FOR_NOBODY = [("FLUSHALL",), ("CONFIG", "GET", "dir"), ("KEYS", "*"), ("EVAL", "return 1", "0"), ("ACL", "LIST")]


@pytest.mark.parametrize("user", ["worker", "control"])
def test_what_a_role_does_not_need_is_refused(server: Server, user: str) -> None:
    with server.client(user) as client:
        assert client.ping()
        for command in (*FORBIDDEN[user], *FOR_NOBODY):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)  # type: ignore[no-untyped-call]
    assert len(server.refused()) > 0


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (lambda one: one.of("worker").replace("WORKER-PASSWORD", "wrong"), redis.AuthenticationError),
        (lambda one: one.url.replace("control:CONTROL-PASSWORD@", ""), redis.AuthenticationError),
        (lambda one: one.url.replace("rediss", "redis").partition("?")[0], redis.ConnectionError),
        (lambda one: one.url.partition("?")[0], redis.ConnectionError),  # a CA that nobody here knows
        (lambda one: one.url.replace(HOST, "127.0.0.1"), redis.ConnectionError),  # not the certificate's name
    ],
    ids=["password", "nobody", "plain", "unknown CA", "another name"],
)
def test_who_does_not_come_as_the_page_says_is_refused(
    server: Server, url: Callable[[Server], str], error: type[Exception]
) -> None:
    with redis.Redis.from_url(url(server)) as client, pytest.raises(error):
        client.ping()


def test_a_hint_is_sent_to_no_redis_whose_certificate_is_of_an_unknown_ca(server: Server) -> None:
    with pytest.raises(OperationalError, match="certificate verify failed"):
        hint(server.of("control").partition("?")[0], "k7m2xq9d4t1zv6wh5r3p")
