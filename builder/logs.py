"""What a process writes about itself: loggers that load structlog with their first line, in one form for all of them.

To load it takes a tenth of a second, and most builds log nothing. Nothing else configures it: its own default shows the
local variables of every frame of a traceback where `rich` is installed, and ours hold tokens and secrets. A line that
cannot be written (a full disk, a pipe whose reader has gone) is lost and raises nothing: no loop of ours ends by it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor


_LOGIN = re.compile(r"""(?<=://)[^\s/'"<>]*@""")


class Lines:
    """A text stream over another one, asked for at each write, which raises nothing: what is not taken is lost."""

    def __init__(self, out: Callable[[], TextIO | None]) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write what can be written; an encoding without a character gets its escape."""
        with suppress(OSError, ValueError):  # ValueError: it is closed
            if (out := self._out()) is not None:
                try:
                    out.write(text)
                except UnicodeEncodeError:
                    out.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        with suppress(OSError, ValueError):
            if (out := self._out()) is not None:
                out.flush()


class _File:
    """A file that is opened for each line: the next one finds a place again once there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            return file.write(text)

    def flush(self) -> None:
        """The line is written."""


class _Process:
    """How this process writes: plain lines on standard error, until it says otherwise."""

    def __init__(self) -> None:
        self.out: Callable[[], TextIO | None] = lambda: sys.stderr
        self.is_json = self.is_configured = False

    def write(self, out: Callable[[], TextIO | None]) -> None:
        self.out, self.is_json, self.is_configured = out, True, False

    def configure(self) -> None:
        if self.is_configured:
            return
        import structlog

        structlog.configure(
            processors=_as_json() if self.is_json else _as_text(),
            wrapper_class=structlog.make_filtering_bound_logger(0),
            logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, Lines(self.out))),
        )
        self.is_configured = True


_process = _Process()


def logger(name: str) -> FilteringBoundLogger:
    """A logger by its name, with the configuration of the process at its first line."""
    return cast("FilteringBoundLogger", _Logger(name))


def log_to(path: Path) -> None:
    """Write the lines of this process to a file, as JSON: standard output is the answer's."""
    file = cast(TextIO, _File(path))
    _process.write(lambda: file)


def log_to_stdout() -> None:
    """Write the lines of this process to standard output, as JSON."""
    _process.write(lambda: sys.stdout)


def configure() -> None:
    """Configure structlog for this process now: a server does it at its start, for whatever it loads later."""
    _process.configure()


def event_log(out: TextIO) -> FilteringBoundLogger:
    """A logger that writes one JSON object on a line; two in one process know nothing of each other."""
    import structlog

    made: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, Lines(lambda: out))),
        processors=_as_json(),
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=True,
    )
    return made


def _as_json() -> list[Processor]:
    from structlog import processors

    return [*_facts(processors.TimeStamper(fmt="iso")), processors.JSONRenderer()]


def _as_text() -> list[Processor]:
    from structlog import dev, processors

    stamp = processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
    return [*_facts(stamp), dev.ConsoleRenderer(colors=False, exception_formatter=dev.plain_traceback)]


def _facts(stamp: Processor) -> list[Processor]:
    """What a line has in either form; its traceback is as Python writes one, without local variables."""
    from structlog import processors

    return [processors.add_log_level, stamp, processors.format_exc_info, _hide_logins]


def _hide_logins(logger: object, method: str, facts: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Clients of Redis, databases and HTTP may repeat the URL that they were given, with its user and password."""
    for name, value in facts.items():
        if isinstance(value, str) and "://" in value:
            facts[name] = _LOGIN.sub("***@", value)
    return facts


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        import structlog

        _process.configure()
        return getattr(structlog.get_logger(self._name), name)
