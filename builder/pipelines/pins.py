"""Version pins in the files of version managers: a runtime's own file, mise.toml and .tool-versions. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.pipelines.limits import LINE_LIMIT, read_toml
from builder.source.tree import Tree

MISE = ("mise.toml", ".mise.toml", ".config/mise.toml", "mise/config.toml")
ASDF = ".tool-versions"
ANY = frozenset(("", "latest", "system", "stable", "lts"))
"""Words that pin nothing."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A version as its file spells it, and file:line."""

    value: str
    where: str


def pin_of(tree: Tree, folder: str, own: Sequence[str], tools: Sequence[str]) -> Pin | None:
    """The pin of a runtime in `folder`, or in the nearest folder above that has one.

    `own` are the runtime's own files (`.go-version`), which go before mise's and asdf's; `tools` the names that these
    have for it. Raises `BuildError` ManifestInvalid for a mise.toml that is no TOML.
    """
    while True:
        for pin in _pins(tree, folder, own, tools):
            return pin
        if folder == ".":
            return None
        folder = posixpath.dirname(folder) or "."


def _pins(tree: Tree, folder: str, own: Sequence[str], tools: Sequence[str]) -> Iterator[Pin]:
    def there(name: str) -> str:
        path = posixpath.normpath(posixpath.join(folder, name))
        return path if tree.has(path) else ""

    for path in filter(None, map(there, own)):
        for number, words in _lines(tree, path):
            if words[0] not in ANY:
                yield Pin(value=words[0], where=f"{path}:{number}")
            break
    for path in filter(None, map(there, MISE)):
        table = read_toml(tree, path).get("tools")
        for tool in tools:
            value = _mise(table.get(tool)) if isinstance(table, dict) else ""
            if value not in ANY:
                yield Pin(value=value, where=f"{path}:{_line_of(tree, path, tool)}")
    if path := there(ASDF):
        for number, words in _lines(tree, path):
            if words[0] in tools and len(words) > 1 and words[1] not in ANY:
                yield Pin(value=words[1], where=f"{path}:{number}")


def _lines(tree: Tree, path: str) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of each line that has any, without comments."""
    for number, line in enumerate(tree.read_text(path).splitlines(), 1):
        if words := line[:LINE_LIMIT].partition("#")[0].split():
            yield number, words


def _mise(value: object) -> str:
    """A version as mise takes it: text, the first of a list, or a table with it."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, dict):
        value = value.get("version", "")
    return str(value).strip().removeprefix("prefix:") if isinstance(value, str | int | float) else ""


def _line_of(tree: Tree, path: str, tool: str) -> int:
    """The line that assigns a tool; 1 where it is spelled in another way."""
    assigns = re.compile(rf"""[ \t]*["']?{re.escape(tool)}["']?[ \t]*=""")
    lines = enumerate(tree.read_text(path).splitlines(), 1)
    return next((number for number, line in lines if assigns.match(line[:LINE_LIMIT])), 1)
