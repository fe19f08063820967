"""Pipfile and Pipfile.lock: what of them is installed, and whether they belong together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import LOCK_LIMIT, read_toml
from builder.pipelines.python.constraints import specifiers
from builder.pipelines.python.needs import DIGEST, Dependencies, by_name, canonical, pinned, refuse_count, requirement
from builder.pipelines.python.project import line_of, table, texts
from builder.source.tree import Tree
from builder.text import strangers_json

PIPFILE, LOCK = "Pipfile", "Pipfile.lock"
_AGAIN = "Run: pipenv lock — and send the Pipfile.lock that it writes."
_ELSEWHERE = ("git", "hg", "svn", "path", "file", "url", "ref")
_MARKERS = ("os_name", "sys_platform", "platform_machine", "platform_system", "python_version", "python_full_version")


def read_pipfile(tree: Tree) -> Dependencies:
    """What a Pipfile asks for. Raises `BuildError` ManifestInvalid with its line."""
    lines = tuple(_asked(tree).values())
    return Dependencies(manifest=PIPFILE, count=len(lines), requirements=lines, files=(PIPFILE,))


def read_pipfile_lock(tree: Tree) -> Dependencies:
    """The default packages of a Pipfile.lock. Raises `BuildError` LockOutdated where the Pipfile is another's."""
    try:
        lock = strangers_json(tree.read_text(LOCK, LOCK_LIMIT))
    except (ValueError, RecursionError) as error:
        message = f"{LOCK} is no JSON: {str(error)[:200]}"
        raise BuildError("ManifestInvalid", message, where=LOCK, next=_AGAIN) from None
    packages = table(lock, "default")
    refuse_count(len(packages), LOCK)
    lines, versions = [], {}
    for name, value in packages.items():
        entry = value if isinstance(value, dict) else {}
        version = entry.get("version")
        if odd := next((one for one in _ELSEWHERE if one in entry), ""):
            where = line_of(tree, f'"{name}"', LOCK)
            message = f"{name[:80]} comes from {odd}, not from an index"
            raise _elsewhere(odd, message, where)
        marker = f" ; {entry['markers']}" if isinstance(entry.get("markers"), str) else ""
        if not (
            isinstance(version, str) and version.startswith("==") and (line := by_name(f"{name}{version}{marker}"))
        ):
            where = line_of(tree, f'"{name}"', LOCK)
            message = f"this is no package by name, version and marker: {name[:60]}{str(version)[:20]}"
            raise BuildError("ManifestInvalid", message, where=where, next=_AGAIN)
        digests = [text.removeprefix("sha256:") for text in texts(entry.get("hashes"))]
        lines.append(pinned(line, [one for one in digests if DIGEST.fullmatch(one)]))
        versions[canonical(name)] = version[2:]
    for name, asked in _asked(tree).items() if tree.has(PIPFILE) else ():
        need = requirement(asked)
        locked = versions.get(name)
        if need is None or (locked is not None and need.specifier.contains(locked, prereleases=True)):
            continue
        what = f"{LOCK} has {locked[:40]}" if locked else f"{LOCK} does not have it"
        where = line_of(tree, need.name, PIPFILE, after="packages")
        raise BuildError("LockOutdated", f"{PIPFILE} needs {asked[:80]}; {what}", where=where, next=_AGAIN)
    return Dependencies(manifest=LOCK, count=len(lines), requirements=tuple(lines), complete=True, files=(LOCK,))


def _elsewhere(kind: str, message: str, where: str) -> BuildError:
    hint = "Take a release of it from an index."
    if kind in ("git", "hg", "svn", "url"):
        return refused_source(message, where=where, next=hint)
    return BuildError("ManifestInvalid", message, where=where, next=hint)


def _asked(tree: Tree) -> dict[str, str]:
    """Name → requirement of `[packages]`."""
    packages = table(read_toml(tree, PIPFILE), "packages")
    refuse_count(len(packages), PIPFILE)
    found: dict[str, str] = {}
    for name, value in packages.items():
        options: Mapping[str, Any] = value if isinstance(value, dict) else {"version": value}
        where = line_of(tree, name, PIPFILE, after="packages")
        if odd := next((one for one in (*_ELSEWHERE, "editable") if one in options), ""):
            message = f"{name[:80]} comes from {odd}; only the operator's package indexes are used here"
            raise _elsewhere(odd, message, where)
        extras = f"[{','.join(texts(options.get('extras')))}]" if options.get("extras") else ""
        markers = [f"{key} {options[key]}" for key in _MARKERS if isinstance(options.get(key), str)]
        markers += [options["markers"]] if isinstance(options.get("markers"), str) else []
        specifier = specifiers(options.get("version", "*"))
        line = by_name(f"{name}{extras}{specifier or ''}" + (f" ; {' and '.join(markers)}" if markers else ""))
        if specifier is None or not line:
            message = f"this is no requirement: {name[:40]} = {str(options.get('version'))[:40]}"
            raise BuildError("ManifestInvalid", message, where=where, next="Write it as in idna = '>=3,<4'.")
        found[canonical(name)] = line
    return found
