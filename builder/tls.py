"""HTTP clients that load a CA bundle when they first need it: that takes 20 ms and more, and plain HTTP needs none."""

from __future__ import annotations

import functools
import os
import re
import ssl
import threading

import httpx

from builder.direct import DirectClient
from builder.errors import BuildError, ErrorClass

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=45.0)
"""Idle connections end before those who balance loads close them (a minute), after the next build's first request."""


_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""Under which name OpenSSL looks for a certificate in a folder (openssl-rehash(1))."""


def new_client(*, ca_bundle: str = "", proxy: str = "", timeout: httpx.Timeout) -> httpx.Client:
    """A client that reads no environment variable of its own. `ca_bundle`: a file; empty: the system's."""
    if proxy:
        return httpx.Client(verify=context(ca_bundle), proxy=proxy, trust_env=False, timeout=timeout, limits=LIMITS)
    return DirectClient(TlsTransport(ca_bundle), plain=plain_transport(), timeout=timeout)


def plain_transport() -> httpx.HTTPTransport:
    """A transport that speaks plain HTTP alone."""
    return httpx.HTTPTransport(verify=trusts_nobody(), trust_env=False, limits=LIMITS)


def trusts_nobody() -> ssl.SSLContext:
    """What a client of plain HTTP is made with: it has no use for a bundle, and no TLS of it ever passes."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class TlsTransport(httpx.BaseTransport):
    """HTTPS that loads its bundle with the first request."""

    def __init__(self, ca_bundle: str) -> None:
        self._ca_bundle = ca_bundle
        self._lock = threading.Lock()
        self._made: httpx.HTTPTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            made = self._made = self._made or httpx.HTTPTransport(
                verify=context(self._ca_bundle), trust_env=False, limits=LIMITS
            )
        return made.handle_request(request)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


@functools.cache
def context(ca_bundle: str) -> ssl.SSLContext:
    """One context for each process, so that a push of what is there is not mostly the loading of a bundle.

    An image without certificates trusts whom httpx brings, also where it has an empty place for them (openssl without
    ca-certificates). Raises `BuildError` InvalidRequest, the platform's, for a
    file that holds none.
    """
    paths = ssl.get_default_verify_paths()  # None for a file or folder that is not there
    if not (ca_bundle or _has_file(paths.cafile) or _has_folder(paths.capath)):
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except OSError as error:  # of the file, or of what is in it
        message = f"{ca_bundle} holds no certificates: {error.strerror or error}"
        hint = "Name a file of certificates in PEM: ca_bundle."
        raise BuildError(
            "InvalidRequest", message, where="ca_bundle", next=hint, error_class=ErrorClass.PLATFORM
        ) from None


def _has_file(path: str | None) -> bool:
    try:
        return path is not None and os.path.getsize(path) > 0
    except OSError:
        return False


def _has_folder(path: str | None) -> bool:
    try:
        return path is not None and any(map(_HASHED.fullmatch, os.listdir(path)))
    except OSError:
        return False
