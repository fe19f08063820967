"""What cargo and rustc print when they fail, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.output import SAID, cut_root, first_match, index_trouble, said_from, step_failed
from builder.pipelines.rust.components import unbuildable
from builder.plan import Diagnosis, Step

_STUBS = re.compile(r"/work/fetch/(?:app|sent)/?")
_ERROR = re.compile(r"^error(?:\[E\d{4}\])?: ")
_AT = re.compile(r"^ {0,8}--> ([^\s:][^:]{0,300}):(\d+):(\d+)")
_STALE = re.compile(r"lock file \S{1,300} (?:needs to be updated|because --locked|cannot be updated)"
                    r"|cannot update the lock file")  # fmt: skip
_CHECKSUM = re.compile(r"checksum for `([^`]{1,200})` (?:changed between lock files|could not be calculated)")
_NO_PACKAGE = re.compile(r"no matching package (?:named )?`([^`]{1,200})` found|no matching package found")
_SEARCHED = re.compile(r"searched package name: `([^`]{1,200})`")
_NO_VERSION = re.compile(r'failed to select a version for the requirement `([^\s`]{1,200}) = "([^"`]{1,200})"`')
_YANKED = re.compile(r"^ {0,8}version (\S{1,100}) is yanked")
_FEATURE = re.compile(r"depends on `([^`]{1,200})` with feature `([^`]{1,200})` but")
_CONFLICT = re.compile(r"failed to select a version for `([^`]{1,200})`")
_REQUIRED = re.compile(r"required by package `(\S{1,200}) v\S{1,100}(?: \(([^)]{0,300})\))?`")
_MANIFEST = re.compile(r"failed to (?:parse manifest at|load manifest for|read) `?([^`]{1,300})")
_TOO_OLD = re.compile(r"^ {0,8}(\S{1,200})@(\S{1,100}) requires rustc (\d+\.\d+)"
                      r"|package `(\S{1,200}) v(\S{1,100})` cannot be built because it requires rustc (\d+\.\d+)"
                      )  # fmt: skip
_EDITION = re.compile(r"supported edition values are|feature `edition\d{4}` is required")
_SCRIPT = re.compile(r"failed to run custom build command for `(\S{1,200}) v([^\s`]{1,100})(?: \(([^)`]{0,300})\))?`")
_PANICKED = re.compile(r"panicked at ([\w./-]{1,200}\.rs:\d+:\d+)")
_NO_COMPILER = re.compile(
    r"(?:failed to find tool|Failed to find tool|ToolNotFound)|linker `cc` not found|is `cmake` not installed|"
    r"(?:cc|gcc|c\+\+|g\+\+|cmake|perl|pkg-config|make)\S{0,40}: (?:not found|No such file)|"
    r"No such file or directory \(os"
)
_LIBRARY = re.compile(r"cannot find -l(?:ib)?([\w+.-]{1,100})|unable to find library -l([\w+.-]{1,100})")
_LINK = re.compile(r"^error: linking with `")
_NO_MAIN = re.compile(r"`main` function not found in crate|cannot find function `main` in crate")
_UNRESOLVED = re.compile(r"(?:use of )?(?:unresolved module or unlinked crate|undeclared crate or module) `(\w{1,200})`"
                         r"|can't find crate for `(\w{1,200})`|unresolved import `(\w{1,200})`$")  # fmt: skip
_SDK_NAME = re.compile(r"^error\[E0\d{3}\]: cannot find type `(?:Request|Context|IntoResponse)` in this scope$")
_NO_RESULT = re.compile(r"^error\[E0271\]: .{0,400}? resolves to `Result<")
_OF_MACRO = re.compile(r"^ {0,8}\d{1,7} \| {0,8}#\[ignite::main\]$")
_COULD_NOT = re.compile(r"could not compile `([^`]{1,200})`")
_TROUBLE = re.compile(
    r"spurious network error|failed to download (?:from|replaced source)|failed to get successful HTTP response|"
    r"\[(?:6|7|28|35|56)\] |download of \S{1,300} failed"
)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What cargo printed. The order matters: what cannot be resolved comes before what it causes."""
    said = [_STUBS.sub("", cut_root(line)) for line in lines]
    fetching = step.name.startswith(("download", "resolve"))
    return (
        (_trouble(said) if fetching else None)
        or _lock(step, said)
        or _resolution(said)
        or _manifest(said)
        or unbuildable(step, said)
        or _script(said)
        or _linker(said)
        or _compiler(said, exit_code)
        or step_failed(step, exit_code, said)
    )


