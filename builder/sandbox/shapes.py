"""The shapes of the sandbox: what is handed in and what comes back. Sizes are bytes, times ms."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.sandbox.disk import Room
from builder.sandbox.overlay import Overlay


class Stream(enum.StrEnum):
    """Where a line came from. `SYSTEM`: from the sandbox itself, never by the command."""

    STDOUT = "STDOUT"
    STDERR = "STDERR"
    SYSTEM = "SYSTEM"


OnLine = Callable[[Stream, bytes], None]
"""Takes one line without its newline, at most 16 KiB; called in the thread that called `run`."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A host folder or file shown at `dest` (absolute, inside), read-only unless `writable`."""

    source: Path
    dest: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Root:
    """The composed root: an unpacked image (or nothing) read-only as `/`, and mounts over it.

    `/etc/passwd`, `/etc/group`, `/etc/hosts`, `/etc/resolv.conf` (empty), `/tmp`, `/proc` and `/dev` are always ours.
    """

    rootfs: Path | None = None
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one run. `disk` counts the work folder, and what the caches grew by; `pids` counts threads too."""

    memory: int
    cpus: float
    pids: int
    disk: int
    wall_ms: int


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run: `env` is the whole environment; `work` is `/work`, writable; each cache is `/cache/<name>`.

    `folders` of `work` are all that shows of it; empty: it shows whole. `caches` are writable, `stores` read-only, of
    `overlays` what is written ends with the run. `shown` are read-only too, each over a folder that `work` has.
    `user` is the uid and gid that it sees itself run as, in its user namespace; None: those that it has outside.
    """

    argv: tuple[str, ...]
    work: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/work"
    folders: tuple[str, ...] = ()
    caches: Mapping[str, Path] = field(default_factory=dict)
    stores: Mapping[str, Path] = field(default_factory=dict)
    overlays: Mapping[str, Overlay] = field(default_factory=dict)
    shown: Mapping[str, Path] = field(default_factory=dict)
    user: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """How the command ended. `reason` names the limit that ended it (a reason of `builder/errors.py`) or is None.

    `signal` is read off an exit code above 128, as a shell does; 127: there is no such program. `room` is the least
    that the file system of the work folder had left.
    """

    exit_code: int
    signal: int | None
    reason: str | None
    peak_memory: int
    peak_disk: int
    peak_pids: int
    duration_ms: int
    room: Room | None = None


@dataclass(frozen=True, kw_only=True)
class HostCheck:
    """One line of `doctor`: what was looked at, whether it is good, what was found, what to do."""

    name: str
    ok: bool
    detail: str
    next: str = ""
