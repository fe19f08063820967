"""BuildService over HTTP, for a person at a terminal: repeats what may be repeated, resumes a log where it broke.

Every wait goes through `Clock`, the wire through an httpx transport, so unit tests open no socket.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message

from builder.cli.stop import lost_server, refused_call
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

BUILDS = "/v1/ignite/builds"
PATIENCE_S = 600.0
LONGEST_WAIT_S = 30.0
FIRST_CONTACT_TRIES = 3
LINE_LIMIT = 8 * 1024 * 1024
_LATER = frozenset({429, 502, 503, 504})
_NEVER = frozenset({501, 505})  # of 5xx: the answer of a server that will not do it, however often it is asked

M = TypeVar("M", bound=Message)


class Clock(Protocol):
    """Seconds, and waiting for some."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The steady clock of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Watcher(Protocol):
    """Who hears about the connection. `after` is the last line that arrived."""

    def lost(self, seconds: int, after: int) -> None: ...

    def back(self, after: int) -> None: ...

    def called(self, method: str, path: str, status: int, took_ms: int) -> None: ...


class Silent:
    """Nobody listens."""

    def lost(self, seconds: int, after: int) -> None:
        return

    def back(self, after: int) -> None:
        return

    def called(self, method: str, path: str, status: int, took_ms: int) -> None:
        return


@dataclass(frozen=True, kw_only=True)
class Event:
    """One server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    name: str
    data: str
    id: str = ""


class _Broken(Exception):
    """The connection, not the answer, went wrong; the call may be repeated after `wait_s` (0: no wish)."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Idle(Exception):
    """Nothing was heard for so long that the connection is made anew; the server may well be there."""


