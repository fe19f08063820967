"""Counts the programs that start on this machine, told by the kernel's process connector (connector.rst): root only."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

NETLINK_CONNECTOR = 11
CN_IDX_PROC = 1
LISTEN = 1
EXEC = 2
BUFFER = 8 * 1024 * 1024


@dataclass
class Execs:
    """Every execve on the machine while this is open, by the real uid; -1 where the process was gone too soon."""

    uids: list[int] = field(default_factory=list)
    lost: bool = False
    """Whether the kernel dropped events: then a count of 0 proves nothing."""

    def of(self, users: range) -> int:
        """How many programs these users started."""
        return sum(uid in users for uid in self.uids)

    @property
    def unknown(self) -> int:
        """How many were gone before they could be looked at."""
        return self.uids.count(-1)


@contextmanager
def counted() -> Iterator[Execs]:
    """Count while the block runs."""
    found = Execs()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as events:
        events.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
        events.bind((0, CN_IDX_PROC))
        # nlmsghdr, cn_msg (idx, val, seq, ack, len, flags), the operation
        head = struct.pack("=IHHII", 40, 3, 0, 0, 0)
        events.send(head + struct.pack("=IIIIHHI", CN_IDX_PROC, 1, 0, 0, 4, 0, LISTEN))
        events.settimeout(0.2)
        stop = threading.Event()
        reader = threading.Thread(target=_read, args=(events, stop, found), daemon=True)
        reader.start()
        try:
            yield found
        finally:
            stop.set()
            reader.join()


def _read(events: socket.socket, stop: threading.Event, found: Execs) -> None:
    """Until told to stop and nothing is left."""
    while True:
        try:
            data = events.recv(4096)
        except TimeoutError:
            if stop.is_set():
                return
            continue
        except OSError:  # ENOBUFS: there were more than the buffer holds
            found.lost = True
            continue
        what, pid = struct.unpack_from("=I", data, 36)[0], struct.unpack_from("=I", data, 52)[0]
        if what == EXEC:
            uid = -1
            with suppress(OSError):
                uid = os.stat(f"/proc/{pid}").st_uid
            found.uids.append(uid)
