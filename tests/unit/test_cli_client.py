"""The client over a transport in memory: what it repeats, what it resumes, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from builder.cli.client import Client
from builder.cli.foreign import SEE_SERVER
from builder.cli.stop import CALL_EXITS, Stop
from builder.client.api import CHECK_SCHEME, CODES
from builder.client.sse import events
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from tests.cli_fixtures import FakeClock, build, line, sse


@dataclass
class Heard:
    """What the client says about its connection."""

    words: list[str] = field(default_factory=list)

    def lost(self, seconds: int, after: int) -> None:
        self.words.append(f"lost {seconds} {after}")

    def back(self, after: int) -> None:
        self.words.append(f"back {after}")

    def called(self, method: str, path: str, status: int, took_ms: int) -> None:
        self.words.append(f"{method} {path} {status}")


@dataclass
class Broken(httpx.SyncByteStream):
    """A body that ends in a broken connection."""

    parts: list[bytes]

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        raise httpx.ReadError("reset by peer")


def client(handler: Callable[[httpx.Request], httpx.Response]) -> tuple[Client, FakeClock, Heard]:
    clock, heard = FakeClock(), Heard()
    made = Client("http://ignite.test/", "t0ken", transport=httpx.MockTransport(handler), clock=clock, watcher=heard)
    return made, clock, heard


def answer(message: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=codec.dump(message))


def refusal(status: int, code: str, message: str, **detail: str) -> httpx.Response:
    return httpx.Response(status, content=json.dumps({"code": code, "message": message, "details": [detail]}))


def test_a_build_is_asked_for_with_token_and_key_and_asked_again_with_the_same() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            raise httpx.ReadError("reset")
        return answer(pb.CreateBuildResponse(build_id="k7m2xq9d4t1zv6wh5r3p", status=pb.BUILD_STATUS_PENDING))

    made, clock, heard = client(handler)
    record = made.create(pb.CreateBuildRequest(name="app", idempotency_key="once"))
    assert (record.build_id, record.status) == ("k7m2xq9d4t1zv6wh5r3p", pb.BUILD_STATUS_PENDING)
    assert [json.loads(request.content)["idempotencyKey"] for request in seen] == ["once", "once"]
    assert seen[0].headers["authorization"] == "Bearer t0ken"
    assert clock.slept == [1.0]
    assert heard.words == ["lost 1 0", "POST /v1/ignite/builds 200"]


def test_calls_have_the_paths_of_the_contract() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.raw_path.decode()}")
        if request.url.path.endswith("/contexts"):
            return httpx.Response(200, json={"contextId": "c1", "sizeBytes": str(len(request.read()))})
        return answer(pb.ListBuildsResponse() if request.url.path.endswith("builds") else build())

    made, _, _ = client(handler)
    made.get("k7m2")
    made.builds(20)
    made.builds(20, "next page")
    made.cancel("k7m2xq9d4t1zv6wh5r3p")
    uploaded = made.upload(lambda: iter([b"abc", b"def"]))
    assert (uploaded.context_id, uploaded.size_bytes) == ("c1", 6)
    assert seen == [
        "GET /v1/ignite/builds/k7m2",
        "GET /v1/ignite/builds?limit=20",
        "GET /v1/ignite/builds?limit=20&cursor=next+page",
        "POST /v1/ignite/builds/k7m2xq9d4t1zv6wh5r3p/cancel",
        "POST /v1/ignite/builds/contexts",
    ]


def test_a_refusal_carries_reason_where_and_hint() -> None:
    detail = {"reason": "UnknownRuntimeVersion", "errorClass": "client", "where": "W", "hint": "H"}
    made, _, _ = client(lambda request: refusal(400, "INVALID_ARGUMENT", "no 1.19", **detail))
    with pytest.raises(Stop) as caught:
        made.get("k7m2")
    stop = caught.value
    assert (stop.reason, stop.message, stop.exit_code) == ("UnknownRuntimeVersion", "no 1.19", 2)
    assert (stop.where, stop.next, stop.error_class) == ("W", "H", "client")


@pytest.mark.parametrize(
    ("response", "reason", "code"),
    [
        (refusal(401, "UNAUTHENTICATED", "unknown token"), "Unauthenticated", 3),
        (refusal(404, "NOT_FOUND", "no such build"), "NotFound", 5),
        (refusal(403, "UNKNOWN", "odd"), "Unknown", 10),
    ],
)
def test_other_refusals(response: httpx.Response, reason: str, code: int) -> None:
    made, clock, _ = client(lambda request: response)
    with pytest.raises(Stop) as caught:
        made.get("k7m2")
    assert (caught.value.reason, caught.value.exit_code) == (reason, code)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("status", "reason", "code", "says"),
    [
        (308, "InvalidRequest", 2, CHECK_SCHEME),
        (302, "InvalidRequest", 2, CHECK_SCHEME),
        (400, "InvalidRequest", 2, CHECK_SCHEME),
        (401, "Unauthenticated", 3, "a login of its own"),
        (403, "PermissionDenied", 4, "a proxy in between"),
        (404, "NotFound", 5, SEE_SERVER),
        (405, "InvalidRequest", 2, SEE_SERVER),
        (407, "Unauthenticated", 3, "NO_PROXY"),
        (408, "DeadlineExceeded", 8, "a proxy in between"),
        (413, "ResourceExhausted", 7, "the proxy in between"),
        (422, "InvalidRequest", 2, SEE_SERVER),
        (429, "ResourceExhausted", 7, "the proxy in between"),
        (500, "Internal", 10, SEE_SERVER),
        (501, "Unimplemented", 2, SEE_SERVER),
        (502, "Unavailable", 9, SEE_SERVER),
        (503, "Unavailable", 9, SEE_SERVER),
        (504, "Unavailable", 9, SEE_SERVER),
        (520, "Unavailable", 9, SEE_SERVER),
    ],
)
def test_an_answer_that_is_not_ours_has_the_code_of_its_status_and_a_next_step(
    status: int, reason: str, code: int, says: str
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, html="<h1>proxy</h1>", headers={"location": "https://ignite.test:8443/x?y"})

    calls: tuple[Callable[[Client], object], ...] = (
        lambda one: one.create(pb.CreateBuildRequest(name="a")),
        lambda one: one.builds(1),
    )
    for call in calls:
        with pytest.raises(Stop) as caught:
            call(client(handler)[0])
        stop = caught.value
        assert (stop.reason, stop.exit_code) == (reason, code) and says in stop.next and str(status) in stop.message
        assert stop.error_class == ("platform" if code in (9, 10) else "client")
        assert status == 429 or "a proxy" in stop.message
        assert ("https://ignite.test:8443" in stop.message) == (300 <= status < 400) and "x?y" not in stop.message
        assert REASONS[reason].error_class == stop.error_class if reason in REASONS else True


def test_every_status_name_of_grpc_has_an_exit_code() -> None:
    assert set(CALL_EXITS) == CODES


@pytest.mark.parametrize(("status", "code"), [(413, 7), (429, 7), (403, 4), (308, 2)])
def test_an_upload_that_a_proxy_refuses_names_the_proxy(status: int, code: int) -> None:
    made, clock, _ = client(lambda request: httpx.Response(status, html="no"))
    with pytest.raises(Stop) as caught:
        made.upload(lambda: iter([b"a"]))
    assert (caught.value.exit_code, clock.slept) == (code, [])
    assert "proxy in between" in caught.value.next + str(caught.value)


def test_a_log_that_is_refused_for_now_says_how_to_go_on() -> None:
    """The build exists: it is lost from here, not refused."""
    made, _, _ = client(lambda request: refusal(429, "RESOURCE_EXHAUSTED", "too many", reason="QuotaExceeded"))
    with pytest.raises(Stop) as caught:
        list(made.follow("k7m2"))
    assert (caught.value.verdict, caught.value.exit_code) == ("LOST", 9) and "logs -f k7m2" in caught.value.next


def test_a_lost_server_is_named_without_its_login() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    made = Client("http://ada:s3cret@ignite.test", "t", transport=httpx.MockTransport(handler), clock=FakeClock())
    for call in (lambda: made.get("k7m2"), lambda: made.upload(lambda: iter([b"a"]))):
        with pytest.raises(Stop) as caught:
            call()
        assert "ignite.test" in caught.value.message and "s3cret" not in caught.value.message


def test_an_error_of_the_server_refuses_a_call_that_is_about_no_build() -> None:
    made, clock, _ = client(lambda request: refusal(500, "INTERNAL", "oops"))
    with pytest.raises(Stop) as caught:
        made.create(pb.CreateBuildRequest(idempotency_key="k"))
    assert (caught.value.reason, caught.value.exit_code, clock.slept) == ("Internal", 10, [])


@pytest.mark.parametrize("status", [500, 503, 507])
def test_an_error_of_the_server_about_a_build_that_is_there_is_waited_out(status: int) -> None:
    wrong = refusal(status, "INTERNAL", "an error of ours")
    answers = {
        "/stream": [wrong, httpx.Response(200, content=sse([line(1, "one")]))],
        "/k7m2": [wrong, answer(build("k7m2"))],
    }
    answers["/cancel"] = [wrong, answer(build("k7m2"))]
    made, _, _ = client(lambda request: answers["/" + request.url.path.rpartition("/")[2]].pop(0))
    assert [entry.line for entry in made.follow("k7m2") if not entry.eof] == ["one"]
    assert made.get("k7m2").build_id == made.cancel("k7m2").build_id == "k7m2"
    assert not any(answers.values())


def test_an_error_of_the_server_that_stays_is_no_refusal_of_a_build_that_is_there() -> None:
    first = [answer(build("k7m2"))]
    made, _, _ = client(lambda request: first.pop() if first else refusal(500, "INTERNAL", "an error of ours"))
    made.get("k7m2")
    with pytest.raises(Stop) as caught:
        made.get("k7m2")
    assert (caught.value.verdict, caught.value.exit_code) == ("LOST", 9)
    assert "ignite-builder get k7m2" in caught.value.next


def test_what_a_server_never_does_is_refused_at_once() -> None:
    made, clock, _ = client(lambda request: refusal(501, "UNIMPLEMENTED", "not built yet"))
    with pytest.raises(Stop):
        made.get("k7m2")
    assert clock.slept == []


def test_a_server_that_was_never_there_is_given_up_in_seconds() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    made, clock, _ = client(handler)
    with pytest.raises(Stop) as caught:
        made.get("k7m2")
    assert (caught.value.exit_code, caught.value.verdict, clock.slept) == (9, "LOST", [1.0, 2.0])


def test_a_server_that_was_there_is_waited_for_ten_minutes() -> None:
    up = [True]

    def handler(request: httpx.Request) -> httpx.Response:
        if up.pop() if up else False:
            return answer(build())
        raise httpx.ConnectError("refused")

    made, clock, _ = client(handler)
    made.get("k7m2")
    with pytest.raises(Stop) as caught:
        made.get("k7m2")
    assert caught.value.exit_code == 9
    assert clock.slept[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert 570 <= sum(clock.slept) <= 600


def test_the_servers_own_wish_to_wait_is_honoured() -> None:
    answers = [httpx.Response(503, headers={"retry-after": "7"}), answer(build())]
    made, clock, _ = client(lambda request: answers.pop(0))
    assert made.get("k7m2").name == "hello-go"
    assert clock.slept == [7.0]


def test_a_log_that_breaks_twice_arrives_once_and_in_order() -> None:
    lines = [line(number, f"line {number}") for number in range(1, 10)]
    asked: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        assert request.url.params["fromStart"] == "true"
        parts = {
            # Broken within an event: what is unfinished must not count.
            1: Broken([sse(lines[:3], eof=False), sse(lines[3:4], eof=False)[:-6]]),
            # Replays too much, then ends without eof.
            2: None,
        }.get(len(asked))
        if parts is not None:
            return httpx.Response(200, stream=parts)
        return httpx.Response(200, content=sse(lines[1:6], eof=False) if len(asked) == 2 else sse(lines[6:]))

    made, clock, heard = client(handler)
    entries = list(made.follow("k7m2xq9d4t1zv6wh5r3p"))
    assert [entry.sequence for entry in entries[:-1]] == list(range(1, 10))
    assert [entry.line for entry in entries[:-1]] == [entry.line for entry in lines]
    assert entries[-1].eof and entries[-1].status == pb.BUILD_STATUS_SUCCEEDED
    assert asked == [None, "3", "6"]
    assert heard.words == ["lost 1 3", "back 3", "lost 1 6", "back 6"]
    assert clock.slept == [1.0, 1.0]


def test_a_log_begins_after_the_line_asked_for() -> None:
    asked: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        return httpx.Response(200, content=sse([line(44, "x")]))

    made, _, _ = client(handler)
    assert next(entry.sequence for entry in made.follow("k7m2", 43)) == 44
    assert asked == ["43"]


def test_a_log_that_stays_lost_says_how_to_go_on() -> None:
    calls = [0]

    def handler(request: httpx.Request) -> httpx.Response:
        calls[0] += 1
        if calls[0] == 1:
            return httpx.Response(200, stream=Broken([sse([line(1, "a")], eof=False)]))
        raise httpx.ConnectError("refused")

    made, _, _ = client(handler)
    with pytest.raises(Stop) as caught:
        list(made.follow("k7m2xq9d4t1zv6wh5r3p"))
    assert caught.value.next == "ignite-builder logs -f k7m2xq9d4t1zv6wh5r3p --from 2"


def test_line_separators_inside_a_line_do_not_split_it() -> None:
    made, _, _ = client(lambda request: httpx.Response(200, content=sse([line(1, "a\u2028b\x0bc\x85d")])))
    assert next(made.follow("k7m2")).line == "a\u2028b\x0bc\x85d"


def test_fields_of_a_newer_server_are_skipped() -> None:
    made, _, _ = client(lambda request: httpx.Response(200, json={"buildId": "k7m2", "colour": "red"}))
    assert made.get("k7m2").build_id == "k7m2"


def test_an_upload_is_not_repeated() -> None:
    calls = [0]

    def handler(request: httpx.Request) -> httpx.Response:
        calls[0] += 1
        raise httpx.WriteError("reset")

    made, clock, _ = client(handler)
    with pytest.raises(Stop) as caught:
        made.upload(lambda: iter([b"x"]))
    assert (calls[0], clock.slept, caught.value.exit_code) == (1, [], 9)
    assert "no build exists" in caught.value.message


def test_an_upload_beyond_the_quota_is_sent_anew_when_the_server_says() -> None:
    """More often than a server would be asked that never answered."""
    bodies: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        if len(bodies) < 5:
            made = refusal(429, "RESOURCE_EXHAUSTED", "four are open", reason="QuotaExceeded")
            made.headers["retry-after"] = "20"
            return made
        return httpx.Response(200, json={"contextId": "c1"})

    made, clock, _ = client(handler)
    assert made.upload(lambda: iter([b"a", b"bc"])).context_id == "c1"
    assert bodies == [b"abc"] * 5 and clock.slept == [20] * 4


def test_a_quota_that_stays_full_is_named_in_the_end() -> None:
    made, _, _ = client(
        lambda request: refusal(429, "RESOURCE_EXHAUSTED", "20000 builds are queued", reason="QuotaExceeded")
    )
    with pytest.raises(Stop) as caught:
        made.create(pb.CreateBuildRequest(name="app"))
    assert "20000 builds are queued" in caught.value.message
    assert (caught.value.reason, caught.value.exit_code, caught.value.error_class) == ("QuotaExceeded", 7, "client")


def test_events_skip_comments_and_an_unfinished_end() -> None:
    text = ": ping\n\nevent: log\nid: 5\ndata: a\ndata: b\n\nretry: 3\ndata:x\n\nevent: log\ndata: lost"
    found = [(event.name, event.data, event.id) for event in events(text.split("\n"))]
    assert found == [("log", "a\nb", "5"), ("message", "x", "5")]
