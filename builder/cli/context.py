"""What a command works with: streams, settings, the way to a server. One for each run of the program."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from builder.cli.connection import again_text, retry_text
from builder.cli.options import Common
from builder.cli.safe import shown
from builder.cli.stop import missing_here, mistake, refused_by_machine, refused_call, refused_here, unwritten
from builder.cli.terminal import (
    ASCII,
    MAX_COLUMNS,
    UNICODE,
    Look,
    columns_of,
    rows_of,
    use_ascii,
    use_colour,
    use_live,
)
from builder.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

    from builder.cli.client import Client, Watcher
    from builder.config import Loaded
    from builder.local.client import LocalClient
    from builder.local.embedded import Embedded
    from builder.services.errors import Status
    from builder.settings import Settings

RECENT = 50
YOUNG = 100_000
"""Objects after which a collection runs: some ten megabytes."""
GONE = (errno.EPIPE, errno.EIO)
"""A pipe without a reader, a terminal that was hung up."""


@dataclass
class Out:
    """One stream. A reader or a terminal that went away ends its output silently; nothing else notices.

    Anything else that keeps the answer from its place (a full disk) ends the command with `Stop`.
    """

    stream: TextIO
    closed: bool = False
    is_answer: bool = False

    @property
    def is_terminal(self) -> bool:
        return not self.closed and self.stream.isatty()

    def line(self, text: str) -> None:
        """Write one line and flush it."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Write text and flush it."""
        if self.closed:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            self.closed = True
            # The interpreter flushes once more at exit; give it something that takes the rest.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if self.is_answer and error.errno not in GONE:
                raise unwritten(error) from None


