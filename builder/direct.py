"""An `httpx.Client` whose requests go straight to their transport, at two thirds of the processor time of its own way.

What ours have no use for is left out: cookies, hooks, flows of authentication, a URL relative to a base. A redirect
that is to be followed, an address with a login, and what comes after `close` take httpx's whole way.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import httpx

DEFAULT: Any = httpx.USE_CLIENT_DEFAULT
ANSWERED = "ignite-answered"
"""The extension of a request whose answer is there already."""


class DirectClient(httpx.Client):
    """A client over `transport`, for http:// over `plain` where there is one. Threads may share it."""

    def __init__(
        self,
        transport: httpx.BaseTransport,
        *,
        plain: httpx.BaseTransport | None = None,
        timeout: httpx.Timeout,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        mounts = {"http://": Answered(plain)} if plain is not None else None
        super().__init__(
            transport=Answered(transport), mounts=mounts, trust_env=False, timeout=timeout, headers=headers
        )
        self._ways = {"https": transport, "http": plain or transport}
        self._sent = {name.lower(): value for name, value in self.headers.items()}
        self._extensions = {"timeout": timeout.as_dict()}

    def build_request(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        content: Any = None,
        params: Any = None,
        headers: Any = None,
        timeout: Any = DEFAULT,
        **others: Any,
    ) -> httpx.Request:
        """As of `httpx.Client`, of what is named here; `url` is whole."""
        assert not any(others.values()), others
        return httpx.Request(
            method,
            _parsed(url) if isinstance(url, str) else url,
            params=params,
            headers={**self._sent, **{name.lower(): value for name, value in (headers or {}).items()}},
            content=content,
            extensions=self._extensions if timeout is DEFAULT else {"timeout": httpx.Timeout(timeout).as_dict()},
        )

    def send(
        self, request: httpx.Request, *, stream: bool = False, auth: Any = DEFAULT, follow_redirects: Any = DEFAULT
    ) -> httpx.Response:
        """As of `httpx.Client`, but of `auth`."""
        way, follows = self._ways.get(request.url.scheme), follow_redirects is True
        if way is None or request.url.userinfo or self.is_closed:
            return super().send(request, stream=stream, follow_redirects=follows)
        response = way.handle_request(request)
        response.request = request
        if follows and response.has_redirect_location:
            request.extensions = {**request.extensions, ANSWERED: response}
            return super().send(request, stream=stream, follow_redirects=True)
        if not stream:
            try:
                response.read()
            finally:
                response.close()
        return response


class Answered(httpx.BaseTransport):
    """A transport that gives back an answer which a request brings along."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answered = request.extensions.pop(ANSWERED, None)
        return answered if isinstance(answered, httpx.Response) else self._transport.handle_request(request)

    def close(self) -> None:
        self._transport.close()


@functools.lru_cache(maxsize=1024)
def _parsed(url: str) -> httpx.URL:
    """Several requests of a build have the same address."""
    return httpx.URL(url)
