"""Where the modules of a package lie in its source, as its build backend would find them. Pure; runs no backend.

A pure package needs no build: its folder on Python's path and its metadata beside it are what an editable install
makes. A package with hooks, generated files or an extension needs its backend, which is code.
"""

from __future__ import annotations

import bisect
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from builder.errors import BuildError
from builder.pipelines.python.needs import NAME, Local
from builder.pipelines.python.project import line_of, manifest_of, read_project, table, tables, texts
from builder.plan import WriteFile
from builder.source.tree import Tree

_BACKENDS = {
    "hatchling": "hatch",
    "uv_build": "uv",
    "setuptools": "setuptools",
    "poetry": "poetry",
    "flit_core": "flit",
    "pdm": "pdm",
}
_COMPILES = re.compile(
    r"cython|pybind11|cffi|setuptools[-_]rust|maturin|scikit[-_]build|meson|cmake|nanobind|mypy|mypyc|swig|ninja"
)
_HOOKS = (
    ("tool", "hatch", "build", "hooks"),
    ("tool", "hatch", "build", "targets", "wheel", "hooks"),
    ("tool", "hatch", "build", "targets", "wheel", "force-include"),
    ("tool", "setuptools", "cmdclass"),
    ("tool", "poetry", "build"),
)
_SETUP_CODE = re.compile(r"\b(?:ext_modules|cmdclass|cythonize|use_scm_version|rust_extensions|cffi_modules)\b")
_PLAIN = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*", re.ASCII)
_VERSION = re.compile(r"v?[0-9][0-9A-Za-z.!+_-]{0,99}")
_WRITTEN = re.compile(
    r"(?:__version__|VERSION|version)(?: ?: ?str)?\s{0,8}=\s{0,8}"
    r"[\"'](v?[0-9][0-9A-Za-z.!+_-]{0,99})[\"'](?:\s{0,8}#.*)?"
)


def read_local(tree: Tree, folder: str, where: str) -> Local:
    """A package of the source. Raises `BuildError` ManifestInvalid for what is none, and for one that must be built."""
    files = (manifest_of(folder), *(posixpath.normpath(f"{folder}/{name}") for name in ("setup.py", "setup.cfg")))
    if not any(tree.has(name) for name in files):
        message = f"{folder[:200]} is no Python project of the source: it has no pyproject.toml"
        hint = "Correct the path; what lies outside of what is sent cannot be used."
        raise BuildError("ManifestInvalid", message, where=where, next=hint)
    whole = read_project(tree, folder)
    name = _name(whole)
    shown = f"{name or folder} ({folder})" if folder != "." else name or "the project"
    if what := _needs_backend(tree, folder, whole):
        message = f"{shown} cannot be used as it is: {what}, which needs an sdist step, and there is none yet"
        hint = "Send it as a wheel of an index, or make it a package of plain Python files."
        raise BuildError("ManifestInvalid", message, where=where, next=hint)
    if not name:
        message = f"{shown} has no project.name in a pyproject.toml; running its setup.py needs an sdist step"
        raise BuildError("ManifestInvalid", message, where=where, next="Declare it in a pyproject.toml.")
    paths = _paths(tree, folder, whole, name)
    metadata, warnings = _metadata(tree, folder, whole, name, paths[0])
    return Local(name=name, folder=folder, paths=paths, files=metadata, warnings=warnings)


def read_root(tree: Tree, whole: Mapping[str, Any]) -> Local | None:
    """The project itself, beside its entry file. What needs a backend is not there, and a warning."""
    if _is_off(whole):
        return None
    name = _name(whole)
    if not name:  # a setup.py or setup.cfg names it, and only running it shows how
        legacy = tree.has("setup.py") or tree.has("setup.cfg")
        return Local(name="", folder=".", paths=("src",)) if legacy and _has_modules(tree, "src") else None
    if what := _needs_backend(tree, ".", whole):
        paths = tuple(path for path in _paths(tree, ".", whole, name) if path != ".")
        warning = f"{name} itself is not built: {what}, which needs an sdist step; only its files are in the image"
        return Local(name=name, folder=".", paths=paths, warnings=(warning,))
    paths = _paths(tree, ".", whole, name)
    if "build-system" not in whole and paths == (".",):
        return None
    metadata, warnings = _metadata(tree, ".", whole, name, paths[0])
    return Local(
        name=name, folder=".", paths=tuple(path for path in paths if path != "."), files=metadata, warnings=warnings
    )