@dataclass
class Context:
    """Streams, options, environment and settings of one run; commands get it as `ctx.obj`."""

    common: Common
    environ: Mapping[str, str]
    out: Out
    err: Out
    stdin: BinaryIO
    now_ms: Callable[[], int]
    load: Callable[[Mapping[str, Any], Mapping[str, str]], Loaded]
    prog: str = "ignite-builder"
    local: LocalClient | None = None
    """What builds in this process, while it does."""

    # -- looks -------------------------------------------------------------------------------------------------------
    def look(self, out: Out) -> Look:
        """Colour, symbols and width for one stream, judged by itself."""
        is_terminal = out.is_terminal
        columns = min(self.size()[0], MAX_COLUMNS) if is_terminal else None
        return Look(
            colour=use_colour(self.common.color, self.environ, is_terminal=is_terminal),
            symbols=ASCII if use_ascii(self.environ, flag=self.common.ascii) else UNICODE,
            columns=columns,
        )

    def size(self) -> tuple[int, int]:
        """(columns, rows) of the terminal behind stderr, now; of that behind stdout where stderr is none."""
        columns, rows = 0, 0
        for out in (self.err, self.out):
            with contextlib.suppress(OSError, ValueError):
                columns, rows = os.get_terminal_size(out.stream.fileno())
                break
        return columns_of(columns, self.environ) or 80, rows_of(rows, self.environ) or 24

    def is_live(self) -> bool:
        """Whether stderr gets the live view."""
        columns = self.size()[0]
        return use_live(self.environ, is_terminal=self.err.is_terminal, columns=columns, plain=self.common.plain)

    def stdin_is_terminal(self) -> bool:
        """Whether somebody types what `-` would read."""
        try:
            return self.stdin.isatty()
        except ValueError:
            return False

    # -- output ------------------------------------------------------------------------------------------------------
    def say(self, text: str) -> None:
        """A line of the conversation; silent with `-q`."""
        if not self.common.quiet:
            self.err.line(text)

    def notice(self, text: str) -> None:
        """A `--` line: something between us and the server."""
        self.say(f"-- {shown(text)}")

    def document(self, value: Message | Mapping[str, Any] | list[Any]) -> None:
        """The one JSON document of `--json`: one line when piped, indented on a terminal, ASCII only."""
        indent = 2 if self.out.is_terminal else None
        if isinstance(value, Mapping | list):
            import json

            self.out.line(json.dumps(value, indent=indent))
        else:
            self._message(value, indent)

    def document_line(self, value: Message) -> None:
        """One JSON document on one line, for `logs --json`."""
        self._message(value, None)

    def _message(self, value: Message, indent: int | None) -> None:
        from google.protobuf import json_format

        self.out.line(json_format.MessageToJson(value, indent=indent))

    # -- settings and server -----------------------------------------------------------------------------------------
    def loaded(self) -> Loaded:
        """The settings with their origins. Raises `Stop` for a wrong one."""
        try:
            return self.load({"server": self.common.server}, self.environ)
        except BuildError as error:
            stop = refused_here(error)
            stop.where = "--server" if stop.where == "flag" else stop.where  # no other setting has a flag
            raise stop from None
        except OSError as error:
            message = f"a settings file cannot be read: {error.strerror or error}"
            step = (
                "See that the file is there and that this user may read it; the variables that name files end in _FILE."
            )
            raise mistake(message, where=str(error.filename or ""), next=step) from None

    def settings(self) -> Settings:
        """The settings alone."""
        return self.loaded().settings

    def settings_for_builds(self) -> Settings:
        """The settings, with the server that has this data folder where one runs and no other is configured."""
        settings = self.settings()
        if settings.server:
            return settings
        from pathlib import Path

        from builder.control.folder import server_of

        found = server_of(Path(settings.data_dir))
        if found is None:
            return settings
        url, token = found
        return settings.replace(**{"server": url, "token": token or settings.token})

    @contextlib.contextmanager
    def client(
        self, settings: Settings, watcher: Watcher | None = None, *, builds: bool = False
    ) -> Iterator[Client | LocalClient]:
        """A client of the server, or the services themselves in this process, which then also builds where the command
        `builds`. Raises `Stop` when a part that building here needs is missing (exit 75)."""
        if settings.server:
            from builder.cli.client import Client

            _collect()
            client = Client(
                settings.server,
                settings.token,
                ca_bundle=settings.ca_bundle,
                watcher=watcher or _Noticing(self),
            )
            with contextlib.closing(client):
                yield client
            return

        def refused(status: Status) -> Exception:
            return refused_by_machine(refused_call(status.code, status.message, dict(status.detail)))

        try:
            readers = None
            if builds:
                from builder.local.readers import begin

                readers = begin(settings)
            from builder.local.client import LocalClient  # behind it: this takes longest of all

            self.local = LocalClient(settings, refused, self._event, readers)
        except BuildError as error:
            raise missing_here(error) from None
        _collect()
        with contextlib.closing(self.local):
            yield self.local

    @contextlib.contextmanager
    def local_server(self, settings: Settings) -> Iterator[Embedded]:
        """A server with its worker, started here. Raises `Stop` when a part is missing (exit 75)."""
        with _embedded(settings, self._event) as server:
            yield server

    def leave(self) -> None:
        """Without waiting: what builds in this process is killed. A server elsewhere is not touched."""
        if self.local is not None:
            self.local.kill()

    def _event(self, event: object) -> None:
        if self.common.verbose > 1:
            self.notice(str(event))

    # -- builds started here ------------------------------------------------------------------------------------------
    def remember(self, settings: Settings, build_id: str, name: str, status: str) -> None:
        """Keep the id of a build that was started here, newest first; one that is known only gets its status. A full
        disk is no reason to fail."""
        path = recent_path(settings)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = _recent_lines(path)
            line = f"{build_id} {shown(name)} {status}"
            is_known = any(each.startswith(build_id) for each in lines)
            rows = [line if each.startswith(build_id) else each for each in lines] if is_known else [line, *lines]
            fresh = path.with_suffix(".new")
            fresh.write_text("\n".join(rows[:RECENT]) + "\n", encoding="utf-8")
            fresh.replace(path)

    def last_started(self, settings: Settings) -> str:
        """The id that readers without BUILD take. Raises `Stop` when there is none."""
        lines = _recent_lines(recent_path(settings))
        if not lines:
            raise mistake("no build was started here", where="BUILD", next=f"Name one: {self.prog} ls")
        return lines[0].split()[0]


@dataclass
class _Noticing:
    """Prints the events of a client's connection at once; `-vv` lists each call."""

    context: Context

    def lost(self, seconds: int, after: int) -> None:
        self.context.notice(retry_text(seconds, after))

    def back(self, after: int) -> None:
        self.context.notice(again_text(after + 1))

    def called(self, method: str, path: str, status: int, took_ms: int) -> None:
        if self.context.common.verbose > 1:
            self.context.notice(f"{method} {path} {status} {took_ms}ms")


def _embedded(settings: Settings, on_event: Callable[[object], None]) -> contextlib.AbstractContextManager[Embedded]:
    """The server of `dev`. Its own log goes to a file: stdout is the answer's."""
    from pathlib import Path

    from builder.local import embedded
    from builder.logs import log_to

    @contextlib.contextmanager
    def started() -> Iterator[Embedded]:
        log_to(Path(settings.data_dir) / "run" / "control.log")
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(embedded.start(settings, on_event))
            except BuildError as error:
                raise missing_here(error) from None
            yield server

    return started()


def _collect() -> None:
    """From here on what becomes garbage is collected; what was loaded before is none (`builder.cli.run`). Most of what
    follows is what the client of a registry loads: with Python's own 700 young objects, fifty collections."""
    gc.freeze()
    gc.set_threshold(YOUNG)
    gc.enable()


def recent_path(settings: Settings) -> Path:
    """The file of the builds that were started here: a line "ID NAME STATUS" each."""
    from pathlib import Path

    return Path(settings.data_dir) / "recent"


def _recent_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError:
        return []