def _words(said: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    return tuple(line[:200] for line in said_from(said, pattern))[:SAID]


def _trouble(said: Sequence[str]) -> Diagnosis | None:
    if any(pattern.search(line) for line in said for pattern in (_NO_PACKAGE, _NO_VERSION, _CONFLICT, _STALE)):
        return None
    found = index_trouble(said)
    if found or not (line := first_match(said, _TROUBLE)):
        return found
    return Diagnosis(
        reason="PackageIndexUnavailable", message=f"the package index did not answer: {line.strip()[:200]}",
        said=_words(said, _TROUBLE), next="Nothing to change in your code. Try again later.",
    )  # fmt: skip


def _lock(step: Step, said: Sequence[str]) -> Diagnosis | None:
    if found := _CHECKSUM.search(first_match(said, _CHECKSUM)):
        return Diagnosis(
            reason="LockOutdated", message=f"{found[1]} is not the one that Cargo.lock pins", where="Cargo.lock",
            said=_words(said, _CHECKSUM),
            next="Write its entry again and commit it: cargo update -p " + found[1].split()[0],
        )  # fmt: skip
    stale = first_match(said, _STALE)
    locked = "--locked" in step.argv and "--offline" in step.argv  # beside crates that the lock names and no others
    lacks = first_match(said, _NO_PACKAGE) or first_match(said, _NO_VERSION) if locked else ""
    if not (stale or lacks):
        return None
    name = _NO_PACKAGE.search(lacks) or _NO_VERSION.search(lacks)
    what = f": it lacks {name[1]}" if name and name[1] else ""
    return Diagnosis(
        reason="LockOutdated", message=f"Cargo.lock does not fit Cargo.toml{what}", where="Cargo.lock",
        said=_words(said, _STALE if stale else _ERROR),
        next="Run cargo update --workspace and commit Cargo.lock.",
    )  # fmt: skip


def _resolution(said: Sequence[str]) -> Diagnosis | None:
    needer = _REQUIRED.search(first_match(said, _REQUIRED))
    by = f" (needed by {needer[1]})" if needer and not needer[2] and "(" not in needer[0] else ""
    if line := first_match(said, _NO_PACKAGE):
        name = _NO_PACKAGE.search(line)
        searched = _SEARCHED.search(first_match(said, _SEARCHED))
        which = (name[1] if name else "") or (searched[1] if searched else "") or "a crate"
        return Diagnosis(
            reason="DependencyNotFound", message=f"crates.io has no crate {which}{by}",
            where=f"Cargo.toml  {which}", said=_words(said, _NO_PACKAGE),
            next=f'Is "{which}" spelled right? By hand: cargo search {which}',
        )  # fmt: skip
    if found := _NO_VERSION.search(first_match(said, _NO_VERSION)):
        if yanked := _YANKED.match(first_match(said, _YANKED)):
            return Diagnosis(
                reason="DependencyNotFound",
                message=f"{found[1]} {yanked[1]} was yanked: its author took it back from crates.io{by}",
                where=f"Cargo.toml  {found[1]}", said=_words(said, _NO_VERSION),
                next=f"Take another version, or pin it in Cargo.lock if you must. By hand: cargo info {found[1]}",
            )  # fmt: skip
        return Diagnosis(
            reason="DependencyNotFound", message=f'crates.io has no version "{found[2]}" of {found[1]}{by}',
            where=f"Cargo.toml  {found[1]}", said=_words(said, _NO_VERSION),
            next=f"Take one that there is. By hand: cargo info {found[1]}",
        )  # fmt: skip
    if found := _FEATURE.search(first_match(said, _FEATURE)):
        return Diagnosis(
            reason="ManifestInvalid", message=f"{found[1]} has no feature {found[2]}{by}",
            where=f"Cargo.toml  {found[1]}", said=_words(said, _FEATURE),
            next=f"Take one that it has. By hand: cargo info {found[1]}",
        )  # fmt: skip
    if found := _CONFLICT.search(first_match(said, _CONFLICT)):
        return Diagnosis(
            reason="DependencyConflict", message=f"the requirements of {found[1]} exclude each other",
            where=f"Cargo.toml  {found[1]}", said=_words(said, _CONFLICT), next="Loosen one of the versions named.",
        )  # fmt: skip
    if found := _TOO_OLD.search(first_match(said, _TOO_OLD)):
        crate, version, needs = (part for part in found.groups() if part)
        return Diagnosis(
            reason="UnknownRuntimeVersion", message=f"{crate} {version} needs rust {needs}, newer than the one here",
            where=f"Cargo.toml  {crate}", said=_words(said, _TOO_OLD),
            next=f"Ask for rust {needs} or newer, or take an older version of {crate}.",
        )  # fmt: skip
    return None


def _manifest(said: Sequence[str]) -> Diagnosis | None:
    found = _MANIFEST.search(first_match(said, _MANIFEST))
    if not found:
        return None
    file = found[1].strip() or "Cargo.toml"
    causes = [line.strip() for line in said if line.startswith("  ") and line.strip()]
    why = causes[-1][:200] if causes else "it cannot be read"
    edition = bool(first_match(said, _EDITION))
    return Diagnosis(
        reason="ManifestInvalid", message=f"{file} cannot be read: {why}",
        where=f"{file}  package.edition" if edition else file, said=_words(said, _MANIFEST),
        next='Name an edition that there is: edition = "2021"' if edition else f"Correct {file}.",
    )  # fmt: skip


def _script(said: Sequence[str]) -> Diagnosis | None:
    """A `build.rs` that ended badly: of a crate, or the source's own."""
    found = _SCRIPT.search(first_match(said, _SCRIPT))
    if not found:
        return None
    name, version, own = found[1], found[2], found[3] is not None
    panicked = _PANICKED.search(first_match(said, _PANICKED)) if own else None
    folder = (found[3] or "").strip("./")
    script = panicked[1] if panicked else f"{folder}/build.rs".lstrip("/")
    errors = next((said[at + 1 :] for at, line in enumerate(said) if line.strip() == "--- stderr"), ())
    heads = [line.strip()[:200] for line in errors if line.strip()]
    words = (first_match(said, _SCRIPT)[:200], *heads)[:SAID]
    if line := first_match(said, _NO_COMPILER):
        return Diagnosis(
            reason="CompileFailed",
            message=f"{name} {version} builds C code, and the toolchain here lacks what it needs: {line.strip()[:160]}",
            where=script if own else f"Cargo.toml  {name}", said=words,
            next=f"Take a crate that is Rust alone instead of {name}, or a feature of it that brings no C code.",
        )  # fmt: skip
    return Diagnosis(
        reason="CompileFailed", message=f"the build script of {name} {version} failed",
        where=script if own else f"Cargo.toml  {name}", said=words,
        next=f"Correct {script}." if own else f"See what {name} needs; there is no network while it is built.",
    )  # fmt: skip


def _linker(said: Sequence[str]) -> Diagnosis | None:
    if not first_match(said, _LINK):
        return None
    found = _LIBRARY.search(first_match(said, _LIBRARY))
    name = (found[1] or found[2]) if found else ""
    what = f"there is no library {name} to link" if name else "the program cannot be linked"
    hint = "Take a feature of its crate that builds it from source (often `bundled`, `static` or `vendored`)."
    return Diagnosis(
        reason="CompileFailed", message=what, said=_words(said, _LIBRARY if name else _LINK),
        next=hint if name else "Read the linker's own words in the log.",
    )  # fmt: skip


def _compiler(said: Sequence[str], exit_code: int) -> Diagnosis | None:
    start = next((at for at, line in enumerate(said) if _ERROR.match(line)), None)
    if start is None:
        return None
    at = next((match for line in said[start : start + 4] if (match := _AT.match(line))), None)
    if at is None:
        return None
    where = f"{at[1]}:{at[2]}:{at[3]}"
    errors = sum(1 for line in said if _ERROR.match(line) and not _COULD_NOT.search(line))
    count = f"  (first of {errors})" if errors > 1 else ""
    words = tuple(line[:200] for line in said[start : start + 3 * SAID] if line.strip(" |"))[:SAID]
    if _NO_MAIN.search(said[start]):
        return Diagnosis(
            reason="EntryPointMissing", message="the program has no fn main", where=where, said=words,
            next="Add `fn main()` with a server on $PORT, or put #[ignite::main] before the handler.",
        )  # fmt: skip
    if missing := next((found for line in said[start : start + 8] if (found := _UNRESOLVED.search(line))), None):
        name = next(part for part in missing.groups() if part)
        return Diagnosis(
            reason="DependencyNotFound", message=f"{name} is used, but Cargo.toml does not name it", where=where,
            said=words, next=f"Add it: cargo add {name}. Or correct the path, if it is a module of yours.",
        )  # fmt: skip
    if _NO_RESULT.match(said[start]) and any(_OF_MACRO.match(line) for line in said[start : start + 5]):
        return Diagnosis(
            reason="CompileFailed", message="the handler of #[ignite::main] returns no Result", where=where + count,
            said=words, next="Let it return ignite::Result<…>, and end with Ok(…).",
        )  # fmt: skip
    crate = _COULD_NOT.search(first_match(said, _COULD_NOT))
    what = f"{crate[1]} does not compile" if crate else f"cargo build exited {exit_code}"
    step = f"Correct {at[1]}, build again (crates are stored). By hand: cargo build"
    if _SDK_NAME.match(said[start]):
        step = f"If it is the SDK's, add to {at[1]}: use ignite::{{Context, IntoResponse, Request, Result}};"
    return Diagnosis(
        reason="CompileFailed", message=f"{what}: {_ERROR.sub('', said[start], count=1)[:200]}", where=where + count,
        said=words, next=step,
    )  # fmt: skip
