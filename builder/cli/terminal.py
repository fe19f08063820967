"""What a stream may be sent: mode, colour, symbols, size. Pure decisions over an environment that is handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

When = Literal["auto", "always", "never"]
MIN_LIVE_COLUMNS = 60
MAX_COLUMNS = 120

_SGR = {"green": "32", "red": "31", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}


def use_colour(when: When, env: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Flag, then `NO_COLOR` (not empty), then `FORCE_COLOR` or `CLICOLOR_FORCE`, then the terminal.

    Sources: https://no-color.org, https://bixense.com/clicolors.
    """
    if when != "auto":
        return when == "always"
    if env.get("NO_COLOR"):
        return False
    if any(env.get(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return is_terminal and env.get("TERM") != "dumb"


def use_live(env: Mapping[str, str], *, is_terminal: bool, columns: int, plain: bool) -> bool:
    """The live view: a terminal of 60 columns or more that is not dumb, outside CI, unless `--plain`."""
    return (
        is_terminal
        and not plain
        and columns >= MIN_LIVE_COLUMNS
        and env.get("TERM", "") not in ("", "dumb")
        and not env.get("CI")
    )


def use_ascii(env: Mapping[str, str], *, flag: bool) -> bool:
    """ASCII symbols: `--ascii`, or a locale other than UTF-8 (none set is the C locale)."""
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    return flag or "utf-8" not in locale.lower().replace("utf8", "utf-8")


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """Our own marks; the ASCII set has the same columns, only the ellipsis is longer."""

    done: str = "✓"
    same: str = "="
    failed: str = "✗"
    warning: str = "!"
    waiting: str = "·"
    ellipsis: str = "…"
    spinner: str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


UNICODE = Symbols()
ASCII = Symbols(done="+", same="=", failed="x", warning="!", waiting=".", ellipsis="...", spinner="|/-\\")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How text for one stream is made: colour or none, symbols, width (None: a pipe, nothing is cut or wrapped)."""

    colour: bool = False
    symbols: Symbols = UNICODE
    columns: int | None = None

    def paint(self, style: str, text: str) -> str:
        """The text in one of the six styles; unchanged without colour, so no meaning may hang on it."""
        if not self.colour or not text:
            return text
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m"


def columns_of(reported: int, env: Mapping[str, str]) -> int:
    """The terminal's columns: `COLUMNS` where it is a number, else what the terminal reported."""
    return _number(env.get("COLUMNS", "")) or reported


def rows_of(reported: int, env: Mapping[str, str]) -> int:
    """The terminal's rows: `LINES` where it is a number, else what the terminal reported."""
    return _number(env.get("LINES", "")) or reported


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
