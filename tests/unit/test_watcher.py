"""A watcher: adopts one build after the other, follows and finishes them, hands them over, sweeps."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from builder.claims.calls import Refused, Unanswered
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.kube import attend as attending
from builder.kube.api import ClusterRefused
from builder.kube.ended import Ended
from builder.kube.logs import Cursor
from builder.kube.watch import Watch
from builder.mask import NOTHING, Mask
from builder.settings import JobLogin, Settings
from builder.watcher import build as following
from builder.watcher import cluster as clusters
from builder.watcher import watcher as watchers
from builder.watcher.build import Lost
from builder.watcher.calls import ApiWatcherCalls
from builder.watcher.cluster import SeenJob
from builder.watcher.main import mask_of, watch
from builder.watcher.watcher import Watcher
from tests.watcher_fixtures import DIGEST, Board, MemoryCluster, OneJob, Record

DONE = Ended(said=DIGEST)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await scenario

    asyncio.run(limited())


@asynccontextmanager
async def watching(
    board: Board,
    cluster: MemoryCluster,
    name: str = "one",
    beat_s: float = 0.02,
    more: Sequence[MemoryCluster] = (),
    mask: Mask = NOTHING,
) -> AsyncIterator[asyncio.Event]:
    """A watcher that is drained on the way out, unless it was killed before."""
    draining = asyncio.Event()
    watcher = Watcher(name, board, [cluster, *more], lease_s=0.06, beat_s=beat_s, idle_s=0.01, mask=mask)
    running = asyncio.create_task(watcher.run(draining))
    try:
        yield draining
    finally:
        draining.set()
        await running


def test_a_build_is_followed_to_its_digest_and_its_job_deleted() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob("first"))})
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
            job.write("second", '{"level":"info","msg":"Pushing image to host/app:x","time":"t"}')
            job.end(DONE)
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert one.finished.success.digest == DIGEST
        assert [(row.name, row.digest) for row in one.finished.success.materials] == [("context", "sha256:" + "c" * 64)]
        assert one.lines[:3] == ["first", "second", "Pushing image to host/app:x"], "the executor's own words alone"
        assert [phase.phase for phase in one.finished.phases] == [pb.BUILD_PHASE_BUILD, pb.BUILD_PHASE_PUSH]
        assert cluster.deleted == ["ignite-b1-1"]

    run(scenario())


def test_a_proxys_answer_ends_a_watcher_only_before_the_first_of_the_api() -> None:
    """Then it is the address that is wrong; later the proxy may be set right at any time."""
    answers = [httpx.Response(403, html="no"), httpx.Response(200, json={}), httpx.Response(403, html="no")]
    transport = httpx.MockTransport(lambda request: answers.pop(0))

    async def ends() -> None:
        calls = ApiWatcherCalls(Api("http://control.test", "t", transport=transport))
        with pytest.raises(Refused):
            await calls.adopt(pb.AdoptJobRequest())
        await calls.adopt(pb.AdoptJobRequest())
        with pytest.raises(Unanswered):
            await calls.beat(pb.BeatJobsRequest())
        calls.close()

    asyncio.run(ends())


def test_a_failed_run_names_its_line_and_the_programs_words() -> None:
    own = '{{"level":"info","msg":"{}","time":"t"}}'
    lines = (
        own.format("Building stage 'debian' [idx: '0', base-idx: '-1']"),
        own.format("RUN false"),
        "no such thing",
        "error building image: error building stage: failed to execute command: "
        "waiting for process to exit: exit status 1",
    )

    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob(*lines))})
        job.end(Ended(reason="StepFailed", message="kaniko ended with 1", container="kaniko", exit_code=1))
        async with watching(board, cluster):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        failure = one.finished.failure
        assert (failure.reason, failure.where, failure.exit_code) == ("StepFailed", "Dockerfile:3", 1)
        assert list(failure.said) == ["no such thing"]
        assert cluster.deleted == ["ignite-b1-1"], "nothing else does: a Job has no time to live"

    run(scenario())


def test_what_jobs_push_with_is_in_no_line_and_no_failure() -> None:
    """A Dockerfile's RUN can read the login of its Job."""
    password = "pushing-0123456789"
    auth = base64.b64encode(f"robot:{password}".encode()).decode()
    lines = (f'{{"auths": {{"r": {{"auth": "{auth}"}}}}}}', f"password {password}", auth[:20], auth[20:], "after")

    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob(*lines))})
        job.end(Ended(reason="StepFailed", message=f"ended with {password}", container="kaniko", exit_code=1))
        async with watching(board, cluster, mask=Mask([password])):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        said = "\n".join([*one.lines, str(one.finished.failure)])
        assert one.lines[1] == "password ***" and one.lines[-1] == "after" and len(one.lines) == len(lines)
        assert not any(part in said for part in (password, auth[9:30], auth[20:]))

    run(scenario())


