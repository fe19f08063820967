"""Which Python a source is built for: what it asks for against the releases that the bases have (PEP 440). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.pipelines.catalog import DEFAULT, Row
from builder.pipelines.limits import LOCK_LIMIT, read_toml
from builder.pipelines.pins import pin_of
from builder.pipelines.python import constraints
from builder.pipelines.python.project import line_of, read_project, table
from builder.pipelines.python.script import script_of
from builder.source.tree import Tree

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

_OWN = (".python-version", "runtime.txt")
_ANY = ("latest", "system", "3", "lts", "python3", "stable")
"""Words of a pin that leave the version to whoever builds."""
_LOCKS = ("uv.lock", "pylock.toml")
# pyenv, uv, Heroku and asdf: 3.11, 3.11.4, python-3.11.4, cpython@3.11, cpython-3.11.4-linux-x86_64-gnu, py311, v3.11.
_SPELLING = re.compile(
    r"(?:c?python[-@ ]?|py|v)?3(?:\.?(\d{1,3}))(?:\.(\d{1,3}|\*|x))?(?:[-/][\w./-]{1,80})?", re.IGNORECASE
)
_OTHER = re.compile(
    r"(?:\d|(?:c?python|pypy|graalpy|jython|stackless|anaconda|miniconda)[-@ ]?\d).{0,80}", re.IGNORECASE
)
_PATCHES = 40
"""Above the last patch release of any minor version of Python; they end after five years."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A requires-python, and where it stands."""

    text: str
    where: str
    specifiers: SpecifierSet


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The version, why, and what about it is worth a warning."""

    version: str
    why: str
    warnings: tuple[str, ...] = ()


def wanted_version(tree: Tree, rows: Sequence[Row], default: str, asked: str = "") -> Wanted:
    """What the request asks for; else .python-version or runtime.txt; else requires-python; else the default.

    Raises `BuildError` UnknownRuntimeVersion when no base has a Python that fits, ManifestInvalid for a requires-python
    that is no specifier.
    """
    wishes = tuple(_wishes(tree))
    if asked:
        release = next((row.release for row in rows if row.toolchain.version == asked), "")
        excluded = (wish for wish in wishes if release and not wish.specifiers.contains(release))
        return Wanted(
            version=asked,
            why="asked for",
            warnings=tuple(f"{wish.where} needs Python {wish.text}, and {release} was asked for" for wish in excluded),
        )
    if (pin := _pin(tree)) is not None:
        return _pinned(pin, rows, wishes)
    if not wishes:
        return Wanted(version=default, why=DEFAULT)
    fitting = [row.toolchain.version for row in rows if row.release and _fits(row, wishes)]
    if not fitting and not any(row.release and _fits_some_patch(row, wishes) for row in rows):
        fitting = [row.toolchain.version for row in rows if not row.release and _fits_some_patch(row, wishes)]
    wish = wishes[0]
    if not fitting:
        stops = next((one for one in wishes if not any(_fits(row, (one,)) for row in rows if row.release)), wish)
        message = f"requires-python is {stops.text!r}; {_has(rows)}"
        raise BuildError("UnknownRuntimeVersion", message, where=stops.where, next=_next(rows, wishes))
    return Wanted(version=default if default in fitting else fitting[-1], why=f"{wish.where} asks for {wish.text}")


def _pinned(pin: tuple[str, str, str], rows: Sequence[Row], wishes: Sequence[Wish]) -> Wanted:
    """A pin decides the minor version. Its patch is that of somebody's machine: a warning when the base has another."""
    where, version, patch = pin
    row = next((row for row in rows if row.toolchain.version == version), None)
    if row is None:
        message = f"python {version[:80]} is not in the catalog; {_has(rows)}"
        raise BuildError("UnknownRuntimeVersion", message, where=where)
    if wish := next((one for one in wishes if row.release and not one.specifiers.contains(row.release)), None):
        message = f"{where} asks for {version}, which is {row.release} here; {wish.where} needs {wish.text}"
        raise BuildError("UnknownRuntimeVersion", message, where=wish.where)
    warnings: tuple[str, ...] = ()
    if patch and row.release and row.release != f"{version}.{patch}":
        warnings = (f"{where} names Python {version}.{patch}; the base has {row.release}",)
    return Wanted(version=version, why=where, warnings=warnings)


