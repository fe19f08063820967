"""The one client, each call once: kinds of answers, and what is loaded when."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from builder.client.api import Api, ApiError, ApiUnreachable
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

GET = pb.GetBuildRequest(build_id="k7m2")


def api(handler: Callable[[httpx.Request], httpx.Response]) -> Api:
    return Api("http://ignite.test/", "t0ken", transport=httpx.MockTransport(handler))


def answering(status: int, **headers: str) -> Api:
    return api(lambda request: httpx.Response(status, headers={key.replace("_", "-"): v for key, v in headers.items()}))


def test_a_call_has_the_token_the_path_and_the_answer_of_its_method() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=codec.dump(pb.HeartbeatResponse(lease_ms=7)))

    beat = pb.HeartbeatRequest(build_id="k7m2", claim=3)
    assert api(handler).call("Heartbeat", beat) == pb.HeartbeatResponse(lease_ms=7)
    assert (seen[0].method, seen[0].url.path) == ("POST", "/v1/ignite/worker/builds/k7m2/heartbeat")
    assert seen[0].headers["authorization"] == "Bearer t0ken"
    assert codec.parse(pb.HeartbeatRequest, seen[0].content) == beat


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("repeatable", [True, False])
def test_an_answer_that_says_later_is_none(status: int, repeatable: bool) -> None:
    made = answering(status, retry_after="7")
    with pytest.raises(ApiUnreachable) as later:
        made.call("GetBuild", GET, repeatable=repeatable)
    assert (later.value.wait_s, made.answered) == (7.0, False)


@pytest.mark.parametrize("status", [500, 507])
def test_an_error_of_the_server_is_a_refusal_only_of_what_may_happen_twice(status: int) -> None:
    with pytest.raises(ApiUnreachable):
        answering(status).call("GetBuild", GET)
    with pytest.raises(ApiError) as refused:
        answering(status).call("GetBuild", GET, repeatable=False)
    assert refused.value.status == status


@pytest.mark.parametrize("status", [302, 400, 404, 501, 505])
def test_every_other_answer_is_a_refusal(status: int) -> None:
    made = answering(status)
    with pytest.raises(ApiError) as refused:
        made.call("GetBuild", GET)
    assert (refused.value.status, refused.value.code, made.answered) == (status, "UNKNOWN", True)
    with pytest.raises(ApiError):
        list(made.download("/v1/ignite/worker/builds/k7m2/source?claim=1"))
    with pytest.raises(ApiError):
        list(made.log("k7m2"))


def test_an_answer_that_is_none_of_ours_is_asked_for_again() -> None:
    with pytest.raises(ApiUnreachable, match="no Build"):
        api(lambda request: httpx.Response(200, text="<html>")).call("GetBuild", GET)


def test_an_answer_in_an_encoding_that_it_is_not_in_is_none() -> None:
    """A proxy's, say. Whoever calls catches what says that there is no answer."""
    squeezed = {"content-encoding": "gzip"}

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=squeezed, stream=httpx.ByteStream(b"not gzip"))

    with pytest.raises(ApiUnreachable, match="broke the connection"):
        api(handler).call("GetBuild", GET)


def test_a_download_and_a_log_that_break_may_be_repeated() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset by peer")

    for stream in (api(broken).download("/x"), api(broken).log("k7m2")):
        with pytest.raises(ApiUnreachable, match="reset by peer"):
            list(stream)


def test_a_log_that_has_ended_before_what_is_asked_for_is_at_its_end() -> None:
    made = Api("http://ignite.test", "t", transport=httpx.MockTransport(lambda request: httpx.Response(204)))
    assert [(entry.eof, entry.sequence) for entry in made.log("k7m2", 7)] == [(True, 7)]
