"""Which file of a Python source decides its dependencies, and which are not used. Pure; runs nothing, resolves nothing.

The first that names something decides: requirements.txt (the platform's own contract), a lock (pylock.toml of PEP 751,
uv.lock, poetry.lock, pdm.lock, Pipfile.lock), pyproject.toml (PEP 621 or Poetry's table), Pipfile, a script's own
metadata (PEP 723).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from builder.errors import BuildError
from builder.pipelines.python.layout import read_root
from builder.pipelines.python.locks import default_groups, read_pylock, read_uv_lock
from builder.pipelines.python.needs import Dependencies
from builder.pipelines.python.pipenv import read_pipfile, read_pipfile_lock
from builder.pipelines.python.poetry import read_pdm_lock, read_poetry_lock
from builder.pipelines.python.project import PYPROJECT, of_poetry, read_project, table, undeclared
from builder.pipelines.python.requirements import read_requirements
from builder.pipelines.python.script import read_script
from builder.pipelines.python.sources import read_named, read_project_needs
from builder.source.tree import Tree

MANIFESTS = (
    "requirements.txt", "pylock.toml", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", PYPROJECT, "Pipfile",
)  # fmt: skip
# What other tools and habits call a list of dependencies. Only its own tool, or running it, would show what is in it.
OTHER_MANIFESTS = (
    "setup.py",
    "setup.cfg",
    "environment.yml",
)
_LIKE_REQUIREMENTS = re.compile(
    r"(?:.{0,100}[-_.])?requirements?(?:[-_.].{0,100})?\.(?:txt|in)|requirements/.{1,100}\.(?:txt|in)", re.IGNORECASE
)
_MOST_NAMED = 5


def stub_of(manifest: str) -> str:
    """The file of requirements that a manifest becomes: uv's messages name it."""
    return manifest if manifest == "requirements.txt" else f"{manifest}.txt"


def manifest_of_stub(stub: str) -> str:
    """The manifest of a file of requirements of ours."""
    name = stub.removesuffix(".txt")
    return name if "." in name or name in MANIFESTS else "requirements.txt"


def read_dependencies(
    tree: Tree, release: str, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()
) -> Dependencies:
    """What decides the dependencies, for a release of Python, with these extras and groups of the project.

    Raises `BuildError` ManifestInvalid or LockOutdated with file and line.
    """
    whole = read_project(tree)
    found, empty = _deciding(tree, whole, release, extras, groups)
    if (extras or groups) and found.manifest not in ("uv.lock", PYPROJECT):
        message = f"extras and groups are those of pyproject.toml, and {found.manifest or 'nothing'} decides here"
        raise BuildError("InvalidRequest", message, where="buildArgs." + ("extras" if extras else "groups"))
    root = read_root(tree, whole)
    if root and not any(one.folder == "." for one in found.locals):
        found = replace(found, locals=(root, *found.locals))
    warnings = [*found.warnings, *(warning for one in found.locals for warning in one.warnings)]
    warnings += _unused(tree, whole, found, empty)
    return replace(found, manifest=found.manifest if found.count else "", warnings=tuple(warnings))


def _deciding(
    tree: Tree, whole: Mapping[str, Any], release: str, extras: tuple[str, ...], groups: tuple[str, ...]
) -> tuple[Dependencies, bool]:
    """The first manifest that names something, and whether a requirements.txt before it names nothing."""
    empty = False
    if tree.has("requirements.txt"):
        found = _with_locals(tree, whole, read_requirements(tree))
        if found.count or found.locals:
            return found, False
        empty = True
    if tree.has("pylock.toml"):
        return read_pylock(tree, whole), empty
    if tree.has("uv.lock"):
        if not tree.has(PYPROJECT):
            raise BuildError("ManifestInvalid", "uv.lock needs its pyproject.toml beside it", where="uv.lock")
        return read_uv_lock(tree, whole, extras, groups), empty
    if tree.has("poetry.lock") and tree.has(PYPROJECT):
        return read_poetry_lock(tree, whole, release), empty
    if tree.has("pdm.lock") and tree.has(PYPROJECT):
        return read_pdm_lock(tree, whole, release), empty
    if tree.has("Pipfile.lock"):
        return read_pipfile_lock(tree), empty
    if table(whole, "project").get("dependencies") or undeclared(whole) or of_poetry(whole) or extras or groups:
        return read_project_needs(tree, whole, extras, (*default_groups(tree, whole), *groups)), empty
    if tree.has("Pipfile"):
        return read_pipfile(tree), empty
    return read_script(tree) or Dependencies(manifest="", count=0), empty


def _with_locals(tree: Tree, whole: Mapping[str, Any], found: Dependencies) -> Dependencies:
    """A requirements.txt whose paths to packages of the source are followed to what those need."""
    if not found.folders:
        return found
    named = read_named(tree, whole, found.folders, found.manifest)
    lines = tuple(dict.fromkeys((*found.requirements, *named.requirements)))
    return replace(found, requirements=lines, count=len(lines), locals=named.locals)


def _unused(tree: Tree, whole: Mapping[str, Any], found: Dependencies, empty: bool) -> Iterator[str]:
    """A warning for each file that looks like a list of dependencies and does not decide."""
    decides = f"{found.manifest} decides the dependencies" if found.manifest else "nothing is installed"
    if empty and (found.count or found.locals):
        yield f"requirements.txt names nothing: {decides}"
    for name in MANIFESTS[1:]:
        mute = name == PYPROJECT and (
            found.manifest in ("uv.lock", "poetry.lock", "pdm.lock") or not table(whole, "project").get("dependencies")
        )
        mute = mute or (name == "Pipfile" and found.manifest == "Pipfile.lock")
        if tree.has(name) and name != found.manifest and not mute and found.manifest:
            yield f"{name} is not used: {decides}"
    others = [name for name in OTHER_MANIFESTS if tree.has(name)]
    if table(whole, "project"):  # they are the backend's, and name what the manifest does not
        others = [name for name in others if name not in ("setup.py", "setup.cfg")]
    for name in others:
        yield f"{name} is not used: {decides}; {_way_out(name)}"
    if not found.manifest:
        like = [path for path in tree.files() if path != "requirements.txt" and _LIKE_REQUIREMENTS.fullmatch(path)]
        for path in like[:_MOST_NAMED]:
            yield f"{path} is not used: only requirements.txt at the root is read; {_way_out(path)}"


def _way_out(name: str) -> str:
    ways = {
        "setup.py": "list what it needs in requirements.txt",
        "setup.cfg": "list what it needs in requirements.txt",
    }
    if name in ways:
        return ways[name]
    if name.lower() == "requirements.txt":
        return "rename it"
    return f"write `-r {name}` into it" if name.endswith(".txt") else "list what it needs in requirements.txt"
