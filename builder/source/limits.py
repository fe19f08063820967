"""What an unpacked source may cost, and the meter that counts it on bytes really inflated."""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import BuildError
from builder.source.entry import ArchiveEntry, shown
from builder.text import size as in_words

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """`unpacked`, `file` and `ratio_after` in bytes; `depth` in path parts; `ratio` is unpacked to packed.

    `entries` holds for the archive's entries, and for what they make: a folder that only a path implies costs one too.
    `names` in bytes is for the paths of all that is made and left out, and for what links name: all are in memory.

    Counted on what is really inflated; what headers state is only used to refuse earlier.
    """

    unpacked: int = 512 * MIB
    file: int = 128 * MIB
    entries: int = 50_000
    names: int = 16 * MIB
    depth: int = 32
    ratio: int = 100
    ratio_after: int = MIB

    @property
    def archive(self) -> int:
        """Bytes of the largest canonical archive: of each entry also its header, its long names and its padding."""
        return self.unpacked + self.entries * 6 * KIB + MIB


def too_large(found: str, limit: str, where: str = "") -> BuildError:
    """The refusal of an archive over a limit: what was found and what is allowed."""
    return BuildError("ArchiveTooLarge", f"{found}, limit {limit}", where=where)


class Meter:
    """Counts one archive against its limits. `packed` is the archive's own size in bytes."""

    def __init__(self, limits: ArchiveLimits, packed: int) -> None:
        self.limits = limits
        self.total = 0
        self._packed = packed
        self._linked = 0
        self._names = 0
        self._largest = (0, "")

    def entries(self, count: int) -> None:
        """`count` entries, where a directory states them. Raises ArchiveTooLarge."""
        if count > self.limits.entries:
            raise too_large(f"{count} entries", str(self.limits.entries))

    def foretell(self, total: int, largest: ArchiveEntry) -> None:
        """What a directory states, before anything is written: bytes in all, the largest. Raises ArchiveTooLarge."""
        if total > self.limits.unpacked:
            raise self._unpacked(total, (largest.size, largest.name))
        self._ratio(total)
        if largest.size > self.limits.file:
            raise self._file(largest, largest.size)

    def entry(self, entry: ArchiveEntry) -> None:
        """The next entry, before its data. Raises ArchiveTooLarge."""
        limits = self.limits
        if entry.number > limits.entries:
            raise too_large(f"more than {limits.entries} entries", str(limits.entries))
        if entry.size > limits.file:
            raise self._file(entry, entry.size)
        if self.total + entry.size + self._linked > limits.unpacked:
            raise self._unpacked(self.total + entry.size + self._linked, max(self._largest, (entry.size, entry.name)))

    def made(self, count: int) -> None:
        """`count` files and folders so far, with the folders that only a path implies. Raises ArchiveTooLarge."""
        limit = self.limits.entries
        if count > limit:
            raise too_large(f"more than {limit} files and folders, with those that names imply", str(limit))

    def named(self, *names: str) -> None:
        """Paths and targets of links that are kept until the end. Raises ArchiveTooLarge."""
        for name in names:
            self._names += len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape"))
        if self._names > self.limits.names:
            limit = in_words(self.limits.names)
            raise too_large(f"more than {limit} of names of files, folders and links", limit)

    def data(self, entry: ArchiveEntry, size: int, chunk: int) -> None:
        """`chunk` more bytes of an entry that has `size` of them by now. Raises ArchiveTooLarge."""
        limits = self.limits
        self.total += chunk
        if size > limits.file:
            raise self._file(entry, size)
        if self.total + self._linked > limits.unpacked:
            raise self._unpacked(self.total + self._linked, max(self._largest, (size, entry.name)))
        self._ratio(self.total)
        if size > self._largest[0]:
            self._largest = (size, entry.name)

    def linked(self, entry: ArchiveEntry, size: int) -> None:
        """A hard link to `size` bytes: whoever copies the tree has them once more. Raises ArchiveTooLarge."""
        self._linked += size
        if self.total + self._linked > self.limits.unpacked:
            raise self._unpacked(self.total + self._linked, (size, entry.name))

    def _file(self, entry: ArchiveEntry, size: int) -> BuildError:
        found, limit = _pair(size, self.limits.file)
        return too_large(f"{entry.where} has {found}", limit, entry.where)

    def _unpacked(self, total: int, largest: tuple[int, str]) -> BuildError:
        found, limit = _pair(total, self.limits.unpacked)
        return BuildError(
            "ArchiveTooLarge",
            f"{found} unpacked, limit {limit}; largest: {shown(largest[1])}, {in_words(largest[0])}",
        )

    def _ratio(self, total: int) -> None:
        limits = self.limits
        if total > limits.ratio_after and total > limits.ratio * self._packed:
            times = total // max(self._packed, 1)
            found = f"{in_words(self._packed)} unpack to {in_words(total)} or more, {times} times as much"
            raise too_large(found, f"{limits.ratio} times after {in_words(limits.ratio_after)}")


def _pair(found: int, limit: int) -> tuple[str, str]:
    """Two sizes for people; exact where rounding would make them look alike."""
    if in_words(found) == in_words(limit):
        return f"{found} bytes", f"{limit} bytes"
    return in_words(found), in_words(limit)
