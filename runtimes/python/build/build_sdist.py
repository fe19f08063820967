"""Run inside a sandbox of its own, without a network: build one sdist into one wheel (PEP 517), beside nothing else.

    build_sdist.py UV SDIST REQUIREMENTS OUT NEEDED...

REQUIREMENTS installs what the build needs from verified wheels. NEEDED: names of packages that the resolver took into
account; a wheel that asks for others was resolved with too little.
"""

from __future__ import annotations

import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

HOME = Path("/work/home")
CRATES_IO = ("registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/")
RUST = Path("/opt/ignite/toolchain/rust/bin")
CONFIG = """\
[source.crates-io]
replace-with = "verified"

[source.verified]
directory = "{}"

[net]
offline = true
"""
OTHERS = {"benches", "examples", "fuzz", "test", "tests", "third_party", "vendor", "vendored"}
HOOK = """\
import importlib, json, sys
folders, name, out = sys.argv[1:]
sys.path[:0] = json.loads(folders)
name, _, attribute = name.partition(":")
backend = importlib.import_module(name)
for part in filter(None, attribute.split(".")):
    backend = getattr(backend, part)
backend.build_wheel(out, {})
"""


def extract(tar: tarfile.TarFile, into: Path, members: list[tarfile.TarInfo] | None = None) -> None:
    """Unpack an archive; an older Python has no filter."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(into, members, filter="data")
    else:
        tar.extractall(into, members)  # the sandbox has nothing that a path could overwrite


def unpack(sdist: Path, into: Path) -> Path:
    """The only folder of the sdist."""
    into.mkdir(parents=True)
    if sdist.name.endswith(".zip"):
        with zipfile.ZipFile(sdist) as archive:
            archive.extractall(into)
    else:
        with tarfile.open(sdist, "r:*") as tar:
            extract(tar, into)
    (top,) = [path for path in into.iterdir() if path.is_dir()]
    return top


def backend_of(top: Path) -> tuple[str, list[str]]:
    """(backend, folders that it is imported from) of a project (PEP 517)."""
    path = top / "pyproject.toml"
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    system = project.get("build-system", {})
    folders = [str(top / folder) for folder in system.get("backend-path", [])]
    return system.get("build-backend", "setuptools.build_meta:__legacy__"), folders


def lay_crates(top: Path, wheels: Path, cargo: Path) -> int:
    """Unpack the crates that the sdist's own Cargo.lock pins, as the one source that cargo has; returns how many."""
    vendor = cargo / "crates"
    vendor.mkdir(parents=True)
    (cargo / "config.toml").write_text(CONFIG.format(vendor), encoding="utf-8")
    laid = set()
    for lock in sorted(top.rglob("Cargo.lock")):
        if OTHERS.intersection(lock.relative_to(top).parts):
            continue
        for one in tomllib.loads(lock.read_text(encoding="utf-8")).get("package", []):
            if one.get("source") not in CRATES_IO:
                continue
            name, checksum = f"{one['name']}-{one['version']}", str(one.get("checksum", ""))
            file = wheels / checksum / f"{name}.crate"
            if name in laid or not re.fullmatch(r"[0-9a-f]{64}", checksum) or not file.is_file():
                continue
            with tarfile.open(file, "r:gz") as tar:
                members = [each for each in tar if each.name == name or each.name.startswith(f"{name}/")]
                extract(tar, vendor, members)
            package = json.dumps({"files": {}, "package": checksum})
            (vendor / name / ".cargo-checksum.json").write_text(package, encoding="utf-8")
            laid.add(name)
    return len(laid)


def main(uv: str, sdist: str, requirements: str, out: str, needed: list[str]) -> int:
    """Unpack, install what the build needs, build, and look at what the wheel asks for."""
    print(f"building the sdist {Path(sdist).name}", flush=True)
    top = unpack(Path(sdist), HOME / "sdist")
    installed = HOME / "build"
    argv = [
        uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--require-hashes", "--no-config",
        "--no-cache", "--only-binary", ":all:", "--python", sys.executable, "--target", str(installed),
        "-r", requirements,
    ]  # fmt: skip
    subprocess.run(argv, check=True)
    backend, folders = backend_of(top)
    env = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}:{os.environ['PATH']}"}
    env |= {"CARGO_NET_OFFLINE": "true", "PYTHONHASHSEED": "0"}
    if any(top.rglob("Cargo.toml")):
        if backend.startswith("maturin") and shutil.which("cargo", path=f"{RUST}:{env['PATH']}") is None:
            print("error: this sdist is built by cargo, which is not there", file=sys.stderr)
            return 1
        cargo = HOME / "cargo"
        print(f"{lay_crates(top, Path(sdist).parents[1], cargo)} crates of its Cargo.lock", flush=True)
        env |= {"CARGO_HOME": str(cargo), "PATH": f"{RUST}:{env['PATH']}"}
        if (RUST / "cargo").is_file():  # where its image's loader starts it, it takes that for itself
            env["CARGO"] = str(RUST / "cargo")
    where = json.dumps([*folders, *([str(top)] if backend.endswith("__legacy__") else [])])
    hook = [sys.executable, "-B", "-c", HOOK, where, backend, out]
    if code := subprocess.run(hook, cwd=top, env=env, check=False).returncode:
        return code
    (wheel,) = Path(out).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one)]
        metadata = email.parser.Parser().parsestr(archive.read(name).decode("utf-8", "replace"), headersonly=True)
    for text in metadata.get_all("Requires-Dist") or []:
        found = re.match(r"[A-Za-z0-9._-]+", str(text))
        asked = re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
        if ";" not in str(text) and asked and asked not in needed:
            print(
                f"error: the wheel needs {asked}, which its sdist does not name; add it to the requirements",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:5], sys.argv[5:]))
