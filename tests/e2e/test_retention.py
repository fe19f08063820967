"""Retention at a real docker-registry and in a real `ignite-builder serve`."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from builder import config
from builder.client.api import ApiError
from builder.control.retention import Retention
from builder.images.registry import connect
from builder.local.embedded import private_redis
from builder.logs import event_log
from builder.stores.folder import FolderStore
from tests.build_fixtures import until
from tests.e2e.test_oci_registry import docker_registry
from tests.oci_fixtures import make_image
from tests.serve_fixtures import serving
from tests.store_contract.retaining import built, due_attempts
from tests.store_contract.world import World, open_world

pytestmark = pytest.mark.e2e

TINY = "0.000005"  # days: 432 ms
AGES = ("succeeded", "failed", "cache", "reports", "nodes", "uploads", "attempt_tags")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_two_tags_on_one_manifest_survive_every_run_at_docker_registry(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str
) -> None:
    """2.8 has no deletion of a tag, and deleting its digest would take the user's tags along."""
    monkeypatch.setenv("REGISTRY_STORAGE_DELETE_ENABLED", enabled)
    left: list[int] = []
    with docker_registry(tmp_path / "registry") as host:
        registry = connect(host)
        build, image = built(world), make_image(tmp_path / "w")
        registry.push(image, "acme/n", f"build-{build}-1")
        for tag in ("latest", "v1"):
            registry.put_tag("acme/n", image.digest, tag)
        loop = Retention(
            settings=config.load({}).settings,
            store=world.store,
            sources=FolderStore(tmp_path / "sources"),
            destination=registry,
            log=event_log(io.StringIO()),
            left=left.append,
        )
        for _ in range(3):
            world.at[0] += 100 * 86_400_000
            loop.run()
        assert left == [1], "counted once"
        assert due_attempts(world) == []
        for tag in ("latest", "v1", f"build-{build}-1"):
            assert registry.resolve("acme/n", tag) == image.digest
        for layer in image.layers:
            assert b"".join(registry.open_blob("acme/n", layer.digest)) == layer.path.read_bytes()
        # What it was tried out with goes by its digest where that is allowed: nothing else names it.
        assert (registry.resolve("acme/n", "build-untag-1") is None) is (enabled == "true")
        registry.close()


def test_a_server_with_tiny_ages_forgets_what_it_may_and_keeps_what_is_needed(tmp_path: Path) -> None:
    ages = {f"keep_{name}_days": TINY for name in AGES}

    def claimed(build: str) -> int:
        """Claimed by a node that may be forgotten between its registration and its claim: then once more."""
        found = list[int]()

        def is_granted() -> bool:
            server.register()
            with suppress(AssertionError, ApiError):
                found.append(server.claim(build))
            return bool(found)

        assert until(is_granted)
        return found[0]

    with (
        private_redis(tmp_path / "redis") as (_, redis_url),
        serving(tmp_path / "serve", redis_url, {**ages, "retention_ms": "100", "lease_ms": "60000"}) as server,
    ):
        old = server.submit("old", code=source("b2xkID0gMQo="))
        claim = claimed(old)
        server.log(old, claim, ["one", "two"])
        server.fail(old, claim, 2)
        waits = server.submit("waits", code=source("d2FpdHMgPSAxCg=="))
        # Sources are an hour old at least before they go.
        for path in (server.data / "sources" / "sha256").rglob("*"):
            os.utime(path, (time.time() - 7200,) * 2)
        assert until(lambda: server.ask("GET", f"/v1/ignite/builds/{old}", "both").status_code == 404)
        assert server.ask("GET", f"/v1/ignite/builds/{waits}", "both").json()["status"] == "BUILD_STATUS_PENDING"

        def deleted(what: str) -> Callable[[], bool]:
            return lambda: server.metrics()[f'ignite_retention_deleted_total{{what="{what}"}}'] >= 1

        for what in ("builds", "attempt-tags", "sources", "nodes"):
            assert until(deleted(what)), what
        kept = [path for path in (server.data / "sources" / "sha256").rglob("*") if path.is_file()]
        assert len(kept) == 1, "the waiting build's"
        assert claimed(waits)
        assert server.ask("GET", "/readyz").status_code == 200
        assert not [line for line in server.out.read_text().splitlines() if "failed" in line and "error" in line]


def source(text: str) -> dict[str, object]:
    return {"compile": {"runtime": {"python": {}}, "sourceCode": text}}
