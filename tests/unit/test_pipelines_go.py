"""Plans of Go sources: modules, single files, vendoring, the SDK, versions, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, go
from builder.pipelines.base import PlanRequest
from builder.pipelines.go.constraints import tags_of
from builder.pipelines.go.project import read_mod
from builder.pipelines.go.sdk import OVERLAY, SDK_FILES
from builder.pipelines.go.source import is_built, read_head
from builder.pipelines.go.steps import GO
from builder.plan import Network, Plan
from builder.source.tree import DictTree
from tests.go_file_names import BY_NAME
from tests.go_file_shapes import SHAPES

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
TAGS = tags_of("1.26")
MAIN = "package main\n\nfunc main() {}\n"
SDK_MAIN = 'package main\n\nimport "ignite"\n\nfunc main() { ignite.Start(nil) }\n'
UUID_MAIN = 'package main\n\nimport "github.com/google/uuid"\n\nfunc main() { println(uuid.NewString()) }\n'
MOD = "module example.com/app\n\ngo 1.24\n"
REQUIRE = MOD + "\nrequire github.com/google/uuid v1.6.0\n"


def planned(files: dict[str, str], /, version: str = "", target: str = "", **arguments: str) -> Plan:
    tree = DictTree(files)
    found = pipelines.detect(tree, "go", sub_path=arguments.get("sub_path", ""))
    request = PlanRequest(version=version, target=target, build_args=arguments)
    return pipelines.plan(found, tree, request, CATALOG)


def refused(files: dict[str, str], /, **request: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files, **request)
    return caught.value


def target(plan: Plan) -> str:
    """The package of the compile step, and the folder below the source where `go` runs, if not its root."""
    step = plan.steps[-1]
    folder = step.cwd.removeprefix("/work/src").removeprefix("/")
    return f"{folder}: {step.argv[-1]}" if folder else step.argv[-1]


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
        GO, "build", "-trimpath", "-mod=readonly", "-buildmode=exe", "-ldflags=-s -w -buildid=", "-o",
        "/work/out/app", ".",
    )  # fmt: skip
    assert step.network is Network.NONE
    assert dict(step.env)["CGO_ENABLED"] == "0" and dict(step.env)["GOTOOLCHAIN"] == "local"
    assert made.files == ()


def test_a_single_file_gets_a_module() -> None:
    made = planned({"main.go": MAIN})
    assert [(file.path, file.content) for file in made.files] == [("go.mod", "module app\n\ngo 1.26\n")]
    assert [step.name for step in made.steps] == ["compile"]


@pytest.mark.parametrize(
    ("imports", "module"),
    [
        (["myapp/web"], "myapp"),
        (["github.com/me/svc/web", "github.com/me/svc/lib/deep"], "github.com/me/svc"),
        (["fmt", "net/web", "myapp/lib/deep"], "myapp"),
        (["one/web", "two/lib/deep"], "app"),
        (["github.com/other/web"], "app"),
        (["net/http"], "app"),
        (["ignite/web"], "app"),
    ],
)
def test_a_source_without_go_mod_has_the_module_that_its_imports_name(imports: list[str], module: str) -> None:
    listed = "".join(f'import _ "{name}"\n' for name in imports)
    files = {"main.go": f"package main\n\n{listed}\nfunc main() {{}}\n", "web/w.go": "package web\n"}
    made = planned(files | {"lib/deep/d.go": "package deep\n"})
    assert next(file.content for file in made.files if file.path == "go.mod").startswith(f"module {module}\n")
    assert not any("toolchain line" in warning for warning in made.warnings)
    if module != "app":
        assert [step.name for step in made.steps] == ["compile"]


def test_a_single_file_with_foreign_imports_is_resolved_with_a_warning() -> None:
    made = planned({"main.go": UUID_MAIN})
    assert [(step.name, step.argv[1:], step.network) for step in made.steps[:1]] == [
        ("resolve modules", ("mod", "tidy"), Network.INDEX)
    ]
    assert any("go.sum is absent: took the newest modules" in warning for warning in made.warnings)


def test_a_module_with_go_sum_is_downloaded() -> None:
    made = planned({"go.mod": REQUIRE, "go.sum": "…", "main.go": UUID_MAIN})
    assert [step.argv[1:3] for step in made.steps] == [("mod", "download"), ("list", "-deps"), ("build", "-trimpath")]
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
    assert json.loads(files[OVERLAY]) == {
        "Replace": {"/work/src/vendor/ignite/ignite.go": "/opt/ignite/sdk/go/ignite.go"}
    }
    assert made.steps[0].argv[4:6] == ("-overlay", OVERLAY)


def test_the_overlay_names_every_file_of_the_sdk() -> None:
    there = [path.name for path in Path(runtimes_dir(), "go", "sdk").glob("*.go") if not path.name.endswith("_test.go")]
    assert tuple(sorted(there)) == SDK_FILES


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
    error = refused({"go.mod": "module x\n\ngo 1.99.1\n", "main.go": MAIN})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "go.mod:3")
    assert "1.99.1" in error.message and "1.24, 1.25, 1.26, 1.27" in error.message


def test_wasm_is_no_target_of_go_and_the_reason_says_why() -> None:
    error = refused({"main.go": MAIN}, target="wasm")
    assert error.reason == "UnsupportedTarget" and "modules of wasip1" in error.message
    assert error.next == "Build for the target native, or write it in Rust."


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


NEEDS_LIB = 'package main\n\nimport "example.com/lib"\n\nfunc main() { println(lib.N) }\n'
LIB = {"lib/go.mod": "module example.com/lib\n\ngo 1.24\n", "lib/l.go": 'package lib\n\nconst N = "lib"\n'}
API = "module example.com/api\n\ngo 1.24\n"
WORK = "go 1.24\n\nuse (\n\t{}\n)\n"


def workspace(*members: str) -> str:
    return WORK.format("\n\t".join(members))


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_has_one_package_clause_whatever_stands_above_it(name: str) -> None:
    assert read_head(name, SHAPES[name]).package in ("app", "documentation")


@pytest.mark.parametrize(
    "gen",
    ["// +build ignore\n\n", "//go:build go1.99\n\n", "//go:build tools\n\n", "// +build windows darwin\n\n"],
)
def test_a_program_at_the_root_that_no_build_takes_is_not_the_entry(gen: str) -> None:
    files = {"go.mod": MOD, "lib.go": "package app\n", "gen.go": gen + MAIN}
    assert target(planned(files | {"cmd/app/main.go": MAIN})) == "./cmd/app"
    error = refused(files)
    assert (error.reason, error.where) == ("EntryPointMissing", "gen.go:1")
    assert "gen.go is left out of a linux/amd64 build" in error.message and gen.strip() in error.message


def test_a_release_tag_is_judged_by_the_version_that_is_taken() -> None:
    files = {"go.mod": MOD, "main.go": "//go:build go1.26\n\n" + MAIN}
    assert target(planned(files)) == "."
    assert refused(files, version="1.24").reason == "EntryPointMissing"


def test_a_tag_of_the_request_counts_and_reaches_every_step() -> None:
    files = {"go.mod": REQUIRE, "go.sum": "…", "main.go": "//go:build prod\n\n" + UUID_MAIN}
    assert refused(files).reason == "EntryPointMissing"
    made = planned(files, tags="prod, netgo")
    assert ["-tags=prod,netgo" in step.argv for step in made.steps] == [False, True, True]


@pytest.mark.parametrize("tags", ["a b", "-x", "a,$(b)", "cgo"])
def test_a_tag_that_is_none_is_refused(tags: str) -> None:
    error = refused({"main.go": MAIN}, tags=tags)
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.tags")


def test_a_constraint_that_go_refuses_is_shown_with_its_line() -> None:
    error = refused({"go.mod": MOD, "main.go": "// a\n\n//go:build linux &&\n\n" + MAIN})
    assert (error.reason, error.where) == ("CompileFailed", "main.go:3")
    assert "unexpected end of expression" in error.message
    elsewhere = {"go.mod": MOD, "main.go": MAIN, "other/o.go": "//go:build linux &&\n\npackage other\n"}
    assert planned(elsewhere).steps


@pytest.mark.parametrize(
    ("folders", "expected", "why"),
    [
        (["cmd/server", "tools/gen"], "./cmd/server", "the only one outside of tools/"),
        (["cmd/server", "examples/a", "hack/b", "scripts/c"], "./cmd/server", "outside of examples/, hack/, scripts/"),
        (["cmd/server", "gen"], "./cmd/server", "the only one below cmd/"),
        (["cmd/server", "cmd/app"], "./cmd/app", "of the module's name"),
        (["tools/gen"], "./tools/gen", "the only one"),
        (["cmd/server/internal/tools/x", "cmd/server"], "./cmd/server", "the only one outside of tools/"),
    ],
)
def test_one_of_several_programs_is_chosen(folders: list[str], expected: str, why: str) -> None:
    made = planned({"go.mod": MOD, **{f"{folder}/main.go": MAIN for folder in folders}})
    assert made.steps[-1].argv[-1] == expected
    assert why in choice(made, "entry")[1]


def test_the_major_version_is_no_part_of_the_modules_name() -> None:
    files = {"go.mod": "module example.com/app/v2\n\ngo 1.24\n", "cmd/app/a.go": MAIN, "cmd/b/b.go": MAIN}
    assert target(planned(files)) == "./cmd/app"


def test_several_programs_are_listed_with_the_argument_that_chooses() -> None:
    files = {"go.mod": MOD, "a/main.go": MAIN, "b/main.go": MAIN, "tools/c/main.go": MAIN}
    error = refused(files)
    assert (error.reason, error.next) == ("EntryPointMissing", "Name the one to build: --build-arg entry=./a")
    for entry in ("b", "./b", "b/", "b/main.go", "example.com/app/b"):
        made = planned(files, entry=entry)
        assert (target(made), choice(made, "entry")[1]) == ("./b", "build argument entry, b/main.go:1")
    assert target(planned(files, entry="tools/c")) == "./tools/c"
    assert target(planned(files | {"_examples/x/main.go": MAIN}, entry="_examples/x")) == "./_examples/x"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("c", "there is no package c in what was sent; package main is in a"),
        ("lib", "the package lib is lib, no main"),
        ("gen", "is left out of a linux/amd64 build (//go:build ignore), no main"),
        ("../x", "there is no package ../x"),
        ("sub", "belongs to a module that is not built here"),
    ],
)
def test_an_entry_that_is_no_program_is_refused(entry: str, words: str) -> None:
    files = {"go.mod": MOD, "a/main.go": MAIN, "lib/l.go": "package lib\n"}
    files |= {"gen/g.go": "//go:build ignore\n\n" + MAIN, "sub/go.mod": "module x\n", "sub/main.go": MAIN}
    error = refused(files, entry=entry)
    assert (error.reason, error.where) == ("EntryPointMissing", "buildArgs.entry")
    assert words in error.message


def test_what_go_mod_ignores_is_no_candidate() -> None:
    ignore = "\nignore ./node_modules\nignore (\n\tgenerated\n)\n"
    files = {"go.mod": MOD + ignore, "cmd/app/a.go": MAIN, "cmd/generated/x.go": MAIN, "node_modules/x/y.go": MAIN}
    assert choice(planned(files), "entry")[1] == "cmd/app/a.go:1, the only one"


def test_a_tool_of_go_mod_is_not_downloaded() -> None:
    made = planned({"go.mod": MOD + "\ntool golang.org/x/tools/cmd/stringer\n", "main.go": MAIN})
    assert [step.name for step in made.steps] == ["compile"] and target(made) == "."


def test_a_program_of_a_module_below_is_named_with_the_argument_that_builds_it() -> None:
    error = refused({"go.mod": MOD, "lib.go": "package lib\n", "server/go.mod": API, "server/main.go": MAIN})
    assert (error.reason, error.next) == ("EntryPointMissing", "Build that module: --build-arg sub_path=server")


@pytest.mark.parametrize("at", ["api", "."])
def test_a_workspace_is_built_as_go_build_does(at: str) -> None:
    files = {"go.work": workspace(f"./{at}" if at != "." else ".", "./lib"), **LIB}
    files |= {f"{at}/go.mod".removeprefix("./"): API, f"{at}/main.go".removeprefix("./"): NEEDS_LIB}
    made = planned(files)
    assert target(made) == ("./api" if at == "api" else ".")
    assert [step.name for step in made.steps] == ["compile"]
    assert made.files == () and not any("go.sum" in warning for warning in made.warnings)
    assert set(made.materials) >= {"go.work", "go.work.sum", "lib/go.mod", "lib/go.sum"}


def test_a_workspace_downloads_what_any_member_requires() -> None:
    files = {"go.work": workspace("./api", "./lib"), **LIB, "api/main.go": NEEDS_LIB}
    files |= {"api/go.mod": API + "\nrequire example.com/lib v0.0.0\n"}
    assert [step.name for step in planned(files).steps] == ["compile"]
    files |= {"lib/go.mod": LIB["lib/go.mod"] + "\nrequire github.com/google/uuid v1.6.0\n"}
    made = planned(files)
    assert [step.argv[1:3] for step in made.steps[:2]] == [("mod", "download"), ("list", "-deps")]
    assert any("go.sum is absent" in warning for warning in made.warnings)
    assert not any("go.sum" in warning for warning in planned(files | {"lib/go.sum": "…"}).warnings)


def test_a_workspace_gets_the_sdk_as_a_member() -> None:
    files = {"go.work": "go 1.24\nuse ./api", "api/go.mod": API, "api/main.go": SDK_MAIN}
    made = planned(files)
    assert [(file.path, file.content) for file in made.files] == [
        ("go.work", "go 1.24\nuse ./api\n\nuse /opt/ignite/sdk/go\n")
    ]


@pytest.mark.parametrize(
    ("files", "where", "words"),
    [
        ({"go.work": workspace(".", "../sibling")}, "go.work:5", "../sibling is outside of the source"),
        ({"go.work": workspace(".", "./gone")}, "go.work:5", "./gone has no go.mod in what was sent"),
        ({"go.work": "go 1.24\nuse /home/me/lib\n"}, "go.work:2", "/home/me/lib is outside"),
        ({"go.work": "go 1.24\n"}, "go.work", "uses no module"),
        ({"go.work": "go 1.18\nuse .\n"}, "go.work:1", "go.mod requires go 1.24, but go.work lists go 1.18"),
        ({"go.work": "use .\n"}, "go.work", "but go.work implies go 1.18"),
    ],
)
def test_a_workspace_that_go_refuses_is_refused(files: dict[str, str], where: str, words: str) -> None:
    error = refused({"go.mod": API, "main.go": MAIN, **files})
    assert (error.reason, error.where) == ("ManifestInvalid", where)
    assert words in error.message and error.next


def test_the_workspaces_go_line_is_a_need() -> None:
    error = refused({"go.work": "go 1.99\nuse .\n", "go.mod": API, "main.go": MAIN})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "go.work:1")


def test_a_program_that_the_workspace_does_not_use_is_named() -> None:
    files = {"go.work": workspace("./lib"), **LIB, "go.mod": API, "main.go": MAIN}
    error = refused(files)
    assert error.reason == "EntryPointMissing" and "that go.work does not use" in error.message


def test_a_toolchain_line_is_a_wish() -> None:
    made = planned({"go.mod": MOD + "\ntoolchain go1.99.1\n", "main.go": MAIN})
    assert choice(made, "version") == ("1.26", "go.mod:3 asks for 1.24 or newer; the catalog has it")
    assert "go.mod:5 wishes toolchain 1.99.1: took go 1.26; the catalog has none" in made.warnings
    assert not any("no toolchain line" in warning for warning in made.warnings)


def test_a_wish_beyond_the_default_is_no_reason_to_need_what_a_node_may_lack() -> None:
    files = {"go.mod": MOD + "\ntoolchain go1.27.1\n", "main.go": MAIN}
    made = planned(files)
    assert choice(made, "version")[0] == "1.26"
    assert "go.mod:5 wishes toolchain 1.27.1: took go 1.26; ask for it: --runtime-version 1.27" in made.warnings
    assert choice(planned({"go.mod": "module x\n\ngo 1.27\n", "main.go": MAIN}), "version")[0] == "1.27"
    assert choice(planned(files, version="1.27"), "version") == ("1.27", "asked for")


def test_a_replacement_beside_the_module_is_built_with_a_sub_path() -> None:
    api = API + "\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ../lib\n"
    files = {"api/go.mod": api, "api/main.go": NEEDS_LIB, **LIB}
    made = planned(files, sub_path="api")
    assert target(made) == "api: ."
    assert [step.name for step in made.steps] == ["compile"] and made.materials == ("api/go.mod", "api/go.sum")
    assert made.detection.because == "go.mod is at the root of api"
    alone = refused({"go.mod": api, "main.go": NEEDS_LIB})
    assert (alone.reason, alone.where) == ("ManifestInvalid", "go.mod:7") and "sub_path" in alone.next
    gone = refused({"api/go.mod": api, "api/main.go": NEEDS_LIB}, sub_path="api")
    assert (gone.reason, gone.where) == ("ManifestInvalid", "api/go.mod:7")
    assert "has no go.mod in what was sent" in gone.message


def test_cgo_in_a_replacement_is_found() -> None:
    api = API + "\nrequire example.com/lib v0.0.0\n\nreplace example.com/lib => ./lib\n"
    files = {"go.mod": api, "main.go": NEEDS_LIB, **LIB, "lib/l.go": 'package lib\n\nimport "C"\n'}
    error = refused(files)
    assert (error.reason, error.where) == ("CgoRefused", "lib/l.go:3")


def test_a_sub_path_below_the_module_is_a_package_of_it() -> None:
    files = {"go.mod": REQUIRE, "go.sum": "…", "cmd/a/main.go": UUID_MAIN, "cmd/b/main.go": MAIN}
    made = planned(files, sub_path="cmd/a")
    assert (target(made), made.steps[-1].cwd, made.materials) == ("./cmd/a", "/work/src", ("go.mod", "go.sum"))


def test_a_sub_path_gets_its_files_in_its_folder() -> None:
    made = planned({"f/main.go": SDK_MAIN, "f/go.mod": MOD, "f/vendor/modules.txt": ""}, sub_path="f")
    assert {file.path for file in made.files} == {"f/go.mod", "f/vendor/modules.txt", f"f/{OVERLAY}"}
    overlay = next(file.content for file in made.files if file.path.endswith(OVERLAY))
    assert "/work/src/f/vendor/ignite/ignite.go" in overlay and made.steps[-1].cwd == "/work/src/f"


def test_a_package_with_a_twin_for_builds_without_cgo_is_built() -> None:
    c = 'package main\n\nimport "C"\n'
    files = {"go.mod": MOD, "main.go": MAIN, "fast.go": c, "slow.go": "//go:build !cgo\n\npackage main\n"}
    assert planned(files).steps
    assert refused({"go.mod": MOD, "main.go": MAIN, "fast.go": c}).where == "fast.go:3"
    only = refused({"go.mod": MOD, "main.go": 'package main\n\nimport "C"\n\nfunc main() {}\n'})
    assert (only.reason, only.where) == ("CgoRefused", "main.go:3")


EMBEDS = 'package main\n\nimport _ "embed"\n\n//go:embed {}\nvar data string\n\nfunc main() {{}}\n'


@pytest.mark.parametrize(
    "pattern",
    ["a.txt", "web", "web/*", "*.txt", "all:web", '"web/b c.txt"', "`a.txt`", "a.txt web/x/y.css", "web/?/y.css",
     "[a]*.txt", "we*/x"],
)  # fmt: skip
def test_an_embedded_pattern_that_matches_is_no_failure(pattern: str) -> None:
    there = {"a.txt": "", "web/b c.txt": "", "web/x/y.css": ""}
    assert planned({"go.mod": MOD, "main.go": EMBEDS.format(pattern), **there}).steps


@pytest.mark.parametrize("pattern", ["web/node_modules/htmx/htmx.js", "a.txt *.css", '"a b"', "web/?.css", "a.txt/b"])
def test_an_embedded_pattern_that_matches_nothing_is_refused_with_its_line(pattern: str) -> None:
    error = refused({"go.mod": MOD, "main.go": EMBEDS.format(pattern), "a.txt": "", "web/ab.css": ""})
    assert (error.reason, error.where) == ("CompileFailed", "main.go:5")
    assert "is embedded, but nothing in what was sent matches it" in error.message and "ignore rules" in error.next


@pytest.mark.parametrize(
    "body",
    [
        "var a = `\n//go:embed nope\n`\n",
        "/*\n//go:embed nope\n*/\n",
        "// //go:embed nope\n",
        "var a = 1 //go:embed nope\n",
        "//go:embedded nope\n",
        "var a, b = '\"', `\n//go:embed nope\n`\n",
    ],
)
def test_text_that_only_looks_like_an_embed_is_none(body: str) -> None:
    assert planned({"go.mod": MOD, "main.go": f'package main\n\nimport _ "embed"\n\n{body}\nfunc main() {{}}\n'}).steps


def test_go_work_is_detected() -> None:
    found = go.detect(DictTree({"go.work": "", "api/go.mod": ""}))
    assert found and found.because == "go.work is at the root"
