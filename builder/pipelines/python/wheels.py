"""Which wheel of each resolved package is installed, and where it is fetched from. Pure.

uv resolves against the index and writes a `pylock.toml` (PEP 751) with the wheels that fit this Python. What the source
pins by hash decides among them; else the index's hash of its own file is the pin.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT, LOCK_LIMIT, read_toml
from builder.plan import BUILT, Built, Fetched, WantedFile, WriteFile
from builder.source.tree import Tree

if TYPE_CHECKING:  # other runtimes do without it
    from packaging.tags import Tag

LOCK = "pylock.toml"
CACHE = "wheels"
CONSTRAINTS = "constraints.txt"
DOWNLOAD, INSTALL = "download.json", "install.txt"
SDISTS, INSTALL_BUILT = "sdists.json", "install-built.txt"
SERVER, SERVER_LOCK, SERVER_INSTALL = "server.txt", "pylock.server.toml", "install-server.txt"
"""The server of ours: what is asked for, what the index has of it, what is installed."""
_PINS = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BUILD_LOCK = re.compile(r"pylock\.build-\d{1,3}\.toml", re.ASCII)
_SDIST = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}\.(?:tar\.(?:gz|bz2|xz)|tgz|zip)", re.ASCII)
CRATES = "crates"
"""The kind of index that crates come from (runtimes/python/toolchain.toml)."""
_CRATE = (re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII), re.compile(r"[A-Za-z0-9.+-]{1,200}", re.ASCII), _DIGEST)
"""Name, version and SHA-256 of a crate."""
_NEWEST_GLIBC = 50
"""uv lists only what fits the base's own C library; the order of those is all that this number bounds."""


@dataclass(frozen=True, kw_only=True)
class Sdist:
    """A package without a wheel that fits: where its sdist is in the cache, and the lock of what its build needs."""

    name: str
    version: str
    path: str
    digest: str
    lock: str
    crates: tuple[tuple[str, str, str], ...] = ()
    """The crates of one with Rust code: (name, version, SHA-256) as its own Cargo.lock pins them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The wheels of one lock of the resolver's: what is downloaded, from where, and the lines that install it."""

    wanted: tuple[WantedFile, ...]
    urls: tuple[dict[str, str], ...]
    install: str
    names: tuple[str, ...] = ()
    sdists: tuple[Sdist, ...] = ()


def fetched(
    stubs: Tree, requirements: str, manifest: str, version: str, *, with_server: bool = False
) -> Fetched | None:
    """The wheels of the resolver's locks, as one download; None while it has not written them all.

    `requirements` is the stub that was resolved, "" where the source needs nothing. Raises as `read`.
    """
    parts: dict[str, Part | None] = {}
    if requirements:
        parts[INSTALL] = read(stubs, LOCK, requirements, manifest, version, _sdists(stubs))
    if with_server:
        parts[SERVER_INSTALL] = read(stubs, SERVER_LOCK, SERVER, SERVER, version)
    there = {name: part for name, part in parts.items() if part is not None}
    if len(there) < len(parts):
        return None
    built: list[Built] = []
    builds: list[Part] = []
    for one in (one for part in there.values() for one in part.sdists):
        build = read(stubs, one.lock, "", manifest, version)
        if build is None:
            return None
        builds += (build, _crates(one))
        built.append(_built(one, build, there[INSTALL].names))
    every = (*there.values(), *builds)
    wanted = {one.path: one for part in every for one in part.wanted}
    urls = {one["path"]: one for part in every for one in part.urls}
    listed = WriteFile(path=DOWNLOAD, content=json.dumps(list(urls.values())))
    files = [WriteFile(path=name, content=part.install) for name, part in there.items()]
    if built and stubs.has(BUILT):
        sdists = [one for part in there.values() for one in part.sdists]
        files.append(WriteFile(path=INSTALL_BUILT, content=_install_built(stubs, sdists, manifest, version)))
    return Fetched(wanted=tuple(wanted.values()), built=tuple(built), files=(listed, *files))


def _crates(sdist: Sdist) -> Part:
    """The crates of an sdist with Rust code. Its build reads its own Cargo.lock and takes no other bytes."""
    wanted, urls = [], []
    for name, version, digest in sdist.crates:
        path = f"{digest}/{name}-{version}.crate"
        purl = f"pkg:cargo/{name}@{version}"
        pinned = f"sha256:{digest}"
        wanted.append(WantedFile(cache=CACHE, source=path, path=path, digest=pinned, package=purl, index=CRATES))
        urls.append({"crate": name, "version": version, "path": path})
    return Part(wanted=tuple(wanted), urls=tuple(urls), install="")


