"""Requests to a registry: who we are, what is tried again, and how long.

Retried: connections that break or time out, 408, 429 and 5xx, with the other side's `Retry-After` or a doubling delay.
Not retried: 401 and 403 once the challenge was answered (`RegistryRefused`), and what is no answer of a registry.
Everything that raises here names host, request and status, never a credential, a token or a signed address.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from builder.errors import BuildError, PlatformError

T = TypeVar("T")
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
CHALLENGE = re.compile(r'(?<![a-zA-Z])([a-zA-Z]+)="([^"]*)"')  # each run of letters is looked at once
NOTICE_S = 0.1
"""How long a wait goes on that nobody waits for any more."""
MAX_TOKEN_BYTES = 64 * 1024
MOST_TOKENS = 200
"""Tokens that outlive a build: one for each repository that was pushed to."""
MAX_TOKEN_ANSWER_BYTES = 4 * MAX_TOKEN_BYTES
"""The most bytes that a token service answers: it may write the token twice, and more beside it."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how long: `attempts` in all; delays in ms, doubling from `first` to `longest`.

    `silence_s`: how long the other side may send nothing before the attempt counts as failed.
    """

    attempts: int = 6
    first_ms: int = 200
    longest_ms: int = 20_000
    silence_s: float = 60.0

    def delay_ms(self, failed: int, asked_ms: int) -> int:
        """The pause after `failed` attempts; the other side's wish counts, up to `longest_ms`."""
        return min(max(asked_ms, self.first_ms << (failed - 1)), self.longest_ms)


PATIENT = Patience()

ONE_SHORT_ATTEMPT = Patience(attempts=1, silence_s=10.0)
"""For a caller whose own pauses are the retry, and who keeps others waiting meanwhile."""


