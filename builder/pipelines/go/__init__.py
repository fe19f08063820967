"""Go: a module with package main, or a single main.go, becomes one static binary. Runs nothing.

`import "ignite"` is resolved to the bundled SDK by a `replace` in the working copy's go.mod (vendored modules: by an
overlay); the source as it was sent stays as it is.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Mapping, Sequence

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.pipelines.go.required import required_files as required_files
from builder.pipelines.go.source import GoFile, GoMod, is_built, reachable, read_all, read_mod
from builder.pipelines.output import SAID, cut_root, first_match, index_trouble, said_from, step_failed, word_before
from builder.plan import PLATFORM, Choice, Detection, Diagnosis, LayerSource, Network, Output, Plan, Step, WriteFile
from builder.source.tree import Tree

NAME = "go"
EXTENSIONS: tuple[str, ...] = (".go",)
BUILD_ARGS: tuple[str, ...] = ()
SDK = "/opt/ignite/sdk/go"
SDK_FILES = ("ignite.go",)
GO = "/opt/ignite/toolchain/go/bin/go"
OVERLAY = ".ignite-overlay.json"
SUM_LIMIT = 4 * 1024 * 1024
ENV = (
    ("CGO_ENABLED", "0"),
    ("GOCACHE", "/cache/go-build"),
    ("GOFLAGS", "-buildvcs=false"),
    ("GOMODCACHE", "/cache/go-mod"),
    ("GOROOT", "/opt/ignite/toolchain/go"),
    ("GOTELEMETRY", "off"),
    ("GOTOOLCHAIN", "local"),
)


def detect(tree: Tree) -> Detection | None:
    """go.mod or a Go file at the root."""
    roots = ("go.mod", "main.go", *(path for path in tree.glob("*.go") if not path.endswith("_test.go")))
    found = next((path for path in roots if tree.has(path)), "")
    return Detection(runtime=NAME, because=f"{found} is at the root") if found else None


def looks_like(source: bytes) -> bool:
    """A package clause of a program, at the start of a line."""
    return b"\npackage main" in b"\n" + source


def single_file_name(source: bytes) -> str:
    """A single Go file is main.go."""
    return "main.go"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Download modules (network) where any are needed, then compile (none)."""
    text = tree.read_text("go.mod") if tree.has("go.mod") else ""
    mod = read_mod(text)
    packages = read_all(tree)
    folder, entry = _entry(packages)
    version, why = _version(mod, request, catalog)
    row = catalog.find(NAME, version, request.target or "native")
    _refuse_cgo(packages, reachable(packages, folder, mod.module))
    vendored = tree.has("vendor/modules.txt")
    if not vendored:
        _refuse_outside(mod)
    imports = {name for files in packages.values() for file in files for name, _ in file.imports}
    sdk = mod.module != "ignite" and any(name == "ignite" or name.startswith("ignite/") for name in imports)
    files = _files(tree, text, mod, row.version, sdk, vendored)
    warnings: list[str] = []
    download = None if vendored else _download(tree, mod, imports, warnings)
    if mod.module and not mod.toolchain[0]:
        warnings.append(f"go.mod has no toolchain line: took go {row.version} of the catalog")
    overlay = ("-overlay", OVERLAY) if any(file.path == OVERLAY for file in files) else ()
    flags = ("-mod=vendor" if vendored else "-mod=readonly", *overlay)
    target = "." if folder == "." else f"./{folder}"
    argv = (GO, "build", "-trimpath", *flags, "-ldflags=-s -w -buildid=", "-o", "/work/out/app", target)
    compile_step = Step(name="compile", argv=argv, env=ENV, caches=("go-mod", "go-build"))
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=why),
            Choice(name="entry", value=f"package main in {target}", why=entry),
            Choice(name="target", value=f"{row.target}, {PLATFORM}", why="asked for" if request.target else "default"),
        ),
        steps=(download, compile_step) if download else (compile_step,),
        output=Output(
            layers=(LayerSource(source="/work/out/app", dest="/app/app", created_by="ignite: go build"),),
            entrypoint=("/app/app",),
            workdir="/app",
            summary="static binary /app/app, base with CA certificates and time zones, user 65532",
        ),
        files=files,
        warnings=tuple(warnings),
        materials=("go.mod", "go.sum"),
    )


