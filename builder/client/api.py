"""The client of the control API: each call once, its path from the same descriptors as the server's routes.

httpx is loaded by the first call, which may be after a fork. One client for each process; threads may share it.
`patient.py` repeats calls.
"""

from __future__ import annotations

import functools
import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from builder.client import sse
from builder.contract import codec, routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

if TYPE_CHECKING:
    import httpx

NO_CONTENT = 204
LATER = frozenset({429, 502, 503, 504})
NEVER = frozenset({501, 505})  # of 5xx: a server that will not do it, however often it is asked
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
"""OpenSSL's reasons for bytes that are no TLS."""
CONNECT_S, READ_S = 10.0, 15.0
STREAM_SILENCE_S = 90.0  # a step may be silent for minutes, and nothing obliges the server to send comments meanwhile
CHUNK_BYTES = 1024 * 1024

Called = Callable[[str, str, int, int], None]
"""Hears of each answer: method, path, status, ms."""


CHECK_SCHEME = (
    "Set server to the scheme that answers there: https:// where TLS is, http:// where none is; for an authority of "
    "your own let the machine trust it, or set ca_bundle to a file with its certificate."
)


class ApiUnreachable(Exception):
    """No answer, or one that means "later". The call may be repeated, at the earliest after `wait_s`.

    `is_quota`: the server has looked at the call and will take it once others of the caller's have ended.
    `is_mistake`: whatever is there expects TLS where the URL names HTTP, the other way round, or has a certificate that
    is not trusted.
    """

    def __init__(self, why: str, wait_s: float = 0.0, *, is_quota: bool = False, is_mistake: bool = False) -> None:
        super().__init__(why)
        self.wait_s, self.is_quota, self.is_mistake = wait_s, is_quota, is_mistake


class StreamIdle(Exception):
    """The stream was silent for so long that it is opened anew. The server may well be there."""


class ApiError(Exception):
    """A refusal. `code` is the gRPC status name, `detail` the failure's reason, class, where and hint."""

    def __init__(self, status: int, code: str, message: str, detail: dict[str, Any]) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.detail = status, code, message, detail


