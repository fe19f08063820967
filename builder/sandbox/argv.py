"""The command line of one sandbox: a pure function from what is wanted to what is executed.

The long half goes to bubblewrap through a descriptor (`--args`), so that `/proc/1/cmdline` inside shows no host path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import BuildError
from builder.sandbox import overlay
from builder.sandbox.compose import Bound
from builder.sandbox.overlay import Overlay
from builder.sandbox.shapes import Command, Limits, Root

HOSTNAME = "ignite"
SHELL = "/bin/sh"
_ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit 1; shift; done; shift; exec "$@"'
"""Into each control group, then what is started in place of the shell."""
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, kw_only=True)
class Descriptors:
    """Descriptor numbers that bubblewrap inherits; `seccomp` is -1 where there is no filter. `copies` are files of the
    image (`compose.descriptors`)."""

    args: int
    gate: int
    status: int
    block: int
    seccomp: int
    files: Mapping[str, int]
    copies: Mapping[str, int] = field(default_factory=dict)

    def inherited(self) -> tuple[int, ...]:
        """All of them."""
        files = (*self.files.values(), *self.copies.values())
        fds = (self.args, self.gate, self.status, self.block, self.seccomp, *files)
        return tuple(fd for fd in fds if fd >= 0)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Where the three programs are."""

    bwrap: str
    prlimit: str
    unshare: str


def outer(
    programs: Programs,
    rlimits: Mapping[str, int],
    fds: Descriptors,
    argv: Sequence[str],
    nested: tuple[int, int] | None = None,
    overlays: Sequence[Overlay] = (),
) -> list[str]:
    """What is executed on the host: prlimit, then bubblewrap, then the command itself.

    bubblewrap reads its arguments, then the gate up to its end, and only then starts anything.

    `nested`: as process 1 of a PID namespace and still root, which is to become this uid and gid. It gets a /proc of
    its own first: bubblewrap looks its child up there, by the number that it has in this namespace. `overlays` are
    mounted beside that /proc, where no other process sees them.
    """
    bwrap = [programs.bwrap, "--args", str(fds.args), "--args", str(fds.gate), "--"]
    line = [*limiting(programs.prlimit, rlimits), *bwrap, *argv]
    if nested is None:
        return line
    uid, gid = nested
    becoming = [f"--setgid={gid}", f"--setuid={uid}", "--"]
    if overlays:
        mounting = overlay.mounting(SHELL, overlays)
        return [programs.unshare, "--mount-proc", "--", *mounting, programs.unshare, *becoming, *line]
    return [programs.unshare, "--mount-proc", *becoming, *line]


def entering(entrances: Sequence[Path], line: Sequence[str]) -> list[str]:
    """What root starts so that a line runs in the control groups with these entrances (`cgroups.Group`)."""
    return [SHELL, "-c", _ENTER, "group", *map(str, entrances), "--", *line] if entrances else [*line]


def limiting(prlimit: str, rlimits: Mapping[str, int]) -> list[str]:
    """What stands before a command line to run it under `rlimits`."""
    return [prlimit, *(f"--{name}={value}:{value}" for name, value in rlimits.items()), "--"]


def inner(
    *,
    root: Root,
    bound: Sequence[Bound],
    command: Command,
    limits: Limits,
    env: Mapping[str, str],
    fds: Descriptors,
    mounted: bool = False,
) -> list[str]:
    """Bubblewrap's own arguments. `root` is settled, `bound` comes from `compose.layers`. `mounted`: whether
    the command's overlays are, else the empty folders of what they write are shown.

    Raises `BuildError` InvalidRequest for a NUL in any value: it separates arguments, so it could smuggle one in.
    """
    args = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    if command.user:
        args += ["--uid", str(command.user[0]), "--gid", str(command.user[1])]
    args += ["--hostname", HOSTNAME, "--cap-drop", "ALL", "--clearenv"]
    for name, value in sorted({"PATH": PATH, **env}.items()):
        args += ["--setenv", name, value]
    for part in bound:
        args += part.arguments(fds.copies.get(part.dest))
    args += ["--proc", "/proc", "--dev", "/dev"]
    # Both live in memory: bounded, so that they end in ENOSPC and not in the host's memory.
    scratch = str(min(limits.disk, max(limits.memory // 2, 1)))
    args += ["--perms", "1777", "--size", scratch, "--tmpfs", "/tmp"]
    args += ["--perms", "1777", "--size", scratch, "--tmpfs", "/dev/shm"]
    if not any(part.dest == "/etc" for part in bound):
        args += ["--perms", "0755", "--dir", "/etc"]
    kinds = {part.dest: part.kind for part in bound}
    for dest, fd in fds.files.items():
        made = ("--perms", "0644", "--file") if _is_ours(dest, kinds) else ("--ro-bind-data",)
        args += [*made, str(fd), dest]
    for mount in root.mounts:
        args += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.dest]
    for name in command.folders:
        args += ["--bind", str(command.work / name), f"/work/{name}"]
    if not command.folders:
        args += ["--bind", str(command.work), "/work"]
    for name, folder in sorted(command.caches.items()):
        args += ["--bind", str(folder), f"/cache/{name}"]
    for name, folder in sorted(command.stores.items()):
        args += ["--ro-bind", str(folder), f"/cache/{name}"]
    for name, each in sorted(command.overlays.items()):
        args += ["--bind", str(each.merged if mounted else each.upper), f"/cache/{name}"]
    for dest, source in sorted(command.shown.items()):
        args += ["--ro-bind", str(source), dest]
    # The root and /dev are tmpfs without a size of ours; nothing may be written there.
    args += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", command.cwd]
    args += ["--json-status-fd", str(fds.status), "--block-fd", str(fds.block)]
    if fds.seccomp >= 0:
        args += ["--seccomp", str(fds.seccomp)]
    for text in (*args, *command.argv):
        if "\0" in text:
            raise BuildError("InvalidRequest", f"a NUL byte in {text.replace(chr(0), chr(0x2400))[:80]!r}")
    return args


def _is_ours(dest: str, kinds: Mapping[str, str]) -> bool:
    """Whether no part of the image but folders that bubblewrap makes is at a path or above it: through a bind it would
    write a file into the image. In such a folder a file costs no mount, and cannot be written once the root is
    read-only. `kinds` of the image's parts by their `dest`."""
    above = dest
    while above:
        if kinds.get(above, "dir") != "dir":
            return False
        above = above.rpartition("/")[0]
    return kinds.get("/", "dir") == "dir"