def _name(whole: Mapping[str, Any]) -> str:
    name = table(whole, "project").get("name") or table(whole, "tool", "poetry").get("name")
    return name if isinstance(name, str) and NAME.fullmatch(name) else ""


def _is_off(whole: Mapping[str, Any]) -> bool:
    """The project declares that it is no package."""
    return (
        table(whole, "tool", "uv").get("package") is False
        or table(whole, "tool", "poetry").get("package-mode") is False
    )


def _needs_backend(tree: Tree, folder: str, whole: Mapping[str, Any]) -> str:
    """Why a package is not its files alone; "" for a pure one."""
    system = table(whole, "build-system")
    backend = system.get("build-backend", "setuptools.build_meta")
    if not isinstance(backend, str) or "backend-path" in system or _kind(whole) == "":
        return f"it is built by {str(backend)[:80]}"
    if compiler := next((one for one in texts(system.get("requires")) if _COMPILES.match(one.lower())), ""):
        return f"its build takes {compiler[:80]}"
    if hook := next((keys for keys in _HOOKS if table(whole, *keys[:-1]).get(keys[-1])), None):
        return f"it has {'.'.join(hook)}"
    if table(whole, "tool", "setuptools").get("ext-modules"):
        return "it has an extension"
    if table(whole, "tool", "pdm", "build").get("run-setuptools") or tree.has(_join(folder, "pdm_build.py")):
        return "it has a build hook"
    setup = _join(folder, "setup.py")
    if _kind(whole) == "setuptools" and tree.has(setup) and _SETUP_CODE.search(tree.read_text(setup)):
        return "its setup.py compiles or generates files"
    return ""


def _kind(whole: Mapping[str, Any]) -> str:
    """The backend's family; "" for one that this module does not know."""
    backend = table(whole, "build-system").get("build-backend", "setuptools.build_meta")
    return _BACKENDS.get(str(backend).partition(".")[0].partition(":")[0], "")


