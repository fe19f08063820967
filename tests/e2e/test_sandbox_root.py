"""An image in a real sandbox: its entries with their modes, none of them writable, whether bubblewrap binds them or
makes them anew; and our own files in its /etc."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import sandbox
from builder.errors import PlatformError
from builder.sandbox.compose import LARGEST_COPY, OUR_FILES, identity_files
from tests.sandbox_fixtures import PYTHON, UID, run, work_folder

pytestmark = pytest.mark.e2e

# What is below each folder that is named, as whoever runs this sees it.
LOOK = """
import json, os, stat, sys
from hashlib import sha256
found = {}
for top in sys.argv[2:]:
    for folder, folders, files in os.walk(sys.argv[1] + top):
        for path in (folder, *(os.path.join(folder, name) for name in folders + files)):
            status = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            if stat.S_ISREG(status.st_mode):
                try:
                    with open(path, "rb") as file:
                        what = sha256(file.read()).hexdigest()
                except PermissionError:
                    what = "closed"
            if stat.S_ISDIR(status.st_mode):
                what = [os.access(path, mode) for mode in (os.R_OK, os.X_OK)]
            found[path[len(sys.argv[1]):]] = [oct(status.st_mode), what]
print(json.dumps(found))
"""
# Each way of changing each entry below a folder; prints those that did not end in an error, and the errors there were.
WRITE = """
import errno, os, sys
errors = set()
def tried(way, path, *more):
    try:
        way(path, *more)
        print("could", way.__name__, path)
    except OSError as error:
        errors.add(errno.errorcode[error.errno])
for top in sys.argv[1:]:
    for folder, folders, files in os.walk(top):
        tried(os.mkdir, os.path.join(folder, "made"))
        tried(os.mkfifo, os.path.join(folder, "pipe of mine"))
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            if not os.path.islink(path):
                tried(os.chmod, path, 0o777)
                tried(os.utime, path)
            if os.path.isfile(path) and not os.path.islink(path):
                tried(os.truncate, path, 0)
                tried(os.open, path, os.O_WRONLY)
            tried(os.rename, path, path + "x")
            tried(os.rmdir if path == folder else os.unlink, path)
print(*sorted(errors))
"""
REFUSED = {"EACCES", "EBUSY", "EPERM", "EROFS"}
LARGE = bytes(range(256)) * (LARGEST_COPY // 256) + b"x"
FOLDERS = ("/etc", "/home", "/run", "/srv", "/var")


@pytest.fixture
def work() -> Iterator[Path]:
    with work_folder() as folder:
        yield folder


@pytest.fixture
def rootfs(work: Path) -> Path:
    """An image without programs: the machine's are mounted. It has no /etc/hosts and no /etc/resolv.conf."""
    made = work.parent / "rootfs"
    for folder in ("etc", "home/nonroot", "run", "srv", "usr", "var/tmp", "var/lib/of/much"):
        (made / folder).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (made / name).symlink_to(f"usr/{name}")
    for file, text in {"passwd": "image:x:1:1::/:/bin/sh\n", "group": "image:x:1:\n", "release": "1"}.items():
        (made / "etc" / file).write_text(text)
    for number in range(20):
        (made / f"var/lib/of/much/{number}").write_text("")
    return made


def root_of(rootfs: Path | None, *mounts: sandbox.Mount) -> sandbox.Root:
    return sandbox.Root(rootfs=rootfs, mounts=(sandbox.Mount(source=Path("/usr"), dest="/usr"), *mounts))


def seen(work: Path, root: sandbox.Root, *folders: str) -> dict[str, list[object]]:
    """What is below these folders inside, but for what is ours."""
    ran = run(work, PYTHON, "-c", LOOK, "", *folders, root=root)
    assert ran.result.exit_code == 0, ran.text("STDERR")
    return {path: what for path, what in json.loads(ran.text()).items() if path not in OUR_FILES}


def there(rootfs: Path, *folders: str) -> dict[str, list[object]]:
    """What the build user sees of the image on this machine."""
    who = {"user": UID, "group": UID, "extra_groups": list[int]()} if os.geteuid() == 0 else {}
    line = [PYTHON, "-c", LOOK, str(rootfs), *folders]
    ran = subprocess.run(line, capture_output=True, check=True, **who)  # type: ignore[call-overload]
    return {path: what for path, what in json.loads(ran.stdout).items() if path not in OUR_FILES}


