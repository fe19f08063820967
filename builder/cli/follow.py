"""Watch a build to its end: entries from a reading thread, the view's clock, and what Ctrl-C means meanwhile.

`build`: INT or TERM asks for the cancel once, a second one leaves at once; HUP detaches (docs/cli.md).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from builder.cli.connection import again_text, retry_text
from builder.cli.format import short_id
from builder.cli.inbox import Inbox
from builder.cli.stop import Stop
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

if TYPE_CHECKING:
    from builder.cli.client import Client
    from builder.local.client import LocalClient

TICK_S = 0.1
CANCEL_GRACE_S = 2.0
"""How long a second Ctrl-C still waits for the cancel to be delivered."""


class View(Protocol):
    """What `PlainView` and `LiveView` offer."""

    def open(self, head: str) -> None: ...

    def created(self, build: pb.Build, head: str) -> None: ...

    def entry(self, entry: pb.LogEntry) -> None: ...

    def notice(self, text: str) -> None: ...

    def status(self, text: str) -> None: ...

    def doing(self, what: str | Callable[[], str]) -> None: ...

    def tick(self) -> None: ...

    def close(self, build: pb.Build, again: str) -> None: ...

    def abandon(self) -> None: ...


Event = pb.LogEntry | pb.Build | str | Exception | None
"""An entry, the new record, a notice, how a thread ended, or a mere wake-up."""


@dataclass
class Interrupts:
    """Signals that arrived. `events` wakes the loop; an Inbox may be written from a handler."""

    events: Inbox[Event] = field(default_factory=Inbox)
    stops: int = 0
    hung_up: bool = False
    raises: bool = False
    """While nothing exists that a cancel could name, a signal ends the program like any other."""
    hup_stops: bool = False
    """Without a server nobody would go on with a build whose terminal is gone: that is a Ctrl-C, too."""

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Count INT, TERM and HUP; put the former handlers back at the end."""
        former = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            for each, handler in former.items():
                # A program started by nohup ignores HUP; that stays so.
                if handler is not signal.SIG_IGN:
                    signal.signal(each, self._on_signal)
            yield self
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.raises:
            raise KeyboardInterrupt
        if number == signal.SIGHUP and not self.hup_stops:
            self.hung_up = True
        else:
            self.stops += 1
        self.events.put(None)


@dataclass
class QueueWatcher:
    """Passes the client's notices of the connection into the loop."""

    put: Callable[[str], None]
    calls: Callable[[str], None] | None = None

    def lost(self, seconds: int, after: int) -> None:
        self.put(retry_text(seconds, after))

    def back(self, after: int) -> None:
        self.put(again_text(after + 1))

    def called(self, method: str, path: str, status: int, took_ms: int) -> None:
        if self.calls is not None:
            self.calls(f"{method} {path} {status} {took_ms}ms")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """How watching ended: the ended record, or why it was left (`interrupted`, `detached`)."""

    build: pb.Build | None = None
    left: str = ""


def create(
    client: Client | LocalClient, request: pb.CreateBuildRequest, view: View, interrupts: Interrupts
) -> pb.Build | None:
    """Ask for the build. A signal meanwhile waits for the answer, so that the cancel has a name; a second one does not
    (None). Raises `Stop`."""
    _thread(lambda: _create(client, request, interrupts.events))
    warned = False
    while True:
        event = interrupts.events.get(TICK_S)
        if interrupts.stops > 1 or interrupts.hung_up:
            return None
        if interrupts.stops and not warned:
            warned = True
            view.notice("cancelling as soon as the build has an id; Ctrl-C again leaves now")
        if isinstance(event, pb.Build):
            return event
        if isinstance(event, Exception):
            raise event
        if isinstance(event, str):
            view.notice(event)
        view.tick()


def watch(client: Client | LocalClient, build: pb.Build, view: View, interrupts: Interrupts) -> Watched:
    """Follow a build that this command started. Raises `Stop` when the server is lost or the cancel cannot land."""
    build_id = build.build_id
    _thread(lambda: _read(client, build_id, interrupts.events))
    canceller: threading.Thread | None = None
    while True:
        event = interrupts.events.get(TICK_S)
        if interrupts.hung_up:
            return Watched(left="detached")
        if interrupts.stops and canceller is None:
            view.notice(f"cancelling {short_id(build_id)}; Ctrl-C again leaves now, the cancel goes on")
            canceller = _thread(lambda: _cancel(client, build_id, interrupts.events))
        if interrupts.stops > 1 and canceller is not None:
            canceller.join(CANCEL_GRACE_S)
            return Watched(left="interrupted")
        if event is None:
            view.tick()
        elif isinstance(event, str):
            view.notice(event)
        elif isinstance(event, Exception):
            raise event
        elif isinstance(event, pb.Build):
            continue
        elif event.eof:
            return Watched(build=event.build if event.HasField("build") else client.get(build_id))
        else:
            view.entry(event)


def entries_or_ticks(
    client: Client | LocalClient, build_id: str, after: int, interrupts: Interrupts
) -> Iterator[pb.LogEntry | str | None]:
    """Entries and notices as they come, None at least every 100 ms; ends after `eof` or when a signal arrived."""
    _thread(lambda: _read(client, build_id, interrupts.events, after))
    while True:
        event = interrupts.events.get(TICK_S)
        if interrupts.stops or interrupts.hung_up:
            return
        if isinstance(event, Exception):
            raise event
        if not isinstance(event, pb.Build):
            yield event
        if isinstance(event, pb.LogEntry) and event.eof:
            return


def _read(client: Client | LocalClient, build_id: str, events: Inbox[Event], after: int = 0) -> None:
    try:
        for entry in client.follow(build_id, after):
            events.put(entry)
    except Exception as error:
        events.put(error)


def _create(client: Client | LocalClient, request: pb.CreateBuildRequest, events: Inbox[Event]) -> None:
    try:
        events.put(client.create(request))
    except Exception as error:
        events.put(error)


def _cancel(client: Client | LocalClient, build_id: str, events: Inbox[Event]) -> None:
    try:
        client.cancel(build_id)
    except Stop as error:
        command = f"ignite-builder cancel {short_id(build_id)}"
        message = f"the cancel could not be delivered: {error.message}"
        events.put(
            Stop(
                error.reason,
                message,
                exit_code=9,
                error_class="platform",
                next=f"The build may still run. Once the server is back: {command}",
                verdict="LOST",
            )
        )
    except Exception as error:
        events.put(error)


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
