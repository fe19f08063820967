"""Plans of Go sources: modules, single files, vendoring, the SDK, versions, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, go
from builder.pipelines.base import PlanRequest
from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.modules import read_mod
from builder.pipelines.go.source import is_built, read_head
from builder.plan import Network, Plan
from builder.source.tree import DictTree
from tests.go_file_names import BY_NAME

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
TAGS = tags_of("1.26")
MAIN = "package main\n\nfunc main() {}\n"
SDK_MAIN = 'package main\n\nimport "ignite"\n\nfunc main() { ignite.Start(nil) }\n'
UUID_MAIN = 'package main\n\nimport "github.com/google/uuid"\n\nfunc main() { println(uuid.NewString()) }\n'
MOD = "module example.com/app\n\ngo 1.24\n"
REQUIRE = MOD + "\nrequire github.com/google/uuid v1.6.0\n"


def planned(files: dict[str, str], **request: str) -> Plan:
    tree = DictTree(files)
    found = go.detect(tree)
    assert found
    return go.plan(tree, found, PlanRequest(**request), CATALOG)  # type: ignore[arg-type]


def refused(files: dict[str, str], **request: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files, **request)
    return caught.value


def choice(plan: Plan, name: str) -> tuple[str, str]:
    (found,) = [one for one in plan.choices if one.name == name]
    return found.value, found.why


@pytest.mark.parametrize("files", [{"README.md": ""}, {"pkg/main.go": MAIN}, {"main_test.go": MAIN}])
def test_what_has_no_go_at_the_root_is_not_go(files: dict[str, str]) -> None:
    assert go.detect(DictTree(files)) is None


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"go.mod": MOD}, "go.mod is at the root"),
        ({"main.go": MAIN, "a.go": MAIN}, "main.go is at the root"),
        ({"server.go": MAIN}, "server.go is at the root"),
    ],
)
def test_detection_says_why(files: dict[str, str], why: str) -> None:
    found = go.detect(DictTree(files))
    assert found and found.because == why


def test_the_compile_step_is_the_reproducible_one() -> None:
    made = planned({"go.mod": MOD, "main.go": MAIN})
    (step,) = made.steps
    assert step.argv == (
        go.GO, "build", "-trimpath", "-mod=readonly", "-ldflags=-s -w -buildid=", "-o", "/work/out/app", ".",
    )  # fmt: skip
    assert step.network is Network.NONE
    assert dict(step.env)["CGO_ENABLED"] == "0" and dict(step.env)["GOTOOLCHAIN"] == "local"
    assert made.files == ()


def test_a_single_file_gets_a_module() -> None:
    made = planned({"main.go": MAIN})
    assert [(file.path, file.content) for file in made.files] == [("go.mod", "module app\n\ngo 1.26\n")]
    assert [step.name for step in made.steps] == ["compile"]


def test_a_single_file_with_foreign_imports_is_resolved_with_a_warning() -> None:
    made = planned({"main.go": UUID_MAIN})
    assert [(step.name, step.argv[1:], step.network) for step in made.steps[:1]] == [
        ("resolve modules", ("mod", "tidy"), Network.INDEX)
    ]
    assert any("go.sum is absent: took the newest modules" in warning for warning in made.warnings)


def test_a_module_with_go_sum_is_downloaded() -> None:
    made = planned({"go.mod": REQUIRE, "go.sum": "…", "main.go": UUID_MAIN})
    assert [step.argv[1:3] for step in made.steps] == [("mod", "download"), ("build", "-trimpath")]
    assert not any("go.sum" in warning for warning in made.warnings)


def test_a_module_without_go_sum_is_tidied_with_a_warning() -> None:
    made = planned({"go.mod": REQUIRE, "main.go": UUID_MAIN})
    assert made.steps[0].argv[1:] == ("mod", "tidy")
    assert any("go.sum is absent: took the versions of go.mod" in warning for warning in made.warnings)


def test_a_vendored_module_needs_no_network() -> None:
    files = {"go.mod": REQUIRE, "main.go": UUID_MAIN, "vendor/modules.txt": "# github.com/google/uuid v1.6.0\n"}
    made = planned(files)
    assert all(step.network is Network.NONE for step in made.steps)
    assert "-mod=vendor" in made.steps[0].argv and made.files == ()


def test_modules_of_the_source_itself_need_no_network() -> None:
    module = MOD + "\nrequire example.com/dep v0.0.0\n\nreplace example.com/dep => ./dep\n"
    main = 'package main\n\nimport "example.com/dep"\n\nfunc main() { dep.X() }\n'
    made = planned({"go.mod": module, "main.go": main, "dep/go.mod": "module example.com/dep\n", "dep/d.go": ""})
    assert [step.name for step in made.steps] == ["compile"]


def test_the_sdk_is_added_to_go_mod_once() -> None:
    (file,) = planned({"go.mod": MOD, "main.go": SDK_MAIN}).files
    assert file.content == MOD + "\nrequire ignite v0.0.0\n\nreplace ignite => /opt/ignite/sdk/go\n"
    required = MOD + "\nrequire (\n\tignite v0.1.0 // the platform's\n)\n"
    (file,) = planned({"go.mod": required, "main.go": SDK_MAIN}).files
    assert file.content == required + "\nreplace ignite => /opt/ignite/sdk/go\n"
    own = MOD + "\nrequire ignite v0.0.0\n\nreplace ignite => ./mine\n"
    assert planned({"go.mod": own, "main.go": SDK_MAIN, "mine/go.mod": "module ignite\n"}).files == ()


def test_the_sdk_is_found_in_a_package_below() -> None:
    files = {
        "go.mod": MOD,
        "main.go": 'package main\nimport _ "example.com/app/web"\n',
        "web/w.go": 'package web\nimport "ignite"\n',
    }
    assert [file.path for file in planned(files).files] == ["go.mod"]


def test_a_module_named_ignite_is_its_own() -> None:
    files = {
        "go.mod": "module ignite\n\ngo 1.24\n",
        "main.go": 'package main\nimport _ "ignite/web"\n',
        "web/w.go": "package web\n",
    }
    assert planned(files).files == ()


def test_a_vendored_module_gets_the_sdk_by_an_overlay() -> None:
    made = planned({"go.mod": MOD, "main.go": SDK_MAIN, "vendor/modules.txt": "# example.com/dep v1.0.0\n"})
    files = {file.path: file.content for file in made.files}
    assert files["vendor/modules.txt"].startswith("# example.com/dep v1.0.0\n# ignite v0.0.0 => /opt/ignite/sdk/go\n")
    assert json.loads(files[go.OVERLAY]) == {
        "Replace": {"/work/src/vendor/ignite/ignite.go": "/opt/ignite/sdk/go/ignite.go"}
    }
    assert made.steps[0].argv[4:6] == ("-overlay", go.OVERLAY)


def test_the_overlay_names_every_file_of_the_sdk() -> None:
    there = [path.name for path in Path(runtimes_dir(), "go", "sdk").glob("*.go") if not path.name.endswith("_test.go")]
    assert tuple(sorted(there)) == go.SDK_FILES


@pytest.mark.parametrize(
    ("line", "version", "why"),
    [
        ("go 1.24", "1.26", "go.mod:3 asks for 1.24 or newer; the catalog has it"),
        ("go 1.26.3", "1.26", "go.mod:3 asks for 1.26 or newer; the catalog has it"),
        ("go\t1.18", "1.26", "go.mod:3 asks for 1.18 or newer; the catalog has it"),
        ("go 1.20\n\ntoolchain go1.25.1", "1.26", "go.mod:5 asks for 1.25 or newer; the catalog has it"),
        ("", "1.26", "the catalog's default"),
    ],
)
def test_go_mod_decides_the_version(line: str, version: str, why: str) -> None:
    made = planned({"go.mod": f"module x\n\n{line}\n", "main.go": MAIN})
    assert choice(made, "version") == (version, why)
    assert made.toolchain.name == f"go-{version}"


def test_the_request_is_stronger_than_go_mod() -> None:
    made = planned({"go.mod": MOD, "main.go": MAIN}, version="1.24")
    assert choice(made, "version") == ("1.24", "asked for")


def test_a_version_nobody_has_is_told_with_its_line() -> None:
    error = refused({"go.mod": "module x\n\ngo 1.24\n\ntoolchain go1.99.1\n", "main.go": MAIN})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "go.mod:5")
    assert "1.99.1" in error.message and "1.24, 1.26" in error.message


def test_wasm_is_no_target_of_go_yet() -> None:
    assert refused({"main.go": MAIN}, target="wasm").reason == "UnsupportedTarget"


def test_package_main_in_the_only_folder_that_has_one() -> None:
    made = planned({"go.mod": MOD, "lib.go": "package app\n", "cmd/server/main.go": MAIN, "cmd/server/m_test.go": MAIN})
    assert made.steps[0].argv[-1] == "./cmd/server"
    assert choice(made, "entry") == ("package main in ./cmd/server", "cmd/server/main.go:1, the only one")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"go.mod": MOD}, "there is no Go file at the root"),
        ({"go.mod": MOD, "lib.go": "package lib\n"}, "the root's package is lib"),
        ({"go.mod": MOD, "lib.go": "package lib\n", "gen.go": "//go:build ignore\n\n" + MAIN}, "package is lib"),
        ({"go.mod": MOD, "a/main.go": MAIN, "b/main.go": MAIN}, "in several folders: a, b"),
        ({"go.mod": MOD, "testdata/main.go": MAIN, "vendor/x/main.go": MAIN}, "there is no Go file"),
        ({"go.mod": MOD, "sub/go.mod": MOD, "sub/main.go": MAIN}, "there is no Go file"),
    ],
)  # fmt: skip
def test_no_package_main_says_what_there_is(files: dict[str, str], words: str) -> None:
    error = refused(files)
    assert error.reason == "EntryPointMissing" and words in error.message


def test_cgo_is_refused_where_it_would_be_built() -> None:
    low = 'package low\n\n// #include <math.h>\nimport "C"\n'
    main = 'package main\n\nimport _ "example.com/app/low"\n\nfunc main() {}\n'
    error = refused({"go.mod": MOD, "main.go": main, "low/low.go": low})
    assert (error.reason, error.where) == ("CgoRefused", "low/low.go:4")


@pytest.mark.parametrize(
    "files",
    [
        {"main.go": MAIN, "low/low.go": 'package low\n\nimport "C"\n'},
        {"main.go": MAIN, "fast.go": '//go:build cgo\n\npackage main\n\nimport "C"\n'},
        {"main.go": MAIN, "fast_windows.go": 'package main\n\nimport "C"\n'},
        {"main.go": 'package main\n\n// import "C"\n\nvar text = `\nimport "C"\n`\n\nfunc main() {}\n'},
    ],
    ids=["not imported", "asks for cgo", "elsewhere", "in a comment"],
)
def test_cgo_that_is_not_built_does_no_harm(files: dict[str, str]) -> None:
    assert planned({"go.mod": MOD, **files}).steps


def test_a_replacement_outside_of_the_source_is_refused() -> None:
    error = refused({"go.mod": REQUIRE + "\nreplace github.com/google/uuid => ../uuid\n", "main.go": UUID_MAIN})
    assert (error.reason, error.where) == ("ManifestInvalid", "go.mod:7")


def test_large_generated_files_are_read() -> None:
    files = {"go.mod": MOD, "main.go": MAIN, "data.go": "package main\n\nvar data = `" + "x" * 2_000_000 + "`\n"}
    assert planned(files).steps


@pytest.mark.parametrize(
    ("text", "package", "imports"),
    [
        ('package a\nimport "x"\n', "a", ["x"]),
        ('package a; import "x"; import y "z"\n', "a", ["x", "z"]),
        ('// package no\n/* package no */ package a\nimport (\n\t. "x"\n\t_ "y" // "no"\n)\n', "a", ["x", "y"]),
        ("package a\nimport (\n\n\tq `z`\n)\n", "a", ["z"]),
        ('package a\nimport ("x"; y "z")\nimport "w"\n', "a", ["x", "z", "w"]),
        ('package a\n\nvar v = []string{\n\t"no",\n}\nimport "no"\n', "a", []),
        ('\ufeff//go:build linux\n\npackage main\n\nimport()\n\nfunc main() { println("no") }\n', "main", []),
        ("", "", []),
        ("no go at all", "", []),
    ],
)  # fmt: skip
def test_heads_of_go_files(text: str, package: str, imports: list[str]) -> None:
    found = read_head("a.go", text)
    assert (found.package, [name for name, _ in found.imports]) == (package, imports)


@pytest.mark.parametrize(
    ("path", "constraint", "expected"),
    [
        ("a.go", "", True),
        ("a.go", "ignore", False),
        ("a.go", "linux && amd64", True),
        ("a.go", "linux && !amd64", False),
        ("a.go", "!windows", True),
        ("a.go", "(darwin || unix) && go1.21", True),
        ("a.go", "cgo", False),
        ("a.go", "!cgo", True),
        ("a.go", "!(linux || darwin)", False),
        ("a_linux.go", "", True),
        ("a_linux_amd64.go", "", True),
        ("a_windows.go", "", False),
        ("a_linux_arm64.go", "", False),
        ("windows.go", "", True),
    ],
)
def test_build_constraints(path: str, constraint: str, expected: bool) -> None:
    head = f"//go:build {constraint}\n\n" if constraint else ""
    assert is_built(read_head(path, head + "package a\n"), TAGS) is expected


@pytest.mark.parametrize("name", BY_NAME, ids=str)
def test_the_name_of_a_file_says_where_it_is_built(name: str) -> None:
    assert is_built(read_head(name, "package a\n"), TAGS) is BY_NAME[name]


def test_a_main_package_whose_file_name_only_looks_constrained_is_built() -> None:
    made = planned({"go.mod": MOD, "serve_js_app.go": MAIN})
    assert made.steps[0].argv[-1] == "."


def test_a_comment_that_does_not_end_hides_the_rest() -> None:
    found = read_head("a.go", 'package a\nimport (\n"x"\n/* "y"\n')
    assert found.imports == (("x", 3),)


def test_imports_stand_at_their_lines() -> None:
    found = read_head("a.go", '\ufeff/* a\n b */\npackage a\n\nimport (\n\t"x"\n\n\t"y"\n)\nimport "z"\n')
    assert (found.line, found.imports) == (3, (("x", 6), ("y", 8), ("z", 10)))


def test_go_mod_is_read() -> None:
    mod = read_mod(
        "module example.com/app // mine\n\ngo 1.24.1\ntoolchain go1.26.0\n\n"
        "require example.com/a v1.0.0\nrequire (\n\texample.com/b v2.0.0 // indirect\n\n\texample.com/c v3.0.0\n)\n"
        "replace (\n\texample.com/b => ./b\n\texample.com/c v3.0.0 => example.com/d v1.0.0\n)\n"
        'exclude example.com/e v1.0.0\nrequire "example.com/f" v0.1.0\n'
    )
    assert (mod.module, mod.go, mod.toolchain) == ("example.com/app", ("1.24.1", 3), ("go1.26.0", 4))
    assert dict(mod.requires) == {
        "example.com/a": ("v1.0.0", 6),
        "example.com/b": ("v2.0.0", 8),
        "example.com/c": ("v3.0.0", 10),
        "example.com/f": ("v0.1.0", 17),
    }
    assert dict(mod.replaces) == {"example.com/b": ("./b", 13), "example.com/c": ("example.com/d", 14)}
