"""Sockets inside a sandbox's empty network namespace, made from outside.

A socket belongs for life to the namespace it was made in, whoever holds it. So the sandbox needs no socket file and no
forwarder program: a listener made in there is served out here, a connection made in there is relayed out here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from builder.errors import PlatformError

CLONE_NEWNET = 0x40000000
IP_FREEBIND = 15  # linux/in.h; the loopback inside may not have its address yet

MakeSocket = Callable[[], socket.socket]


@contextmanager
def sockets_inside(pid: int) -> Iterator[MakeSocket]:
    """A function that makes TCP sockets in the network namespace of process `pid`.

    Root joins it with one thread; anybody else needs the owning user namespace first, hence a process of its own.
    Raises `PlatformError` SandboxUnavailable where the namespace cannot be joined.
    """
    maker = _by_thread if os.geteuid() == 0 else _by_process
    with maker(pid) as make:
        yield make


def listener_inside(make: MakeSocket, port: int) -> socket.socket:
    """A listener on 127.0.0.1:`port` of the namespace."""
    listener = make()
    listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


@contextmanager
def _by_thread(pid: int) -> Iterator[MakeSocket]:
    """A namespace belongs to a thread: this one moves in, the rest of the worker stays where it is."""
    asks: queue.SimpleQueue[Future[socket.socket] | None] = queue.SimpleQueue()
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def live_inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.setns(namespace, CLONE_NEWNET) and ctypes.get_errno()
        while ask := asks.get():
            if failed:  # never a socket of the host's own network
                ask.set_exception(_cannot_join(os.strerror(failed)))
                continue
            try:
                ask.set_result(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            except OSError as error:
                ask.set_exception(error)

    thread = threading.Thread(target=live_inside, name="sandbox-netns", daemon=True)
    thread.start()

    lock = threading.Lock()
    closed = False

    def make() -> socket.socket:
        ask: Future[socket.socket] = Future()
        with lock:
            if closed:
                raise _cannot_join("the sandbox is gone")
            asks.put(ask)
        return ask.result()

    try:
        yield make
    finally:
        with lock:
            closed = True
            asks.put(None)  # what was asked before it is still answered
        thread.join()
        os.close(namespace)


@contextmanager
def _by_process(pid: int) -> Iterator[MakeSocket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = Path(__file__).with_name("netns_child.py")
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(child), str(pid)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},
            )
        lock = threading.Lock()

        def make() -> socket.socket:
            fds: list[int] = []
            with lock, contextlib.suppress(OSError):
                ours.sendall(b"s")
                _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            if not fds:
                said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
                raise _cannot_join((said.strip().splitlines() or ["no answer"])[-1])
            return socket.socket(fileno=fds[0])

        try:
            yield make
        finally:
            ours.close()
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


def _cannot_join(why: str) -> PlatformError:
    return PlatformError("SandboxUnavailable", f"cannot enter the sandbox's network namespace: {why}")
