"""What every reader of a Python manifest returns, and the line that a requirement becomes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT
from builder.plan import WriteFile

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MOST_FILES = 50
MOST_REQUIREMENTS = 10_000
DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?")
SPECIFIER = re.compile(r"[0-9A-Za-z.*+!<>=~, -]*")


@dataclass(frozen=True, kw_only=True)
class Local:
    """A package whose source is part of what was sent: folders for Python's path instead of an install.

    `paths` are folders of the source, `files` its metadata, as an install would have written it; `needs` what it
    declares to need, of the extras asked for too.
    """

    name: str
    folder: str
    paths: tuple[str, ...] = ()
    files: tuple[WriteFile, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """`manifest` is the file that decides, "" for none; `count` how many it names.

    `requirements` and `constraints` are what it names, one a line, flat: PEP 508 by name with sha256 hashes behind it,
    and no option, include, variable or URL. A `uv.lock` has none: uv reads it by itself, beside `project`, a
    pyproject.toml of ours, with these `groups` and `extras`. `complete`: a lock, which names also what its
    packages need.
    """

    manifest: str
    count: int
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    prerelease: bool = False
    complete: bool = False
    project: str = ""
    text: str = ""
    """The text of a `uv.lock` that is not UTF-8, which uv would not read."""
    groups: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """The manifest and what it includes."""
    folders: tuple[tuple[str, str, frozenset[str]], ...] = ()
    """(folder, where it is named, extras) of packages of the source that a requirements.txt names."""
    locals: tuple[Local, ...] = ()
    locked: frozenset[str] = frozenset()
    """Names of the packages that a lock without `requirements` installs."""
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of packages that are known to be installed; those that they need in turn may not be among them."""
        return self.locked | {canonical(found[0]) for line in self.requirements if (found := NAME.match(line))}


def refuse_count(count: int, where: str) -> None:
    """Raise ManifestInvalid above the bound."""
    if count > MOST_REQUIREMENTS:
        message = f"there are more than {MOST_REQUIREMENTS} requirements"
        raise BuildError("ManifestInvalid", message, where=where, next="Name only what the code needs.")


def pinned(line: str, hashes: Iterable[str]) -> str:
    """A requirement with the hashes that it allows."""
    return " ".join((line, *(f"--hash=sha256:{value}" for value in dict.fromkeys(hashes))))


def requirement(text: str) -> Requirement | None:
    """A requirement that names no place (PEP 508); None for what is none."""
    from packaging.requirements import InvalidRequirement, Requirement  # 15 ms that other runtimes do without

    text = text.strip()
    try:
        found = Requirement(text) if len(text) <= LINE_LIMIT else None
    except (InvalidRequirement, RecursionError):  # a marker may nest parentheses
        return None
    return None if found is None or found.url is not None else found


def by_name(text: str) -> str:
    """A requirement that names no place, in the spelling of `packaging`; "" for what is none."""
    found = requirement(text)
    return "" if found is None else str(found)


def canonical(name: object) -> str:
    """A project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", str(name)[:LINE_LIMIT]).lower()