def _built(sdist: Sdist, build: Part, names: Sequence[str]) -> Built:
    """One sdist, as the step that builds it takes it."""
    return Built(
        name=f"{sdist.name}=={sdist.version}",
        words=(f"/cache/{CACHE}/{sdist.path}", "/work/fetch/build.txt", "/work/out", *names),
        of=(f"sha256:{sdist.digest}", *(one.digest for one in build.wanted)),
        ending=".whl",
        files=(WriteFile(path="build.txt", content=build.install),),
    )


def _install_built(stubs: Tree, sdists: Sequence[Sdist], manifest: str, version: str) -> str:
    """The lines that install what was built. Its code chose the name, so a wheel of another package is none."""
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    made = json.loads(stubs.read_text(BUILT, LOCK_LIMIT))  # the node's own words
    lines = []
    for one in sdists:
        entry = made[f"{one.name}=={one.version}"]
        folder, _, file = str(entry["path"]).partition("/")
        try:
            whose, which, _, _ = parse_wheel_filename(file)
        except InvalidWheelFilename:
            whose, which = None, None
        fits = whose == canonicalize_name(one.name) and str(which) == one.version
        if not fits or _rank(file, version) == len(_order(version)):
            message = f"building the sdist of {one.name} {one.version} made {file[:80]}, which does not fit"
            where = f"{manifest}  {one.name}"
            raise BuildError("DependencyNotFound", message, where=where, next="Take a version that has a wheel.")
        digest = str(entry["digest"]).removeprefix("sha256:")
        lines.append(f"--find-links ${{BUILT}}/{folder}\n{one.name}=={one.version} --hash=sha256:{digest}\n")
    return "".join(lines)


def _sdists(stubs: Tree) -> Mapping[str, tuple[str, tuple[tuple[str, str, str], ...]]]:
    """Package → (the lock of what its build needs, its crates), as the resolver's step wrote it; nothing is trusted."""
    from packaging.utils import canonicalize_name

    try:
        listed = json.loads(stubs.read_text(SDISTS, LOCK_LIMIT)) if stubs.has(SDISTS) else []
    except (ValueError, RecursionError):
        listed = []
    found = {}
    for one in _tables(listed):
        if _BUILD_LOCK.fullmatch(str(one.get("lock"))[:LINE_LIMIT]):
            crates = one.get("crates")
            fit = tuple(each for each in map(_crate, crates if isinstance(crates, list) else ()) if each)
            found[str(canonicalize_name(str(one.get("name"))[:LINE_LIMIT]))] = (str(one.get("lock")), fit)
    return found


def _crate(value: object) -> tuple[str, str, str] | None:
    """(name, version, SHA-256), or None for what names no crate."""
    parts = tuple(map(str, value)) if isinstance(value, list) else ()
    if len(parts) != len(_CRATE) or not all(shape.fullmatch(part) for shape, part in zip(_CRATE, parts, strict=True)):
        return None
    return parts[0], parts[1], parts[2]


def read(
    stubs: Tree,
    lock: str,
    requirements: str,
    manifest: str,
    version: str,
    sdists: Mapping[str, tuple[str, tuple[tuple[str, str, str], ...]]] | None = None,
) -> Part | None:
    """The wheels of a lock of the resolver's, and the sdists of packages that have none (name → lock of its build,
    crates).

    `requirements` is the stub that was resolved, if any: the hashes in it are the source's own.
    Raises `BuildError` LockOutdated, DependencyNotFound.
    """
    from packaging.utils import canonicalize_name

    if not stubs.has(lock):
        return None
    pins = _pins(stubs.read_text(requirements, LOCK_LIMIT), manifest) if requirements else {}
    if stubs.has(CONSTRAINTS) and lock == LOCK:  # as in pip, a hash anywhere asks for one everywhere
        pins = _pins(stubs.read_text(CONSTRAINTS, LOCK_LIMIT), manifest) | pins
    wanted: list[WantedFile] = []
    urls: list[dict[str, str]] = []
    lines: list[str] = []
    names: list[str] = []
    built: list[Sdist] = []
    for package in _tables(read_toml(stubs, lock, LOCK_LIMIT).get("packages")):
        name, number = str(package.get("name")), str(package.get("version"))
        names.append(str(canonicalize_name(name)))
        own, crates = (sdists or {}).get(names[-1], ("", ()))
        url, file, digest = _chosen(package, pins, manifest, version, is_sdist=bool(own))
        path = f"{digest}/{file}"
        purl = f"pkg:pypi/{canonicalize_name(name)}@{number}"
        wanted.append(WantedFile(cache=CACHE, source=path, path=path, digest=f"sha256:{digest}", package=purl))
        urls.append({"url": url, "path": path})
        if own:
            built.append(Sdist(name=names[-1], version=number, path=path, digest=digest, lock=own, crates=crates))
        else:
            lines.append(f"--find-links ${{WHEELS}}/{digest}\n{name}=={number} --hash=sha256:{digest}\n")
    return Part(wanted=tuple(wanted), urls=tuple(urls), install="".join(lines), names=tuple(names), sdists=tuple(built))


