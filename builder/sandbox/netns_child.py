"""Run as a script by `netns.py`, alone in its process: make sockets inside another network namespace.

Standard input is a Unix socket. Each byte read asks for one TCP socket, which is sent back as a descriptor. Joining a
user namespace needs a process with one thread (setns(2)), which a worker is not. Imports nothing of ours.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import sys

NS_GET_USERNS = 0xB701
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def enter(fd: int, kind: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(pid: str) -> None:
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    enter(fcntl.ioctl(network, NS_GET_USERNS), CLONE_NEWUSER)
    enter(network, CLONE_NEWNET)
    with socket.socket(fileno=0) as asks:
        while asks.recv(1):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                sent = array.array("i", [made.fileno()])
                asks.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])


if __name__ == "__main__":
    main(sys.argv[1])
