"""The cluster as a watcher uses it, over answers of its API that no healthy cluster gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.cli.stop import refused_here
from builder.errors import BuildError, PlatformError
from builder.kaniko.ended import own_message
from builder.kube import api as kube
from builder.kube import follow as following
from builder.kube import watch as watching
from builder.kube.api import Api, ClusterRefused
from builder.kube.attend import _state, attend
from builder.kube.ended import USUAL, Ended, Running
from builder.kube.job import ATTEMPT, BUILD
from builder.kube.logs import Cursor, Line
from builder.kube.watch import JOB_OF, Watch
from builder.watcher import cluster as watched
from builder.watcher.cluster import KubeCluster
from builder.watcher.main import broken


class Answers(Api):
    """An API whose logs are these lines, and which refuses everything else."""

    def __init__(self, *lines: str) -> None:
        super().__init__(None)
        self._lines = lines

    async def log(
        self, namespace: str, pod: str, container: str, *, since: str, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        for number, line in enumerate(self._lines):
            yield f"2026-01-01T00:00:00.{number:09d}Z {line}\n".encode()

    async def _json(self, *asked: Any, **more: Any) -> dict[str, Any]:
        raise ClusterRefused(503, "", "apiserver is starting")


def cluster_of(api: Api) -> KubeCluster:
    """A cluster with one Job, "j", whose pod runs."""
    watch = Watch(api, "n")
    for mirror in (watch.jobs, watch.pods):
        mirror.is_current.set()
    pod = {
        "metadata": {"name": "p", "resourceVersion": "1", "labels": {JOB_OF: "j"}},
        "status": {"containerStatuses": [{"name": "kaniko", "state": {"running": {}}}]},
    }
    watch.pods._put("p", pod)
    return KubeCluster(api=api, watch=watch, namespace="n")


async def answer(value: bool) -> bool:
    return value


def is_own(line: str) -> bool:
    return own_message(line) is not None


def job(name: str, attempt: str) -> dict[str, Any]:
    made = {"name": name, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"}
    return {"metadata": {**made, "labels": {BUILD: "b", ATTEMPT: attempt}}, "spec": {}, "status": {}}


def test_a_log_without_end_is_stored_in_parts_that_let_the_next_build_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "MOST_BEHIND", 1000)
    cluster = cluster_of(Answers(*("x" * 99 for _ in range(50))))
    got: list[Line] = []

    async def emit(container: str, lines: Sequence[Line], cursor: Cursor) -> None:
        got.extend(lines)

    asyncio.run(cluster.so_far("j", {}, emit))
    assert len(got) == 10


def test_what_explains_an_end_is_bounded_however_long_the_lines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    own = '{"level":"info","msg":"%s","time":"t"}'
    monkeypatch.setattr(watched, "MOST_CHARACTERS", 10_000)
    lines = (*(own % (str(number) * 1000) for number in range(9)), *(own % "RUN x" for _ in range(9)), "its words")
    found = asyncio.run(cluster_of(Answers(*lines)).explaining("j", "kaniko", is_own, 50))
    assert sum(map(len, found)) <= 10_100
    assert [own_message(line) for line in found[-2:]] == ["RUN x", None]
    output = asyncio.run(cluster_of(Answers(*("x" * 1000 for _ in range(50)))).explaining("j", "p", is_own, 1000))
    assert output == []
    output = asyncio.run(cluster_of(Answers(*("x" * 1000 for _ in range(50)))).explaining("j", "kaniko", is_own, 1000))
    assert len(output) == 10


@pytest.mark.parametrize("known", [True, False])
def test_a_cluster_that_refuses_an_answer_ends_no_build(known: bool) -> None:
    async def scenario() -> None:
        api = Answers()
        watch = cluster_of(api).watch
        found = job("j", "1") if known else None
        state, _ = await _state(api, watch, "n", "j", found, [], USUAL)
        assert isinstance(state, Running) and "apiserver is starting" in state.words

    asyncio.run(scenario())


DIGEST = "sha256:" + "ab" * 32
SINCE = "2026-01-01T00:00:00Z"


def one_pod(name: str = "p", phase: str = "Running", code: int | None = None, **status: Any) -> dict[str, Any]:
    """A pod of the Job "j", its main container ended with a code or at work."""
    ended = {"terminated": {"exitCode": code, "reason": "Error", "message": DIGEST}}
    statuses = [{"name": "kaniko", "state": {"running": {}} if code is None else ended}]
    made = {"name": name, "resourceVersion": phase, "creationTimestamp": SINCE, "labels": {JOB_OF: "j"}}
    return {
        "metadata": made,
        "spec": {"containers": [{"name": "kaniko"}]},
        "status": {"phase": phase, "startTime": SINCE, "containerStatuses": statuses, **status},
    }


def one_job(kind: str = "", reason: str = "BackoffLimitExceeded") -> dict[str, Any]:
    """The Job "j", with this end."""
    made = job("j", "1")
    made["spec"] = {"activeDeadlineSeconds": 600}
    made["status"] = {"conditions": [{"type": kind, "status": "True", "reason": reason}] if kind else []}
    return made


WAITS: dict[str, Any] = {
    "containerStatuses": [{"name": "kaniko", "state": {"waiting": {"reason": "PodInitializing"}}}],
    "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes", "lastTransitionTime": SINCE}],
}


class Live(Answers):
    """An API that has this Job and these pods now, and a log of one line for each."""

    def __init__(self, found: dict[str, Any] | None, *pods: dict[str, Any], refuses: str = "") -> None:
        super().__init__("a line")
        self._found, self._pods, self._refuses = found, pods, refuses

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self._found

    async def list(self, kind: str, namespace: str, **query: str) -> dict[str, Any]:
        if kind == self._refuses:
            raise ClusterRefused(403, "Forbidden", f"cannot list {kind}")
        assert kind == "events" or f"{JOB_OF}=j" in query["labelSelector"].split(",")
        return {"items": list(self._pods) if kind == "pods" else []}


def viewed(api: Api, found: dict[str, Any] | None, *pods: dict[str, Any]) -> Watch:
    """A watch that has heard of this much."""
    watch = Watch(api, "n")
    for mirror in (watch.jobs, watch.pods):
        mirror.is_current.set()
    if found is not None:
        watch.jobs._put("j", found)
    for pod in pods:
        watch.pods._put(pod["metadata"]["name"], pod)
    return watch


@pytest.mark.parametrize(
    ("seen", "seen_pods", "now", "pods", "reason"),
    [
        ("Complete", [], "Complete", [one_pod("p", "Succeeded", 0)], ""),
        ("Complete", [one_pod()], "Complete", [one_pod("p", "Succeeded", 0)], ""),
        ("Complete", [one_pod("a", "Failed", 3)], "Complete", [one_pod("p", "Succeeded", 0)], ""),
        ("Failed", [], "Failed", [one_pod("p", "Failed", 3)], "StepFailed"),
        ("Failed", [one_pod()], "Failed", [one_pod("p", "Failed", 3)], "StepFailed"),
        ("Failed", [one_pod()], "Failed", [], "Evicted"),
        ("", [one_pod("p", "Failed", 3)], "Failed", [one_pod("p", "Failed", 3)], "StepFailed"),
        ("", [one_pod("p", "Pending", **WAITS)], "", [one_pod()], None),
        ("", [one_pod("p", "Pending", **WAITS)], "", [], None),
        ("", [one_pod("p", "Pending", **WAITS)], "", [one_pod("p", "Pending", **WAITS)], "Unschedulable"),
        # What has ended in view and is deleted since counts as it was seen.
        ("Failed", [one_pod("p", "Failed", 3)], "Failed", [], "StepFailed"),
        ("Failed", [one_pod("p", "Failed", 3)], None, [], "StepFailed"),
        ("", [one_pod("p", "Succeeded", 0)], None, [], ""),
        ("", [one_pod("p", "Pending", **WAITS)], None, [], "JobVanished"),
        ("DeadlineExceeded", [one_pod("p", "Pending", **WAITS)], "DeadlineExceeded", [], "Unschedulable"),
        ("DeadlineExceeded", [one_pod("p", "Pending", **WAITS)], "DeadlineExceeded", [one_pod()], "Timeout"),
    ],
)
def test_an_end_in_an_old_view_is_asked_for_before_it_is_one(
    seen: str, seen_pods: list[dict[str, Any]], now: str | None, pods: list[dict[str, Any]], reason: str | None
) -> None:
    """Jobs and pods come by two connections, and either hangs without a word when its server dies."""

    def made(end: str) -> dict[str, Any]:
        return one_job("Failed", end) if end == "DeadlineExceeded" else one_job(end)

    async def scenario() -> None:
        api = Live(None if now is None else made(now), *pods)
        watch = viewed(api, made(seen), *seen_pods)
        state, _ = await _state(api, watch, "n", "j", *watch.look("j"), USUAL)
        if reason is None:
            assert isinstance(state, Running)
        else:
            assert isinstance(state, Ended) and state.reason == reason
            assert reason or state.said == DIGEST

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_without_a_look_at_the_pods_no_end_is_judged(kind: str) -> None:
    async def scenario() -> None:
        api = Live(one_job(kind), refuses="pods")
        state, _ = await _state(api, viewed(api, None), "n", "j", one_job(kind), [], USUAL)
        assert isinstance(state, Running) and "cannot list pods" in state.words

    asyncio.run(scenario())


def test_the_log_of_a_pod_that_the_watch_never_heard_of_is_kept_and_explains() -> None:
    got: list[str] = []

    async def emit(container: str, lines: Sequence[Line], cursor: Cursor) -> None:
        got.extend(line.text for line in lines)

    async def scenario() -> None:
        api = Live(one_job("Failed"), one_pod("p", "Failed", 3))
        watch = viewed(api, one_job("Failed"))
        ended = await asyncio.wait_for(attend(api, watch, "n", "j", emit), 300)
        assert (ended.reason, got) == ("StepFailed", ["a line"])
        cluster = KubeCluster(api=api, watch=watch, namespace="n")
        assert await cluster.explaining("j", "kaniko", is_own, 50) == ["a line"]

    asyncio.run(scenario())


def test_the_log_of_such_a_pod_is_waited_for_while_its_kubelet_does_not_know_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.0)
    got: list[str] = []

    class Starting(Live):
        """Its kubelet starts again: it knows no pod for some answers."""

        asked = 0

        async def log(self, *asked: Any, **more: Any) -> AsyncGenerator[bytes, None]:
            Starting.asked += 1
            if Starting.asked <= 3:
                raise ClusterRefused(404, "NotFound", 'pods "p" not found')
            async for piece in super().log(*asked, **more):
                yield piece

        async def list(self, kind: str, namespace: str, **query: str) -> dict[str, Any]:
            if query.get("fieldSelector") == "metadata.name=p":
                return {"items": [one_pod("p", "Failed", 3)]}
            return await super().list(kind, namespace, **query)

    async def emit(container: str, lines: Sequence[Line], cursor: Cursor) -> None:
        got.extend(line.text for line in lines)

    async def scenario() -> None:
        api = Starting(one_job("Failed"), one_pod("p", "Failed", 3))
        watch = viewed(api, one_job("Failed"))
        ended = await asyncio.wait_for(attend(api, watch, "n", "j", emit), 300)
        assert (ended.reason, got) == ("StepFailed", ["a line"])
        Starting.asked = 0
        cluster = KubeCluster(api=api, watch=watch, namespace="n")
        assert await cluster.explaining("j", "kaniko", is_own, 50) == ["a line"]

    asyncio.run(scenario())


def test_a_watch_that_is_silent_past_its_own_end_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends each watch: where it does not, it is gone, and nothing else shows it."""
    asked: list[tuple[str, float]] = []

    async def gone(client: Any, method: str, path: str, query: Any, body: Any, timeout: Any) -> Any:
        asked.append((query["timeoutSeconds"], timeout.sock_read))
        raise OSError("gone")

    monkeypatch.setattr(kube, "_request", gone)

    async def scenario() -> None:
        with pytest.raises(PlatformError):
            async for _ in Api(None).watch("jobs", "n", "1", ""):
                pass

    asyncio.run(scenario())
    ((ends, silence),) = asked
    assert int(ends) < silence <= 2 * int(ends) <= 120


