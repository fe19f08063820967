"""Plans of Go: loaded once a source of it is planned."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable

from builder.errors import BuildError
from builder.pipelines.arguments import start_of
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.binary import entrypoint, files_beside
from builder.pipelines.catalog import Catalog
from builder.pipelines.go import NAME, launcher, modules
from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.diagnosis import LOOK_STEP
from builder.pipelines.go.direct import with_private
from builder.pipelines.go.entry import (
    choose,
    own_folders,
    refuse_cgo,
    refuse_faults,
    refuse_missing_embeds,
    target_of,
)
from builder.pipelines.go.linking import variables_of
from builder.pipelines.go.project import Project, below, is_outside, named, read_project
from builder.pipelines.go.sdk import OVERLAY, written
from builder.pipelines.go.source import Packages, reachable
from builder.pipelines.go.steps import CGO_LINK, ENV, GO, LOOK, LOOK_ENV, cgo_step, fetch_step, memo_of, offline_step
from builder.pipelines.go.versions import wanted_version
from builder.pipelines.launcher import layer, names_variables, started
from builder.pipelines.private import PATHS, SECRET
from builder.plan import (
    PLATFORM,
    Choice,
    CopyFile,
    Detection,
    Fetched,
    LayerSource,
    Output,
    Plan,
    Step,
)
from builder.source.tree import Tree

CGO_TAGS = ("netgo", "osusergo")
"""With cgo these packages of Go's own would look for libc's parts at run time, which a static binary has not."""


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Download modules (network) where any are needed, then look for cgo in them and compile (none)."""
    project = read_project(tree, folder_of(tree, request.build_args.get("sub_path", "")))
    home = project.home
    vendored = tree.has(below(home, "vendor/modules.txt"))
    warnings: list[str] = []
    version, why = wanted_version(tree, project, request, catalog, warnings)
    if request.target == "wasm":
        message = "go has no target wasm: its compiler makes modules of wasip1, and a component of WASI 0.2 is needed"
        hint = "Build for the target native, or write it in Rust."
        raise BuildError("UnsupportedTarget", message, where="target", next=hint)
    row = catalog.find(NAME, version, request.target or "native")
    cgo = _cgo(request)
    own_tags = tuple(dict.fromkeys((*_own_tags(request), *(CGO_TAGS if cgo else ()))))
    tags = tags_of(row.version, (*own_tags, *(("cgo",) if cgo else ())))
    packages = Packages(tree)
    if not project.work and not tree.has(project.modules[0].file):
        project = named(project, _imports(packages, packages.folders()), packages.__contains__)
    folder, entry = choose(packages, project, tags, request.build_args.get("entry", ""))
    folders = reachable(packages, folder, project.paths, tags)
    refuse_faults(packages, folders)
    if not cgo:
        refuse_cgo(packages, folders, tags)
    refuse_missing_embeds(tree, packages, folders, tags)
    if not vendored:
        refuse_missing_replacements(tree, project)
    imports = _imports(packages, own_folders(packages, project))
    sdk = any(name == "ignite" or name.startswith("ignite/") for name in imports) and "ignite" not in project.paths
    files = written(tree, project, row.version, sdk, vendored)
    download = None if vendored else fetch_step(tree, project, imports, warnings)
    download = with_private(download, tree, project, imports, request, warnings)
    if tree.has(project.modules[0].file) and not any(one.mod.toolchain[0] for one in project.modules):
        warnings.append(f"go.mod has no toolchain line: took go {row.version} of the catalog")
    overlay = ("-overlay", OVERLAY) if any(posixpath.basename(file.path) == OVERLAY for file in files) else ()
    tagged = (f"-tags={','.join(own_tags)}",) if own_tags else ()
    flags = ("-mod=vendor" if vendored else "-mod=readonly", *overlay, *tagged)
    target = target_of(project, folder)
    placed = files_beside(tree, project.base, request.build_args)
    program = "/work/out/app/app" if placed else "/work/out/app"
    linked = variables_of(tree, packages, project, folder, request.build_args, warnings)
    # A package that is no program is refused by the build mode: without it, `-o` is written all the same.
    argv = (
        GO,
        "build",
        "-trimpath",
        *flags,
        "-buildmode=exe",
        " ".join(("-ldflags=-s -w -buildid=", *(CGO_LINK if cgo else ()), *linked)),
        "-o",
        program,
        target,
    )
    resolves = download is not None and not project.work and not tree.has(below(home, "go.sum"))
    if resolves:
        made = posixpath.normpath(f"/work/fetch/{home}/go.mod")
        argv, flags = (*argv[:-1], f"-modfile={made}", argv[-1]), (*flags, f"-modfile={made}")
    compile_step = cgo_step(argv) if cgo else offline_step("compile", argv, ENV)
    steps: tuple[Step, ...] = (compile_step,)
    if (download or vendored) and not cgo:
        argv = (GO, "list", "-deps", *flags, "-f", LOOK, target)
        look = offline_step(LOOK_STEP, argv, LOOK_ENV)
        steps = (dataclasses.replace(look, memo=memo_of(tree, project, packages, own_tags, vendored)), compile_step)
    if download:
        steps = (download, *steps)
    stubs, copies = modules.stubs(tree, project, packages, files) if download else ((), ())
    steps = tuple(dataclasses.replace(step, cwd=posixpath.normpath(f"{step.cwd}/{home}")) for step in steps)
    words, before = entrypoint(placed, request.build_args), 0
    if names_variables(words):
        words, before = started(words)
        stubs, at = (*stubs, *launcher.stubs()), 1 if download else 0
        steps = (*steps[:at], launcher.step(), *steps[at:])
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=why),
            Choice(name="entry", value=f"package main in {target}", why=entry),
            *_chosen(request, linked),
            Choice(name="target", value=f"{row.target}, {PLATFORM}", why="asked for" if request.target else "default"),
        ),
        steps=steps,
        output=Output(
            layers=(
                *((layer(),) if before else ()),
                LayerSource(
                    source="/work/out/app", dest="/app" if placed else "/app/app", created_by="ignite: go build"
                ),
            ),
            entrypoint=words,
            launcher=before,
            workdir="/app",
            summary=f"static binary /app/app{_count(placed)}, base with CA certificates and time zones, user 65532",
        ),
        placed=placed,
        files=files,
        stubs=stubs,
        copies=copies,
        warnings=tuple(warnings),
        materials=project.materials(),
    )