def _paths(tree: Tree, folder: str, whole: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The folders that hold its top-level modules, at least one."""
    found: list[str] = []
    for root in itertools.islice(_declared_roots(whole, _kind(whole)), _MOST_ROOTS):
        path = _join(folder, root)
        if path and path not in found and (path == folder or _has_modules(tree, path)):
            found.append(path)
    if found:
        return tuple(found)
    module = re.sub(r"[-.]+", "_", name)
    for root in (".", "src"):
        if any(tree.has(_join(folder, f"{root}/{one}{end}")) for one in (module, module.lower()) for end in _ENDS):
            return (_join(folder, root),)
    return (_join(folder, "src"),) if _has_modules(tree, _join(folder, "src")) else (folder,)


_MOST_ROOTS = 8
_ENDS = ("/__init__.py", ".py")


def _declared_roots(whole: Mapping[str, Any], kind: str) -> Iterator[str]:
    """What the backend's table declares; nothing where the backend looks for itself."""
    if kind == "uv":
        root = table(whole, "tool", "uv", "build-backend").get("module-root", "src")
        yield root if isinstance(root, str) and root else "."
    elif kind == "hatch":
        wheel = table(whole, "tool", "hatch", "build", "targets", "wheel")
        yield from (posixpath.dirname(one.rstrip("/")) or "." for one in texts(wheel.get("packages")))
        yield from texts(wheel.get("sources"))
    elif kind == "setuptools":
        places = table(whole, "tool", "setuptools", "package-dir")
        yield from (places[""],) if isinstance(places.get(""), str) else ()
        yield from texts(table(whole, "tool", "setuptools", "packages", "find").get("where"))
    elif kind == "poetry":
        for one in tables(table(whole, "tool", "poetry").get("packages")):
            yield str(one.get("from", "."))
    elif kind == "pdm":
        root = table(whole, "tool", "pdm", "build").get("package-dir")
        yield from (root,) if isinstance(root, str) else ()


def _join(folder: str, path: str) -> str:
    """A path of the package as one of the source; "" for one that leads out of it, or is no plain path."""
    joined = posixpath.normpath(posixpath.join(folder, path))
    return joined if joined == "." or (_PLAIN.fullmatch(joined) and not joined.startswith("..")) else ""


def _has_modules(tree: Tree, folder: str) -> bool:
    files, below = tree.files(), f"{folder}/"
    for at in range(bisect.bisect_left(files, below), len(files)):
        if not files[at].startswith(below):
            break
        if files[at].endswith(".py"):
            return True
    return False


def _metadata(
    tree: Tree, folder: str, whole: Mapping[str, Any], name: str, path: str
) -> tuple[tuple[WriteFile, ...], tuple[str, ...]]:
    """The dist-info of an install: `importlib.metadata` answers for the package, and plugins are found."""
    project = table(whole, "project") or table(whole, "tool", "poetry")
    version, warnings = project.get("version"), []
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        version = _written_version(tree, folder, whole)
    if not version:
        where = line_of(tree, "dynamic", manifest_of(folder))
        warnings.append(f"{name} has no version that can be read without its build backend ({where}); it is 0")
        version = "0"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    wanted = project.get("requires-python")
    lines += [f"Requires-Python: {wanted}"] if isinstance(wanted, str) and wanted.isprintable() else []
    needs = texts(table(whole, "project").get("dependencies"))
    lines += [f"Requires-Dist: {need}" for need in needs if need.isprintable()]
    place = f"{re.sub(r'[-_.]+', '_', name)}-{version.replace('-', '_')}.dist-info"
    place = place if path == "." else f"{path}/{place}"
    files = [WriteFile(path=f"{place}/METADATA", content="\n".join(lines) + "\n")]
    if points := "".join(_entry_points(project)):
        files.append(WriteFile(path=f"{place}/entry_points.txt", content=points))
    return tuple(files), tuple(warnings)


def _written_version(tree: Tree, folder: str, whole: Mapping[str, Any]) -> str:
    """The version that a plain `__version__ = "1.2"` in the file named for it says."""
    hatch = table(whole, "tool", "hatch", "version").get("path")
    attribute = table(whole, "tool", "setuptools", "dynamic", "version").get("attr")
    candidates = [hatch] if isinstance(hatch, str) else []
    if isinstance(attribute, str):
        module = attribute.rpartition(".")[0].replace(".", "/")
        candidates += [f"{root}{module}{end}" for root in ("", "src/") for end in _ENDS]
    elif _kind(whole) == "flit":
        module = re.sub(r"[-.]+", "_", _name(whole))
        candidates += [f"{root}{module}{end}" for root in ("", "src/") for end in _ENDS]
    for candidate in candidates:
        path = _join(folder, candidate)
        if path and tree.has(path):
            for line in tree.read_text(path).splitlines():
                if found := _WRITTEN.fullmatch(line):
                    return found[1]
    return ""


def _entry_points(project: Mapping[str, Any]) -> Iterator[str]:
    groups = {"console_scripts": table(project, "scripts"), "gui_scripts": table(project, "gui-scripts")}
    for group in table(project, "entry-points"):
        groups.setdefault(group, table(project, "entry-points", group))
    for group, entries in groups.items():
        lines = [f"{key} = {value}\n" for key, value in entries.items() if isinstance(value, str)]
        if all(text.strip().isprintable() for text in (group, *lines)) and lines:
            yield f"[{group}]\n{''.join(lines)}\n"
