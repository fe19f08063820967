"""Ports for servers that are started on this machine."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST, TRIES = 10_240, 200
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A loopback port that nobody listens on now.

    It is below those that the kernel gives to connections (ip(7)): one of them could take it before its server does.
    """
    highest = _first_of_connections() - 1
    for _ in range(TRIES if highest > LOWEST else 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := random.randint(LOWEST, highest)))
            except OSError:
                continue
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_of_connections() -> int:
    try:
        return int(RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
