"""Each build in a file system of its own: real loop devices, mounted by a real worker in its own mount namespace."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from builder import sandbox
from builder.errors import BuildError
from builder.sandbox.disk import used
from tests import uids
from tests.crash_fixtures import PATIENCE_S, TERMINAL, Installation, installation, kill_group, until
from tests.program_fixtures import Program

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")]

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
LIMIT = 256 * MIB
SIZE = sandbox.size_for(LIMIT)
CONTROL = "/dev/loop-control"

FILLS = """\
import os
space = os.statvfs("/work")
print("total", space.f_blocks * space.f_frsize, flush=True)
files = [open(f"/work/out/{number}", "wb", 0) for number in range(8)]
while True:
    for file in files:
        file.write(bytes(1 << 20))
"""
WAITS = """\
import signal
open("/work/out/x", "wb").write(bytes(32 << 20))
print("written", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module", autouse=True)
def loops() -> None:
    """The host lends loop devices; only the kernel's own lack of them is a reason to look at nothing."""
    if not os.path.exists(CONTROL):
        with suppress(OSError):
            os.mknod(CONTROL, stat.S_IFCHR | 0o600, os.makedev(10, 237))
    try:
        sandbox.tried(Path("/var/tmp"), MIB)
    except BuildError as error:
        if "/dev/loop" in error.message:
            pytest.skip(error.message)
        raise


def fenced(parts: Installation) -> Installation:
    parts.environ |= {
        "IGNITE_BUILDER_DISK_FENCE": "loop", "IGNITE_BUILDER_DISK_BYTES": str(LIMIT), "IGNITE_BUILDER_SLOTS": "1",
    }  # fmt: skip
    return parts


def devices(folder: Path) -> list[str]:
    """The loop devices over files below a folder."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if f"{folder}/" in (path := backing.read_text()):
                found.append(path.strip())
    return found


def mounts(folder: Path) -> list[str]:
    """What this process, which stands for the host, sees mounted below a folder."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return [line for line in lines if f"{folder}/" in line]


def ended(parts: Installation, build_id: str, meanwhile: list[int] | None = None) -> dict[str, object]:
    """The record of a build that has ended; what the node's work folders took of the host's disk meanwhile."""

    def is_over() -> bool:
        if meanwhile is not None:
            meanwhile.append(used((parts.node_dir / "work",)))
        return parts.get(build_id)["status"] in TERMINAL

    until(is_over, PATIENCE_S, lambda: f"{parts.get(build_id)}\n{parts.said('worker')[-3000:]}")
    return parts.get(build_id)


def test_no_build_takes_more_of_the_host_than_its_file_system_however_fast_it_writes(kept: Path) -> None:
    with installation(kept) as base:
        parts, taken = fenced(base), list[int]()
        parts.start_worker()
        build_id = parts.submit_script(FILLS)
        record = ended(parts, build_id, taken)
        failure = record["failure"]
        assert isinstance(failure, dict), record
        assert (failure["reason"], failure["errorClass"]) == ("DiskQuotaExceeded", "user_code"), failure
        assert int(failure["limit"]) == LIMIT and record.get("retries", 0) == 0
        lines = "\n".join(line for _, line in parts.log(build_id)[0])
        total = re.search(r"^total (\d+)$", lines, re.MULTILINE)
        assert total and LIMIT <= int(total[1]) <= SIZE, lines
        assert max(taken) <= SIZE + MIB
        parts.submit_scripts(1)
        assert ended(parts, parts.accepted[-1])["status"] == "BUILD_STATUS_SUCCEEDED"
        assert not mounts(parts.folder)


def test_whoever_is_killed_leaves_no_mount_no_device_and_no_file(kept: Path) -> None:
    """First the process that builds, while its worker lives on; then the whole worker."""
    with installation(kept, crash_worker_at="in-step") as base:
        parts = fenced(base)

        def settled() -> bool:
            return not devices(parts.folder) and not parts.work_left()

        def left() -> str:
            return f"{devices(parts.folder)} {parts.work_left()}\n{parts.said('worker')[-3000:]}"

        parts.start_worker()
        parts.submit_scripts(1)
        record = ended(parts, parts.accepted[-1])
        assert (parts.node_dir / "crashed-in-step").exists(), "the fault never fired"
        assert (record["status"], record["attempt"]) == ("BUILD_STATUS_SUCCEEDED", 2)
        until(settled, PATIENCE_S, left)

        build_id = parts.submit_script(WAITS)
        until(lambda: parts.get(build_id)["status"] == "BUILD_STATUS_RUNNING", PATIENCE_S, left)
        disk = parts.node_dir / "work" / f"{build_id}-1.disk"
        until(lambda: disk.is_file() and devices(parts.folder) == [str(disk)], PATIENCE_S, left)
        until(parts.build_processes, PATIENCE_S, left)
        assert disk.stat().st_blocks * 512 <= SIZE + MIB
        assert not mounts(parts.folder)
        assert parts.worker is not None
        kill_group(parts.worker)
        until(lambda: not devices(parts.folder), PATIENCE_S, left)
        assert not mounts(parts.folder)
        assert parts.client.post(f"/v1/ignite/builds/{build_id}/cancel", json={}).status_code == 200
        parts.start_worker()
        until(settled, PATIENCE_S, left)
        parts.submit_scripts(1)
        assert ended(parts, parts.accepted[-1])["status"] == "BUILD_STATUS_SUCCEEDED"
        assert ended(parts, build_id)["status"] == "BUILD_STATUS_CANCELLED"
        until(settled, PATIENCE_S, left)


@pytest.fixture
def folder(kept: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ignite-builder-fence-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "node").mkdir()
        (folder / "node" / "bases").symlink_to(kept / "bases")
        yield folder


def test_an_example_has_the_same_digest_with_and_without_and_leaves_nothing(folder: Path) -> None:
    source = shutil.copytree(ROOT / "examples/python-hello", folder / "app")
    digests = []
    for fence in ("off", "loop"):
        settings = {
            "node_dir": str(folder / "node"), "build_uid": str(uids.LOCAL), "slots": "1", "disk_bytes": str(LIMIT),
            "disk_fence": fence,
        }  # fmt: skip
        (home := folder / f"home-{fence}").mkdir()
        ran = Program(home, settings).run("build", str(source), "--no-cache")
        assert ran.code == 0, ran.err
        digests.append(ran.out.strip().rpartition("@")[2])
    assert digests[0] == digests[1] and digests[0].startswith("sha256:")
    until(lambda: not devices(folder), PATIENCE_S, lambda: f"{devices(folder)}")
    assert not mounts(folder)
    assert not list((folder / "node").glob("local/*/work/*"))
