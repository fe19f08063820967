"""Rust: a package, a member of a workspace or a single file becomes one static binary or one component. Runs nothing.

With the network, and no line of the source: cargo resolves and downloads crates for stubs, manifests with empty
targets. Without it: crates that the node verified are unpacked, cargo compiles them for the stubs (code that a lock
pins by hash; the node stores the result), then the source with them, in a copy of that result that ends with the build.
"""

from __future__ import annotations

from builder.errors import BuildError
from builder.pipelines.arguments import FILES, START, SUB_PATH, Argument, names
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.binary import entrypoint, files_beside
from builder.pipelines.catalog import Catalog
from builder.pipelines.rust import rocket
from builder.pipelines.rust.config import TRIPLES
from builder.pipelines.rust.diagnosis import diagnose as diagnose
from builder.pipelines.rust.inputs import APP, read_source, stubs_of
from builder.pipelines.rust.inputs import INJECTED as INJECTED
from builder.pipelines.rust.inputs import SDK as SDK
from builder.pipelines.rust.lock import fetched as fetched_by
from builder.pipelines.rust.lock import read_lock
from builder.pipelines.rust.manifest import MANIFEST
from builder.pipelines.rust.pins import CRATES
from builder.pipelines.rust.steps import CARGO as CARGO
from builder.pipelines.rust.steps import TARGET_DIR, steps_of
from builder.pipelines.rust.versions import wanted_version
from builder.plan import (
    PLATFORM,
    Access,
    Choice,
    ComponentOutput,
    CopyFile,
    Detection,
    Fetched,
    LayerSource,
    Output,
    Plan,
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
LOCKED = "Cargo.lock"

_OTHERS = (
    ".py", "pyproject.toml", "requirements.txt", "Pipfile", ".ts", ".js", ".json", ".jsonc", ".mod", ".go", ".work",
)  # fmt: skip
"""What names another runtime at the root, beside which src/ holds a part in Rust."""


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
    source = read_source(tree, folder, request, TRIPLES[target])
    own, entry = source.project.package, source.entry
    version = wanted_version(tree, source.project, own.folder, catalog, request.version, target)
    row = catalog.find(NAME, version.value, target)
    warnings: list[str] = []
    stubs, copies = stubs_of(tree, source)
    steps = steps_of(source, request, row.version, warnings)
    is_rocket = rocket.serves(source)
    if is_rocket:
        stubs += rocket.stubs()
        steps = (*steps[:-1], rocket.step(source.triple), steps[-1])
    binary = entry.program.name
    placed = files_beside(tree, folder, request.build_args)
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
            *((Choice(name="port", value="ROCKET_PORT=$PORT", why="it depends on rocket"),) if is_rocket else ()),
        ),
        steps=steps,
        output=_output(f"{TARGET_DIR}/{source.triple}/release/{binary}", target, placed, request, is_rocket),
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


def _output(
    binary: str, target: str, placed: tuple[CopyFile, ...], request: PlanRequest, is_rocket: bool
) -> Output | ComponentOutput:
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
    words = entrypoint(placed, request.build_args)
    return Output(
        layers=(
            *((rocket.layer(),) if is_rocket else ()),
            LayerSource(source=binary, dest="/app/app", created_by="ignite: cargo build"),
            *((LayerSource(source="/work/out/app", dest="/app", created_by="ignite: files"),) if placed else ()),
        ),
        entrypoint=rocket.started(words) if is_rocket else words,
        launcher=rocket.LAUNCHER if is_rocket else 0,
        env=rocket.ENV if is_rocket else (),
        workdir="/app",
        summary="static binary /app/app, base with CA certificates and time zones, user 65532",
    )


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
