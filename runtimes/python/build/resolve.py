"""Run inside the sandbox of a step that sees no source: resolve requirements, also where a package has no wheel.

    resolve.py -- UV pip compile ... --output-file LOCK REQUIREMENTS

No code of a package runs here: uv is asked for wheels alone. For a package that has none it may choose the sdist, and
is given what that needs (`dependency-metadata`), which this program reads from the sdist's own text. Since that changes
what is chosen, it goes on in rounds until nothing new comes up. Beside LOCK it writes `sdists.json`, and a lock of the
build requirements of each sdist.
"""

from __future__ import annotations

import configparser
import email.parser
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROUNDS = 10
MOST_SDISTS = 40
TRIES = 3
SILENCE_S = 60.0
TEXT_LIMIT = 1 << 20
SIZE_LIMIT = 1 << 30
NO_WHEEL = re.compile(
    r"(?<![\w.-])([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?:==[\w.+!*-]{1,64})?"
    r" has no (?:usable wheels|wheels with a matching)"
    r"|Wheels are required for `([A-Za-z0-9._-]{1,128})"
)
CONFIG, SDISTS = "uv.toml", "sdists.json"
KEPT = Path("sdists")
DEFAULT_BUILD = ["setuptools>=40.8", "wheel"]
RUST = re.compile(r"(?:maturin|setuptools[-_.]rust)(?![\w.-])", re.IGNORECASE)
CRATES_IO = ("registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/")
MOST_CRATES = 1000
OTHERS = {"benches", "examples", "fuzz", "test", "tests", "third_party", "vendor", "vendored"}
"""Folders of an sdist whose locks are those of other programs."""


class Unusable(Exception):
    """An sdist that cannot be read, or did not arrive."""


