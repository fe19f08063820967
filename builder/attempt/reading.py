"""The reader of one build's hostile text: a confined process that unpacks, detects, plans and diagnoses.

`serve` is the process that forks readers. It is forked itself before its owner has threads or connections, reads no
hostile byte, and holds no lock that another thread could have had at that moment; so no reader ever waits for one.
A reader answers JSON with JSON until its owner closes the channel or ends it.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import sysconfig
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from builder import pipelines
from builder.attempt.desk import Desk, answer
from builder.attempt.plain import from_plain, prepare
from builder.attempt.rehearsal import rehearse
from builder.errors import BuildError
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Plan, Step
from builder.sandbox import seccomp
from builder.sandbox.confine import confine, die_with, rename
from builder.sandbox.remove import remove_tree

HEADER = struct.Struct(">Q")
NOTE_BYTES = 1024
ASK_BYTES = 4096
QUICK_S = 0.1
"""Processor time after which a reader stands back: an honest small source takes a part of it."""
AGAIN_S = 0.05
"""Processor time between two tries to stand back, where the kernel was asked too often."""
NICE = 10
REHEARSE_AFTER_S = 0.3
"""How long a reader waits for a build first. By then a small build is over: beside its push a rehearsal costs what it
saves the next one."""
CODECS = ("ascii", "cp437", "latin-1", "utf-8-sig", "utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le")
"""Python loads a codec as it loads a module, with its first use."""


@dataclass(frozen=True, kw_only=True)
class ReaderStart:
    """What a reader is forked for; descriptors come with it: channel, work folder, note, and the source where any."""

    who: tuple[int, int] | None
    memory: int


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one answer may cost: processor time in seconds, bytes of a file it writes."""

    cpu_s: float
    file: int


