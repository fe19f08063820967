"""A cache that a step of the source's code may write: nothing of it reaches what other builds read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import sandbox
from builder.errors import PlatformError
from builder.sandbox import overlay
from tests.sandbox_fixtures import MIB, PYTHON, UID, limits, work_folder

pytestmark = pytest.mark.e2e

POISON = """
import mmap, os
os.chdir("/cache/c")
seen = open("wheel/idna.py").read() if os.path.exists("wheel/idna.py") else ""
print("seen", seen)
tries = [
    lambda: print("evil", end="", file=open("wheel/idna.py", "a")),
    lambda: mmap.mmap(os.open("wheel/mapped", os.O_RDWR), 4).write(b"evil"),
    lambda: os.truncate("wheel/cut", 1),
    lambda: os.unlink("wheel/gone"),
    lambda: os.rename("wheel/moved", "moved"),
    lambda: os.rename("wheel", "evil"),
    lambda: os.chmod("mode", 0o777),
    lambda: os.utime("mode", (1, 1)),
    lambda: os.link("mode", "twin"),
    lambda: os.setxattr("mode", "user.evil", b"x"),
    lambda: os.symlink("/etc/passwd", "link"),
    lambda: open("link-out", "w").write("evil"),
    lambda: os.mkdir("new"),
]
for number, one in enumerate(tries):
    try:
        one()
    except OSError as error:
        print(number, error)
for name in ("wheel/idna.py", "evil/idna.py"):
    if os.path.exists(name):
        print("back", open(name).read())
print(sorted(os.listdir(".")))
for place in ("/cache/c/../../work", "/proc/self/root/cache/c", "/proc/1/root/cache/c"):
    try:
        print(sorted(os.listdir(place)))
    except OSError as error:
        print(error.strerror)
print([line.split()[4] for line in open("/proc/self/mountinfo") if "/cache/" in line])
"""


@pytest.fixture
def work() -> Iterator[Path]:
    with work_folder() as folder:
        yield folder


@pytest.fixture
def lower(work: Path) -> Path:
    """A cache as other builds of the organization left it, which this build's user could write."""
    folder = work.parent / f"{work.name}-cache"
    (folder / "wheel").mkdir(parents=True)
    for name in ("wheel/idna.py", "wheel/mapped", "wheel/cut", "wheel/gone", "wheel/moved", "mode"):
        (folder / name).write_text(f"good {name}")
    (folder / "link-out").symlink_to("wheel/idna.py")
    for above, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = Path(above, name)
            if os.geteuid() == 0:
                os.chown(path, UID, UID, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o775 if path.is_dir() else 0o664)
    return folder


def state(folder: Path) -> list[tuple[str, int, int, int, str]]:
    """All of a tree but the times of access."""
    found = []
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        digest = hashlib.sha256(data.encode()).hexdigest()
        found.append((str(path.relative_to(folder)), info.st_mode, info.st_nlink, info.st_mtime_ns, digest))
    return found


def ran(work: Path, over: sandbox.Overlay, script: str, **wanted: int) -> tuple[sandbox.Result, str]:
    lines: list[bytes] = []
    result = sandbox.run(
        sandbox.Command(argv=(PYTHON, "-c", script), work=work, overlays={"c": over}),
        sandbox.host_root(),
        limits(**wanted),
        uid=UID,
        gid=UID,
        egress=None,
        on_line=lambda _, line: lines.append(line),
        cancelled=lambda: False,
    )
    return result, b"\n".join(lines).decode()


def made(work: Path, lower: Path, name: str) -> sandbox.Overlay:
    user = (UID, UID) if os.geteuid() == 0 else None
    return sandbox.make_overlay(lower, work.parent / f"{work.name}-{name}", user)


def test_nothing_that_a_step_writes_reaches_the_cache(work: Path, lower: Path) -> None:
    before = state(lower)
    first = made(work, lower, "first")
    mounted = sandbox.lacks_overlay(str(work.parent)) == ""
    result, output = ran(work, first, POISON)
    assert result.exit_code == 0, output
    assert ("seen good wheel/idna.py" in output) == mounted, output
    if mounted:
        assert "'moved'" in output and "'twin'" in output and "'new'" in output, "it may do to its own what it wants"
        assert "back evil" in output, "and sees it"
    assert state(lower) == before
    assert not any(first.merged.iterdir()), "the mount ends with the step's namespace"
    second, output = ran(work, made(work, lower, "second"), POISON)
    assert second.exit_code == 0 and ("seen good wheel/idna.py" in output) == mounted, "another build sees what was"
    assert state(lower) == before
    for name in ("first", "second"):
        sandbox.remove_tree(work.parent / f"{work.name}-{name}")
        assert not (work.parent / f"{work.name}-{name}").exists()
    sandbox.remove_tree(lower)


def test_where_no_overlay_can_be_mounted_the_step_gets_an_empty_folder(
    work: Path, lower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_known", {os.stat(work.parent).st_dev: "this file system carries none"})
    before = state(lower)
    over = made(work, lower, "over")
    result, output = ran(work, over, "import os; print(os.listdir('/cache/c')); open('/cache/c/x', 'w').write('x')")
    assert (result.exit_code, output) == (0, "[]")
    assert (over.upper / "x").read_text() == "x" and state(lower) == before
    sandbox.remove_tree(over.folder)
    sandbox.remove_tree(lower)


@pytest.mark.parametrize("ending", ["", "os.unlink('/cache/c/x')"], ids=["files", "files without a name"])
def test_what_is_written_counts_for_the_disk_limit(work: Path, lower: Path, ending: str) -> None:
    over = made(work, lower, "over")
    script = f"""
import os, time
opened = []
for number in range(16):
    opened.append(open("/cache/c/x", "wb", buffering=0))
    opened[-1].write(bytes(4 << 20))
    {ending or "os.rename('/cache/c/x', f'/cache/c/{number}')"}
time.sleep(60)
"""
    result, _ = ran(work, over, script, disk=16 * MIB)
    assert result.reason == "DiskQuotaExceeded"
    sandbox.remove_tree(over.folder)
    sandbox.remove_tree(lower)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts overlays")
def test_an_overlay_that_cannot_be_mounted_names_what_the_kernel_refused(work: Path, lower: Path) -> None:
    over = made(work, lower, "over")
    (over.folder / "work").rmdir()
    if sandbox.lacks_overlay(str(work.parent)):
        pytest.skip("no overlay can be mounted here")
    with pytest.raises(PlatformError, match=r"sandbox cannot be made.*overlay"):
        ran(work, over, "print(1)")
    sandbox.remove_tree(over.folder)
    sandbox.remove_tree(lower)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts overlays")
def test_what_only_a_moment_refused_is_tried_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[int, str] = {}
    monkeypatch.setattr(overlay, "_known", known)
    monkeypatch.setattr(overlay, "TRIAL_S", -1.0)
    assert "it takes longer" in overlay.lacks(str(work.parent))
    assert not known
