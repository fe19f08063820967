"""Reading what a Python source says about its dependencies and its version. Pure; runs no Python, resolves nothing.

The first that is there decides: requirements.txt (the platform's own contract), pylock.toml (PEP 751), uv.lock,
pyproject.toml (PEP 621).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT, LOCK_LIMIT, read_toml
from builder.source.tree import Tree

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

MANIFESTS = ("requirements.txt", "pylock.toml", "uv.lock", "pyproject.toml")
MOST_FILES = 50
MOST_REQUIREMENTS = 10_000
MOST_PATCHES = 40
"""Above the last patch release of any minor version of Python; they end after five years."""

_NAMES_ONLY = "Name packages and versions only; further indexes are the operator's to configure."
_REFUSED = (
    (re.compile(r"^(-e|--editable)"), "an editable install"),
    (
        re.compile(r"^(--index-url|--extra-index-url|-i|--find-links|-f|--trusted-host|--no-index)"),
        "an index of its own",
    ),
    (re.compile(r"^--no-binary\b"), "a build from source"),
    (re.compile(r"\$\{"), "a variable"),  # uv replaces it by the environment's value, in paths too
    (re.compile(r"^(-r|--requirement|-c|--constraint).*(file:|://)"), "an include by URL"),
    (re.compile(r"^(git|hg|svn|bzr)\+|://|@\s*(git\+|https?:|file:)"), "a package by URL"),
    (re.compile(r"^(\.{1,2}(/|$)|/|file:)|^[\w./-]+\.(whl|zip|tar\.gz)$"), "a local path"),
)
_INCLUDE = re.compile(r"^(?:-r|--requirement|-c|--constraint)(?:\s+|=)?(.+)$")
# What pip and uv read as it stands: no quote, backslash, scheme or variable that one of them would resolve.
_PLAIN_PATH = re.compile(r"[\w./@+,=-]+(?: +[\w./@+,=-]+)*")
_OPTION = re.compile(r"(?:--pre|--prefer-binary|--require-hashes|(?:--only-binary|--use-feature)(?:\s+|=)[\w:,.-]+)")
_HASHES = re.compile(r"(?:--hash(?:=|\s+)\w+:[0-9A-Za-z_=-]+(?:\s+|$))*")
_SOURCES = ("path", "git", "url", "workspace", "editable", "index")


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
    whole = read_toml(tree, "pyproject.toml") if "pyproject.toml" in there else {}
    project = _project(whole)
    if not there or (there == ["pyproject.toml"] and not project.get("dependencies") and not _undeclared(whole)):
        return Dependencies(manifest="", count=0)
    manifest = there[0]
    ignored = tuple(name for name in there[1:] if name != "pyproject.toml" or project.get("dependencies"))
    if manifest == "uv.lock":
        ignored = tuple(name for name in ignored if name != "pyproject.toml")
        if "pyproject.toml" not in there:
            raise BuildError("ManifestInvalid", "uv.lock needs its pyproject.toml beside it", where="uv.lock")
    if manifest == "requirements.txt":
        count, files = _requirements(tree)
        return Dependencies(manifest=manifest if count else "", count=count, files=files, ignored=ignored)
    if manifest == "pyproject.toml":
        count = _pyproject(tree, whole)
    else:
        count = {"pylock.toml": _pylock, "uv.lock": _uv_lock}[manifest](tree)
    return Dependencies(manifest=manifest if count else "", count=count, files=(manifest,), ignored=ignored)


def _requirements(tree: Tree) -> tuple[int, tuple[str, ...]]:
    """How many requirements there are, and the files that hold them (pip, "Requirements File Format")."""
    seen: dict[str, None] = {}
    waiting, count = ["requirements.txt"], 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen[name] = None
        if len(seen) > MOST_FILES:
            message = f"requirements.txt includes more than {MOST_FILES} files"
            raise BuildError("ManifestInvalid", message, where=name, next="Put the requirements into fewer files.")
        includes: list[str] = []
        for number, text in _logical_lines(name, tree.read_text(name)):
            where = f"{name}:{number}"
            _refuse_line(text, where)
            if include := _INCLUDE.match(text):
                includes.append(_included(tree, name, include[1].strip(), where))
            elif not text.startswith("-"):
                count += 1
                _refuse_count(count, where)
                _refuse_requirement(text, where)
            elif not _OPTION.fullmatch(text):
                message = f"this option is not taken here: {text[:80]}"
                raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
        waiting += reversed(includes)
    return count, tuple(seen)


def _refuse_line(text: str, where: str) -> None:
    for pattern, what in _REFUSED:
        if pattern.search(text):
            message = f"{what} is not taken here: {text[:80]}"
            raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)


def _included(tree: Tree, name: str, target: str, where: str) -> str:
    """The file that `name` includes, as a path of the source."""
    if not _PLAIN_PATH.fullmatch(target):
        message = f"this is no plain path of a file: {target[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next="Write the path without quotes or escapes.")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if path.startswith("..") or not tree.has(path):
        raise BuildError("ManifestInvalid", f"{path[:200]} is not in the source", where=where)
    return path


def _refuse_count(count: int, where: str) -> None:
    if count > MOST_REQUIREMENTS:
        message = f"there are more than {MOST_REQUIREMENTS} requirements"
        raise BuildError("ManifestInvalid", message, where=where, next="Name only what the code needs.")


def _refuse_requirement(text: str, where: str) -> None:
    """Raise for what is no requirement by name and version (PEP 508), with nothing but hashes behind it."""
    need, *options = re.split(r"\s(?=--)", text, maxsplit=1)
    if options and not _HASHES.fullmatch(options[0]):
        message = f"only --hash is taken behind a requirement: {text[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
    if not _is_by_name(need):
        raise BuildError("ManifestInvalid", f"this is no requirement (PEP 508): {need[:80]}", where=where)


def _is_by_name(text: str) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement  # 15 ms that other runtimes do without

    text = text.strip()
    try:
        return len(text) <= LINE_LIMIT and Requirement(text).url is None
    except (InvalidRequirement, RecursionError):  # a marker may nest parentheses
        return False


def _logical_lines(name: str, text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) without comments, with continued lines joined."""
    start = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        part = _COMMENT.sub("", line)
        if len(part) > LINE_LIMIT:
            message = f"the line has {len(part)} characters; {LINE_LIMIT} are taken"
            raise BuildError("ManifestInvalid", message, where=f"{name}:{number}", next="Write it as several lines.")
        if part.endswith("\\"):
            parts.append(part[:-1])
            continue
        if joined := "".join((*parts, part)).strip():
            yield start, joined
        start, parts = 0, []
    if joined := "".join(parts).strip():
        yield start, joined


