"""The paths that a request may name in a context, for those who read no Dockerfile."""

from __future__ import annotations

import posixpath

from builder.errors import BuildError
from builder.text import visible

DEFAULT = "Dockerfile"
MOST_PATH = 1024


def check_path(path: str, where: str) -> str:
    """A path below a context, in its shortest form; empty for the context. Raises `BuildError` InvalidRequest."""
    shown = visible(path, limit=120)
    if len(path) > MOST_PATH or not path.isprintable() or "\\" in path:
        raise BuildError("InvalidRequest", f'"{shown}" is no path: up to {MOST_PATH} printable characters', where=where)
    if path.startswith("/") or ".." in path.split("/"):
        step = "Write it relative to the source's root, without .."
        raise BuildError("InvalidRequest", f'"{shown}" leads out of the source', where=where, next=step)
    found = posixpath.normpath(path) if path else ""
    return "" if found == "." else found
