"""Who an app of an image is: the user of its config, looked up in the image's own /etc/passwd and /etc/group.

The rules are those of container runtimes (containerd `oci.WithUser`, runc `user.GetExecUser`). The files are a
stranger's: the first `MOST_BYTES` of each count, a link leads nowhere outside of the image, a row that is none is none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from builder.sandbox.compose import READING, resolve_inside

MOST_BYTES = 1024 * 1024
LARGEST_ID = 2**31 - 1


def user_in(rootfs: Path, user: str) -> tuple[int, int]:
    """The uid and gid of `user`: NAME, UID, or one of them, a colon, and a group's name or gid.

    Without a group it is the user's own of the image; a number that has no row there has the group 0. Raises
    `LookupError`, with the words that follow the image's name, for a name that the image does not have.
    """
    name, _, group = user.partition(":")
    uid = number(name)
    gid = number(group)
    if uid is None or not group:
        row = next((row for row in _passwd(rootfs) if (row[0] == name if uid is None else _is_uid(row, uid))), None)
        if row is None and uid is None:
            raise LookupError("a user that its /etc/passwd does not have")
        uid, own = (int(row[2]), int(row[3])) if row else (uid, 0)
        gid = gid if group else own
    if gid is None:
        gid = next((int(row[2]) for row in _group(rootfs) if row[0] == group), None)
        if gid is None:
            raise LookupError("with a group that its /etc/group does not have")
    assert uid is not None
    return uid, gid


def home_in(rootfs: Path, uid: int) -> str:
    """The home of a user; "/", as container runtimes have it, where the image gives none."""
    return next((row[5] for row in _passwd(rootfs) if _is_uid(row, uid) and row[5].startswith("/")), "/")


def number(text: str) -> int | None:
    """A uid or gid; None for a name, and for what is beyond the largest one."""
    is_number = text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= LARGEST_ID
    return int(text) if is_number else None


def _is_uid(row: list[str], uid: int) -> bool:
    return int(row[2]) == uid


def _passwd(rootfs: Path) -> Iterator[list[str]]:
    """Rows of passwd(5) whose uid and gid are numbers."""
    return (row for row in _rows(rootfs, "/etc/passwd", 7) if number(row[3]) is not None)


def _group(rootfs: Path) -> Iterator[list[str]]:
    """Rows of group(5) whose gid is a number."""
    return _rows(rootfs, "/etc/group", 4)


def _rows(rootfs: Path, name: str, fields: int) -> Iterator[list[str]]:
    """Rows of so many fields, with a name and a number as the third, in the order of the file."""
    try:
        path = rootfs / resolve_inside(rootfs, name).lstrip("/")
        with open(os.open(path, READING), "rb") as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MOST_BYTES) if is_file else b""
    except OSError:
        return
    lines = data.decode("utf-8", "replace").split("\n")
    for line in lines[:-1] if len(data) == MOST_BYTES else lines:  # a number of the last one may be cut
        row = line.rstrip("\r").split(":")
        if len(row) == fields and row[0] and number(row[2]) is not None and "\0" not in line:
            yield row
