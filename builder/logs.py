"""Loggers that load structlog with their first line: it takes a tenth of a second, and most builds log nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_files: list[Path] = []


def logger(name: str) -> FilteringBoundLogger:
    """A logger by its name, with the configuration of the process at its first line."""
    return cast("FilteringBoundLogger", _Logger(name))


def log_to(path: Path) -> None:
    """Write the lines of this process to a file: standard output is the answer's."""
    _files[:] = [path]


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        import structlog

        if _files:
            path = _files.pop()
            path.parent.mkdir(parents=True, exist_ok=True)
            structlog.configure(
                processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
                logger_factory=structlog.WriteLoggerFactory(file=path.open("a", encoding="utf-8")),
            )
        return getattr(structlog.get_logger(self._name), name)
