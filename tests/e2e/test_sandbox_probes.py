"""Some eighty ways out, tried from inside: none may get anything, and the host's listeners must hear nothing."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sandbox_fixtures import PYTHON, UID, run, work_folder

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent.parent / "probes" / "contained.py"
NAMES = re.findall(r"^@probe\ndef (\w+)", SCRIPT.read_text(), re.M)
# Without a sandbox these must get something, else the probe itself is broken.
CONTROLS = (
    "tcp_to_host_loopback",
    "udp_to_host_loopback",
    "tcp_to_host_address",
    "abstract_unix_socket_of_the_host",
    "unix_socket_file_of_the_host",
    "other_interfaces",
    "public_address",
    "see_a_host_process",
    "ptrace_own_child",
    "add_a_key",
    "join_a_session_keyring",
    "user_namespace",
    "user_namespace_by_clone",
    "user_namespace_by_clone3",
    "vsock_to_the_hypervisor",
    "io_uring",
    "real_users",
    "host_configuration",
    "system_state",
    "control_groups",
    "secrets_in_the_environment",
    "terminal_injection_on_an_own_terminal",
    "gain_by_setuid_program",
    "work_of_another_build",
    "link_out_of_the_work_folder",
)


class Host:
    """The host's side: listeners of every kind, a secret, another build's file, a process that must stay unseen."""

    def __init__(self, stack: ExitStack) -> None:
        self.secret = secrets.token_hex(16)
        self.marker = f"ignite-probe-marker-{secrets.token_hex(4)}"
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ignite-host-", dir="/tmp")))
        top.chmod(0o755)
        other = top / "other-build.txt"
        other.write_text("another build's secret")
        self.tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.any = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        self.tcp6 = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
        self.tcp6.bind(("::1", 0))
        self.tcp6.listen()
        self.udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.abstract.bind("\0" + self.marker)
        self.abstract.listen()
        self.unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.unix.bind(str(top / "socket"))
        (top / "socket").chmod(0o777)
        self.unix.listen()
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "input()", self.marker], stdin=subprocess.PIPE)
        )
        stack.callback(process.kill)
        self.facts = {
            "tcp_port": self.tcp.getsockname()[1],
            "tcp6_port": self.tcp6.getsockname()[1],
            "any_port": self.any.getsockname()[1],
            "udp_port": self.udp.getsockname()[1],
            "host_address": own_address(),
            "name_server": "192.0.2.53",
            "abstract": self.marker,
            "unix_path": str(top / "socket"),
            "pid": process.pid,
            "marker": self.marker,
            "secret": self.secret,
            "other_file": str(other),
            "given": ["PATH", "PWD", "LC_CTYPE", "GIVEN"],
        }

    def heard(self) -> list[str]:
        """Listeners that something came to."""
        found = []
        for name in ("tcp", "any", "tcp6", "udp", "abstract", "unix"):
            listener = getattr(self, name)
            listener.setblocking(False)
            try:
                listener.recvfrom(10) if name == "udp" else listener.accept()[0].close()
                found.append(name)
            except BlockingIOError:
                pass
        return found


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(one.getsockname()[0])


def placed(host: Host, work: Path, script: str) -> None:
    (work / "contained.py").write_text(script)
    (work / "facts.json").write_text(json.dumps(host.facts | {"work": str(work)}))


def attempt(host: Host, work: Path) -> dict[str, str]:
    placed(host, work, SCRIPT.read_text())
    ran = run(work, PYTHON, "-I", "/work/contained.py", "/work/facts.json", env={"GIVEN": "1"})
    assert ran.result.exit_code == 0, ran
    return answers(ran.text().splitlines())


def answers(lines: list[str]) -> dict[str, str]:
    return {found["probe"]: found["got"] for found in map(json.loads, lines)}


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[dict[str, str], list[str]]]:
    with ExitStack() as stack:
        host = Host(stack)
        os.environ["IGNITE_TEST_SECRET"] = host.secret
        stack.callback(os.environ.pop, "IGNITE_TEST_SECRET")
        got = attempt(host, stack.enter_context(work_folder()))
        yield got, host.heard()


@pytest.mark.parametrize("name", NAMES)
def test_probe_gets_nothing(name: str, inside: tuple[dict[str, str], list[str]]) -> None:
    assert inside[0][name] == ""


def test_no_listener_of_the_host_heard_anything(inside: tuple[dict[str, str], list[str]]) -> None:
    assert inside[1] == []


@pytest.fixture(scope="module")
def outside() -> Iterator[dict[str, str]]:
    """The same probes with no sandbox around them, as the same user."""
    with ExitStack() as stack:
        host = Host(stack)
        work = stack.enter_context(work_folder())
        placed(host, work, SCRIPT.read_text().replace("/work/", f"{work}/"))
        process = stack.enter_context(
            subprocess.Popen(
                [PYTHON, "-I", str(work / "contained.py"), str(work / "facts.json")],
                stdout=subprocess.PIPE,
                text=True,
                env={"IGNITE_TEST_SECRET": host.secret},
                user=UID if os.geteuid() == 0 else None,
                group=UID if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
            )
        )
        stack.callback(process.kill)
        host.udp.settimeout(30)
        _, sender = host.udp.recvfrom(10)
        host.udp.sendto(b"heard", sender)
        said, _ = process.communicate(timeout=30)
        yield answers(said.splitlines())


@pytest.mark.parametrize("name", CONTROLS)
def test_probe_can_succeed_without_the_sandbox(name: str, outside: dict[str, str]) -> None:
    assert outside[name] != ""
