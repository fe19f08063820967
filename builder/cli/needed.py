"""What is left out of a folder and needed all the same: embedded, imported, or named where a build failed."""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Iterator, Sequence

from builder.cli.folder import Found, Left
from builder.cli.safe import shown
from builder.errors import BuildError
from builder.source.tree import match

READ_LIMIT = 1024 * 1024
EMBED = re.compile(r"^//go:embed[ \t]+(.+)$", re.MULTILINE)
EMBEDDED = re.compile(r'"([^"\n]*)"|`([^`\n]*)`|(\S+)')
WORD = re.compile(r"[^\s\"'`:;,()<>\[\]{}=]+")
MOST_WORDS = 2000


def check_needed(found: Found, entry: str = "") -> None:
    """Refuse a folder of which a left-out file is embedded by Go, or imported by the Python entry file. Raises
    `BuildError` InvalidRequest that names the rule.

    `entry` is the path of the file that a Python build starts from.
    """
    if not found.left:
        return
    paths = tuple(file.path for file in found.files)
    for path in paths:
        if path.endswith(".go") and not path.endswith("_test.go"):
            _check_embeds(found, path, paths)
    if entry:
        _check_imports(found, entry, frozenset(paths))


def _check_embeds(found: Found, path: str, paths: tuple[str, ...]) -> None:
    text = _text(found, path)
    if "//go:embed" not in text:
        return
    for line in EMBED.finditer(text):
        for word in EMBEDDED.finditer(line[1]):
            pattern = next(group for group in word.groups() if group is not None).removeprefix("all:")
            below = posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern))
            if match(paths, below) or match(paths, f"{below}/**"):
                continue
            if left := _left_by_glob(found.left, below):
                number = text.count("\n", 0, line.start()) + 1
                raise _lacking(f"{path}:{number}", f"embeds {pattern}", left, below)


def _left_by_glob(left: Sequence[Left], glob: str) -> Left | None:
    """What was left out that a path or a glob stands for: it, a folder above it, or what lies below it."""
    named = left_out_for(left, glob)
    if named is not None:
        return named
    for each in left:
        path = each.path.rstrip("/")
        if path.startswith(f"{glob}/") or match((path,), glob):
            return each
    return None


def _check_imports(found: Found, entry: str, paths: frozenset[str]) -> None:
    """Follow the imports that a Python program cannot start without, file by file."""
    root = posixpath.dirname(entry)
    seen, pending = {entry}, [entry]
    while pending:
        path = pending.pop()
        for number, module in _imported(_text(found, path)):
            base = posixpath.join(root, module.replace(".", "/"))
            here = next((each for each in (f"{base}.py", f"{base}/__init__.py") if each in paths), "")
            if here and here not in seen:
                seen.add(here)
                pending.append(here)
            top = posixpath.join(root, module.partition(".")[0])
            if here or any(each == f"{top}.py" or each.startswith(f"{top}/") for each in paths):
                continue
            left = left_out_for(found.left, f"{top}.py") or left_out_for(found.left, top)
            if left is not None:
                raise _lacking(f"{path}:{number}", f"imports {module}", left, left.path.rstrip("/"))


def _imported(text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of the imports at the top of a module, outside of any `try` and `if`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def _lacking(where: str, what: str, left: Left, path: str) -> BuildError:
    message = f"{shown(where)} {shown(what)}, which is left out by {shown(left.rule.name)}"
    return BuildError("InvalidRequest", message, where=where, next=f"Send it: --include {shown(path)}")


def left_out_for(left: Sequence[Left], path: str) -> Left | None:
    """What was left out with this path: it, or a folder above it."""
    by_path = {each.path.rstrip("/"): each for each in left}
    while path and path != ".":
        if path in by_path:
            return by_path[path]
        path = posixpath.dirname(path)
    return None


def explained(left: Sequence[Left], texts: Sequence[str]) -> str:
    """Where a failure names what was left out: a sentence that says so, and how to send it; "" where none is named.

    A path counts from the root, or from the folder of a file that the same text names. A dotted name counts as a
    module.
    """
    if not left:
        return ""
    words = [word.strip(".") for text in texts for word in WORD.findall(text)][:MOST_WORDS]
    folders = {posixpath.dirname(word) for word in words if "/" in word} | {""}
    by_path = {each.path.rstrip("/"): each for each in left}
    for word in words:
        for folder in folders:
            candidate = posixpath.normpath(posixpath.join(folder, word))
            for path in _spellings(candidate):
                if path in by_path and not _is_common(path, by_path[path]):
                    each = by_path[path]
                    sent = f"{candidate} was left out" if candidate == path else f"{path} was left out"
                    return f"{sent} by {each.rule.name}; send it: --include {path}"
    return ""


def _spellings(word: str) -> Iterator[str]:
    """The path and those above it; as a module's name, too."""
    path = word
    while path and path not in (".", "/"):
        yield path
        path = posixpath.dirname(path)
    if "/" not in word and re.fullmatch(r"[A-Za-z_][\w.]*", word):
        parts = word.split(".")
        for count in range(len(parts), 0, -1):
            module = "/".join(parts[:count])
            yield from (f"{module}.py", module, f"src/{module}.py", f"src/{module}")


def _is_common(path: str, each: Left) -> bool:
    """Whether a word that happens to be the name of a tool's folder says nothing."""
    return path in (".git", "__pycache__") or (path == "venv" and each.rule.line == 0)


def _text(found: Found, path: str) -> str:
    try:
        with open(os.path.join(found.root, path), "rb") as file:
            return file.read(READ_LIMIT).decode("utf-8", "replace")
    except OSError:  # packing says which and why
        return ""
