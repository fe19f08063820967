"""Hostile text, and each parser and diagnosis that reads it: one row a file, argument or output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, rust
from builder.pipelines.base import PlanRequest
from builder.pipelines.deno import lock as deno_locks
from builder.pipelines.deno import remote as deno_modules
from builder.pipelines.go import modules
from builder.pipelines.python import wheels
from builder.pipelines.rust.config import TRIPLES
from builder.plan import Network, Private, Sees, Step
from builder.source.tree import DictTree

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
T = TypeVar("T")
TAIL_LINE = 16 * 1024


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + unit * (size // len(unit)) + after


SHAPES: dict[str, Callable[[int], str]] = {
    "one name": repeated("a"),
    "blanks": repeated(" ", "requests", "!"),
    "tabs": repeated("\t", "-r", "\\"),
    "dotted key": repeated("a.", after="a=1"),
    "dotted keys": repeated("a.b.c.d.e.f.g.h=1\n"),
    "square brackets": repeated("[", "a="),
    "parentheses": repeated("(", 'a; python_version < "'),
    "braces": repeated("{a=", "a="),
    "negations": repeated("!"),
    "operators": repeated("(a&&!", "//go:build "),
    "strings": repeated('"a"\n'),
    "words and strings": repeated('a "b";'),
    "comments": repeated("/* "),
    "one quote": repeated('"a '),
    "three quotes": repeated('"""\\'),
    "single quotes": repeated("'''a", "a = "),
    "backquotes": repeated("`a"),
    "continued lines": repeated("a\\\n"),
    "empty lines": repeated("\n"),
    "short lines": repeated("a\n"),
    "specifiers": repeated(">=1,", "requests"),
    "markers": repeated(" or a == 'b'", "a; a == 'b'"),
    "digits": repeated("1", "a = "),
    "hashes": repeated(" --hash=sha256:a-", "a==1"),
    "includes": repeated("-r a.txt\n"),
    "paths": repeated("a/.go"),
    "dashes": repeated("a-1."),
    "at signs": repeated("@ "),
    "directives": repeated("require a v1\n"),
    "404s": repeated("404 A", after="!"),
    "no wheels": repeated("has no "),
    "constraints": repeated("// +build a\n\n"),
    "blocks": repeated("/**/"),
    "embeds": repeated("//go:embed a\n"),
    "quotes": repeated('\\"'),
    "undefined": repeated("undefined: a."),
    "cgo": repeated('warning: package a (b, c d) imports "C" in '),
    "requires go": repeated("requires go >= 1"),
    "versions": repeated("the current Python version (1"),
    "mismatches": repeated("Hash mismatch for `"),
    "because": repeated("Because there is no version of a=="),
    "error lines": repeated("error: a\n"),
    "objects": repeated('{"reason":', "", "\n"),
    "attributes": repeated("#[ignite::main"),
    "raw strings": repeated('r#"a'),
    "lifetimes": repeated("'a "),
    "arrows": repeated("error: a\n --> a:1:1\n"),
    "build scripts": repeated("failed to run custom build command for `a v1"),
    "crates not found": repeated("no matching package named `a` found\n"),
    "slashes": repeated("/[", "(", ")"),
    "divisions": repeated("(/a/["),
    "templates": repeated("`${"),
    "places": repeated("at file:///a:1:1 "),
    "npm packages": repeated("npm:@a/b@1 "),
    "types": repeated('TS2307 [ERROR]: Cannot find module "', "", "\n"),
    "references": repeated('/// <reference types="', "", "\n"),
}


