"""Base images from real packages: the same twice, usable as a root by any user, accepted by others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from builder.bases.make import build_base
from builder.errors import BuildError
from builder.images.image import ImageConfig, build_image
from builder.images.layout import Layout
from builder.images.store import ImageStore
from builder.images.unpack import unpack_image
from builder.pipelines import catalog
from builder.process import process_start
from tests.oci_fixtures import make_layer
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
BASES = {"go": ROOT / "runtimes" / "go", "python-3.11": ROOT / "runtimes" / "python"}
SOMEBODY = 61234


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    root = tmp_path_factory.mktemp("bases")
    for folder in (root, *list(root.parents)[:2]):
        folder.chmod(0o755)
    store = ImageStore(root / "store")
    for name, recipe_dir in BASES.items():
        build_base(store, name, recipe_dir)
    return store


def root_of(store: ImageStore, name: str) -> Path:
    base = store.get(name)
    assert base is not None
    return store.rootfs(base.digest)


def inside(root: Path, *argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run in the root as a stranger, without network, without anything else of the host."""
    settings = [part for name, value in (env or {}).items() for part in ("--setenv", name, value)]
    mounts = ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    who = ["--uid", str(SOMEBODY), "--gid", str(SOMEBODY), "--clearenv", *settings]
    command = ["bwrap", "--unshare-all", "--die-with-parent", *mounts, *who, "--", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_was_built_is_listed_and_kept(store: ImageStore) -> None:
    assert store.names() == ("go", "python-3.11")
    for name, recipe_dir in BASES.items():
        base = store.get(name)
        assert base is not None and base.name == name
        assert build_base(store, name, recipe_dir, refresh=False) == base
        assert store.rootfs(base.digest) == store.rootfs(base.digest)
    assert store.get("absent") is None
    assert {path.name[0] for path in store.root.iterdir() if path.is_dir()} == {"l", "r"}, "no work folder stays"


@pytest.mark.parametrize("name", BASES)
def test_the_same_packages_give_the_same_digest(store: ImageStore, tmp_path: Path, name: str) -> None:
    """In another folder, under another umask and zone, with another hash seed, from a process of its own."""
    program = (
        "import os, sys; from pathlib import Path; from builder.bases.make import build_base;"
        "from builder.images.store import ImageStore; os.umask(0o077);"
        "print(build_base(ImageStore(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])).digest)"
    )
    again = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "other"), name, str(BASES[name])],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "2"},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    base = store.get(name)
    assert base is not None and again.stdout.strip() == base.digest


def test_two_processes_at_once_make_one_base(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from builder.bases.make import build_base;"
        "from builder.images.store import ImageStore; s = ImageStore(Path(sys.argv[1]));"
        "base = build_base(s, 'go', Path(sys.argv[2])); print(base.digest, s.rootfs(base.digest))"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "store"), str(BASES["go"])]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    said = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0] and len(said) == 1
    assert len(list((tmp_path / "store" / "rootfs").iterdir())) == 1


def test_go_has_certificates_zones_users_and_no_program(store: ImageStore) -> None:
    root = root_of(store, "go")
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE") > 100
    assert (root / "usr/share/zoneinfo/Europe/Berlin").is_file()
    assert "nonroot:x:65532:65532" in (root / "etc/passwd").read_text()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    programs = [path for path in root.rglob("*") if path.is_file() and path.stat().st_mode & 0o111]
    assert programs == []
    base = store.get("go")
    assert base is not None and sum(layer.size for layer in base.layers) < 2 * 1024 * 1024


def test_any_user_can_read_a_root(store: ImageStore) -> None:
    for name in BASES:
        for path in root_of(store, name).rglob("*"):
            if not path.is_symlink():
                mode = path.stat().st_mode
                assert mode & 0o004 and not mode & 0o6000 and (not path.is_dir() or mode & 0o001), path


