"""The command line and the composed root, as values."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import BuildError, PlatformError
from builder.sandbox import Command, Limits, Mount, Root
from builder.sandbox.argv import Descriptors, Programs, entering, inner, outer
from builder.sandbox.compose import (
    LARGEST_COPY,
    MAX_LINKS,
    MOST_MADE_ANEW,
    MOST_OF_A_FOLDER,
    OUR_FILES,
    Bound,
    descriptors,
    identity_files,
    layers,
    resolve_inside,
    settled,
)
from builder.sandbox.unsandboxed import translated

FDS = Descriptors(args=3, gate=8, status=4, block=5, seccomp=6, files={"/etc/passwd": 7})
LIMITS = Limits(memory=1000, cpus=1, pids=10, disk=800, wall_ms=1)
COMMAND = Command(
    argv=("go", "build"),
    work=Path("/node/w"),
    env={"B": "2", "A": "1"},
    cwd="/work/src",
    caches={"go": Path("/node/c")},
)


def test_outer_is_prlimit_then_bubblewrap_then_the_command() -> None:
    programs = Programs(bwrap="/usr/bin/bwrap", prlimit="/usr/bin/prlimit", unshare="/usr/bin/unshare")
    line = outer(programs, {"nproc": 10, "core": 0}, FDS, COMMAND.argv)
    assert line == [
        *("/usr/bin/prlimit", "--nproc=10:10", "--core=0:0", "--"),
        *("/usr/bin/bwrap", "--args", "3", "--args", "8", "--", "go", "build"),
    ]
    nested = outer(programs, {"nproc": 10, "core": 0}, FDS, COMMAND.argv, (61000, 61001))
    assert nested == ["/usr/bin/unshare", "--mount-proc", "--setgid=61001", "--setuid=61000", "--", *line]
    assert not any("/node" in word for word in line), "no host path on a command line that /proc shows inside"


def test_a_line_stands_behind_its_groups() -> None:
    """That it enters them: tests/e2e/test_sandbox.py."""
    shell, option, script, *words = entering([Path("/g/memory/tasks"), Path("/g/pids/tasks")], ["/bin/echo", "a"])
    assert (shell, option) == ("/bin/sh", "-c")
    assert "/" not in script, "a path in a script would have to be quoted"
    assert words == ["group", "/g/memory/tasks", "/g/pids/tasks", "--", "/bin/echo", "a"]


def test_without_an_entrance_a_line_is_itself() -> None:
    assert entering([], ["/bin/echo", "a"]) == ["/bin/echo", "a"]


def test_inner_golden() -> None:
    root = Root(mounts=(Mount(source=Path("/usr"), dest="/usr"), Mount(source=Path("/h"), dest="/h", writable=True)))
    line = " ".join(inner(root=root, bound=(), command=COMMAND, limits=LIMITS, env=COMMAND.env, fds=FDS))
    assert line == (
        "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session"
        " --hostname ignite --cap-drop ALL --clearenv"
        " --setenv A 1 --setenv B 2 --setenv PATH /usr/local/bin:/usr/bin:/bin"
        " --proc /proc --dev /dev"
        " --perms 1777 --size 500 --tmpfs /tmp --perms 1777 --size 500 --tmpfs /dev/shm"
        " --perms 0755 --dir /etc --perms 0644 --file 7 /etc/passwd"
        " --ro-bind /usr /usr --bind /h /h --bind /node/w /work --bind /node/c /cache/go"
        " --remount-ro /dev --remount-ro / --chdir /work/src"
        " --json-status-fd 4 --block-fd 5 --seccomp 6"
    )


def test_inner_without_a_filter_and_with_an_image() -> None:
    fds = Descriptors(args=3, gate=8, status=4, block=5, seccomp=-1, files={})
    bound = (Bound(kind="bind", dest="/etc", source="/image/etc"), Bound(kind="link", dest="/bin", source="usr/bin"))
    line = inner(root=Root(), bound=bound, command=COMMAND, limits=LIMITS, env={"PATH": "/x"}, fds=fds)
    text = " ".join(line)
    assert "--seccomp" not in line
    assert "--dir" not in line
    assert "--setenv PATH /x" in text
    assert "--ro-bind /image/etc /etc --symlink usr/bin /bin --proc /proc" in text


@pytest.mark.parametrize(
    ("bound", "made"),
    [
        ((), "--perms 0755 --dir /etc --perms 0644 --file 7 /etc/passwd"),
        ((Bound(kind="dir", dest="/etc", mode=0o711),), "--perms 0644 --file 7 /etc/passwd"),
        ((Bound(kind="dir", dest="/etc"), Bound(kind="bind", dest="/etc/pass")), "--perms 0644 --file 7 /etc/passwd"),
        ((Bound(kind="bind", dest="/etc", source="/image/etc"),), "--ro-bind-data 7 /etc/passwd"),
        ((Bound(kind="bind", dest="/", source="/image"),), "--perms 0755 --dir /etc --ro-bind-data 7 /etc/passwd"),
        ((Bound(kind="link", dest="/etc", source="usr/etc"),), "--ro-bind-data 7 /etc/passwd"),
        ((Bound(kind="dir", dest="/etc"), Bound(kind="copy", dest="/etc/passwd")), "--ro-bind-data 7 /etc/passwd"),
    ],
)
def test_a_file_of_ours_is_written_nowhere_but_into_a_folder_that_bubblewrap_makes(
    bound: tuple[Bound, ...], made: str
) -> None:
    mounts = (Mount(source=Path("/e"), dest="/etc", writable=True),)
    line = " ".join(inner(root=Root(mounts=mounts), bound=bound, command=COMMAND, limits=LIMITS, env={}, fds=FDS))
    assert f"--tmpfs /dev/shm {made} --bind /e /etc " in line, "before any mount of a toolchain"


def test_a_copy_without_a_descriptor_is_bound() -> None:
    bound = tuple(Bound(kind="copy", dest=f"/etc/{name}", source=f"/i/etc/{name}", mode=0o640) for name in "ab")
    fds = replace(FDS, copies={"/etc/a": 9})
    line = inner(root=Root(), bound=bound, command=COMMAND, limits=LIMITS, env={}, fds=fds)
    assert "--perms 0640 --file 9 /etc/a --ro-bind /i/etc/b /etc/b --proc" in " ".join(line)
    assert fds.inherited() == (3, 8, 4, 5, 6, 7, 9)


@pytest.mark.parametrize(
    "command",
    [
        Command(argv=("x",), work=Path("/w"), env={"A": "x\0--bind\0/\0/host"}),
        Command(argv=("x", "a\0b"), work=Path("/w")),
        Command(argv=("x",), work=Path("/w"), cwd="/work\0--share-net"),
    ],
)
def test_a_nul_cannot_smuggle_an_argument_in(command: Command) -> None:
    with pytest.raises(BuildError, match="a NUL byte in") as caught:
        inner(root=Root(), bound=(), command=command, limits=LIMITS, env=command.env, fds=FDS)
    assert caught.value.reason == "InvalidRequest"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    for folder in ("usr/bin", "usr/lib", "etc/ssl", "opt", "proc", "tmp", "work"):
        (root / folder).mkdir(parents=True)
    for file in ("usr/bin/tool", "opt/tool"):
        (root / file).write_text("")
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("/usr/lib")
    (root / "etc/passwd").write_text("")
    (root / "etc/release").write_text("")
    return root


def shown(image: Path, *needed: str) -> list[str]:
    return [f"{part.kind} {part.dest}" for part in layers(image, needed)]


def below(image: Path, folder: str, *needed: str) -> list[str]:
    return [part for part in shown(image, *needed) if part.split(" ")[1].startswith(f"{folder}/")]


def test_an_image_is_bound_whole_where_nothing_is_missing(image: Path) -> None:
    (image / "etc/large").write_bytes(bytes(LARGEST_COPY + 1))
    assert shown(image, "/proc", "/etc/passwd") == ["link /bin", "bind /etc", "link /lib", "bind /opt", "bind /usr"]


def test_a_folder_is_opened_only_for_what_it_lacks(image: Path) -> None:
    assert shown(image, "/etc/hosts", "/etc/passwd", "/opt/ignite/go") == [
        "link /bin",
        "dir /etc",
        "copy /etc/release",
        "dir /etc/ssl",
        "link /lib",
        "dir /opt",
        "bind /opt/tool",
        "bind /usr",
    ]


def test_small_folders_are_made_anew_with_all_that_they_have(image: Path) -> None:
    (image / "home/nonroot").mkdir(parents=True)
    (image / "home/me").symlink_to("nonroot")
    (image / "home/nonroot").chmod(0o1777)
    (image / "etc/ssl/file").write_text("")
    (image / "etc/ssl/file").chmod(0o755)
    assert below(image, "/home", *OUR_FILES) == ["link /home/me", "dir /home/nonroot"]
    parts = {part.dest: part for part in layers(image, identity_files(5, 5))}
    assert parts["/home"] == Bound(kind="dir", dest="/home")
    assert parts["/home/nonroot"].mode == 0o1777
    assert parts["/home/me"] == Bound(kind="link", dest="/home/me", source="nonroot")
    assert parts["/etc/ssl/file"] == Bound(
        kind="copy", dest="/etc/ssl/file", source=str(image / "etc/ssl/file"), mode=0o755
    )
    order = list(parts)
    assert order.index("/home") < order.index("/home/me") and order.index("/etc/ssl") < order.index("/etc/ssl/file")


def test_a_small_etc_that_lacks_nothing_is_made_anew_without_what_is_ours(image: Path) -> None:
    for file in OUR_FILES:
        (image / file.lstrip("/")).write_text("the image's")
    assert below(image, "/etc", *OUR_FILES) == ["copy /etc/release", "dir /etc/ssl"]
    assert below(image, "/etc", *OUR_FILES, "/etc/ssl") == ["copy /etc/release"]


def test_what_is_no_small_file_of_everybodys_is_bound(image: Path) -> None:
    """A copy is the build user's, so he would have the owner's rights."""
    etc = image / "etc"
    modes = {
        "all": 0o444,
        "secret": 0o640,
        "own": 0o600,
        "program": 0o744,
        "other": 0o604,
        "odd": 0o077,
        "suid": 0o4755,
    }
    for name, mode in modes.items():
        (etc / name).write_text("")
        (etc / name).chmod(mode)
    (etc / "large").write_bytes(bytes(LARGEST_COPY + 1))
    (etc / "largest").write_bytes(bytes(LARGEST_COPY))
    os.mkfifo(etc / "pipe")
    for name, mode in {"closed": 0o700, "listed": 0o711, "shared": 0o2755}.items():
        (etc / name).mkdir()
        (etc / name).chmod(mode)
    (etc / "deep/with").mkdir(parents=True)
    os.mkfifo(etc / "deep/with/pipe")
    assert below(image, "/etc", *OUR_FILES) == [
        "copy /etc/all",
        "bind /etc/closed",
        "bind /etc/deep",
        "bind /etc/large",
        "copy /etc/largest",
        "bind /etc/listed",
        "bind /etc/odd",
        "copy /etc/other",
        "bind /etc/own",
        "bind /etc/pipe",
        "bind /etc/program",
        "copy /etc/release",
        "bind /etc/secret",
        "bind /etc/shared",
        "dir /etc/ssl",
        "bind /etc/suid",
    ]


def test_what_is_made_anew_is_bounded(image: Path) -> None:
    many, most = image / "etc/many", image / "etc/most"
    for folder, count in ((many, MOST_OF_A_FOLDER), (most, MOST_OF_A_FOLDER - 1)):
        folder.mkdir()
        for number in range(count):
            (folder / str(number)).write_text("")
    found = shown(image, *OUR_FILES)
    assert "bind /etc/many" in found and "dir /etc/most" in found and "copy /etc/most/0" in found
    for number in range(2 * MOST_MADE_ANEW):
        (image / f"etc/{number}").write_text("")
        (image / f"etc/link{number}").symlink_to("nowhere")
    found = below(image, "/etc", *OUR_FILES)
    assert sum(part.startswith("copy") for part in found) == MOST_MADE_ANEW
    assert sum(part.startswith("bind") for part in found) == MOST_MADE_ANEW + 2 + 2, "both folders, release and ssl"
    assert sum(part.startswith("link") for part in found) == 2 * MOST_MADE_ANEW


def opened() -> set[int]:
    """The descriptors of this process."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def test_copies_are_read_from_descriptors_that_end_with_the_stack(image: Path) -> None:
    part = Bound(kind="copy", dest="/etc/release", source=str(image / "etc/release"), mode=0o644)
    (image / "etc/link").symlink_to("release")
    os.mkfifo(image / "etc/pipe", 0o644)
    (image / "etc/private").write_text("")
    (image / "etc/private").chmod(0o600)
    others = [
        replace(part, dest=f"/etc/{name}", source=str(image / "etc" / name))
        for name in ("link", "pipe", "private", "none", "ssl")
    ]
    before = opened()
    with ExitStack() as stack:
        found = descriptors([*others, part, Bound(kind="dir", dest="/x")], stack)
        assert list(found) == ["/etc/release"]
        assert os.readlink(f"/proc/self/fd/{found['/etc/release']}") == part.source
        assert not os.get_inheritable(found["/etc/release"])
        assert opened() == before | set(found.values())
    assert opened() == before


