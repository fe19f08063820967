"""Rust: a package, a member of a workspace or a single file becomes one static binary or one component. Runs nothing.

With the network, and no line of the source: cargo resolves and downloads crates for stubs, manifests with empty
targets. Without it: crates that the node verified are unpacked, cargo compiles them for the stubs (code that a lock
pins by hash; the node stores the result), then the source with them, in a copy of that result that ends with the build.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError
from builder.pipelines.arguments import FILES, START, SUB_PATH, Argument, beside, names, start_of
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.rust.config import TRIPLES, Config, read_config
from builder.pipelines.rust.diagnosis import diagnose as diagnose
from builder.pipelines.rust.entry import (
    OURS,
    WRAPPER,
    Entry,
    Program,
    choose,
    features,
    library_name,
    linkable,
    starting,
)
from builder.pipelines.rust.lock import LIST, read_lock
from builder.pipelines.rust.lock import fetched as fetched_by
from builder.pipelines.rust.manifest import (
    MANIFEST,
    STUB,
    Package,
    Project,
    below,
    dependencies,
    read_project,
    stub,
    table,
    to_toml,
)
from builder.pipelines.rust.pins import CRATES
from builder.pipelines.rust.source import FILE_LIMIT, handler_line, has_main, named
from builder.pipelines.rust.versions import wanted_version
from builder.plan import (
    PLATFORM,
    Access,
    Cache,
    Choice,
    ComponentOutput,
    CopyFile,
    Detection,
    Fetched,
    LayerSource,
    Network,
    Output,
    Plan,
    Sees,
    Step,
    WriteFile,
)
from builder.source.tree import Tree

NAME = "rust"
EXTENSIONS: tuple[str, ...] = (".rs",)
ARGUMENTS = (
    Argument(
        name="entry",
        meaning="the program to build: a member of the workspace by name or folder, or a program by name or file",
        example="api",
    ),
    SUB_PATH,
    Argument(
        name="features",
        meaning="features of the package, apart by commas; `no-default` among them leaves the default ones out",
        example="tls,json",
    ),
    FILES,
    START,
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
SDK = "/opt/ignite/sdk/rust"
CARGO = "/opt/ignite/toolchain/rust/bin/cargo"
LINKER = ("CARGO_TARGET_WASM32_WASIP2_LINKER", "/opt/ignite/toolchain/wasm-component-ld")
FETCH = "/work/fetch"
TARGET_DIR = "/work/out/target"
OFFLINE, MIRROR = "offline.toml", "mirror.toml"
LOCKED = "Cargo.lock"
APP = "app"
"""Where the stubs are below `/work/fetch`, at the places that the manifests have in the source."""

INJECTED: Mapping[str, Any] = {
    "ignite": {"path": f"{SDK}/ignite"},
    "serde": {"version": "1", "features": ["derive"]},
    "serde_json": "1",
    "tokio": {"version": "1", "features": ["full"]},
}
IN_COMPONENTS: Mapping[str, Any] = {
    "tokio": {"version": "1", "features": ["io-util", "macros", "rt", "sync", "time"]},
}
"""What is injected otherwise in a component: all that tokio has there."""
_OFFLINE = f'[source.crates-io]\nreplace-with = "verified"\n\n[source.verified]\ndirectory = "{FETCH}/vendor"\n'
_MIRROR = '[source.crates-io]\nreplace-with = "mirror"\n'
_INDEX = ("CARGO_REGISTRIES_MIRROR_INDEX", "${CARGO_REGISTRIES_MIRROR_INDEX:-sparse+https://index.crates.io/}")
_COMMON = (("CARGO_INCREMENTAL", "0"), ("CARGO_TERM_COLOR", "never"), ("CARGO_HOME", "/work/home/cargo"))
_SINGLE = '[package]\nname = "app"\nversion = "0.0.0"\nedition = "2021"\n\n[[bin]]\nname = "app"\npath = "{}"\n'
_OTHERS = (
    ".py", "pyproject.toml", "requirements.txt", "Pipfile", ".ts", ".js", ".json", ".jsonc", ".mod", ".go", ".work",
)  # fmt: skip
"""What names another runtime at the root, beside which src/ holds a part in Rust."""
_FEATURE = re.compile(r"[\w+.-]{1,100}(?:/[\w+.-]{1,100})?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is built, read once: the tree may have a manifest of ours for a single file."""

    project: Project
    entry: Entry
    added: Mapping[str, Any]
    config: Config
    files: tuple[WriteFile, ...]
    locked: bool
    """Whether the source has a lock."""
    foreign: bool
    """Whether it has a dependency that no lock of ours pins."""
    triple: str


