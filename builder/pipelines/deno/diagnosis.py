"""What Deno and our own programs print when they fail, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.deno.remote import host_of, not_fetched
from builder.pipelines.limits import LINE_LIMIT
from builder.pipelines.output import SAID, first_match, index_trouble, said_from, step_failed
from builder.plan import Diagnosis, Step

_AT = re.compile(
    r"^\s{0,8}at (?:file://)?(\S{1,500}?):(\d{1,9}):(\d{1,9})\)?$|at (?:file://)(\S{1,500}?):(\d{1,9}):(\d{1,9})$"
)
_TYPE = re.compile(r"^(?:error: )?(TS\d{1,6}) \[ERROR\]: (.{1,1000})")
_FOUND = re.compile(r"^Found (\d{1,9}) errors?\.$")
_STALE = re.compile(r"The lockfile is out of date")
_INTEGRITY = re.compile(r"[Ii]ntegrity check failed")
_FORMAT = re.compile(r"Unsupported lockfile version '(\w{1,9})'")
_BAD_LOCK = re.compile(r"[Ff]ailed reading lockfile|Unable to (?:read|parse) (?:the )?lockfile")
_NO_MODULE = re.compile(
    r"Module not found \"(?:file://)?([^\"]{1,500})\"|Cannot find module '(?:file://)?([^']{1,500})'"
)
_BARE = re.compile(
    r"(?:Relative import path \"([^\"]{1,300})\" not prefixed|Import \"([^\"]{1,300})\" not a dependency)"
)
_SYNTAX = re.compile(r"source code could not be parsed: (.{1,300}?) at (?:file://)?(\S{1,500}):(\d{1,9}):(\d{1,9})$")
_SYNTAX_NEW = re.compile(r"error: SyntaxError: (.{1,300})$")
_NO_PACKAGE = re.compile(
    r"npm package ['\"]?([@\w./~-]{1,300})['\"]? does not exist|package \"([@\w./~-]{1,300})\".{0,80}40[34]"
    r"|ERR_NOT_FOUND (\S{1,300})"
)
_NO_VERSION = re.compile(r"Could not find npm package ['\"]([@\w./~-]{1,300})['\"] matching ['\"]?([^'\"\s]{1,100})")
_NOT_CACHED = re.compile(
    r"npm specifier not found in cache: \"([^\"]{1,300})\""
    r"|package tarball not found in cache|Could not find a matching package for 'npm:([^']{1,300})'"
    r"|npm package not found in cache: \"([^\"]{1,300})\""
)
_NO_REMOTE = re.compile(
    r"Specifier not found in cache: \"(https?:[^\"]{1,500})\"|Requires import access to \"([^\"]{1,300})\""
    r"|Import '(https?:[^']{1,500})' failed"
)
_NO_EXPORT = re.compile(r"does not provide an export named '([^']{1,200})'")
_CONFIG = re.compile(r"(?:Unable to parse config file|Invalid .{0,40}config|[Ff]ailed deserializing config)")
_NO_HTTP = re.compile(r"^error: (\S{1,300}) is not to be had: (.{1,200})$")
_BACKTRACE = re.compile(r"^Stack backtrace:")
_PROGRESS = ("Download ", "Initialize ", "Check ")
_ERROR = re.compile(r"^error: ")
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,20}m")
_UNTYPED = ("TS7006", "TS7016", "TS7031")
"""What has no type of its own, as what an npm package without types hands to a function (`deno run` checks none)."""
_UNTYPED_NEXT = (
    'Give it a type. Those of a package without any: // @ts-types="npm:@types/NAME" above its import. '
    "By hand: deno check"
)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What was printed. A lock that does not fit comes before the error it causes."""
    said = [_cut(line) for line in lines]
    end = next((at for at, line in enumerate(said) if _BACKTRACE.match(line)), len(said))
    said = [line for line in said[:end] if not line.startswith(_PROGRESS) and "imports.ts:" not in line]
    fetches = step.name == "lock packages" or step.name.startswith("download ")
    return (
        _lock(said)
        or (_registry(said) if fetches else None)
        or (index_trouble(said) if fetches else None)
        or _syntax(said)
        or _types(said, exit_code)
        or _modules(step, said)
        or step_failed(step, exit_code, said)
    )


