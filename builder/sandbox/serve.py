"""Run an app in an empty network namespace and relay one outside address to its port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from builder.errors import PlatformError
from builder.sandbox import proxy
from builder.sandbox.netns import MakeSocket
from builder.sandbox.run import GRACE_MS, run
from builder.sandbox.shapes import Command, Limits, OnLine, Result, Root, Stream

START_TIMEOUT_S = 60.0


@dataclass
class Serving:
    """A running app. `address` is the outside one; a connection made before the app listens is closed at once."""

    address: tuple[str, int]
    _stop: threading.Event
    _thread: threading.Thread
    _outcome: list[Result | BaseException] = field(default_factory=list)

    def stop(self) -> None:
        """TERM, the grace, KILL; returns at once, `wait` for the end."""
        self._stop.set()

    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> Result:
        """Until the app ended by itself or by `stop` (then `reason` is Cancelled). Raises as `run` does."""
        self._thread.join()
        outcome = self._outcome[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def ignored(stream: Stream, line: bytes) -> None:
    """An `on_line` for whoever does not want the app's output."""


def serve(
    command: Command,
    root: Root,
    limits: Limits,
    *,
    uid: int,
    gid: int,
    port: int,
    listen: tuple[str, int] = ("127.0.0.1", 0),
    on_line: OnLine = ignored,
    use_cgroups: bool = True,
    grace_ms: int = GRACE_MS,
    placed: Callable[[int], None] = lambda pid: None,
) -> Serving:
    """Start `command` with `PORT` set and relay `listen` (port 0: any free one) to 127.0.0.1:`port` inside.

    The app reaches nothing: its namespace has a loopback and no proxy. `on_line` is called in another thread, and so is
    `placed`, with a process inside.
    Raises `PlatformError` SandboxUnavailable, OSError when `listen` is taken.
    """
    command = replace(command, env={"PORT": str(port), **command.env})
    outside = socket.create_server(listen)
    stop, ready = threading.Event(), threading.Event()
    relays: list[_Relay] = []

    def wired(make: MakeSocket) -> None:
        relays.append(_Relay(outside, make, port))
        ready.set()

    def live() -> None:
        # bubblewrap dies with the thread that started it, so that thread is this one.
        try:
            result = run(
                command,
                root,
                limits,
                uid=uid,
                gid=gid,
                egress=None,
                on_line=on_line,
                cancelled=stop.is_set,
                use_cgroups=use_cgroups,
                grace_ms=grace_ms,
                started=wired,
                placed=placed,
            )
            serving._outcome.append(result)
        except BaseException as error:
            serving._outcome.append(error)
        finally:
            for relay in relays:
                relay.stop()
            outside.close()
            ready.set()

    address = outside.getsockname()[:2]
    serving = Serving((str(address[0]), int(address[1])), stop, threading.Thread(target=live, name="sandbox-serve"))
    try:
        serving._thread.start()
    except BaseException:  # no room for a thread; else it is the thread that closes this
        outside.close()
        raise
    if not ready.wait(START_TIMEOUT_S):
        stop.set()
        raise PlatformError("SandboxUnavailable", "the app's sandbox did not start within 60 s")
    if not relays:
        serving.wait()
    return serving


class _Relay:
    """One thread accepts, one thread for each connection: an app under test has few."""

    def __init__(self, outside: socket.socket, make: MakeSocket, port: int) -> None:
        self._outside, self._make, self._port = outside, make, port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopped = False
        self._accepting = threading.Thread(target=self._accept, name="sandbox-relay", daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._outside.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), name="sandbox-relay-one", daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, PlatformError), self._make() as inside:
            with self._lock:
                if self._stopped:
                    return
                self._open |= {client, inside}
            try:
                inside.connect(("127.0.0.1", self._port))
                proxy.relay(client, inside, [0, 0])
            finally:
                with self._lock:
                    self._open -= {client, inside}

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for one in (self._outside, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