def _pin(tree: Tree) -> tuple[str, str, str] | None:
    """(where, minor version, patch) of the first pin; uv and pyenv take several in a line.

    A word that names another interpreter is the version as it stands, which no row has. What is neither, as the name of
    a virtual environment, is none.
    """
    for words in _pins(tree):
        other: tuple[str, str, str] | None = None
        for where, word in words:
            if word.lower() in _ANY:
                return None
            if found := _SPELLING.fullmatch(word):
                patch = found[2] if found[2] and found[2].isdigit() else ""
                return where, f"3.{found[1]}", patch
            if other is None and _OTHER.fullmatch(word):
                other = where, word[:80], ""
        if other:
            return other
    return None


def _pins(tree: Tree) -> Iterator[Iterator[tuple[str, str]]]:
    """For each place that may name a Python: (where, word) of what it names."""
    yield from (_words(tree, name) for name in _OWN if tree.has(name))
    if pin := pin_of(tree, ".", (), ("python",)):
        yield iter([(pin.where, pin.value[:200])])
    if tree.has("Pipfile"):
        yield _required(tree)


def _words(tree: Tree, name: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(tree.read_text(name).splitlines(), 1):
        yield from ((f"{name}:{number}", word) for word in line.split("#", 1)[0][:200].split())


def _required(tree: Tree) -> Iterator[tuple[str, str]]:
    requires = table(read_toml(tree, "Pipfile"), "requires")
    for key in ("python_full_version", "python_version"):
        if isinstance(requires.get(key), str):
            yield line_of(tree, key, "Pipfile"), requires[key].strip()[:200]


def _wishes(tree: Tree) -> Iterator[Wish]:
    """The requires-python of the manifest, Poetry's too; without a manifest, that of a lock; that of a script."""
    project = read_project(tree)
    declared = table(project, "project").get("requires-python", "")
    where = line_of(tree, "requires-python")
    poetrys = table(project, "tool", "poetry", "dependencies").get("python")
    if not declared and isinstance(poetrys, str):
        where, declared = line_of(tree, "python", after="poetry.dependencies"), constraints.specifiers(poetrys) or ""
    if not isinstance(declared, str) or declared.strip():
        yield Wish(text=str(declared), where=where, specifiers=_specifiers(declared, where))
        return
    for name in _LOCKS:
        if not tree.has("pyproject.toml") and tree.has(name):
            locked = read_toml(tree, name, LOCK_LIMIT).get("requires-python", "")
            if locked:
                where = line_of(tree, "requires-python", name)
                yield Wish(text=str(locked), where=where, specifiers=_specifiers(locked, where))
                return
    script = script_of(tree) if not tree.has("requirements.txt") else None
    if script and (wanted := script[2].get("requires-python")):
        where = f"{script[0]}:{script[1]}"
        yield Wish(text=str(wanted), where=where, specifiers=_specifiers(wanted, where))


def _specifiers(wanted: object, where: str) -> SpecifierSet:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        if isinstance(wanted, str) and len(wanted) <= 200:
            return SpecifierSet(wanted)
    except InvalidSpecifier:
        pass
    message = f"requires-python is {str(wanted)[:80]!r}, which is no version specifier (PEP 440)"
    raise BuildError("ManifestInvalid", message, where=where, next='Write it as in requires-python = ">=3.11,<4".')


def _fits(row: Row, wishes: Sequence[Wish]) -> bool:
    return all(wish.specifiers.contains(row.release, prereleases=True) for wish in wishes)


def _fits_some_patch(row: Row, wishes: Sequence[Wish]) -> bool:
    """Whether some release of this minor version fits, where the base's own is not known or is another."""
    releases = (f"{row.toolchain.version}.{patch}" for patch in range(_PATCHES))
    return any(all(wish.specifiers.contains(release) for wish in wishes) for release in releases)


def _has(rows: Sequence[Row]) -> str:
    names = (f"{row.toolchain.version} ({row.release})" if row.release else row.toolchain.version for row in rows)
    return f"the catalog has {', '.join(dict.fromkeys(names))}"


def _next(rows: Sequence[Row], wishes: Sequence[Wish]) -> str:
    """A version whose release is not known here may do, when somebody asks for it by name."""
    may = [row.toolchain.version for row in rows if not row.release and _fits_some_patch(row, wishes)]
    return (
        f"Widen requires-python, or ask for {may[0]} (--runtime-version {may[0]})." if may else "Widen requires-python."
    )