def detect(tree: Tree) -> Detection | None:
    """Cargo.toml, main.rs or lib.rs at the root; src/main.rs or src/lib.rs where no manifest of another is beside it.

    A source without its Cargo.toml is refused by that name.
    """
    for name in (MANIFEST, "main.rs", "lib.rs"):
        if tree.has(name):
            return Detection(runtime=NAME, because=f"{name} is at the root")
    if any("/" not in path and path.endswith(_OTHERS) for path in tree.files()):
        return None
    found = next((name for name in ("src/main.rs", "src/lib.rs") if tree.has(name)), "")
    return Detection(runtime=NAME, because=f"{found} is there") if found else None


def looks_like(source: bytes) -> bool:
    """The macro, or a `fn main` at the start of a line."""
    text = b"\n" + source
    return b"#[ignite::main]" in text or b"\nfn main(" in text or b"\npub fn main(" in text


def single_file_name(source: bytes) -> str:
    """A single Rust file is main.rs: the macro makes its program."""
    return "main.rs"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Fetch crates (network, stubs), unpack and compile them (none), then compile the source (none)."""
    folder = folder_of(tree, request.build_args.get("sub_path", ""))
    target = request.target or "native"
    row = catalog.find(NAME, target=target)  # a target that there is not, before anything is read
    source = _read(tree, folder, request, TRIPLES[target])
    own, entry = source.project.package, source.entry
    version = wanted_version(tree, source.project, own.folder, catalog, request.version, target)
    row = catalog.find(NAME, version.value, target)
    warnings: list[str] = []
    stubs, copies = _stubs(tree, source)
    steps = _steps(source, request, warnings)
    binary = entry.program.name
    placed = _placed(tree, folder, request)
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=version.why),
            Choice(name="entry", value=entry.program.path, why=entry.why),
            Choice(
                name="target", value=f"{target}, {_where(target)}", why="asked for" if request.target else "default"
            ),
            *(
                (Choice(name="added", value=", ".join(source.added), why="absent in Cargo.toml"),)
                if source.added
                else ()
            ),
        ),
        steps=steps,
        output=_output(f"{TARGET_DIR}/{source.triple}/release/{binary}", target, placed, request),
        placed=placed,
        files=source.files,
        stubs=stubs if len(steps) > 1 else (),
        copies=copies if len(steps) > 1 else (),
        warnings=tuple(warnings),
        materials=tuple(path for path in (own.file, source.project.lock) if tree.has(path)),
    )


def _where(target: str) -> str:
    """What an artifact of the target runs on."""
    return PLATFORM if target == "native" else "WASI 0.2"


def _output(binary: str, target: str, placed: tuple[CopyFile, ...], request: PlanRequest) -> Output | ComponentOutput:
    if target == "wasm":
        for name in (FILES.name, START.name):
            if request.build_args.get(name):
                message = f"{name} is for programs: a component has no folder and is called by its host"
                hint = "Leave it out, or build for the target native. include_bytes! puts a file into the component."
                raise BuildError("InvalidRequest", message, where=f"buildArgs.{name}", next=hint)
        return ComponentOutput(
            component=f"{binary}.wasm",
            summary="a component that exports wasi:http/incoming-handler, for any host of WASI 0.2",
        )
    return Output(
        layers=(
            LayerSource(source=binary, dest="/app/app", created_by="ignite: cargo build"),
            *((LayerSource(source="/work/out/app", dest="/app", created_by="ignite: files"),) if placed else ()),
        ),
        entrypoint=_entrypoint(placed, request),
        workdir="/app",
        summary="static binary /app/app, base with CA certificates and time zones, user 65532",
    )


def _placed(tree: Tree, folder: str, request: PlanRequest) -> tuple[CopyFile, ...]:
    """The files that the build argument `files` puts beside the binary."""
    placed = beside(tree, folder, request.build_args, "app")
    if any(file.path == "app/app" or file.path.startswith("app/app/") for file in placed):
        hint = "Rename it in the source, or name less: files=templates"
        message = "files names app, which is where the binary is put"
        raise BuildError("InvalidRequest", message, where="buildArgs.files", next=hint)
    return placed


def _entrypoint(placed: tuple[CopyFile, ...], request: PlanRequest) -> tuple[str, ...]:
    """The binary, or the build argument `start`. Its program is in /app: the base has none."""
    words = start_of(request.build_args)
    if not words:
        return ("/app/app",)
    program = posixpath.normpath(posixpath.join("/app", words[0]))
    if program not in ("/app/app", *(f"/{file.path}" for file in placed)):
        message = f"start names {words[0][:80]}, which the image does not have"
        hint = """Name the binary, such as ["./app", "serve"], or a program that files puts beside it."""
        raise BuildError("InvalidRequest", message, where="buildArgs.start", next=hint)
    return (program, *words[1:])


def _read(tree: Tree, folder: str, request: PlanRequest, triple: str) -> Source:
    asked = request.build_args.get("entry", "")
    single = next((name for name in ("main.rs", "lib.rs") if tree.has(below(folder, name))), "")
    if single and not tree.has(below(folder, MANIFEST)):
        return _read_single(tree, folder, single, triple)
    project = read_project(tree, folder, starting, asked)
    own = project.package
    entry = choose(tree, own, asked)
    config = read_config(tree, project.root, own.folder, triple)
    if triple == TRIPLES["wasm"] and not entry.handler:
        raise _no_handler(entry.program.path)
    added = _added(tree, own, triple) if entry.handler else {}
    files = _files(tree, project, entry, added)
    files += tuple(WriteFile(path=path, content=config.text) for path in config.files)
    locked = tree.has(project.lock)
    foreign = any(_is_foreign(one.table) for one in project.packages)
    return Source(project=project, entry=entry, added=added, config=config, files=files, locked=locked,
                  foreign=foreign, triple=triple)  # fmt: skip


def _no_handler(path: str) -> BuildError:
    """A component is called by its host and has no port to listen on, so that a server of its own is none."""
    message = f"{path} has no #[ignite::main]: a component is called for each request, it does not listen"
    hint = "Put #[ignite::main] before a handler, or build the server for the target native."
    return BuildError("EntryPointMissing", message, where=path, next=hint)


def _injected(triple: str) -> Mapping[str, Any]:
    return {**INJECTED, **(IN_COMPONENTS if triple == TRIPLES["wasm"] else {})}


def _read_single(tree: Tree, folder: str, file: str, triple: str) -> Source:
    """A file without a manifest: ours names it as the program."""
    path = below(folder, file)
    text = tree.read_text(path, FILE_LIMIT)
    line = handler_line(text)
    if not line and not has_main(text):
        hint = "Put #[ignite::main] before the handler, or add `fn main()` with a server on $PORT."
        raise BuildError("EntryPointMissing", f"{path} has neither #[ignite::main] nor fn main", where=path, next=hint)
    if triple == TRIPLES["wasm"] and not line:
        raise _no_handler(path)
    used = named(tree, folder, frozenset(INJECTED))
    added = {name: value for name, value in _injected(triple).items() if name in used}
    manifest = _SINGLE.format(file)
    parsed = {
        "package": {"name": "app", "version": "0.0.0", "edition": "2021"},
        "bin": [{"name": "app", "path": file}],
        "workspace": {},
    }
    package = Package(folder=folder, table=parsed)
    why = f"#[ignite::main] at {path}:{line}" if line else f"fn main in {path}"
    return Source(
        project=Project(package=package, root=folder, packages=(package,), top=parsed),
        entry=Entry(program=Program(name="app", path=path), why=why, handler=bool(line)),
        added=added,
        config=read_config(tree, folder, folder, triple),
        files=(WriteFile(path=below(folder, MANIFEST), content=manifest + "\n[workspace]\n" + _tables(added)),),
        locked=False,
        foreign=False,
        triple=triple,
    )


def _is_foreign(manifest: Mapping[str, Any]) -> bool:
    return any(not (isinstance(value, dict) and ("path" in value or "workspace" in value))
               for key, _, value in dependencies(manifest))  # fmt: skip


def _added(tree: Tree, package: Package, triple: str) -> dict[str, Any]:
    """What a package with a handler names and its manifest lacks."""
    used = named(tree, package.folder, frozenset(INJECTED)) | {"ignite"}
    return {name: value for name, value in _injected(triple).items() if name in used - package.direct}


def _tables(added: Mapping[str, Any]) -> str:
    """Dependencies as tables of their own, which may follow any line of a manifest."""
    text = ""
    for name, value in added.items():
        parts = value if isinstance(value, dict) else {"version": value}
        text += "\n" + to_toml({"x": parts}).replace("[x]", f"[dependencies.{name}]", 1).rstrip("\n") + "\n"
    return text


def _files(tree: Tree, project: Project, entry: Entry, added: Mapping[str, Any]) -> tuple[WriteFile, ...]:
    """What the build writes: a longer manifest, and the program of a library with a handler."""
    own = project.package
    text = _tables(added)
    files: list[WriteFile] = []
    if entry.program.library:
        direct = not linkable(own)
        path = posixpath.relpath(entry.program.path, own.folder) if direct else WRAPPER
        text += f'\n[[bin]]\nname = "{OURS}"\npath = "{path}"\n'
        if not direct:
            content = f"fn main() {{\n    {library_name(own)}::main()\n}}\n"
            files.append(WriteFile(path=below(own.folder, WRAPPER), content=content))
    if added and "dependencies" in own.table and not isinstance(own.table["dependencies"], dict):
        raise BuildError("ManifestInvalid", "dependencies is no table", where=f"{own.file}  dependencies")
    if text:
        content = tree.read_text(own.file).rstrip("\n") + "\n" + text
        files.append(WriteFile(path=own.file, content=content))
    return tuple(files)


def _stubs(tree: Tree, source: Source) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """Manifests with empty targets at the places of the source, and what directs cargo to verified crates."""
    made: dict[str, str] = {OFFLINE: _OFFLINE, MIRROR: _MIRROR}
    project, binary = source.project, source.entry.program.name
    packages = project.packages
    if project.root not in {one.folder for one in packages}:
        packages = (*packages, Package(folder=project.root, table=project.top))
    for package in packages:
        builds = _has_build_script(tree, package)
        content = to_toml(stub(package, project, binary, source.added, builds))
        made[below(APP, package.file)] = content
        if "package" in package.table:
            made[below(APP, below(package.folder, f"{STUB}-lib.rs"))] = ""
            if builds:
                made[below(APP, below(package.folder, f"{STUB}-build.rs"))] = "fn main() {}\n"
            if package.folder == project.package.folder:
                made[below(APP, below(package.folder, f"{STUB}-main.rs"))] = "fn main() {}\n"
    if source.config.text:
        made[below(APP, below(project.root, ".cargo/config.toml"))] = source.config.text
    copies: list[CopyFile] = []
    if source.locked:
        copies.append(CopyFile(path=below(APP, project.lock), source=project.lock))
        if source.added:  # a lock that fits what was sent, before it grows by what is added
            copies.append(CopyFile(path=below("sent", project.lock), source=project.lock))
            made |= {
                below("sent", path.removeprefix(f"{APP}/")): content
                for path, content in made.items()
                if path.startswith(f"{APP}/")
            }
            own = project.package
            plain = to_toml(stub(own, project, binary, {}, _has_build_script(tree, own)))
            made[below("sent", own.file)] = plain
    return tuple(WriteFile(path=path, content=content) for path, content in made.items()), tuple(copies)


def _has_build_script(tree: Tree, package: Package) -> bool:
    named = package.package.get("build")
    if isinstance(named, str):
        return True
    return named is not False and tree.has(below(package.folder, "build.rs"))


def _steps(source: Source, request: PlanRequest, warnings: list[str]) -> tuple[Step, ...]:
    """The steps; a source without dependencies is compiled at once."""
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
    env += (LINKER,) if source.triple == TRIPLES["wasm"] else ()
    asked = _features(request, project.package)
    argv: tuple[str, ...] = (
        CARGO, "--config", f"{FETCH}/{OFFLINE}", "build", "--release", "--offline", *exact, "--target", source.triple,
        "--target-dir", TARGET_DIR, *asked, "--bin", binary,
    )  # fmt: skip
    if caches:
        unpack = ("/bin/sh", f"{SDK}/unpack.sh", f"{FETCH}/{LIST}", f"{FETCH}/vendor")
        steps.append(
            Step(name="unpack crates", argv=unpack, sees=Sees.STUBS, runs_source=False, cwd=FETCH, caches=caches)
        )
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


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The crates that the stubs' lock pins, and those of the SDK's."""
    names = {cache.name for step in plan.steps for cache in step.caches if cache.access is Access.DOWNLOAD}
    lists = []
    if "crates" in names:
        lock = next((path for path in stubs.files() if path.startswith(f"{APP}/") and path.endswith("/" + LOCKED)), "")
        if not lock:
            return None
        lists.append(("crates", read_lock(stubs, lock)))
    if "crates-sdk" in names:
        lists.append(("crates-sdk", CRATES))
    return fetched_by(lists) if lists else None
