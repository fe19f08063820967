"""Typical mistakes of every runtime and what a person gets to read of each. `make golden` writes `mistakes.json`.

A mistake is found by the plan (files and a request), or by a tool whose output was recorded (`said/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import REASONS, BuildError
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.pipelines.go.steps import GO
from builder.pipelines.output import cut_root
from builder.pipelines.python.planning import FETCH, LOCKED
from builder.pipelines.rust.steps import CARGO as CARGO_PROGRAM
from builder.plan import Step
from builder.source.tree import DictTree

FOLDER = Path(__file__).resolve().parent
FILE = FOLDER / "mistakes.json"
CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
GO_BUILD = Step(name="compile", argv=(GO, "build"))
GO_DOWNLOAD = Step(name="download modules", argv=(GO, "mod", "download"))
CARGO_FETCH = Step(name="resolve crates", argv=(CARGO_PROGRAM, "fetch"))
CARGO_LOCK = Step(name="check lock", argv=(CARGO_PROGRAM, "fetch", "--locked", "--offline"))
CARGO_CRATES = Step(name="compile crates", argv=(CARGO_PROGRAM, "build"))
CARGO_BUILD = Step(name="compile", argv=(CARGO_PROGRAM, "build"))
CARGO_WASM = Step(name="compile crates", argv=(CARGO_PROGRAM, "build", "--target", "wasm32-wasip2"))
DENO_CHECK = Step(name="check", argv=("deno", "run", "check.ts", "install"))
DENO_FROZEN = Step(name="check", argv=("deno", "run", "check.ts", "install", "frozen"))
DENO_LOCK = Step(name="lock packages", argv=("deno", "install"))
UV = Step(name="install dependencies", argv=("uv", "-r", "requirements.txt"))
UV_LOCKED = Step(name="install dependencies", argv=("uv", f"{FETCH}/{LOCKED}"))
CARGO = '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n'
HANDLER = "def handler(payload, ctx):\n    return payload\n"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A mistake that the plan finds."""

    runtime: str
    files: Mapping[str, str]
    asked: Mapping[str, Any] = field(default_factory=dict)

    def failure(self) -> dict[str, Any]:
        tree = DictTree(dict(self.files))
        request = PlanRequest(runtime=self.runtime, **self.asked)
        try:
            found = pipelines.detect(tree, self.runtime, sub_path=request.build_args.get("sub_path", ""))
            pipelines.plan(found, tree, request, CATALOG)
        except BuildError as error:
            hint = error.next or REASONS[error.reason].hint
            return {"reason": error.reason, "message": error.message, "where": error.where, "said": [], "next": hint}
        raise AssertionError("the plan finds no mistake")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A mistake that a tool found: its step, and the file of `said/` with the lines that it printed."""

    runtime: str
    step: Step
    said: str

    def lines(self) -> list[str]:
        """What the tool printed, as a diagnosis reads it: without the sandbox's root."""
        path = FOLDER / "said" / f"{self.said}.txt"
        return [cut_root(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def failure(self) -> dict[str, Any]:
        found = pipelines.diagnose(self.runtime, self.step, 101 if self.runtime == "rust" else 1, self.lines())
        hint = found.next or REASONS[found.reason].hint
        said = list(found.said)
        return {"reason": found.reason, "message": found.message, "where": found.where, "said": said, "next": hint}


def _go(step: Step, said: str) -> Recorded:
    return Recorded(runtime="go", step=step, said=f"go-{said}")


def _rust(step: Step, said: str) -> Recorded:
    return Recorded(runtime="rust", step=step, said=said if said.startswith("wasm-") else f"rust-{said}")


def _deno(step: Step, said: str) -> Recorded:
    return Recorded(runtime="deno", step=step, said=f"deno-{said}")


def _python(step: Step, said: str) -> Recorded:
    return Recorded(runtime="python", step=step, said=f"uv-{said}")


MISTAKES: Mapping[str, Planned | Recorded] = {
    # Rust
    "rust: Cargo.toml is missing": Planned(runtime="rust", files={"src/main.rs": "fn main() {}\n"}),
    "rust: a value is used after it moved": _rust(CARGO_BUILD, "borrow"),
    "rust: a pinned crate was yanked": _rust(CARGO_FETCH, "yanked"),
    "rust: the lock is stale": _rust(CARGO_LOCK, "stale"),
    "rust: a file of a module is missing": _rust(CARGO_BUILD, "module"),
    "rust: a crate is used and not named": _rust(CARGO_BUILD, "import"),
    "rust: a crate has a typo": _rust(CARGO_FETCH, "unknown"),
    "rust: a version that was never released": _rust(CARGO_FETCH, "version"),
    "rust: a feature that the crate lacks": _rust(CARGO_FETCH, "feature"),
    "rust: fn main is missing": _rust(CARGO_BUILD, "nomain"),
    "rust: an edition that there is not": _rust(CARGO_FETCH, "edition"),
    "rust: a syntax error": _rust(CARGO_BUILD, "syntax"),
    "rust: a crate with C code wants a library": _rust(CARGO_CRATES, "sys"),
    "rust: a crate with sockets in a component": _rust(CARGO_WASM, "wasm-socket2"),
    "rust: neither a handler nor a program": Planned(
        runtime="rust", files={"Cargo.toml": CARGO, "src/lib.rs": "pub fn one() {}\n"}
    ),
    "rust: several members with a program": Planned(
        runtime="rust",
        files={
            "Cargo.toml": '[workspace]\nmembers = ["a", "b"]\n',
            **{f"{name}/Cargo.toml": CARGO.replace("app", name) for name in ("a", "b")},
            **{f"{name}/src/main.rs": "fn main() {}\n" for name in ("a", "b")},
        },
    ),
    "rust: a toolchain that the catalog lacks": Planned(
        runtime="rust",
        files={
            "Cargo.toml": CARGO,
            "src/main.rs": "fn main() {}\n",
            "rust-toolchain.toml": '[toolchain]\nchannel = "nightly"\n',
        },
    ),
    "rust: a dependency from git": Planned(
        runtime="rust",
        files={
            "Cargo.toml": CARGO + '[dependencies]\nx = { git = "https://git.example/x" }\n',
            "src/main.rs": "fn main() {}\n",
        },
    ),
    "rust: a program of its own as a component": Planned(
        runtime="rust", files={"Cargo.toml": CARGO, "src/main.rs": "fn main() {}\n"}, asked={"target": "wasm"}
    ),
    # Deno
    "deno: a type error": _deno(DENO_CHECK, "type"),
    "deno: a syntax error": _deno(DENO_CHECK, "syntax"),
    "deno: a module path with a typo": _deno(DENO_CHECK, "module"),
    "deno: a bare import that nothing maps": _deno(DENO_CHECK, "bare"),
    "deno: a package that nobody made": _deno(DENO_LOCK, "nopackage"),
    "deno: a version that was never released": _deno(DENO_LOCK, "noversion"),
    "deno: the lock is stale": _deno(DENO_FROZEN, "stale"),
    "deno: an import from a web page": Planned(
        runtime="deno", files={"main.ts": 'import x from "https://code.example/x.ts";\nx();\n'}
    ),
    "deno: a version that the catalog lacks": Planned(
        runtime="deno", files={"main.ts": "Deno.serve(() => new Response());\n", ".deno-version": "1.46\n"}
    ),
    "deno: deno.json is no JSON": Planned(
        runtime="deno", files={"main.ts": "Deno.serve(() => new Response());\n", "deno.json": '{"imports": {\n'}
    ),
    # Go
    "go: a module path with a typo": _go(GO_DOWNLOAD, "norepo"),
    "go: a version that was never released": _go(GO_DOWNLOAD, "noversion"),
    "go: go.sum lacks a module": _go(GO_BUILD, "nosum"),
    "go: go.sum has another sum": _go(GO_DOWNLOAD, "badsum"),
    "go: go.mod cannot be read": _go(GO_DOWNLOAD, "badmod"),
    "go: vendor/ does not fit go.mod": _go(GO_BUILD, "vendor"),
    "go: a package is imported and not required": _go(GO_BUILD, "nopackage"),
    "go: a variable is not used": _go(GO_BUILD, "compile"),
    "go: a syntax error": _go(GO_BUILD, "syntax"),
    "go: packages import each other": _go(GO_BUILD, "cycle"),
    "go: cgo in a dependency": _go(GO_BUILD, "cgo"),
    "go: a newer Go is needed": _go(GO_BUILD, "newer"),
    "go: package main is missing": Planned(
        runtime="go", files={"go.mod": "module x\n\ngo 1.26\n", "lib.go": "package lib\n"}
    ),
    "go: an embedded file is missing": Planned(
        runtime="go",
        files={
            "go.mod": "module x\n\ngo 1.26\n",
            "main.go": 'package main\n\nimport _ "embed"\n\n//go:embed page.html\nvar page string\n\nfunc main() {}\n',
        },
    ),
    "go: the target wasm": Planned(
        runtime="go",
        files={"go.mod": "module x\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"},
        asked={"target": "wasm"},
    ),
    # Python
    "python: wheels for a newer glibc": _python(UV, "glibc"),
    "python: wheels for another Python": _python(UV, "otherpy"),
    "python: wheels for musl": _python(UV, "musl"),
    "python: a package that nobody made": _python(UV, "missing"),
    "python: a version that was never released": _python(UV, "missing-version"),
    "python: requirements that exclude each other": _python(UV, "conflict"),
    "python: a requirement that cannot be read": _python(UV, "parse"),
    "python: one requirement lacks its hash": _python(UV, "nohash"),
    "python: a file is not the one that is pinned": _python(UV_LOCKED, "hash"),
    "python: uv.lock is stale": Planned(
        runtime="python",
        files={
            "handler.py": HANDLER,
            "pyproject.toml": '[project]\nname = "app"\nversion = "1"\ndependencies = ["idna", "six"]\n',
            "uv.lock": 'version = 1\nrequires-python = ">=3.11"\n\n[[package]]\nname = "app"\nversion = "1"\n'
            'source = { virtual = "." }\ndependencies = [{ name = "idna" }]\n\n[package.metadata]\n'
            'requires-dist = [{ name = "idna" }]\n\n[[package]]\nname = "idna"\nversion = "3.10"\n'
            'source = { registry = "https://pypi.org/simple" }\n',
        },
    ),
    "python: a file that -r names is missing": Planned(
        runtime="python", files={"handler.py": HANDLER, "requirements.txt": "-r base.txt\n"}
    ),
    "python: a Python that the catalog lacks": Planned(
        runtime="python", files={"handler.py": HANDLER, ".python-version": "3.8\n"}
    ),
    "python: a build argument with a typo": Planned(
        runtime="python", files={"handler.py": HANDLER}, asked={"build_args": {"entyr": "app.py"}}
    ),
}


def text() -> str:
    """What a person gets to read of each mistake, as it is stored."""
    return json.dumps({name: mistake.failure() for name, mistake in MISTAKES.items()}, indent=2) + "\n"
