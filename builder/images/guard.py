"""HTTP to hosts that a stranger names: only public addresses, only HTTPS, each name resolved once for a connection.

Every request passes, also those of redirects and of token services, so that no answer of a registry leads to a private
address. The address that was judged is the one that is connected to; TLS verifies the name.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import httpx

from builder.addresses import Resolve, does_not_exist, is_global, listed, normalized, system_resolve
from builder.errors import BuildError
from builder.images.transport import is_loopback
from builder.text import visible
from builder.tls import TlsTransport, plain_transport

NEXT = "Name a registry with a public address, or ask the operator to list this one in private_registries."
_PORTS = {"http": 80, "https": 443}


class Deadline:
    """Ends every connection of a client after `seconds`. A timeout is that of one read, and a stranger who sends a byte
    now and then never meets one: neither in a header nor in a body."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.over = seconds, False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._timer = threading.Timer(seconds, self.end)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, facts: Mapping[str, Any]) -> None:
        """What httpcore emits: the socket of each new connection, and again once TLS has wrapped it."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        with self._lock:
            self._open.add(facts["return_value"].get_extra_info("socket"))
            over = self.over
        if over:
            self.end()

    def end(self) -> None:
        """Shut every connection down: whoever reads from one gets its end."""
        with self._lock:
            self.over = True
            for one in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def stop(self) -> None:
        """Forget the connections."""
        self._timer.cancel()
        with self._lock:
            self._open.clear()


class Guarded(httpx.BaseTransport):
    """`private`: hosts whose address may be any (`addresses.listed`); `plain`: those that speak HTTP without TLS.

    Each request has a connection of its own: one that is kept is known by its address, and its certificate was verified
    for another name at that address.

    Raises `BuildError` ImageHostRefused before anything is sent, ImageHostUnknown for a name that does not exist.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport,
        *,
        private: Collection[str] = (),
        plain: Collection[str] = (),
        resolve: Resolve = system_resolve,
        deadline: Deadline | None = None,
    ) -> None:
        self._inner, self._private, self._plain, self._resolve = inner, private, plain, resolve
        self._deadline = deadline

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the address that was judged."""
        url, host = request.url, normalized(request.url.host)
        port = url.port or _PORTS.get(url.scheme, 0)
        shown = visible(f"{host}:{port}", limit=120)
        address = self._address(host, port, shown)
        if url.scheme != "https" and not (url.scheme == "http" and listed(host, port, self._plain)):
            raise BuildError("ImageHostRefused", f"{shown} is asked without TLS", where="imageRef", next=NEXT)
        extensions = {**request.extensions, "sni_hostname": host}
        if self._deadline:
            if self._deadline.over:
                raise httpx.ReadTimeout(f"{shown} is asked too late")
            extensions["trace"] = self._deadline.trace
        headers = request.headers.copy()
        headers["connection"] = "close"
        sent = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=headers,
            stream=request.stream,
            extensions=extensions,
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
    host: str,
    *,
    private: Collection[str],
    insecure: bool,
    ca_bundle: str,
    timeout_s: float,
    resolve: Resolve,
    deadline: Deadline | None = None,
) -> httpx.Client:
    """A client for the registry `host` ("name[:port]") of a reference. Of `private` only its own entry counts, so that
    no other registry redirects into it."""
    parts = httpx.URL(f"https://{host}")
    name, port = normalized(parts.host), parts.port or (80 if insecure else 443)
    bracketed = f"[{name}]" if ":" in name else name
    mine = (f"{bracketed}:{port}",) if listed(name, port, private) else ()
    plain = mine if insecure or is_loopback(host) else ()
    rules: dict[str, Any] = {"private": mine, "plain": plain, "resolve": resolve, "deadline": deadline}
    return httpx.Client(
        transport=Guarded(TlsTransport(ca_bundle), **rules),
        mounts={"http://": Guarded(plain_transport(), **rules)},
        trust_env=False,
        timeout=httpx.Timeout(timeout_s, connect=10.0),
    )
