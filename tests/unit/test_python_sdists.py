"""Packages without a wheel: what is read of their sdists, how the resolver goes on in rounds, what the node takes."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import runpy
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.attempt import apart
from builder.attempt.steps import StepResult
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import python
from builder.pipelines.python import wheels
from builder.plan import BUILT, Built, Fetched, Sees, Step
from builder.source.tree import DictTree

BUILD = Path(runtimes_dir()) / "python/build"
RESOLVE: Any = SimpleNamespace(**runpy.run_path(str(BUILD / "resolve.py"), run_name="resolve"))
DOWNLOAD: Any = SimpleNamespace(**runpy.run_path(str(BUILD / "download.py"), run_name="download"))
BUILDING: Any = SimpleNamespace(**runpy.run_path(str(BUILD / "build_sdist.py"), run_name="build_sdist"))
A, B, C = "a" * 64, "b" * 64, "c" * 64


def sdist(folder: Path, name: str, files: Mapping[str, str]) -> tuple[Path, str]:
    """(file, digest) of an archive `name`, whose files lie in one folder."""
    path = folder / name
    with tarfile.open(path, "w:gz") as tar:
        for inside, text in files.items():
            entry = tarfile.TarInfo(f"{name.removesuffix('.tar.gz')}/{inside}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def system(requires: str, backend: str) -> str:
    return f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "{backend}"\n'


PKG_INFO = "Metadata-Version: 2.2\nName: x\nVersion: 1\nRequires-Dist: idna>=3\nRequires-Dist: six; extra == 'fast'\n"
REQUIRES = "idna>=3\n\n[:python_version < '3']\nold\n\n[fast]\nsix==1\n\n[fast:os_name == 'nt']\nwin\n"


@pytest.mark.parametrize(
    ("files", "requires", "build"),
    [
        ({"PKG-INFO": PKG_INFO, "pyproject.toml": system("flit_core", "flit_core.buildapi")},
         ["idna>=3", "six; extra == 'fast'"], ["flit_core"]),
        ({"PKG-INFO": "Name: x\n", "src/x.egg-info/requires.txt": REQUIRES},
         ["idna>=3", "old ; (python_version < '3')", 'six==1 ; extra == "fast"',
          'win ; (os_name == \'nt\') and extra == "fast"'], ["setuptools>=40.8", "wheel"]),
        ({"pyproject.toml": system('setuptools", "cython', "setuptools.build_meta")},
         [], ["setuptools", "cython", "wheel"]),
        ({}, [], ["setuptools>=40.8", "wheel"]),
    ],
)  # fmt: skip
def test_what_an_sdist_needs_is_read_from_its_text(
    tmp_path: Path, files: dict[str, str], requires: list[str], build: list[str]
) -> None:
    found = RESOLVE.read_sdist(sdist(tmp_path, "x-1.tar.gz", {"setup.py": "raise SystemExit", **files})[0])
    assert (found["requires"], found["build"]) == (requires, build)


CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def cargo_lock(name: str, source: str = CRATES_IO) -> str:
    own = '[[package]]\nname = "own"\nversion = "0.1.0"\n\n'
    return own + f'[[package]]\nname = "{name}"\nversion = "1.0.0"\nsource = "{source}"\nchecksum = "{A}"\n'


def test_the_crates_of_an_sdist_with_rust_code_are_read_from_its_own_locks(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": system("maturin>=1,<2", "maturin"),
        "rust/Cargo.lock": cargo_lock("itoa"),
        "vendor/other/Cargo.lock": cargo_lock("ryu"),
    }
    assert RESOLVE.read_sdist(sdist(tmp_path, "x-1.tar.gz", files)[0])["crates"] == [["itoa", "1.0.0", A]]
    files["pyproject.toml"] = system("setuptools", "setuptools.build_meta")
    assert RESOLVE.read_sdist(sdist(tmp_path, "y-1.tar.gz", files)[0])["crates"] == []


def test_reading_locks_ends_with_the_most_crates_that_an_sdist_may_have(tmp_path: Path) -> None:
    many = "".join(cargo_lock(f"crate-{number}") for number in range(RESOLVE.MOST_CRATES + 1))
    files = {"pyproject.toml": system("maturin", "maturin"), "Cargo.lock": many, "rust/Cargo.lock": "no TOML"}
    with pytest.raises(RESOLVE.Unusable, match="has more than 1000 crates"):
        RESOLVE.read_sdist(sdist(tmp_path, "x-1.tar.gz", files)[0])


def test_a_crate_whose_bytes_nothing_pins_is_refused_by_name(tmp_path: Path) -> None:
    git = "git+https://example.com/itoa?rev=1#0123"
    files = {"pyproject.toml": system("maturin>=1,<2", "maturin"), "Cargo.lock": cargo_lock("itoa", git)}
    with pytest.raises(RESOLVE.Unusable, match=r"takes the crate itoa from git\+https://example\.com"):
        RESOLVE.read_sdist(sdist(tmp_path, "x-1.tar.gz", files)[0])


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("https://c.example/{crate}-{version}.crate", "https://c.example/serde-1.0.0.crate"),
        ("https://c.example/{prefix}/{crate}/{sha256-checksum}", f"https://c.example/se/rd/serde/{A}"),
    ],
)
def test_a_crate_is_fetched_from_where_its_registry_says(template: str, url: str) -> None:
    assert DOWNLOAD.crate_url(template, "serde", "1.0.0", A) == url


def test_cargo_has_the_crates_that_the_sdists_own_lock_pins_and_no_others(tmp_path: Path) -> None:
    top, store = tmp_path / "top", tmp_path / "store"
    for name, digest in (("itoa", A), ("ryu", B)):
        (store / digest).mkdir(parents=True)
        file, _ = sdist(tmp_path, f"{name}-1.0.0.tar.gz", {"src/lib.rs": ""})
        file.rename(store / digest / f"{name}-1.0.0.crate")
    top.mkdir()
    (top / "Cargo.lock").write_text(cargo_lock("itoa"))
    assert BUILDING.lay_crates(top, store, tmp_path / "cargo") == 1
    vendor = tmp_path / "cargo/crates"
    assert [path.name for path in vendor.iterdir()] == ["itoa-1.0.0"]
    assert json.loads((vendor / "itoa-1.0.0/.cargo-checksum.json").read_text()) == {"files": {}, "package": A}
    config = tomllib.loads((tmp_path / "cargo/config.toml").read_text())
    assert config["source"]["crates-io"] == {"replace-with": "verified"} and config["net"]["offline"]


def test_a_zip_is_read_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x-1.zip", "w") as archive:
        archive.writestr("x-1/PKG-INFO", PKG_INFO)
    assert RESOLVE.read_sdist(tmp_path / "x-1.zip")["requires"] == ["idna>=3", "six; extra == 'fast'"]


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b\x08" + b"\0" * 40])
def test_what_is_no_archive_ends_the_step_in_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x-1.tar.gz").write_bytes(data)
    with pytest.raises(RESOLVE.Unusable, match=r"x-1\.tar\.gz is no archive"):
        RESOLVE.read_sdist(tmp_path / "x-1.tar.gz")


class Index:
    """uv, as the rounds see it: wheels alone until an sdist is allowed, whose needs it then takes from its settings."""

    def __init__(self, folder: Path, packages: Mapping[str, Mapping[str, str]]) -> None:
        self.folder, self.calls = folder, list[list[str]]()
        self.files = {name: sdist(folder, f"{name}-1.tar.gz", files) for name, files in packages.items()}

    def run(self, argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(argv)
        allowed = {argv[at + 1] for at, word in enumerate(argv) if word == "--no-binary"}
        text = (self.folder / "uv.toml").read_text() if allowed else ""
        needed = [name for name in self.files if name == "top" or f'"{name}"' in text]
        missing = [name for name in needed if name not in allowed]
        if missing:
            words = f"Because {missing[0]}==1 has no usable wheels\nhint: Wheels are required for `{missing[0]}`"
            return subprocess.CompletedProcess(argv, 1, "", words)
        lines = [
            f'[[packages]]\nname = "{name}"\nversion = "1"\nsdist = {{ url = "https://index.example/{self.files[name][0].name}",'
            f' hashes = {{ sha256 = "{self.files[name][1]}" }} }}\n'
            for name in needed
        ]
        (self.folder / "pylock.toml").write_text("".join(lines))
        return subprocess.CompletedProcess(argv, 0, "", "")

    def fetch(self, url: str, digest: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((self.folder / url.rpartition("/")[2]).read_bytes())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Index]:
    def make(**packages: Mapping[str, str]) -> Index:
        found = Index(tmp_path, packages)
        monkeypatch.chdir(tmp_path)
        scope = RESOLVE.resolve_rounds.__globals__
        monkeypatch.setitem(
            scope, "subprocess", SimpleNamespace(run=found.run, CompletedProcess=subprocess.CompletedProcess)
        )
        monkeypatch.setitem(scope, "fetch", found.fetch)
        return found

    return make


ARGV = ["uv", "pip", "compile", "--no-config", "--output-file", "pylock.toml", "r.txt"]


def test_rounds_go_on_until_no_sdist_asks_for_another(index: Callable[..., Index]) -> None:
    found = index(top={"PKG-INFO": "Requires-Dist: deep\n"}, deep={"PKG-INFO": "Name: deep\n"})
    done, listed = RESOLVE.resolve_rounds(ARGV, Path("pylock.toml"))
    assert done.returncode == 0
    assert [(one["name"], one["requires"]) for one in listed] == [("top", ["deep"]), ("deep", [])]
    assert all("--no-config" in argv or "--config-file" in argv for argv in found.calls)


def test_rounds_end(index: Callable[..., Index], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"p{at}" for at in range(30)]
    index(top={"PKG-INFO": "Requires-Dist: p0\n"}, **{
        name: {"PKG-INFO": f"Requires-Dist: p{at + 1}\n"} for at, name in enumerate(names)
    })  # fmt: skip
    done, listed = RESOLVE.resolve_rounds(ARGV, Path("pylock.toml"))
    assert done.returncode == 1 and listed == []


def lock(*packages: str) -> str:
    return "".join(packages)


WHEEL = (
    f'[[packages]]\nname = "setuptools"\nversion = "80"\nwheels = [{{ url = "https://index.example/setuptools-80-py3-none-any.whl",'
    f' hashes = {{ sha256 = "{B}" }} }}]\n'
)
SDIST = (
    f'[[packages]]\nname = "top"\nversion = "1"\nsdist = {{ url = "https://index.example/top-1.tar.gz",'
    f' hashes = {{ sha256 = "{A}" }} }}\n'
)


def stubs(**more: str) -> DictTree:
    listed = json.dumps([{"name": "top", "version": "1", "lock": "pylock.build-0.toml"}])
    files = {"pylock.toml": SDIST, "pylock.build-0.toml": WHEEL, "sdists.json": listed, "requirements.txt": "top==1\n"}
    return DictTree(files | {name.replace("__", "."): text for name, text in more.items()})


def fetched(tree: DictTree) -> Fetched:
    found = wheels.fetched(tree, "requirements.txt", "requirements.txt", "3.11")
    assert found is not None
    return found


def test_an_sdist_and_what_builds_it_are_downloaded_by_digest() -> None:
    found = fetched(stubs())
    assert [one.path for one in found.wanted] == [f"{A}/top-1.tar.gz", f"{B}/setuptools-80-py3-none-any.whl"]
    (built,) = found.built
    assert (built.name, built.of) == ("top==1", (f"sha256:{A}", f"sha256:{B}"))
    assert "--require-hashes" not in built.files[0].content and f"--hash=sha256:{B}" in built.files[0].content
    assert [file.content for file in found.files if file.path == "install.txt"] == [""]
    assert not any(file.path == "install-built.txt" for file in found.files)


def test_the_crates_of_an_sdist_are_downloaded_by_digest_too() -> None:
    crates = [["itoa", "1.0.0", C], ["../x", "1", C], ["ryu", "1.0.0", "none"], "itoa"]
    listed = json.dumps([{"name": "top", "version": "1", "lock": "pylock.build-0.toml", "crates": crates}])
    found = fetched(stubs(sdists__json=listed))
    assert [(one.path, one.package) for one in found.wanted[2:]] == [(f"{C}/itoa-1.0.0.crate", "pkg:cargo/itoa@1.0.0")]
    entries = json.loads(next(file.content for file in found.files if file.path == "download.json"))
    assert entries[-1] == {"crate": "itoa", "version": "1.0.0", "path": f"{C}/itoa-1.0.0.crate"}


def test_a_pin_holds_for_an_sdist() -> None:
    with pytest.raises(BuildError, match="pins by hash"):
        fetched(stubs(requirements__txt=f"top==1 --hash=sha256:{C}\n"))


def test_what_was_built_is_installed_by_its_digest() -> None:
    made = json.dumps({"top==1": {"path": f"{C}/top-1-py3-none-any.whl", "digest": f"sha256:{B}"}})
    files = {file.path: file.content for file in fetched(stubs(built__json=made)).files}
    assert files["install-built.txt"] == f"--find-links ${{BUILT}}/{C}\ntop==1 --hash=sha256:{B}\n"


@pytest.mark.parametrize(
    "file", ["idna-1-py3-none-any.whl", "top-2-py3-none-any.whl", "top-1-cp39-cp39-linux_x86_64.whl", "top.whl"]
)
def test_a_wheel_of_another_package_version_or_python_is_not_installed(file: str) -> None:
    made = json.dumps({"top==1": {"path": f"{C}/{file}", "digest": f"sha256:{B}"}})
    with pytest.raises(BuildError, match="does not fit"):
        fetched(stubs(built__json=made))


@pytest.mark.parametrize("text", ["{", "[1, 2]", '[{"name": "top", "lock": "../../x"}]', "[" * 100_000])
def test_a_list_of_sdists_that_is_none_names_none(text: str) -> None:
    with pytest.raises(BuildError, match="neither a wheel"):
        fetched(stubs(sdists__json=text))


STEP = Step(name="build sdists", argv=("build",), sees=Sees.APART, cwd="/work/home")
ONE = Built(name="top==1", words=("w",), of=(f"sha256:{A}",), ending=".whl")


class Node:
    """What `apart` needs of an attempt, a plan and a toolchain."""

    def __init__(self, folder: Path, made: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self.runs = folder / "work", 0
        (self.work / "fetch").mkdir(parents=True)
        (self.work / "src").mkdir()
        (self.work / "src/secret.py").write_text("mine")
        (folder / "store").mkdir()
        self.node = SimpleNamespace(settings=SimpleNamespace(disk_bytes=1000))
        self.log = SimpleNamespace(system=lambda line: None)
        self.made, self.digests = made, {"base": "sha256:1"}
        monkeypatch.setattr(apart, "named", lambda attempt, plan: Fetched(wanted=(), built=(ONE,)))
        monkeypatch.setattr(apart, "shared", lambda attempt, name: folder / "store")
        monkeypatch.setattr(apart, "execute_step", self.execute)

    def check(self) -> None:
        pass

    def chown_to_build_user(self, path: Path | str, folder: int | None = None) -> None:
        pass

    def execute(self, attempt: object, toolchain: object, step: Step, work: Path) -> StepResult:
        self.runs += 1
        assert work != self.work and not list((work / "src").iterdir())
        assert step.argv == ("build", "w")
        for name, data in self.made.items():
            (work / "out" / name).write_bytes(data)
        return StepResult(exit_code=0, tail=())

    def build(self) -> dict[str, dict[str, str]]:
        bound: Any = SimpleNamespace(plan=None, toolchain=SimpleNamespace(digests=self.digests))
        attempt: Any = self
        apart.build_apart(attempt, bound, STEP, lambda result: None)
        found: dict[str, dict[str, str]] = json.loads((self.work / "fetch" / BUILT).read_text())
        return found


def test_what_is_built_is_taken_once_and_nothing_else_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path, {"top-1-py3-none-any.whl": b"wheel", "other.txt": b""}, monkeypatch)
    first = node.build()
    assert first["top==1"]["digest"] == "sha256:" + hashlib.sha256(b"wheel").hexdigest()
    kept = tmp_path / "store" / first["top==1"]["path"]
    assert kept.read_bytes() == b"wheel" and kept.stat().st_mode & 0o777 == 0o444
    assert not node.work.with_suffix(".apart").exists()
    node.made = {"top-1-py3-none-any.whl": b"poisoned later"}
    assert node.build() == first and node.runs == 1
    node.digests = {"base": "sha256:2"}
    assert node.build() != first and node.runs == 2


def test_a_full_disk_is_not_the_sdists_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, {"a.whl": b"wheel"}, monkeypatch)

    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space left"):
            node.build()
    assert node.build()["top==1"]["path"].endswith("/a.whl")


@pytest.mark.parametrize("made", [{}, {"a.whl": b"", "b.whl": b""}, {"-x.whl": b""}, {"a b.whl": b""}])
def test_a_run_that_left_none_or_several_is_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, bytes]
) -> None:
    with pytest.raises(BuildError, match="left no file") as caught:
        Node(tmp_path, made, monkeypatch).build()
    assert caught.value.reason == "DependencyNotFound"
    assert list((tmp_path / "store").iterdir()) == []


def test_a_link_or_what_is_too_large_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, {"a.whl": b"x" * 1001}, monkeypatch)
    with pytest.raises(BuildError, match="limit of 1000"):
        node.build()

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a.whl").write_bytes(b"wheel")

    def linked(work: Path) -> None:
        os.symlink(tmp_path / "theirs/a.whl", work / "out/a.whl")

    def folder_linked(work: Path) -> None:
        (work / "out").rmdir()
        os.symlink(tmp_path / "theirs", work / "out")

    def gone(work: Path) -> None:
        (work / "out").rmdir()

    for leave in (linked, folder_linked, gone):

        def execute(
            attempt: object, toolchain: object, step: Step, work: Path, leave: Callable[[Path], None] = leave
        ) -> StepResult:
            leave(work)
            return StepResult(exit_code=0, tail=())

        monkeypatch.setattr(apart, "execute_step", execute)
        with pytest.raises(BuildError, match=r"DependencyNotFound.*left no file"):
            node.build()
        assert list((tmp_path / "store").iterdir()) == []


def test_an_sdist_with_rust_code_names_itself_and_the_command_where_there_is_no_rust() -> None:
    step = replace(STEP, argv=("/usr/bin/python3.14", "-I"))
    line = "error: this sdist is built by cargo, which is not there"
    found = python.diagnose(step, 1, ["building the sdist rpds_py-0.25.1.tar.gz", line])
    assert "rpds_py-0.25.1.tar.gz has no wheel that fits, and building it needs cargo" in found.message
    assert "runtimes fetch rust-1.97" in found.next and "bases build python-3.14-build" in found.next


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", "needs gcc"),
        ("Error: pg_config executable not found. It failed: pg_config is absent", "needs pg_config"),
        ("error: can't find Rust compiler; failed to run cargo", "needs cargo"),
        ("error: the wheel needs six, which its sdist does not name", "does not name six"),
        ("ValueError: something else", "does not build"),
    ],
)
def test_an_sdist_that_does_not_build_is_named_with_what_it_misses(line: str, words: str) -> None:
    found = python.diagnose(STEP, 1, ["building the sdist top-1.tar.gz", "noise", line])
    assert found.reason == "DependencyNotFound" and found.where == "top-1.tar.gz"
    assert words in found.message and found.said[0] == line
