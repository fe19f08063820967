"""Reading Rust source as far as a plan needs it: which crates it names, where the handler is. Pure; runs no rustc."""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.source.tree import Tree

FILE_LIMIT = 16 * 1024 * 1024

# Comments and literals as wholes, then what a plan looks for. An unclosed one extends to where it must end, hence one
# pass. Comments that lie in comments end with the first end: what is behind it is read as code, which misleads nobody
# who compiles.
_TOKEN = re.compile(
    r"//[^\n]*+"
    r"|/\*.*?(?:\*/|\Z)"
    r'|\bb?r(#{0,16})".*?(?:"\1|\Z)'
    r'|"(?:[^"\\]++|\\.)*+(?:"|\Z)'
    r"|'(?:\\.[^'\n]{0,12}|[^'\\\n])'"
    r"|(?P<main>\#\s{0,16}\[\s{0,16}ignite\s{0,16}::\s{0,16}main\b)"
    r"|(?P<name>[A-Za-z_]\w{0,200})(?P<path>\s{0,16}::)?"
    r"|[0-9]\w*+",
    re.DOTALL | re.ASCII,
)


def tokens(text: str) -> Iterator[re.Match[str]]:
    """The names of a file, and its `#[ignite::main]`; comments and literals mislead nobody."""
    for match in _TOKEN.finditer(text):
        if match["main"] or match["name"]:
            yield match


def handler_line(text: str) -> int:
    """The line of the first `#[ignite::main]`, or 0."""
    if "ignite" not in text:
        return 0
    return next((text.count("\n", 0, match.start()) + 1 for match in tokens(text) if match["main"]), 0)


def has_main(text: str) -> bool:
    """Whether a file has a `fn main`."""
    before = ""
    for match in tokens(text):
        if before == "fn" and match["name"] == "main":
            return True
        before = match["name"] or ""
    return False


def named(tree: Tree, folder: str, among: frozenset[str]) -> frozenset[str]:
    """Which of these crates the files of a package name in a path: `serde_json::json!`, `use serde::Serialize`."""
    found: set[str] = set()
    prefix = "" if folder == "." else folder + "/"
    for path in tree.files():
        if not (path.startswith(prefix) and path.endswith(".rs")):
            continue
        text = tree.read_text(path, FILE_LIMIT)
        if not any(one in text for one in among - found):
            continue
        before = ""
        for match in tokens(text):
            if match["main"]:
                found.add("ignite")
            elif match["name"] in among and (match["path"] or before in ("use", "crate")):
                found.add(match["name"])
            before = match["name"] or ""
        if found >= among:
            break
    return frozenset(found) & among
