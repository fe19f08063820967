"""What the end-to-end tests of the sandbox share: work folders, a short `run`, and what is left alive."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder import sandbox
from tests import uids

UID = uids.SANDBOX if os.geteuid() == 0 else os.geteuid()
MIB = 1024 * 1024
PYTHON = "/usr/bin/python3"
PATIENCE_S = 300.0


@dataclass
class Ran:
    """A result and its lines by stream."""

    result: sandbox.Result
    lines: list[tuple[str, bytes]] = field(default_factory=list)

    def text(self, stream: str = "STDOUT") -> str:
        return "\n".join(line.decode("utf-8", "replace") for name, line in self.lines if name == stream)


@contextmanager
def work_folder(uid: int = UID) -> Iterator[Path]:
    """An empty work folder of the build user, on memory, in a parent that he may enter but not list."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="ignite-test-", dir=base) as top:
        os.chmod(top, 0o711)
        work = Path(top) / "work"
        work.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(work, uid, uid)
        yield work


def limits(**changes: float) -> sandbox.Limits:
    values: dict[str, float] = {"memory": 512 * MIB, "cpus": 2, "pids": 64, "disk": 64 * MIB, "wall_ms": 60_000}
    values |= changes
    return sandbox.Limits(
        memory=int(values["memory"]),
        cpus=values["cpus"],
        pids=int(values["pids"]),
        disk=int(values["disk"]),
        wall_ms=int(values["wall_ms"]),
    )


def run(
    work: Path,
    *argv: str,
    env: Mapping[str, str] | None = None,
    root: sandbox.Root | None = None,
    egress: sandbox.Egress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    cancel_at: str | None = None,
    use_cgroups: bool = True,
    grace_ms: int = 10_000,
    caches: Mapping[str, Path] | None = None,
    stores: Mapping[str, Path] | None = None,
    folders: tuple[str, ...] = (),
    **limit_changes: float,
) -> Ran:
    """`cancel_at`: a line of the command; once it has come, the run is cancelled."""
    lines: list[tuple[str, bytes]] = []
    result = sandbox.run(
        sandbox.Command(argv=argv, work=work, env=env or {}, folders=folders, caches=caches or {}, stores=stores or {}),
        root or sandbox.host_root(),
        limits(**limit_changes),
        uid=UID,
        gid=UID,
        egress=egress,
        on_line=lambda stream, line: lines.append((stream.value, line)),
        cancelled=lambda: cancelled() or (cancel_at is not None and ("STDOUT", cancel_at.encode()) in lines),
        use_cgroups=use_cgroups,
        grace_ms=grace_ms,
    )
    return Ran(result, lines)


def alive(marker: str) -> list[int]:
    """Processes of this host, zombies apart, whose command line holds `marker`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if marker.encode() in Path("/proc", name, "cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def all_reaped() -> bool:
    """Whether no process of the build user is left, zombies included: each counts for its limit of processes."""
    owners = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                owners.add(os.stat(f"/proc/{name}").st_uid)
    return os.geteuid() != 0 or UID not in owners


def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
