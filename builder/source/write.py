"""Write entries into a new folder: names, links and sizes are judged here for every kind of archive.

Everything is created relative to a folder descriptor with O_NOFOLLOW and O_EXCL, and symbolic links are made last, so
no name and no link can lead outside (CVE-2025-4517 and kin). Only folders that were made here are ever entered.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError, PlatformError
from builder.source.entry import LITTER_FOLDER, ArchiveEntry, is_litter, safe_parts, safe_target, shown, unsafe
from builder.source.limits import Meter
from builder.source.links import judge_links

OPEN_FOLDERS = 128
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """How many files (links too) and bytes came out, and what a person should know."""

    files: int
    size: int
    warnings: tuple[str, ...] = ()


class FolderWriter:
    """Writes one archive. `dest` is made, or is an empty folder.

    With `lift` a single folder that holds everything becomes the root, and what macOS and Windows add is left out.
    """

    def __init__(self, dest: Path, meter: Meter, lift: bool = True) -> None:
        self._dest = dest
        self._meter = meter
        self._may_lift = lift
        self._files = 0
        self._dropped: list[str] = []
        self._kinds: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._links: dict[str, ArchiveEntry] = {}
        self._folders: dict[str, int] = {}
        self._exact = False
        self._last = ("", -1)

    def write(self, entries: Iterable[ArchiveEntry]) -> Unpacked:
        """All of them. Raises `BuildError` ArchiveUnsafe, ArchiveTooLarge, SourceEmpty, NodeDiskFull, and as `entries`.

        After a failure `dest` may hold a part; nothing is ever written elsewhere.
        """
        try:
            return self._write(entries)
        except OSError as error:
            raise from_disk(error) from error
        finally:
            for descriptor in self._folders.values():
                os.close(descriptor)
            self._folders.clear()

    def _write(self, entries: Iterable[ArchiveEntry]) -> Unpacked:
        made = True
        try:
            self._dest.mkdir(mode=0o755)
        except FileExistsError:
            made = False
            if os.listdir(self._dest):
                raise
        root = self._folders[""] = os.open(self._dest, _FOLDER)
        self._last = ("", root)
        # Where the umask (or an access list) leaves 0755 alone, it leaves every mode alone that is used here.
        self._exact = stat.S_IMODE(os.fstat(root).st_mode) == 0o755
        if made and not self._exact:
            os.fchmod(root, 0o755)
        for entry in entries:
            self._meter.entry(entry)
            self._one(entry)
        if not self._files:
            raise BuildError("SourceEmpty", "the archive holds no file")
        single = single_folder(self._kinds) if self._may_lift else ""
        judge_links(self._links, single)
        for path, entry in self._links.items():
            self._symlink(path, entry)
        if single:
            self._lift(single)
        return Unpacked(files=self._files, size=self._meter.total, warnings=self._warnings(single))

    def _one(self, entry: ArchiveEntry) -> None:
        name = entry.name.rpartition("/")[2]
        litters = self._may_lift and entry.kind != "folder" and is_litter(name)
        # The one name of litter that holds a control character is judged by the folder that it lies in.
        parts = safe_parts(entry, entry.name.removesuffix("\r") if litters else entry.name)
        depth = self._meter.limits.depth
        if len(parts) > depth:
            message = f"{entry.where} is {len(parts)} levels deep, limit {depth}"
            raise BuildError("ArchiveTooLarge", message, where=entry.where)
        if not parts:
            if entry.kind != "folder":
                raise unsafe(entry, "has no name")
            return
        if litters or (self._may_lift and parts[0] == LITTER_FOLDER):
            self._drop(entry)
            return
        path = "/".join(parts)
        known = self._kinds.get(path)
        if entry.kind == "folder":
            if known not in (None, "folder"):
                raise unsafe(entry, "is a folder here and a file before")
            self._folder(entry, parts)
            return
        if known is not None:
            raise unsafe(entry, "is in the archive twice" if known != "folder" else "is a folder before")
        parent = self._folder(entry, parts[:-1])
        self._meter.made(len(self._kinds) + 1)
        self._meter.named(path, entry.target)
        self._kinds[path] = entry.kind
        if entry.kind == "link":
            safe_target(entry, len(parts) - 1)
            self._links[path] = entry
        elif entry.kind == "hard":
            self._hard(entry, parts)
        else:
            self._sizes[path] = self._file(entry, parts[-1], parent)
        self._files += 1

    def _drop(self, entry: ArchiveEntry) -> None:
        size = 0
        for chunk in entry.data:
            size += len(chunk)
            self._meter.data(entry, size, len(chunk))
        self._meter.named(entry.name)
        self._dropped.append(entry.name)

    def _folder(self, entry: ArchiveEntry, parts: list[str]) -> int:
        """The descriptor of a folder, made where it is missing."""
        wanted = "/".join(parts)
        if wanted == self._last[0]:
            return self._last[1]
        path = ""
        for part in parts:
            above, path = path, f"{path}/{part}" if path else part
            known = self._kinds.get(path)
            if known is None:
                self._meter.made(len(self._kinds) + 1)
                self._meter.named(path)
                os.mkdir(part, 0o755, dir_fd=self._open(above))
                self._kinds[path] = "folder"
                descriptor = self._open(path)
                if not self._exact:
                    os.fchmod(descriptor, 0o755)
            elif known != "folder":
                raise unsafe(entry, f'lies below "{shown(path)}", which is not a folder')
        self._last = (wanted, self._open(wanted))
        return self._last[1]

    def _open(self, path: str) -> int:
        """A descriptor, from the few that stay open or by walking down from the root, never through a link.

        May close others, but never those above `path`.
        """
        known = self._folders.get(path)
        if known is not None:
            return known
        above, _, name = path.rpartition("/")
        parent = self._open(above)
        if len(self._folders) >= OPEN_FOLDERS:
            kept = f"{path}/"
            for stale in [one for one in self._folders if one and not kept.startswith(f"{one}/")][:32]:
                os.close(self._folders.pop(stale))
            self._last = ("", self._folders[""])
        opened = self._folders[path] = os.open(name, _FOLDER, dir_fd=parent)
        return opened

    def _file(self, entry: ArchiveEntry, name: str, parent: int) -> int:
        mode = 0o755 if entry.mode & 0o111 else 0o644
        descriptor = os.open(name, _NEW, mode, dir_fd=parent)
        size = 0
        try:
            for chunk in entry.data:
                length = len(chunk)
                size += length
                self._meter.data(entry, size, length)
                written = os.write(descriptor, chunk)
                while written < length:
                    written += os.write(descriptor, memoryview(chunk)[written:])
            if not self._exact:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        return size

    def _hard(self, entry: ArchiveEntry, parts: list[str]) -> None:
        target = safe_parts(entry, entry.target)
        path = "/".join(target)
        if path not in self._sizes:
            raise unsafe(entry, f'is a hard link to "{shown(entry.target)}", which is no file before it')
        size = self._sizes["/".join(parts)] = self._sizes[path]
        self._meter.linked(entry, size)
        # A descriptor of its own: `_open` may close any that is not above the folder it is asked for.
        source = os.dup(self._open("/".join(target[:-1])))
        try:
            parent = self._open("/".join(parts[:-1]))
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _symlink(self, path: str, entry: ArchiveEntry) -> None:
        above, _, name = path.rpartition("/")
        parent = self._open(above)
        os.symlink(entry.target, name, dir_fd=parent)

    def _lift(self, single: str) -> None:
        """Move what the one folder holds up, and remove it. It is moved aside first: it may hold its own name."""
        root = self._folders[""]
        aside = f".ignite-{secrets.token_hex(8)}"
        os.rename(single, aside, src_dir_fd=root, dst_dir_fd=root)
        inner = os.open(aside, _FOLDER, dir_fd=root)
        try:
            for name in os.listdir(inner):
                os.rename(name, name, src_dir_fd=inner, dst_dir_fd=root)
        finally:
            os.close(inner)
        os.rmdir(aside, dir_fd=root)

    def _warnings(self, single: str) -> tuple[str, ...]:
        found = []
        if single:
            found.append(f'the archive holds one folder, "{shown(single)}"; it is taken as the root')
        if self._dropped:
            count, first = len(self._dropped), shown(self._dropped[0])
            what = "1 file" if count == 1 else f"{count} files"
            found.append(f'{what} of macOS or Windows left out: "{first}"{", …" if count > 1 else ""}')
        return tuple(found)


def single_folder(kinds: Mapping[str, str]) -> str:
    """The one folder that holds everything, as GitHub, `git archive --prefix` and `npm pack` make it, or "".

    `kinds` maps each path to its kind, a folder before what it holds.
    """
    root = next(iter(kinds)).partition("/")[0]
    below = root + "/"
    if kinds.get(root) != "folder" or any(path != root and not path.startswith(below) for path in kinds):
        return ""
    return root


def from_disk(error: OSError) -> BuildError:
    """Our disk's failure, as a reason of the table."""
    reason = "NodeDiskFull" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Internal"
    return PlatformError(reason, f"the source could not be unpacked: {error.strerror or error}")