def canonical(name: str) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(argv: list[str], sdists: dict[str, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """uv, which may choose the sdists of these packages and is passed what they need."""
    more: list[str] = []
    if sdists:
        lines = []
        for name, known in sdists.items():
            lines.append(f"[[dependency-metadata]]\nname = {json.dumps(name)}\n")
            lines.append(f"requires-dist = {json.dumps(known['requires'])}\n")
            lines.append(f"provides-extras = {json.dumps(known['extras'])}\n\n")
            more += ["--no-binary", name]
        Path(CONFIG).write_text("".join(lines), encoding="utf-8")
        at = argv.index("--no-config")
        argv = [*argv[:at], "--config-file", CONFIG, *argv[at + 1 :]]
    return subprocess.run([*argv[:3], *more, *argv[3:]], capture_output=True, text=True, check=False)


def fetch(url: str, digest: str, path: Path) -> None:
    """Download a file once, and compare it with the index's digest. Raises `Unusable`."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial")
    trouble = ""
    for number in range(TRIES):
        time.sleep(0.5 * number)
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "ignite-builder"})
            with urllib.request.urlopen(request, timeout=SILENCE_S) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            break
        except OSError as error:
            trouble = str(error)
    else:
        raise Unusable(f"error sending request for {path.name}: {trouble}")
    with partial.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise Unusable(f"error: {path.name} arrived with another digest than the index has")
    partial.rename(path)


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """(path below the top folder, text) of the files of an sdist that name what it needs."""

    def wanted(name: str) -> str:
        inside = name.partition("/")[2]
        is_info = inside in ("PKG-INFO", "pyproject.toml")
        above = inside.split("/")[:-1]
        is_info = is_info or (inside.endswith("Cargo.lock") and len(above) <= 3 and not OTHERS.intersection(above))
        return inside if is_info or re.fullmatch(r"(?:src/)?[^/]{1,200}\.egg-info/requires\.txt", inside) else ""

    try:
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if inside := wanted(entry.filename):
                        with archive.open(entry) as file:
                            yield inside, file.read(TEXT_LIMIT).decode("utf-8", "replace")
            return
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                if member.isreg() and (inside := wanted(member.name)):
                    data = tar.extractfile(member)
                    yield inside, data.read(TEXT_LIMIT).decode("utf-8", "replace") if data else ""
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise Unusable(f"error: {path.name} is no archive that can be read: {error}") from None


def read_sdist(path: Path) -> dict[str, Any]:
    """What an sdist needs to run and to be built, by its text: core metadata, else setuptools' own list."""
    found = dict(texts(path))
    info = email.parser.Parser().parsestr(found.get("PKG-INFO", ""), headersonly=True)
    requires = [str(one) for one in info.get_all("Requires-Dist") or []]
    extras = [str(one) for one in info.get_all("Provides-Extra") or []]
    if not requires:
        listed = next((text for name, text in sorted(found.items()) if name.endswith("requires.txt")), "")
        requires, extras = from_requires(listed)
    try:
        project = tomllib.loads(found.get("pyproject.toml", ""))
    except (ValueError, RecursionError):
        raise Unusable(f"error: {path.name} has a pyproject.toml that is no TOML") from None
    system = project.get("build-system")
    system = system if isinstance(system, dict) else {}
    build = system.get("requires", DEFAULT_BUILD)
    backend = str(system.get("build-backend", "setuptools.build_meta:__legacy__"))
    build = [str(one) for one in build] if isinstance(build, list) else DEFAULT_BUILD
    if backend.startswith("setuptools"):
        build += [one for one in ("setuptools", "wheel") if not any(re.match(rf"{one}\b", other) for other in build)]
    is_rust = any(RUST.match(one) for one in build)
    locks = [text for name, text in sorted(found.items()) if name.rpartition("/")[2] == "Cargo.lock"]
    return {
        "requires": requires,
        "extras": extras,
        "build": build,
        "crates": crates_of(path.name, locks) if is_rust else [],
    }


def crates_of(sdist: str, locks: list[str]) -> list[list[str]]:
    """(name, version, SHA-256) of the crates that an sdist's own locks pin. Raises `Unusable` for any other."""
    found: dict[tuple[str, str, str], None] = {}
    for text in locks:
        try:
            listed = tomllib.loads(text).get("package", [])
        except (ValueError, RecursionError):
            raise Unusable(f"error: {sdist} has a Cargo.lock that is no TOML") from None
        for one in listed if isinstance(listed, list) else []:
            if not isinstance(one, dict) or "source" not in one:
                continue
            name, version, checksum = (str(one.get(key, "")) for key in ("name", "version", "checksum"))
            if one["source"] not in CRATES_IO:
                where = str(one["source"])[:120]
                raise Unusable(f"error: {sdist} takes the crate {name[:80]} from {where}, not from crates.io")
            found[name, version, checksum] = None
            if len(found) > MOST_CRATES:
                raise Unusable(f"error: {sdist} has more than {MOST_CRATES} crates")
    return [list(crate) for crate in found]


def from_requires(text: str) -> tuple[list[str], list[str]]:
    """(requirements, extras) of a requires.txt of setuptools, whose sections are `[extra:marker]`."""
    parser = configparser.ConfigParser(allow_no_value=True, delimiters=("\0",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_file(io.StringIO("[:]\n" + text))
    except configparser.Error:
        return [], []
    requires, extras = [], []
    for section in parser.sections():
        extra, _, marker = section.partition(":")
        extras += [extra] if extra else []
        conditions = [f"({marker})"] if marker else []
        conditions += [f'extra == "{extra}"'] if extra else []
        for need in parser.options(section):
            requires.append(f"{need} ; {' and '.join(conditions)}" if conditions else need)
    return requires, extras


def chosen_sdists(lock: Path) -> list[tuple[str, str, str, str]]:
    """(name, version, URL, SHA-256) of the packages of a lock that come without a wheel."""
    found = []
    for package in tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", []):
        sdist = package.get("sdist")
        if sdist and not package.get("wheels"):
            name, digest = str(package["name"]), str(sdist.get("hashes", {}).get("sha256", ""))
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise Unusable(f"error: the index has no SHA-256 of the sdist of {name}")
            found.append((canonical(name), str(package["version"]), str(sdist.get("url", "")), digest))
    return found


def resolve_rounds(argv: list[str], lock: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The last run of uv, and the sdists that it chose, with what is known of each."""
    sdists: dict[str, dict[str, Any]] = {}
    known: dict[tuple[str, str], dict[str, Any]] = {}
    first = done = run(argv, sdists)
    for _ in range(ROUNDS):
        if done.returncode:
            names = {canonical(one or other) for one, other in NO_WHEEL.findall(done.stderr)} - sdists.keys()
            if not names or len(sdists) + len(names) > MOST_SDISTS:
                return (first if sdists else done), []
            sdists |= {name: {"requires": [], "extras": []} for name in sorted(names)}
        else:
            before = json.dumps(sdists)
            listed = []
            for name, version, url, digest in chosen_sdists(lock):
                if (name, version) not in known:
                    path = KEPT / digest / url.rpartition("/")[2].partition("#")[0]
                    fetch(url, digest, path)
                    known[name, version] = read_sdist(path)
                sdists[name] = known[name, version]
                listed.append({"name": name, "version": version, **known[name, version]})
            if json.dumps(sdists) == before:
                return done, listed
        done = run(argv, sdists)
    print(f"error: the sdists ask for others in more than {ROUNDS} rounds", file=sys.stderr)
    return subprocess.CompletedProcess(argv, 1, "", done.stderr), []


def lock_builds(argv: list[str], listed: list[dict[str, Any]]) -> int:
    """Write a lock of the build requirements of each sdist: wheels alone."""
    locks: dict[str, str] = {}
    at, cache = argv.index("--python"), argv.index("--cache-dir")
    for entry in listed:
        wanted = "".join(f"{line}\n" for line in entry.pop("build"))
        if wanted not in locks:
            locks[wanted] = f"pylock.build-{len(locks)}.toml"
            name = f"build-{len(locks) - 1}.in"
            Path(name).write_text(wanted, encoding="utf-8")
            done = subprocess.run(
                [
                    *argv[:3], "--quiet", "--no-sources", "--only-binary", ":all:", "--no-config", *argv[at : at + 2],
                    "--no-header", "--format", "pylock.toml", *argv[cache : cache + 2], "--output-file", locks[wanted],
                    name,
                ],
                check=False,
            )  # fmt: skip
            if done.returncode:
                print(f"error: what the sdist of {entry['name']} needs to be built is not to be had", file=sys.stderr)
                return done.returncode
        entry["lock"] = locks[wanted]
    return 0


def main(argv: list[str]) -> int:
    """Resolve; the words of uv are those of the first run that nothing here could help."""
    lock = Path(argv[argv.index("--output-file") + 1])
    try:
        done, listed = resolve_rounds(argv, lock)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    sys.stderr.write(done.stderr)
    sys.stdout.write(done.stdout)
    if done.returncode:
        return done.returncode
    code = lock_builds(argv, listed)
    if not code and listed:
        Path(SDISTS).write_text(json.dumps(listed), encoding="utf-8")
        print(
            f"{len(listed)} packages have no wheel that fits and are built: {', '.join(one['name'] for one in listed)}"
        )
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[sys.argv.index("--") + 1 :]))
