"""Commands of `go`: what is downloaded, what looks for cgo, what compiles. Pure."""

from __future__ import annotations

import hashlib

from builder.pipelines.go import modules
from builder.pipelines.go.project import GoMod, Project, below, is_outside
from builder.pipelines.go.source import Packages
from builder.plan import Access, Cache, Network, Sees, Step
from builder.source.tree import SubTree, Tree
from builder.text import canonical_json

GO = "/opt/ignite/toolchain/go/bin/go"
ENV = (
    ("CGO_ENABLED", "0"),
    ("GOFLAGS", "-buildvcs=false"),
    ("GOROOT", "/opt/ignite/toolchain/go"),
    ("GOTELEMETRY", "off"),
    ("GOTOOLCHAIN", "local"),
)
CGO_ENV = (
    *((name, "1" if name == "CGO_ENABLED" else value) for name, value in ENV),
    ("CC", "gcc"),
    ("GOCACHE", "/cache/go-build"),
    ("GOMODCACHE", "/cache/go-mod"),
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
_LENT = tuple(Cache(name=cache.name, access=Access.OVERLAY) for cache in _COMPILED)
"""The same for a step whose C compiler the source steers."""


def offline_step(name: str, argv: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> Step:
    """A step of `go` that sees all of the source and runs none of it."""
    return Step(
        name=name,
        argv=argv,
        runs_source=False,
        env=_env(env, *modules.BUILD_ENV, ("GOCACHE", "/cache/go-build")),
        caches=(modules.VERIFIED, *_COMPILED),
    )


def cgo_step(argv: tuple[str, ...]) -> Step:
    """The compiler with cgo: options and code of the source reach a C compiler, so that what it writes ends with it."""
    env = tuple(sorted((dict(modules.BUILD_ENV) | dict(CGO_ENV)).items()))
    return Step(name="compile", argv=argv, env=env, caches=(modules.VERIFIED, *_LENT))


def memo_of(tree: Tree, project: Project, packages: Packages, tags: tuple[str, ...], vendored: bool) -> str:
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


def fetch_step(tree: Tree, project: Project, imports: set[str], warnings: list[str]) -> Step | None:
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
