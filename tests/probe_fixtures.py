"""The host's side of the probes (tests/probes/): what must stay unheard, unread and unseen."""

from __future__ import annotations

import ctypes
import json
import re
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from builder import config
from tests.build_fixtures import Server

SCRIPT = Path(__file__).parent / "probes" / "contained.py"
NAMES = re.findall(r"^@probe\ndef (\w+)", SCRIPT.read_text(), re.M)
# These tell what lies in the root; they get something exactly where the image has it.
OF_THE_IMAGE = frozenset({"homes", "host_configuration", "root_of_process_one", "system_state"})
GIVEN = ["PATH", "PWD", "LC_CTYPE", "HOME", "TMPDIR", "LANG", "TZ", "NO_COLOR", "SOURCE_DATE_EPOCH"]
LIBC = ctypes.CDLL(None, use_errno=True)
IPC_CREAT, IPC_RMID = 0o1000, 0  # sys/ipc.h
ALL_PROTOCOLS = 3  # linux/if_ether.h, ETH_P_ALL


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
        key = secrets.randbelow(1 << 30) + 1
        segment = LIBC.shmget(key, 4096, IPC_CREAT | 0o666)
        assert segment >= 0
        stack.callback(LIBC.shmctl, segment, IPC_RMID, None)
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
            "variables": ["IGNITE_TEST_SECRET"],
            "services": dict.fromkeys(("redis", "api", "registry"), self.tcp.getsockname()[1]),
            "namespaces": own_namespaces(),
            "shared_memory": key,
            "other_file": str(other),
            "given": ["PATH", "PWD", "LC_CTYPE", "GIVEN"],
        }

    def ports(self) -> frozenset[tuple[int, int]]:
        """(protocol, port) of the TCP and UDP listeners."""
        tcp = {(socket.IPPROTO_TCP, int(one.getsockname()[1])) for one in (self.tcp, self.any, self.tcp6)}
        return frozenset({*tcp, (socket.IPPROTO_UDP, int(self.udp.getsockname()[1]))})

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


def services(server: Server) -> dict[str, int]:
    """The ports of what a build must not reach; the host reaches each of them."""
    settings = server.embedded.control.settings
    urls = {"redis": settings.redis_url, "api": server.embedded.url, "registry": f"http://{settings.registry}"}
    ports = {name: urlsplit(url).port or 0 for name, url in urls.items()}
    for port in ports.values():
        socket.create_connection(("127.0.0.1", port), timeout=120).close()
    return ports


def settings_of_the_worker(server: Server) -> list[str]:
    """Names of the variables that a worker is started with; one leads to all of its settings."""
    assert server.embedded.worker is not None
    pairs = Path(f"/proc/{server.embedded.worker.pid}/environ").read_text(encoding="utf-8").split("\0")
    names = [name for name in (pair.partition("=")[0] for pair in pairs) if name.startswith(config.PREFIX)]
    assert names == [f"{config.PREFIX}SETTINGS"], names
    return names


def own_namespaces() -> dict[str, str]:
    """What the kernel calls those of this process, by kind; a sandbox shares none of them."""
    kinds = ("user", "pid", "ipc", "uts", "net", "mnt", "cgroup")
    links = {kind: Path("/proc/self/ns", kind) for kind in kinds}
    return {kind: str(link.readlink()) for kind, link in links.items() if link.is_symlink()}


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(one.getsockname()[0])


def answers(lines: list[str]) -> dict[str, str]:
    return {found["probe"]: found["got"] for found in map(json.loads, lines)}


class PacketCount:
    """Counts IP packets on any interface of this host to one of these ports, whether or not somebody listens there.

    Of the port's own protocol alone: any client on this host may have the same number in the other one.
    """

    def __init__(self, ports: frozenset[tuple[int, int]]) -> None:
        self._ports = ports
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.settimeout(0.2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self.packets = 0
        self._thread.start()

    def _count(self) -> None:
        while not self._stopped.is_set():
            try:
                self.packets += destination_of(self._socket.recv(128)) in self._ports
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()


def destination_of(packet: bytes) -> tuple[int, int]:
    """(protocol, port) of a TCP or UDP packet (RFC 791, 8200 without extension headers); else (-1, -1)."""
    version = packet[0] >> 4 if packet else 0
    start, protocol = ((packet[0] & 15) * 4, packet[9:10]) if version == 4 else (40, packet[6:7])
    if version not in (4, 6) or protocol not in (b"\x06", b"\x11") or len(packet) < start + 4:
        return -1, -1
    return protocol[0], int(struct.unpack_from("!H", packet, start + 2)[0])