def state(rootfs: Path) -> list[tuple[object, ...]]:
    """All of an image that a write through a mount would change."""
    paths = sorted(rootfs.rglob("*"))
    return [(path, *path.lstat()[:1], path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths]


def fill(etc: Path) -> None:
    """Entries of every kind and mode."""
    for number, mode in enumerate((0o644, 0o444, 0o755, 0o555, 0o666, 0o640, 0o600, 0o744, 0o4755, 0o000)):
        (etc / f"file{number}").write_text(f"it is {number}")
        (etc / f"file{number}").chmod(mode)
    for number, mode in enumerate((0o755, 0o555, 0o777, 0o1777, 0o2755, 0o700, 0o711)):
        for name in ("empty", "full"):
            (etc / f"{name}{number}").mkdir()
        (etc / f"full{number}/file").write_text(f"{number}")
        (etc / f"full{number}/link").symlink_to("../release")
        for name in ("empty", "full"):
            (etc / f"{name}{number}").chmod(mode)
    (etc / "large").write_bytes(LARGE)
    (etc / "largest").write_bytes(LARGE[:LARGEST_COPY])
    (etc / "nothing").write_bytes(b"")
    (etc / "a name\nwith \udcff in it").write_bytes(b"bytes")
    (etc / "many").mkdir()
    for number in range(20):
        (etc / f"many/{number}").write_text(f"{number}")
    (etc / "deep/er/still").mkdir(parents=True)
    (etc / "deep/er/still/file").write_text("deep")
    for name, target in {
        "out": "/usr/lib/os-release",
        "up": "../run",
        "nowhere": "/oldroot/tmp",
        "itself": "itself",
    }.items():
        (etc / name).symlink_to(target)
    os.mkfifo(etc / "pipe", 0o666)
    os.mkfifo(etc / "deep/pipe", 0o666)
    if os.geteuid() == 0:
        os.mknod(etc / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))


def test_all_of_an_image_shows_as_it_is_and_nothing_of_it_can_be_written(work: Path, rootfs: Path) -> None:
    fill(rootfs / "etc")
    before = state(rootfs)
    root = root_of(rootfs)
    assert seen(work, root, *FOLDERS) == there(rootfs, *FOLDERS)
    ran = run(work, PYTHON, "-c", WRITE, *FOLDERS, root=root)
    assert ran.text("STDERR") == "" and "EROFS" in ran.text().split() and set(ran.text().split()) <= REFUSED
    assert state(rootfs) == before


def test_what_is_small_is_no_mount(work: Path, rootfs: Path) -> None:
    (rootfs / "etc/large").write_bytes(LARGE)
    (rootfs / "etc/folder").mkdir()
    (rootfs / "etc/folder/file").write_text("")
    ran = run(work, "/bin/cat", "/proc/self/mountinfo", root=root_of(rootfs))
    places = [line.split()[4] for line in ran.text().splitlines()]
    found = [place for place in places if place.split("/")[1] not in ("dev", "proc", "usr")]
    assert sorted(found) == ["/", "/etc/large", "/tmp", "/var", "/work"]