def test_a_watcher_hides_the_password_of_each_organization() -> None:
    rows = [JobLogin(organization=name, username="robot", password=f"pushing-for-{name}") for name in ("acme", "beta")]
    settings = Settings(job_registry_password="pushing-for-all", job_registry_logins=tuple(rows))
    text = mask_of(settings).text("robot pushing-for-acme pushing-for-beta pushing-for-all")
    assert text == "robot *** *** ***"


@pytest.mark.parametrize("ends", ["lost", "failed", "finished"])
def test_a_build_is_let_go_before_that_is_told(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a watcher whose log cannot be written would renew the lease of what it no longer follows."""

    class Full:
        def error(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        info = error

    async def follow() -> None:
        if ends != "finished":
            raise Lost() if ends == "lost" else RuntimeError("a bug")

    async def scenario() -> None:
        monkeypatch.setattr(watchers, "log", Full())
        watcher = Watcher("one", Board(), [], lease_s=1, beat_s=1)
        build: Any = SimpleNamespace(build_id="b1", follow=follow)
        watcher._builds["b1"] = build
        with pytest.raises(OSError):
            await watcher._follow(build)
        assert watcher.builds == frozenset()

    run(scenario())


@pytest.mark.usefixtures("nothing_logged")
def test_no_trace_of_a_watcher_has_what_jobs_push_with(capsys: pytest.CaptureFixture[str]) -> None:
    password = "pushing-4c90e1b7aa"

    async def follow() -> None:
        job = {"password": password}
        raise RuntimeError(f"{len(job)}: the registry refuses {password}")

    async def scenario() -> None:
        watcher = Watcher("one", Board(), [], lease_s=1, beat_s=1, mask=Mask([password]))
        build: Any = SimpleNamespace(build_id="b1", follow=follow)
        await watcher._follow(build)

    run(scenario())
    said = capsys.readouterr()
    assert password not in said.out + said.err
    assert "follow-failed" in said.err and "RuntimeError: 1: the registry refuses ***" in said.err


@pytest.mark.parametrize("token", ["two words", "a\nline", "l\u00edne"])
def test_a_watcher_whose_token_no_header_carries_does_not_start(token: str) -> None:
    """The HTTP client's own words would repeat it at each call, in the log."""
    with pytest.raises(BuildError) as caught:
        watch(Settings(server="http://control.test", token=token))
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "token")
    assert token not in caught.value.message


def test_the_next_build_is_adopted_when_the_one_before_is_caught_up() -> None:
    async def scenario() -> None:
        board = Board(*(builds := [Record("b1"), Record("b2"), Record("b3")]))
        cluster = MemoryCluster({one.job: OneJob("x") for one in builds}, reads_on=(reads_on := asyncio.Event()))
        async with watching(board, cluster):
            await board.until(lambda: board.adopted == ["b1"])
            asked = 0
            while asked < 5:  # heartbeats of the first go on meanwhile
                board.changed.clear()
                await board.changed.wait()
                asked += 1
            assert board.adopted == ["b1"] and not builds[0].caught_up
            reads_on.set()
            await board.until(lambda: all(one.caught_up for one in builds))
            assert board.adopted == ["b1", "b2", "b3"]
            assert [one.lines for one in builds] == [["x"]] * 3, "what was there is stored before the mark"

    run(scenario())


