"""What is left out of a folder and needed all the same: named by its source, or where a build failed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from builder import pipelines
from builder.cli.folder import FoundFolder, Left
from builder.cli.ignore import LITTER
from builder.cli.safe import shown
from builder.errors import BuildError
from builder.pipelines.base import Need, Pipeline
from builder.source.tree import READ_LIMIT, DirTree, match

WORD = re.compile(r"[^\s\"'`:;,()<>\[\]{}=]+")
MOST_WORDS = 2000


class FolderTree:
    """A folder as a pipeline sees it: what is sent of it, below the one folder that becomes the root."""

    def __init__(self, found: FoundFolder) -> None:
        self._top = f"{found.lifted}/" if found.lifted else ""
        self._tree = DirTree(found.root)
        self._files = tuple(file.path.removeprefix(self._top) for file in found.files)
        self._names = frozenset(self._files)

    def files(self) -> tuple[str, ...]:
        return self._files

    def has(self, path: str) -> bool:
        return path in self._names and self._tree.has(self._top + path)

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        if not self.has(path):
            raise FileNotFoundError(path)
        return self._tree.read_text(self._top + path, limit)

    def has_mark(self, path: str) -> bool:
        return self._tree.has_mark(self._top + path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return match(self._files, pattern)


def check_needed(found: FoundFolder, runtime: str, known: tuple[Pipeline, ...], sub_path: str = "") -> None:
    """Refuse a folder of which a file is left out that its source names and cannot do without. Raises `BuildError`
    InvalidRequest that names the rule. A folder that no pipeline recognizes is the plan to refuse. `sub_path` is the
    build argument of this name."""
    if all(each.rule.source == LITTER or each.path == ".git/" for each in found.left):
        return
    top = f"{found.lifted}/" if found.lifted else ""
    paths = tuple(file.path for file in found.files)
    try:
        needs = list(pipelines.required_files(FolderTree(found), runtime or None, known, sub_path))
    except (BuildError, FileNotFoundError):
        return
    for need in needs:
        wanted = [top + path for path in need.paths]
        if any(match(paths, path) or match(paths, f"{path}/**") for path in wanted):
            continue
        for path in wanted:
            left = _left_by_glob(found.left, path)
            if left is not None:
                raise _lacking(need, left, left.path.rstrip("/") if "*" in path else path)


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


def _lacking(need: Need, left: Left, path: str) -> BuildError:
    message = f"{shown(need.where)} {shown(need.what)}, which is left out by {shown(left.rule.name)}"
    return BuildError("InvalidRequest", message, where=need.where, next=f"Send it: --include {shown(path)}")


def left_out_for(left: Sequence[Left], path: str) -> Left | None:
    """What was left out with this path: it, or a folder above it."""
    by_path = {each.path.rstrip("/"): each for each in left}
    while path and path != ".":
        if path in by_path:
            return by_path[path]
        path = posixpath.dirname(path)
    return None


def explained(left: Sequence[Left], texts: Sequence[str]) -> str:
    """Where a failure names what was left out: a sentence about it, and how to send it; "" where none is named.

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
    while path.strip("/") not in ("", "."):
        yield path
        path = posixpath.dirname(path)
    if "/" not in word and re.fullmatch(r"[A-Za-z_][\w.]*", word):
        parts = word.split(".")
        for count in range(len(parts), 0, -1):
            module = "/".join(parts[:count])
            for name in (module, *(f"{module}{extension}" for extension in pipelines.extensions())):
                yield from (name, f"src/{name}")


def _is_common(path: str, each: Left) -> bool:
    """Whether a word that happens to be the name of a tool's folder means nothing."""
    return path in (".git", "__pycache__") or (path == "venv" and each.rule.line == 0)