def test_copies_leave_the_upper_half_of_all_descriptors(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Bound(kind="copy", dest="/etc/release", source=str(image / "etc/release"), mode=0o644)
    parts = [replace(part, dest=f"/etc/{number}") for number in range(8)]
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * (free + 3), 4096))
    before = opened()
    with ExitStack() as stack:
        assert len(descriptors(parts, stack)) <= 3
    assert opened() == before


def test_without_an_image_there_is_nothing_to_bind() -> None:
    assert layers(None, ("/etc/passwd",)) == ()


def test_mounts_follow_the_images_links_and_come_parents_first(image: Path, tmp_path: Path) -> None:
    mounts = (
        Mount(source=tmp_path, dest="/opt/a/b"),
        Mount(source=tmp_path, dest="/bin/tool"),
        Mount(source=tmp_path, dest="/lib/x"),
        Mount(source=tmp_path, dest="/opt/a"),
    )
    found = [mount.dest for mount in settled(Root(rootfs=image, mounts=mounts)).mounts]
    assert found == ["/opt/a", "/opt/a/b", "/usr/bin/tool", "/usr/lib/x"]


def chain(image: Path, count: int, end: str) -> None:
    """`l1` leads over `count` links to `end`."""
    for number in range(1, count + 1):
        (image / f"l{number}").symlink_to(f"l{number + 1}" if number < count else end)


