"""Real projects from the registries: what `projects.toml` says of them, their archives, the source that is sent.

Archives come through the registries' ordinary clients, set up as the machine has them, and count only with the sha256
of their row.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import Server

HERE = Path(__file__).resolve().parent
PATIENCE_S = 300
BUILD_S = 2400
"""The time limit of a build: a framework's crates take two minutes of two cores, and a busy machine has fewer."""
PATIENCE_BUILD_S = BUILD_S + 60
PIP = "pip==26.3"  # uv has no word for "give me the archive itself"
PYTHON = ("--python-version", "3.11", "--only-binary", ":all:")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_26_x86_64", "manylinux2014_x86_64")
SOURCE = {
    "go": (".go",),
    "python": (".py", ".pyx", ".pxi", ".pxd"),
    "rust": (".rs", ".c", ".h"),
    "deno": (".ts", ".mts", ".js", ".mjs"),
}
COMPONENTS = "1.85"
"""The Rust of the toolchain image that makes components."""
COMPILED = (".c", ".cc", ".h", ".rs")
"""What is source code of a Python sdist beside Python."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request and its whole answer."""

    answer: str
    method: str = "POST"
    path: str = "/"
    send: str = ""
    status: int = 200


@dataclass(frozen=True, kw_only=True)
class Project:
    """A row of projects.toml, whose head says what each field means. `folder` is None where the build fetches it."""

    name: str
    runtime: str
    package: str
    version: str
    sha256: str
    lines: int
    call: tuple[Call, ...]
    folder: str | None = None
    sdist: bool = False
    bases: tuple[str, ...] = ()

    @property
    def ours(self) -> dict[str, bytes]:
        """Our handler and manifests."""
        root = HERE / self.name
        paths = (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def projects() -> list[Project]:
    """The rows; an unknown key is a `TypeError`."""
    rows: list[dict[str, Any]] = tomllib.loads((HERE / "projects.toml").read_text())["project"]
    return [
        Project(**{**row, "call": tuple(Call(**call) for call in row["call"]), "bases": tuple(row.get("bases", ()))})
        for row in rows
    ]


def fetch(project: Project, kept: Path) -> bytes:
    """The archive, from `kept` when an earlier session left it there. The sha256 is the row's, or it is an error."""
    path = kept / project.sha256
    if not path.is_file():
        part = path.with_suffix(".part")  # an interrupted session must not leave half an archive under its name
        client = {"go": _from_go, "python": _from_python, "rust": _from_cargo, "deno": _from_npm}[project.runtime]
        part.write_bytes(client(project))
        part.replace(path)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != project.sha256:
        path.unlink()
        raise AssertionError(f"{project.package} {project.version} is {found}, its row pins {project.sha256}")
    return data


def go_sum(archive: bytes) -> str:
    """What go.sum says of a module's ZIP: Hash1 of golang.org/x/mod/sumdb/dirhash."""
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files(archive).items()))
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def integrity(archive: bytes) -> str:
    """What deno.lock says of an npm package's tarball."""
    return "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()


def pinned(project: Project) -> str:
    """The digest of the package in the lock of ours: Cargo.lock's checksum, deno.lock's integrity."""
    if project.runtime == "deno":
        packages = json.loads(project.ours["deno.lock"])["npm"]
        return str(packages[f"{project.package}@{project.version}"]["integrity"])
    packages = tomllib.loads(project.ours["Cargo.lock"].decode())["package"]
    (own,) = (one for one in packages if (one["name"], one["version"]) == (project.package, project.version))
    return str(own["checksum"])


def allowed_hashes(project: Project) -> set[str]:
    """The sha256 of every file of the package that the Python manifest of ours would take."""
    if "uv.lock" in project.ours:
        packages = tomllib.loads(project.ours["uv.lock"].decode())["package"]
        (own,) = (one for one in packages if one["name"] == project.package)
        found = [one["hash"] for one in (*own.get("wheels", ()), *([own["sdist"]] if "sdist" in own else ()))]
        return {one.removeprefix("sha256:") for one in found}
    text = project.ours["requirements.txt"].decode().replace("\\\n", " ")
    (line,) = (one for one in text.splitlines() if one.startswith(f"{project.package}=={project.version} "))
    return set(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))


