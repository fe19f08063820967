"""Modules: what a download step sees of the source, what go.sum makes of its result, and how `go build` finds it. Pure.

The step with the network sees go.mod, go.sum and the imports of the source, and no other line of it. `go build` gets a
module proxy of links to files that the node verified against go.sum, and no network.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

from builder.pipelines.go.source import FILE_LIMIT, GoFile, GoMod, read_head
from builder.plan import Access, Cache, CacheLink, CopyFile, Fetched, Wanted, WriteFile
from builder.source.tree import Tree

SUM_LIMIT = 4 * 1024 * 1024
CACHE = "go-modules"
DOWNLOADED = Cache(name=CACHE, access=Access.DOWNLOAD)
VERIFIED = Cache(name=CACHE, access=Access.READ)
PROXY = "proxy"
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
    wanted: dict[str, Wanted] = {}
    links: dict[str, CacheLink] = {}
    for module, version, is_mod, digest in pins(sums):
        file = f"{escaped(module)}/@v/{escaped(version)}.{'mod' if is_mod else 'zip'}"
        path = f"{digest.removeprefix('h1:').translate(_FILE_SAFE)}.{'mod' if is_mod else 'zip'}"
        package = "" if is_mod else f"pkg:golang/{module}@{version}"
        if file not in links:  # the first line of two that contradict each other: `go` refuses the other
            links[file] = CacheLink(path=f"{PROXY}/{file}", cache=CACHE, target=path)
            wanted[file] = Wanted(
                cache=CACHE, source=f"cache/download/{file}", path=path, digest=digest, package=package, optional=True
            )
    return Fetched(wanted=tuple(wanted.values()), links=tuple(links.values()))


_FILE_SAFE = str.maketrans("+/=", "-_.")


def stubs(
    tree: Tree, made: str, mod: GoMod, packages: Mapping[str, list[GoFile]]
) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """What the download step sees: go.mod as the build has it, go.sum, and the go.mod of each local replacement.

    Without a go.sum, `go mod tidy` also needs the imports: a file for each file of the source, with nothing else in it.
    """
    copies = [CopyFile(path="go.sum", source="go.sum")] if tree.has("go.sum") else []
    written = [WriteFile(path="go.mod", content=made)]
    local = sorted({posixpath.normpath(target) for target, _ in mod.replaces.values() if target.startswith(".")})
    inside = [folder for folder in local if not folder.startswith("..") and folder != "."]
    copies += [
        CopyFile(path=f"{folder}/go.mod", source=f"{folder}/go.mod")
        for folder in inside
        if tree.has(f"{folder}/go.mod")
    ]
    if not tree.has("go.sum"):
        written += _skeleton(file for files in packages.values() for file in files)
        below = tuple(f"{folder}/" for folder in inside)
        paths = [path for path in tree.files() if path.endswith(".go") and path.startswith(below)] if below else []
        replaced = [path for path in paths if not path.endswith("_test.go")]
        written += _skeleton(read_head(path, tree.read_text(path, FILE_LIMIT)) for path in replaced)
    unique = {file.path: file for file in written}
    return tuple(unique.values()), tuple(copies)


def _skeleton(files: Iterable[GoFile]) -> Iterator[WriteFile]:
    """The package clause and the imports of each file. What is spelled in no way that `go` takes is left out."""
    for file in files:
        if _NAME.fullmatch(file.package):
            names = dict.fromkeys(name for name, _ in file.imports if _IMPORT.fullmatch(name))
            lines = [f"package {file.package}", *(f'import _ "{name}"' for name in names if name != "C")]
            constraint = [f"//go:build {file.constraint}", ""] if file.constraint.isprintable() else []
            yield WriteFile(
                path=file.path, content="\n".join([*(constraint if file.constraint else ()), *lines]) + "\n"
            )
