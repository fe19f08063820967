"""Remove what hostile code left: a tree of any depth, with folders that nobody may enter, links never followed.

`shutil.rmtree` recurses and holds a descriptor for each level; a build makes a tree of 20,000 levels in a second. Here
every folder that is found moves up to the top under a name of ours, so that all are one level deep when their turn
comes: two descriptors, no recursion, no path longer than a name. Nothing of the build may live any more.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections import deque
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(root: Path) -> bool:
    """Remove `root` and everything below it; whether it is gone. What cannot be removed stays, the rest goes.

    The folders above `root` are trusted; where a build may have changed them, take `remove_in`.
    """
    try:
        above = os.open(root.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return not os.path.lexists(root)
    try:
        return remove_in(above, root.name)
    finally:
        os.close(above)


def remove_in(above: int, name: str) -> bool:
    """`remove_tree` of what has a name in the folder with the descriptor `above`."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=above)
            return True
        _open_to_us(name, above)
        top = os.open(name, FOLDER, dir_fd=above)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        _empty(top)
    finally:
        os.close(top)
    try:
        os.rmdir(name, dir_fd=above)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _empty(top: int) -> None:
    """Flatten: each folder below gives its own folders to the top, loses its files, and goes."""
    prefix = secrets.token_hex(8)  # no name that a build could have guessed
    made = 0
    waiting = deque(_without_files(top))
    while waiting:
        name = waiting.popleft()
        try:
            _open_to_us(name, top)
            folder = os.open(name, FOLDER, dir_fd=top)
        except OSError:
            continue
        try:
            for inner in _without_files(folder):
                made += 1
                moved = f"{prefix}-{made}"
                with contextlib.suppress(OSError):
                    _open_to_us(inner, folder)  # a folder's own permission is needed to give it another parent
                    os.rename(inner, moved, src_dir_fd=folder, dst_dir_fd=top)
                    waiting.append(moved)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=top)


def _without_files(folder: int) -> list[str]:
    """Unlink everything but folders; the names of those."""
    folders = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=folder)
    return folders


def _open_to_us(name: str, parent: int) -> None:
    """The owner's rights on a folder; root has no need of them."""
    if os.geteuid() != 0:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
