"""What a build left: where each layer of it is on this host, and whether the program in it is one at all."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path, PurePosixPath

from builder.attempt.attempt import Attempt
from builder.errors import BuildError
from builder.images.gather import open_source
from builder.images.store import images_of
from builder.pipelines.base import Linked
from builder.plan import Output
from builder.sandbox.compose import resolve_inside
from builder.toolchains.elf import loader_of
from builder.toolchains.provider import Provided

HEADER = struct.Struct("<4sBB10xHHIQ")
"""The start of an ELF file (elf(5)): magic, class, byte order, type, machine, version, entry."""
EXECUTABLE, SHARED = 2, 3
X86_64 = 62
ARCHIVE = b"!<arch>\n"


def host_path(attempt: Attempt, toolchain: Provided, inside: str) -> Path:
    """A path of the sandbox on this host: what a step is shown, below /work, or in a mounted folder of ours."""
    for shown, place in attempt.shown.items():
        if inside == shown or inside.startswith(f"{shown}/"):
            return place / inside.removeprefix(shown).lstrip("/")
    if inside.startswith("/work/"):
        return attempt.work / inside.removeprefix("/work/")
    for mount in toolchain.root.mounts:
        if inside == mount.dest or inside.startswith(mount.dest + "/"):
            return mount.source / inside.removeprefix(mount.dest).lstrip("/")
    raise BuildError("Internal", f"{inside} is nowhere on this node")


def require_program(attempt: Attempt, toolchain: Provided, output: Output, runtime: str) -> None:
    """Raise `BuildError` StartFailed where a layer of this build holds what is to run and that is no program.

    What is absent or no plain file is left to packaging, which names it.
    """
    entry = PurePosixPath(output.program)
    pipeline = next((one for one in attempt.node.known if runtime == one.NAME), None)
    for layer in reversed(output.layers):
        if not entry.is_relative_to(layer.dest):
            continue
        host = host_path(attempt, toolchain, layer.source) / entry.relative_to(layer.dest)
        try:
            fd = open_source(host, attempt.work if host.is_relative_to(attempt.work) else None)
        except FileNotFoundError:
            continue  # a layer over the same folder, such as that of `files`, need not have it
        except OSError:
            return
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return
        with open(fd, "rb") as file:
            head = file.read(HEADER.size)
            loader = loader_of(file)
        if why := why_no_program(head):
            raise BuildError(
                "StartFailed",
                f"{entry} cannot be started: it is {why}",
                where=str(entry),
                next=pipeline.NO_PROGRAM if isinstance(pipeline, Linked) else "Build a program for linux/amd64.",
            )
        if loader and not _has(attempt, toolchain, output, loader):
            raise BuildError(
                "StartFailed",
                f"{entry} cannot be started: it is linked for the loader {loader}, which is not in the image",
                where=str(entry),
                next=pipeline.NOT_STATIC if isinstance(pipeline, Linked) else "Link it statically.",
            )
        return


def _has(attempt: Attempt, toolchain: Provided, output: Output, path: str) -> bool:
    """Whether the base image has a file, or a layer may bring it."""
    if any(PurePosixPath(path).is_relative_to(layer.dest) for layer in output.layers) or toolchain.base is None:
        return True
    settings = attempt.node.settings
    rootfs = images_of(settings.node_dir, settings.unpacked_image_bytes).rootfs(toolchain.base.digest)
    try:
        return (rootfs / resolve_inside(rootfs, path).lstrip("/")).is_file()
    except OSError:  # a name that is none, such as one that is too long
        return False


def why_no_program(head: bytes) -> str:
    """Why a file that starts so is no program for linux/amd64; empty where it is one, or has a line `#!`."""
    if head.startswith(b"#!"):
        return ""
    if head.startswith(ARCHIVE):
        return "an object archive, which a library gives"
    if len(head) < HEADER.size or head[:4] != b"\x7fELF":
        return "no executable file"
    _, size, order, kind, machine, _, entry = HEADER.unpack(head[: HEADER.size])
    if (size, order, machine) != (2, 1, X86_64):
        return "an executable for another machine"
    if kind not in (EXECUTABLE, SHARED) or not entry:
        return "an object file or library without an entry"
    return ""
