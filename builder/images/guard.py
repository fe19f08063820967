"""HTTP to hosts that a stranger names: only public addresses, only HTTPS, each name resolved once for a connection.

Every request passes, also those of redirects and of token services, so that no answer of a registry leads to a private
address. The address that was judged is the one that is connected to; TLS verifies the name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

import httpx

from builder.addresses import Resolve, does_not_exist, is_global, listed, normalized, system_resolve
from builder.errors import BuildError
from builder.images.transport import TlsTransport, is_loopback, plain_transport
from builder.text import visible

NEXT = "Name a registry with a public address, or ask the operator to list this one in private_registries."
_PORTS = {"http": 80, "https": 443}


class Guarded(httpx.BaseTransport):
    """`private`: hosts whose address may be any (`addresses.listed`); `plain`: those that speak HTTP without TLS.

    Raises `BuildError` ImageHostRefused before anything is sent, ImageHostUnknown for a name that does not exist.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        *,
        private: Collection[str] = (),
        plain: Collection[str] = (),
        resolve: Resolve = system_resolve,
    ) -> None:
        self._inner, self._private, self._plain, self._resolve = inner, private, plain, resolve

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the address that was judged."""
        url, host = request.url, normalized(request.url.host)
        port = url.port or _PORTS.get(url.scheme, 0)
        shown = visible(f"{host}:{port}", limit=120)
        address = self._address(host, port, shown)
        if url.scheme != "https" and not (url.scheme == "http" and listed(host, port, self._plain)):
            raise BuildError("ImageHostRefused", f"{shown} is asked without TLS", where="imageRef", next=NEXT)
        sent = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return self._inner.handle_request(sent)

    def close(self) -> None:
        self._inner.close()

    def _address(self, host: str, port: int, shown: str) -> str:
        try:
            addresses: tuple[str, ...] = (str(ipaddress.ip_address(host)),)
        except ValueError:
            try:
                addresses = self._resolve(host, port)
            except OSError as error:
                if does_not_exist(error):
                    message = f"there is no host {shown}"
                    raise BuildError("ImageHostUnknown", message, where="imageRef") from None
                raise httpx.ConnectError(f"{shown} does not resolve") from None
        if not addresses:
            raise httpx.ConnectError(f"{shown} has no address")
        hidden = [one for one in addresses if not is_global(one)]
        if hidden and not listed(host, port, self._private):
            # The address itself stays here: who asks shall not learn how names resolve inside.
            raise BuildError("ImageHostRefused", f"{shown} is not a public host", where="imageRef", next=NEXT)
        return addresses[0]


def guarded_client(
    host: str, *, private: Collection[str], insecure: bool, ca_bundle: str, timeout_s: float, resolve: Resolve
) -> httpx.Client:
    """A client for the registry `host` ("name[:port]") of a reference. Of `private` only its own entry counts, so that
    no other registry redirects into it."""
    parts = httpx.URL(f"https://{host}")
    name, port = normalized(parts.host), parts.port or (80 if insecure else 443)
    bracketed = f"[{name}]" if ":" in name else name
    mine = (f"{bracketed}:{port}",) if listed(name, port, private) else ()
    plain = mine if insecure or is_loopback(host) else ()
    rules: dict[str, Any] = {"private": mine, "plain": plain, "resolve": resolve}
    return httpx.Client(
        transport=Guarded(TlsTransport(ca_bundle), **rules),
        mounts={"http://": Guarded(plain_transport(), **rules)},
        trust_env=False,
        timeout=httpx.Timeout(timeout_s, connect=10.0),
    )
