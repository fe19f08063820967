"""Reading what a Python source says about its dependencies and its version. Pure; runs no Python, resolves nothing.

The first that is there decides: requirements.txt (the platform's own contract), pylock.toml (PEP 751), uv.lock,
pyproject.toml (PEP 621).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
_INCLUDE = re.compile(r"^(-r|--requirement|-c|--constraint)(?:\s+|=)?(.+)$")
# What pip and uv read as it stands: no quote, backslash, scheme or variable that one of them would resolve.
_PLAIN_PATH = re.compile(r"[\w./@+,=-]+(?: +[\w./@+,=-]+)*")
_OPTION = re.compile(r"(?:--pre|--prefer-binary|--require-hashes|(?:--only-binary|--use-feature)(?:\s+|=)[\w:,.-]+)")
_HASHES = re.compile(r"(?:--hash(?:=|\s+)\w+:[0-9A-Za-z_=-]+(?:\s+|$))*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHA256 = re.compile(r"--hash(?:=|\s+)sha256:([0-9a-f]{64})(?=\s|$)")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?")
_SPECIFIER = re.compile(r"[0-9A-Za-z.*+!<>=~, -]*")
_SOURCES = ("path", "git", "url", "workspace", "editable", "index")


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """`manifest` is the file that decides, "" for none; `count` how many it names; `ignored` the others.

    `requirements` and `constraints` are what it names, one a line, flat: PEP 508 by name with sha256 hashes behind it,
    and no option, include, variable or URL. A `uv.lock` has none: uv reads it by itself, beside `project`, a
    pyproject.toml of ours. `complete`: a lock, which names also what its packages need.
    """

    manifest: str
    count: int
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    prerelease: bool = False
    complete: bool = False
    project: str = ""
    groups: tuple[str, ...] = ()
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
        found = _requirements(tree)
    elif manifest == "pyproject.toml":
        found = _named(manifest, _pyproject(tree, whole))
    elif manifest == "pylock.toml":
        found = _named(manifest, _pylock(tree), complete=True)
    else:
        found = _uv_lock(tree, whole)
    return replace(found, manifest=manifest if found.count else "", ignored=ignored)


def _named(manifest: str, requirements: tuple[str, ...], *, complete: bool = False) -> Dependencies:
    return Dependencies(
        manifest=manifest, count=len(requirements), requirements=requirements, complete=complete, files=(manifest,)
    )


def _requirements(tree: Tree) -> Dependencies:
    """The requirements, and the files that hold them (pip, "Requirements File Format")."""
    seen: dict[tuple[str, bool], None] = {}
    needs: dict[bool, list[str]] = {False: [], True: []}
    waiting = [("requirements.txt", False)]
    prerelease = False
    while waiting:
        name, constrains = waiting.pop()
        if (name, constrains) in seen:
            continue
        seen[name, constrains] = None
        if len(seen) > MOST_FILES:
            message = f"requirements.txt includes more than {MOST_FILES} files"
            raise BuildError("ManifestInvalid", message, where=name, next="Put the requirements into fewer files.")
        includes: list[tuple[str, bool]] = []
        for number, text in _logical_lines(name, tree.read_text(name)):
            where = f"{name}:{number}"
            _refuse_line(text, where)
            if include := _INCLUDE.match(text):
                below = _included(tree, name, include[2].strip(), where)
                includes.append((below, constrains or include[1] in ("-c", "--constraint")))
            elif not text.startswith("-"):
                _refuse_count(sum(map(len, needs.values())) + 1, where)
                needs[constrains].append(_requirement(text, where))
            elif not _OPTION.fullmatch(text):
                message = f"this option is not taken here: {text[:80]}"
                raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
            else:
                prerelease = prerelease or text == "--pre"
        waiting += reversed(includes)
    return Dependencies(
        manifest="requirements.txt",
        count=len(needs[False]),
        requirements=tuple(needs[False]),
        constraints=tuple(needs[True]),
        prerelease=prerelease,
        files=tuple(dict.fromkeys(name for name, _ in seen)),
    )


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


def _requirement(text: str, where: str) -> str:
    """A requirement by name and version (PEP 508) as a line of ours, with the sha256 hashes behind it."""
    need, *options = re.split(r"\s(?=--)", text, maxsplit=1)
    if options and not _HASHES.fullmatch(options[0]):
        message = f"only --hash is taken behind a requirement: {text[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
    if not (line := _by_name(need)):
        raise BuildError("ManifestInvalid", f"this is no requirement (PEP 508): {need[:80]}", where=where)
    hashes = _SHA256.findall(options[0]) if options else []
    if options and not hashes:
        hint = "Write it again with a tool that pins by sha256, as the indexes do."
        raise BuildError("ManifestInvalid", f"no --hash=sha256:… pins {need[:80]}", where=where, next=hint)
    return _pinned(line, hashes)


def _pinned(line: str, hashes: Iterable[str]) -> str:
    return " ".join((line, *(f"--hash=sha256:{value}" for value in dict.fromkeys(hashes))))


def _by_name(text: str) -> str:
    """A requirement that names no place, in the spelling of `packaging`; "" for what is none."""
    from packaging.requirements import InvalidRequirement, Requirement  # 15 ms that other runtimes do without

    text = text.strip()
    try:
        found = Requirement(text) if len(text) <= LINE_LIMIT else None
    except (InvalidRequirement, RecursionError):  # a marker may nest parentheses
        return ""
    return "" if found is None or found.url is not None else str(found)


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


def _pyproject(tree: Tree, whole: Mapping[str, Any]) -> tuple[str, ...]:
    if key := _undeclared(whole):
        message = f"the dependencies are in {key}, which only its own tool can read"
        hint = "List them in project.dependencies, or add a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=_line_of(tree, key), next=hint)
    _refuse_sources(tree, whole)
    needs = _project(whole).get("dependencies", [])
    if not isinstance(needs, list):
        where = _line_of(tree, "dependencies")
        raise BuildError("ManifestInvalid", "project.dependencies is no list of requirements", where=where)
    lines = []
    for count, need in enumerate(needs, 1):
        if count > MOST_REQUIREMENTS:
            _refuse_count(count, _line_of(tree, "dependencies"))
        line = _by_name(need) if isinstance(need, str) else ""
        if not line:
            where = _line_of(tree, str(need)[:LINE_LIMIT])
            raise BuildError("ManifestInvalid", f"this is no requirement by name: {str(need)[:80]}", where=where)
        lines.append(line)
    return tuple(lines)


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


def _uv_lock(tree: Tree, whole: Mapping[str, Any]) -> Dependencies:
    lock = read_toml(tree, "uv.lock", LOCK_LIMIT)
    count, name = 0, ""
    for package in _tables(lock.get("package")):
        source = package.get("source")
        if not isinstance(source, dict):
            source = {}
        keys = set(source)
        if keys & {"virtual", "editable"} and source.get("virtual", source.get("editable")) == ".":
            name = str(package.get("name"))
            continue
        if keys != {"registry"}:
            message = f"{package.get('name')} comes from {', '.join(sorted(keys)) or 'nowhere'}, not from an index"
            raise BuildError("ManifestInvalid", message, where="uv.lock")
        count += 1
    wanted = str(lock.get("requires-python", ">=3"))
    if count and not (_NAME.fullmatch(name) and len(wanted) <= 200 and _SPECIFIER.fullmatch(wanted)):
        message = "uv.lock names no project at the root, or its requires-python is no version specifier"
        raise BuildError("ManifestInvalid", message, where="uv.lock", next="Write it again: uv lock")
    groups = _default_groups(tree, whole)
    return Dependencies(
        manifest="uv.lock",
        count=count,
        complete=True,
        project=_project_stub(name, wanted, groups),
        groups=groups,
        files=("uv.lock",),
    )


def _project_stub(name: str, wanted: str, groups: tuple[str, ...]) -> str:
    """What uv needs beside a lock: the name that its root has there, and which groups exist. The lock has the rest."""
    lines = ["[project]", f'name = "{name}"', 'version = "0"', f'requires-python = "{wanted}"']
    lines += ["", "[dependency-groups]", *(f'"{group}" = []' for group in groups)] if groups else []
    return "\n".join(lines) + "\n"


def _default_groups(tree: Tree, whole: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups of `tool.uv.default-groups` but for `dev`, which is never installed."""
    tool = whole.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    groups = uv.get("default-groups", []) if isinstance(uv, dict) else []
    known = whole.get("dependency-groups")
    if groups == "all":
        groups = list(known) if isinstance(known, dict) else []
    if not isinstance(groups, list) or not all(isinstance(one, str) and _NAME.fullmatch(one) for one in groups):
        where = _line_of(tree, "default-groups")
        raise BuildError("ManifestInvalid", "tool.uv.default-groups is no list of groups", where=where)
    return tuple(one for one in dict.fromkeys(groups) if one != "dev")


def _pylock(tree: Tree) -> tuple[str, ...]:
    lines = []
    for package in _tables(read_toml(tree, "pylock.toml", LOCK_LIMIT).get("packages")):
        name = str(package.get("name"))[:LINE_LIMIT]
        if odd := sorted({"vcs", "directory", "archive"} & set(package)):
            raise BuildError("ManifestInvalid", f"{name} comes from {odd[0]}, not from an index", where="pylock.toml")
        marker = package.get("marker")
        need = f"{name}=={package.get('version')}" + (f" ; {marker}" if marker else "")
        if not (line := _by_name(need)):
            message = f"this is no package by name, version and marker: {need[:80]}"
            hint = "Export the lock anew, without extras and groups."
            raise BuildError("ManifestInvalid", message, where="pylock.toml", next=hint)
        hashes = [wheel.get("hashes") for wheel in _tables(package.get("wheels"))]
        values = [str(each.get("sha256", "")) for each in hashes if isinstance(each, dict)]
        lines.append(_pinned(line, [value for value in values if _DIGEST.fullmatch(value)]))
    return tuple(lines)


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