def resolved(tree: Tree) -> tuple[tuple[str, str], ...]:
    """The modules go.sum pins; `go` verified each against it. Their "h1:" is the attestations' `dirHash`, in hex."""
    if tree.has("vendor/modules.txt") or not tree.has("go.sum"):
        return ()
    found = []
    for line in tree.read_text("go.sum", SUM_LIMIT).splitlines():
        words = line.split()
        if len(words) == 3 and not words[1].endswith("/go.mod") and re.fullmatch(r"h1:[A-Za-z0-9+/]{43}=", words[2]):
            digest = base64.b64decode(words[2].removeprefix("h1:")).hex()
            found.append((f"pkg:golang/{words[0]}@{words[1]}", f"dirHash:{digest}"))
    return tuple(sorted(set(found)))


def _entry(packages: Mapping[str, list[GoFile]]) -> tuple[str, str]:
    """(folder, why) of package main: the root, or else the only folder of the module that has one."""
    mains: dict[str, str] = {}
    for folder, files in packages.items():
        for file in files:
            if file.package == "main" and is_built(file):
                mains.setdefault(folder, f"{file.path}:{file.line}")
    if "." in mains:
        return ".", mains["."]
    if len(mains) == 1:
        folder, where = next(iter(mains.items()))
        return folder, f"{where}, the only one"
    if mains:
        listed = ", ".join(sorted(mains)[:5])
        raise BuildError(
            "EntryPointMissing",
            f"package main is not at the root, but in several folders: {listed}",
            next="Add main.go at the root, or send one of these folders as a module of its own.",
        )
    root = next((file.package for file in packages.get(".", ()) if file.package and is_built(file)), "")
    has = f"the root's package is {root}" if root else "there is no Go file at the root"
    raise BuildError("EntryPointMissing", f"no package main: {has}", next='Add main.go with "package main".')


def _version(mod: GoMod, request: PlanRequest, catalog: Catalog) -> tuple[str, str]:
    """The version and why. A go line is a minimum (Go modules reference): the default is taken where it is enough."""
    if request.version:
        return request.version, "asked for"
    name, (value, line) = ("toolchain", mod.toolchain) if mod.toolchain[0] else ("go", mod.go)
    found = re.match(r"(?:go)?(\d+)\.(\d+)", value)
    if not found:
        return "", "the catalog's default"
    known = [row.version for row in catalog.toolchains() if row.runtime == NAME]
    wanted = (int(found[1]), int(found[2]))
    fitting = [one for one in known if tuple(int(part) for part in one.split(".")) >= wanted]
    if not fitting:
        message = f"go.mod asks for go {value.removeprefix('go')}; the catalog has {', '.join(known)}"
        hint = f"Set the {name} line of go.mod to one of these, if the code allows it."
        raise BuildError("UnknownRuntimeVersion", message, where=f"go.mod:{line}", next=hint)
    default = catalog.find(NAME).version
    chosen = default if default in fitting else fitting[-1]
    return chosen, f"go.mod:{line} asks for {found[1]}.{found[2]} or newer; the catalog has it"


def _refuse_cgo(packages: Mapping[str, list[GoFile]], folders: Sequence[str]) -> None:
    """A file that is built without cgo and yet imports "C"; one that asks for cgo itself has a twin and is left out."""
    for file in (file for folder in folders for file in packages[folder] if is_built(file)):
        for name, line in file.imports:
            if name == "C":
                message = f'{file.path} imports "C"; the artifact is built without cgo'
                raise BuildError("CgoRefused", message, where=f"{file.path}:{line}")


def _refuse_outside(mod: GoMod) -> None:
    for path, (target, line) in mod.replaces.items():
        outside = posixpath.normpath(target).startswith("..") or target.startswith("/")
        if outside and (path in mod.requires):
            message = f"{path} is replaced by {target}, which is outside of the source"
            hint = "Send the folder with the source, or vendor it: go mod vendor"
            raise BuildError("ManifestInvalid", message, where=f"go.mod:{line}", next=hint)


