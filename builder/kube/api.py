"""The Kubernetes API as a builder uses it: few calls, plain JSON objects, one error for a cluster that does not answer.

The official client brings kubeconfig, in-cluster configuration, credential plugins and TLS. Its models are not loaded:
manifests are JSON here, and a watcher of hundreds of Jobs reads few fields of each.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
"""Of a watch that is silent for longer the server is gone without a word, whether or not it sends bookmarks."""

SILENCE_S = 300.0
"""A log may be silent for this long: then it is asked for again."""


class Refused(Exception):
    """An answer of the API that is not 2xx. `code` is its HTTP status, `why` its reason word (AlreadyExists, …)."""

    def __init__(self, code: int, why: str, message: str) -> None:
        super().__init__(f"{code} {why}: {message}")
        self.code = code
        self.why = why
        self.message = message


class Api:
    """One cluster. Every method raises `Refused`, or `PlatformError` ClusterUnavailable where nothing answers."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def close(self) -> None:
        await self._client.close()

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
        except Refused as refused:
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
        except Refused as refused:
            if refused.code in (404, 409):  # 409: another object has its name by now
                return False
            raise

    async def watch(
        self, kind: str, namespace: str, version: str, selector: str
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) since `version`, until the server ends it.

        Raises `Refused` with code 410 when `version` is too old: list again.
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
                    raise Refused(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
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
        async with _translated():
            response = await self._request(method, path, query, body, CALL_S)
            async with response:
                text = await response.read()
        _judge(response.status, text)
        return _object(text)

    @asynccontextmanager
    async def _stream(self, path: str, query: Mapping[str, str], silence_s: float) -> AsyncIterator[Any]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=silence_s)
        async with _translated():
            response = await self._request("GET", path, query, None, timeout)
            try:
                if response.status != 200:
                    _judge(response.status, await response.read())
                yield response
            finally:
                response.close()

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None, timeout: Any
    ) -> Any:
        """The HTTP answer, its body unread."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = await self._client.rest_client.request(
            method, url, headers=headers, body=body, _request_timeout=timeout
        )
        return answer.response


async def connect(kubeconfig: str = "", context: str = "") -> Api:
    """The cluster of a kubeconfig file (and a context of it), or the one that this process runs in when both are empty.

    Raises `PlatformError` ClusterUnavailable when there is neither, or no client is installed.
    """
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
    return Api(client.ApiClient(configuration))


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
    raise Refused(code, why, message)


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