class Client:
    """Calls of BuildService. Raises `Stop`: REFUSED by the contract's table, LOST (exit 9) when patience ends.

    Until the first answer three tries are made (a wrong URL shows in seconds); afterwards ten minutes of them.
    """

    def __init__(
        self,
        server: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.watcher: Watcher = watcher or Silent()
        self._clock: Clock = clock or SystemClock()
        self._reached = False
        self._http = httpx.Client(
            base_url=self.server,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(30.0, connect=10.0),
            transport=transport,
            trust_env=not _is_loopback(self.server),
        )

    def create(self, request: pb.CreateBuildRequest) -> pb.Build:
        """Ask for a build. The request must carry an idempotency key: a lost answer is asked for again."""
        body = codec.dump(request)
        answer = self._call(pb.CreateBuildResponse, "POST", BUILDS, content=body, headers=_JSON)
        build = answer.build
        build.build_id = build.build_id or answer.build_id
        build.status = build.status or answer.status
        return build

    def get(self, build_id: str) -> pb.Build:
        """The record; any unique start of the id of four characters or more will do. One that fits several builds is
        refused by the server, which lists them: only it sees all."""
        return self._call(pb.Build, "GET", f"{BUILDS}/{build_id}", known=build_id)

    def builds(self, limit: int, cursor: str = "") -> pb.ListBuildsResponse:
        """One page, newest first."""
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return self._call(pb.ListBuildsResponse, "GET", BUILDS, params=query)

    def cancel(self, build_id: str) -> pb.Build:
        """Ask for the end of a build; the answer is its record."""
        return self._call(pb.Build, "POST", f"{BUILDS}/{build_id}/cancel", known=build_id, content=b"{}", headers=_JSON)

    def upload(self, chunks: Iterable[bytes]) -> pb.UploadBuildContextResponse:
        """Stream a source. Not repeated: the stream cannot be read twice, and a broken upload creates no build."""
        headers = {"content-type": "application/octet-stream"}
        try:
            return self._once(
                pb.UploadBuildContextResponse, "POST", f"{BUILDS}/contexts", content=chunks, headers=headers
            )
        except _Broken as error:
            raise lost_server(self.server, f"broke off the upload ({error}); no build exists", "") from None

    def follow(self, build_id: str, after: int = 0) -> Iterator[pb.LogEntry]:
        """Every log line after sequence `after`, each once and in order, then the entry with `eof`."""
        last, tries, since, broke = after, 0, self._clock.now(), False
        while True:
            try:
                for entry in self._stream(build_id, last):
                    if broke:
                        self.watcher.back(last)
                    tries, broke = 0, False
                    if entry.eof:
                        yield entry
                        return
                    if entry.sequence <= last:
                        continue  # a server that replays too much
                    last = entry.sequence
                    yield entry
                why = _Broken("the stream ended early")
            except _Idle:
                continue
            except _Broken as error:
                why = error
            since = self._clock.now() if not broke else since
            broke = True
            self._wait(why, tries, since, last, f"ignite-builder logs -f {build_id} --from {last + 1}")
            tries += 1

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _stream(self, build_id: str, last: int) -> Iterator[pb.LogEntry]:
        headers = {"accept": "text/event-stream"} | ({"last-event-id": str(last)} if last > 0 else {})
        path, query = f"{BUILDS}/{build_id}/logs/stream", {"fromStart": "true"}
        try:
            # A step may be silent for minutes, and nothing obliges the server to send comments meanwhile.
            timeout = httpx.Timeout(30.0, read=90.0)
            with self._http.stream("GET", path, params=query, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                self._judge(response, known=True)
                try:
                    for event in events(_lines(response.iter_bytes())):
                        entry = _entry(event)
                        if entry is not None:
                            yield entry
                except httpx.ReadTimeout:
                    raise _Idle from None
        except (httpx.TransportError, httpx.StreamError) as error:
            raise _Broken(_why(error)) from error

    def _call(self, answer: type[M], method: str, path: str, *, known: str = "", **kwargs: Any) -> M:
        """`known`: the build that the call is about. It exists whatever the server answers."""
        tries, since = 0, self._clock.now()
        while True:
            try:
                return self._once(answer, method, path, known=bool(known), **kwargs)
            except _Broken as error:
                self._wait(error, tries, since, 0, f"ignite-builder get {known}" if known and self._reached else "")
                tries += 1

    def _once(self, answer: type[M], method: str, path: str, *, known: bool = False, **kwargs: Any) -> M:
        started = self._clock.now()
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise _Broken(_why(error)) from error
        self.watcher.called(method, path, response.status_code, int((self._clock.now() - started) * 1000))
        self._judge(response, known)
        return _read(answer, response.content)

    def _judge(self, response: httpx.Response, known: bool = False) -> None:
        """A server in trouble is asked again where that cannot make anything twice; about a `known` build always."""
        status = response.status_code
        if status in _LATER or (known and status >= 500 and status not in _NEVER):
            raise _Broken(f"answered {status}", _retry_after(response))
        self._reached = True
        if status >= 400 or 300 <= status < 400:
            raise _refusal(response)

    def _wait(self, why: _Broken, tries: int, since: float, after: int, next: str) -> None:
        """Wait 1, 2, 4 … 30 s, or as long as the server wished; raises LOST when patience ends."""
        wait = min(max(2.0**tries, why.wait_s), LONGEST_WAIT_S)
        over = self._clock.now() + wait - since > PATIENCE_S
        if over or (not self._reached and tries + 1 >= FIRST_CONTACT_TRIES):
            hint = next or "See which server is taken, and why: ignite-builder config"
            raise lost_server(self.server, str(why), hint)
        self.watcher.lost(round(wait), after)
        self._clock.sleep(wait)


_JSON = {"content-type": "application/json"}


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Events of a stream of lines; comments and unknown fields are skipped, an unfinished last event is dropped."""
    name, id_ = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data or name:
                yield Event(name=name or "message", data="\n".join(data), id=id_)
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            id_ = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a byte stream. Not httpx's `iter_lines`: it also splits at U+2028, which a log line may hold."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_LIMIT:
            raise _Broken("a line of the stream is longer than 8 MiB")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def _entry(event: Event) -> pb.LogEntry | None:
    if event.name not in ("log", "eof"):
        return None
    entry = _read(pb.LogEntry, event.data.encode()) if event.data else pb.LogEntry()
    entry.eof = entry.eof or event.name == "eof"
    if event.id.isascii() and event.id.isdigit() and not entry.eof:
        entry.sequence = int(event.id)
    return entry


def _read(answer: type[M], data: bytes) -> M:
    """An answer; fields that only a newer server knows are skipped."""
    try:
        return json_format.Parse(data, answer(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise _Broken(f"sent something that is no {answer.DESCRIPTOR.name}: {str(error)[:200]}") from error


def _refusal(response: httpx.Response) -> Exception:
    try:
        body = json.loads(response.content)
        code, message = str(body["code"]), str(body["message"])
        details = [each for each in body.get("details") or [] if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return refused_call("UNKNOWN", f"the server answered {response.status_code} without an error of ours", {})
    return refused_call(code, message, details[0] if details else {})


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _why(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout):
        return "did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached: {str(error)[:200]}"
    return f"broke the connection: {str(error)[:200] or type(error).__name__}"


def _is_loopback(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