def test_a_link_loop_in_an_image_leads_nowhere(image: Path) -> None:
    (image / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links") as caught:
        resolve_inside(image, "/loop/x")
    assert caught.value.errno == errno.ELOOP


def test_no_answer_holds_a_link(image: Path, tmp_path: Path) -> None:
    """Whoever opens it on the host would follow the link there: the last of too many is none of the answer."""
    chain(image, MAX_LINKS, "/usr/bin")
    assert resolve_inside(image, "/l1/x") == "/usr/bin/x"
    (image / "l0").symlink_to("l1")
    with pytest.raises(OSError, match="symbolic links"):
        resolve_inside(image, "/l0/x")
    with pytest.raises(PlatformError, match="lead nowhere at /l0/x") as caught:
        settled(Root(rootfs=image, mounts=(Mount(source=tmp_path, dest="/l0/x"),)))
    assert caught.value.reason == "SandboxUnavailable"


@pytest.mark.parametrize("target", ["/proc/1/root/tmp", "proc/self/cwd", "/sys", "/dev/shm"])
def test_a_mount_is_led_nowhere_among_what_is_the_kernels(image: Path, tmp_path: Path, target: str) -> None:
    (image / "led").symlink_to(target)
    with pytest.raises(PlatformError, match="which is the kernel's") as caught:
        settled(Root(rootfs=image, mounts=(Mount(source=tmp_path, dest="/led/x"),)))
    assert caught.value.reason == "SandboxUnavailable"


def test_a_mount_follows_the_links_of_those_above_it(image: Path, tmp_path: Path) -> None:
    """bubblewrap would follow them while the host's root is still beside the new one."""
    tool = tmp_path / "tool"
    tool.mkdir()
    (tool / "out").symlink_to("/oldroot/tmp")
    (tool / "share").symlink_to("../share")
    (tool / "itself").symlink_to("itself")
    (tmp_path / "link").symlink_to(tool)

    def dests(*found: str, source: Path = tool) -> list[str]:
        mounts = tuple(Mount(source=source, dest=dest) for dest in found)
        return [mount.dest for mount in settled(Root(rootfs=image, mounts=mounts)).mounts]

    assert dests("/opt/tool", "/opt/tool/out/x") == ["/oldroot/tmp/x", "/opt/tool"]
    assert dests("/opt/tool/share/x", "/opt/tool") == ["/opt/share/x", "/opt/tool"]
    assert dests("/opt/tool", "/opt/tool/share", "/opt/tool/share/share/x") == [
        "/opt/share",
        "/opt/share/x",
        "/opt/tool",
    ]
    assert dests("/opt/tool", "/opt/tool/sub", source=tmp_path / "link") == ["/opt/tool", "/opt/tool/sub"]
    assert dests("/", "/out/x") == ["/", "/oldroot/tmp/x"]
    with pytest.raises(PlatformError, match="lead nowhere at /opt/tool/itself/x"):
        dests("/opt/tool", "/opt/tool/itself/x")
    (image / "aside").symlink_to("opt/tool/share")
    with pytest.raises(PlatformError, match="lead each other elsewhere"):
        dests("/aside/x", "/opt/tool")


@pytest.mark.parametrize("name", ["etc", "tmp", "work"])
def test_a_mount_is_where_our_folder_is_whatever_link_the_image_has_there(
    image: Path, tmp_path: Path, name: str
) -> None:
    (image / name).rename(image / "usr/moved")
    (image / name).symlink_to("usr/moved")
    root = settled(Root(rootfs=image, mounts=(Mount(source=tmp_path, dest=f"/{name}/x"),)))
    assert root.mounts[0].dest == f"/{name}/x"
    (image / "usr/moved/x").symlink_to("/elsewhere")
    root = settled(Root(rootfs=image, mounts=(Mount(source=tmp_path, dest=f"/{name}/x/y"),)))
    assert root.mounts[0].dest == f"/{name}/x/y", "nor is anything behind it there"
    (image / "usr/moved/x").unlink()
    assert resolve_inside(image, f"/{name}/x") == "/usr/moved/x", "whoever reads a file of the image follows it"


@pytest.mark.parametrize("target", ["/oldroot/tmp", "usr/etc", "etc", None])
def test_what_stands_where_a_folder_of_ours_must_be_gives_way(image: Path, target: str | None) -> None:
    """bubblewrap follows a link of the image while the host's root is still beside it."""
    (image / "etc").rename(image / "usr/etc")
    if target is None:
        (image / "etc").write_text("")
    else:
        (image / "etc").symlink_to(target)
    parts = [part for part in layers(image, ("/proc", *identity_files(5, 5))) if part.dest.startswith("/etc")]
    assert parts == [Bound(kind="dir", dest="/etc")]


def test_what_is_ours_is_not_sought_behind_a_link_of_the_image(tmp_path: Path) -> None:
    """On the host the folder that the link names has all of it."""
    host = tmp_path / "host"
    host.mkdir()
    for name in identity_files(5, 5):
        (host / name.rpartition("/")[2]).write_text("")
    (tmp_path / "image").mkdir()
    (tmp_path / "image/etc").symlink_to(host)
    assert layers(tmp_path / "image", identity_files(5, 5)) == (Bound(kind="dir", dest="/etc"),)


def test_a_folder_in_the_place_of_a_file_of_ours_is_not_bound(image: Path) -> None:
    """A file cannot be laid over a folder."""
    (image / "etc/hosts").mkdir()
    for name in ("group", "resolv.conf"):
        (image / "etc" / name).write_text("")
    assert shown(image, *identity_files(5, 5))[1:4] == ["dir /etc", "copy /etc/release", "dir /etc/ssl"]


def test_the_files_of_ours_are_those_that_are_looked_for() -> None:
    assert set(identity_files(5, 5)) == OUR_FILES


def test_a_link_above_the_image_stays_inside(image: Path) -> None:
    (image / "up").symlink_to("../../../etc")
    assert resolve_inside(image, "/up/passwd") == "/etc/passwd"


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (Root(rootfs=Path("/")), "host's own /"),
        (Root(mounts=(Mount(source=Path("/usr"), dest="usr"),)), "not an absolute path"),
        (Root(mounts=(Mount(source=Path("/usr"), dest="/a/../b"),)), "not an absolute path"),
        (Root(mounts=(Mount(source=Path("/no/such/folder"), dest="/a"),)), "is not there"),
    ],
)
def test_roots_that_are_refused(root: Root, said: str) -> None:
    with pytest.raises(PlatformError, match=said) as caught:
        settled(root)
    assert caught.value.reason == "SandboxUnavailable"


