"""Go: a module with package main, or a single main.go, becomes one static binary. Runs nothing.

`import "ignite"` is resolved to the bundled SDK by a `replace` in the working copy's go.mod (vendored modules: by an
overlay); the source as it was sent stays as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable

from builder.errors import BuildError
from builder.pipelines.arguments import FILES, START, SUB_PATH, Argument, beside, names, start_of
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.go import modules
from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.diagnosis import LOOK_STEP
from builder.pipelines.go.diagnosis import diagnose as diagnose
from builder.pipelines.go.entry import (
    choose,
    own_folders,
    refuse_cgo,
    refuse_faults,
    refuse_missing_embeds,
    target_of,
)
from builder.pipelines.go.linking import variables_of
from builder.pipelines.go.project import GoMod, Project, below, is_outside, named, read_project
from builder.pipelines.go.required import required_files as required_files
from builder.pipelines.go.source import Packages, reachable
from builder.pipelines.go.versions import wanted_version
from builder.plan import (
    PLATFORM,
    Access,
    Cache,
    Choice,
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
from builder.source.tree import SubTree, Tree
from builder.text import canonical_json

NAME = "go"
EXTENSIONS: tuple[str, ...] = (".go",)
ARGUMENTS = (
    Argument(
        name="entry",
        meaning="the package main to build: its folder, its import path, or a file of it",
        example="./cmd/server",
    ),
    SUB_PATH,
    START,
    FILES,
    Argument(
        name="cgo",
        meaning="`1` builds files with cgo, into a static binary. The C compiler runs code of the source: such a build "
        "has no compiler cache, and takes the toolchain image of its version, which has a C compiler",
        example="1",
    ),
    Argument(name="tags", meaning="build tags, apart by commas", example="netgo,sqlite_omit"),
    Argument(
        name="ldflags_x",
        meaning="string variables that the linker sets (`-X`): `PACKAGE.NAME=VALUE`, apart by commas, or a JSON object",
        example="main.version=1.4.0,example.com/app/build.commit=7f3a9c",
    ),
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
SDK = "/opt/ignite/sdk/go"
SDK_FILES = ("ignite.go",)
GO = "/opt/ignite/toolchain/go/bin/go"
OVERLAY = ".ignite-overlay.json"
SUM_LIMIT = 4 * 1024 * 1024
ENV = (
    ("CGO_ENABLED", "0"),
    ("GOFLAGS", "-buildvcs=false"),
    ("GOROOT", "/opt/ignite/toolchain/go"),
    ("GOTELEMETRY", "off"),
    ("GOTOOLCHAIN", "local"),
)
CGO_TAGS = ("netgo", "osusergo")
"""With cgo these packages of Go's own would look for libc's parts at run time, which a static binary has not."""
CGO_ENV = (
    *((name, "1" if name == "CGO_ENABLED" else value) for name, value in ENV),
    ("CC", "gcc"),
    ("GOCACHE", "/work/tmp/go-build"),
    ("GOMODCACHE", "/work/tmp/go-mod"),
)
CGO_LINK = ("-linkmode=external", "-extldflags=-static")
LOOK_ENV = tuple((name, "1" if name == "CGO_ENABLED" else value) for name, value in ENV)
LOOK = (
    "{{if and (not .Standard) .CgoFiles}}warning: package {{.Name}} ({{.ImportPath}}{{with .Module}}"
    '{{if .Version}}, {{.Path}} {{.Version}}{{end}}{{end}}) imports "C" in {{index .CgoFiles 0}}; '
    "it is built without cgo: what needs C is missing{{end}}"
)
"""What `go list` prints of a package that would have files with cgo: the one thing that a download may change."""


_COMPILED = (Cache(name="go-build", access=Access.WRITE), Cache(name="go-mod", access=Access.WRITE))
"""What `go` makes of its input: it runs no code of the source, and checks each module that it unpacks."""


def detect(tree: Tree) -> Detection | None:
    """go.mod, go.work or a Go file at the root."""
    roots = ("go.mod", "go.work", "main.go", *(path for path in tree.glob("*.go") if not path.endswith("_test.go")))
    found = next((path for path in roots if tree.has(path)), "")
    return Detection(runtime=NAME, because=f"{found} is at the root") if found else None


def looks_like(source: bytes) -> bool:
    """A package clause of a program, at the start of a line."""
    return b"\npackage main" in b"\n" + source


def single_file_name(source: bytes) -> str:
    """A single Go file is main.go."""
    return "main.go"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Download modules (network) where any are needed, then look for cgo in them and compile (none)."""
    project = read_project(tree, folder_of(tree, request.build_args.get("sub_path", "")))
    home = project.home
    vendored = tree.has(below(home, "vendor/modules.txt"))
    warnings: list[str] = []
    version, why = wanted_version(tree, project, request, catalog, warnings)
    if request.target == "wasm":
        message = "go has no target wasm: its compiler makes modules of wasip1, and a component of WASI 0.2 is needed"
        raise BuildError("UnsupportedTarget", message, next="Build for the target native, or write it in Rust.")
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
    files = _files(tree, project, row.version, sdk, vendored)
    download = None if vendored else _fetch(tree, project, imports, warnings)
    if tree.has(project.modules[0].file) and not any(one.mod.toolchain[0] for one in project.modules):
        warnings.append(f"go.mod has no toolchain line: took go {row.version} of the catalog")
    overlay = ("-overlay", OVERLAY) if any(posixpath.basename(file.path) == OVERLAY for file in files) else ()
    tagged = (f"-tags={','.join(own_tags)}",) if own_tags else ()
    flags = ("-mod=vendor" if vendored else "-mod=readonly", *overlay, *tagged)
    target = target_of(project, folder)
    placed = _placed(tree, project, request)
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
    compile_step = _cgo_step(argv) if cgo else _offline_step("compile", argv, ENV)
    steps: tuple[Step, ...] = (compile_step,)
    if (download or vendored) and not cgo:
        argv = (GO, "list", "-deps", *flags, "-f", LOOK, target)
        look = _offline_step(LOOK_STEP, argv, LOOK_ENV)
        steps = (dataclasses.replace(look, memo=_memo(tree, project, packages, own_tags, vendored)), compile_step)
    if download:
        steps = (download, *steps)
    stubs, copies = modules.stubs(tree, project, packages, files) if download else ((), ())
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
        steps=tuple(dataclasses.replace(step, cwd=posixpath.normpath(f"{step.cwd}/{home}")) for step in steps),
        output=Output(
            layers=(
                LayerSource(
                    source="/work/out/app", dest="/app" if placed else "/app/app", created_by="ignite: go build"
                ),
            ),
            entrypoint=_entrypoint(placed, request),
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


def _placed(tree: Tree, project: Project, request: PlanRequest) -> tuple[CopyFile, ...]:
    """The files that the build argument `files` puts beside the binary, which is the file `app` among them."""
    placed = beside(tree, project.base, request.build_args, "app")
    if any(file.path == "app/app" or file.path.startswith("app/app/") for file in placed):
        message = "files names app, which is where the binary is put"
        hint = "Rename it in the source, or name less: files=templates"
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


def _offline_step(name: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> Step:
    """A step of `go` that sees all of the source and runs none of it."""
    return Step(
        name=name,
        argv=argv,
        runs_source=False,
        env=_env(env, *modules.BUILD_ENV, ("GOCACHE", "/cache/go-build")),
        caches=(modules.VERIFIED, *_COMPILED),
    )


def _cgo_step(argv: tuple[str, ...]) -> Step:
    """The compiler with cgo: options and code of the source reach a C compiler, so that no cache is written."""
    env = tuple(sorted((dict(modules.BUILD_ENV) | dict(CGO_ENV)).items()))
    return Step(name="compile", argv=argv, env=env, caches=(modules.VERIFIED,))


def _cgo(request: PlanRequest) -> bool:
    """The build argument `cgo`."""
    value = request.build_args.get("cgo", "0")
    if value not in ("0", "1"):
        raise BuildError("InvalidRequest", f'cgo is "{value[:80]}"; it takes 0 or 1', where="buildArgs.cgo")
    return value == "1"


def _memo(tree: Tree, project: Project, packages: Packages, tags: tuple[str, ...], vendored: bool) -> str:
    """What decides which packages of which modules are a part: manifests and sums, and each file's imports.

    Empty where nothing pins the modules, and for vendored ones, which are a part of the source.
    """
    homes = [folder for folder in dict.fromkeys(project.paths.values()) if not is_outside(folder)]
    named = [below(folder, name) for folder in homes for name in ("go.mod", "go.sum")]
    named = [path for path in (*project.materials(), *named) if tree.has(path)]
    if vendored or not any(path.endswith(".sum") for path in named):
        return ""
    manifests = {path: tree.read_text(path, modules.SUM_LIMIT) for path in named}
    files = [file for folder in packages.folders() for file in packages.files(folder)]  # replaced modules, too
    imports = {file.path: [str(file.constraint), *(name for name, _ in file.imports)] for file in files}
    return hashlib.sha256(canonical_json({"manifests": manifests, "imports": imports, "tags": tags})).hexdigest()


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


def _fetch(tree: Tree, project: Project, imports: set[str], warnings: list[str]) -> Step | None:
    """The download of one module, or of all that a workspace requires, where `go` finds each module's sums itself."""
    if not project.work:
        own = tree if project.home == "." else SubTree(tree, project.home)
        return _download(own, project.modules[0].mod, imports, warnings)
    known = project.paths
    requires = [path for one in project.modules for path in one.mod.requires if path not in known and path != "ignite"]
    if not requires:
        return None
    folders = (project.home, *(one.folder for one in project.modules))
    if not any(tree.has(below(folder, name)) for folder in folders for name in ("go.sum", "go.work.sum")):
        hint = "run go mod tidy in each module and commit go.mod and go.sum to pin them"
        warnings.append(f"go.sum is absent: took the versions of go.mod, unchecked; {hint}")
    return _download_step("download modules", (GO, "mod", "download"))


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The modules that the sums pin: the source's own, or the ones that `go` wrote beside the stubs."""
    names = [path for path in stubs.files() if posixpath.basename(path) in ("go.sum", "go.work.sum")]
    return modules.fetched("\n".join(stubs.read_text(path, modules.SUM_LIMIT) for path in names)) if names else None


def _env(base: tuple[tuple[str, str], ...], *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((*base, *more)))


def _download_step(name: str, argv: tuple[str, ...]) -> Step:
    """A step with the network. It sees stubs, so it has nothing that it could run."""
    return Step(
        name=name,
        argv=argv,
        network=Network.INDEX,
        sees=Sees.STUBS,
        runs_source=False,
        env=_env(ENV, *modules.DOWNLOAD_ENV, ("GOCACHE", "/work/tmp/go-build")),
        caches=(modules.DOWNLOADED,),
        cwd="/work/fetch",
    )


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


def _files(tree: Tree, project: Project, version: str, sdk: bool, vendored: bool) -> tuple[WriteFile, ...]:
    """What the build writes: go.mod where there is none, and the SDK where it is imported."""
    if project.work:
        if not sdk:
            return ()
        path = below(project.home, "go.work")
        return (WriteFile(path=path, content=tree.read_text(path).rstrip("\n") + f"\n\nuse {SDK}\n"),)
    (module,) = project.modules
    mod = module.mod
    text = tree.read_text(module.file) if tree.has(module.file) else ""
    made = text or f"module {mod.module or 'app'}\n\ngo {version}\n"
    if not sdk:
        return (WriteFile(path=module.file, content=made),) if made != text else ()
    made = made.rstrip("\n") + "\n"
    if "ignite" not in mod.requires:
        made += "\nrequire ignite v0.0.0\n"
    made += f"\nreplace ignite => {SDK}\n"
    files = [WriteFile(path=module.file, content=made)]
    if vendored:
        listed_in = below(module.folder, "vendor/modules.txt")
        listed = tree.read_text(listed_in).rstrip("\n")
        asked = mod.requires.get("ignite", ("v0.0.0", 0))[0]
        listed += f"\n# ignite {asked} => {SDK}\n## explicit; go 1.20\nignite\n# ignite => {SDK}\n"
        vendor = posixpath.normpath(f"/work/src/{module.folder}/vendor/ignite")
        there = {f"{vendor}/{name}": f"{SDK}/{name}" for name in SDK_FILES}
        files.append(WriteFile(path=listed_in, content=listed.removeprefix("\n")))
        overlay = json.dumps({"Replace": there}, indent=2) + "\n"
        files.append(WriteFile(path=below(module.folder, OVERLAY), content=overlay))
    return tuple(files)


def _download(tree: Tree, mod: GoMod, imports: set[str], warnings: list[str]) -> Step | None:
    """`go mod download` for what go.sum pins; `go mod tidy` where nothing is pinned yet; nothing where nothing is."""
    local = {path for path, (target, _) in mod.replaces.items() if target.startswith((".", "/"))} | {"ignite"}
    requires = [path for path in mod.requires if path not in local]
    own = {mod.module or "app", *local}
    foreign = any("." in name.split("/", 1)[0] and not own & _prefixes(name) for name in imports)
    if tree.has("go.sum") and requires:
        return _download_step("download modules", (GO, "mod", "download"))
    if tree.has("go.sum") or not (requires or foreign):
        return None
    what = "took the versions of go.mod, unchecked" if requires else "took the newest modules"
    warnings.append(f"go.sum is absent: {what}; run go mod tidy and commit go.mod and go.sum to pin them")
    return _download_step("resolve modules", (GO, "mod", "tidy"))


def _prefixes(name: str) -> set[str]:
    """An import path and the paths above it: "a/b/c", "a/b", "a"."""
    parts = name.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