def test_without_a_view_of_the_cluster_nothing_is_adopted() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({one.job: OneJob("x")})
        cluster.is_current = asyncio.Event()
        async with watching(board, cluster):
            for _ in range(100):  # rounds of the event loop: an adoption takes a few
                await asyncio.sleep(0)
            assert not board.adopted
            cluster.is_current.set()
            await board.until(lambda: one.caught_up)

    run(scenario())


def test_a_namespace_that_is_not_seen_is_a_line_of_the_log_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        warned, seen = asyncio.Event(), asyncio.Event()
        found: list[dict[str, Any]] = []

        class Log:
            def warning(self, message: str, **facts: Any) -> None:
                found.append(facts)
                warned.set()

        monkeypatch.setattr(clusters, "log", Log())
        monkeypatch.setattr(clusters, "READY_LOOK_S", 0.01)
        view = Watch(api=None, namespace=PACKS)  # type: ignore[arg-type]
        view.jobs.unavailable = ClusterRefused(403, "Forbidden", "jobs is forbidden")
        monkeypatch.setattr(view, "ready", seen.wait)
        ready = asyncio.create_task(clusters.KubeCluster(api=view.jobs.api, watch=view, namespace=PACKS).ready())
        await warned.wait()
        assert found[0]["namespace"] == PACKS and "jobs is forbidden" in found[0]["why"]
        assert not ready.done()
        seen.set()
        await ready

    run(scenario())


def test_a_lost_answer_to_an_adoption_is_asked_for_again() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": OneJob("x")})
        board.loses_answers = 1
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
        assert board.adopted == ["b1"]

    run(scenario())


def test_a_dead_watchers_build_is_adopted_and_each_line_comes_once() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob("1", "2"))})
        dead = Watcher("dead", board, [cluster], lease_s=0.06, beat_s=0.02, idle_s=0.01)
        dying = asyncio.create_task(dead.run(asyncio.Event()))
        await board.until(lambda: one.caught_up)
        job.write("3")
        await board.until(lambda: len(one.lines) == 3)
        board.expire("dead")  # it goes on writing, and everything it writes is stale
        job.write("4")
        await board.until(lambda: not dead.builds or one.watcher != "")
        async with watching(board, cluster, "next"):
            await board.until(lambda: len(one.lines) == 4)
            job.end(DONE)
            await board.until(lambda: one.finished is not None)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        assert one.lines[:4] == ["1", "2", "3", "4"]
        assert board.adopted[0] == "b1" and len(board.adopted) >= 2

    run(scenario())


@pytest.mark.parametrize("takes_newest", [True, False])
def test_a_cursor_has_its_full_time_where_the_control_side_takes_it(takes_newest: bool) -> None:
    """One of an earlier version refuses a field that it does not know: watchers come to a new version first."""

    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": OneJob("1", "2")})
        board.takes_newest = takes_newest
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
        cursor = one.cursors["kaniko"]
        assert cursor == pb.LogCursor(since=1, lines=2, newest_ns=1_000_000_002 if takes_newest else 0)
        assert following.cursor_of(cursor) == Cursor(since=1, lines=2, newest=cursor.newest_ns)

    run(scenario())


def test_a_drained_watcher_hands_its_builds_back_and_the_job_goes_on() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": OneJob("x")})
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
        assert one.watcher == "" and one.finished is None
        assert "ignite-b1-1" in cluster.jobs and not cluster.deleted

    run(scenario())


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
def test_a_cancel_deletes_the_job_and_then_ends_the_build(asked: str) -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1", cancel=asked == "before")), MemoryCluster({"ignite-b1-1": OneJob()})
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
            one.cancel = True
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert one.finished.failure.reason == "Cancelled"
        assert cluster.deleted == ["ignite-b1-1"]

    run(scenario())


