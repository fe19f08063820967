"""The one client, each call once: kinds of answers, and what is loaded when."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

import httpx
import pytest

from builder.client.api import Api, ApiError, ApiUnreachable
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError

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


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413, 501, 505])
def test_every_other_answer_is_a_refusal(status: int) -> None:
    """Without an error of ours it is nobody's verdict, and no word that ends a node (`registration.ENDING`)."""
    made = answering(status)
    with pytest.raises(ApiError) as refused:
        made.call("GetBuild", GET)
    assert (refused.value.status, refused.value.code, made.answered) == (status, "UNKNOWN", True)
    assert refused.value.is_foreign and refused.value.detail == {}
    with pytest.raises(ApiError):
        list(made.download("/v1/ignite/worker/builds/k7m2/source?claim=1"))
    with pytest.raises(ApiError):
        list(made.log("k7m2"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>no</html>",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"message": "no"}',
        b'{"code": 403, "message": "an error of a cluster"}',
        b'{"code": "AccessDenied", "message": "no"}',
        b'{"code": "FORBIDDEN", "message": "no"}',
        b'{"code": ["NOT_FOUND"], "message": "no"}',
    ],
)
def test_an_error_without_a_code_of_ours_is_foreign(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        api(lambda request: httpx.Response(403, content=body)).call("GetBuild", GET)
    assert refused.value.is_foreign and refused.value.code == "UNKNOWN" and "answered 403" in refused.value.message


def test_an_error_of_ours_is_not_foreign() -> None:
    body = {"code": "PERMISSION_DENIED", "message": "no", "details": [{"where": "x"}]}
    with pytest.raises(ApiError) as refused:
        api(lambda request: httpx.Response(403, json=body)).call("GetBuild", GET)
    assert (refused.value.is_foreign, refused.value.code, refused.value.detail) == (False, body["code"], {"where": "x"})


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("https://ignite.test/v1/builds/k7m2?token=s3cret", "https://ignite.test"),
        ("https://ada:s3cret@ignite.test:8443/", "https://ignite.test:8443"),
        ("https://[::1]:8443/", "https://[::1]:8443"),
        ("http://ignite.test/login?s3cret", ""),
        ("/login", ""),
        ("", ""),
        ("javascript://s3cret/", ""),
        ("https://ho st/", ""),
        ("https://ignite.test:99999/", ""),
        ("https://[s3cret/", ""),
    ],
)
def test_a_redirection_names_where_it_leads_and_no_more(location: str, leads_to: str) -> None:
    made = api(lambda request: httpx.Response(308, headers=[(b"location", location.encode())]))
    with pytest.raises(ApiError) as refused:
        made.call("GetBuild", GET)
    assert refused.value.leads_to == leads_to and leads_to in refused.value.message
    assert "s3cret" not in refused.value.message and refused.value.message.isprintable()


NOW = "Mon, 30 Nov 2026 03:15:19 GMT"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Mon, 30 Nov 2026 03:15:49 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Monday, 30-Nov-26 03:15:49 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Mon, 30 Nov 2026 03:15:09 GMT", "date": NOW}, 0.0),
        ({"retry-after": "Mon, 30 Nov 2026 03:15:49 -0000", "date": NOW}, 30.0),
        ({"retry-after": "Mon, 30 Nov 1998 03:15:49 GMT"}, 0.0),
        ({"retry-after": "soon", "date": NOW}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Mon, 99 Nov 2026 03:15:49 GMT", "date": NOW}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_wish_to_wait_is_seconds_or_a_date(headers: dict[str, str], wait_s: float) -> None:
    with pytest.raises(ApiUnreachable) as later:
        api(lambda request: httpx.Response(503, headers=headers)).call("GetBuild", GET)
    assert later.value.wait_s == wait_s


def test_a_date_counts_from_now_where_the_answer_has_none() -> None:
    until = formatdate(time.time() + 10_000, usegmt=True)
    with pytest.raises(ApiUnreachable) as later:
        api(lambda request: httpx.Response(503, headers={"retry-after": until})).call("GetBuild", GET)
    assert 0 < later.value.wait_s <= 10_000


@pytest.mark.parametrize("token", ["s3cret word", "s3cret\n", "s3cr\xe9t", "s3cret\0", "\udcff"])
def test_a_token_that_no_header_carries_is_refused_and_not_repeated(token: str) -> None:
    made = Api("http://ignite.test", token, transport=httpx.MockTransport(lambda request: httpx.Response(204)))
    for call in (lambda: made.call("GetBuild", GET), lambda: list(made.log("k7m2"))):
        with pytest.raises(BuildError, match="which no header may carry") as refused:
            call()
        assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "token")
        assert token not in str(refused.value)


def test_a_page_is_no_server_that_was_reached() -> None:
    made = api(lambda request: httpx.Response(200, html="<html>Who are you?</html>"))
    with pytest.raises(ApiUnreachable):
        made.call("GetBuild", GET)
    assert not made.answered


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


@pytest.mark.parametrize("trust_env", [False, True])
@pytest.mark.parametrize(
    ("server", "shown"),
    [
        ("http://ignite.test", "http://ignite.test"),
        ("http://ignite.test:8080/a/b%2Fc/", "http://ignite.test:8080/a/b%2Fc"),
        ("https://[::1]:8443//", "https://[::1]:8443"),
        ("http://ignite.test/ui/#/builds", "http://ignite.test/ui"),
    ],
)
def test_a_call_goes_below_the_servers_address(server: str, shown: str, trust_env: bool) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, content=b"{}")

    made = Api(server, "t", transport=httpx.MockTransport(answer), trust_env=trust_env)
    made.call("GetBuild", pb.GetBuildRequest(build_id="a/b c"))
    assert asked == [f"{shown}/v1/ignite/builds/a%2Fb%20c"]
