"""Reading what a Python source says about its dependencies and its version. Pure; runs no Python, resolves nothing.

The first that is there decides: requirements.txt (the platform's own contract), pylock.toml (PEP 751), uv.lock,
pyproject.toml (PEP 621).
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError
from builder.source.tree import Tree

MANIFESTS = ("requirements.txt", "pylock.toml", "uv.lock", "pyproject.toml")
_REFUSED = (
    (re.compile(r"^(-e|--editable)\b"), "an editable install"),
    (
        re.compile(r"^(--index-url|--extra-index-url|-i|--find-links|-f|--trusted-host|--no-index)\b"),
        "an index of its own",
    ),
    (re.compile(r"^--no-binary\b"), "a build from source"),
    (re.compile(r"^(git|hg|svn|bzr)\+|^https?:|@\s*(git\+|https?:|file:)"), "a package by URL"),
    (re.compile(r"^(\.{1,2}(/|$)|/|file:)|^[\w./-]+\.(whl|zip|tar\.gz)$"), "a local path"),
)
_INCLUDE = re.compile(r"^(?:-r|--requirement|-c|--constraint)(?:\s+|=)?(.+)$")
_REQUIREMENT = re.compile(
    r"^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*"
    r"\(?(?:(?:===|==|~=|!=|<=|>=|<|>)\s*[^\s,;()<>=!~]+\s*,?\s*)*\)?\s*(?:;.*)?$"
)


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """`manifest` is the file that decides, "" for none; `count` how many it names; `ignored` the others."""

    manifest: str
    count: int
    files: tuple[str, ...] = ()
    """The manifest and what it includes."""
    ignored: tuple[str, ...] = ()


def read_dependencies(tree: Tree) -> Dependencies:
    """What decides the dependencies. Raises `BuildError` ManifestInvalid with file and line."""
    there = [name for name in MANIFESTS if tree.has(name)]
    project = _project(tree)
    if not there or (there == ["pyproject.toml"] and not project.get("dependencies") and not _undeclared(tree)):
        return Dependencies(manifest="", count=0)
    manifest = there[0]
    ignored = tuple(name for name in there[1:] if name != "pyproject.toml" or project.get("dependencies"))
    if manifest == "uv.lock":
        ignored = tuple(name for name in ignored if name != "pyproject.toml")
        if "pyproject.toml" not in there:
            raise BuildError("ManifestInvalid", "uv.lock needs its pyproject.toml beside it", where="uv.lock")
    if manifest == "requirements.txt":
        files: list[str] = []
        count = _requirements(tree, manifest, files)
        return Dependencies(manifest=manifest if count else "", count=count, files=tuple(files), ignored=ignored)
    count = {"pylock.toml": _pylock, "uv.lock": _uv_lock, "pyproject.toml": _pyproject}[manifest](tree)
    return Dependencies(manifest=manifest if count else "", count=count, files=(manifest,), ignored=ignored)


def _requirements(tree: Tree, name: str, seen: list[str]) -> int:
    """Requirements of this file and of those it includes (pip, "Requirements File Format")."""
    seen.append(name)
    count = 0
    for number, text in _logical_lines(tree.read_text(name)):
        where = f"{name}:{number}"
        for pattern, what in _REFUSED:
            if pattern.search(text):
                hint = "Name packages and versions only; further indexes are the operator's to configure."
                raise BuildError("ManifestInvalid", f"{what} is not taken here: {text[:80]}", where=where, next=hint)
        if include := _INCLUDE.match(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), include[1].strip()))
            if path.startswith("..") or not tree.has(path):
                raise BuildError("ManifestInvalid", f"{path} is not in the source", where=where)
            if path not in seen:
                count += _requirements(tree, path, seen)
        elif not text.startswith("-"):
            if not _REQUIREMENT.match(re.split(r"\s--\w", text, maxsplit=1)[0].strip()):
                raise BuildError("ManifestInvalid", f"this is no requirement (PEP 508): {text[:80]}", where=where)
            count += 1
    return count


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) without comments, with continued lines joined."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        joined += re.sub(r"(^|\s)#.*$", "", line)
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        if joined.strip():
            yield start, joined.strip()
        start, joined = 0, ""
    if joined.strip():
        yield start, joined.strip()


def _toml(tree: Tree, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(tree.read_text(name, 16 * 1024 * 1024))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+), column (\d+)", str(error))
        where = f"{name}:{at[1]}:{at[2]}" if at else name
        raise BuildError("ManifestInvalid", f"{name} is no TOML: {error}", where=where) from error


def _project(tree: Tree) -> Mapping[str, Any]:
    found = _toml(tree, "pyproject.toml").get("project") if tree.has("pyproject.toml") else None
    return found if isinstance(found, dict) else {}


def _undeclared(tree: Tree) -> str:
    """Where a pyproject.toml keeps its dependencies, when not in `project.dependencies`; else ""."""
    whole = _toml(tree, "pyproject.toml")
    dynamic = _project(tree).get("dynamic")
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        return "project.dynamic"
    poetry = whole.get("tool", {}).get("poetry") if isinstance(whole.get("tool"), dict) else None
    needs = poetry.get("dependencies") if isinstance(poetry, dict) else None
    return "tool.poetry.dependencies" if isinstance(needs, dict) and set(needs) - {"python"} else ""


def _pyproject(tree: Tree) -> int:
    if key := _undeclared(tree):
        message = f"the dependencies are in {key}, which only its own tool can read"
        hint = "List them in project.dependencies, or add a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=_line_of(tree, key), next=hint)
    needs = _project(tree).get("dependencies", [])
    if not isinstance(needs, list):
        where = _line_of(tree, "dependencies")
        raise BuildError("ManifestInvalid", "project.dependencies is no list of requirements", where=where)
    for need in needs:
        if not isinstance(need, str) or not _REQUIREMENT.match(need.strip()):
            where = _line_of(tree, str(need))
            raise BuildError("ManifestInvalid", f"this is no requirement by name: {str(need)[:80]}", where=where)
    return len(needs)


def _line_of(tree: Tree, text: str) -> str:
    """pyproject.toml with the line that holds this text, or the last part of this key."""
    for wanted in (text, text.rsplit(".", 1)[-1]):
        for number, line in enumerate(tree.read_text("pyproject.toml").splitlines(), 1):
            if wanted in line:
                return f"pyproject.toml:{number}"
    return "pyproject.toml"


def _uv_lock(tree: Tree) -> int:
    packages = _tables(_toml(tree, "uv.lock").get("package"))
    count = 0
    for package in packages:
        source = package.get("source")
        if not isinstance(source, dict):
            source = {}
        keys = set(source)
        if keys & {"virtual", "editable"} and source.get("virtual", source.get("editable")) == ".":
            continue
        if keys != {"registry"}:
            message = f"{package.get('name')} comes from {', '.join(sorted(keys)) or 'nowhere'}, not from an index"
            raise BuildError("ManifestInvalid", message, where="uv.lock")
        count += 1
    return count


def _pylock(tree: Tree) -> int:
    packages = _tables(_toml(tree, "pylock.toml").get("packages"))
    for package in packages:
        if odd := sorted({"vcs", "directory", "archive"} & set(package)):
            message = f"{package.get('name')} comes from {odd[0]}, not from an index"
            raise BuildError("ManifestInvalid", message, where="pylock.toml")
    return len(packages)


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def wanted_version(tree: Tree, known: tuple[str, ...], default: str) -> tuple[str, str]:
    """(version, why): .python-version, then requires-python, then the default.

    Raises `BuildError` UnknownRuntimeVersion when the catalog has none that fits.
    """
    listed = ", ".join(known)
    if tree.has(".python-version"):
        lines = enumerate(tree.read_text(".python-version").splitlines(), 1)
        number, text = next(((at, line.strip()) for at, line in lines if line.strip()[:1] not in ("", "#")), (0, ""))
        if found := re.match(r"(?:cpython-|python-)?(3\.\d+)", text):
            if found[1] not in known:
                message = f"python {found[1]} is not in the catalog; it has {listed}"
                raise BuildError("UnknownRuntimeVersion", message, where=f".python-version:{number}")
            return found[1], f".python-version:{number}"
    wanted = _project(tree).get("requires-python")
    if isinstance(wanted, str) and wanted.strip():
        where = _line_of(tree, "requires-python")
        fitting = [version for version in known if _allows(wanted, version)]
        if not fitting:
            message = f"requires-python is {wanted!r}; the catalog has {listed}"
            raise BuildError("UnknownRuntimeVersion", message, where=where)
        return (default if default in fitting else fitting[-1]), f"{where} asks for {wanted}"
    return default, "the catalog's default"


def _allows(specifiers: str, version: str) -> bool:
    """Whether some release of this minor version fits (PEP 440, compared by major and minor number)."""
    have = _numbers(version)
    for part in specifiers.split(","):
        found = re.match(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?", part)
        if not found:
            continue
        operator, text, star = found.groups()
        want, exact = _numbers(text), text.count(".") <= 1
        fits = {
            ">=": have >= want, ">": have > want or (have == want and not exact),
            "<=": have <= want, "<": have < want or (have == want and not exact),
            "==": have[: len(want)] == want, "===": have == want,
            "~=": have >= want if exact else have == want, "!=": have != want or not star,
        }  # fmt: skip
        if not fits[operator]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