def serve(
    control: socket.socket,
    known: tuple[Pipeline, ...],
    catalog: Catalog,
    owner: int,
    *,
    images: bool,
    rehearsals: Path | None = None,
) -> NoReturn:
    """Fork a reader for each request, until the owner closes `control` or is gone. Answers its pidfd, then its end.

    The next reader is forked ahead and waits, so that a request does not wait for the fork. `images`: readers are
    asked about image mode, too. `rehearsals`: the folder that a reader makes for its rehearsal, and removes.
    """
    try:
        _cut_off(control)
        rename("ignite-readers")
        with contextlib.suppress(
            BuildError
        ):  # of an operator's own: a reader that needs it tries again, and reports it
            load_all(known, images=images)  # while its owner goes on
        sys.dont_write_bytecode = True  # a reader's limits end a write in the middle, and Python keeps what it wrote
        seccomp.program_of_a_reader()
        gc.freeze()  # a collection in a reader would copy every page of what it inherits
        if not die_with(owner, signal.SIGKILL):
            _gone(0)
        fork_next = partial(_fork_next, control, known, catalog, rehearsals)
        next_one = fork_next()
        while True:
            data, received, _, _ = socket.recv_fds(control, ASK_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
            if not data:
                _gone(0)
            while not _hand_over(next_one, data, received):
                next_one = fork_next()
            for descriptor in received:
                os.close(descriptor)
            handle = os.pidfd_open(next_one.pid)
            socket.send_fds(control, [b"started"], [handle])
            os.close(handle)
            _, status = os.waitpid(next_one.pid, 0)
            control.send(b"%d" % status)
            next_one = fork_next()
    except BaseException:
        _gone(1)


def load_all(known: tuple[Pipeline, ...], *, images: bool) -> None:
    """Load what answers a reader's questions, with `images` those about image mode, too.

    A reader is confined before its first question. What it loads itself, each one loads anew, as a user who may not be
    allowed to read the installation. An owner of readers does without most of it.

    Raises `BuildError` InvalidRequest for an operator's own pipeline that cannot be loaded, once all else is.
    """
    prepare(Bounds, PlanRequest, Detection, Plan, Step)
    _load_libraries()
    for codec in CODECS:
        codecs.lookup(codec)
    if images:
        _prepare_images()
    pipelines.load_whole(known)


def _load_libraries() -> None:
    """Load what functions import that answer a question, beside modules of ours."""
    from packaging import markers, requirements, specifiers, tags, utils

    assert markers and requirements and specifiers and tags and utils
    sysconfig.get_config_vars()  # of which tags are made: they are a module, too


def _prepare_images() -> None:
    """Load what answers about image mode. An owner that builds no image never loads it."""
    from builder import strategies
    from builder.dockerfile.choose import ImageRequest
    from builder.strategies.base import Choice

    assert strategies
    prepare(ImageRequest, Choice)


@dataclass(frozen=True, kw_only=True)
class _Next:
    """A reader that waits for what it is to read, and where it is sent to."""

    pid: int
    channel: socket.socket


def _fork_next(control: socket.socket, known: tuple[Pipeline, ...], catalog: Catalog, rehearsals: Path | None) -> _Next:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _wait_and_read(control, mine, its, known, catalog, rehearsals, parent)
    its.close()
    return _Next(pid=pid, channel=mine)


def _wait_and_read(
    control: socket.socket,
    parents: socket.socket,
    channel: socket.socket,
    known: tuple[Pipeline, ...],
    catalog: Catalog,
    rehearsals: Path | None,
    parent: int,
) -> NoReturn:
    """Be the next reader. It dies with its parent."""
    try:
        control.close()
        parents.close()
        if not die_with(parent, signal.SIGKILL):
            _gone(0)
        if rehearsals is not None and not select.select([channel], [], [], REHEARSE_AFTER_S)[0]:
            _rehearse(catalog, rehearsals)
        data, received, _, _ = socket.recv_fds(channel, ASK_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        if not data:
            _gone(0)
        channel.close()
        _read(from_plain(ReaderStart, json.loads(data)), received, known, catalog, parent)
    except BaseException:
        _gone(1)


def _rehearse(catalog: Catalog, folder: Path) -> None:
    """With our own pipelines alone: an operator's is run in bounds, which come with a build."""
    with contextlib.suppress(Exception):  # a full disk, above all; it is asked all the same
        remove_tree(folder)  # of one that was killed in the midst
        folder.mkdir(mode=0o700, parents=True)
        try:
            rehearse(pipelines.PIPELINES, catalog, folder)
        finally:
            remove_tree(folder)


def _hand_over(reader: _Next, data: bytes, descriptors: list[int]) -> bool:
    """Whether the reader has the request. One that ended while it waited has not."""
    try:
        socket.send_fds(reader.channel, [data], descriptors)
    except OSError:
        reader.channel.close()  # ends it, should it still wait
        os.waitpid(reader.pid, 0)
        return False
    reader.channel.close()
    return True


def _cut_off(control: socket.socket) -> None:
    """Keep one descriptor of the owner's, and none of its handlers."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # KILL and STOP
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):  # the owner decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    kept = control.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    nothing = os.open(os.devnull, os.O_RDWR)  # now that there is room for it, however many the owner has
    for standard in range(3):
        os.dup2(nothing, standard)
    if nothing > 2:  # an owner may have started without one of the three
        os.close(nothing)


def _read(
    start: ReaderStart, received: list[int], known: tuple[Pipeline, ...], catalog: Catalog, parent: int
) -> NoReturn:
    """Be a reader to the end."""
    channel, work, note, *source = received
    try:
        rename("ignite-reader")
        os.fchdir(work)
        os.close(work)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        _stand_back_after(QUICK_S)
        confine(start.who, start.memory)
        if not die_with(parent, signal.SIGKILL):
            _gone(0)

        def noted(path: str) -> None:
            os.pwrite(note, path.encode("utf-8", "replace")[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0"), 0)

        desk = Desk(known, catalog, noted, source[0] if source else None)
        while (asked := receive(channel)) is not None:
            _bound(from_plain(Bounds, asked["bounds"]))
            send(channel, answer(desk, asked))
    except BaseException:
        _gone(1)
    _gone(0)


def _stand_back_after(seconds: float) -> None:
    """Lower the priority of this process after so much processor time: who costs more waits for who costs less.

    Where the scheduler groups processes by session (sched(7), autogroup), a nice value counts inside a session alone.
    So a reader has a session of its own, and its group stands back with it.
    """
    os.setsid()
    try:
        group = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)  # now: the build user may not
    except OSError:  # a kernel without such groups
        group = -1

    def stand_back(number: int, frame: FrameType | None) -> None:
        try:
            if group >= 0:
                os.write(group, b"%d" % NICE)
        except BlockingIOError:  # one change of any group in a while, for any user but root
            return
        except OSError:
            pass
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.nice(NICE)

    signal.signal(signal.SIGPROF, stand_back)
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_S)


def _bound(bounds: Bounds) -> None:
    """Limits of the next answer alone: the soft ones, whose signals end this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = math.ceil(used.ru_utime + used.ru_stime + bounds.cpu_s)
    for kind, value in ((resource.RLIMIT_CPU, until), (resource.RLIMIT_FSIZE, bounds.file)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def receive(channel: int) -> dict[str, Any] | None:
    """The next message; None at the end of the channel."""
    header = _exactly(channel, HEADER.size)
    if header is None:
        return None
    body = _exactly(channel, HEADER.unpack(header)[0])
    if body is None:
        return None
    message: dict[str, Any] = json.loads(body)
    return message


def _exactly(channel: int, size: int) -> bytes | None:
    parts, left = [], size
    while left:
        part = os.read(channel, min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def framed(body: bytes) -> bytes:
    """A message as it travels."""
    return HEADER.pack(len(body)) + body


def send(channel: int, body: bytes) -> None:
    """One message, whole."""
    data = memoryview(framed(body))
    while data:
        data = data[os.write(channel, data) :]


def _gone(status: int) -> NoReturn:
    os._exit(status)
