"""PostgreSQL is away while a command watches a build: calls are answered "later", and the command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from builder.client.api import ApiUnreachable
from builder.local.embedded import end, private_redis
from tests.build_fixtures import until
from tests.chaos.parts import Part, await_database
from tests.postgres_fixtures import cluster
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e
AWAY_S = 8.0
"""How long the database stays away once calls fail: longer than the first pauses of a client."""


@contextmanager
def database() -> Iterator[Part]:
    """PostgreSQL as a process that a test ends and starts again."""
    with cluster() as made:
        part = Part(
            "database", list(made.argv), made.folder / "postgres.log", made.environ, as_user=made.as_user,
            cwd=made.folder,
        )  # fmt: skip
        try:
            part.start()
            await_database(part, made.folder)
            yield part
        finally:
            part.close()


@pytest.fixture
def away(tmp_path: Path) -> Iterator[tuple[Serve, Part]]:
    """A control side over a PostgreSQL of its own. A claim counts for as long as the test may take."""
    with ExitStack() as stack:
        part = stack.enter_context(database())
        _, redis_url = stack.enter_context(private_redis(tmp_path / "redis"))
        settings = {"store_url": f"postgresql+psycopg://postgres@/postgres?host={part.cwd}", "lease_ms": "900000"}
        yield stack.enter_context(serving(tmp_path / "serve", redis_url, settings)), part


@contextmanager
def watching(serve: Serve, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`ignite-builder build` of a handler against the server, and the file of what it writes."""
    (folder / "app").mkdir(parents=True)
    (folder / "app/handler.py").write_text("def handler(event, ctx):\n    return {}\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
    environ |= {"IGNITE_BUILDER_SERVER": serve.url, "IGNITE_BUILDER_TOKEN": "t-both", "XDG_CONFIG_HOME": str(folder)}
    options = ("--runtime", "python", "--runtime-version", "3.11")
    argv: list[str | Path] = [Path(sys.executable).parent / "ignite-builder", "build", folder / "app", *options]
    wrote = folder / "wrote"
    with wrote.open("wb") as out:
        client = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield client, wrote
    finally:
        end(client, 30)


def is_answered(call: Callable[[], object]) -> bool:
    """Whether a call of a node is answered, or is to be repeated."""
    with suppress(ApiUnreachable):
        call()
        return True
    return False


def test_a_command_that_watches_goes_on_while_the_store_is_away(away: tuple[Serve, Part], tmp_path: Path) -> None:
    serve, part = away
    serve.register()
    with watching(serve, tmp_path / "client") as (client, wrote):
        found: list[str] = []

        def is_submitted() -> bool:
            found[:] = [
                one["buildId"] for one in serve.ask("GET", "/v1/ignite/builds", "both").json().get("builds", [])
            ]
            return bool(found)

        assert until(is_submitted, 300), wrote.read_text()
        (build_id,) = found
        claim = serve.claim(build_id)
        serve.log(build_id, claim, ["a line before"])
        assert until(lambda: "a line before" in wrote.read_text(), 300), wrote.read_text()

        part.kill()
        record = f"/v1/ignite/builds/{build_id}"
        assert until(lambda: serve.ask("GET", record, "both").status_code == 503, 300)
        refused = serve.ask("GET", record, "both")
        assert refused.json()["code"] == "UNAVAILABLE" and int(refused.headers["retry-after"]) > 0, refused.text
        time.sleep(AWAY_S)  # the outage itself
        assert client.poll() is None, wrote.read_text()
        part.start()
        assert part.cwd is not None
        await_database(part, part.cwd)

        assert until(lambda: is_answered(lambda: serve.log(build_id, claim, ["a line behind"], first=1)), 300)
        assert until(lambda: is_answered(lambda: serve.fail(build_id, claim, 2)), 300)
        assert client.wait(300) == 1, wrote.read_text()
    said = wrote.read_text()
    assert said.count("a line before") == said.count("a line behind") == 1, said
    assert "CompileFailed" in said and "REFUSED" not in said and "LOST" not in said, said
    assert serve.ask("GET", record, "both").json()["status"] == "BUILD_STATUS_FAILED"
