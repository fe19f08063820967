"""Sockets inside a sandbox's empty network namespace, made from outside.

A socket belongs for life to the namespace it was made in, whoever holds it. So the sandbox needs no socket file and no
forwarder program: a listener made in there is served out here, a connection made in there is relayed out here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from builder.errors import PlatformError

CLONE_NEWNET = 0x40000000
IP_FREEBIND = 15  # linux/in.h; the loopback inside may not have its address yet

_libc = ctypes.CDLL(None, use_errno=True)

MakeSocket = Callable[[], socket.socket]


@contextmanager
def sockets_inside(pid: int) -> Iterator[MakeSocket]:
    """A function that makes TCP sockets in the network namespace of process `pid`.

    Root joins it for a moment; anybody else needs the owning user namespace first, hence a process of its own.
    Raises `PlatformError` SandboxUnavailable where the namespace cannot be joined.
    """
    maker = _by_visit if os.geteuid() == 0 else _by_process
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
def _by_visit(pid: int) -> Iterator[MakeSocket]:
    """A namespace belongs to a thread: the one that asks moves in for one call, all others stay where they are."""
    lock = threading.Lock()
    closed = False
    try:
        opened = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:  # the sandbox died before it was joined
        raise _cannot_join(error.strerror or repr(error)) from None
    with FileIO(opened) as namespace:

        def make() -> socket.socket:
            with lock:
                if closed:
                    raise _cannot_join("the sandbox is gone")
                with _visit(namespace.fileno()):
                    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

        try:
            yield make
        finally:
            with lock:
                closed = True


@contextmanager
def _visit(namespace: int) -> Iterator[None]:
    """This thread in another network namespace; back in its own at the end, also when it never got there."""
    with FileIO(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)) as own:
        try:
            if _libc.setns(namespace, CLONE_NEWNET):  # never a socket of the host's own network
                raise _cannot_join(os.strerror(ctypes.get_errno()))
            yield
        finally:
            if _libc.setns(own.fileno(), CLONE_NEWNET):
                raise PlatformError("SandboxUnavailable", f"network namespace: {os.strerror(ctypes.get_errno())}")


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
                output = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
                raise _cannot_join((output.strip().splitlines() or ["no answer"])[-1])
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