def test_a_cancel_waits_for_the_cluster_and_says_so_once() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1", cancel=True)), MemoryCluster({"ignite-b1-1": OneJob()})
        cluster.refusals = 2
        async with watching(board, cluster):
            await board.until(lambda: bool(one.lines))
            assert one.finished is None or not cluster.refusals
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None and one.finished.failure.reason == "Cancelled"
        assert cluster.deleted == ["ignite-b1-1"]
        assert [line for line in one.lines if "cannot be deleted" in line] == one.lines[:1] and len(one.lines) == 1

    run(scenario())


def test_the_control_sides_interval_of_heartbeats_counts_from_the_first_adoption_on() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": OneJob()})
        async with watching(board, cluster, beat_s=3600):
            await board.until(lambda: one.caught_up)
            one.cancel = True  # a heartbeat tells it
            await board.until(lambda: one.finished is not None)

    run(scenario())


@pytest.mark.parametrize(("seen", "words"), [(True, "not in the cluster any more"), (False, "never created")])
def test_a_job_that_is_not_there_has_vanished_or_never_was(seen: bool, words: str) -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1", seen=seen)), MemoryCluster()
        async with watching(board, cluster):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert one.finished.failure.reason == "JobVanished"
        assert words in one.finished.failure.message
        assert one.seen is seen, "what nobody created is not seen by whoever looks for it"

    run(scenario())


def test_a_success_without_a_digest_is_none() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob())})
        job.end(Ended(said="no digest"))
        async with watching(board, cluster):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert (one.finished.WhichOneof("outcome"), one.finished.failure.reason) == ("failure", "Internal")

    run(scenario())


def test_hostile_facts_and_lines_end_no_watcher_and_keep_no_build_from_its_end() -> None:
    """A node writes facts, a build prints lines: neither is what a parser likes."""
    facts = json.dumps({"dockerfile": "\ud800", "materials": [], "instructions": []})
    own = json.dumps({"level": "info", "msg": "Retrieving image manifest \ud800", "time": "t"})
    pull = "error building image: GET https://h/v2/x/manifests/y: MANIFEST_UNKNOWN"

    async def scenario() -> None:
        builds = [Record("b1", facts="[" * 60_000), Record("b2", facts=facts), Record("b3")]
        jobs = [OneJob('{"level":' + "[" * 100_000), OneJob(own, pull), OneJob("x")]
        for job in jobs:
            job.end(Ended(reason="StepFailed", message="kaniko ended with 1", container="kaniko", exit_code=1))
        board, cluster = Board(*builds), MemoryCluster({one.job: job for one, job in zip(builds, jobs, strict=True)})
        async with watching(board, cluster):
            await board.until(lambda: all(one.finished is not None for one in builds))
        found = [one.finished.failure.reason for one in builds if one.finished]
        assert found == ["StepFailed"] * 3

    run(scenario())


def test_a_cluster_that_is_away_when_the_time_is_over_is_not_the_users_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_S", 0.01)

    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": OneJob("x")})
        cluster.is_current = asyncio.Event()
        cluster.is_current.set()
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
            cluster.is_current.clear()
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert (one.finished.failure.reason, one.finished.failure.error_class) == ("ClusterUnavailable", "platform")

    run(scenario())


def test_a_job_of_another_namespace_is_nobodys_here() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1", namespace="elsewhere")), MemoryCluster()
        async with watching(board, cluster):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert one.finished.failure.reason == "ClusterUnavailable" and "elsewhere" in one.finished.failure.message

    run(scenario())


PACKS = "ignite-buildpacks"
PACKS_FACTS = json.dumps({"run_image": "host/run@" + DIGEST, "materials": [["context", DIGEST]]})


def packs_record(build_id: str, **fields: Any) -> Record:
    return Record(build_id, namespace=PACKS, strategy="buildpacks", facts=PACKS_FACTS, **fields)