def toml(text: str) -> str:
    """As a value of TOML, in one string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def plan(files: Mapping[str, str], runtime: str, /, **arguments: str) -> None:
    tree = DictTree(files)
    detection = pipelines.detect(tree, runtime)
    pipelines.plan(detection, tree, PlanRequest(build_args=arguments), CATALOG)


def of_python(**files: str) -> None:
    names = {"requirements": "requirements.txt", "python_version": ".python-version"}
    there = {names.get(name, name.replace("_", ".")): text for name, text in files.items()}
    plan({"handler.py": "", **there}, "python")


def of_python_without_handler(**files: str) -> None:
    plan({"util.py": "", **{name.replace("_", "."): text for name, text in files.items()}}, "python")


def many_applications(size: int) -> str:
    """Names, factories, wrappers and chains of them, as many as the text is long."""
    lines = (
        f"from m{at} import *\ndef f{at}():\n  x = app\n  return x\napp = app.x()\ny{at} = f{at}(app)\n"
        for at in range(size // 64)
    )
    return "from flask import Flask\napp = Flask(__name__)\n" + "".join(lines)


def single(text: str) -> None:
    """A file without a name and a runtime: each pipeline looks whether it is its own."""
    pipelines.single_file_name(None, text.encode())


def names(runtime: str) -> Callable[[str], None]:
    """A source whose files have these names, one a line, as far as an archive may have them."""
    entry = {
        "go": {"main.go": MAIN},
        "python": {"handler.py": ""},
        "deno": {"main.ts": ""},
        "rust": {"main.rs": "fn main() {}"},
    }[runtime]

    def read(text: str) -> None:
        lines = (
            "/".join(part for part in line[:200].split("/") if part not in ("", ".", "..")) for line in text.split("\n")
        )
        plan({**entry, **{f"{line}.{ENDS[runtime]}": "" for line in lines}}, runtime)

    return read


def of_rust(**files: str) -> None:
    names = {"cargo_toml": "Cargo.toml", "_cargo_config_toml": ".cargo/config.toml", "rust_toolchain": "rust-toolchain"}
    plan({"Cargo.toml": PACKAGE, "src/main.rs": "", **{names[name]: text for name, text in files.items()}}, "rust")


def rust_crates(text: str) -> None:
    files = {"Cargo.toml": PACKAGE, "Cargo.lock": "", "src/main.rs": ""}
    made = pipelines.plan(pipelines.detect(DictTree(files), "rust"), DictTree(files), PlanRequest(), CATALOG)
    rust.fetched(made, DictTree({"app/Cargo.lock": text}))


def of_deno(**files: str) -> None:
    plan({"main.ts": "", **{name.replace("_", "."): text for name, text in files.items()}}, "deno")


def import_map(size: int) -> None:
    """As many entries and prefixes as the size says, and as many imports."""
    count = size // 64
    imports = {f"{'p' * (at % 40)}{at}/": f"./a{at}/" for at in range(count)}
    lines = "".join(f"import '{'p' * (at % 40)}{at + 1}x/{at}';\n" for at in range(count))
    of_deno(deno_json=json.dumps({"imports": imports}), main_ts=lines)


def read_deno_lock(text: str, host: str = "") -> None:
    if host:
        deno_modules.fetched(DictTree({"deno.lock": text, deno_modules.HOSTS: json.dumps([host])}), "deno.lock")
    deno_locks.fetched(DictTree({"deno.lock": text}), "deno.lock")
    plan({"main.ts": "import 'npm:a@1';", "deno.lock": text}, "deno")


def read_sums(text: str) -> None:
    modules.fetched(text)


def read_lock(text: str) -> None:
    wheels.fetched(DictTree({"pylock.toml": text, "r": ""}), "r", "uv.lock", "3.11")


def read_pins(text: str) -> None:
    wheels.fetched(DictTree({"pylock.toml": "", "r": text}), "r", "uv.lock", "3.11")


ENDS = {"go": "go", "python": "py", "rust": "rs", "deno": "ts"}
PACKAGE = '[package]\nname = "x"\nversion = "1.0.0"\n'
MODULE = "module example.com/app\n\ngo 1.24\n"
MAIN = "package main\n\nfunc main() {}\n"
PROJECT = '[project]\nname = "x"\n'
POETRY = '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\n'


def members_and_sources(size: int) -> None:
    """As many members, patterns and sources as the size says."""
    count = size // 64
    needs = ", ".join(f'"m{at}"' for at in range(count))
    sources = "".join(f"m{at} = {{ workspace = true }}\n" for at in range(count))
    patterns = ", ".join(f"'{'*a' * 20}/{at}'" for at in range(count))
    root = (
        f"{PROJECT}dependencies = [{needs}]\n[tool.uv.sources]\n{sources}[tool.uv.workspace]\nmembers = [{patterns}]\n"
    )
    members = {f"{'a' * 50}/{at}/pyproject.toml": f'[project]\nname = "m{at}"\n' for at in range(count)}
    plan({"handler.py": "", "pyproject.toml": root, **members}, "python")


LOCKED = 'requires-python = ">=3.11"\n[[package]]\nname = "x"\nsource = { virtual = "." }\n'
OF_INDEX = 'source = { registry = "https://index.example/simple" }\n'


def lock_and_manifest(size: int) -> None:
    """Many requirements of one name, none of which the first entries of the lock are."""
    count = min(size // 32, 2000)
    needs = ", ".join(f'"a>={at}"' for at in range(count))
    entries = ", ".join(f'{{ name = "a", specifier = ">={at}" }}' for at in reversed(range(count)))
    lock = f"{LOCKED}[package.metadata]\nrequires-dist = [{entries}]\n"
    of_python(pyproject_toml=f"{PROJECT}dependencies = [{needs}]\n", uv_lock=lock)


def extras_of_a_lock(size: int) -> None:
    """Many packages of one name, and many extras asked of it."""
    count = size // 32
    extras = ", ".join(f'"e{at}"' for at in range(count))
    packages = f'[[package]]\nname = "a"\n{OF_INDEX}' * count
    lock = f'{LOCKED}dependencies = [{{ name = "a", extra = [{extras}] }}]\n{packages}'
    of_python(pyproject_toml=PROJECT, uv_lock=lock)


def versions_of_a_lock(size: int) -> None:
    """Many versions of one package, and many requirements of it."""
    count = min(size // 32, 2000)
    needs = ", ".join(f'"a!={at}.1"' for at in range(count))
    packages = "".join(f'[[packages]]\nname = "a"\nversion = "{at}.1"\n' for at in range(count))
    of_python(pyproject_toml=f"{PROJECT}dependencies = [{needs}]\n", pylock_toml=packages)


def imports_and_replacements(size: int) -> None:
    """As many of each as the size says: each import is looked for among the replaced modules."""
    count = size // 16
    module = MODULE + "".join(f"replace a.b/{at} => ./{at}\n" for at in range(count))
    imports = "".join(f'import "c.d/{at}"\n' for at in range(count))
    plan({"go.mod": module, "main.go": f"package main\n{imports}func main() {{}}\n"}, "go")


PARSERS: dict[str, Callable[[str], None]] = {
    "requirements.txt": lambda text: of_python(requirements=text),
    "an included file": lambda text: plan(
        {"handler.py": "", "requirements.txt": "-r a.txt\n", "a.txt": text}, "python"
    ),
    "pyproject.toml": lambda text: of_python(pyproject_toml=text),
    "dependencies": lambda text: of_python(pyproject_toml=f"{PROJECT}dependencies = [{toml(text)}]\n"),
    "many dependencies": lambda text: of_python(
        pyproject_toml=f"{PROJECT}dependencies = [{', '.join(toml(line) for line in text.splitlines())}]\n"
    ),
    "requires-python": lambda text: of_python(pyproject_toml=f"{PROJECT}requires-python = {toml(text)}\n"),
    "sources": lambda text: of_python(
        pyproject_toml=f'{PROJECT}dependencies = ["a"]\n[tool.uv.sources]\n{toml(text)} = {{ path = "a" }}\n'
    ),
    "uv.lock": lambda text: of_python(pyproject_toml=PROJECT, uv_lock=text),
    "pylock.toml": lambda text: of_python(pylock_toml=text),
    "setup.py": lambda text: plan(
        {"handler.py": "", "pyproject.toml": PROJECT + '[build-system]\nrequires = ["setuptools"]\n', "setup.py": text},
        "python",
    ),
    "a version in a module": lambda text: of_python(
        pyproject_toml=f'{PROJECT}dynamic = ["version"]\n[build-system]\nbuild-backend = "hatchling.build"\n'
        '[tool.hatch.version]\npath = "main.py"\n',
        main_py=text,
    ),
    "a layout": lambda text: of_python(
        pyproject_toml=f'{PROJECT}[build-system]\nbuild-backend = "hatchling.build"\n'
        f"[tool.hatch.build.targets.wheel]\npackages = [{', '.join(map(toml, text.splitlines()))}]\n"
    ),
    "poetry.lock": lambda text: of_python(pyproject_toml=f"{PROJECT}dependencies = ['a']\n", poetry_lock=text),
    "a constraint of Poetry": lambda text: of_python(pyproject_toml=f"{POETRY}a = {toml(text)}\n"),
    "pdm.lock": lambda text: of_python(pyproject_toml=f"{PROJECT}dependencies = ['a']\n", pdm_lock=text),
    "Pipfile": lambda text: of_python(Pipfile=text),
    "a constraint of Pipenv": lambda text: of_python(Pipfile=f"[packages]\na = {toml(text)}\n"),
    "Pipfile.lock": lambda text: of_python(Pipfile_lock=text),
    "a script's metadata": lambda text: of_python(handler_py=f"# /// script\n# {text}\n# ///\n"),
    "mise.toml, Python": lambda text: of_python(mise_toml=f"[tools]\npython = {toml(text)}\n"),
    "a module that starts": lambda text: of_python_without_handler(main_py=text),
    "statements that start": lambda text: of_python_without_handler(main_py=text.replace(" ", "\n")),
    "Procfile": lambda text: of_python_without_handler(Procfile=f"web: {text}"),
    "manage.py": lambda text: of_python_without_handler(manage_py=f"DJANGO_SETTINGS_MODULE', '{text}"),
    "an entry by name": lambda text: plan({"main.py": ""}, "python", entry=text),
    "a start by name": lambda text: plan({"main.py": ""}, "python", start=text),
    "files by patterns": lambda text: plan(
        {"handler.py": "", "a" * 200 + ".txt": "", **{f"{'a/' * at}.a/a": "" for at in range(10)}},
        "python",
        files=json.dumps(text.splitlines()[:1000]),
    ),
    "members of a uv workspace": lambda text: plan(
        {
            "handler.py": "",
            "pyproject.toml": f'{PROJECT}dependencies = ["m"]\n[tool.uv.sources]\nm = {{ workspace = true }}\n'
            f"[tool.uv.workspace]\nmembers = [{', '.join(map(toml, text.splitlines()[:100]))}]\n",
            **{f"{'a' * 50}/{at}/pyproject.toml": f'[project]\nname = "m{at}"\n' for at in range(20)},
        },
        "python",
    ),
    "runtime.txt": lambda text: of_python(runtime_txt=text),
    ".python-version": lambda text: of_python(python_version=text),
    "main.go": lambda text: plan({"main.go": text}, "go"),
    "imports": lambda text: plan({"main.go": f"package main\nimport (\n{text}\n)\n"}, "go"),
    "a constraint": lambda text: plan({"main.go": MAIN, "a.go": f"//go:build {text}\n\n{MAIN}"}, "go"),
    "a constraint of options": lambda text: plan({"main.go": MAIN, "a.go": f"// +build {text}\n\n{MAIN}"}, "go"),
    "a head": lambda text: plan({"main.go": f"{text}\n\n{MAIN}"}, "go"),
    "embedded": lambda text: plan({"main.go": f'package main\nimport _ "embed"\n//go:embed {text}\n'}, "go"),
    "a body that embeds": lambda text: plan({"main.go": f'package main\nimport _ "embed"\n{text}\n'}, "go"),
    "go.work": lambda text: plan({"go.work": text, "go.mod": MODULE, "main.go": MAIN}, "go"),
    "a block of go.work": lambda text: plan(
        {"go.work": f"go 1.24\nuse (\n.\n{text}\n)\n", "go.mod": MODULE, "main.go": MAIN}, "go"
    ),
    "go.mod": lambda text: plan({"go.mod": text, "main.go": MAIN}, "go"),
    "a block of go.mod": lambda text: plan({"go.mod": f"{MODULE}require (\n{text}\n)\n", "main.go": MAIN}, "go"),
    ".go-version": lambda text: plan({"main.go": MAIN, ".go-version": text}, "go"),
    ".tool-versions of Go": lambda text: plan({"main.go": MAIN, ".tool-versions": f"golang {text}"}, "go"),
    "mise.toml of Go": lambda text: plan({"main.go": MAIN, "mise.toml": f"[tools]\n{text}"}, "go"),
    "a pin of mise.toml": lambda text: plan({"main.go": MAIN, "mise.toml": f"[tools]\ngo = {toml(text)}\n"}, "go"),
    "go.sum": read_sums,
    "the resolver's lock": read_lock,
    "an exported lock": read_pins,
    "Cargo.toml": lambda text: of_rust(cargo_toml=text),
    "a dependency of Cargo.toml": lambda text: of_rust(cargo_toml=f"{PACKAGE}[dependencies]\nx = {toml(text)}\n"),
    "members of a Cargo workspace": lambda text: plan(
        {
            "Cargo.toml": f"[workspace]\nmembers = [{', '.join(map(toml, text.splitlines()))}]\n",
            **{f"{'a' * 50}/{at}/Cargo.toml": PACKAGE for at in range(100)},
        },
        "rust",
    ),
    "Cargo.lock": rust_crates,
    "main.rs": lambda text: plan({"main.rs": text}, "rust"),
    "main.rs with a handler": lambda text: plan({"main.rs": f"#[ignite::main]\nfn h() {{}}\n{text}"}, "rust"),
    ".cargo/config.toml": lambda text: of_rust(_cargo_config_toml=text),
    "rustflags": lambda text: of_rust(_cargo_config_toml=f"[build]\nrustflags = {toml(text)}\n"),
    "variables of cargo": lambda text: of_rust(_cargo_config_toml=f"[env]\n{toml(text)} = 'x'\n"),
    "rust-toolchain": lambda text: of_rust(rust_toolchain=text),
    "rust-version": lambda text: of_rust(cargo_toml=f"{PACKAGE}rust-version = {toml(text)}\n"),
    "a single file": single,
    "names, Go": names("go"),
    "names, Python": names("python"),
    "names, Rust": names("rust"),
    "names, Deno": names("deno"),
    "main.ts": lambda text: of_deno(main_ts=text),
    "a statement of main.ts": lambda text: of_deno(main_ts=f"export default {text};\nimport 'npm:a@1';\n"),
    "a string of main.ts": lambda text: of_deno(main_ts=f"import {json.dumps(text)};\n"),
    "deno.json": lambda text: of_deno(deno_json=text),
    "a value of deno.json": lambda text: of_deno(deno_json=f'{{"imports": {{"a": {json.dumps(text)}}}, "x": {text}}}'),
    "tasks.start": lambda text: of_deno(
        deno_json=json.dumps({"tasks": {"start": text}, "exports": text, "lock": text}), main_ts=""
    ),
    "package.json": lambda text: of_deno(package_json=text),
    "a dependency": lambda text: of_deno(package_json=json.dumps({"dependencies": {"a": text}})),
    "a name of a dependency": lambda text: of_deno(package_json=json.dumps({"dependencies": {text: "1"}})),
    "deno.lock": read_deno_lock,
    "a package of deno.lock": lambda text: read_deno_lock(json.dumps({"version": "5", "npm": {text: {}}})),
    "an integrity of deno.lock": lambda text: read_deno_lock(
        json.dumps({"version": "5", "npm": {"a@1.0.0": {"integrity": text, "os": [text], "tarball": text}}})
    ),
    "a module of deno.lock": lambda text: read_deno_lock(
        json.dumps({"version": "5", "remote": {f"https://{text}": text, "https://a.example/x": text}}), "a.example:443"
    ),
    "a redirect of deno.lock": lambda text: read_deno_lock(
        json.dumps({"version": "5", "redirects": {text: text}, "jsr": {text: {"integrity": text}}}), "jsr"
    ),
    "permissions of Deno": lambda text: plan({"main.ts": ""}, "deno", allow=text),
    "scripts of npm": lambda text: plan({"main.ts": ""}, "deno", allow_scripts=text),
    "tags of Go": lambda text: plan({"main.go": MAIN}, "go", tags=text),
    "a package of Go by name": lambda text: plan({"main.go": MAIN}, "go", entry=text),
    "variables of the linker": lambda text: plan({"main.go": MAIN}, "go", ldflags_x=f"main.{text}=x"),
    "a variable of the linker": lambda text: plan({"main.go": MAIN}, "go", ldflags_x=f"main.x={text}"),
    "private modules": lambda text: plan({"main.go": MAIN}, "go", private=text, private_secret="s"),
    "features of Rust": lambda text: plan({"Cargo.toml": PACKAGE, "src/main.rs": ""}, "rust", features=text),
    "a program of Rust by name": lambda text: plan({"Cargo.toml": PACKAGE, "src/main.rs": ""}, "rust", entry=text),
    "a script of Deno by name": lambda text: plan({"main.ts": ""}, "deno", entry=text),
    "extras": lambda text: plan(
        {"handler.py": "", "pyproject.toml": f"{PROJECT}dependencies = []\n"}, "python", extras=text
    ),
    "groups by name": lambda text: plan(
        {"handler.py": "", "pyproject.toml": f"{PROJECT}dependencies = []\n"}, "python", groups=text
    ),
    ".deno-version": lambda text: plan({"main.ts": "", ".deno-version": text}, "deno"),
    "vendor/modules.txt": lambda text: plan(
        {"go.mod": MODULE, "main.go": 'package main\nimport "ignite"\n', "vendor/modules.txt": text}, "go"
    ),
}


COUNTED: dict[str, Callable[[int], None]] = {
    "members": members_and_sources,
    "a lock and its manifest": lock_and_manifest,
    "extras of a lock": extras_of_a_lock,
    "versions of a lock": versions_of_a_lock,
    "packages of Poetry": lambda size: of_python(
        pyproject_toml=POETRY + 'a = "1"\n',
        poetry_lock="".join(
            f'[[package]]\nname = "a{"" if at == 0 else at}"\nversion = "1"\n'
            f'[package.dependencies]\na{at + 1} = "*"\na = "*"\n'
            for at in range(min(size // 64, 2000))
        ),
    ),
    "blocks of a script": lambda size: of_python(handler_py="# /// script\n" + "# ///\n" * (size // 8)),
    "groups": lambda size: of_python(
        pyproject_toml=f"{PROJECT}dependencies = []\n[tool.uv]\ndefault-groups = ['g0']\n[dependency-groups]\n"
        + "".join(f"g{at} = ['a', {{ include-group = 'g{at + 1}' }}]\n" for at in range(min(size // 64, 2000)))
    ),
    "names of applications": lambda size: of_python_without_handler(main_py=many_applications(size)),
    ".python-version, digits": lambda size: of_python(python_version="3." + "1" * size),
    "many patterns": lambda size: plan(
        {
            "main.go": 'package main\nimport _ "embed"\n' + "//go:embed a*b*c*d\n" * (size // 16),
            "a/" + "a" * 200: "",
        },
        "go",
    ),
    "patterns of files": lambda size: plan(
        {"handler.py": "", **{f"{'a/' * at}{'a' * 200}": "" for at in range(10)}},
        "python",
        files=json.dumps([f"{'**/' * (at % 3)}{'*a' * 20}{at}" for at in range(size // 512)]),
    ),
    "patterns of a Cargo workspace": lambda size: plan(
        {
            "Cargo.toml": f"[workspace]\nmembers = {['**/' + '*a' * 20 + str(at) for at in range(size // 2048)]}\n",
            **{f"{'a' * 50}/{at}/Cargo.toml": PACKAGE for at in range(20)},
        },
        "rust",
    ),
    "imports and replacements": imports_and_replacements,
    "crates of a lock": lambda size: rust_crates(
        '[[package]]\nname = "a"\nversion = "1"\nsource = "sparse+https://index.crates.io/"\n' * (size // 64)
        + f'[metadata]\n"checksum a 1 (sparse+https://index.crates.io/)" = "{"0" * 64}"\n'
    ),
    "programs of a package": lambda size: plan(
        {"Cargo.toml": PACKAGE, **{f"src/bin/a{at}.rs": "" for at in range(size // 64)}}, "rust"
    ),
    "an import map": import_map,
    "a specifier of many parts": lambda size: of_deno(main_ts=f"import '{'a/' * size * 4}';\n"),
}
"""Sources that have as many parts as a size says."""


def diagnosis(runtime: str, name: str) -> Callable[[str], None]:
    """The diagnosis of a step whose output is this text, in lines as a step's tail has them."""
    step = Step(name=name, argv=("uv", "-r", "requirements.txt", TRIPLES["wasm"]))
    if name == "download private modules":
        private = Private(hosts=("host.example",), secret="s", version=1)
        step = replace(
            step, sees=Sees.STUBS, runs_source=False, cwd="/work/fetch", network=Network.INDEX, private=private
        )

    def judged(text: str) -> None:
        lines = [line[at : at + TAIL_LINE] for line in text.split("\n") for at in range(0, len(line) or 1, TAIL_LINE)]
        pipelines.diagnose(runtime, step, 1, lines)

    return judged


DIAGNOSES = {
    "go build": diagnosis("go", "compile"),
    "go mod download": diagnosis("go", "download modules"),
    "go mod download, private": diagnosis("go", "download private modules"),
    "cargo build for a component": diagnosis("rust", "compile crates"),
    "uv pip compile": diagnosis("python", "resolve dependencies"),
    "a build of sdists": diagnosis("python", "build sdists"),
    "deno download": diagnosis("deno", "download modules"),
    "uv pip install": diagnosis("python", "install dependencies"),
    "deno check": diagnosis("deno", "check"),
    "deno install": diagnosis("deno", "lock packages"),
    "the check of Python": diagnosis("python", "compile"),
    "cargo build": diagnosis("rust", "compile"),
    "cargo fetch": diagnosis("rust", "resolve crates"),
    "cargo fetch --locked": diagnosis("rust", "check lock"),
}


def spent(read: Callable[[T], None], hostile: T) -> float:
    """Processor time in seconds; what is refused is refused by the table."""
    start = time.process_time()
    try:
        read(hostile)
    except BuildError as error:
        assert error.error_class != "platform", error
    return time.process_time() - start