def _cut(line: str) -> str:
    """A line without colours and without the sandbox's folders, which nobody else knows."""
    line = _COLOURS.sub("", line[:LINE_LIMIT]).rstrip()
    for root in ("file:///work/out/app/", "/work/out/app/", "file:///work/fetch/", "/work/fetch/"):
        line = line.replace(root, "")
    return line.replace("file:///work/out/app", ".").replace("/work/out/app", ".")


def _lock(said: Sequence[str]) -> Diagnosis | None:
    if first_match(said, _STALE):
        return Diagnosis(
            reason="LockOutdated", message="deno.lock does not fit what the source imports", where="deno.lock",
            said=said_from(said, _STALE), next="Run `deno install` and commit deno.lock.",
        )  # fmt: skip
    if first_match(said, _INTEGRITY):
        return Diagnosis(
            reason="LockOutdated", message="a package is not the one that deno.lock pins", where="deno.lock",
            said=said_from(said, _INTEGRITY), next="Write deno.lock again: delete it and run `deno install`.",
        )  # fmt: skip
    if found := _FORMAT.search(first_match(said, _FORMAT)):
        return Diagnosis(
            reason="LockOutdated", message=f"deno.lock has the format {found[1]}, which this Deno does not read",
            where="deno.lock", said=said_from(said, _FORMAT), next="Ask for a newer Deno, or lock with this one.",
        )  # fmt: skip
    if first_match(said, _BAD_LOCK):
        return Diagnosis(
            reason="ManifestInvalid", message="deno.lock cannot be read", where="deno.lock",
            said=said_from(said, _BAD_LOCK), next="Write it again: delete it and run `deno install`.",
        )  # fmt: skip
    return None


def _registry(said: Sequence[str]) -> Diagnosis | None:
    if found := _NO_VERSION.search(first_match(said, _NO_VERSION)):
        return Diagnosis(
            reason="DependencyNotFound", message=f"no version of {found[1]} matches {found[2]}",
            where=f"npm:{found[1]}@{found[2]}", said=said_from(said, _NO_VERSION),
            next="Take a version that the registry has: npm view NAME versions",
        )  # fmt: skip
    if found := _NO_PACKAGE.search(first_match(said, _NO_PACKAGE)):
        name = found[1] or found[2] or found[3]
        return Diagnosis(
            reason="DependencyNotFound", message=f"the npm registry has no package {name}",
            where=f"npm:{name}", said=said_from(said, _NO_PACKAGE),
            next=f'Is "{name}" spelled right? If it is private, its registry must be configured by the operator.',
        )  # fmt: skip
    if found := _NO_HTTP.search(first_match(said, _NO_HTTP)):
        return Diagnosis(
            reason="DependencyNotFound", message=f"{found[1]} of the lock is not to be had: {found[2]}",
            where="deno.lock", said=said_from(said, _NO_HTTP),
            next="Take a version that the registry has, and lock again.",
        )  # fmt: skip
    return None


def _syntax(said: Sequence[str]) -> Diagnosis | None:
    if found := _SYNTAX.search(first_match(said, _SYNTAX)):
        text, path, line, column = found.groups()
        where = f"{path}:{line}:{column}"
    elif found := _SYNTAX_NEW.search(first_match(said, _SYNTAX_NEW)):
        text, where = found[1], _at(said)
    else:
        return None
    return Diagnosis(
        reason="CompileFailed", message=f"this is no TypeScript: {text}", where=where,
        said=said_from(said, _ERROR), next=f"Correct {where.split(':')[0] or 'it'} and build again.",
    )  # fmt: skip


def _types(said: Sequence[str], exit_code: int) -> Diagnosis | None:
    errors = [(at, found) for at, line in enumerate(said) if (found := _TYPE.match(line))]
    if not errors:
        return None
    first, found = errors[0]
    where = _at(said[first:])
    words = tuple(line.removeprefix("error: ") for line in said[first:] if line)[:SAID]
    if bare := _BARE.search(found[2]):
        return _undeclared(bare[1] or bare[2], where, words)
    if missing := _NO_MODULE.search(found[2]):
        return _missing(missing[1] or missing[2], where, words)
    count = next((match[1] for line in said if (match := _FOUND.match(line))), "")
    return Diagnosis(
        reason="CompileFailed", message=f"deno check exited {exit_code}: {found[1]} {found[2][:200]}",
        where=where + (f"  (first of {count})" if count else ""), said=words,
        next=_UNTYPED_NEXT if found[1] in _UNTYPED
        else f"Correct {where.split(':')[0] or 'it'}, build again. By hand: deno check",
    )  # fmt: skip


