"""The locks of Poetry and PDM: what of them is installed, and whether they are those of their manifest. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import LOCK_LIMIT, read_toml
from builder.pipelines.python.environment import applies
from builder.pipelines.python.layout import read_local
from builder.pipelines.python.needs import (
    DIGEST,
    MOST_FILES,
    NAME,
    Dependencies,
    Local,
    canonical,
    pinned,
    refuse_count,
    requirement,
)
from builder.pipelines.python.project import PYPROJECT, declared, line_of, table, tables, texts
from builder.source.tree import Tree

LOCK, PDM_LOCK = "poetry.lock", "pdm.lock"
_PDM_AGAIN = "Run: pdm lock — and send the pdm.lock that it writes."
_PDM_ELSEWHERE = ("git", "path", "url", "editable")
_AGAIN = "Run: poetry lock — and send the poetry.lock that it writes."


def read_poetry_lock(tree: Tree, whole: Mapping[str, Any], release: str) -> Dependencies:
    """The packages of a poetry.lock that the project leads to, for a release of Python.

    Raises `BuildError` LockOutdated where the lock is not that of pyproject.toml, ManifestInvalid.
    """
    packages: dict[str, list[dict[str, Any]]] = {}
    listed = tables(read_toml(tree, LOCK, LOCK_LIMIT).get("package"))
    refuse_count(len(listed), LOCK)
    for package in listed:
        packages.setdefault(canonical(package.get("name")), []).append(package)
    waiting: list[tuple[str, str]] = []
    for text in declared(tree, whole):
        need = requirement(text)
        if need is None or not applies(str(need.marker or ""), release):
            continue
        versions = [str(one.get("version")) for one in packages.get(canonical(need.name), [])]
        fits = any(one.get("source") for one in packages.get(canonical(need.name), []))  # whatever is at a place
        if not fits and not any(need.specifier.contains(version, prereleases=True) for version in versions):
            what = f"{LOCK} has {versions[0][:40]}" if versions else f"{LOCK} does not have it"
            where = line_of(tree, need.name, after="dependencies")
            raise BuildError("LockOutdated", f"{PYPROJECT} needs {text[:80]}; {what}", where=where, next=_AGAIN)
        waiting += ((canonical(need.name), extra) for extra in ("", *sorted(need.extras)))
    seen: set[tuple[str, str]] = set()
    reached: dict[str, None] = {}
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        reached[name] = None
        for package in packages.get(name, []):
            if applies(package.get("markers"), release):
                waiting += _led_to(package, extra, release)
    lines: list[str] = []
    locals_: list[Local] = []
    for name in reached:
        for package in packages.get(name, []):
            if applies(package.get("markers"), release):
                _take(tree, package, lines, locals_)
    return Dependencies(
        manifest=LOCK,
        count=len(lines),
        requirements=tuple(lines),
        complete=True,
        files=(LOCK,),
        locals=tuple(locals_),
    )


def _led_to(package: Mapping[str, Any], extra: str, release: str) -> Iterator[tuple[str, str]]:
    """(name, extra) of what a package needs, or of what one of its extras adds."""
    wanted = {canonical(text.partition(" ")[0].partition("[")[0]) for text in texts(_extra(package, extra))}
    for key, value in table(package, "dependencies").items():
        for entry in value if isinstance(value, list) else [value]:
            options = entry if isinstance(entry, dict) else {}
            name = canonical(key)
            takes = name in wanted if extra else not options.get("optional")
            if takes and applies(options.get("markers"), release):
                yield from ((name, one) for one in ("", *texts(options.get("extras"))))


def _extra(package: Mapping[str, Any], extra: str) -> object:
    extras = table(package, "extras")
    return next((value for key, value in extras.items() if canonical(key) == canonical(extra)), None) if extra else None


def _take(tree: Tree, package: Mapping[str, Any], lines: list[str], locals_: list[Local]) -> None:
    """A package of the lock as a line with its hashes, or as one of the source."""
    name, source = str(package.get("name")), table(package, "source")
    kind = str(source.get("type", "legacy"))
    if kind == "directory":
        if len(locals_) >= MOST_FILES:
            raise BuildError("ManifestInvalid", f"the source has more than {MOST_FILES} packages", where=LOCK)
        where = line_of(tree, f'"{name}"', LOCK)
        locals_.append(read_local(tree, str(source.get("url", "")).removeprefix("./") or ".", where))
        return
    if kind != "legacy":  # another index: the operator's is asked, and the hashes decide
        message = f"{name[:80]} comes from {kind[:20]}, not from an index"
        where = line_of(tree, f'"{name}"', LOCK)
        hint = "Take a release of it from an index."
        if kind in ("git", "url"):
            raise refused_source(message, where=where, next=hint)
        raise BuildError("ManifestInvalid", message, where=where, next=hint)
    line = f"{name}=={package.get('version')}"
    if not NAME.fullmatch(name) or requirement(line) is None:
        raise BuildError("ManifestInvalid", f"this is no package by name and version: {line[:80]}", where=LOCK)
    digests = [str(file.get("hash", "")).removeprefix("sha256:") for file in tables(package.get("files"))]
    lines.append(pinned(line, [digest for digest in digests if DIGEST.fullmatch(digest)]))


def read_pdm_lock(tree: Tree, whole: Mapping[str, Any], release: str) -> Dependencies:
    """The default packages of a pdm.lock, for a release of Python. Raises as `read_poetry_lock`."""
    lines, versions = [], dict[str, str]()
    listed = tables(read_toml(tree, PDM_LOCK, LOCK_LIMIT).get("package"))
    refuse_count(len(listed), PDM_LOCK)
    for package in listed:
        name = str(package.get("name"))
        if "default" not in texts(package.get("groups", ["default"])) or not applies(package.get("marker"), release):
            continue
        if odd := next((one for one in _PDM_ELSEWHERE if one in package), ""):
            where = line_of(tree, f'"{name}"', PDM_LOCK)
            message = f"{name[:80]} comes from {odd}, not from an index"
            hint = "Take a release of it from an index."
            if odd in ("git", "url"):
                raise refused_source(message, where=where, next=hint)
            raise BuildError("ManifestInvalid", message, where=where, next=hint)
        line = f"{name}=={package.get('version')}"
        if not NAME.fullmatch(name) or requirement(line) is None:
            raise BuildError("ManifestInvalid", f"this is no package by name and version: {line[:80]}", where=PDM_LOCK)
        if canonical(name) not in versions:  # a package with extras has entries of its own
            digests = [str(file.get("hash", "")).removeprefix("sha256:") for file in tables(package.get("files"))]
            lines.append(pinned(line, [digest for digest in digests if DIGEST.fullmatch(digest)]))
            versions[canonical(name)] = str(package.get("version"))
    for text in declared(tree, whole):
        need = requirement(text)
        if need is None or not applies(str(need.marker or ""), release):
            continue
        locked = versions.get(canonical(need.name))
        if locked is None or not need.specifier.contains(locked, prereleases=True):
            what = f"{PDM_LOCK} has {locked[:40]}" if locked else f"{PDM_LOCK} does not have it"
            where = line_of(tree, need.name, after="dependencies")
            raise BuildError("LockOutdated", f"{PYPROJECT} needs {text[:80]}; {what}", where=where, next=_PDM_AGAIN)
    return Dependencies(
        manifest=PDM_LOCK,
        count=len(lines),
        requirements=tuple(lines),
        complete=True,
        files=(PDM_LOCK,),
    )
