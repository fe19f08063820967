"""The report of a bug of ours: what it may hold, and where it lies. People send it to strangers.

Nothing of the parser is needed for it, since a bug may be there.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import builder
from builder.cli.stop import PROG
from builder.settings import NAMES, SECRET, shown, without_credentials

if TYPE_CHECKING:
    from builder.cli.context import Context

SHOWN = frozenset(
    {
        "--color",
        "--dockerfile",
        "--entry",
        "--env-file",
        "--files",
        "--from",
        "--host",
        "--image",
        "--include",
        "--known-hosts",
        "--limit",
        "--name",
        "--platform",
        "--rebase",
        "--repository",
        "--runtime",
        "--runtime-version",
        "--secret",
        "--start-check",
        "--sub-path",
        "--tag",
        "--target",
        "--timeout",
        "--type",
    }
)
"""Options whose values name something: a file, a build, a version. What stands in no list here is hidden."""
PAIRS = frozenset({"--build-arg", "--env", "--label"})
"""Options of which the key of `K=V` is shown."""
URLS = frozenset({"--git", "--server"})
HIDDEN = frozenset({"--start", "--username"})
LEAST = 8
"""Characters of a hidden value that is looked for in the trace, too: a shorter one would hide the trace's own words."""


def without_values(argv: Sequence[str]) -> list[str]:
    """The command line with `***` for what may hold a secret: values of `PAIRS` and `HIDDEN`, the logins of URLs, and
    the value of an option that is none of ours."""
    return [word for word, _ in _words(argv)]


def write_report(context: Context, error: Exception, argv: Sequence[str]) -> str:
    """The path of a new report with version, command line and trace; words in its place where none can be written."""
    try:
        settings = context.loaded().settings
        hidden = {part for _, value in _words(argv) for part in _parts(value)}
        for name in NAMES:
            value = getattr(settings, name)
            if isinstance(value, str) and shown(name, value) != value:
                hidden |= set(_parts(value))
        head = f"{PROG} {builder.__version__}\nargv: {without_values(argv)!r}\n\n"
        text = head + _without("".join(traceback.format_exception(error)), hidden)
        folder = Path(settings.data_dir) / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{context.now_ms()}.txt"
        # A trace may quote what the program worked on: for this user alone, whatever the umask is.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except Exception:
        return "(it could not be written)"
    return str(path)


def _words(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(word as it may be shown, what of it is hidden)."""
    before = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if before:
            yield _value(before, word)
            before = ""
        elif not word.startswith("--") or word == "--":
            yield _pair(word) if equals and "://" not in name else _named(word)
        elif equals:
            text, hidden = _value(name, value)
            yield f"{name}={text}", hidden
        else:
            before = word if word in SHOWN | PAIRS | URLS | HIDDEN else ""
            yield word, ""


def _value(option: str, value: str) -> tuple[str, str]:
    if option in PAIRS:
        return _pair(value)
    if option in URLS:
        return without_credentials(value), value
    return _named(value) if option in SHOWN else (SECRET, value)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    return (f"{key}={SECRET}", value) if equals else (SECRET, text)


def _named(word: str) -> tuple[str, str]:
    """A name; should it be a URL, it may have a login."""
    return (without_credentials(word), word) if "://" in word else (word, "")


def _parts(value: str) -> Iterator[str]:
    """A hidden value; the words of one that is a command line or has pairs; login and password of a URL."""
    yield value
    yield from re.split(r"[\s=]+", value)
    login = value.partition("://")[2].rpartition("@")[0]
    yield from (login, login.partition(":")[2])


def _without(text: str, hidden: set[str]) -> str:
    """The text without these values, as they are and as `repr` writes them; the longest one first, which may hold
    another."""
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= LEAST:
            text = text.replace(value, SECRET).replace(repr(value)[1:-1], SECRET)
    return text
