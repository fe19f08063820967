"""What answers at a server's URL in another protocol, and what is only away."""

from __future__ import annotations

import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from builder.client.api import Api, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e


def once(answer: bytes) -> int:
    """The port of a server that answers each connection with these bytes and hangs up, for the life of this process."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("https", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), ("http", b"\x15\x03\x01\x00\x02\x02\x46")],
    ids=["https to http", "http to https"],
)
def test_a_server_of_the_other_scheme_ends_the_start_instead_of_being_waited_for(
    scheme: str, answer: bytes, tmp_path: Path
) -> None:
    """TLS answers plain HTTP with an alert of its own."""
    server = f"{scheme}://127.0.0.1:{once(answer)}"
    settings = {"server": server, "token": "t", "node_dir": str(tmp_path / "node"), "unsandboxed": "true"}
    ran = Program(tmp_path / "home", settings).run("worker")
    assert ran.code == 75 and server in ran.err and "https:// where TLS is" in ran.err, ran


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"])
def test_a_server_that_starts_is_no_mistake(answer: bytes) -> None:
    with closing(Api(f"http://127.0.0.1:{once(answer)}", "t")) as api, pytest.raises(ApiUnreachable) as caught:
        api.call("ListBuilds", pb.ListBuildsRequest())
    assert not caught.value.is_mistake