def test_a_buildpacks_build_of_the_second_namespace_is_followed_to_the_digest_of_its_report() -> None:
    async def scenario() -> None:
        board = Board(one := packs_record("b1"), other := Record("b2"))
        job = OneJob("Saving image", container="export")
        packs = MemoryCluster({one.job: job}, namespace=PACKS)
        kaniko = MemoryCluster({other.job: (second := OneJob("x"))})
        async with watching(board, kaniko, more=[packs]):
            await board.until(lambda: one.caught_up and other.caught_up)
            job.end(Ended(said=f'[image]\ndigest = "{DIGEST}"\n'))
            second.end(DONE)
            await board.until(lambda: bool(one.finished and other.finished))
        assert one.finished is not None and other.finished is not None
        assert one.finished.success.digest == other.finished.success.digest == DIGEST
        assert [(row.name, row.digest) for row in one.finished.success.materials] == [("context", DIGEST)]
        assert one.lines[0] == "Saving image"
        assert [phase.phase for phase in one.finished.phases] == [pb.BUILD_PHASE_BUILD, pb.BUILD_PHASE_PUSH]
        assert (packs.deleted, kaniko.deleted) == ([one.job], [other.job])

    run(scenario())


def test_a_source_that_no_buildpack_takes_has_the_names_of_those_that_were_tried() -> None:
    async def scenario() -> None:
        board = Board(one := packs_record("b1"))
        tried = ["======== Results ========", "fail: acme/node@1.2.0", "ERROR: No buildpack groups passed detection."]
        job = OneJob(container="export", detect=tried)
        job.end(Ended(reason="StepFailed", message="detect ended with 20", container="detect", exit_code=20))
        async with watching(board, MemoryCluster(), more=[MemoryCluster({one.job: job}, namespace=PACKS)]):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        failure = one.finished.failure
        assert (failure.reason, failure.exit_code) == ("NoBuildpack", 20)
        assert "acme/node@1.2.0 (does not match)" in failure.message

    run(scenario())


def test_a_registry_that_hangs_before_the_code_begins_is_the_platforms_failure() -> None:
    async def scenario() -> None:
        board, job = Board(one := packs_record("b1")), OneJob(container="analyze")
        job.end(Ended(reason="Timeout", message="m", container="analyze", limit=600_000))
        async with watching(board, MemoryCluster(), more=[MemoryCluster({one.job: job}, namespace=PACKS)]):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        failure = one.finished.failure
        assert (failure.reason, failure.error_class, failure.limit) == ("RegistryUnavailable", "platform", 0)

    run(scenario())


UPLOADS = '{"level":"info","msg":"Pushing image to registry.example:5000/acme/app:build-b-1","time":"t"}'
CACHES = UPLOADS.replace("app:build-b-1", "cache/kaniko/linux-amd64:" + "a" * 64)
OVERDUE = Ended(reason="Timeout", message="m", container="kaniko", limit=600_000)


@pytest.mark.parametrize(
    ("strategy", "container", "line", "reason"),
    [
        ("kaniko", "kaniko", UPLOADS, "RegistryUnavailable"),
        ("kaniko", "kaniko", CACHES, "Timeout"),
        ("kaniko", "kaniko", "Pushing image to registry.example:5000/acme/app:build-b-1", "Timeout"),
        ("buildpacks", "export", "Saving registry.example:5000/acme/app:build-b-1...", "RegistryUnavailable"),
        ("buildpacks", "export", "Adding layer 'acme/node:deps'", "Timeout"),
        ("buildpacks", "build", "Saving registry.example:5000/acme/app:build-b-1...", "Timeout"),
    ],
)
def test_a_registry_that_hangs_until_the_deadline_is_named_and_not_the_users_timeout(
    strategy: str, container: str, line: str, reason: str
) -> None:
    async def scenario() -> None:
        one = packs_record("b1") if strategy == "buildpacks" else Record("b1")
        board, job = Board(one), OneJob(line, container=container)
        job.end(dataclasses.replace(OVERDUE, container=container))
        kaniko, packs = MemoryCluster({one.job: job}), MemoryCluster({one.job: job}, namespace=PACKS)
        async with watching(board, kaniko, more=[packs]):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        failure = one.finished.failure
        assert failure.reason == reason, failure
        if reason != "Timeout":
            assert "registry.example:5000 had not taken the image" in failure.message
            assert (failure.error_class, failure.phase) == ("platform", pb.BUILD_PHASE_PUSH)

    run(scenario())


