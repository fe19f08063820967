"""Text that has one form everywhere: canonical JSON, strangers' text made visible, sizes for people. Pure.

Names, messages and log lines come from people we do not know. An escape sequence can move the cursor, set the
clipboard or forge our own words; a direction mark can make a path read backwards (CVE-2021-42574).
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# Cc: C0, DEL, C1. Cf: direction marks, joiners, tags. Cs: lone surrogates. Zl, Zp: line ends that `\n` searches miss.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Two joiners that ordinary scripts and emoji need; they cannot change the direction or move anything.
_JOINERS = frozenset("\u200c\u200d")


def canonical_json(value: object) -> bytes:
    """JSON in UTF-8 with sorted keys and no white space: the same value gives the same bytes.

    Raises `ValueError` for NaN, infinity and text that is no Unicode.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def strangers_json(data: str | bytes) -> Any:
    """The value of JSON that we did not write. Raises `ValueError` for whatever is none, and nothing else.

    Bytes are UTF-8 (RFC 8259, section 8.1). A half of a surrogate pair (`"\\ud800"`) is no character: Python reads it,
    and fails where the text is written. What is nested deeper than Python reads is refused as no JSON.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        value = json.loads(text)
        if not text.isascii() or "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return value


def visible(text: str | bytes, *, limit: int = 0, tabs: bool = False) -> str:
    r"""Strangers' text in one line: each control, escape and direction character as `\x1b` or `\u202e`.

    Bytes are UTF-8; what is none shows as `\xff`, also where `surrogateescape` left it in a text. Line ends are hidden
    characters too, so the result never has more than one line. `limit`: characters, 0 for all. `tabs` leaves tabs.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    cut = text[:limit] if limit else text
    more = "…" if len(cut) < len(text) else ""
    if cut.isascii() and cut.isprintable():
        return cut + more
    return "".join(_character(c, tabs) for c in cut) + more


def _character(c: str, tabs: bool) -> str:
    if (c == "\t" and tabs) or c in _JOINERS or unicodedata.category(c) not in _HIDDEN:
        return c
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


# ECMA-48: CSI with its parameters, also cut off by the end of the line; the strings OSC (xterm ends it with BEL, too),
# DCS, SOS, PM and APC with theirs; the other escapes. Each introducer has a form of one C1 character. Possessive and
# without overlap, so that the time is linear in the line.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+(?:[@-~]|$)"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x90-\x9f]*+(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x90-\x9f]*+(?:\x1b\\|\x9c)"
    r"|\x1b[ -/]++[0-~]"
    r"|\x1b[0-OQ-WYZ\\`-~]"
)


def log_line(text: str) -> str:
    r"""A line of a stranger's output as a log keeps it: no control of a terminal and no direction mark is in it.

    Escape sequences go whole, since they carry no text; any other control shows as in `visible`. Tabs stay, the
    carriage return before a line end goes. What passed once passes unchanged.
    """
    if _is_plain(text):
        return text
    text = _SEQUENCE.sub("", text.rstrip("\r"))
    return text if _is_plain(text) else visible(text, tabs=True)


def _is_plain(text: str) -> bool:
    return text.isprintable() or text.replace("\t", " ").isprintable()


def size(count: int) -> str:
    """A number of bytes for people: `512 B`, `38.2 KiB`, `2 MiB`, `1.5 GiB`.

    The value is rounded before its unit is chosen, so that nothing reads "1024 KiB".
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if round(value, 1) < 1024:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value / 1024:.1f}".removesuffix(".0") + " TiB"
