"""The steps: fetch crates (network, stubs), unpack and compile them (none), then compile the source (none). Pure."""

from __future__ import annotations

import posixpath
import re

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.rust.config import TRIPLES
from builder.pipelines.rust.entry import features
from builder.pipelines.rust.inputs import APP, FETCH, MIRROR, OFFLINE, SDK, VENDOR, Source
from builder.pipelines.rust.lock import LIST
from builder.pipelines.rust.manifest import Package, table
from builder.plan import Access, Cache, Network, Sees, Step

CARGO = "/opt/ignite/toolchain/rust/bin/cargo"
LINKER = ("CARGO_TARGET_WASM32_WASIP2_LINKER", "/opt/ignite/toolchain/wasm-component-ld")
TARGET_DIR = "/work/out/target"
_INDEX = ("CARGO_REGISTRIES_MIRROR_INDEX", "${CARGO_REGISTRIES_MIRROR_INDEX:-sparse+https://index.crates.io/}")
_COMMON = (("CARGO_INCREMENTAL", "0"), ("CARGO_TERM_COLOR", "never"), ("CARGO_HOME", "/work/home/cargo"))
_FEATURE = re.compile(r"[\w+.-]{1,100}(?:/[\w+.-]{1,100})?")


def steps_of(source: Source, request: PlanRequest, version: str, warnings: list[str]) -> tuple[Step, ...]:
    """The steps; a source without dependencies is compiled at once.

    What compiles has RUST_VERSION, as in Rust's official images: the toolchain's own, else the catalog's `version`.
    """
    project, binary = source.project, source.entry.program.name
    home = posixpath.normpath(f"{FETCH}/{APP}/{project.package.folder}")
    exact = ("--locked",) if source.locked and not source.added else ()
    steps: list[Step] = []
    caches: tuple[Cache, ...] = ()
    if source.locked or source.foreign:
        caches += (Cache(name="crates", access=Access.READ),)
        steps.append(_download(source, home))
        if not source.locked:
            warnings.append(
                "Cargo.lock is absent: took the newest crates; run cargo generate-lockfile and commit it to pin them"
            )
    if source.added and (source.locked or not source.foreign):
        caches += (Cache(name="crates-sdk", access=Access.READ),)
        own = (CARGO, "--config", f"{FETCH}/{MIRROR}", "fetch", "--locked", "--manifest-path", f"{SDK}/Cargo.toml")
        steps.append(_fetch_step("download crates of the SDK", own, "crates-sdk", FETCH))
    static = ("-Ctarget-feature=+crt-static",) if source.triple == TRIPLES["native"] else ()
    flags = (*static, *source.config.flags)
    env = (*_COMMON, *_profile(source), ("CARGO_ENCODED_RUSTFLAGS", "\x1f".join(flags)))
    env += (("RUST_VERSION", f"${{RUST_VERSION:-{version}}}"),)
    env += (LINKER,) if source.triple == TRIPLES["wasm"] else ()
    asked = _features(request, project.package)
    argv: tuple[str, ...] = (
        CARGO, "--config", f"{FETCH}/{OFFLINE}", "build", "--release", "--offline", *exact, "--target", source.triple,
        "--target-dir", TARGET_DIR, *asked, "--bin", binary,
    )  # fmt: skip
    if caches:
        unpack = ("/bin/sh", f"{SDK}/unpack.sh", f"{FETCH}/{LIST}", VENDOR)
        steps.append(
            Step(name="unpack crates", argv=unpack, sees=Sees.STUBS, runs_source=False, cwd=FETCH, caches=caches,
                 result=VENDOR, shown=True)
        )  # fmt: skip
        if source.locked and source.added:
            check = (CARGO, "--config", f"{FETCH}/{OFFLINE}", "fetch", "--locked", "--offline")
            sent = posixpath.normpath(f"{FETCH}/sent/{project.package.folder}")
            steps.append(Step(name="check lock", argv=check, sees=Sees.STUBS, runs_source=False, cwd=sent, env=_COMMON))
        steps.append(
            Step(name="compile crates", argv=argv, sees=Sees.STUBS, runs_source=False, cwd=home, env=env,
                 result=TARGET_DIR)
        )  # fmt: skip
    else:  # nothing to find offline
        argv = (CARGO, *argv[3:])
    cwd = posixpath.normpath(f"/work/src/{project.package.folder}")
    steps.append(Step(name="compile", argv=argv, env=env, cwd=cwd))
    return tuple(steps)


def _download(source: Source, home: str) -> Step:
    """`cargo fetch`: of the lock as it was sent, or of what it resolves."""
    argv: tuple[str, ...] = (CARGO, "--config", f"{FETCH}/{MIRROR}", "fetch")
    if not source.locked:
        return _fetch_step("resolve crates", argv, "crates", home)
    if source.added:
        home = home.replace(f"{FETCH}/{APP}", f"{FETCH}/sent", 1)
    return _fetch_step("download crates", (*argv, "--locked"), "crates", home)


def _fetch_step(name: str, argv: tuple[str, ...], cache: str, cwd: str) -> Step:
    env = (
        *(row for row in _COMMON if row[0] != "CARGO_HOME"),
        ("CARGO_HOME", f"/work/download/{cache}"),
        _INDEX,
        ("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback"),
    )
    caches = (Cache(name=cache, access=Access.DOWNLOAD),)
    return Step(
        name=name, argv=argv, network=Network.INDEX, sees=Sees.STUBS, runs_source=False, cwd=cwd, env=env, caches=caches
    )


def _profile(source: Source) -> tuple[tuple[str, str], ...]:
    """A release profile that fits an artifact, where the source's own has nothing else.

    A panic of a handler is answered with 500, so it must unwind.
    """
    release = table(table(source.project.top, "profile"), "release")
    strip = () if {"strip", "debug"} & set(release) else (("CARGO_PROFILE_RELEASE_STRIP", "symbols"),)
    unwinds = source.entry.handler and source.triple == TRIPLES["native"]  # a component cannot
    panic = (("CARGO_PROFILE_RELEASE_PANIC", "unwind"),) if unwinds and "panic" in release else ()
    return (*strip, *panic)


def _features(request: PlanRequest, package: Package) -> tuple[str, ...]:
    """The build argument `features`: names apart by commas; `no-default` leaves the default ones out."""
    asked = [part.strip() for part in request.build_args.get("features", "").split(",") if part.strip()]
    names = [name for name in asked if name != "no-default"]
    known = features(package)
    for name in names:
        if not _FEATURE.fullmatch(name):
            hint = "Name features apart by commas: --build-arg features=tls,json"
            raise BuildError("InvalidRequest", f"{name[:80]} is no feature", where="buildArgs.features", next=hint)
        if "/" not in name and name not in known and name not in package.direct:
            message = (
                f"{package.name[:80]} has no feature {name[:80]}; it has {', '.join(sorted(known)[:16]) or 'none'}"
            )
            step = "Name one of these." if known else "Leave the argument out."
            raise BuildError("InvalidRequest", message, where="buildArgs.features", next=step)
    default = ("--no-default-features",) if "no-default" in asked else ()
    return (*default, *(("--features", ",".join(names)) if names else ()))
