"""The probes of tests/probes/ inside a build of the service: what they say in its log is what state a build can reach.

In a sandbox alone the same probes run against a host's root folders (test_sandbox_probes.py); here the root is the
image that the build's runtime names, so what shows of a root is compared with that image.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.store import images_of
from tests.build_fixtures import Server, tar_of, until
from tests.probe_fixtures import (
    GIVEN,
    NAMES,
    OF_THE_IMAGE,
    SCRIPT,
    Host,
    PacketCount,
    answers,
    services,
    settings_of_the_worker,
)

pytestmark = pytest.mark.e2e

FOLDERS = ("/", "/root", "/home", "/etc", "/var", "/run", "/boot", "/mnt", "/srv")
OURS = {
    "/": {"dev", "proc", "tmp", "work", "cache", "etc"},
    "/etc": {"passwd", "group", "hosts", "resolv.conf"},
}
ELSEWHERE = "198.51.100.2"  # RFC 5737: nobody's
BUILD = f"""
import json, os, runpy, socket, sys
def told(kind):
    with socket.socket(socket.AF_INET, kind) as one:
        one.settimeout(0.5)
        try:
            one.connect(({ELSEWHERE!r}, 9))
            one.send(b"x")
        except OSError as error:
            return error.errno
        return 0
elsewhere = [told(socket.SOCK_STREAM), told(socket.SOCK_DGRAM)]
folders = {{path: sorted(os.listdir(path)) for path in {FOLDERS!r} if os.path.isdir(path)}}
said = {{"folders": folders, "elsewhere": elsewhere, "uid": os.getuid(), "environment": dict(os.environ)}}
print(json.dumps(said), flush=True)
os.makedirs("/work/out", exist_ok=True)
sys.argv = ["contained.py", "facts.json"]
runpy.run_path("contained.py", run_name="__main__")
open("/work/out/server.py", "w").close()
"""


@dataclass(frozen=True)
class Probed:
    """What came of the probes: their answers, the build's own words, what the host's listeners heard."""

    got: dict[str, str]
    folders: dict[str, list[str]]
    environment: dict[str, str]
    uid: int
    heard: list[str]
    packets: int
    counted_own: int
    elsewhere: list[int]
    arrived: int
    arrived_own: int


class Elsewhere:
    """A network namespace beside the host's, one cable between them: what arrives there is counted by its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._process = stack.enter_context(subprocess.Popen(["/usr/bin/unshare", "-n", "/bin/sleep", "3600"]))
        stack.callback(self._process.kill)
        pid, here = self._process.pid, f"ig{os.getpid() % 1_000_000}"
        assert until(lambda: os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        ip = ("/usr/bin/ip",)
        there = ("/usr/bin/nsenter", "-n", "-t", str(pid), *ip)
        self._run(*ip, "link", "add", here, "type", "veth", "peer", "name", "peer", "netns", str(pid))
        for side, device, address in ((ip, here, "198.51.100.1/30"), (there, "peer", f"{ELSEWHERE}/30")):
            self._run(*side, "link", "set", device, "addrgenmode", "none")
            self._run(*side, "address", "add", address, "dev", device)
            self._run(*side, "link", "set", device, "up")

    @staticmethod
    def _run(*argv: str) -> None:
        subprocess.run(argv, check=True)

    def arrived(self) -> int:
        """Packets that came over the cable."""
        lines = Path(f"/proc/{self._process.pid}/net/dev").read_text(encoding="utf-8").splitlines()
        return next(int(line.split(":")[1].split()[1]) for line in lines if line.strip().startswith("peer:"))


@pytest.fixture(scope="module")
def beside() -> Iterator[Elsewhere | None]:
    """None where namespaces cannot be wired: no root, or no iproute2."""
    if os.geteuid() != 0 or not Path("/usr/bin/ip").exists():
        yield None
        return
    with ExitStack() as stack:
        yield Elsewhere(stack)


@pytest.fixture(scope="module")
def probed(scripts: Server, beside: Elsewhere | None) -> Iterator[Probed]:
    with ExitStack() as stack:
        host = Host(stack)
        node = Path(scripts.embedded.settings.node_dir)
        other = node / "work" / "another"  # no name of a claim: the node would remove it
        other.mkdir(parents=True)
        stack.callback(other.rmdir)
        (other / "secret").write_text(host.secret)
        stack.callback((other / "secret").unlink)
        own = {"services": services(scripts), "variables": settings_of_the_worker(scripts)}
        facts = host.facts | own | {"work": f"{node}/", "given": GIVEN, "other_file": str(other / "secret")}
        source = tar_of({"build.py": BUILD, "contained.py": SCRIPT.read_text(), "facts.json": json.dumps(facts)})
        count = PacketCount(host.ports())
        before = beside.arrived() if beside else 0
        try:
            done = scripts.wait(scripts.submit("probes", source, no_cache=True))
            heard, packets = host.heard(), count.packets
            arrived = beside.arrived() - before if beside else 0
            host_sends_one("127.0.0.1", host.facts["udp_port"])
            if beside:
                host_sends_one(ELSEWHERE, 9)
            assert until(lambda: count.packets > packets), "the count itself must count"
        finally:
            count.stop()
        assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
        lines = [entry.line for entry in scripts.log(done.build_id).entries if entry.line.startswith("{")]
        first = json.loads(lines[0])
        yield Probed(
            got=answers(lines[1:]),
            folders=first["folders"],
            environment=first["environment"],
            uid=first["uid"],
            heard=heard,
            packets=packets,
            counted_own=count.packets - packets,
            elsewhere=first["elsewhere"],
            arrived=arrived,
            arrived_own=beside.arrived() - before - arrived if beside else 0,
        )
    scripts.assert_nothing_left()


def host_sends_one(address: str, port: int) -> None:
    """The control: a packet of the host's own must be counted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (address, port))


@pytest.mark.parametrize("name", sorted(set(NAMES) - OF_THE_IMAGE))
def test_a_build_step_gets_nothing(name: str, probed: Probed) -> None:
    assert probed.got[name] == ""


def test_every_probe_ran(probed: Probed) -> None:
    assert set(probed.got) == set(NAMES)


def test_no_listener_heard_and_no_packet_came(probed: Probed) -> None:
    assert probed.heard == []
    assert probed.packets == 0
    assert probed.counted_own >= 1, "the count itself must count"


def test_no_packet_came_to_another_network(probed: Probed, beside: Elsewhere | None) -> None:
    assert probed.elsewhere == [errno.ENETUNREACH] * 2
    if beside is None:
        pytest.skip("no root or no iproute2: nothing beside the host to count at")
    assert probed.arrived == 0
    assert probed.arrived_own >= 1, "the count itself must count"


def test_the_root_shows_the_image_and_nothing_of_the_host(probed: Probed, scripts: Server) -> None:
    images = images_of(scripts.embedded.settings.node_dir)
    base = images.get("python-3.11")
    assert base is not None
    rootfs = images.rootfs(base.digest)
    for path, names in probed.folders.items():
        image = rootfs / path.lstrip("/")
        shown = set(os.listdir(image)) if image.is_dir() else set()
        assert set(names) <= shown | OURS.get(path, set()), path


def test_the_environment_is_the_steps_own_and_the_user_is_not_root(probed: Probed, scripts: Server) -> None:
    assert set(probed.environment) <= set(GIVEN)
    assert "IGNITE" not in json.dumps(probed.environment)
    settings = scripts.embedded.settings
    if os.geteuid() == 0:
        assert settings.build_uid <= probed.uid < settings.build_uid + settings.slots
