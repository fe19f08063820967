"""The client of the control API: each call once, its path from the same descriptors as the server's routes.

httpx is loaded by the first call, which may be after a fork. One client for each process; threads may share it.
`patient.py` repeats calls.
"""

from __future__ import annotations

import functools
import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from builder.client import sse
from builder.contract import codec, routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError

if TYPE_CHECKING:
    import httpx

NO_CONTENT = 204
AWAY = frozenset({502, 503, 504})
LATER = AWAY | {429}
NEVER = frozenset({501, 505})  # of 5xx: a server that will not do it, however often it is asked
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
"""OpenSSL's reasons for bytes that are no TLS."""
CONNECT_S, READ_S = 10.0, 15.0
STREAM_SILENCE_S = 90.0  # a step may be silent for minutes, and nothing obliges the server to send comments meanwhile
CHUNK_BYTES = 1024 * 1024

CODES = frozenset(
    {
        "ABORTED",
        "ALREADY_EXISTS",
        "CANCELLED",
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "FAILED_PRECONDITION",
        "INTERNAL",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "UNAUTHENTICATED",
        "UNAVAILABLE",
        "UNIMPLEMENTED",
        "UNKNOWN",
    }
)
"""The status names of gRPC. An error with another code is none of ours."""

Called = Callable[[str, str, int, int], None]
"""Hears of each answer: method, path, status, ms."""


CHECK_SCHEME = (
    "Set server to the scheme that answers there: https:// where TLS is, http:// where none is; for an authority of "
    "your own let the machine trust it, or set ca_bundle to a file with its certificate."
)


class ApiUnreachable(Exception):
    """No answer, or one that means "later". The call may be repeated, at the earliest after `wait_s`.

    `refusal`: what a 429 is to a caller who does not go on waiting.
    `is_quota`: the server has looked at the call and will take it once others of the caller's have ended.
    `is_mistake`: whatever is there expects TLS where the URL names HTTP, the other way round, or has a certificate that
    is not trusted.
    """

    def __init__(
        self,
        why: str,
        wait_s: float = 0.0,
        *,
        is_quota: bool = False,
        is_mistake: bool = False,
        refusal: ApiError | None = None,
    ) -> None:
        super().__init__(why)
        self.wait_s, self.is_quota, self.is_mistake, self.refusal = wait_s, is_quota, is_mistake, refusal


class StreamIdle(Exception):
    """The stream was silent for so long that it is opened anew. The server may well be there."""


class ApiError(Exception):
    """A refusal. `code` is the gRPC status name, `detail` the failure's reason, class, where and hint.

    `is_foreign`: it has no error of ours. A proxy in between or another server said so, and it is nobody's verdict: its
    code is UNKNOWN. `leads_to`: scheme, host and port of another server that it sends to.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        detail: dict[str, Any],
        *,
        is_foreign: bool = False,
        leads_to: str = "",
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.detail = status, code, message, detail
        self.is_foreign, self.leads_to = is_foreign, leads_to


class Api:
    """Calls of `BuildService` and `WorkerService` by their names. Raises `ApiUnreachable` and `ApiError`; at the first
    call `BuildError` InvalidRequest for a token or a bundle that cannot be.

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
        # As a browser shows it, perhaps: what is behind # goes to no server, and a path behind that would not either.
        self.server, self.answered = server.partition("#")[0].rstrip("/"), False
        self._token, self._timeout_s, self._transport, self._trust_env = token, timeout_s, transport, trust_env
        self._called, self._clock, self._ca_bundle = called, clock, ca_bundle

    @functools.cached_property
    def _http(self) -> httpx.Client:
        import httpx

        from builder.direct import DirectClient
        from builder.tls import context, trusts_nobody

        check_token(self._token)
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        timeout = httpx.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s))
        verify = trusts_nobody() if self.server.startswith("http://") else context(self._ca_bundle)
        if self._trust_env:
            return httpx.Client(verify=verify, headers=headers, timeout=timeout, transport=self._transport)
        transport = self._transport or httpx.HTTPTransport(verify=verify, trust_env=False)
        return DirectClient(transport, headers=headers, timeout=timeout)

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
            if _is_page(response):
                raise ApiUnreachable("answered with a page, as a proxy does that wants a login")
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
            with self._http.stream("GET", self.server + path, **kwargs) as response:
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
            response = self._http.request(method, self.server + path, **kwargs)
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
            if found.is_foreign and status in AWAY:
                why = ", as a proxy does whose server is away"
            refusal = found if status == 429 else None
            raise ApiUnreachable(f"answered {status}{why}", _retry_after(response), is_quota=is_quota, refusal=refusal)
        if status >= 300:
            self.answered = True
            raise _refusal(response)
        self.answered |= not _is_page(response)


def _is_page(response: httpx.Response) -> bool:
    """Whether it is for a person: a proxy's, for a login."""
    return "html" in response.headers.get("content-type", "")


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
        code, message = body["code"], str(body["message"])
        if code not in CODES:
            raise ValueError
        details = [each for each in body.get("details") or [] if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        leads_to = _leads_to(response)
        sends = f" and sends to {leads_to}" if leads_to else ""
        message = (
            f"the server answered {status}{sends}, without an error of ours: a proxy in between, or another server"
        )
        return ApiError(status, "UNKNOWN", message, {}, is_foreign=True, leads_to=leads_to)
    return ApiError(status, code, message, details[0] if details else {})


def _leads_to(response: httpx.Response) -> str:
    """Scheme, host and port of a redirection to another server; empty where there is none, or none to show."""
    if not 300 <= response.status_code < 400:
        return ""
    try:
        to = urlsplit(response.headers.get("location", ""))
        host, port = to.hostname or "", f":{to.port}" if to.port else ""
    except ValueError:
        return ""
    if to.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9.-]{1,253}|[0-9a-f:.]{2,45}", host):
        return ""
    found = f"{to.scheme}://{f'[{host}]' if ':' in host else host}{port}"
    asked = response.request.url
    return "" if (to.scheme, host, to.port) == (asked.scheme, asked.host, asked.port) else found


def _retry_after(response: httpx.Response) -> float:
    """Seconds of `Retry-After`, also where it names a date: that one is by the clock of whoever answered."""
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text)
    until = _seconds(text)
    began = _seconds(response.headers.get("date", ""))
    return max(until - (began or time.time()), 0.0) if until else 0.0


def _seconds(date: str) -> float:
    """A date of HTTP as seconds since 1970; 0 for what is none."""
    from email.utils import parsedate_to_datetime

    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def check_token(token: str) -> None:
    """Raises `BuildError` InvalidRequest for a token that no header may carry. It is not repeated."""
    if token and not re.fullmatch(r"[!-~]+", token):
        message = "the token holds a blank, a line end or a character that is not ASCII, which no header may carry"
        step = "Set IGNITE_BUILDER_TOKEN, or IGNITE_BUILDER_TOKEN_FILE to a file that holds the token."
        raise BuildError("InvalidRequest", message, where="token", next=step)


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