def test_a_device_of_an_image_is_none(work: Path, rootfs: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    fill(rootfs / "etc")
    assert "Permission denied" in run(work, "/bin/cat", "/etc/device", root=root_of(rootfs)).text("STDERR")


@pytest.mark.parametrize("etc", ["as it is", "all of ours", "all of ours, and large", "a link", "a file", "absent"])
def test_our_files_are_there_and_nobody_writes_them(work: Path, rootfs: Path, etc: str) -> None:
    if etc.startswith("all of ours"):
        for name in OUR_FILES:
            (rootfs / name.lstrip("/")).write_text("the image's")
    if etc.endswith("large"):
        (rootfs / "etc/large").write_bytes(LARGE)
    if etc in ("a link", "a file", "absent"):
        (rootfs / "etc").rename(rootfs / "srv/etc")
    if etc == "a link":
        (rootfs / "etc").symlink_to("srv/etc")
    if etc == "a file":
        (rootfs / "etc").write_text("")
    before = state(rootfs)
    root = root_of(rootfs)
    for name, data in identity_files(UID, UID).items():
        assert run(work, "/bin/cat", name, root=root).text() == data.decode().removesuffix("\n")
    ran = run(work, PYTHON, "-c", WRITE, "/etc", root=root)
    assert ran.text("STDERR") == "" and "EROFS" in ran.text().split() and set(ran.text().split()) <= REFUSED
    script = "for name in passwd group hosts resolv.conf; do echo x > /etc/$name; rm -f /etc/$name; done"
    ran = run(work, "/bin/sh", "-c", script, root=root)
    assert ran.text("STDERR").count("Read-only file system") + ran.text("STDERR").count("busy") == 8
    assert state(rootfs) == before


def test_without_an_image_our_files_are_all_of_etc(work: Path) -> None:
    ran = run(work, "/bin/sh", "-c", "ls /etc; echo x > /etc/passwd; chmod 777 /etc/passwd; head -n 1 /etc/passwd")
    assert ran.text() == "group\nhosts\npasswd\nresolv.conf\nroot:x:0:0::/:/bin/sh"
    assert ran.text("STDERR").count("Read-only file system") == 2


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("with_image", [False, True])
def test_a_mount_at_etc_shows_and_gets_nothing_of_ours(
    work: Path, rootfs: Path, with_image: bool, writable: bool
) -> None:
    given = work.parent / "given"
    given.mkdir()
    (given / "passwd").write_text("the mount's")
    if os.geteuid() == 0:
        os.chown(given, UID, UID)
    before = state(rootfs) + state(given)
    mounts = [sandbox.Mount(source=given, dest="/etc", writable=writable)]
    if not with_image:
        mounts += sandbox.host_root().mounts
    root = root_of(rootfs, *mounts) if with_image else sandbox.Root(mounts=tuple(mounts))
    assert run(work, "/bin/sh", "-c", "cat /etc/*", root=root).text() == "the mount's"
    assert state(rootfs) + state(given) == before
    run(work, "/bin/sh", "-c", "echo x > /etc/made", root=root)
    assert (given / "made").exists() == writable


def test_mounts_below_etc_are_over_what_is_made_there(work: Path, rootfs: Path) -> None:
    (rootfs / "etc/ssl/certs").mkdir(parents=True)
    (rootfs / "etc/ssl/certs/ca.crt").write_text("the image's")
    (rootfs / "etc/ssl/other").write_text("other")
    given = work.parent / "given"
    given.write_text("the mount's")
    before = state(rootfs)
    dests = ("/etc/ssl/certs/ca.crt", "/etc/release", "/etc/hosts", "/etc/new/deep", "/home/nonroot/file")
    root = root_of(rootfs, *(sandbox.Mount(source=given, dest=dest) for dest in dests))
    ran = run(work, "/bin/cat", *dests, "/etc/ssl/other", "/etc/group", root=root)
    assert ran.text() == len(dests) * "the mount's" + f"otherroot:x:0:\nbuild:x:{UID}:"
    root = root_of(rootfs, sandbox.Mount(source=rootfs / "home", dest="/etc/ssl", writable=True))
    assert run(work, "/bin/ls", "/etc/ssl", root=root).text() == "nonroot"
    assert state(rootfs) == before and given.read_text() == "the mount's"


def test_with_few_descriptors_the_view_is_the_same(work: Path, rootfs: Path) -> None:
    fill(rootfs / "etc")
    expected = there(rootfs, "/etc")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.dup(0)
    os.close(taken)
    before = opened()
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 40, hard))
    try:
        assert seen(work, root_of(rootfs), "/etc") == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert opened() == before


def test_no_descriptor_of_an_image_is_left_on_either_side(work: Path, rootfs: Path) -> None:
    fill(rootfs / "etc")
    before = opened()
    ran = run(work, "/bin/ls", "-l", "/proc/self/fd", "/proc/1/fd", root=root_of(rootfs))
    assert "rootfs" not in ran.text() and "memfd" not in ran.text()
    assert opened() == before
    command = sandbox.Command(argv=("/bin/true",), work=work, cwd="/nowhere")
    with pytest.raises(PlatformError, match="chdir"):
        sandbox.run(
            command,
            root_of(rootfs),
            sandbox.Limits(memory=1 << 29, cpus=1, pids=64, disk=1 << 26, wall_ms=60_000),
            uid=UID,
            gid=UID,
            egress=None,
            on_line=lambda stream, line: None,
            cancelled=lambda: False,
        )
    assert opened() == before


def opened() -> set[str]:
    """The descriptors of this process and what they lead to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{name}"):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found