def test_a_step_sees_only_the_folders_of_work_that_it_names_and_no_store_writable() -> None:
    command = replace(COMMAND, folders=("fetch", "out"), stores={"wheels": Path("/node/s")})
    line = " ".join(inner(root=Root(), bound=(), command=command, limits=LIMITS, env={}, fds=FDS))
    mounts = "--bind /node/w/fetch /work/fetch --bind /node/w/out /work/out --bind /node/c /cache/go"
    assert f"{mounts} --ro-bind /node/s /cache/wheels --remount-ro" in line
    assert "--bind /node/w /work" not in line


def test_what_is_shown_is_mounted_read_only_over_the_work_folder() -> None:
    command = replace(COMMAND, shown={"/work/fetch/vendor": Path("/node/r")})
    line = " ".join(inner(root=Root(), bound=(), command=command, limits=LIMITS, env={}, fds=FDS))
    assert line.index("--bind /node/w /work ") < line.index("--ro-bind /node/r /work/fetch/vendor --remount-ro")


def test_identity_files_name_only_the_build_user() -> None:
    files = identity_files(61000, 61001)
    assert files["/etc/passwd"] == b"root:x:0:0::/:/bin/sh\nbuild:x:61000:61001::/work/home:/bin/sh\n"
    assert files["/etc/resolv.conf"] == b""


def test_paths_are_turned_for_the_host_only_as_whole_paths() -> None:
    root = Root(mounts=(Mount(source=Path("/usr/lib/go"), dest="/opt/ignite/go"),))
    command = Command(
        argv=("/opt/ignite/go/bin/go", "-o=/work/out/app", "/workshop", "/opt/ignite/gopher", "a/work"),
        work=Path("/n/w"),
        env={"P": "/opt/ignite/go/bin:/usr/bin", "C": "/cache/go", "URL": "file:///work/fetch/proxy,x"},
        caches={"go": Path("/n/c")},
        cwd="/work/src",
    )
    turned = translated(command, root)
    assert turned.argv == ("/usr/lib/go/bin/go", "-o=/n/w/out/app", "/workshop", "/opt/ignite/gopher", "a/work")
    assert turned.env == {"P": "/usr/lib/go/bin:/usr/bin", "C": "/n/c", "URL": "file:///n/w/fetch/proxy,x"}
    assert turned.cwd == "/n/w/src"