class Trouble(Exception):
    """One attempt failed in a way that may pass. `said` is safe to show."""

    def __init__(self, said: str, retry_after_ms: int = 0) -> None:
        super().__init__(said)
        self.said = said
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A user's name and password (or token) for a registry; never shown."""

    username: str
    password: str = field(repr=False)

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(kw_only=True)
class Transport:
    """HTTP to one registry `host` ("name[:port]"). Threads may share it.

    `sleep` takes seconds, `now` gives seconds since the epoch; both are arguments so that tests need no time.
    `check` is asked before each attempt and each chunk of an upload; it, and `sleep`, may raise to end it all.
    """

    host: str
    client: httpx.Client = field(repr=False)
    credentials: Credentials | None = None
    insecure: bool = False
    patience: Patience = PATIENT
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    check: Callable[[], None] = lambda: None
    _tokens: dict[str, str] = field(default_factory=dict, repr=False)
    _basic: bool = False
    _admitted: bool = False
    """A request was answered without a challenge."""
    without_subject: bool = False
    """A referrer was answered without `OCI-Subject`, so that the next one will be, too."""
    _with_empty: dict[str, None] = field(default_factory=dict, repr=False)

    def knows(self, scope: str) -> bool:
        """Whether an answer has said who we have to be in this scope. Calls side by side would else each ask for it."""
        return scope in self._tokens or self._basic or (self._admitted and not self._tokens)

    def has_empty(self, repository: str) -> bool:
        """Whether the blob that statements have as their config was there when one was attached before."""
        return repository in self._with_empty

    def remember_empty(self, repository: str, is_there: bool) -> None:
        """See `has_empty`; of the last `MOST_TOKENS` repositories."""
        self._with_empty.pop(repository, None)
        if is_there:
            self._with_empty[repository] = None
        for oldest in list(self._with_empty)[:-MOST_TOKENS]:
            self._with_empty.pop(oldest, None)

    def forget_many(self) -> None:
        """Drop the tokens where there are many; each is fetched again when it is needed."""
        if len(self._tokens) > MOST_TOKENS:
            self._tokens.clear()

    @property
    def base(self) -> str:
        plain = self.insecure or is_loopback(self.host)
        return f"{'http' if plain else 'https'}://{self.host}"

    def url(self, path: str) -> str:
        return f"{self.base}/v2/{path}"

    def persistently(self, what: str, attempt: Callable[[], T], halt: Callable[[], None] | None = None) -> T:
        """Run `attempt` until it answers without `Trouble`. Raises `PlatformError` RegistryUnavailable in the end.

        `halt` raises once nobody waits for the answer; it is asked before each attempt and during the waits.
        """
        for failed in range(1, self.patience.attempts + 1):
            self.check()
            if halt is not None:
                halt()
            try:
                return attempt()
            except Trouble as trouble:
                # A wish beyond our patience is for whoever retries the build, not for a process that sleeps on it.
                if failed == self.patience.attempts or trouble.retry_after_ms > self.patience.longest_ms:
                    raise PlatformError(
                        "RegistryUnavailable",
                        f"{self.host}: {what}: {trouble.said}; gave up after {counted(failed)}",
                        retry_after_ms=trouble.retry_after_ms,
                    ) from None
                self._wait(self.patience.delay_ms(failed, trouble.retry_after_ms) / 1000, halt)
        raise AssertionError("attempts is at least 1")

    def _wait(self, seconds: float, halt: Callable[[], None] | None) -> None:
        if halt is None:
            self.sleep(seconds)
            return
        while seconds > 0:
            halt()
            self.sleep(min(seconds, NOTICE_S))
            seconds -= NOTICE_S

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Iterator[bytes]] | bytes = b"",
    ) -> Iterator[httpx.Response]:
        """One request with whatever authorization it takes. Raises `Trouble` for what may pass.

        `scope` as in the token specification ("repository:x:pull,push"). `body` as a function gives the bytes anew
        when the request is repeated after a challenge; then `Content-Length` is in `headers`.
        """
        for challenged in (False, True):
            sent = {"Accept-Encoding": "identity", **(headers or {}), **self._authorization(url, scope)}
            content = body if isinstance(body, bytes) else body()
            try:
                with self.client.stream(
                    method, url, headers=sent, content=content, follow_redirects=method in ("GET", "HEAD")
                ) as response:
                    # Whoever answered may be somebody else, whom a redirect led to: that one gets no login of ours.
                    if response.status_code == 401 and not challenged and self._ours(response.request.url):
                        self._answer_challenge(response, scope)
                        continue
                    self._judge(response)
                    self._admitted = self._admitted or self._ours(url)
                    yield response
                    return
            except httpx.TransportError as error:
                raise Trouble(_transport_words(error)) from None
            except httpx.InvalidURL:
                raise self.broken(f"{method} led to an address that is none") from None
            except httpx.RequestError as error:
                raise self.broken(f"{method} {_unusable_words(error)}") from None

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Iterator[bytes]] | bytes = b"",
        limit: int = 8 * 1024 * 1024,
    ) -> httpx.Response:
        """As `stream`, with the answer read (at most `limit` bytes)."""
        with self.stream(method, url, scope=scope, headers=headers, body=body) as response:
            return self._whole(response, method, limit)

    def _whole(self, response: httpx.Response, what: str, limit: int) -> httpx.Response:
        """The answer with its bytes as they were sent, never decompressed. Raises for more than `limit`."""
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > limit:
                raise self.broken(f"{what} answered with more than {limit} bytes")
        kept = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
        return httpx.Response(response.status_code, headers=kept, content=bytes(data), request=response.request)

    def led_to(self, response: httpx.Response, address: str) -> str:
        """An address as an answer names it, relative to its own. Raises `PlatformError` RegistryUnavailable."""
        try:
            return urljoin(str(response.request.url), address)
        except ValueError:
            raise self.broken(f"{response.request.method} led to an address that is none") from None

    def broken(self, said: str) -> BuildError:
        """The other side did not do its part, and asking again would not help."""
        return PlatformError("RegistryUnavailable", f"{self.host}: {said}")

    def refused(self, what: str, response: httpx.Response) -> BuildError:
        """An answer that means no. 401 and 403 are about our credentials, which are the operator's: RegistryRefused."""
        status = response.status_code
        code = _error_code(response)
        why = f"{status}{' ' + code if code else ''}"
        if status in (401, 403):
            if self._ours(response.request.url):
                self._tokens.clear()  # a later use asks for rights that were given meanwhile
            who = f"user {self.credentials.username}" if self.credentials else "no credentials"
            return PlatformError("RegistryRefused", f"{self.host}: {what}: refused with {why} ({who})")
        return self.broken(f"{what}: answered {why}")

    def _ours(self, url: str | httpx.URL) -> bool:
        """Whether an address is of the registry itself; a host in capitals or the port of its scheme change nothing."""
        if isinstance(url, str) and url.startswith(self.base + "/"):  # nearly every one, and several a request
            return True
        try:
            asked, own = httpx.URL(url), httpx.URL(self.base)
        except httpx.InvalidURL:
            return False
        return (asked.scheme, asked.raw_host, asked.port) == (own.scheme, own.raw_host, own.port)

    def _authorization(self, url: str, scope: str) -> dict[str, str]:
        """Only for the registry itself: uploads and blobs may be sent to storage elsewhere."""
        if not self._ours(url):
            return {}
        if token := self._tokens.get(scope):
            return {"Authorization": f"Bearer {token}"}
        if self._basic and self.credentials:
            return {"Authorization": self.credentials.basic()}
        return {}

    def _judge(self, response: httpx.Response) -> None:
        if response.status_code in RETRIED:
            raise Trouble(f"answered {response.status_code}", self._retry_after_ms(response))

    def _retry_after_ms(self, response: httpx.Response) -> int:
        """RFC 9110, 10.2.3: seconds or a date."""
        text = response.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return int(text[:9]) * 1000
        try:
            wanted = parsedate_to_datetime(text)
        except (TypeError, ValueError, OverflowError):  # a year of twenty digits
            return 0
        if wanted.tzinfo is None:
            wanted = wanted.replace(tzinfo=UTC)
        return max(0, int((wanted - datetime.fromtimestamp(self.now(), UTC)).total_seconds() * 1000))

    def _answer_challenge(self, response: httpx.Response, scope: str) -> None:
        """RFC 9110, 11.6.1, and the token specification of the distribution project."""
        for challenge in response.headers.get_list("www-authenticate"):
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                self._tokens[scope] = self._fetch_token(dict(CHALLENGE.findall(rest)), scope)
                return
            if scheme.lower() == "basic" and self.credentials:
                self._tokens.pop(scope, None)  # of a token service that the registry had before
                self._basic = True
                return

    def _fetch_token(self, challenge: Mapping[str, str], scope: str) -> str:
        realm = challenge.get("realm", "")
        try:
            parts = urlsplit(realm)
        except ValueError:
            raise self.broken("names a token service that is no address") from None
        plain_allowed = self.base.startswith("http://")
        if parts.scheme != "https" and not (parts.scheme == "http" and plain_allowed):
            raise self.broken("names a token service that is not https")
        query = {"scope": scope.split(" ")}
        if challenge.get("service"):
            query["service"] = [challenge["service"]]
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Authorization": self.credentials.basic()} if self.credentials else {}
        where = f"token service {parts.hostname}"
        try:
            url = httpx.URL(realm).copy_merge_params(query)
            with self.client.stream("GET", url, headers=headers, follow_redirects=False) as streamed:
                response = self._whole(streamed, where, MAX_TOKEN_ANSWER_BYTES)
        except httpx.TransportError as error:
            raise Trouble(f"{where} {_transport_words(error)}") from None
        except httpx.InvalidURL:
            raise self.broken("names a token service that is no address") from None
        except httpx.RequestError as error:
            raise self.broken(f"{where} {_unusable_words(error)}") from None
        if response.status_code in RETRIED:
            raise Trouble(f"{where} answered {response.status_code}", self._retry_after_ms(response))
        if response.status_code != 200:
            raise self.refused(where, response)
        try:
            answer = response.json()
            token = str(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise self.broken(f"{where} gave no token") from None
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable():
            raise self.broken(f"{where} gave no usable token")
        return token


def is_loopback(host: str) -> bool:
    """Whether `host` ("name[:port]", "[::1]:5000") is this machine, where plain HTTP leaks nothing."""
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def counted(attempts: int) -> str:
    return f"{attempts} attempt{'s' if attempts != 1 else ''}"


def _transport_words(error: httpx.TransportError) -> str:
    """The kind of failure; the exception's own text may hold an address with a signature."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return "timed out"
    if isinstance(error, httpx.ConnectError):
        return "could not be reached"
    if isinstance(error, httpx.ProxyError):
        return "could not be reached through the proxy"
    return "broke the connection"


def _unusable_words(error: httpx.RequestError) -> str:
    """What is no trouble of the connection, so that the same request would end alike."""
    if isinstance(error, httpx.TooManyRedirects):
        return "was redirected again and again"
    return "gave an answer that cannot be decoded"


def _error_code(response: httpx.Response) -> str:
    """The code word of a registry's error answer (distribution-spec, "Error Codes"), when it has one."""
    try:
        code = str(response.json()["errors"][0]["code"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, httpx.ResponseNotRead):
        return ""
    return code if re.fullmatch(r"[A-Z_]{1,60}", code) else ""