def _chosen(
    package: Mapping[str, Any],
    pins: Mapping[str, frozenset[str]],
    manifest: str,
    version: str,
    *,
    is_sdist: bool = False,
) -> tuple[str, str, str]:
    """(URL, file name, SHA-256) of the wheel that fits best among those that the source allows, or of the sdist."""
    from packaging.utils import canonicalize_name

    name, number = str(package.get("name")), str(package.get("version"))
    wheels = sorted(_wheels(package), key=lambda wheel: _rank(wheel[1], version))
    wheels = list(_sdist(package)) if is_sdist else wheels
    if not wheels:
        message = f"{name} {number} has neither a wheel for this Python nor an sdist"
        raise BuildError(
            "DependencyNotFound", message, where=f"{manifest}  {name}", next="Take a version that has one."
        )
    allowed = pins.get(canonicalize_name(name))
    if pins and allowed is None:
        message = f"{name} is needed, but {manifest} pins others by hash and not this one"
        raise BuildError("LockOutdated", message, where=manifest, next=_again(manifest))
    fitting = [wheel for wheel in wheels if allowed is None or wheel[2] in allowed]
    if not fitting:
        message = f"{name}=={number} is not the one {manifest} pins by hash"
        raise BuildError("LockOutdated", message, where=f"{manifest}  {name}", next=_again(manifest))
    return fitting[0]


def _again(manifest: str) -> str:
    return f"Write {manifest} again with the tool that made it, and commit it."


def _wheels(package: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(URL, file name, SHA-256) of each wheel; an index may have anything: what is none of this package's is none."""
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    name, number = canonicalize_name(str(package.get("name"))), str(package.get("version"))
    for wheel in _tables(package.get("wheels")):
        url = str(wheel.get("url"))
        hashes = wheel.get("hashes")
        digest = str(hashes.get("sha256")) if isinstance(hashes, dict) else ""
        parts = urlsplit(url)
        file = unquote(parts.path.rpartition("/")[2])
        try:
            whose, which, _, _ = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        plain = "/" not in file and file.isprintable()  # of a name in the parsed file a build tag may hold anything
        ours = whose == name and str(which) == number and parts.scheme in ("http", "https")
        if plain and ours and _DIGEST.fullmatch(digest):
            yield url, file, digest


def _sdist(package: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(URL, file name, SHA-256) of the sdist, under a name that is plain."""
    sdist = package.get("sdist")
    url = str(sdist.get("url")) if isinstance(sdist, dict) else ""
    hashes = sdist.get("hashes") if isinstance(sdist, dict) else None
    digest = str(hashes.get("sha256")) if isinstance(hashes, dict) else ""
    parts = urlsplit(url)
    file = unquote(parts.path.rpartition("/")[2])
    if _SDIST.fullmatch(file) and parts.scheme in ("http", "https") and _DIGEST.fullmatch(digest):
        yield url, file, digest


def _rank(file: str, version: str) -> int:
    """The place of its best tag in the order of PEP 425 for this Python; smaller is better."""
    from packaging.utils import parse_wheel_filename

    order = _order(version)
    return min((order.get(tag, len(order)) for tag in parse_wheel_filename(file)[3]), default=len(order))


@functools.cache
def _order(version: str) -> Mapping[Tag, int]:
    from packaging.tags import compatible_tags, cpython_tags

    major, _, minor = version.partition(".")
    python = (int(major), int(minor))
    modern = [f"manylinux_2_{glibc}_x86_64" for glibc in range(_NEWEST_GLIBC, 4, -1)]
    older = ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    interpreter = f"cp{major}{minor}"
    platforms = [*modern, *older]
    tags = (*cpython_tags(python, platforms=platforms), *compatible_tags(python, interpreter, platforms))
    return {tag: place for place, tag in reversed([*enumerate(tags)])}


def _pins(requirements: str, manifest: str) -> dict[str, frozenset[str]]:
    """Name → the hashes that the source allows, from a file that we or uv wrote: one requirement a logical line."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, frozenset[str]] = {}
    for line in requirements.replace("\\\n", " ").splitlines():
        need = line.partition("--hash")[0].strip()
        if need and not need.startswith("#") and (hashes := _PINS.findall(line)):
            try:
                name = canonicalize_name(Requirement(need[:LINE_LIMIT]).name)
            except (InvalidRequirement, RecursionError):
                message = f"a hash pins what is no requirement (PEP 508): {need[:80]}"
                raise BuildError("ManifestInvalid", message, where=manifest, next=_again(manifest)) from None
            found[name] = found.get(name, frozenset()) | frozenset(hashes)
    return found


def _tables(value: object) -> Sequence[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
