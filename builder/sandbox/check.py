"""Whether this host can run sandboxes: what `doctor` shows."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from builder.errors import BuildError, PlatformError
from builder.sandbox import cgroups, launch, rlimits, seccomp
from builder.sandbox.run import run
from builder.sandbox.shapes import Command, HostCheck, Limits, Mount, Root

MIB = 1024 * 1024
SYSTEM_FOLDERS = ("/usr", "/bin", "/lib", "/lib64")
TRIALS = 3
"""One sandbox in some hundreds fails on a machine under load; that is no reason to refuse all builds."""
NEEDED = (0, 8)
"""The first version of bubblewrap that knows each option used here."""
DELEGATE = "run the worker as a systemd service with Delegate=yes"


def host_root() -> Root:
    """The host's own system folders, read-only: a root for trying things out, no /etc, no home."""
    folders = (Path(name) for name in SYSTEM_FOLDERS)
    return Root(mounts=tuple(Mount(source=folder, dest=str(folder)) for folder in folders if folder.is_dir()))


def check(*, uid: int = 65534, gid: int = 65534) -> tuple[HostCheck, ...]:
    """Look at each need, the last by really running `/bin/true` in a sandbox (about 20 ms). Never raises."""
    return (
        _bubblewrap(),
        _program("prlimit", "prlimit", "util-linux"),
        _user_namespaces(),
        _tasks(uid),
        _groups(),
        _filter(),
        _trial(uid, gid),
    )


def _program(name: str, program: str, package: str) -> HostCheck:
    try:
        return HostCheck(name=name, ok=True, detail=launch.program(program))
    except PlatformError:
        return HostCheck(name=name, ok=False, detail="not installed", next=f"apt-get install -y {package}")


def _bubblewrap() -> HostCheck:
    found = _program("bubblewrap", "bwrap", "bubblewrap")
    if not found.ok:
        return found
    answer = subprocess.run([found.detail, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    version = re.search(r"(\d+)\.(\d+)", answer)
    if version and (int(version[1]), int(version[2])) < NEEDED:
        needed = ".".join(map(str, NEEDED))
        detail = f"{answer.strip()} is too old"
        return HostCheck(
            name="bubblewrap", ok=False, detail=detail, next=f"bubblewrap {needed} or newer: {launch.INSTALL}"
        )
    return found


def _user_namespaces() -> HostCheck:
    for path in ("/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"):
        if Path(path).exists() and Path(path).read_text(encoding="utf-8").strip() == "0":
            setting = path.removeprefix("/proc/sys/").replace("/", ".")
            value = "1" if "clone" in setting else "10000"
            return HostCheck(
                name="user namespaces", ok=False, detail=f"{setting} is 0", next=f"sysctl -w {setting}={value}"
            )
    return HostCheck(name="user namespaces", ok=True, detail="allowed")


def _tasks(uid: int) -> HostCheck:
    try:
        rlimits.require_tasks(uid)
    except BuildError as error:
        return HostCheck(name="processes", ok=False, detail=error.message, next=error.next)
    return HostCheck(name="processes", ok=True, detail="as many as a compiler starts")


def _groups() -> HostCheck:
    hierarchy = cgroups.available()
    if hierarchy is None:
        detail = "not writable: memory and processes are watched from outside, CPU is not limited"
        return HostCheck(name="control groups", ok=False, detail=detail, next=DELEGATE)
    detail = f"v{hierarchy.version}: {', '.join(sorted(hierarchy.parents))}"
    if "cpu" not in hierarchy.parents:
        return HostCheck(name="control groups", ok=False, detail=detail + "; CPU is not limited", next=DELEGATE)
    return HostCheck(name="control groups", ok=True, detail=detail)


def _filter() -> HostCheck:
    machine = os.uname().machine
    if seccomp.supported(machine):
        return HostCheck(name="system-call filter", ok=True, detail=f"{len(seccomp.DENIED)} calls denied")
    detail = f"none for {machine}: the namespaces alone contain a build"
    return HostCheck(name="system-call filter", ok=False, detail=detail, next="prefer x86_64 nodes for strangers' code")


def _trial(uid: int, gid: int) -> HostCheck:
    """Up to three sandboxes; the last one's words count."""
    found = _try_once(uid, gid)
    for _ in range(TRIALS - 1):
        if found.ok:
            break
        found = _try_once(uid, gid)
    return found


def _try_once(uid: int, gid: int) -> HostCheck:
    lines: list[bytes] = []
    limits = Limits(memory=256 * MIB, cpus=1, pids=16, disk=16 * MIB, wall_ms=10_000)
    try:
        with tempfile.TemporaryDirectory(prefix="ignite-check-") as folder:
            if os.geteuid() == 0:
                os.chown(folder, uid, gid)
            result = run(
                Command(argv=("/bin/true",), work=Path(folder)),
                host_root(),
                limits,
                uid=uid,
                gid=gid,
                egress=None,
                on_line=lambda _, line: lines.append(line),
                cancelled=lambda: False,
            )
    except PlatformError as error:
        detail = f"{error.message}, {TRIALS} times in a row"
        return HostCheck(
            name="sandbox", ok=False, detail=detail, next="`dmesg` names what the kernel refused or killed"
        )
    except OSError as error:
        return HostCheck(name="sandbox", ok=False, detail=str(error), next="make the temporary folder writable")
    if result.exit_code:
        detail = b": ".join((b"", *lines)).decode("utf-8", "replace")
        how = f"by signal {result.signal}" if result.signal else f"with exit status {result.exit_code}"
        detail = f"/bin/true ended {how}{detail}, {TRIALS} times in a row"
        return HostCheck(
            name="sandbox", ok=False, detail=detail, next="`dmesg` names what the kernel refused or killed"
        )
    return HostCheck(name="sandbox", ok=True, detail=f"/bin/true ran in {result.duration_ms} ms")
