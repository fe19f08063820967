"""FINALIZE over a real layout: trouble repeats a step, what the registry lost is built again, tags end up right."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from builder import config
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.control.loops import event_log
from builder.errors import PlatformError
from builder.finalize import LATER_MS, Finalizer
from builder.images.layout import Layout
from builder.store import builds
from tests.oci_fixtures import make_image
from tests.store_contract.world import LEASE, World, open_world

REPOSITORY = "acme/n"
KEY = ("key", "sha256:" + "c" * 64, "go")


class Flaky(Layout):
    """A layout that `before` is called for, with the method's name, before each of its methods that FINALIZE uses."""

    before: Callable[[str], None] = staticmethod(lambda name: None)

    def attach(self, *args: Any) -> str:
        type(self).before("attach")
        return super().attach(*args)

    def put_tag(self, *args: Any) -> None:
        type(self).before("put_tag")
        super().put_tag(*args)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    monkeypatch.setattr(Flaky, "before", staticmethod(lambda name: None))
    return Flaky(tmp_path / "layout")


def finalizer(world: World, registry: Layout, **settings: Any) -> Finalizer:
    return Finalizer(
        settings=config.load({"lease_ms": LEASE, **settings}).settings,
        store=world.store,
        destination=registry,
        label=lambda name: None,
        changed=lambda build_id: None,
        stale=lambda call: None,
        log=event_log(io.StringIO()),
    )


def push(registry: Layout, tmp_path: Path, text: str) -> pb.BuiltArtifact:
    pushed = registry.push(make_image(tmp_path / f"image-{text}", text), REPOSITORY, None)
    return pb.BuiltArtifact(digest=pushed.digest, reference=pushed.reference, size_bytes=pushed.size_bytes)


def built(world: World, artifact: pb.BuiltArtifact, **fields: Any) -> str:
    """A build whose work has ended with this artifact; it waits in FINALIZE."""
    build = world.submit(**fields)
    claim = world.claim(build)
    assert builds.planned(world.store, build, claim, *KEY) == "GO_ON"
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=claim, success=artifact), 1000)
    return build


def run(world: World, finish: Finalizer) -> int:
    """Until nothing waits; how often trouble made it wait."""
    waited = 0
    while finish.next():
        world.at[0] += LATER_MS
        waited += 1
    return waited - 1


