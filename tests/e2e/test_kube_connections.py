"""A stream of the Kubernetes API over TLS that is left: nothing of its connection stays behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from builder.kube import api as kube
from tests.git_fixtures import certificate

pytestmark = pytest.mark.e2e

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\na line\n\r\n"


def answer(listener: socket.socket, pem: Path, kept: list[socket.socket]) -> None:
    """Answer one request with the start of a stream, and read nothing more: a server that is slow, or gone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    connection = context.wrap_socket(listener.accept()[0], server_side=True)
    connection.recv(65536)
    connection.sendall(ANSWER)
    kept.append(connection)


@pytest.mark.filterwarnings("error")
def test_the_socket_of_a_log_that_is_left_is_closed_though_its_server_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, bundle = certificate(tmp_path / "tls", "")
    trusting = ssl.create_default_context(cafile=str(bundle))
    kept: list[socket.socket] = []

    async def scenario(url: str) -> None:
        async with aiohttp.ClientSession() as session:

            async def request(*_: Any) -> aiohttp.ClientResponse:
                return await session.get(url, ssl=trusting)

            monkeypatch.setattr(kube, "_request", request)
            log = kube.Api(None).log("n", "p", "c", since="", follow=True)
            assert await anext(log) == b"a line\n"
            await log.aclose()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=answer, args=(listener, pem, kept))
        thread.start()
        asyncio.run(scenario(f"https://localhost:{listener.getsockname()[1]}/"))
        thread.join()
    gc.collect()  # a socket that is left open is noticed here
    kept.pop().close()
