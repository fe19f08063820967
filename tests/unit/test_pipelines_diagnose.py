"""Diagnoses of what the real tools said: go 1.26, uv 0.13 and deno 2.7, recorded in tests/golden/said/."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import REASONS, ErrorClass
from builder.pipelines import deno, go, python
from builder.pipelines.base import Pipeline
from builder.pipelines.go.steps import GO
from builder.pipelines.python.planning import FETCH, LOCKED
from builder.plan import Diagnosis, Step

SAID = Path(__file__).resolve().parents[1] / "golden" / "said"
COMPILE = Step(name="compile", argv=(GO, "build"))
DOWNLOAD = Step(name="download modules", argv=(GO, "mod", "download"))
CHECK = Step(name="check", argv=("deno", "run", "check.ts", "install"))
FROZEN = Step(name="check", argv=("deno", "run", "check.ts", "install", "frozen"))
DENO_DOWNLOAD = Step(name="download packages", argv=("deno", "run"))
LOCKS = Step(name="lock packages", argv=("deno", "install"))
INSTALL = Step(name="install dependencies", argv=("uv", "-r", "requirements.txt"))
FROM_LOCK = Step(name="install dependencies", argv=("uv", f"{FETCH}/{LOCKED}"))

# recording → (step, reason, where, what the message says, the first line kept)
EXPECTED: dict[str, tuple[Step, str, str, str, str]] = {
    "deno-bare": (
        CHECK,
        "DependencyNotFound",
        "main.ts:1:19",
        "zod is imported, but neither",
        "TS2307 [ERROR]: Import",
    ),
    "deno-bare-2.0": (CHECK, "DependencyNotFound", "main.ts:1:19", "zod is imported, but neither", "error: Relative"),
    "deno-module": (CHECK, "DependencyNotFound", "main.ts:1:23", "greet.ts is imported, but nothing", "TS2307 [ERROR]"),
    "deno-module-2.0": (CHECK, "DependencyNotFound", "main.ts:1:23", "greet.ts is imported", "error: Module not found"),
    "deno-nopackage": (
        LOCKS,
        "DependencyNotFound",
        "npm:a-package-that-nobody-made",
        "the npm registry has no package a-package-that-nobody-made",
        "error: npm package 'a-package",
    ),
    "deno-noversion": (
        LOCKS,
        "DependencyNotFound",
        "npm:ms@99",
        "no version of ms matches 99",
        "error: Could not find",
    ),
    "deno-stale": (FROZEN, "LockOutdated", "main.ts:2:19", "zod is imported, but deno.lock", "error: Failed loading"),
    "deno-syntax": (CHECK, "CompileFailed", "main.ts:2:13", "Expression expected", "error: The module's source code"),
    "deno-syntax-2.9": (CHECK, "CompileFailed", "main.ts:2:13", "Expression expected", "error: SyntaxError"),
    "deno-type": (CHECK, "CompileFailed", "main.ts:3:7  (first of 2)", "TS2322 Type 'string'", "TS2322 [ERROR]: Type"),
    "go-503": (DOWNLOAD, "PackageIndexUnavailable", "", "503 Service Unavailable", "go: github.com/google/uuid@v1.6.0"),
    "go-arguments": (COMPILE, "CompileFailed", "main.go:8:24", "go build exited 1", "./main.go:8:24: too many"),
    "go-assembly": (COMPILE, "CompileFailed", "f.s:1", "go build exited 1", "./f.s:1: unrecognized"),
    "go-badmod": (DOWNLOAD, "ManifestInvalid", "go.mod:4", "unknown directive: foo", "go.mod:4: unknown"),
    "go-badmod-build": (COMPILE, "ManifestInvalid", "go.mod:4", "unknown directive: foo", "go.mod:4: unknown"),
    "go-badsum": (DOWNLOAD, "LockOutdated", "go.sum", "checksum mismatch", "verifying github.com/google/uuid"),
    "go-badversion": (DOWNLOAD, "ManifestInvalid", "go.mod:4", "should be v0 or v1, not v9", "go.mod:4: require"),
    "go-cgo": (
        COMPILE,
        "CgoRefused",
        "main.go:9",
        'github.com/mattn/go-pointer v0.0.1 imports "C" in pointer.go',
        "./main.go:9:35: undefined: pointer.Save",
    ),
    "go-cgo-excluded": (
        COMPILE,
        "CgoRefused",
        "go.mod  example.com/c",
        'imports "C" in c.go',
        "\timports example.com/c",
    ),
    "go-compile": (COMPILE, "CompileFailed", "main.go:6:2  (first of 2)", "go build exited 1", "./main.go:6:2: decl"),
    "go-cycle": (COMPILE, "CompileFailed", "x/x.go:2:8", "go build exited 1", 'x/x.go:2:8: import "app"'),
    "go-embed": (COMPILE, "CompileFailed", "main.go:10:12", "htmx.js is embedded, but nothing", "main.go:10:12: patt"),
    "go-excluded": (COMPILE, "CompileFailed", "", "go build exited 1", "\timports app/sub: build constraints"),
    "go-import-cycle": (COMPILE, "CompileFailed", "", "packages import each other", "package app"),
    "go-internal": (
        COMPILE,
        "CompileFailed",
        "main.go:2:8",
        "use of internal package net/http/int",
        "main.go:2:8: use",
    ),
    "go-internal-below": (COMPILE, "CompileFailed", "c/c.go:2:8", "package app/a/internal/b not", "c/c.go:2:8: use of"),
    "go-library": (COMPILE, "EntryPointMissing", "", "is no package main", "-buildmode=exe requires"),
    "go-newer": (COMPILE, "UnknownRuntimeVersion", "go.mod", "go.mod needs go 1.99", "go: go.mod requires"),
    "go-newer-dependency": (DOWNLOAD, "UnknownRuntimeVersion", "go.mod", "./dep needs go 1.99", "go: example.com/dep"),
    "go-nomain": (COMPILE, "EntryPointMissing", "", "no func main", "runtime.main_main"),
    "go-nopackage": (COMPILE, "DependencyNotFound", "main.go:3:8", "github.com/google/uuid is", "main.go:3:8: cannot"),
    "go-norepo": (
        DOWNLOAD,
        "DependencyNotFound",
        "go.mod  github.com/nope-nope-x/nope@v1.0.0",
        "github.com/nope-nope-x/nope@v1.0.0 is not to be had",
        "go: github.com/nope-nope-x/nope@v1.0.0: reading",
    ),
    "go-nosum": (COMPILE, "LockOutdated", "go.sum", "missing go.sum entry", "main.go:3:8: missing go.sum entry"),
    "go-notstd": (COMPILE, "DependencyNotFound", "main.go:3:8", "foo/bar is imported", "main.go:3:8: package foo/bar"),
    "go-noversion": (
        DOWNLOAD,
        "DependencyNotFound",
        "go.mod  github.com/google/uuid@v1.99.0",
        "github.com/google/uuid@v1.99.0",
        "go: github.com/google/uuid@v1.99.0: reading",
    ),
    "go-only-tests": (COMPILE, "CompileFailed", "", "go build exited 1", "app/a: no non-test Go files in a"),
    "go-proxy503": (DOWNLOAD, "PackageIndexUnavailable", "", "Service Unavailable", "go: github.com/google/uuid"),
    "go-refused": (DOWNLOAD, "PackageIndexUnavailable", "", "connection refused", "go: github.com/google/uuid"),
    "go-subpackage": (COMPILE, "CompileFailed", "sub/s.go:3:23", "go build exited 1", "sub/s.go:3:23: cannot use"),
    "go-syntax": (COMPILE, "CompileFailed", "main.go:4:5", "go build exited 1", "./main.go:4:5: syntax error"),
    "go-tidy-nohost": (DOWNLOAD, "DependencyNotFound", "", "example.invalid/nope is not", "\texample.invalid/nope:"),
    "go-tidy-norepo": (
        DOWNLOAD,
        "DependencyNotFound",
        "",
        "github.com/nope-nope-x/nope is",
        "\tgithub.com/nope-nope-x",
    ),
    "go-twopackages": (COMPILE, "CompileFailed", "", "go build exited 1", "found packages lib (lib.go) and main"),
    "go-vendor": (COMPILE, "LockOutdated", "vendor/modules.txt", "vendor/ does not fit", "go: inconsistent vendoring"),
    "go-vendor-lacks": (
        COMPILE,
        "LockOutdated",
        "requester/requester.go:30:2",
        "golang.org/x/net/http2 is imported, but vendor/ lacks it",
        "requester/requester.go:30:2: cannot find",
    ),
    "uv-503": (INSTALL, "PackageIndexUnavailable", "", "503 Service Unavailable", "error: Failed to fetch"),
    "uv-abi": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  tensorflow==2.3.0",
        "there are some for cp35m, cp36m, cp37m, cp38, this Python is cp311",
        "error: No solution",
    ),
    "uv-conflict": (INSTALL, "DependencyConflict", "requirements.txt", "exclude each other", "error: No solution"),
    "uv-hash": (FROM_LOCK, "LockOutdated", "uv.lock", "requests==2.32.3 is not the one", "error: Failed to download"),
    "uv-missing": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  numpyy-nope-x==1.2",
        "no index has numpyy-nope-x",
        "error: No solution",
    ),
    "uv-missing-version": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  requests==99.1",
        "no index has requests==99.1",
        "error: No solution",
    ),
    "uv-glibc": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  newglibc==1.0",
        "manylinux_2_90_x86_64 wants glibc 2.90 or newer, the base has 2.36",
        "error: No solution",
    ),
    "uv-otherpy": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  otherpy==1.0",
        "there are some for cp313, this Python is cp311",
        "error: No solution",
    ),
    "uv-musl": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  musl==1.0",
        "there are some for musllinux_1_2_x86_64, the base is manylinux_2_36_x86_64",
        "error: No solution",
    ),
    "uv-nohash": (INSTALL, "LockOutdated", "requirements.txt", "pins by hash", "error: In `--require-hashes`"),
    "uv-nowheel": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  numpy==1.0.0",
        "no index has numpy==1.0.0",
        "error: No solution",
    ),
    "uv-untrusted": (
        INSTALL,
        "PackageIndexUnavailable",
        "",
        "is not trusted here",
        "  cause: invalid peer certificate",
    ),
    "go-untrusted": (DOWNLOAD, "PackageIndexUnavailable", "", "is not trusted here", "go: github.com/google/uuid"),
    "deno-untrusted": (DENO_DOWNLOAD, "PackageIndexUnavailable", "", "is not trusted here", "error: error sending"),
    "uv-parse": (INSTALL, "ManifestInvalid", "requirements.txt", "cannot be read", "error: Couldn't parse"),
    "uv-proxy503": (INSTALL, "PackageIndexUnavailable", "", "error sending request", "error: Failed to fetch"),
    "uv-refused": (INSTALL, "PackageIndexUnavailable", "", "error sending request", "error: Request failed"),
    "uv-sdist": (
        INSTALL,
        "DependencyNotFound",
        "requirements.txt  pyspark==3.5.0",
        "only wheels",
        "error: No solution",
    ),
}


def diagnose(name: str, step: Step) -> Diagnosis:
    lines = (SAID / f"{name}.txt").read_text().splitlines()
    known: dict[str, Pipeline] = {"deno": deno, "go": go, "uv": python}
    return known[name.partition("-")[0]].diagnose(step, 1, lines)


def test_every_recording_is_judged() -> None:
    """Those of cargo have tests beside the pipeline that reads them."""
    judged = [path.stem for path in SAID.iterdir() if not path.stem.startswith(("rust-", "wasm-"))]
    assert sorted(judged) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_tool_said_is_understood(name: str) -> None:
    step, reason, where, message, first = EXPECTED[name]
    found = diagnose(name, step)
    assert (found.reason, found.where) == (reason, where)
    assert message in found.message
    assert found.said[0].startswith(first)
    assert 1 <= len(found.said) <= 6
    assert found.next and reason in REASONS
    assert "/work/src" not in " ".join((found.message, found.where, found.next, *found.said))


@pytest.mark.parametrize("name", ["deno-untrusted", "go-untrusted", "uv-untrusted"])
def test_an_index_that_is_not_trusted_is_the_operators(name: str) -> None:
    found = diagnose(name, EXPECTED[name][0])
    assert REASONS[found.reason].error_class is ErrorClass.PLATFORM and "ca_bundle" in found.next


def test_a_module_named_like_trouble_is_still_just_missing() -> None:
    lines = [
        "error: No solution found when resolving dependencies",
        "  cause: Because async-timeout==4.0.3 depends on x and you require y, "
        "we can conclude that your requirements are unsatisfiable.",
    ]
    assert python.diagnose(INSTALL, 1, lines).reason == "DependencyConflict"


def test_a_compiler_that_mentions_a_refused_connection_is_not_the_index() -> None:
    line = './main.go:3:9: undefined: "connection refused"'
    assert go.diagnose(COMPILE, 1, [line]).reason == "CompileFailed"


def test_the_check_of_a_handler_is_taken_as_it_is() -> None:
    line = (
        '{"reason": "EntryPointMissing", "message": "handler.py defines main, but no handler", '
        '"where": "handler.py", "said": [], "next": "Rename one."}'
    )
    found = python.diagnose(Step(name="compile", argv=("python",)), 1, ["noise", line])
    assert (found.reason, found.where, found.next) == ("EntryPointMissing", "handler.py", "Rename one.")


def test_a_handler_cannot_choose_a_reason_of_the_platform() -> None:
    line = '{"reason": "Internal", "message": "retry me"}'
    found = python.diagnose(Step(name="compile", argv=("python",)), 1, [line])
    assert found.reason == "StepFailed"
