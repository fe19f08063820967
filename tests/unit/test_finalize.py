"""FINALIZE over a real layout: trouble repeats a step, what the registry lost is built again, tags end up right."""

from __future__ import annotations

import io
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from builder import config
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.control import finalizers
from builder.control.finalizers import Finalizers
from builder.credentials import secrets_of
from builder.errors import PlatformError
from builder.finalize import Finalizer
from builder.images.destination import Attached
from builder.images.layout import Layout
from builder.logs import event_log
from builder.prebuilt import Prebuilt
from builder.store import builds
from builder.store.closing import LATER_MS, LATEST_MS
from builder.store.transitions import EXTERNAL
from tests.oci_fixtures import make_image
from tests.store_contract.world import LEASE, World, open_world

REPOSITORY = "acme/n"
BACKOFF = 1_000
KEY = ("key", "sha256:" + "c" * 64, "go")


class Flaky(Layout):
    """A layout that `before` is called for, with the method's name, before each of its methods that FINALIZE uses."""

    before: Callable[[str], None] = staticmethod(lambda name: None)

    def attach(self, *args: Any) -> Attached:
        type(self).before("attach")
        made = super().attach(*args)
        return replace(made, confirm=lambda: type(self).before("confirm"))

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


def pool(world: World, registry: Layout, **more: Any) -> Finalizers:
    log = event_log(io.StringIO())
    finalizer = Finalizer(
        store=world.store,
        destination=registry,
        prebuilt=Prebuilt(settings=config.load({}).settings, secrets=secrets_of(config.load({}).settings, world.store)),
        backoff_ms=BACKOFF,
        label=lambda name: None,
        stale=lambda call: None,
        log=log,
    )
    return Finalizers(
        settings=config.load({"lease_ms": LEASE, **more.pop("settings", {})}).settings,
        store=world.store,
        finalizer=finalizer,
        changed=lambda build_id: None,
        log=log,
        **more,
    )


def attempt(ours: Finalizers) -> bool:
    """One attempt at the next build, here. False: none is due."""
    row = ours.adopt()
    if row is not None:
        ours.attempt(row)
    return row is not None


def push(registry: Layout, tmp_path: Path, text: str, repository: str = REPOSITORY) -> pb.BuiltArtifact:
    image = make_image(tmp_path / f"image-{text.replace('/', '-')}", text)
    return pb.BuiltArtifact(digest=registry.push(image, repository, None).digest)


def tag(registry: Layout, artifact: pb.BuiltArtifact, build: str, attempt: int = 1, to: str = REPOSITORY) -> None:
    """The attempt's tag, as its owner points it."""
    Layout.put_tag(registry, to, artifact.digest, f"build-{build}-{attempt}")


def report(world: World, build: str, claim: int, artifact: pb.BuiltArtifact) -> None:
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=claim, success=artifact), BACKOFF)


def built(world: World, registry: Layout, artifact: pb.BuiltArtifact, **fields: Any) -> str:
    """A build whose work has ended with this artifact; it waits in FINALIZE."""
    build = world.submit(**fields)
    claim = world.claim(build)
    assert builds.planned(world.store, build, claim, *KEY).verdict == "GO_ON"
    tag(registry, artifact, build)
    report(world, build, claim, artifact)
    return build


def run(world: World, ours: Finalizers) -> int:
    """Until nothing waits; how many attempts that took."""
    attempts = 0
    while attempt(ours):
        world.at[0] += LATEST_MS
        attempts += 1
    return attempts


@pytest.mark.parametrize("step", ["attach", "confirm", "put_tag"])
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
    build = built(world, registry, artifact)
    assert run(world, pool(world, registry)) == 5
    row = world.row(build)
    assert (row["status"], row["failures"], row["retries"]) == ("SUCCEEDED", 0, 0)
    assert registry.resolve(REPOSITORY, "latest") == artifact.digest
    assert len(registry.referrers(REPOSITORY, artifact.digest)) == 1


