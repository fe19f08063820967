"""The guard of the unit tests works: each way out raises."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.unit_fixtures import PROCESS

TRUE = "/bin/true"
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "fork": (),
    "forkpty": (),
    "posix_spawn": (TRUE, ["true"], {}),
    "posix_spawnp": ("true", ["true"], {}),
    "system": ("true",),
    "execv": (TRUE, ["true"]),
    "execve": (TRUE, ["true"], {}),
    "execl": (TRUE, "true"),
    "execle": (TRUE, "true", {}),
    "execlp": ("true", "true"),
    "execlpe": ("true", "true", {}),
    "execvp": ("true", ["true"]),
    "execvpe": ("true", ["true"], {}),
}


def test_sockets_and_processes_are_refused() -> None:
    with socket.socket() as client, pytest.raises(AssertionError, match="tests/e2e"):
        client.connect(("127.0.0.1", 9))
    with socket.socket() as unbound, pytest.raises(AssertionError):
        unbound.bind(("127.0.0.1", 0))
    with pytest.raises(AssertionError):
        subprocess.run(["true"], check=True)


def test_datagrams_and_names_are_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        with pytest.raises(AssertionError):
            one.sendto(b"x", ("127.0.0.1", 9))
        with pytest.raises(AssertionError):
            one.sendmsg([b"x"], [], 0, ("127.0.0.1", 9))
    with pytest.raises(AssertionError):
        socket.getaddrinfo("localhost", 80)


@pytest.mark.parametrize("name", PROCESS)
def test_every_way_to_start_a_process_is_refused(name: str) -> None:
    with pytest.raises(AssertionError):
        getattr(os, name)(*ARGUMENTS[name])