def test_a_job_whose_attempt_is_no_number_that_we_wrote_is_not_ours() -> None:
    cluster = cluster_of(Answers())
    for name, attempt in (("a", "1"), ("b", "9" * 20), ("c", "\u00b2"), ("d", ""), ("e", "x")):
        cluster.watch.jobs._put(name, job(name, attempt))
    assert [one.name for one in cluster.seen()] == ["a"]


@pytest.mark.parametrize("text", [b"<html>", b"[]", b"", b"[" * 100_000, b'{"type": '])
def test_what_is_no_object_is_no_answer(text: bytes) -> None:
    with pytest.raises(PlatformError) as refused:
        kube._object(text)
    assert refused.value.reason == "ClusterUnavailable"


def test_a_follower_waits_out_no_pause_once_its_container_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log ends before the end is known; the pause of this test is longer than any test."""
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 3600.0)

    async def scenario() -> list[str]:
        ended, got = asyncio.Event(), []
        api, never = Answers("a"), partial(answer, False)
        async for lines, _ in following.follow(api, "n", "p", "kaniko", Cursor(), lambda: False, never, ended):
            got += [line.text for line in lines]
            ended.set()
        return got

    async def in_time() -> list[str]:
        return await asyncio.wait_for(scenario(), 300)

    assert asyncio.run(in_time()) == ["a"]


def test_a_kubelet_that_never_answers_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.0)

    class Silent(Answers):
        """Its logs break off behind their lines."""

        reads = 0

        async def log(self, *asked: Any, **more: Any) -> AsyncGenerator[bytes, None]:
            Silent.reads += 1
            async for piece in super().log(*asked, **more):
                yield piece
            raise ClusterRefused(500, "InternalError", "dial tcp: no route to host")

    async def scenario() -> None:
        cluster = cluster_of(Silent("a", "b"))
        got: list[str] = []

        async def emit(container: str, lines: Sequence[Line], cursor: Cursor) -> None:
            got.extend(line.text for line in lines)

        await cluster.so_far("j", {}, emit)
        assert got == ["a", "b"], "each once, over every try"
        assert Silent.reads == 1 + watched.CATCH_UP_TRIES
        assert await cluster.explaining("j", "kaniko", is_own, 50) == ["a", "b"]

    asyncio.run(scenario())


class Restarting(Answers):
    """Its kubelet starts again behind the first line, and does not know the pod for some answers."""

    def __init__(self, *lines: str, unknown: int) -> None:
        super().__init__(*lines)
        self.asked, self._unknown = 0, unknown

    async def log(self, *asked: Any, **more: Any) -> AsyncGenerator[bytes, None]:
        self.asked += 1
        if 1 < self.asked <= 1 + self._unknown:
            raise ClusterRefused(404, "NotFound", 'pods "p" not found')
        async for piece in super().log(*asked, **more):
            yield piece
            if self.asked == 1:
                raise PlatformError("ClusterUnavailable", "the connection broke off")


async def followed(api: Restarting, over_after: int, gone_after: int = 1000) -> list[str]:
    """The lines of a container that is over, or whose pod is gone, once its log was asked for so often."""
    got: list[str] = []

    def is_over() -> bool:
        return api.asked >= over_after

    async def is_gone() -> bool:
        return api.asked >= gone_after

    async for lines, _ in following.follow(api, "n", "p", "kaniko", Cursor(), is_over, is_gone, asyncio.Event()):
        got += [line.text for line in lines]
    return got


def test_a_kubelet_that_starts_again_ends_no_log_while_the_container_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.0)
    api = Restarting("a", "b", "c", unknown=4)
    assert asyncio.run(followed(api, over_after=6)) == ["a", "b", "c"]
    over = Restarting("a", "b", "c", unknown=4)
    assert asyncio.run(followed(over, over_after=1)) == ["a", "b", "c"], "nor once it has ended: its pod is there"
    gone = Restarting("a", "b", "c", unknown=1000)
    assert asyncio.run(followed(gone, over_after=6, gone_after=7)) == ["a"]
    assert gone.asked == 7, "the log of a pod that is gone does not come back"


@pytest.mark.parametrize(("known", "words"), [(True, ["a", "b"]), (False, [])])
def test_what_explains_an_end_is_asked_for_again_while_its_pod_is_there(
    known: bool, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE_S", 0.0)
    api = Restarting("a", "b", unknown=3)
    api.asked = 1
    cluster = cluster_of(api)

    async def named(kind: str, namespace: str, **query: str) -> dict[str, Any]:
        if "fieldSelector" not in query:
            raise ClusterRefused(503, "", "the pods of the Job are those in view")
        assert (kind, query["fieldSelector"]) == ("pods", "metadata.name=p")
        return {"items": [one_pod()] if known else []}

    monkeypatch.setattr(api, "list", named)
    assert asyncio.run(cluster.explaining("j", "kaniko", is_own, 50)) == words


class Forgetful(Api):
    """An API whose lists have versions that its watches refuse, but for an event in every sixth."""

    def __init__(self) -> None:
        super().__init__(None)
        self.watches = 0

    async def list(self, kind: str, namespace: str, **query: str) -> dict[str, Any]:
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    async def watch(
        self, kind: str, namespace: str, version: str, selector: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        self.watches += 1
        if self.watches % 6 == 0:
            yield "BOOKMARK", {"metadata": {"resourceVersion": "2"}}
        raise ClusterRefused(410, "Expired", "too old resource version")


def test_lists_that_are_too_old_again_and_again_are_asked_for_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    class Enough(Exception):
        pass

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 13:
            raise Enough

    monkeypatch.setattr(asyncio, "sleep", sleep)
    mirror = Watch(Forgetful(), "n").jobs
    with pytest.raises(Enough):
        asyncio.run(mirror.run())
    growing = [0.0, 0.2, 0.4, 0.8, 1.6]
    assert pauses == [*growing, 0.0, *growing[1:], 3.2, 0.0, 0.2]
    assert mirror.lists == len(pauses)


class Answer:
    """An HTTP answer of one piece."""

    def __init__(self, status: int, text: bytes) -> None:
        self.status, self._text, self.content = status, text, self
        self.is_closed = self.is_cut = False
        self.connection: Any = None

    async def read(self) -> bytes:
        return self._text

    async def iter_any(self) -> AsyncGenerator[bytes, None]:
        yield self._text

    def abort(self) -> None:
        self.is_cut = True

    def close(self) -> None:
        self.is_closed = True


class Client:
    """The official client, as far as its configuration goes."""

    def __init__(self, token: str) -> None:
        self.token, self.is_closed = token, False

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tokens that the API takes; every call is answered by the token that it came with."""
    taken = {"first"}

    async def request(client: Client, *asked: Any) -> Answer:
        if client.token in taken:
            return Answer(200, json.dumps({"token": client.token}).encode())
        return Answer(401, b'{"reason": "Unauthorized", "message": "Unauthorized"}')

    monkeypatch.setattr(kube, "_request", request)
    return taken


