"""Strangers' text on its way to a terminal: quoted names, several lines, progress bars. Pure.

What no terminal may get is escaped by `builder/text.py`.
"""

from __future__ import annotations

from builder.text import visible as shown

__all__ = ["latest", "lines", "quoted", "shown"]


def quoted(name: str) -> str:
    """A stranger's name in double quotes."""
    return f'"{shown(name)}"'


def lines(text: str) -> tuple[str, ...]:
    """A text of several lines as safe lines; tabs are widened to eight columns, so that carets stay in place."""
    return tuple(shown(line.expandtabs(8)) for line in text.split("\n"))


def latest(line: str) -> str:
    """What a progress bar last drew: the text after the last carriage return, safe to show."""
    parts = [part for part in line.split("\r") if part]
    return shown(parts[-1].expandtabs(8)) if parts else ""