PYTHON = """
import bz2, ctypes, decimal, glob, hashlib, importlib, json, lzma, os, platform, pwd, sqlite3, ssl, sys, zlib, zoneinfo
import warnings; warnings.simplefilter("ignore")
missing = []
for path in glob.glob("/usr/lib/python3.11/lib-dynload/*.so"):
    name = os.path.basename(path).split(".")[0]
    try: importlib.import_module(name)
    except Exception as error: missing.append(f"{name}: {error}")
for name in ("asyncio", "concurrent.futures", "distutils", "http.server", "multiprocessing", "unittest", "uuid"):
    importlib.import_module(name)
for library in ("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1"): ctypes.CDLL(library)
sqlite3.connect(":memory:").execute("select 1")
print(json.dumps({"missing": missing, "authorities": len(ssl.create_default_context().get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")), "nonroot": pwd.getpwuid(65532).pw_name,
    "version": platform.python_version(), "uid": os.getuid()}))
"""


@pytest.mark.parametrize("with_env", [True, False], ids=["its own environment", "an empty environment"])
def test_python_runs_with_its_whole_library(store: ImageStore, with_env: bool) -> None:
    base = store.get("python-3.11")
    assert base is not None
    done = inside(
        root_of(store, "python-3.11"), "/usr/bin/python3", "-c", PYTHON, env=dict(base.env) if with_env else {}
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = catalog.read(ROOT / "runtimes" / "catalog.toml").rows
    (release,) = (row.release for row in rows if row.toolchain.base == "python-3.11")
    assert said["missing"] == [] and said["authorities"] > 100
    assert (said["zone"], said["nonroot"], said["version"], said["uid"]) == (
        "Europe/Berlin",
        "nonroot",
        release,
        SOMEBODY,
    )


def test_python_brings_no_shell_and_no_package_manager(store: ImageStore) -> None:
    root = root_of(store, "python-3.11")
    names = {path.name for path in (root / "usr/bin").iterdir()}
    assert names == {"python", "python3", "python3.11"}
    assert not list(root.rglob("apt*")) and not (root / "etc/resolv.conf").exists()
    assert (root / "var/lib/dpkg/status.d/libssl3").read_text().startswith("Package: libssl3\n")


BYTECODE = """
import glob, importlib.util, json, marshal, os, sys
modules = [path for path in glob.glob("/usr/lib/python3.11/**/*.py", recursive=True) if not os.path.islink(path)]
compiled = {}
for path in modules:
    cached = importlib.util.cache_from_source(path)
    if os.path.exists(cached):
        compiled[path] = open(cached, "rb").read()
wrong = [path for path, data in compiled.items()
    if data[:4] != importlib.util.MAGIC_NUMBER or data[4:8] != bytes([1, 0, 0, 0])
    or data[8:16] != importlib.util.source_hash(open(path, "rb").read())
    or marshal.loads(data[16:]).co_filename != path]
import asyncio, distutils.core, json.decoder
loaded = [getattr(module, "__spec__", None) for module in sys.modules.values()]
slow = [spec.name for spec in loaded if spec and (spec.origin or "").endswith(".py") and not os.path.exists(spec.cached)
    and not os.path.islink(spec.origin)]
print(json.dumps({"modules": len(modules), "without": sorted(set(modules) - set(compiled)), "wrong": wrong,
    "slow": slow}))
"""


def test_python_compiles_nothing_of_its_library_again(store: ImageStore) -> None:
    """Each module has bytecode of this very interpreter that names its place in the image and needs no check."""
    done = inside(root_of(store, "python-3.11"), "/usr/bin/python3", "-B", "-c", BYTECODE)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["modules"] > 500
    assert (said["without"], said["wrong"], said["slow"]) == ([], [], [])


def test_an_app_on_a_base_is_read_by_others_and_runs(store: ImageStore, tmp_path: Path) -> None:
    base = store.get("python-3.11")
    app = make_layer(tmp_path, "app", {"main.py": "print('hello from', __file__)"})
    image = build_image(base, (app,), ImageConfig(entrypoint=("/usr/bin/python3", "/app/main.py")))
    layout = Layout(tmp_path / "layout")
    layout.push(image, "org/app", "v1")
    shown = subprocess.run(
        ["skopeo", "inspect", f"oci:{layout.root}:org/app:v1"], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout)["Digest"] == image.digest
    copied = ["skopeo", "copy", "-q", f"oci:{layout.root}:org/app:v1", f"oci:{tmp_path}/copy:v1"]
    subprocess.run(copied, check=True, capture_output=True)
    subprocess.run(
        [
            "umoci",
            "unpack",
            *(["--rootless"] if os.geteuid() else []),
            "--image",
            f"{tmp_path}/copy:v1",
            f"{tmp_path}/b",
        ],
        check=True,
        capture_output=True,
    )
    unpack_image(image.layers, tmp_path / "ours")
    for root in (tmp_path / "b" / "rootfs", tmp_path / "ours"):
        for folder in (tmp_path, *list(tmp_path.parents)[:2], root.parent):
            folder.chmod(0o755)
        done = inside(root, "/usr/bin/python3", "/app/main.py")
        assert done.stdout == "hello from /app/main.py\n", done.stderr


def test_a_base_can_be_pushed_as_an_image(store: ImageStore, tmp_path: Path) -> None:
    image, base = store.image("go"), store.get("go")
    assert image is not None and base is not None and image.digest == base.digest
    pushed = Layout(tmp_path / "elsewhere").push(image, "bases/go", "current")
    assert pushed.digest == base.digest and store.image("absent") is None


def as_somebody(folder: Path, path: str) -> str:
    """What making a base ends with for a plain user who finds his programs in `path`: reason, message, next step."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(SOMEBODY)
            os.setuid(SOMEBODY)
            os.environ["PATH"] = path
            try:
                build_base(ImageStore(folder / "bases"), "go", BASES["go"])
            except BuildError as error:
                os.write(write, f"{error.reason}|{error.message}|{error.next}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    os.waitpid(child, 0)
    return words


def test_a_plain_user_is_told_what_keeps_mmdebstrap_from_working(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name not in ("newuidmap", "fakechroot"):
            (programs / program.name).symlink_to(program)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    reason, message, step = as_somebody(tmp_path / "without", str(programs)).split("|")
    assert (reason, step) == ("ToolchainUnavailable", "An operator runs: apt-get install -y uidmap")
    assert "newuidmap" in message
    reason, message, step = as_somebody(tmp_path / "with", os.environ["PATH"]).split("|")
    assert reason == "ToolchainUnavailable" and "has no row in /etc/subuid" in message and "--add-subuids" in step


RUN = (
    "from builder.bases.debian import run_process; import sys; print(run_process(['sh', '-c', sys.argv[1]]).exit_code)"
)


def test_a_tool_that_ends_its_process_group_ends_none_of_ours() -> None:
    """mmdebstrap sends HUP to it where the disk of its output is full."""
    tool = "trap '' HUP; kill -HUP 0; exit 3"
    ran = subprocess.run(
        [sys.executable, "-c", RUN, tool], cwd=ROOT, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert (ran.returncode, ran.stdout) == (0, "3\n"), ran


@pytest.mark.parametrize("deaf", ["", "trap '' TERM; "])
def test_a_tool_ends_with_the_call_that_is_interrupted_and_all_that_it_started(tmp_path: Path, deaf: str) -> None:
    tool = f"{deaf}sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait"
    with subprocess.Popen([sys.executable, "-c", RUN, tool], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        started = number_in(tmp_path / "pid", process)
        process.send_signal(signal.SIGINT)
    assert process.returncode not in (0, None)
    assert not process_start(started)


def number_in(file: Path, process: subprocess.Popen[bytes]) -> int:
    """What a tool of the process writes there."""
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return int(file.read_text())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("argv", [("runtimes", "fetch", "go-1.26"), ("bases", "build", "go")], ids=" ".join)
def test_whoever_gets_an_image_leaves_nothing_when_it_is_stopped(
    tmp_path: Path, argv: tuple[str, ...], sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow mmdebstrap is played; that the real one ends at TERM is its own promise."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    program = Program(tmp_path / "home", {"node_dir": str(tmp_path / "node")})
    with program.started(*argv) as process:
        started = number_in(tmp_path / "pid", process)
        process.send_signal(sent)
        assert process.wait(30) == 130
    assert not process_start(started)
    assert not list((tmp_path / "node" / "bases").glob(".*build-*"))