def test_a_credential_that_ends_is_read_again_and_what_goes_on_with_the_old_one_is_not_cut(server: set[str]) -> None:
    made: list[Client] = []

    async def renew() -> Client:
        await asyncio.sleep(0)
        made.append(Client("second"))
        return made[-1]

    async def scenario() -> None:
        api = Api(first := Client("first"), renew)
        log = api.log("n", "p", "c", since="", follow=True)
        assert b"first" in await anext(log)
        server.clear()
        server.add("second")
        found = await asyncio.gather(*(api.get("jobs", "n", "j") for _ in range(5)))
        assert found == [{"token": "second"}] * 5 and len(made) == 1, "one new connection for all"
        assert [piece async for piece in api.log("n", "p", "c", since="", follow=True)] == [b'{"token": "second"}']
        assert not first.is_closed
        await log.aclose()
        assert first.is_closed and not made[0].is_closed
        await api.close()
        assert made[0].is_closed

    asyncio.run(scenario())


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "left"])
def test_a_connection_is_cut_where_its_answer_was_not_read_to_the_end(
    is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was closed in peace would wait for its server, whose socket the end of the loop leaves open."""
    answer = Answer(200, b"a line")
    answer.connection = None if is_read else SimpleNamespace(transport=answer)

    async def request(*asked: Any) -> Answer:
        return answer

    async def scenario() -> None:
        log = Api(Client("first")).log("n", "p", "c", since="", follow=True)
        assert await anext(log) == b"a line"
        await log.aclose()

    monkeypatch.setattr(kube, "_request", request)
    asyncio.run(scenario())
    assert answer.is_closed and answer.is_cut is not is_read


def test_a_credential_that_stays_refused_is_asked_for_now_and_then_and_says_why(server: set[str]) -> None:
    tries: list[int] = []

    async def renew() -> Client:
        tries.append(1)
        raise PlatformError("ClusterUnavailable", "the plugin gives none")

    async def scenario() -> None:
        api = Api(Client("old"), renew)
        for _ in range(3):
            with pytest.raises(ClusterRefused) as refused:
                await api.list("jobs", "n")
            assert refused.value.code == 401 and "the plugin gives none" in refused.value.message
        assert len(tries) == 1, "not for each call"
        server.add("old")
        assert await api.list("jobs", "n") == {"token": "old"}

    asyncio.run(scenario())


def test_a_kubeconfig_is_read_anew_for_a_credential(server: set[str], tmp_path: Path) -> None:
    pytest.importorskip("kubernetes.aio")
    path = tmp_path / "config"

    def write(user: dict[str, str]) -> None:
        named = {"cluster": "c", "user": "u"}
        path.write_text(
            json.dumps(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": named}],
                    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                    "users": [{"name": "u", "user": user}],
                }
            )
        )

    async def scenario() -> None:
        write({"token": "first"})
        api = await kube.connect(str(path))
        assert api._renew is not None
        write({"token": "second"})
        made = await api._renew()
        assert made.configuration.api_key == {"BearerToken": "Bearer second"}
        write({})
        with pytest.raises(PlatformError) as none:
            await api._renew()
        assert "gives none" in none.value.message
        await made.close()
        await api.close()

    asyncio.run(scenario())


def test_a_view_ends_with_words_once_its_credential_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for an answer between: a server that starts refuses every one."""
    clock, answers = [0.0], [401] * 5 + [503] + [401] * 100

    class Server(Api):
        async def list(self, kind: str, namespace: str, **query: str) -> dict[str, Any]:
            raise ClusterRefused(answers.pop(0), "", "no")

    async def sleep(seconds: float) -> None:
        clock[0] += 14.0

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(BuildError) as ended:
        asyncio.run(Watch(Server(None), "n").jobs.run())
    assert clock[0] == 6 * 14.0 + 5 * 14.0, "the first after a minute of nothing else"
    error = broken(BaseExceptionGroup("", [ended.value]))
    assert isinstance(error, BuildError) and error.reason == "ClusterUnavailable"
    assert "refuses the credential" in error.message and "kubeconfig" in error.next
    assert refused_here(error).exit_code == 75
