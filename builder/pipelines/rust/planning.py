"""Plans of Rust: loaded once a source of it is planned."""

from __future__ import annotations

from builder.errors import BuildError
from builder.pipelines.arguments import FILES, START
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.binary import entrypoint, files_beside
from builder.pipelines.catalog import Catalog
from builder.pipelines.launcher import layer, names_variables, started
from builder.pipelines.rust import NAME, launcher, rocket
from builder.pipelines.rust.config import TRIPLES
from builder.pipelines.rust.inputs import APP, read_source, stubs_of
from builder.pipelines.rust.lock import fetched as fetched_by
from builder.pipelines.rust.lock import read_lock
from builder.pipelines.rust.pins import CRATES
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

LOCKED = "Cargo.lock"


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
    binary = entry.program.name
    placed = files_beside(tree, folder, request.build_args)
    output = _output(f"{TARGET_DIR}/{source.triple}/release/{binary}", target, placed, request, is_rocket)
    if isinstance(output, Output) and output.launcher:
        stubs += launcher.stubs()
        steps = (*steps[:-1], launcher.step(source.triple), steps[-1])
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
            *((Choice(name="port", value=rocket.VARIABLE, why="it depends on rocket"),) if is_rocket else ()),
        ),
        steps=steps,
        output=output,
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
    words, before = entrypoint(placed, request.build_args), 0
    if is_rocket or names_variables(words):
        words, before = started(words, *((rocket.VARIABLE,) if is_rocket else ()))
    return Output(
        layers=(
            *((layer(),) if before else ()),
            LayerSource(source=binary, dest="/app/app", created_by="ignite: cargo build"),
            *((LayerSource(source="/work/out/app", dest="/app", created_by="ignite: files"),) if placed else ()),
        ),
        entrypoint=words,
        launcher=before,
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