def test_a_push_that_had_just_begun_is_the_users_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_now", lambda: 1_000_000)

    async def scenario() -> None:
        board, job = Board(one := Record("b1", pushing=True)), OneJob()  # adopted now: the line is not read again
        job.end(OVERDUE)
        async with watching(board, MemoryCluster({one.job: job})):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None and one.finished.failure.reason == "Timeout"

    run(scenario())


def test_old_jobs_of_each_namespace_are_swept() -> None:
    async def scenario() -> None:
        board = Board()
        old = SeenJob(name="old", uid="u", build_id="gone", attempt=1, age_s=9)
        kaniko, packs = MemoryCluster(strays=[old]), MemoryCluster(strays=[old], namespace=PACKS)
        async with watching(board, kaniko, more=[packs]):
            await board.until(lambda: bool(kaniko.deleted and packs.deleted))

    run(scenario())


def test_a_job_of_a_strategy_that_is_not_known_is_not_followed() -> None:
    async def scenario() -> None:
        board = Board(one := Record("b1", strategy="later"))
        async with watching(board, MemoryCluster({one.job: OneJob("x")})):
            await board.until(lambda: one.finished is not None)
        assert one.finished is not None
        assert one.finished.failure.reason == "ClusterUnavailable" and '"later"' in one.finished.failure.message

    run(scenario())


def test_an_api_that_is_away_loses_nothing() -> None:
    async def scenario() -> None:
        board, cluster = Board(one := Record("b1")), MemoryCluster({"ignite-b1-1": (job := OneJob("1"))})
        async with watching(board, cluster):
            await board.until(lambda: one.caught_up)
            board.away = True
            job.write("2")
            job.end(DONE)
            for _ in range(10):
                board.changed.clear()
                await board.changed.wait()
            board.away = False
            await board.until(lambda: one.finished is not None)
        assert one.lines[:2] == ["1", "2"]

    run(scenario())


def test_only_old_jobs_that_are_not_current_are_swept_and_none_while_the_api_is_away() -> None:
    def stray(name: str, build_id: str, attempt: int, age_s: float) -> SeenJob:
        return SeenJob(name=name, uid=f"uid-{name}", build_id=build_id, attempt=attempt, age_s=age_s)

    async def scenario() -> None:
        board, cluster = Board(Record("b1")), MemoryCluster({"ignite-b1-1": OneJob()})
        board.away = True
        cluster.strays = [
            stray("ignite-b1-1", "b1", 1, 100),
            stray("ignite-b1-0", "b1", 0, 100),
            stray("ignite-gone-1", "gone", 1, 100),
            stray("ignite-young-1", "young", 1, 0.0),
        ]
        async with watching(board, cluster):
            for _ in range(10):
                board.changed.clear()
                await board.changed.wait()
            assert cluster.deleted == []
            board.away = False
            await board.until(lambda: len(cluster.deleted) >= 2)
        assert set(cluster.deleted) == {"ignite-b1-0 uid-ignite-b1-0", "ignite-gone-1 uid-ignite-gone-1"}

    run(scenario())


def test_after_the_end_only_the_cluster_is_not_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes its time gets every line; a log that never comes holds no build back."""
    monkeypatch.setattr(attending, "DRAIN_LOOK_S", 0.01)
    monkeypatch.setattr(attending, "DRAIN_S", 0.05)

    async def scenario() -> None:
        emitting, stored = {"kaniko"}, asyncio.Event()

        async def stores() -> None:
            await stored.wait()
            emitting.clear()

        storing = asyncio.create_task(stores())
        draining = asyncio.create_task(attending._drain([storing], emitting))
        await asyncio.wait({draining}, timeout=0.2)
        assert not draining.done(), "four times as long as the cluster would get"
        stored.set()
        await draining
        never = asyncio.create_task(asyncio.Event().wait())
        await attending._drain([never], set())  # type: ignore[list-item]
        assert not never.done()
        never.cancel()

    run(scenario())
