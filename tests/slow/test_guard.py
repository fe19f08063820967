"""The guard of the unit tests is there for the slow ones, too."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest


def test_sockets_and_processes_are_refused() -> None:
    with socket.socket() as client, pytest.raises(AssertionError, match="tests/e2e"):
        client.connect(("127.0.0.1", 9))
    with pytest.raises(AssertionError):
        subprocess.run(["true"], check=True)
    with pytest.raises(AssertionError):
        os.fork()
