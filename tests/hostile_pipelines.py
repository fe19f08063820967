"""A pipeline whose parser and diagnosis do what a file of the source asks of them; outside of the product.

`attack.txt` names what planning does, `hang.txt` what the diagnosis of the step does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, LayerSource, Output, Plan, Step, Toolchain, WantedFile
from builder.source.tree import Tree

NAME = "hostile"
EXTENSIONS: tuple[str, ...] = ()
BUILD_ARGS: tuple[str, ...] = ()


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    while True:
        time.sleep(3600)


def allocate() -> None:
    kept = []
    while True:
        kept.append(bytearray(16 * 1024 * 1024))


def recurse() -> None:
    recurse()


def write() -> None:
    with open("large", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024 * 1024))


def die() -> None:
    os._exit(3)


def fault() -> None:
    raise ZeroDivisionError("a path of the host")


def answer_much() -> None:
    raise BuildError("ManifestInvalid", "x" * 20 * 1024 * 1024)


def escape() -> None:
    """What a reader may not do: each way that is open shows in the message."""
    ways: dict[str, Callable[[], object]] = {
        "a socket": socket.socket,
        "a process": os.fork,
        "a program": lambda: subprocess.run(["/bin/true"], check=True),
        "a signal to its owner": lambda: os.kill(os.getppid(), signal.SIGCONT),
        "root's files": lambda: os.close(os.open("/etc/shadow", os.O_RDONLY)),
        "root again": lambda: os.setresuid(0, 0, 0) if os.getuid() else 1 / 0,
        "descriptors of its owner": lambda: [os.fstat(number) for number in range(32, 64)],
    }
    found = []
    for name, way in ways.items():
        try:
            way()
        except (OSError, ZeroDivisionError):
            continue
        found.append(name)
    raise BuildError("ManifestInvalid", f"open: {found}, uid {os.getuid()}, groups {os.getgroups()}")


def work_on() -> None:
    """Work until this process stands back, and report its priority and its group's before and after."""
    before = standing()
    until = time.process_time() + 10
    while standing()[0] == before[0] and time.process_time() < until:
        pass
    raise BuildError("ManifestInvalid", f"priority {before}, then {standing()}")


def standing() -> tuple[int, str]:
    """The priority of this process, and that of its scheduling group where the kernel has such groups."""
    try:
        with open("/proc/self/autogroup", encoding="ascii") as file:
            group = (file.read().split() or ["none"])[-1]
    except OSError:
        group = "none"
    return os.getpriority(os.PRIO_PROCESS, 0), group


ATTACKS = {
    one.__name__: one for one in (spin, sleep, allocate, recurse, write, die, fault, answer_much, escape, work_on)
}


def detect(tree: Tree) -> Detection | None:
    """attack.txt is at the root."""
    return Detection(runtime=NAME, because="attack.txt is at the root") if tree.has("attack.txt") else None


def looks_like(source: bytes) -> bool:
    """Nothing does."""
    return False


def single_file_name(source: bytes) -> str:
    """A single file is the attack."""
    return "attack.txt"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Do what the file names, and plan nothing much."""
    ATTACKS.get(tree.read_text("attack.txt").strip(), lambda: None)()
    layer = LayerSource(source="/work/out", dest="/app", created_by="hostile")
    return Plan(
        detection=detection,
        toolchain=Toolchain(runtime=NAME, version="1", target="native", name="hostile-1", base="hostile"),
        choices=(),
        steps=(Step(name="nothing", argv=("true",)),),
        output=Output(layers=(layer,), entrypoint=("/app/app",)),
        materials=("attack.txt",),
    )


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """Do what the last line names."""
    ATTACKS.get(lines[-1] if lines else "", lambda: None)()
    return Diagnosis(reason="CompileFailed", message="diagnosed", said=tuple(lines))


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The first line of the lock, as the digest of what is wanted."""
    if not stubs.has("lock"):
        return None
    digest = stubs.read_text("lock").strip()
    return Fetched(wanted=(WantedFile(cache="hostile", source="lock", path="lock", digest=digest),))