class Api:
    """Calls of `BuildService` and `WorkerService` by their names. Raises `ApiUnreachable` and `ApiError`.

    `answered` is whether any answer was a verdict of the server. An HTTP proxy of the environment is used only where
    `trust_env` is set. `ca_bundle`: a file; empty: the system's.
    """

    def __init__(
        self,
        server: str,
        token: str,
        timeout_s: float = READ_S,
        *,
        ca_bundle: str = "",
        transport: httpx.BaseTransport | None = None,
        trust_env: bool = False,
        called: Called | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server, self.answered = server.rstrip("/"), False
        self._token, self._timeout_s, self._transport, self._trust_env = token, timeout_s, transport, trust_env
        self._called, self._clock, self._ca_bundle = called, clock, ca_bundle

    @functools.cached_property
    def _http(self) -> httpx.Client:
        import httpx

        from builder.tls import context, trusts_nobody

        return httpx.Client(
            base_url=self.server,
            verify=trusts_nobody() if self.server.startswith("http://") else context(self._ca_bundle),
            headers={"authorization": f"Bearer {self._token}"} if self._token else {},
            timeout=httpx.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s)),
            transport=self._transport,
            trust_env=self._trust_env,
        )

    def call(self, name: str, request: Message, *, repeatable: bool = True) -> Any:
        """One unary call; the answer is the method's response message.

        An error of the server (500 and kin) is a reason to repeat a call that changes nothing twice, else a refusal.
        """
        route = _routes()[name]
        path, query = routes.address(route, request)
        if route.has_body:
            headers = {"content-type": "application/json"}
            data = self._once(route.method, path, repeatable, content=codec.dump(request), headers=headers)
        else:
            data = self._once(route.method, path, repeatable, params=query)
        return _message(GetMessageClass(route.output), data)

    def upload(self, chunks: Iterable[bytes]) -> pb.UploadBuildContextResponse:
        """Stream a source."""
        headers = {"content-type": "application/octet-stream"}
        data = self._once("POST", routes.UPLOAD_PATH, repeatable=False, content=chunks, headers=headers)
        answer: pb.UploadBuildContextResponse = _message(pb.UploadBuildContextResponse, data)
        return answer

    def send(self, path: str, pieces: Iterable[bytes], answer: type[Any]) -> Any:
        """Stream a body to a path of a node; sent twice it changes nothing more."""
        headers = {"content-type": "application/octet-stream"}
        return _message(answer, self._once("POST", path, repeatable=True, content=pieces, headers=headers))

    def download(self, path: str) -> Iterator[bytes]:
        """Stream a body."""
        with self._stream(path) as response:
            yield from response.iter_bytes(CHUNK_BYTES)

    def log(self, build_id: str, after: int = 0) -> Iterator[pb.LogEntry]:
        """One stream of the lines after a sequence, in order; the entry with `eof` is the last one. A stream may end
        without it. Raises `StreamIdle`, too."""
        import httpx

        request = pb.StreamBuildLogsRequest(build_id=build_id, from_start=True)
        path, query = routes.address(_routes()["StreamBuildLogs"], request)
        headers = {"accept": "text/event-stream"} | ({"last-event-id": str(after)} if after > 0 else {})
        timeout = httpx.Timeout(self._timeout_s, read=STREAM_SILENCE_S)
        with self._stream(path, params=query, headers=headers, timeout=timeout) as response:
            if response.status_code == NO_CONTENT:  # behind all lines of a log that has ended
                yield pb.LogEntry(eof=True, sequence=after)
            try:
                for event in sse.events(sse.lines(response.iter_bytes())):
                    if (entry := _entry(event)) is not None:
                        yield entry
            except httpx.ReadTimeout:
                raise StreamIdle from None
            except sse.LineTooLong as error:
                raise ApiUnreachable(str(error)) from None

    def close(self) -> None:
        """Close the connections."""
        if "_http" in self.__dict__:
            self._http.close()

    @contextmanager
    def _stream(self, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        import httpx

        try:
            with self._http.stream("GET", path, **kwargs) as response:
                if response.status_code >= 300:
                    response.read()
                self._judge(response, repeatable=True)
                yield response
        except (httpx.TransportError, httpx.StreamError) as error:
            raise ApiUnreachable(_why(error), is_mistake=_is_mistake(error)) from error

    def _once(self, method: str, path: str, repeatable: bool, **kwargs: Any) -> bytes:
        import httpx

        began = self._clock()
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.RequestError as error:  # also of an answer whose encoding is none
            raise ApiUnreachable(_why(error), is_mistake=_is_mistake(error)) from error
        if self._called is not None:
            self._called(method, path, response.status_code, int((self._clock() - began) * 1000))
        self._judge(response, repeatable)
        return response.content

    def _judge(self, response: httpx.Response, repeatable: bool) -> None:
        """What kind of answer it is: none for now, a refusal, or one to read."""
        status = response.status_code
        if status in LATER or (repeatable and status >= 500 and status not in NEVER):
            found = _refusal(response)
            is_quota = found.detail.get("reason") == "QuotaExceeded"  # no proxy's word for it
            self.answered |= is_quota
            why = f": {found.message[:200]}" if is_quota else ""
            raise ApiUnreachable(f"answered {status}{why}", _retry_after(response), is_quota=is_quota)
        self.answered = True
        if status >= 300:
            raise _refusal(response)


@functools.cache
def _routes() -> dict[str, routes.Route]:
    return {route.rpc_name: route for service in routes.services() for route in routes.routes(service)}


def _message(answer: type[Any], data: bytes) -> Any:
    """An answer; fields that only a newer server knows are skipped."""
    try:
        return json_format.Parse(data, answer(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise ApiUnreachable(f"sent something that is no {answer.DESCRIPTOR.name}: {str(error)[:200]}") from error


def _entry(event: sse.Event) -> pb.LogEntry | None:
    if event.name not in ("log", "eof"):
        return None
    entry: pb.LogEntry = _message(pb.LogEntry, event.data.encode()) if event.data else pb.LogEntry()
    entry.eof = entry.eof or event.name == "eof"
    if event.id.isascii() and event.id.isdigit() and not entry.eof:
        entry.sequence = int(event.id)
    return entry


def _refusal(response: httpx.Response) -> ApiError:
    status = response.status_code
    try:
        body = json.loads(response.content)
        code, message = str(body["code"]), str(body["message"])
        details = [each for each in body.get("details") or [] if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(status, "UNKNOWN", f"the server answered {status} without an error of ours", {})
    return ApiError(status, code, message, details[0] if details else {})


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _is_mistake(error: BaseException) -> bool:
    """Whether the two sides do not use the same protocol, which no wait changes. A connection that just ends may be a
    server that starts."""
    if any(words in str(error) for words in ("illegal status line", "illegal request line")):  # h11: it is no HTTP
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError) or getattr(cause, "reason", "") in _NO_TLS:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _why(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout):
        return "did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"cannot be reached: {str(error)[:200]}"
    return f"broke the connection: {str(error)[:200] or type(error).__name__}"
