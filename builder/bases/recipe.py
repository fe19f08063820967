"""Recipes of images: `runtimes/<name>/base.toml` and `toolchain-image.toml`, read strictly. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.images.destination import REPOSITORY

FILE = "base.toml"
TOOLCHAIN_FILE = "toolchain-image.toml"
TABLES_OF = {FILE: "base", TOOLCHAIN_FILE: "image"}
"""File of recipes → the name of its tables."""


@dataclass(frozen=True, kw_only=True)
class Bytecode:
    """What a base image's own interpreter compiles beforehand, because the image's root is read-only when it runs.

    `program` (in the image) runs `script` (its text; the recipe names a file beside it) with the folders `folders` of
    the image and the folder `/out`, whose files then join the image under their paths in it.
    """

    program: str
    script: str
    folders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """What is in a base or toolchain image. Paths are relative to its root.

    An image is either made of the Debian packages of a `suite`, or is the public image `reference`, with a layer of the
    recipe's `files`, `links` and `folders` over it where there are some. `suite`
    may be a pocket that another one stands behind ("trixie-backports"). `packages` are fetched with what they depend
    on; `only` (when not empty) or all but `without` are unpacked. `strip` are patterns (`*` goes over `/`): what
    matches is left out with all below it, unless a pattern of `keep` matches too. `files`, `links` (path → text,
    target) and `folders` (path → mode) are added. `ca_bundle` is written from the certificates in
    /usr/share/ca-certificates/mozilla, since no package's script runs. `bytecode` is compiled last, of what is left.
    `versions` (package → start of its version) is what the suite must have at the time.

    Of a toolchain image only: `at` (folder of the sandbox → folder of the image, in which `*` stands for any text) is
    where plans find its programs; without it they are looked up on the image's PATH. `toolchains` are the catalog's
    names that it serves; none stands for its own name.
    """

    name: str
    suite: str = ""
    packages: tuple[str, ...] = ()
    reference: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    ca_bundle: str = ""
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    folders: tuple[tuple[str, int], ...] = ()
    bytecode: Bytecode | None = None
    at: tuple[tuple[str, str], ...] = ()
    toolchains: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """Changes when anything of the recipe does. An empty key says nothing: a new one leaves other bases as is."""
        text = json.dumps({key: value for key, value in asdict(self).items() if value}, sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def wants(self, package: str) -> bool:
        return package in self.only if self.only else package not in self.without

    def leaves_out(self, path: str) -> bool:
        """Whether `path` is stripped, by its own name or a folder's above it."""
        steps = path.split("/")
        above = ["/".join(steps[:end]) for end in range(1, len(steps) + 1)]
        if not any(fnmatch.fnmatchcase(one, pattern) for one in above for pattern in self.strip):
            return False
        return not any(fnmatch.fnmatchcase(path, pattern) for pattern in self.keep)


def read_recipes(folder: Path, file: str = FILE) -> dict[str, ImageRecipe]:
    """Name → recipe of `folder`/`file`. Raises `BuildError` InvalidRequest that names file and key."""
    path, name = folder / file, TABLES_OF[file]
    try:
        text = path.read_text(encoding="utf-8")
        tables = _parsed(text).get(name, [])
    except FileNotFoundError:
        raise BuildError("InvalidRequest", f"there is no {file}", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise BuildError("InvalidRequest", f"{file} is no TOML: {error}", where=str(path)) from None
    if not isinstance(tables, list):
        raise BuildError("InvalidRequest", f"recipes are tables [[{name}]]", where=str(path))
    keys = KEYS if file == FILE else (*KEYS, *TOOLCHAIN_KEYS)
    recipes = [_recipe(table, f"{path}: {name} {number}", folder, keys) for number, table in enumerate(tables, 1)]
    return {recipe.name: recipe for recipe in recipes}


@functools.lru_cache(maxsize=16)  # one build asks for the same file several times
def _parsed(text: str) -> Mapping[str, Any]:
    return tomllib.loads(text)


LISTS = ("packages", "only", "without", "strip", "keep", "toolchains")
TABLES = ("env", "files", "links", "folders", "versions", "at")
TEXTS = ("name", "suite", "ca_bundle", "reference")
TOOLCHAIN_KEYS = ("toolchains", "at")
OVER = ("files", "links", "folders")
KEYS = tuple(key for key in (*TEXTS, *LISTS, *TABLES, "bytecode") if key not in TOOLCHAIN_KEYS)


def _recipe(table: Mapping[str, Any], where: str, folder: Path, keys: tuple[str, ...]) -> ImageRecipe:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f'; is "{near[0]}" meant?' if near else ""
            raise BuildError("InvalidRequest", f"{key} is no key of a recipe{hint}", where=where)
        if key in TEXTS and isinstance(value, str):
            values[key] = value
        elif key in LISTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
            values[key] = tuple(value)
        elif key in TABLES and isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
            values[key] = tuple(sorted(value.items()))
        elif key == "bytecode" and isinstance(value, dict):
            values[key] = _bytecode(value, where, folder)
        else:
            raise BuildError("InvalidRequest", f"{key} has the wrong shape", where=where)
    for key in ("name",) if "reference" in values else ("name", "suite", "packages"):
        if not values.get(key):
            raise BuildError("InvalidRequest", f"{key} is missing", where=where)
    if "reference" in values and (more := sorted(set(values) - {"name", "reference", *OVER, *TOOLCHAIN_KEYS})):
        raise BuildError("InvalidRequest", f"{more[0]} is for images of packages, not for a reference", where=where)
    if not REPOSITORY.fullmatch(values["name"]) or "/" in values["name"]:
        raise BuildError("InvalidRequest", f"name {values['name']!r} cannot name an image", where=where)
    try:
        values["folders"] = tuple((path, int(mode, 8)) for path, mode in values.get("folders", ()))
    except ValueError:
        raise BuildError("InvalidRequest", "folders: modes are octal texts", where=where) from None
    return ImageRecipe(**values)


def _bytecode(table: Mapping[str, Any], where: str, folder: Path) -> Bytecode:
    program, script, folders = (table.get(key) for key in ("program", "script", "folders"))
    if (
        set(table) != {"program", "script", "folders"}
        or not isinstance(program, str)
        or not isinstance(script, str)
        or not isinstance(folders, list)
        or not all(isinstance(one, str) for one in folders)
    ):
        raise BuildError("InvalidRequest", "bytecode has program, script (texts) and folders (a list)", where=where)
    try:
        text = (folder / script).read_text(encoding="utf-8")
    except OSError as error:
        raise BuildError("InvalidRequest", f"bytecode: {script}: {error.strerror}", where=where) from None
    return Bytecode(program=program, script=text, folders=tuple(folders))
