"""The disk fence of a node (setting `disk_fence`): it is tried before anything is built, or the process does not start.

With `loop` the work folder of each build lies in a file system of its own. There is no way back to the watch alone: an
operator who fences relies on it.
"""

from __future__ import annotations

from pathlib import Path

from builder import sandbox
from builder.errors import BuildError
from builder.settings import Settings


def require_fence(settings: Settings, scratch: Path) -> sandbox.Blank | None:
    """What the file system of each build below `scratch` is a copy of; None where the settings have no fence.

    Gives this process a mount namespace of its own: call it before the first thread, and before processes are forked.
    Raises `BuildError` SandboxUnavailable with what is missing.
    """
    if settings.disk_fence == "off":
        return None
    work = scratch / "work"
    work.mkdir(parents=True, exist_ok=True)
    blank = sandbox.tried(work, settings.disk_bytes)
    try:
        sandbox.enter_namespace()
    except OSError as error:
        raise BuildError("SandboxUnavailable", f"no mount namespace can be made: {error.strerror}") from None
    return blank
