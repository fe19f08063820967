"""What killed owners left on this node: processes and work folders. Their lines: `builder/claims/left.py`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from builder.attempt.attempt import DISCARDED
from builder.claims.spool import is_owned, spool_path
from builder.sandbox.loopfs import unmount
from builder.sandbox.remove import remove_tree

PROC = Path("/proc")
REHEARSALS = "rehearsals"
"""The folder of the node in which readers that wait have a folder each (`builder/attempt/rehearsal.py`)."""
FENCE, DISK = ".fence", ".disk"
"""What the names of the folder end with where an attempt's file system is mounted, and of the file that has it."""
INSIDE = (".apart", ".start")
"""What the names of further work folders of a build end with (`builder/attempt/`), which lie beside the first."""


def remove_left_behind(node_dir: Path) -> int:
    """End and remove what killed owners left in the work folder; claims with a live process keep theirs.

    An owner makes its mark before it makes its folder and withdraws it after it removed the folder. Returns how many
    entries were removed.
    """
    removed = 0
    remove_tree(node_dir / REHEARSALS)  # one that goes on meanwhile is none for once
    for path in sorted((node_dir / "work").glob("*-*")):
        name = path.name.partition(".")[0]
        build_id, _, claim = name.rpartition("-")
        if not claim.isdigit() or is_owned(spool_path(node_dir / "spool", build_id, int(claim))):
            continue
        if path.name.endswith(DISCARDED) and any(_mounted_below(path.name)):
            continue  # a build that began before these caches were discarded still reads them
        if path.suffix == FENCE:
            _kill_those_in(name, *(name + each for each in INSIDE))
            unmount(path)  # first: what lies in it goes with its file
        else:
            _kill_those_in(path.name)
        removed += remove_tree(path)
    return removed


def _kill_those_in(*names: str) -> None:
    """KILL every process that has a work folder of these names mounted (proc(5), mountinfo, field 4).

    bubblewrap binds the life of a sandbox to its owner only once it is set up; an owner that is killed before leaves
    it running.
    """
    ends = tuple(b"/" + os.fsencode(name) for name in names)
    for pid, roots in _mounts():
        if any(root.endswith(ends) for root in roots):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _mounted_below(name: str) -> Iterator[int]:
    """The processes that have something below a folder of this name mounted."""
    inside = b"/%b/" % os.fsencode(name)
    return (pid for pid, roots in _mounts() if any(inside in root + b"/" for root in roots))


def _mounts() -> Iterator[tuple[int, list[bytes]]]:
    """Each process and what of a file system each of its mounts shows: bytes, which need be text of no encoding. The
    kernel writes blanks and line ends in them as octal numbers, and no other character."""
    for process in PROC.glob("[0-9]*"):
        with suppress(OSError):
            lines = process.joinpath("mountinfo").read_bytes().split(b"\n")
            yield int(process.name), [line.split(b" ")[3].removesuffix(b"//deleted") for line in lines if line]
