"""The Kubernetes API as a builder uses it: few calls, plain JSON objects, one error for a cluster that does not answer.

The official client brings kubeconfig, in-cluster configuration, credential plugins and TLS. Its models are not loaded:
manifests are JSON here, and a watcher of hundreds of Jobs reads few fields of each.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from builder.errors import PlatformError

KINDS = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "secrets": "/api/v1",
    "events": "/api/v1",
}
CALL_S = 30.0
WATCH_S = 60
"""How long the server keeps a watch open; then it goes on with a new one."""

WATCH_SILENCE_S = WATCH_S + CALL_S
"""A watch that is silent for longer has lost its server, whether or not that sends bookmarks."""

SILENCE_S = 300.0
"""A log may be silent for this long: then it is asked for again."""

UNAUTHORIZED = 401
RENEW_S = 10.0
"""Between two new connections for a credential that is refused."""


class ClusterRefused(Exception):
    """An answer of the API that is not 2xx. `code` is its HTTP status, `why` its reason word (AlreadyExists, …)."""

    def __init__(self, code: int, why: str, message: str) -> None:
        super().__init__(f"{code} {why}: {message}")
        self.code = code
        self.why = why
        self.message = message


@dataclass(eq=False)
class _Connection:
    """A client with one credential, and how many answers are being read from it."""

    client: Any
    uses: int = 0


class Api:
    """One cluster. Every method raises `ClusterRefused`, or `PlatformError` ClusterUnavailable where nothing answers.

    `renew` makes another client: a credential ends (a plugin's or a provider's token, a file that is written anew),
    and the client reads it once. A call that is refused for it is repeated with the new one.
    """

    def __init__(self, client: Any, renew: Callable[[], Awaitable[Any]] | None = None) -> None:
        self._current = _Connection(client)
        self._all = [self._current]
        self._renew, self._renewing = renew, asyncio.Lock()
        self._renewed_at = float("-inf")
        self._no_new = ""

    async def close(self) -> None:
        for connection in self._all:
            await connection.client.close()

    async def create(
        self, kind: str, namespace: str, manifest: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """The stored object; `dry_run` passes every check of the server and stores nothing."""
        query = {"dryRun": "All"} if dry_run else {}
        return await self._json("POST", _path(kind, namespace), query, manifest)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """None when there is none."""
        try:
            return await self._json("GET", _path(kind, namespace, name), {})
        except ClusterRefused as refused:
            if refused.code == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str, **query: str) -> dict[str, Any]:
        return await self._json("GET", _path(kind, namespace), query)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str = "") -> bool:
        """Delete with what it owns; False when it is gone already. With `uid` only that very object."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._json("DELETE", _path(kind, namespace, name), {}, body)
            return True
        except ClusterRefused as refused:
            if refused.code in (404, 409):  # 409: another object has its name by now
                return False
            raise

    async def watch(
        self, kind: str, namespace: str, version: str, selector: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) since `version`, until the server ends it.

        Raises `ClusterRefused` with code 410 when `version` is too old: list again.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "labelSelector": selector,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        async with self._stream(_path(kind, namespace), query, WATCH_SILENCE_S) as response:
            async for line in _lines(response):
                event = _object(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ClusterRefused(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                yield event["type"], event["object"]

    async def log(
        self, namespace: str, pod: str, container: str, *, since: str, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        """A container's log in pieces, each line behind its time; with `follow` until the container ends."""
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "false"}
        if since:
            query["sinceTime"] = since
        async with self._stream(f"{_path('pods', namespace, pod)}/log", query, SILENCE_S) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def _json(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        async with _translated(), self._answer(method, path, query, body, CALL_S) as response:
            text = await response.read()
        _judge(response.status, text)
        return _object(text)

    @asynccontextmanager
    async def _stream(self, path: str, query: Mapping[str, str], silence_s: float) -> AsyncIterator[Any]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=silence_s)
        async with _translated(), self._answer("GET", path, query, None, timeout) as response:
            if response.status != 200:
                _judge(response.status, await response.read())
            yield response

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None, timeout: Any
    ) -> AsyncIterator[Any]:
        """The HTTP answer, its body unread; closed afterwards."""
        for is_last in (False, True):
            connection = self._current
            connection.uses += 1
            try:
                response = await _request(connection.client, method, path, query, body, timeout)
                try:
                    if response.status == UNAUTHORIZED and not is_last and await self._has_other(connection):
                        continue
                    yield response
                    return
                finally:
                    _end(response)
            finally:
                connection.uses -= 1
                if connection is not self._current and not connection.uses:  # a log may go on with the old one
                    self._all.remove(connection)
                    await connection.client.close()

    async def _has_other(self, refused: _Connection) -> bool:
        """Whether there is another connection than this one, whose credential is refused.

        Raises `ClusterRefused` where none can be made.
        """
        async with self._renewing:
            if self._current is not refused:
                return True
            if self._renew is None:
                return False
            if time.monotonic() - self._renewed_at >= RENEW_S:
                self._renewed_at, self._no_new = time.monotonic(), ""
                try:
                    self._current = _Connection(await asyncio.wait_for(self._renew(), CALL_S))
                    self._all.append(self._current)
                    return True
                except Exception as error:  # whatever keeps a file or a plugin from giving one
                    self._no_new = f"and no other one is there: {error or type(error).__name__}"
            if self._no_new:
                raise ClusterRefused(UNAUTHORIZED, "Unauthorized", f"the credential is refused, {self._no_new}")
            return False


def _end(response: Any) -> None:
    """Close an answer. A connection whose answer was not read to its end is cut: TLS would wait for the farewell of a
    server that may be gone, and leave the socket behind where the loop ends before."""
    connection = response.connection  # None where the answer was read: it has gone back to the pool
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _request(
    client: Any, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None, timeout: Any
) -> Any:
    """The HTTP answer, its body unread."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    await client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
    url = f"{client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
    answer = await client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
    return answer.response


async def connect(kubeconfig: str = "", context: str = "") -> Api:
    """The cluster of a kubeconfig file (and a context of it), or the one that this process runs in when both are empty.

    Raises `PlatformError` ClusterUnavailable when there is neither, or no client is installed.
    """
    first = await _client(kubeconfig, context)

    async def renew() -> Any:
        made = await _client(kubeconfig, context)
        if _has_credential(first) and not _has_credential(made):  # of a plugin that fails, which the client only logs
            await made.close()
            raise PlatformError("ClusterUnavailable", "the configuration of the cluster gives none")
        return made

    return Api(first, renew)


def _has_credential(client: Any) -> bool:
    return bool(client.configuration.api_key or client.configuration.cert_file)


async def _client(kubeconfig: str, context: str) -> Any:
    """The official client of a cluster. Raises as `connect`."""
    try:
        from kubernetes.aio import client, config
    except ImportError:
        words = "the client of Kubernetes is not installed: pip install 'ignite-builder[kubernetes]'"
        raise PlatformError("ClusterUnavailable", words) from None

    configuration = client.Configuration()
    configuration.connection_pool_maxsize = 0  # a log follower has a connection of its own
    try:
        if kubeconfig or context:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig or None, context=context or None, client_configuration=configuration
            )
        else:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise PlatformError("ClusterUnavailable", f"no configuration of a cluster: {error}") from None
    return client.ApiClient(configuration)


def _path(kind: str, namespace: str, name: str = "") -> str:
    return f"{KINDS[kind]}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")


def _judge(code: int, text: bytes) -> None:
    if 200 <= code < 300:
        return
    try:
        value = json.loads(text)
        why, message = str(value.get("reason", "")), str(value.get("message", ""))
    except (ValueError, AttributeError):
        why, message = "", text[:300].decode("utf-8", "replace")
    raise ClusterRefused(code, why, message)


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object of the API. What else answers in its place (a proxy's page, half a line) is no answer."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PlatformError("ClusterUnavailable", "the Kubernetes API answers with something that is no object")
    return value


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """What breaks on the way is ClusterUnavailable."""
    import aiohttp

    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        words = str(error) or type(error).__name__
        raise PlatformError("ClusterUnavailable", f"the Kubernetes API does not answer: {words}") from None


async def _lines(response: Any) -> AsyncIterator[bytes]:
    """Whole lines of a body, however long."""
    rest = bytearray()
    async for piece in response.content.iter_any():
        rest += piece
        *whole, last = rest.split(b"\n")
        rest = bytearray(last)
        for line in whole:
            if line:
                yield bytes(line)
