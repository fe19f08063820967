"""What `go` prints when it fails, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.go.unfetched import unfetched
from builder.pipelines.output import SAID, cut_root, first_match, index_trouble, said_from, step_failed, word_before
from builder.plan import Diagnosis, Step

LOOK_STEP = "look for cgo"
"""The step whose lines name what a failed compile misses."""
_AT = re.compile(r"^(?:\./)?([\w./@+-]+\.(?:go|s)):(\d+)(?::(\d+))?: (.+)$")
_INSIDE = re.compile(r"^\t([\w./@+-]+\.go):(\d+):(\d+): (use of (?:internal|vendored) package \S+ not allowed)$")
"""It stands behind the chain of imports that leads there, so it is indented as a remark of the compiler is."""
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
_NO_COMPILER = re.compile(r"^cgo: C compiler \"|exec: \"gcc\": executable file not found")
_NO_LIBRARY = re.compile(r"cannot find -l([\w.+-]{1,100})")
_UNDEFINED = re.compile(r"undefined: (\w{1,200})\.\w")
_EXCLUDED = re.compile(r"(?:imports |^package )([^\s:]{1,500}): build constraints exclude all Go files")
_EMBED = re.compile(r"pattern (.{1,500}): no matching files found$")
_CYCLE = re.compile(r"import cycle not allowed$")
_CHAIN = re.compile(r"^\timports |^package ")
_NO_ORDER = re.compile(r"found packages |build constraints exclude all Go files|no non-test Go files in ")


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What `go` printed. The order matters: a lock that does not fit comes before the error it causes."""
    said = [cut_root(line) for line in lines]
    trouble = index_trouble(said) if step.name not in ("compile", LOOK_STEP) else None
    unfetched_one = unfetched(step.private, said) if step.private else None
    found = _lock(said) or unfetched_one or _manifest(said) or trouble or _c(said) or _module(said) or _cgo(said)
    found = found or _compiler(said, exit_code)
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
    if found := _packages(said):
        return found
    if first_match(said, _NO_ORDER):
        return Diagnosis(
            reason="CompileFailed", message=f"go build exited {exit_code}", said=said_from(said, _NO_ORDER),
            next="Correct the package named, build again (modules are kept). By hand: go build ./...",
        )  # fmt: skip
    return step_failed(step, exit_code, said)


def _packages(said: Sequence[str]) -> Diagnosis | None:
    """Packages that may not import each other. `go` names the chain of imports first, the cause in its last line."""
    if inside := _INSIDE.match(first_match(said, _INSIDE)):
        path, line, column, text = inside.groups()
        return Diagnosis(
            reason="CompileFailed", message=text, where=f"{path}:{line}:{column}", said=(inside[0].strip(),),
            next="Import a package that is open to all, or move this one below the parent of that internal folder.",
        )  # fmt: skip
    end = next((at for at, line in enumerate(said) if _CYCLE.search(line)), None)
    if end is None:
        return None
    start = end
    while start and end - start < SAID - 1 and _CHAIN.match(said[start - 1]):
        start -= 1
    chain = tuple(said[start : end + 1])
    return Diagnosis(
        reason="CompileFailed", message="packages import each other: import cycle not allowed", said=chain,
        next="Move what both need into a package of its own. By hand: go build ./...",
    )  # fmt: skip


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
        next="Correct its name or version. By hand: go mod download. If it is private: --build-arg private=HOST/PATH, "
        "beside private_secret.",
    )  # fmt: skip


def _c(said: Sequence[str]) -> Diagnosis | None:
    """What a build with cgo lacks: the C compiler, or a library."""
    if line := first_match(said, _NO_COMPILER):
        return Diagnosis(
            reason="CgoRefused", message="the toolchain here has no C compiler, which cgo=1 asks for", said=(line,),
            next="The operator of the node gets an image of the version with a C compiler: "
            "ignite-builder runtimes fetch --refresh go-VERSION. Or leave cgo out.",
        )  # fmt: skip
    if found := _NO_LIBRARY.search(first_match(said, _NO_LIBRARY)):
        return Diagnosis(
            reason="CgoRefused", message=f"the C library {found[1]} is not in the toolchain image",
            said=said_from(said, _NO_LIBRARY),
            next="Take a module that brings its C code along, or one that is Go alone.",
        )  # fmt: skip
    return None


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