@pytest.mark.parametrize("step", ["attach", "put_tag"])
@pytest.mark.parametrize(
    "error",
    [
        PlatformError("RegistryUnavailable", "no answer"),
        OperationalError("select 1", None, Exception("connection lost")),
        RuntimeError("nobody foresaw this"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_repeats_the_step_and_costs_the_build_nothing(
    world: World, registry: Flaky, tmp_path: Path, step: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [error] * 4  # more than would be poison

    def before(name: str) -> None:
        if name == step and left:
            raise left.pop()

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    artifact = push(registry, tmp_path, "a")
    build = built(world, artifact)
    assert run(world, finalizer(world, registry)) == 4
    row = world.row(build)
    assert (row["status"], row["failures"], row["retries"]) == ("SUCCEEDED", 0, 0)
    assert registry.resolve(REPOSITORY, "latest") == artifact.digest
    assert len(registry.referrers(REPOSITORY, artifact.digest)) == 1


def test_a_store_that_cannot_even_hear_of_the_trouble_counts_no_lost_finalizer(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = built(world, push(registry, tmp_path, "a"))
    down = [True]

    def before(name: str) -> None:
        if down[0]:
            raise OperationalError("select 1", None, Exception("connection lost"))

    real = builds.release_finalize
    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    monkeypatch.setattr(builds, "release_finalize", lambda *args: before("release") or real(*args))
    finish = finalizer(world, registry)
    for _ in range(4):
        with pytest.raises(OperationalError):
            finish.next()
        world.at[0] += LEASE + 1
    down[0] = False
    finish.next()
    world.at[0] += LATER_MS
    run(world, finish)
    assert (world.row(build)["status"], world.row(build)["failures"]) == ("SUCCEEDED", 0)


def test_a_reused_artifact_that_the_registry_lost_is_built_again(world: World, registry: Flaky, tmp_path: Path) -> None:
    artifact = push(registry, tmp_path, "a")
    first = built(world, artifact)
    run(world, finalizer(world, registry))
    empty = Flaky(tmp_path / "another registry")
    finish = finalizer(world, empty)
    again = world.submit()
    assert builds.planned(world.store, again, world.claim(again), *KEY) == "REUSE"
    assert world.row(again)["from_cache_of"] == first
    finish.next()
    row = world.row(again)
    assert (row["status"], row["from_cache_of"], row["failures"], row["retries"]) == ("PENDING", "", 0, 0)
    claim = world.claim(again, "second")
    assert builds.planned(world.store, again, claim, *KEY) == "GO_ON", "the cache has forgotten it"
    artifact = push(empty, tmp_path, "a")
    builds.finish(world.store, pb.FinishRequest(build_id=again, claim=claim, success=artifact), 1000)
    run(world, finish)
    assert world.row(again)["status"] == "SUCCEEDED"
    third = world.submit()
    assert builds.planned(world.store, third, world.claim(third), *KEY) == "REUSE"
    run(world, finish)
    assert world.row(third)["status"] == "SUCCEEDED"


def test_what_was_built_without_the_cache_is_what_the_cache_answers_next(
    world: World, registry: Flaky, tmp_path: Path
) -> None:
    finish = finalizer(world, registry)
    built(world, push(registry, tmp_path, "a"))
    run(world, finish)
    anew = built(world, push(registry, tmp_path, "b"), no_cache=True)
    run(world, finish)
    third = world.submit()
    assert builds.planned(world.store, third, world.claim(third), *KEY) == "REUSE"
    assert world.row(third)["from_cache_of"] == anew


def test_a_newer_build_between_our_claim_of_a_tag_and_our_put_keeps_the_tag(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = push(registry, tmp_path, "older"), push(registry, tmp_path, "newer")
    built(world, older)
    second = built(world, newer, no_cache=True)
    met: list[str] = []

    def before(name: str) -> None:
        if name == "put_tag" and not met:
            met.append(name)
            run(world, finalizer(world, registry))  # another control side, all of it in between

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    run(world, finalizer(world, registry))
    assert world.row(second)["status"] == "SUCCEEDED"
    assert registry.resolve(REPOSITORY, "latest") == newer.digest


def test_a_tag_that_was_moved_is_put_back_for_ten_minutes(world: World, registry: Flaky, tmp_path: Path) -> None:
    ours, foreign = push(registry, tmp_path, "ours"), push(registry, tmp_path, "foreign")
    built(world, ours)
    finish = finalizer(world, registry)
    run(world, finish)
    for minute in range(1, 12):
        registry.put_tag(REPOSITORY, foreign.digest, "latest")
        world.at[0] += 60_000
        finish.check_tags()
        wanted = ours if minute < 10 else foreign
        assert registry.resolve(REPOSITORY, "latest") == wanted.digest, f"minute {minute}"


def test_a_slow_registry_does_not_let_another_control_side_adopt(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = built(world, push(registry, tmp_path, "a"))
    renewed = threading.Event()
    real = builds.keep_finalize

    def keep(store: Any, build_id: str, claim: int, lease_ms: int) -> bool:
        kept = real(store, build_id, claim, LEASE)
        renewed.set()
        return kept

    def before(name: str) -> None:
        if name == "attach":
            for _ in range(3):  # longer than a lease, in steps that are shorter
                world.at[0] += LEASE - 1
                renewed.clear()
                assert renewed.wait(60)
                assert builds.adopt_finalize(world.store, LEASE) is None

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    monkeypatch.setattr(builds, "keep_finalize", keep)
    finish = finalizer(world, registry, lease_ms=200)
    monkeypatch.setattr(builds, "adopt_finalize", _with_lease(builds.adopt_finalize))
    assert finish.next()
    assert (world.row(build)["status"], world.row(build)["failures"]) == ("SUCCEEDED", 0)


def _with_lease(real: Callable[..., Any]) -> Callable[..., Any]:
    """The real thread beats every 67 ms; the store's clock, which decides, goes by whole leases."""
    return lambda store, lease_ms: real(store, LEASE)