def test_a_store_that_cannot_even_hear_of_the_trouble_counts_no_lost_finalizer(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = built(world, registry, push(registry, tmp_path, "a"))
    down = [True]

    def before(name: str) -> None:
        if down[0]:
            raise OperationalError("select 1", None, Exception("connection lost"))

    def release(*args: Any) -> Any:
        before("release")
        return real(*args)

    real = builds.release_finalize
    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    monkeypatch.setattr(builds, "release_finalize", release)
    finish = pool(world, registry)
    assert attempt(finish)
    for _ in range(4):
        world.at[0] += LEASE + 1
        with pytest.raises(OperationalError):
            finish.step()  # it first releases what was not released
    down[0] = False
    finish.step()
    world.at[0] += LATEST_MS
    run(world, finish)
    assert (world.row(build)["status"], world.row(build)["failures"]) == ("SUCCEEDED", 0)


def test_a_process_that_ends_leaves_what_it_finalizes_to_the_next_at_once(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, goes_on = threading.Event(), threading.Event()

    def before(name: str) -> None:
        at_it.set()
        assert goes_on.wait(300)

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    build = built(world, registry, push(registry, tmp_path, "a"))
    leaving, other = pool(world, registry), pool(world, registry)
    leaving.step()
    assert at_it.wait(300)
    (thread,) = leaving._at_work.values()
    monkeypatch.setattr(Flaky, "before", staticmethod(lambda name: None))
    leaving.leave(ended=(build,))
    assert world.row(build)["finalizer"], "nobody asks the store about a build that has ended"
    leaving.leave()
    row = world.row(build)
    assert (row["finalizer"], row["lease_until"], row["finalize_tries"]) == (False, world.at[0], 0)
    leaving.step(woken=True)
    assert not world.row(build)["finalizer"], "it adopts nothing any more"
    assert attempt(other)
    goes_on.set()
    thread.join()
    assert (world.row(build)["status"], world.row(build)["failures"]) == ("SUCCEEDED", 0)


def test_who_leaves_while_the_store_is_away_does_not_fail(
    world: World, registry: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OperationalError("select 1", None, Exception("connection lost"))

    monkeypatch.setattr(builds, "release_finalize", away)
    leaving = pool(world, registry)
    leaving._at_work["b", 1] = threading.current_thread()
    leaving.leave()


def test_a_reused_artifact_that_the_registry_lost_is_built_again(world: World, registry: Flaky, tmp_path: Path) -> None:
    artifact = push(registry, tmp_path, "a")
    first = built(world, registry, artifact)
    run(world, pool(world, registry))
    empty = Flaky(tmp_path / "another registry")
    finish = pool(world, empty)
    again = world.submit()
    assert builds.planned(world.store, again, world.claim(again), *KEY).verdict == "REUSE"
    assert world.row(again)["from_cache_of"] == first
    assert attempt(finish)
    row = world.row(again)
    assert (row["status"], row["from_cache_of"], row["failures"], row["retries"]) == ("PENDING", "", 0, 0)
    claim = world.claim(again, "second")
    assert builds.planned(world.store, again, claim, *KEY).verdict == "GO_ON", "the cache has forgotten it"
    artifact = push(empty, tmp_path, "a")
    tag(empty, artifact, again, 2)
    report(world, again, claim, artifact)
    run(world, finish)
    assert world.row(again)["status"] == "SUCCEEDED"
    third = world.submit()
    assert builds.planned(world.store, third, world.claim(third), *KEY).verdict == "REUSE"
    run(world, finish)
    assert world.row(third)["status"] == "SUCCEEDED"


def test_what_was_built_without_the_cache_is_what_the_cache_answers_next(
    world: World, registry: Flaky, tmp_path: Path
) -> None:
    finish = pool(world, registry)
    built(world, registry, push(registry, tmp_path, "a"))
    run(world, finish)
    anew = built(world, registry, push(registry, tmp_path, "b"), no_cache=True)
    run(world, finish)
    third = world.submit()
    assert builds.planned(world.store, third, world.claim(third), *KEY).verdict == "REUSE"
    assert world.row(third)["from_cache_of"] == anew


def test_a_newer_build_between_our_claim_of_a_tag_and_our_put_keeps_the_tag(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = push(registry, tmp_path, "older"), push(registry, tmp_path, "newer")
    built(world, registry, older)
    second = built(world, registry, newer, no_cache=True)
    met: list[str] = []

    def before(name: str) -> None:
        if name == "put_tag" and not met:
            met.append(name)
            world.at[0] += LEASE  # the older's finalizer is slower than its lease
            assert attempt(pool(world, registry))  # another control side, all of it in between

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    run(world, pool(world, registry))
    assert world.row(second)["status"] == "SUCCEEDED"
    assert registry.resolve(REPOSITORY, "latest") == newer.digest


def test_a_tag_that_was_moved_is_put_back_for_ten_minutes(world: World, registry: Flaky, tmp_path: Path) -> None:
    ours, foreign = push(registry, tmp_path, "ours"), push(registry, tmp_path, "foreign")
    built(world, registry, ours)
    finish = pool(world, registry)
    assert attempt(finish)
    for minute in range(1, 12):
        registry.put_tag(REPOSITORY, foreign.digest, "latest")
        world.at[0] += 60_000
        finish.finalizer.check_tags()
        wanted = ours if minute < 10 else foreign
        assert registry.resolve(REPOSITORY, "latest") == wanted.digest, f"minute {minute}"


@dataclass
class Held:
    """Registry calls that wait until they are let go; `entered` counts those that came, by repository."""

    go: threading.Event
    entered: queue.SimpleQueue[str]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """`attach` waits, of repositories whose name begins with "slow"."""
    made = Held(threading.Event(), queue.SimpleQueue())
    real = Layout.attach

    def attach(self: Layout, repository: str, *args: Any) -> Attached:
        made.entered.put(repository)
        if repository.startswith("slow"):
            assert made.go.wait(300)
        return real(self, repository, *args)

    monkeypatch.setattr(Layout, "attach", attach)
    yield made
    made.go.set()


def waiting(world: World, registry: Layout, tmp_path: Path, repository: str) -> str:
    """A build that waits in FINALIZE, of this repository."""
    artifact = push(registry, tmp_path, repository, repository)
    build = world.submit(repository=repository)
    tag(registry, artifact, build, to=repository)
    report(world, build, world.claim(build), artifact)
    return build


def test_a_slow_registry_does_not_let_another_control_side_adopt(world: World, tmp_path: Path, held: Held) -> None:
    registry = Layout(tmp_path / "layout")
    build = waiting(world, registry, tmp_path, "slow/n")
    seconds, freed = [0.0], threading.Event()
    ours = pool(world, registry, monotonic=lambda: seconds[0], freed=freed.set)
    ours.step()
    assert held.entered.get(timeout=300) == "slow/n"
    for _ in range(9):  # three leases
        seconds[0] += LEASE / 3000
        world.at[0] += LEASE // 3
        ours.step()
        assert builds.adopt_finalize(world.store, LEASE) is None
    held.go.set()
    assert freed.wait(300)
    assert (world.row(build)["status"], world.row(build)["failures"]) == ("SUCCEEDED", 0)
    ours.step()
    assert not ours._renewed, "the lease of an ended attempt is nobody's"


def test_a_repository_that_hangs_keeps_one_thread_and_no_other_repository(
    world: World, tmp_path: Path, held: Held
) -> None:
    registry = Layout(tmp_path / "layout")
    slow = [waiting(world, registry, tmp_path, "slow/n") for _ in range(3)]
    healthy = waiting(world, registry, tmp_path, "beta/n")
    freed: queue.SimpleQueue[None] = queue.SimpleQueue()
    ours = pool(world, registry, settings={"finalizers": 2}, freed=lambda: freed.put(None))
    ours.step()
    assert {held.entered.get(timeout=300) for _ in range(2)} == {"slow/n", "beta/n"}
    freed.get(timeout=300)
    assert world.row(healthy)["status"] == "SUCCEEDED"
    ours.step()
    assert len(ours._at_work) == 1, "there is a free thread, and the others are of a repository that has its finalizer"
    held.go.set()
    for _ in slow:
        freed.get(timeout=300)
        ours.step()
    assert {world.row(build)["status"] for build in slow} == {"SUCCEEDED"}


def test_registries_of_strangers_that_do_not_answer_leave_half_of_the_threads(world: World, tmp_path: Path) -> None:
    registry = Layout(tmp_path / "layout")
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    answer, freed = threading.Event(), queue.SimpleQueue[None]()

    def resolve(host: str, port: int) -> tuple[str, ...]:
        asked.put(host)
        assert answer.wait(300)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    for number in range(5):
        image = {"code": {"image": {"prebuilt": {"imageRef": f"r{number}.example.com/app:1"}}}}
        more = {"queue": EXTERNAL, "toolchain": "", "runtime": "", "tags": "[]", "request": json.dumps(image)}
        world.submit(repository=f"r{number}.example.com/app", **more)
    ours = pool(world, registry, settings={"finalizers": 4}, freed=lambda: freed.put(None))
    ours.finalizer = replace(ours.finalizer, prebuilt=replace(ours.finalizer.prebuilt, resolver=resolve))
    ours.step()
    assert {asked.get(timeout=300) for _ in range(2)} == {"r0.example.com", "r1.example.com"}
    ours.step()
    healthy = waiting(world, registry, tmp_path, "acme/n")
    ours.step()
    freed.get(timeout=300)
    assert world.row(healthy)["status"] == "SUCCEEDED" and asked.empty() and ours.left
    answer.set()
    for _ in range(5):
        freed.get(timeout=300)
        ours.step()
    assert {asked.get(timeout=300) for _ in range(3)} == {f"r{number}.example.com" for number in (2, 3, 4)}


def test_no_more_are_attempted_at_once_than_the_setting_allows(world: World, tmp_path: Path, held: Held) -> None:
    registry = Layout(tmp_path / "layout")
    slow = [waiting(world, registry, tmp_path, f"slow/{number}") for number in range(3)]
    freed: queue.SimpleQueue[None] = queue.SimpleQueue()
    ours = pool(world, registry, settings={"finalizers": 2}, freed=lambda: freed.put(None))
    ours.step()
    ours.step()
    assert [world.row(build)["finalizer"] for build in slow] == [True, True, False]
    held.go.set()
    freed.get(timeout=300)
    ours.step()
    for _ in range(2):
        freed.get(timeout=300)
    assert {world.row(build)["status"] for build in slow} == {"SUCCEEDED"}


def test_a_pool_that_stops_leaves_what_hangs_to_another_and_it_counts_as_nothing(
    world: World, tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finalizers, "STOP_S", 0.0)
    registry = Layout(tmp_path / "layout")
    build = waiting(world, registry, tmp_path, "slow/n")
    freed = threading.Event()
    ours = pool(world, registry, freed=freed.set)
    ours.step()
    held.entered.get(timeout=300)
    ours.stop()
    world.at[0] += LATER_MS
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None and (row["build_id"], row["failures"]) == (build, 0)
    held.go.set()
    assert freed.wait(300)
    assert world.row(build)["status"] == "RUNNING", "it is the other's now"


def test_a_registrys_wish_to_wait_makes_the_pause_longer(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(name: str) -> None:
        raise PlatformError("RegistryUnavailable", "answered 429", retry_after_ms=30_000)

    monkeypatch.setattr(Flaky, "before", staticmethod(before))
    build = built(world, registry, push(registry, tmp_path, "a"))
    assert attempt(pool(world, registry))
    assert world.row(build)["lease_until"] == world.at[0] + 30_000


def test_a_repository_in_trouble_keeps_no_other_tag_from_being_compared(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Layout(tmp_path / "layout")
    digests = {}
    for repository in ("acme/a", "acme/b"):
        build = waiting(world, registry, tmp_path, repository)
        world.at[0] += 1
        run_here = pool(world, registry)
        assert attempt(run_here)
        digests[repository] = json.loads(world.row(build)["artifact"])["digest"]
    foreign = registry.push(make_image(tmp_path / "foreign", "foreign"), "acme/b", "latest").digest
    assert foreign != digests["acme/b"]
    real = Layout.resolve

    def resolve(self: Layout, repository: str, reference: str) -> str | None:
        if repository == "acme/a":
            raise PlatformError("RegistryUnavailable", "no answer")
        return real(self, repository, reference)

    monkeypatch.setattr(Layout, "resolve", resolve)
    world.at[0] += 60_000
    run_here.finalizer.check_tags()
    assert real(registry, "acme/b", "latest") == digests["acme/b"]


@pytest.mark.parametrize(
    "request_of_it",
    [
        {"gitSource": {"url": "https://forge.example.com/a.git"}},
        {"code": {"image": {"fromGit": {"url": "https://forge.example.com/a.git"}}}},
    ],
    ids=["gitSource", "fromGit"],
)
def test_the_commit_of_a_repository_is_the_statements_source(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_of_it: dict[str, Any]
) -> None:
    attached: list[bytes] = []

    def attach(self: Flaky, *args: Any) -> Attached:
        attached.append(args[3])
        return Layout.attach(self, *args)

    monkeypatch.setattr(Flaky, "attach", attach)
    artifact = push(registry, tmp_path, "a")
    build = world.submit(request=json.dumps(request_of_it))
    claim = world.claim(build)
    commit = json.dumps({"commitSha": "c" * 40})
    assert builds.planned(world.store, build, claim, *KEY, provenance=commit).verdict == "GO_ON"
    tag(registry, artifact, build)
    report(world, build, claim, artifact)
    assert attempt(pool(world, registry)) and world.row(build)["status"] == "SUCCEEDED"
    source, *_ = json.loads(attached[0])["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["uri"] == "git+https://forge.example.com/a.git"
    assert source["digest"] == {"gitCommit": "c" * 40}


@pytest.mark.parametrize("where", ["top", "compile", "fromCode", "fromGit"])
def test_a_build_arguments_value_is_in_no_statement(
    world: World, registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    secret: dict[str, Any] = {"buildArgs": {"TOKEN": "hunter2"}}
    codes = {"compile": {"compile": secret}, "fromCode": {"image": {"fromCode": secret}}}
    codes["fromGit"] = {"image": {"fromGit": secret}}
    request = secret if where == "top" else {"code": codes[where]}
    attached: list[bytes] = []

    def attach(self: Flaky, *args: Any) -> Attached:
        attached.append(args[3])
        return Layout.attach(self, *args)

    monkeypatch.setattr(Flaky, "attach", attach)
    build = built(world, registry, push(registry, tmp_path, "a"), request=json.dumps(request))
    assert attempt(pool(world, registry)) and world.row(build)["status"] == "SUCCEEDED"
    [statement] = attached
    assert b"hunter2" not in statement and b'"TOKEN":"***"' in statement
    build_type = json.loads(statement)["predicate"]["buildDefinition"]["buildType"]
    assert build_type.rpartition("builder/")[2] == ("image/v1" if where.startswith("from") else "compile/v1")
