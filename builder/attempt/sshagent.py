"""The socket of an SSH agent, for as long as one step asks its host; the key stays in this process."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.git.agent import MOST_BYTES, Agent


@contextmanager
def serving(path: Path, agent: Agent, owner: tuple[int, int] | None) -> Iterator[None]:
    """Answer at a socket file of `owner` until the block ends; then it is gone, and every connection is cut.

    A socket's address has at most 107 bytes, and a work folder's path may have more: its descriptor stands for it.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    except BaseException:
        listener.close()
        raise
    server = _Server(listener, agent)
    try:
        path.chmod(0o600)
        if owner:
            os.lchown(path, *owner)
        listener.listen()
        server.start()
        yield
    finally:
        server.stop()
        path.unlink(missing_ok=True)


class _Server(threading.Thread):
    """One connection after the other: git starts one ssh at a time, and ssh asks before it logs in."""

    def __init__(self, listener: socket.socket, agent: Agent) -> None:
        super().__init__(name="ssh-agent", daemon=True)
        self._listener, self._agent = listener, agent
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._stopped = False

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                with self._lock:
                    if self._stopped:
                        return
                    self._client = client
                with contextlib.suppress(OSError):
                    self._answer(client)
                with self._lock:
                    self._client = None

    def stop(self) -> None:
        """End it, whatever it waits for."""
        with self._lock:
            self._stopped = True
            for one in (self._listener, self._client):
                if one is not None:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
        if self.ident is not None:
            self.join()
        self._listener.close()

    def _answer(self, client: socket.socket) -> None:
        while head := _read(client, 4):
            size = int.from_bytes(head, "big")
            message = _read(client, size) if 0 < size <= MOST_BYTES else b""
            if not message:
                return
            answer = self._agent.answer(message)
            client.sendall(len(answer).to_bytes(4, "big") + answer)


def _read(client: socket.socket, size: int) -> bytes:
    """So many bytes; none where the other side ends before."""
    data = bytearray()
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            return b""
        data += more
    return bytes(data)
