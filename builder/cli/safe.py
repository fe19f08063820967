"""Strangers' text on its way to a terminal: control, escape and direction characters are shown, never sent. Pure.

Names, messages and log lines come from people we do not know. An escape sequence can move the cursor, set the
clipboard or forge our own words; a direction mark can make a path read backwards (CVE-2021-42574).
"""

from __future__ import annotations

import unicodedata

# Cc: C0, DEL, C1. Cf: direction marks, joiners, tags. Cs: lone surrogates. Zl, Zp: line ends that `\n` searches miss.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Two joiners that ordinary scripts and emoji need; they cannot change the direction or move anything.
_JOINERS = frozenset("\u200c\u200d")


def shown(text: str, *, tabs: bool = False) -> str:
    r"""One line of text, safe on any terminal: each hidden character as `\x1b` or `\u202e`.

    Line ends are hidden characters too, so the result never has more than one line. `tabs` keeps tabs.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_character(c, tabs) for c in text)


def _character(c: str, tabs: bool) -> str:
    if (c == "\t" and tabs) or c in _JOINERS or unicodedata.category(c) not in _HIDDEN:
        return c
    code = ord(c)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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
