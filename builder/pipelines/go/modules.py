"""Modules: what a download step sees of the source, what go.sum makes of its result, and how `go build` finds it. Pure.

The step with the network sees go.mod, go.sum and the imports of the source, and no other line of it. `go build` gets a
module proxy of links to files that the node verified against go.sum, and no network.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from builder.pipelines.go.project import Project, below, is_outside
from builder.pipelines.go.source import GoFile, Packages
from builder.plan import Access, Cache, CacheLink, CopyFile, Fetched, WantedFile, WriteFile
from builder.source.tree import Tree

SUM_LIMIT = 4 * 1024 * 1024
CACHE = "go-modules"
DOWNLOADED = Cache(name=CACHE, access=Access.DOWNLOAD)
VERIFIED = Cache(name=CACHE, access=Access.READ)
PROXY = ".ignite-proxy"
DOWNLOAD_ENV = (
    ("GOMODCACHE", f"/work/download/{CACHE}"),
    ("GOPROXY", f"file:///work/fetch/{PROXY},${{GOPROXY:-https://proxy.golang.org}}"),
)
BUILD_ENV = (
    ("GOMODCACHE", "/cache/go-mod"),
    ("GOPROXY", f"file:///work/fetch/{PROXY}"),
    ("GOSUMDB", "off"),
)
_SUM_LINE = re.compile(r"h1:[A-Za-z0-9+/]{43}=")
_MODULE = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
_VERSION = re.compile(r"v[A-Za-z0-9.+-]+")
_IMPORT = re.compile(r"[A-Za-z0-9._~+@/-]+")
_NAME = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)


def pins(text: str) -> Iterator[tuple[str, str, bool, str]]:
    """(module, version, whether it is of go.mod alone, digest) of each line of go.sum that `go` would take."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and _SUM_LINE.fullmatch(words[2]):
            module, version = words[0], words[1].removesuffix("/go.mod")
            if _MODULE.fullmatch(module) and _VERSION.fullmatch(version) and ".." not in module.split("/"):
                yield module, version, words[1].endswith("/go.mod"), words[2]


def escaped(path: str) -> str:
    """A module path or version as proxies spell it (Go modules reference, "GOPROXY protocol")."""
    return re.sub(r"[A-Z]", lambda match: "!" + match[0].lower(), path)


def fetched(sums: str) -> Fetched:
    """The files that a go.sum pins, and a module proxy of links to them.

    A go.sum also pins what a build does without, so each is optional: `go build` names what it misses.
    """
    wanted: dict[str, WantedFile] = {}
    links: dict[str, CacheLink] = {}
    for module, version, is_mod, digest in pins(sums):
        file = f"{escaped(module)}/@v/{escaped(version)}.{'mod' if is_mod else 'zip'}"
        path = f"{digest.removeprefix('h1:').translate(_FILE_SAFE)}.{'mod' if is_mod else 'zip'}"
        package = "" if is_mod else f"pkg:golang/{module}@{version}"
        if file not in links:  # the first line of two that contradict each other: `go` refuses the other
            links[file] = CacheLink(path=f"{PROXY}/{file}", cache=CACHE, target=path)
            wanted[file] = WantedFile(
                cache=CACHE, source=f"cache/download/{file}", path=path, digest=digest, package=package, optional=True
            )
    return Fetched(wanted=tuple(wanted.values()), links=tuple(links.values()))


_FILE_SAFE = str.maketrans("+/=", "-_.")


def stubs(
    tree: Tree, project: Project, packages: Packages, files: tuple[WriteFile, ...]
) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """What the download step sees, at the places of the source: go.mod and go.work as the build has them, and sums.

    Without a go.sum, `go mod tidy` also needs the imports: a file for each file of the source, with nothing else in it.
    """
    made = {file.path: file for file in files if posixpath.basename(file.path) in ("go.mod", "go.work")}
    inside = [folder for folder in dict.fromkeys(project.paths.values()) if not is_outside(folder)]
    names = [below(folder, name) for folder in inside for name in ("go.mod", "go.sum")]
    names += [below(project.home, name) for name in ("go.work", "go.work.sum")] if project.work else []
    copies = [CopyFile(path=path, source=path) for path in dict.fromkeys(names) if path not in made and tree.has(path)]
    if not project.work and not tree.has(below(project.home, "go.sum")):
        for folder in packages.folders():
            if any(root == "." or f"{folder}/".startswith(f"{root}/") for root in inside):
                made |= {file.path: file for file in _skeleton(packages.files(folder))}
    return tuple(made.values()), tuple(copies)


def _skeleton(files: Iterable[GoFile]) -> Iterator[WriteFile]:
    """The package clause and the imports of each file. What is spelled in no way that `go` takes is left out."""
    for file in files:
        if _NAME.fullmatch(file.package):
            names = dict.fromkeys(name for name, _ in file.imports if _IMPORT.fullmatch(name))
            lines = [f"package {file.package}", *(f'import _ "{name}"' for name in names if name != "C")]
            built = file.constraint.expression
            above = [f"//go:build {built}", ""] if built and built.isprintable() and not file.constraint.fault else []
            above += [f"// +build {option}" for option in file.constraint.options if option.isprintable()]
            above += [""] if file.constraint.options else []
            yield WriteFile(path=file.path, content="\n".join([*above, *lines]) + "\n")