def _chosen(request: PlanRequest, linked: tuple[str, ...]) -> tuple[Choice, ...]:
    """What build arguments beside `entry` and `sub_path` decide."""
    found = []
    if _cgo(request):
        found.append(Choice(name="cgo", value="built", why="build argument cgo"))
    if request.build_args.get("tags"):
        found.append(Choice(name="tags", value=",".join(_own_tags(request)), why="build argument tags"))
    if linked:
        shown = " ".join(word for word in linked if word != "-X")
        found.append(Choice(name="variables", value=shown, why="build argument ldflags_x"))
    if request.build_args.get(PATHS.name):
        value = f"{request.build_args[PATHS.name]}, by the secret {request.build_args[SECRET.name]}"
        found.append(Choice(name="private modules", value=value, why="build argument private"))
    if request.build_args.get("files"):
        found.append(Choice(name="files", value=request.build_args["files"], why="build argument files"))
    if start_of(request.build_args):
        found.append(Choice(name="start", value=request.build_args["start"], why="build argument start"))
    return tuple(found)


def _count(placed: tuple[CopyFile, ...]) -> str:
    count = f"{len(placed)} files" if len(placed) != 1 else "1 file"
    return f" and {count} beside it" if placed else ""


def _imports(packages: Packages, folders: Iterable[str]) -> set[str]:
    return {name for folder in folders for file in packages.files(folder) for name, _ in file.imports}


def _cgo(request: PlanRequest) -> bool:
    """The build argument `cgo`."""
    value = request.build_args.get("cgo", "0")
    if value not in ("0", "1"):
        raise BuildError("InvalidRequest", f'cgo is "{value[:80]}"; it takes 0 or 1', where="buildArgs.cgo")
    return value == "1"


def _own_tags(request: PlanRequest) -> tuple[str, ...]:
    """The build argument `tags`: build tags apart by commas."""
    tags = tuple(dict.fromkeys(part.strip() for part in request.build_args.get("tags", "").split(",") if part.strip()))
    for tag in tags:
        if not re.fullmatch(r"[\w.]{1,100}", tag):
            message = f"{tag[:80]} is no build tag: letters, digits, _ and ."
            hint = "Name tags apart by commas: --build-arg tags=netgo,sqlite_omit"
            raise BuildError("InvalidRequest", message, where="buildArgs.tags", next=hint)
        if tag in ("cgo", "ignore"):
            raise BuildError("InvalidRequest", f"the tag {tag} cannot be set", where="buildArgs.tags")
    return tags


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The modules that the sums pin: the source's own, or the ones that `go` wrote beside the stubs."""
    names = [path for path in stubs.files() if posixpath.basename(path) in ("go.sum", "go.work.sum")]
    return modules.fetched("\n".join(stubs.read_text(path, modules.SUM_LIMIT) for path in names)) if names else None


def refuse_missing_replacements(tree: Tree, project: Project) -> None:
    """Refuse a required module that is replaced by a folder which was not sent. A workspace's own one needs none."""
    own = {module.mod.module for module in project.modules}
    for module in project.modules:
        for path, (target, line) in module.mod.replaces.items():
            if path not in module.mod.requires or path in own or not target.startswith((".", "/")):
                continue
            folder, where = below(module.folder, target), f"{module.file}:{line}"
            if is_outside(folder):
                message = f"{path} is replaced by {target}, which is outside of the source"
                hint = (
                    "Send the folder above both and name this one: --build-arg sub_path=FOLDER. "
                    "Or vendor it: go mod vendor"
                )
                raise BuildError("ManifestInvalid", message, where=where, next=hint)
            if folder not in project.roots:
                message = f"{path} is replaced by {target}, which has no go.mod in what was sent"
                raise BuildError("ManifestInvalid", message, where=where, next=f"Send {target} with the source.")
