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
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.go import modules
from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.entry import (
    choose,
    own_folders,
    refuse_cgo,
    refuse_faults,
    refuse_missing_embeds,
    target_of,
)
from builder.pipelines.go.project import GoMod, Project, below, go_version, is_outside, read_project
from builder.pipelines.go.required import required_files as required_files
from builder.pipelines.go.source import Packages, reachable
from builder.pipelines.output import SAID, cut_root, first_match, index_trouble, said_from, step_failed, word_before
from builder.plan import (
    PLATFORM,
    Access,
    Cache,
    Choice,
    Detection,
    Diagnosis,
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
BUILD_ARGS: tuple[str, ...] = ("entry", "sub_path", "tags")
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
LOOK_STEP = "look for cgo"
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
    version, why = _version(project, request, catalog, warnings)
    row = catalog.find(NAME, version, request.target or "native")
    own_tags = _own_tags(request)
    tags = tags_of(row.version, own_tags)
    packages = Packages(tree)
    folder, entry = choose(packages, project, tags, request.build_args.get("entry", ""))
    folders = reachable(packages, folder, project.paths, tags)
    refuse_faults(packages, folders)
    refuse_cgo(packages, folders, tags)
    refuse_missing_embeds(tree, packages, folders, tags)
    if not vendored:
        refuse_missing_replacements(tree, project)
    imports = {name for each in own_folders(packages, project) for file in packages.files(each)
               for name, _ in file.imports}  # fmt: skip
    sdk = any(name == "ignite" or name.startswith("ignite/") for name in imports) and "ignite" not in project.paths
    files = _files(tree, project, row.version, sdk, vendored)
    download = None if vendored else _fetch(tree, project, imports, warnings)
    if project.modules[0].mod.module and not any(one.mod.toolchain[0] for one in project.modules):
        warnings.append(f"go.mod has no toolchain line: took go {row.version} of the catalog")
    overlay = ("-overlay", OVERLAY) if any(posixpath.basename(file.path) == OVERLAY for file in files) else ()
    tagged = (f"-tags={','.join(own_tags)}",) if own_tags else ()
    flags = ("-mod=vendor" if vendored else "-mod=readonly", *overlay, *tagged)
    target = target_of(project, folder)
    # A package that is no program is refused by the build mode: without it, `-o` is written all the same.
    argv = (
        GO,
        "build",
        "-trimpath",
        *flags,
        "-buildmode=exe",
        "-ldflags=-s -w -buildid=",
        "-o",
        "/work/out/app",
        target,
    )
    resolves = download is not None and not project.work and not tree.has(below(home, "go.sum"))
    if resolves:
        made = posixpath.normpath(f"/work/fetch/{home}/go.mod")
        argv, flags = (*argv[:-1], f"-modfile={made}", argv[-1]), (*flags, f"-modfile={made}")
    compile_step = _offline_step("compile", argv, ENV)
    steps: tuple[Step, ...] = (compile_step,)
    if download or vendored:
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
            Choice(name="target", value=f"{row.target}, {PLATFORM}", why="asked for" if request.target else "default"),
        ),
        steps=tuple(dataclasses.replace(step, cwd=posixpath.normpath(f"{step.cwd}/{home}")) for step in steps),
        output=Output(
            layers=(LayerSource(source="/work/out/app", dest="/app/app", created_by="ignite: go build"),),
            entrypoint=("/app/app",),
            workdir="/app",
            summary="static binary /app/app, base with CA certificates and time zones, user 65532",
        ),
        files=files,
        stubs=stubs,
        copies=copies,
        warnings=tuple(warnings),
        materials=project.materials(),
    )


