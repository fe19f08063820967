"""Bounds on hostile text, so that reading it takes time in proportion to its size. Pure.

The limits of a reader (`builder/attempt/reader.py`) end what is out of proportion, after all their time: no parser here
recurses without a limit or looks twice at what it has read.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from builder.errors import BuildError
from builder.source.tree import Tree

LINE_LIMIT = 2 * 1024
"""The longest line of a manifest that is parsed, and of a tool's output that is matched, in characters."""

TOML_LIMIT = 1024 * 1024
LOCK_LIMIT = 4 * 1024 * 1024
"""Lock files list every file of every package: those of large applications pass 1 MiB."""

CODE_LIMIT = 16 * 1024 * 1024

KEY_PARTS = 16
NESTING = 32

# A token of TOML: a string or comment as a whole, or a character that separates. No alternative can fail after it has
# read ahead, because an unclosed string extends to where it must end; hence one pass.
_TOML_TOKEN = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:""")?'
    r"|'''(?:[^']++|'(?!''))*+(?:''')?"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|[\[\]{}.=,\n]",
    re.DOTALL,
)


def read_toml(tree: Tree, name: str, limit: int = TOML_LIMIT) -> dict[str, Any]:
    """A TOML file of the source. Raises `BuildError` ManifestInvalid with file and line."""
    text = tree.read_text(name, limit)
    _refuse_depth(name, text)
    try:
        found = tomllib.loads(text)
        _refuse_numbers(found)
        return found
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of more than 4300 digits
        at = re.search(r"line (\d+), column (\d+)", str(error)[:LINE_LIMIT])
        where = f"{name}:{at[1]}:{at[2]}" if at else name
        raise BuildError("ManifestInvalid", f"{name} is no TOML: {str(error)[:200]}", where=where) from error


def _refuse_numbers(found: dict[str, Any]) -> None:
    """TOML has integers of 64 bits. A longer one, in hexadecimal digits, could be parsed and never be written again.

    Raises ValueError.
    """
    waiting: list[Any] = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
            raise ValueError("an integer has more than 64 bits")


def _refuse_depth(name: str, text: str) -> None:
    """The parser squares the parts of a key and recurses into brackets: both are bounded before it starts."""
    line, dots, depth = 1, 0, 0
    for match in _TOML_TOKEN.finditer(text):
        token = match[0]
        if token == ".":
            dots += 1
        elif token[0] not in "\"'#":
            dots = 0
            depth = max(0, depth + (token in ("[", "{")) - (token in ("]", "}")))
        if dots >= KEY_PARTS:
            message = f"a key has more than {KEY_PARTS} parts"
            raise BuildError("ManifestInvalid", message, where=f"{name}:{line}", next="Write it as nested tables.")
        if depth > NESTING:
            message = f"brackets are nested more than {NESTING} deep"
            raise BuildError("ManifestInvalid", message, where=f"{name}:{line}", next="Nest values less deeply.")
        line += token.count("\n")


def place_of(tree: Tree, name: str, begins: str) -> str:
    """ "file:line" of the first line that begins as this expression has it; the file alone where none does."""
    pattern = re.compile(begins)
    lines = tree.read_text(name, LOCK_LIMIT).splitlines() if tree.has(name) else []
    found = (number for number, line in enumerate(lines, 1) if pattern.match(line[:LINE_LIMIT]))
    return next((f"{name}:{number}" for number in found), name)


def read_code(tree: Tree, path: str) -> str:
    """A file of code; empty above 16 MiB. What is read of code says how it starts, and no size of it is a fault."""
    try:
        return tree.read_text(path, CODE_LIMIT)
    except BuildError:
        return ""
