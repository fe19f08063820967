"""The build argument `ldflags_x`: string variables that the linker sets, as words of `-ldflags`. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from builder.errors import BuildError
from builder.pipelines.go.project import Project
from builder.pipelines.go.source import FILE_LIMIT, Packages, folder_of
from builder.pipelines.limits import LINE_LIMIT
from builder.source.tree import Tree
from builder.text import strangers_json

NAME = "ldflags_x"
MOST = 100
_SYMBOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.~/+-]*\.[^\W\d]\w*")


def variables_of(
    tree: Tree, packages: Packages, project: Project, main: str, given: Mapping[str, str], warnings: list[str]
) -> tuple[str, ...]:
    """`-X PACKAGE.NAME=VALUE` for each variable, quoted as `go` splits `-ldflags`; warns of those that are nowhere.

    Raises `BuildError` InvalidRequest. A value may not be shown.
    """
    words: list[str] = []
    for symbol, value in _pairs(given.get(NAME, "")):
        if len(symbol) > LINE_LIMIT or not _SYMBOL.fullmatch(symbol):
            raise _refused(f'"{symbol[:80]}" is no PACKAGE.NAME')
        if any(unicodedata.category(character) == "Cc" for character in value):
            raise _refused(f"the value of {symbol} holds a control character")
        words += ["-X", _quoted(symbol, f"{symbol}={value}")]
        package, _, name = symbol.rpartition(".")
        folder = main if package == "main" else folder_of(package, project.paths)
        if folder and folder in packages and not _has_word(tree, packages, folder, name):
            warnings.append(f"{NAME} sets {symbol}, and {folder}/ names no {name}: the linker sets nothing")
    return tuple(words)


def _pairs(text: str) -> list[tuple[str, str]]:
    text = text.strip()
    if text.startswith("{"):
        try:
            value = strangers_json(text)
        except (ValueError, RecursionError):
            raise _refused("it is no JSON object") from None
        if not all(isinstance(each, str) for each in value.values()):
            raise _refused("a value is no string")
        found = list(value.items())
    else:
        found = []
        for part in filter(None, text.split(",")):
            symbol, equals, value = part.partition("=")
            if not equals:
                raise _refused(f'"{part[:80]}" has no =')
            found.append((symbol.strip(), value))
    if len(found) > MOST:
        raise _refused(f"it has {len(found)} variables, limit {MOST}")
    return found


def _quoted(symbol: str, word: str) -> str:
    """A word as `go` splits flags: at blanks, with one kind of quotes around it, no escapes (cmd/internal/quoted)."""
    if not re.search(r"""[\s'"]""", word):
        return word
    quote = next((mark for mark in "'\"" if mark not in word), "")
    if not quote:
        raise _refused(f"the value of {symbol} holds both kinds of quotes, which -ldflags has no way to write")
    return f"{quote}{word}{quote}"


def _has_word(tree: Tree, packages: Packages, folder: str, name: str) -> bool:
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(tree.read_text(file.path, FILE_LIMIT)) for file in packages.files(folder))


def _refused(why: str) -> BuildError:
    hint = f"For example {NAME}=main.version=1.4.0,main.commit=7f3a9c, or a JSON object where a value has a comma."
    return BuildError("InvalidRequest", f"the build argument {NAME} cannot be read: {why}",
                      where=f"buildArgs.{NAME}", next=hint)  # fmt: skip