def _modules(step: Step, said: Sequence[str]) -> Diagnosis | None:
    if found := _BARE.search(line := first_match(said, _BARE)):
        return _undeclared(found[1] or found[2], _at(said), said_from(said, _BARE))
    if found := _NO_MODULE.search(line := first_match(said, _NO_MODULE)):
        return _missing(found[1] or found[2], _at(said), said_from(said, _NO_MODULE))
    if found := _NOT_CACHED.search(line := first_match(said, _NOT_CACHED)):
        name = found[1] or found[2] or found[3] or "a package"
        frozen = "frozen" in step.argv
        return Diagnosis(
            reason="LockOutdated" if frozen else "DependencyNotFound",
            message=f"{name} is imported, but {'deno.lock does not pin it' if frozen else 'no import spells it out'}",
            where=_at(said) or "deno.lock", said=said_from(said, _ERROR),
            next="Run `deno install` and commit deno.lock." if frozen else "Name it in the imports of deno.json.",
        )  # fmt: skip
    if found := _NO_REMOTE.search(first_match(said, _NO_REMOTE)):
        return _remote(step, found, _at(said), said_from(said, _NO_REMOTE))
    if found := _NO_EXPORT.search(line := first_match(said, _NO_EXPORT)):
        return Diagnosis(
            reason="CompileFailed", message=line.removeprefix("error: ")[:300], where=_at(said),
            said=said_from(said, _NO_EXPORT), next=f"Correct the import of {found[1]}.",
        )  # fmt: skip
    if first_match(said, _CONFIG):
        return Diagnosis(
            reason="ManifestInvalid", message="deno.json cannot be read", where="deno.json",
            said=said_from(said, _CONFIG), next="Correct deno.json.",
        )  # fmt: skip
    return None


def _remote(step: Step, found: re.Match[str], where: str, said: tuple[str, ...]) -> Diagnosis:
    """A module that was not fetched: its host is none of the step's, or the lock does not pin it."""
    hosts = next((word.partition("=")[2].split(",") for word in step.argv if word.startswith("imports=")), [])
    url = found[1] or found[3]
    what, host = url or f"https://{found[2]}", host_of(url) if url else found[2]
    if hosts == ["*"]:
        return Diagnosis(
            reason="DependencyNotFound", message=f"{what} is imported, but vendor/ does not have it", where=where,
            said=said, next="Run `deno install --entrypoint FILE` for the program's file, and send vendor/ whole.",
        )  # fmt: skip
    if host not in hosts:
        refused = not_fetched(what, host, where)
        return Diagnosis(
            reason=refused.reason,
            message=refused.message,
            where=refused.where,
            said=said,
            next=refused.next,
            error_class=refused.error_class,
        )
    return Diagnosis(
        reason="LockOutdated", message=f"{what} is imported, but deno.lock does not pin it",
        where=where or "deno.lock", said=said,
        next="Run `deno install --entrypoint FILE` for the program's file and commit deno.lock.",
    )  # fmt: skip


def _missing(path: str, where: str, said: tuple[str, ...]) -> Diagnosis:
    return Diagnosis(
        reason="DependencyNotFound", message=f"{path} is imported, but nothing in what was sent is there",
        where=where, said=said, next="Correct the path, its extension too, or send the file.",
    )  # fmt: skip


def _undeclared(name: str, where: str, said: tuple[str, ...]) -> Diagnosis:
    return Diagnosis(
        reason="DependencyNotFound", message=f"{name} is imported, but neither deno.json nor package.json names it",
        where=where, said=said, next=f"Add it: deno add npm:{name}",
    )  # fmt: skip


def _at(said: Sequence[str]) -> str:
    """file:line:column of the first line that names one."""
    for line in said:
        if found := _AT.search(line):
            parts = [part for part in found.groups() if part is not None]
            return ":".join(parts)
    return ""
