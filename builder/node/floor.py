"""Whether this node has the disk for another build: one that is read-only, or below the floor of its settings, takes
none and reports why."""

from __future__ import annotations

import os
from pathlib import Path

from builder.sandbox import room
from builder.settings import Settings
from builder.text import size


def lacks(settings: Settings) -> str:
    """Why this node takes no builds now; empty when it does. The words stay the same for as long as the cause does."""
    folder = Path(settings.node_dir)
    try:
        there = next(up for up in (folder, *folder.parents) if up.is_dir())
        left = room(there)
        if (work := folder / "work").is_dir():  # often a disk of its own
            left = left.least(room(work))
    except OSError as error:
        return f"its folder cannot be read: {error.strerror}"
    # The kernel mounts a disk that fails anew, to be read alone: every build would be claimed, and fail.
    if not all(os.access(each, os.W_OK) for each in (there, work) if each.is_dir()):
        return "its folder cannot be written (node_dir)"
    if left.bytes < settings.node_free_bytes:
        return f"less than {size(settings.node_free_bytes)} free on its disk (node_free_bytes)"
    if left.inodes is not None and left.inodes < settings.node_free_inodes:
        return f"fewer than {settings.node_free_inodes} inodes free on its disk (node_free_inodes)"
    return ""
