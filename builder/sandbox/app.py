"""A built app as the platform starts it: its user, home, port and limits; where it listens, and what stopped it.

`run` and the start check share this. The app has no network; its namespace is read through /proc of a process inside.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from builder.sandbox import processes
from builder.sandbox.compose import NEVER_FROM_IMAGE, OUR_FOLDERS, resolve_inside
from builder.sandbox.fence import TMPFS
from builder.sandbox.shapes import Command, Limits, Root
from builder.sandbox.users import home_in

PORT = 8642
"""$PORT inside: a process without capabilities cannot bind the platform's 80 here. No framework has it as its default:
an app that does not read $PORT must not seem to."""
MEMORY = 512 * 1024 * 1024
LISTEN = "0A"
"""The state of a listening socket (linux/net/tcp_states.h), as proc(5), net/tcp, prints it."""
Address = tuple[str, int]

_PANIC = re.compile(r"panic: |fatal error: |runtime error: ")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b")
_ERROR = re.compile(r"\b(?:error|fatal|failed|cannot|exception)\b", re.IGNORECASE)
_NO_LIBRARY = re.compile(r"error while loading shared libraries: (\S+)|(\S+): cannot open shared object file")
_NO_FILE = re.compile(r"\b(?:open|stat|lstat) ([^\s:'\"]{1,300}): no such file or directory")
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,40}m")
LONGEST = 500
ABSENT = ("bwrap: execvp", "ignite: cannot start ")
"""How the line begins that says so: the sandbox's, that of a launcher."""
_NOT_STARTED = re.compile(r"ignite: cannot start (.{1,200}?): ([^:]{1,100})$")
"""A launcher's own words: the program, and why the kernel does not start it."""


def command(
    entrypoint: Sequence[str], env: Mapping[str, str], *, cwd: str, user: tuple[int, int], root: Root, work: Path
) -> Command:
    """What to run, as this uid and gid of the image, with its home and $PORT."""
    home = {"HOME": home_in(root.rootfs, user[0]) if root.rootfs else "/", "PORT": str(PORT)}
    return Command(argv=tuple(entrypoint), work=work, env={**home, **env}, cwd=cwd or "/", user=user)


def limits(wall_ms: int) -> Limits:
    """Those of a small instance."""
    return Limits(memory=MEMORY, cpus=1.0, pids=256, disk=64 * 1024 * 1024, wall_ms=wall_ms)


def closed_folder(rootfs: Path, path: str) -> str:
    """The first folder on the way to one of an image that the app may not enter; "" where it enters them all. Where
    this process is not root the app runs as its user, who owns all that was unpacked."""
    place = resolve_inside(rootfs, path)
    if os.geteuid() != 0 or place in (*OUR_FOLDERS, "/work"):
        return ""
    parts = PurePosixPath(place).relative_to("/").parts
    ways = (PurePosixPath(*parts[:end]) for end in range(1, len(parts) + 1))
    return next((f"/{way}" for way in ways if not (rootfs / way).stat().st_mode & stat.S_IXOTH), "")


def has_folder(rootfs: Path, path: str) -> bool:
    """Whether an app that is started from an image can start in this folder: a link inside counts as what it leads to,
    and what is ours there is there whatever the image has."""
    try:
        place = resolve_inside(rootfs, path)
        if place == "/" or place in (*OUR_FOLDERS, "/work"):
            return True
        return f"/{place.split('/')[1]}" not in NEVER_FROM_IMAGE and (rootfs / place.lstrip("/")).is_dir()
    except OSError:  # links that lead nowhere, a name that is none
        return False


def listeners(pid: int) -> tuple[Address, ...]:
    """Where processes listen in the network namespace of `pid`, by port. Nothing once it is gone."""
    found: set[Address] = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                found |= set(listening(file.read()))
        except OSError:
            continue
    return tuple(sorted(found, key=lambda address: (address[1], address[0])))


def listening(table: str) -> tuple[Address, ...]:
    """The listening sockets of a table as proc(5), net/tcp, prints it. Pure."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == LISTEN:
            address, _, port = fields[1].partition(":")
            found.append((_address(address), int(port, 16)))
    return tuple(found)


def _address(text: str) -> str:
    """Each group of four bytes is in the machine's order, which is the other way round."""
    data = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    if len(data) == 4:
        return ".".join(map(str, data))
    if not any(data):
        return "::"
    if data[:12] == bytes(10) + b"\xff\xff":
        return ".".join(map(str, data[12:]))
    return "::1" if data == bytes(15) + b"\x01" else "[" + data.hex(":", 2) + "]"


def is_ready(found: Sequence[Address], port: int) -> bool:
    """Whether one of them can be reached from outside at `port`."""
    return any(at == port and not _is_loopback(address) for address, at in found)


def elsewhere(found: Sequence[Address]) -> str:
    """Where an app listens that cannot be reached, for people: "127.0.0.1:5000"; empty where it listens nowhere."""
    return ", ".join(f"{address}:{port}" for address, port in found[:3])


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def memory(pid: int) -> int:
    """Bytes of anonymous and shared memory that the processes below `pid` hold now."""
    return processes.usage(processes.tree(pid), pid, TMPFS).memory


def plain(line: str) -> str:
    """A line without the colours that a program gives its errors, which hide the words that they are found by."""
    return _COLOURS.sub("", line)


def first_error(lines: Sequence[str]) -> str:
    """The line that names what ended a program: a panic, what a traceback ends with, the first error, or the last."""
    if line := next((line for line in lines if _PANIC.match(line)), ""):
        return line.strip()[:LONGEST]
    traced = next((at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")), None)
    if traced is not None:
        after = (line for line in lines[traced + 1 :] if line and not line[0].isspace())
        if line := next((line for line in after if _RAISED.match(line)), ""):
            return line.strip()[:LONGEST]
    found = next((line for line in lines if _ERROR.search(line)), "") or next((x for x in reversed(lines) if x), "")
    return found.strip()[:LONGEST]


def said(lines: Sequence[str], count: int) -> tuple[str, ...]:
    """At most `count` lines of a program that ended: its first error line, then what it wrote last."""
    error = first_error(lines)
    rest = tuple(line for line in lines if line.strip() and line.strip()[:LONGEST] != error)
    return (*((error,) if error else ()), *rest[-(count - 1) :])


def missing_library(lines: Sequence[str]) -> str:
    """The shared library that a program ended for want of; empty when that was not it."""
    error = first_error(lines)
    found = _NO_LIBRARY.search(error)
    return (found[1] or found[2]).strip(":'\"") if found else ""


def missing_file(lines: Sequence[str], workdir: str) -> str:
    """The file below `workdir`, as a relative path, that a program ended for want of; empty when that was not it."""
    found = _NO_FILE.search(first_error(lines))
    path = posixpath.normpath(posixpath.join(workdir, found[1])) if found else ""
    return path.removeprefix(f"{workdir}/") if path.startswith(f"{workdir}/") else ""


def is_absent(code: int, lines: Sequence[str]) -> bool:
    """Whether there was no program to start: none of this name, or no format that the kernel runs. It is the sandbox
    that says so, or a launcher of ours in the image."""
    return code in (126, 127) and any(line.startswith(ABSENT) for line in lines)


def not_started(lines: Sequence[str]) -> tuple[str, str]:
    """(program, why) of what a launcher could not become; ("", "") where it was none of ours that said so."""
    found = next((found for line in lines if (found := _NOT_STARTED.match(line))), None)
    return (found[1], found[2]) if found else ("", "")