def _files(tree: Tree, text: str, mod: GoMod, version: str, sdk: bool, vendored: bool) -> tuple[WriteFile, ...]:
    """go.mod as the build needs it: made where there is none, with the SDK where it is imported."""
    made = text or f"module app\n\ngo {version}\n"
    if not sdk or "ignite" in mod.replaces:
        return (WriteFile(path="go.mod", content=made),) if made != text else ()
    made = made.rstrip("\n") + "\n"
    if "ignite" not in mod.requires:
        made += "\nrequire ignite v0.0.0\n"
    made += f"\nreplace ignite => {SDK}\n"
    files = [WriteFile(path="go.mod", content=made)]
    if vendored:
        listed = tree.read_text("vendor/modules.txt").rstrip("\n")
        asked = mod.requires.get("ignite", ("v0.0.0", 0))[0]
        listed += f"\n# ignite {asked} => {SDK}\n## explicit; go 1.20\nignite\n# ignite => {SDK}\n"
        there = {f"/work/src/vendor/ignite/{name}": f"{SDK}/{name}" for name in SDK_FILES}
        files.append(WriteFile(path="vendor/modules.txt", content=listed.removeprefix("\n")))
        files.append(WriteFile(path=OVERLAY, content=json.dumps({"Replace": there}, indent=2) + "\n"))
    return tuple(files)


def _download(tree: Tree, mod: GoMod, imports: set[str], warnings: list[str]) -> Step | None:
    """`go mod download` for what go.sum pins; `go mod tidy` where nothing is pinned yet; nothing where nothing is."""
    local = {path for path, (target, _) in mod.replaces.items() if target.startswith((".", "/"))} | {"ignite"}
    requires = [path for path in mod.requires if path not in local]
    own = {mod.module or "app", *local}
    foreign = any("." in name.split("/", 1)[0] and not own & _prefixes(name) for name in imports)
    if tree.has("go.sum") and requires:
        return Step(
            name="download modules", argv=(GO, "mod", "download"), network=Network.INDEX, env=ENV, caches=("go-mod",)
        )
    if tree.has("go.sum") or not (requires or foreign):
        return None
    what = "took the versions of go.mod, unchecked" if requires else "took the newest modules"
    warnings.append(f"go.sum is absent: {what}; run go mod tidy and commit go.mod and go.sum to pin them")
    return Step(
        name="resolve modules", argv=(GO, "mod", "tidy"), network=Network.INDEX, env=ENV, caches=("go-mod", "go-build")
    )


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
_NO_ORDER = re.compile(r"import cycle not allowed|found packages |build constraints exclude all Go files")


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What `go` said. The order matters: a lock that does not fit comes before the error it causes."""
    said = [cut_root(line) for line in lines]
    trouble = index_trouble(said) if step.name != "compile" else None
    found = _lock(said) or _manifest(said) or trouble or _module(said) or _compiler(said, exit_code)
    if found:
        return found
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


def _compiler(said: Sequence[str], exit_code: int) -> Diagnosis | None:
    errors = [match for line in said if (match := _AT.match(line))]
    if not errors:
        return None
    path, line, column, text = errors[0].groups()
    where = f"{path}:{line}" + (f":{column}" if column else "")
    words = tuple(line for line in said_from(said, _AT) if not line.startswith("# "))
    if missing := _NO_PACKAGE.search(text):
        name = missing[1] or missing[2]
        return Diagnosis(
            reason="DependencyNotFound", message=f"{name} is imported, but no module provides it", where=where,
            said=words, next=f"Add it: go get {name}" if "." in name.split("/")[0] else f"Correct the import {name}.",
        )  # fmt: skip
    count = f"  (first of {len(errors)})" if len(errors) > 1 else ""
    return Diagnosis(
        reason="CompileFailed", message=f"go build exited {exit_code}", where=where + count, said=words[:SAID],
        next=f"Correct {path}, build again (modules are kept). By hand: go build ./...",
    )  # fmt: skip
