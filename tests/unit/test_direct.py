"""The HTTP client of ours against httpx's own: the same requests, without cookies; redirects and logins as httpx has
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from builder.direct import DirectClient

TIMEOUT = httpx.Timeout(7.0, connect=3.0)
Answer = Callable[[httpx.Request], httpx.Response]


class Wire(httpx.BaseTransport):
    """Answers, and remembers what it was asked. `closed`: how often an answer's stream was."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self.asked, self.closed = answer, list[httpx.Request](), 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        response = self._answer(request)
        stream = response.stream
        assert isinstance(stream, httpx.SyncByteStream)
        response.stream = Counted(stream, self)
        return response


class Counted(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, wire: Wire) -> None:
        self._stream, self._wire = stream, wire

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._wire.closed += 1


class Pieces(httpx.SyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if not piece:
                raise httpx.ReadError("broke")
            yield piece


def client(
    wire: httpx.BaseTransport, plain: httpx.BaseTransport | None = None, headers: dict[str, str] | None = None
) -> DirectClient:
    return DirectClient(wire, plain=plain, timeout=TIMEOUT, headers=headers)


def fine(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Pieces(b"yes"), headers={"set-cookie": "a=1"})


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("GET", {}),
        ("GET", {"params": {"a": "b c", "d": "é"}}),
        ("HEAD", {"headers": {"Accept": "text/plain", "X-One": "1"}}),
        ("PUT", {"content": b"body", "headers": {"Content-Type": "a/b"}}),
        ("POST", {"content": b""}),
        ("POST", {}),
        ("PATCH", {"content": iter([b"one", b"two"])}),
        ("GET", {"timeout": httpx.Timeout(1.0, read=90.0)}),
    ],
)
def test_a_request_is_the_one_that_httpx_sends(method: str, given: dict[str, Any]) -> None:
    ours, theirs = Wire(fine), Wire(fine)
    own = {"authorization": "Bearer x"}
    plain = httpx.Client(transport=theirs, trust_env=False, timeout=TIMEOUT, headers=own)
    with client(ours, headers=own) as direct, plain:
        for one in (direct, plain):
            one.request(method, "https://host.example:5000/a%20b/ü?q=1", **given)
    (mine,), (its,) = ours.asked, theirs.asked
    assert (mine.method, mine.url) == (its.method, its.url)
    assert sorted(mine.headers.multi_items()) == sorted(its.headers.multi_items())
    assert mine.extensions["timeout"] == its.extensions["timeout"]


def test_no_cookie_is_kept() -> None:
    wire = Wire(fine)
    with client(wire) as direct:
        for _ in range(2):
            assert direct.get("https://host.example/").text == "yes"
    assert ["cookie" in request.headers for request in wire.asked] == [False, False]
    assert wire.closed == 2


def test_http_and_https_have_their_own_ways() -> None:
    tls, plain = Wire(fine), Wire(fine)
    with client(tls, plain) as direct:
        for url in ("https://host.example/", "http://host.example/", "http://host.example/"):
            direct.get(url)
    assert (len(tls.asked), len(plain.asked)) == (1, 2)


def test_another_scheme_is_refused() -> None:
    with client(httpx.HTTPTransport()) as direct, pytest.raises(httpx.UnsupportedProtocol):
        direct.get("ftp://host.example/")


def elsewhere(request: httpx.Request) -> httpx.Response:
    if request.url.host == "host.example":
        return httpx.Response(307, stream=Pieces(), headers={"location": "https://other.example/there"})
    return httpx.Response(200, stream=Pieces(b"there"))


def test_a_redirect_is_followed_where_that_is_wanted_and_takes_no_login_along() -> None:
    wire = Wire(elsewhere)
    with client(wire) as direct:
        for _ in range(2):
            login = {"authorization": "Bearer x"}
            with direct.stream("GET", "https://host.example/here", headers=login, follow_redirects=True) as answer:
                assert (answer.read(), answer.request.url.host) == (b"there", "other.example")
    hosts = [request.url.host for request in wire.asked]
    assert hosts == ["host.example", "other.example"] * 2
    assert all(("authorization" in each.headers) == (each.url.host == "host.example") for each in wire.asked)
    assert wire.closed == len(wire.asked)


@pytest.mark.parametrize("wish", [{}, {"follow_redirects": False}])
def test_a_redirect_is_an_answer_where_nobody_wants_it_followed(wish: dict[str, Any]) -> None:
    wire = Wire(elsewhere)
    with client(wire) as direct:
        assert direct.get("https://host.example/here", **wish).status_code == 307
    assert len(wire.asked) == 1


def test_the_login_of_an_address_is_sent_as_httpx_does() -> None:
    wire = Wire(fine)
    with client(wire) as direct:
        assert direct.get("https://me:secret@host.example/").text == "yes"
    assert wire.asked[0].headers["authorization"].startswith("Basic ")


def test_a_body_that_breaks_leaves_no_stream_open() -> None:
    wire = Wire(lambda request: httpx.Response(200, stream=Pieces(b"one", b"")))
    with client(wire) as direct, pytest.raises(httpx.ReadError):
        direct.get("https://host.example/")
    assert wire.closed == 1


def test_a_closed_client_sends_nothing() -> None:
    """Its transport would connect anew, and nobody would close that."""
    wire = Wire(fine)
    with client(wire) as direct:
        direct.get("https://host.example/")
    with pytest.raises(RuntimeError, match="closed"):
        direct.get("https://host.example/")
    assert len(wire.asked) == 1