def _from_go(project: Project) -> bytes:
    if shutil.which("go") is None:
        raise AssertionError("go is not on PATH: the corpus needs Go 1.24 or newer for its Go projects")
    with tempfile.TemporaryDirectory() as folder:  # outside of any module, so that no go.mod of ours takes part
        argv = ["go", "mod", "download", "-json", f"{project.package}@{project.version}"]
        done = subprocess.run(argv, check=False, cwd=folder, stdout=subprocess.PIPE, timeout=PATIENCE_S)
    said = json.loads(done.stdout)
    assert done.returncode == 0, said
    return Path(said["Zip"]).read_bytes()


def _from_cargo(project: Project) -> bytes:
    """cargo downloads a crate for a manifest that names it; nothing of it is compiled."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "src").mkdir()
        (root / "src/lib.rs").touch()
        version = project.version.partition("+")[0]
        manifest = f'[package]\nname = "own"\n[dependencies]\n{project.package} = "={version}"\n'
        (root / "Cargo.toml").write_text(manifest, encoding="utf-8")
        env = {**os.environ, "CARGO_HOME": str(root / "home")}
        argv = ["cargo", "fetch", "--quiet"]
        subprocess.run(argv, check=True, cwd=root, env=env, timeout=PATIENCE_S)
        (got,) = (root / "home/registry/cache").glob(f"*/{project.package}-{project.version}.crate")
        return got.read_bytes()


def _from_npm(project: Project) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        argv = ["npm", "pack", "--silent", "--pack-destination", folder, f"{project.package}@{project.version}"]
        subprocess.run(argv, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
        (got,) = Path(folder).glob("*.tgz")
        return got.read_bytes()


def _from_python(project: Project) -> bytes:
    """pip takes the one file with this hash: the sdist where the source is built from it, else the wheel."""
    wanted = f"{project.package}=={project.version} --hash=sha256:{project.sha256}\n"
    wheel = (*PYTHON, *(part for name in PLATFORMS for part in ("--platform", name)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text(wanted, encoding="utf-8")
        argv = [
            find_uv_bin(), "tool", "run", "--quiet", "--from", PIP, "pip", "download", "--quiet", "--no-deps",
            "--require-hashes", "--dest", f"{folder}/got", "-r", str(file),
            *(wheel if project.folder is None and not project.sdist else ()),
        ]  # fmt: skip
        subprocess.run(argv, check=True, timeout=PATIENCE_S)
        (got,) = Path(folder, "got").iterdir()
        return got.read_bytes()


def files(archive: bytes) -> dict[str, bytes]:
    """Every file of a ZIP or tar.gz, by its name in there."""
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return {one.filename: opened.read(one) for one in opened.infolist() if not one.is_dir()}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened_tar:
        members = [one for one in opened_tar.getmembers() if not one.isdir()]
        assert all(one.isreg() for one in members), "only plain files are taken over one to one"
        return {one.name: file.read() for one in members if (file := opened_tar.extractfile(one))}


def source(project: Project, archive: bytes) -> dict[str, bytes]:
    """What is sent: the project's files below `folder` and ours, none of which replaces one of the project's."""
    if project.folder is None:
        return project.ours
    top = f"{project.package}@{project.version}/" if project.runtime == "go" else ""
    there = files(archive)
    top = top or next(iter(there)).split("/", 1)[0] + "/"
    assert all(name.startswith(top) for name in there)
    below = "" if project.folder == "." else project.folder + "/"
    theirs = {below + name.removeprefix(top): data for name, data in there.items()}
    assert not set(theirs) & set(project.ours)
    return theirs | project.ours


def build(server: Server, name: str, sent: bytes, runtime: str = "", **fields: Any) -> pb.Build:
    """Build it, the runtime left to detection, and expect success. A cold cache takes a busy machine minutes."""
    submitted = server.submit(name, sent, runtime, timeout_secs=BUILD_S, **fields)
    done = server.wait(submitted, patience_s=PATIENCE_BUILD_S)
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
    return done


def count_lines(project: Project, archive: bytes) -> int:
    """Lines of source code, tests left out."""
    return sum(
        data.count(b"\n")
        for name, data in files(archive).items()
        if name.endswith(SOURCE[project.runtime] + (COMPILED if project.sdist else ())) and not _is_test(name)
    )


def _is_test(name: str) -> bool:
    return name.endswith("_test.go") or bool({"test", "tests", "testdata"} & set(name.split("/")[:-1]))