_COMMENT = re.compile(r"(^|\s)#.*$")


def _project(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    found = whole.get("project")
    return found if isinstance(found, dict) else {}


def _undeclared(whole: Mapping[str, Any]) -> str:
    """Where a pyproject.toml keeps its dependencies, when not in `project.dependencies`; else ""."""
    dynamic = _project(whole).get("dynamic")
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        return "project.dynamic"
    poetry = whole.get("tool", {}).get("poetry") if isinstance(whole.get("tool"), dict) else None
    needs = poetry.get("dependencies") if isinstance(poetry, dict) else None
    return "tool.poetry.dependencies" if isinstance(needs, dict) and set(needs) - {"python"} else ""


def _pyproject(tree: Tree, whole: Mapping[str, Any]) -> int:
    if key := _undeclared(whole):
        message = f"the dependencies are in {key}, which only its own tool can read"
        hint = "List them in project.dependencies, or add a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=_line_of(tree, key), next=hint)
    _refuse_sources(tree, whole)
    needs = _project(whole).get("dependencies", [])
    if not isinstance(needs, list):
        where = _line_of(tree, "dependencies")
        raise BuildError("ManifestInvalid", "project.dependencies is no list of requirements", where=where)
    for count, need in enumerate(needs, 1):
        if count > MOST_REQUIREMENTS:
            _refuse_count(count, _line_of(tree, "dependencies"))
        if not isinstance(need, str) or not _is_by_name(need):
            where = _line_of(tree, str(need)[:LINE_LIMIT])
            raise BuildError("ManifestInvalid", f"this is no requirement by name: {str(need)[:80]}", where=where)
    return len(needs)


def _refuse_sources(tree: Tree, whole: Mapping[str, Any]) -> None:
    """`tool.uv.sources` takes packages from elsewhere than an index of the operator, and may run their code for it."""
    tool = whole.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    sources = uv.get("sources") if isinstance(uv, dict) else None
    for name, entry in sources.items() if isinstance(sources, dict) else ():
        keys = {key for one in (entry if isinstance(entry, list) else [entry]) if isinstance(one, dict) for key in one}
        kind = next((key for key in _SOURCES if key in keys), "no source that uv knows")
        what = "an index of its own" if kind == "index" else kind
        message = f"tool.uv.sources takes {name[:80]} from {what}; only the operator's package indexes are used here"
        hint = f"Remove {name[:80]} from tool.uv.sources, or list what it needs in a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=_source_line(tree, name), next=hint)


def _source_line(tree: Tree, name: str) -> str:
    """The line of an entry, which stands behind the table's own line."""
    inside = False
    for number, line in enumerate(tree.read_text("pyproject.toml").splitlines(), 1):
        inside = inside or "sources" in line
        if inside and name in line:
            return f"pyproject.toml:{number}"
    return _line_of(tree, "sources")


def _line_of(tree: Tree, text: str) -> str:
    """pyproject.toml with the line that holds this text, or the last part of this key."""
    for wanted in (text, text.rsplit(".", 1)[-1]):
        for number, line in enumerate(tree.read_text("pyproject.toml").splitlines(), 1):
            if wanted in line:
                return f"pyproject.toml:{number}"
    return "pyproject.toml"


def _uv_lock(tree: Tree) -> int:
    packages = _tables(read_toml(tree, "uv.lock", LOCK_LIMIT).get("package"))
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
    packages = _tables(read_toml(tree, "pylock.toml", LOCK_LIMIT).get("packages"))
    for package in packages:
        if odd := sorted({"vcs", "directory", "archive"} & set(package)):
            message = f"{package.get('name')} comes from {odd[0]}, not from an index"
            raise BuildError("ManifestInvalid", message, where="pylock.toml")
    return len(packages)


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def wanted_version(tree: Tree, known: tuple[str, ...], default: str) -> tuple[str, str]:
    """(version, why): .python-version, then requires-python, then the default.

    Raises `BuildError` UnknownRuntimeVersion when the catalog has none that fits, ManifestInvalid for a requires-python
    that is no specifier (PEP 440).
    """
    listed = ", ".join(known)
    if tree.has(".python-version"):
        lines = enumerate(tree.read_text(".python-version").splitlines(), 1)
        number, text = next(((at, line.strip()) for at, line in lines if line.strip()[:1] not in ("", "#")), (0, ""))
        if found := re.match(r"(?:cpython-|python-)?(3\.\d+)", text):
            if found[1] not in known:
                message = f"python {found[1][:80]} is not in the catalog; it has {listed}"
                raise BuildError("UnknownRuntimeVersion", message, where=f".python-version:{number}")
            return found[1], f".python-version:{number}"
    project = _project(read_toml(tree, "pyproject.toml")) if tree.has("pyproject.toml") else {}
    wanted = project.get("requires-python", "")
    if isinstance(wanted, str) and not wanted.strip():
        return default, "the catalog's default"
    where = _line_of(tree, "requires-python")
    specifiers = _specifiers(wanted, where)
    fitting = [version for version in known if _fits(specifiers, version)]
    if not fitting:
        message = f"requires-python is {wanted!r}; the catalog has {listed}"
        raise BuildError("UnknownRuntimeVersion", message, where=where)
    return (default if default in fitting else fitting[-1]), f"{where} asks for {wanted}"


def _specifiers(wanted: object, where: str) -> SpecifierSet:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        if isinstance(wanted, str) and len(wanted) <= 200:
            return SpecifierSet(wanted)
    except InvalidSpecifier:
        pass
    message = f"requires-python is {str(wanted)[:80]!r}, which is no version specifier (PEP 440)"
    raise BuildError("ManifestInvalid", message, where=where, next='Write it as in requires-python = ">=3.11,<4".')


def _fits(specifiers: SpecifierSet, version: str) -> bool:
    """Whether some release of this minor version fits: the catalog names no patch."""
    return any(specifiers.contains(f"{version}.{patch}") for patch in range(MOST_PATCHES))
