"""Starting a program on $PORT and speaking plain HTTP to it; nothing here knows a runtime."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.local.ports import free_port

READY_S = 300.0
HEADERS = {
    "x-ignite-execution-id": "exec-1",
    "x-ignite-function-id": "acme/hello",
    "x-ignite-organization-id": "acme",
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """How an app is started: argv, its environment beside PORT, its folder.

    `loses_accepted`: what its HTTP server accepts while it closes is not served, and ends with the process.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    loses_accepted: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class App:
    """A running app."""

    port: int
    process: subprocess.Popen[bytes]

    def ask(
        self, path: str = "/", body: bytes = b"", method: str = "POST", headers: Mapping[str, str] = HEADERS
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            return ask_on(connection, path, body, method, headers)
        finally:
            connection.close()

    def raw(self, data: bytes, *, half_close: bool = True) -> bytes:
        """Send bytes as they are, read to the end of the connection. A server may take a half-closed one for a client
        that left."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            connection.sendall(data)
            with contextlib.suppress(OSError):  # the app may have answered and closed before it read all of it
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts)

    def term(self) -> None:
        """Send TERM."""
        self.process.send_signal(signal.SIGTERM)


def ask_on(
    connection: http.client.HTTPConnection,
    path: str,
    body: bytes = b"",
    method: str = "POST",
    headers: Mapping[str, str] = HEADERS,
) -> Answer:
    """One request on this connection."""
    connection.request(method, path, body=body, headers=dict(headers))
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(status=response.status, headers=found, body=response.read())


@contextmanager
def started(command: Command, **extra: str) -> Iterator[App]:
    """Start the app on a free port, wait until GET /healthz answers 2xx, end it by its id."""
    port = free_port()
    env = {"PATH": os.defpath, **command.env, **extra, "PORT": str(port)}
    process = subprocess.Popen(
        command.argv, cwd=command.cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    app = App(port=port, process=process)
    try:
        wait_ready(app)
        yield app
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_ready(app: App) -> None:
    """Until /healthz answers 2xx. Raises `AssertionError` when the app ended or took too long."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        assert app.process.poll() is None, f"the app ended with {app.process.returncode} before it was ready"
        try:
            if 200 <= app.ask("/healthz", method="GET").status < 300:
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"GET /healthz did not answer 2xx within {READY_S} s")