def _offline_step(name: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> Step:
    """A step of `go` that sees all of the source and runs none of it."""
    return Step(
        name=name,
        argv=argv,
        runs_source=False,
        env=_env(env, *modules.BUILD_ENV, ("GOCACHE", "/cache/go-build")),
        caches=(modules.VERIFIED, *_COMPILED),
    )


def _memo(tree: Tree, project: Project, packages: Packages, tags: tuple[str, ...], vendored: bool) -> str:
    """What decides which packages of which modules are a part: manifests and sums, and each file's imports.

    Empty where nothing pins the modules, and for vendored ones, which are a part of the source.
    """
    named = [path for path in project.materials() if tree.has(path)]
    if vendored or not any(path.endswith(".sum") for path in named):
        return ""
    manifests = {path: tree.read_text(path, modules.SUM_LIMIT) for path in named}
    files = [file for folder in own_folders(packages, project) for file in packages.files(folder)]
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


def _version(project: Project, request: PlanRequest, catalog: Catalog, warnings: list[str]) -> tuple[str, str]:
    """The version and why. A go line is a need, the toolchain line a wish (Go toolchains, "go and toolchain lines").

    The default is taken where it is enough: both lines name a minimum.
    """
    if request.version:
        return request.version, "asked for"
    lines = [(one.mod.go, one.file) for one in project.modules]
    wishes = [(one.mod.toolchain, one.file) for one in project.modules]
    if project.work:
        file = below(project.home, "go.work")
        lines.append((project.work.go, file))
        wishes.append((project.work.toolchain, file))
    need, wish = _newest(lines), _newest([*lines, *wishes])
    if not wish:
        return "", "the catalog's default"
    known = [row.version for row in catalog.toolchains() if row.runtime == NAME]
    fitting = [one for one in known if not need or (go_version(one) or ()) >= need.minor]
    if need and not fitting:
        message = f"{need.file} asks for go {need.value}; the catalog has {', '.join(known)}"
        hint = "Set the go line to one of these, if the code allows it."
        raise BuildError("UnknownRuntimeVersion", message, where=need.where, next=hint)
    default = catalog.find(NAME).version
    wished = [one for one in fitting if (go_version(one) or ()) >= wish.minor]
    chosen = next((one for one in (default, *reversed(wished or fitting)) if one in (wished or fitting)), default)
    if wished:
        return chosen, f"{wish.where} asks for {wish.minor_text} or newer; the catalog has it"
    warnings.append(f"{wish.where} wishes toolchain {wish.value}, which the catalog lacks: took go {chosen}")
    return chosen, f"{need.where} asks for {need.minor_text} or newer; the catalog has it" if need else "the newest"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A go or toolchain line."""

    value: str
    minor: tuple[int, ...]
    file: str
    where: str

    @property
    def minor_text(self) -> str:
        return ".".join(str(part) for part in self.minor)


def _newest(lines: Sequence[tuple[tuple[str, int], str]]) -> _Line | None:
    """The line of the newest version; of equal ones the last, which is a toolchain line."""
    found: _Line | None = None
    for (value, line), file in lines:
        version = go_version(value)
        if version and (not found or version[:2] >= found.minor):
            found = _Line(value=value.removeprefix("go"), minor=version[:2], file=file, where=f"{file}:{line}")
    return found


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
    made = text or f"module app\n\ngo {version}\n"
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


_AT = re.compile(r"^(?:\./)?([\w./@+-]+\.go):(\d+)(?::(\d+))?: (.+)$")
_MOD_AT = re.compile(r"^(go\.mod:\d+): (.+)$")
_CHECKSUM = re.compile(r"checksum mismatch|SECURITY ERROR")
_STALE = re.compile(r"missing go\.sum entry|updates to go\.(?:mod|sum) needed|inconsistent vendoring")
_NEWER = re.compile(r" requires go >= ([\d.]{1,64})")
_NO_MODULE = re.compile(
    r"40[0134] [A-Z][\w ]{1,60}$|410 Gone|: Forbidden$|unknown revision|no matching versions|unrecognized import path|"
    r"[Rr]epository not found|could not read Username|executable file not found|disabled by GOPROXY|"
    r"invalid version|malformed module path|does not contain package"
)
_MODULE = re.compile(r"(?:^|[\s:])([\w-]+(?:\.[\w-]+)+/[\w./~+-]*\w)(?:@(v[\w.+-]+))?:")
_NO_PACKAGE = re.compile(
    r"(?:no required module provides package|cannot find (?:module providing )?package) ([^\s:;]+)"
    r"|package (\S+) is not in std"
)
_NO_MAIN = re.compile(r"function main is undeclared in the main package")
_NOT_ONE_MAIN = re.compile(r"requires exactly one main package")
_CGO = re.compile(
    r'^warning: package (\w{1,200}) \(([^\s,()]{1,500})(?:, ([^\s()]{1,500} [^\s()]{1,200}))?\) imports "C" in (\S+);'
)
_UNDEFINED = re.compile(r"undefined: (\w{1,200})\.\w")
_EXCLUDED = re.compile(r"(?:imports |^package )([^\s:]{1,500}): build constraints exclude all Go files")
_EMBED = re.compile(r"pattern (.{1,500}): no matching files found$")
_NO_ORDER = re.compile(r"import cycle not allowed|found packages |build constraints exclude all Go files")


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What `go` said. The order matters: a lock that does not fit comes before the error it causes."""
    said = [cut_root(line) for line in lines]
    trouble = index_trouble(said) if step.name not in ("compile", LOOK_STEP) else None
    found = _lock(said) or _manifest(said) or trouble or _module(said) or _cgo(said) or _compiler(said, exit_code)
    if found:
        return found
    if line := first_match(said, _NOT_ONE_MAIN):
        return Diagnosis(
            reason="EntryPointMissing", message="the package to build is no package main", said=(line,),
            next="Name a package main: --build-arg entry=FOLDER",
        )  # fmt: skip
    if line := first_match(said, _NO_MAIN):
        return Diagnosis(
            reason="EntryPointMissing", message="package main has no func main", said=(line,),
            next="Add `func main()` to package main.",
        )  # fmt: skip
    if first_match(said, _NO_ORDER):
        return Diagnosis(
            reason="CompileFailed", message=f"go build exited {exit_code}", said=said_from(said, _NO_ORDER),
            next="Correct the package named, build again (modules are kept). By hand: go build ./...",
        )  # fmt: skip
    return step_failed(step, exit_code, said)


def _lock(said: Sequence[str]) -> Diagnosis | None:
    if line := first_match(said, _CHECKSUM):
        return Diagnosis(
            reason="LockOutdated", message=f"a module is not the one go.sum pins: {line[:200]}", where="go.sum",
            said=said_from(said, _CHECKSUM),
            next="If its author published it again on purpose: delete its lines from go.sum and run go mod tidy.",
        )  # fmt: skip
    if line := first_match(said, _STALE):
        vendored = "vendoring" in line
        return Diagnosis(
            reason="LockOutdated",
            message=("vendor/ does not fit go.mod" if vendored else "go.mod and go.sum do not agree: " + line[:200]),
            where="vendor/modules.txt" if vendored else "go.sum",
            said=said_from(said, _STALE),
            next="Run go mod vendor and commit vendor/." if vendored else "Run go mod tidy, commit go.mod and go.sum.",
        )
    return None


def _manifest(said: Sequence[str]) -> Diagnosis | None:
    if line := first_match(said, _NEWER):
        found = _NEWER.search(line)
        who, wanted = (word_before(line, found).removesuffix(":"), found[1]) if found else ("", "")
        return Diagnosis(
            reason="UnknownRuntimeVersion", message=f"{who} needs go {wanted}, which is newer than the toolchain here",
            where="go.mod", said=said_from(said, _NEWER),
            next="Take an older version of it, or lower the go line of go.mod.",
        )  # fmt: skip
    if found := _MOD_AT.match(first_match(said, _MOD_AT)):
        return Diagnosis(
            reason="ManifestInvalid", message=f"go.mod cannot be read: {found[2][:200]}", where=found[1],
            said=said_from(said, _MOD_AT), next=f"Correct {found[1]}. By hand: go mod verify",
        )  # fmt: skip
    return None


def _module(said: Sequence[str]) -> Diagnosis | None:
    line = first_match(said, _NO_MODULE)
    if not line:
        return None
    name = _MODULE.search(line)
    which = f"{name[1]}@{name[2]}" if name and name[2] else name[1] if name else "a module"
    return Diagnosis(
        reason="DependencyNotFound", message=f"{which} is not to be had from the module proxy",
        where=f"go.mod  {which}" if name and name[2] else "", said=said_from(said, _NO_MODULE),
        next="Correct its name or version. By hand: go mod download. If it is private, its proxy must be configured.",
    )  # fmt: skip


def _cgo(said: Sequence[str]) -> Diagnosis | None:
    """A package whose missing half is the cause: one that the look for cgo named, and that the compiler misses."""
    named = [found for line in said if (found := _CGO.match(line))]
    for line in said if named else ():
        undefined, excluded, at = _UNDEFINED.search(line), _EXCLUDED.search(line), _AT.match(line)
        for found in named:
            name, path, module, file = found.groups()
            if not ((undefined and undefined[1] == name) or (excluded and excluded[1] == path)):
                continue
            if "sqlite" in path:
                hint = "Take a module that is Go alone instead of it, for SQLite modernc.org/sqlite."
            else:
                hint = f"Take a module that is Go alone instead of {path}."
            who = f"{path} of {module}" if module and module.split(" ")[0] != path else module or path
            return Diagnosis(
                reason="CgoRefused", message=f'{who} imports "C" in {file}; the artifact is built without cgo',
                where=f"{at[1]}:{at[2]}" if at else f"go.mod  {(module or path).split()[0]}", said=(line,), next=hint,
            )  # fmt: skip
    return None


def _compiler(said: Sequence[str], exit_code: int) -> Diagnosis | None:
    errors = [match for line in said if (match := _AT.match(line))]
    if not errors:
        return None
    path, line, column, text = errors[0].groups()
    where = f"{path}:{line}" + (f":{column}" if column else "")
    words = tuple(line for line in said_from(said, _AT) if not line.startswith("# "))
    if missing := _NO_PACKAGE.search(text):
        name = missing[1] or missing[2]
        if "-mod=vendor" in text:
            return Diagnosis(
                reason="LockOutdated", message=f"{name} is imported, but vendor/ lacks it", where=where, said=words,
                next="Run go mod vendor, commit vendor/ and send all of it.",
            )  # fmt: skip
        return Diagnosis(
            reason="DependencyNotFound", message=f"{name} is imported, but no module provides it", where=where,
            said=words, next=f"Add it: go get {name}" if "." in name.split("/")[0] else f"Correct the import {name}.",
        )  # fmt: skip
    if embed := _EMBED.search(text):
        return Diagnosis(
            reason="CompileFailed", message=f"{embed[1]} is embedded, but nothing in what was sent matches it",
            where=where, said=words, next="Send the files with the source, or correct the pattern.",
        )  # fmt: skip
    count = f"  (first of {len(errors)})" if len(errors) > 1 else ""
    return Diagnosis(
        reason="CompileFailed", message=f"go build exited {exit_code}", where=where + count, said=words[:SAID],
        next=f"Correct {path}, build again (modules are kept). By hand: go build ./...",
    )  # fmt: skip
