"""One entry of an archive, as the readers give it and the writer judges it; what a name and a link may be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import BuildError
from builder.text import visible

PART_BYTES = 255  # NAME_MAX of every file system we write to
PATH_BYTES = 2048  # leaves room below PATH_MAX (4096) for the folders above, in the sandbox and outside
TARGET_BYTES = 2048
LITTER_FOLDER = "__MACOSX"  # resource forks that macOS puts into ZIPs
LITTER = frozenset({".DS_Store", "Icon\r", "Thumbs.db"})

Chunk = bytes | memoryview
_NOTHING: Iterator[Chunk] = iter(())


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveEntry:
    """`kind` is file, folder, link or hard; `target` of a link; `data` must be read before the next entry.

    `number` counts from 1 as `tar -tf` and `unzip -l` list, and is 0 for an entry of a folder, which is in no list;
    `size` is what headers state, in bytes.
    """

    number: int
    name: str
    kind: str
    mode: int = 0o644
    target: str = ""
    size: int = 0
    data: Iterator[Chunk] = _NOTHING

    @property
    def where(self) -> str:
        return f'entry {self.number}: "{shown(self.name)}"' if self.number else f'"{shown(self.name)}"'

    @property
    def within(self) -> str:
        """What holds it, in words."""
        return "archive" if self.number else "folder"


def is_litter(name: str) -> bool:
    """Whether the name of a file is one that macOS or Windows puts beside others: no build has a use for it."""
    return name in LITTER or name.startswith("._")


def shown(text: str) -> str:
    """A stranger's name in an error message, at most 200 characters."""
    return visible(text, limit=200)


def unsafe(entry: ArchiveEntry, what: str) -> BuildError:
    """The refusal of an entry that could reach outside or mean two things."""
    return BuildError("ArchiveUnsafe", f"{entry.where} {what}", where=entry.where)


def unreadable(message: str, where: str = "") -> BuildError:
    """The refusal of an archive that cannot be read to its end."""
    return BuildError("ArchiveUnreadable", message, where=where)


def safe_parts(entry: ArchiveEntry, name: str) -> list[str]:
    """The parts of a name relative to the root; empty for the root itself. Raises `BuildError` ArchiveUnsafe.

    A backslash is an ordinary character here (systemd units have it), unless Windows would read the name as one that
    leads out. Any other tool on the way may be on Windows, and no honest archive holds such a name.
    """
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[0].isalpha()):
        raise unsafe(entry, "is an absolute path")
    if not name.isprintable() and any(unicodedata.category(char) == "Cc" for char in name):
        raise unsafe(entry, "holds control characters")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or ("\\" in name and ".." in name.replace("\\", "/").split("/")):
        raise unsafe(entry, f"leads out of the {entry.within}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise unsafe(entry, "is not UTF-8") from None
    if length > PATH_BYTES:
        raise unsafe(entry, f"is a path of {length} bytes, {PATH_BYTES} are allowed")
    if length > PART_BYTES and any(len(part.encode()) > PART_BYTES for part in parts):
        raise unsafe(entry, f"holds a name longer than {PART_BYTES} bytes")
    return parts


def safe_target(entry: ArchiveEntry, above: int) -> str:
    """The target of a symbolic link `above` folders below the root, judged by its text alone.

    What it leads to through other links is judged when all of them are known (`links.py`).
    """
    target = entry.target
    outside = unsafe(entry, f'links to "{shown(target)}", outside of the {entry.within}')
    if not target or target.startswith(("/", "\\")) or target[1:2] == ":":
        raise outside
    if not target.isprintable() and any(unicodedata.category(char) == "Cc" for char in target):
        raise unsafe(entry, f'links to "{shown(target)}", which holds control characters')
    try:
        length = len(target.encode())
    except UnicodeEncodeError:
        raise unsafe(entry, f'links to "{shown(target)}", which is not UTF-8') from None
    if length > TARGET_BYTES:
        raise unsafe(entry, f"links to a path of {length} bytes, {TARGET_BYTES} are allowed")
    for part in target.replace("\\", "/").split("/"):
        above += -1 if part == ".." else 0 if part in ("", ".") else 1
        if above < 0:
            raise outside
    return target
