"""A typed HTTP client of the control API, its paths derived from the same descriptors as the server's routes.

Made after the fork, one per process; safe to share between threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from builder.contract import codec, routes


class ApiUnreachable(Exception):
    """No answer, or an answer that says "later" (429, 5xx): the call may be repeated."""


class ApiError(Exception):
    """A refusal. `code` is the gRPC status name, `detail` the failure's reason, class, where and hint."""

    def __init__(self, status: int, code: str, message: str, detail: dict[str, Any]) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.detail = status, code, message, detail


class Api:
    """Calls of `BuildService` and `WorkerService` by their names. Raises `ApiUnreachable` and `ApiError`."""

    def __init__(self, server: str, token: str, timeout_s: float = 15.0) -> None:
        self._http = httpx.Client(
            base_url=server, headers={"authorization": f"Bearer {token}"}, timeout=timeout_s, trust_env=False
        )
        self._routes = {route.rpc_name: route for service in routes.services() for route in routes.routes(service)}

    def call(self, name: str, request: Message) -> Any:
        """One unary call; the answer is the method's response message."""
        route = self._routes[name]
        path, query = routes.address(route, request)
        if route.has_body:
            response = self._send(route.method, path, content=codec.dump(request))
        else:
            response = self._send(route.method, path, params=query)
        try:
            return codec.parse(GetMessageClass(route.output), response.content)
        except codec.Malformed as error:
            raise ApiError(
                response.status_code, "INTERNAL", f"the answer to {name} is malformed: {error}", {}
            ) from error

    def download(self, path: str) -> Iterator[bytes]:
        """Stream a body."""
        try:
            with self._http.stream("GET", path) as response:
                if response.status_code >= 400:
                    response.read()
                _refuse(response)
                yield from response.iter_bytes(1024 * 1024)
        except httpx.TransportError as error:
            raise ApiUnreachable(repr(error)) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"content-type": "application/json"}
        try:
            response = self._http.request(method, path, headers=headers, **kwargs)
        except httpx.TransportError as error:
            raise ApiUnreachable(repr(error)) from error
        _refuse(response)
        return response


def _refuse(response: httpx.Response) -> None:
    """Raises for an answer that is none; its body has been read."""
    if response.status_code == 429 or response.status_code in (500, 502, 503, 504):
        raise ApiUnreachable(f"{response.status_code} {response.text[:200]}")
    if response.status_code >= 300:
        raise _refusal(response)


def _refusal(response: httpx.Response) -> ApiError:
    try:
        body = json.loads(response.content)
        details = body.get("details") or [{}]
        return ApiError(response.status_code, str(body["code"]), str(body["message"]), dict(details[0]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(response.status_code, "UNKNOWN", response.text[:200], {})
