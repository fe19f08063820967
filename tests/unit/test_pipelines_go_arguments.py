"""What build arguments and pins make of the plan of a Go source."""

from __future__ import annotations

import pytest

from builder.pipelines import go
from builder.pipelines.catalog import parse
from builder.plan import Access, Network, Sees
from tests.planned_image import image_of
from tests.unit.test_pipelines_go import MAIN, MOD, choice, planned, refused, target

VERSIONED = "package main\n\nvar version, commit string\n\nfunc main() { println(version, commit) }\n"
SOURCE = {"go.mod": MOD, "main.go": VERSIONED}
DOWNLOADS = {
    "go.mod": MOD + "\nrequire example.com/a v1.0.0\n",
    "go.sum": "example.com/a v1.0.0 h1:x\nexample.com/a v1.0.0/go.mod h1:x\n",
    "main.go": 'package main\n\nimport _ "example.com/a"\n\nfunc main() {}\n',
}
PAGES = SOURCE | {"templates/a.html": "a", "templates/b.html": "b", "run": "#!"}


def linked(**arguments: str) -> str:
    (flags,) = [word for word in planned(SOURCE, **arguments).steps[-1].argv if word.startswith("-ldflags=")]
    return flags.removeprefix("-ldflags=-s -w -buildid=")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("main.version=1.4.0", " -X main.version=1.4.0"),
        ("main.version=1,main.commit=a=b", " -X main.version=1 -X main.commit=a=b"),
        ("main.version=", " -X main.version="),
        ("main.version=two words", " -X 'main.version=two words'"),
        ("main.version=it's", """ -X "main.version=it's\""""),
        ('{"main.version": "1,2 -extld=/x"}', " -X 'main.version=1,2 -extld=/x'"),
        ("example.com/app/x-y/v2.Name=1", " -X example.com/app/x-y/v2.Name=1"),
        ("", ""),
    ],
)
def test_variables_are_set_by_the_linker_and_each_stays_one_word(text: str, flags: str) -> None:
    assert linked(ldflags_x=text) == flags


@pytest.mark.parametrize(
    "text",
    ["version", "version=1", "main.=1", "main.a b=1", "'main.a=1", "main.version=1,x", '{"main.version": 1}', "{",
     '{"main.version": "a\\nb"}', """{"main.version": "both ' and \\""}""", "{" + "[" * 3000,
     ",".join(f"main.v{number}=1" for number in range(101))],
)  # fmt: skip
def test_variables_that_are_none_are_refused(text: str) -> None:
    error = refused(SOURCE, ldflags_x=text)
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.ldflags_x"), error


def test_a_variable_that_the_package_does_not_name_is_a_warning() -> None:
    made = planned(SOURCE, ldflags_x="main.Version=1,main.commit=2,example.com/other.X=3")
    assert [one for one in made.warnings if "ldflags_x" in one] == [
        "ldflags_x sets main.Version, and ./ names no Version: the linker sets nothing"
    ]


def test_files_stand_beside_the_binary_in_one_layer() -> None:
    made = planned(PAGES, files="templates")
    image = image_of(made)
    (layer,) = image.layers
    assert (layer.source, layer.dest, image.entrypoint) == ("/work/out/app", "/app", ("/app/app",))
    assert made.steps[-1].argv[-3:] == ("-o", "/work/out/app/app", ".")
    assert [(one.path, one.source) for one in made.placed] == [
        ("app/templates/a.html", "templates/a.html"), ("app/templates/b.html", "templates/b.html"),
    ]  # fmt: skip
    assert "2 files beside it" in image.summary
    assert made.effects() != planned(PAGES, files="templates/a.html").effects() != planned(PAGES).effects()


def test_files_count_from_the_folder_that_is_built() -> None:
    files = {"svc/go.mod": MOD, "svc/main.go": MAIN, "svc/web/x": "", "web/y": ""}
    made = planned(files, sub_path="svc", files="web")
    assert [(one.path, one.source) for one in made.placed] == [("app/web/x", "svc/web/x")]


@pytest.mark.parametrize("name", ["app", "app/x"])
def test_a_file_in_the_place_of_the_binary_is_refused(name: str) -> None:
    error = refused({"go.mod": MOD, "main.go": MAIN, name: ""}, files="app")
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.files")


def test_start_names_the_binary_or_a_file_beside_it() -> None:
    for program in ("app", "./app", "/app/app"):
        made = planned(SOURCE, start=f'["{program}", "serve", "--port=1"]')
        assert image_of(made).entrypoint == ("/app/app", "serve", "--port=1")
    assert image_of(planned(PAGES, files="run", start='["./run"]')).entrypoint == ("/app/run",)
    for program in ("sh", "/bin/sh", "../app", "./run"):
        error = refused(SOURCE, start=f'["{program}", "-c", "x"]')
        assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.start"), program


def test_a_start_command_with_variables_has_a_launcher_of_code_of_ours_alone() -> None:
    for source, before in ((SOURCE, 0), (DOWNLOADS, 1)):
        plain = planned(source, start='["./app", "$"]')
        made = planned(source, start='["./app", "--listen=:$PORT"]')
        image = image_of(made)
        assert image.entrypoint == ("/ignite/start", "--", "/app/app", "--listen=:$PORT")
        assert image.program == "/app/app" and image.layers[0].dest == "/ignite"
        launcher = made.steps[before]
        assert (launcher.name, launcher.sees, launcher.network) == ("compile launcher", Sees.STUBS, Network.NONE)
        assert launcher.cwd == "/work/fetch" and launcher.argv[-1] == "/work/fetch/ignite/start.go"
        assert not launcher.runs_source and "ignite/start.go" in [one.path for one in made.stubs]
        assert [step for step in made.steps if step != launcher] == list(plain.steps)


@pytest.mark.parametrize(
    ("files", "version", "why"),
    [
        ({".go-version": "1.24\n"}, "1.24", ".go-version:1 pins 1.24"),
        ({".go-version": "# ours\ngo1.24.3\n"}, "1.24", ".go-version:2 pins 1.24.3"),
        ({"mise.toml": '[tools]\ngo = "1.24"\n'}, "1.24", "mise.toml:2 pins 1.24"),
        ({".mise.toml": '[tools]\nnode = "22"\ngo = ["1.24", "1.26"]\n'}, "1.24", ".mise.toml:3 pins 1.24"),
        ({"mise.toml": '[tools]\ngo = { version = "prefix:1.24" }\n'}, "1.24", "mise.toml:2 pins 1.24"),
        ({"mise.toml": "[tools.go]\nversion = '1.24'\n"}, "1.24", "mise.toml:1 pins 1.24"),
        ({".tool-versions": "python 3.11\ngolang 1.24.3 # x\n"}, "1.24", ".tool-versions:2 pins 1.24.3"),
        ({".tool-versions": "go 1.24\n", ".go-version": "1.26\n"}, "1.26", ".go-version:1 pins 1.26"),
        ({"mise.toml": '[tools]\ngo = "latest"\n'}, "1.26", "go.mod:3 asks for 1.24 or newer; the catalog has it"),
        ({".tool-versions": "golang system\n"}, "1.26", "go.mod:3 asks for 1.24 or newer; the catalog has it"),
        (
            {"mise.toml": "tools = 3\n", ".go-version": ""},
            "1.26",
            "go.mod:3 asks for 1.24 or newer; the catalog has it",
        ),
    ],
)
def test_a_pin_decides_the_version(files: dict[str, str], version: str, why: str) -> None:
    made = planned(SOURCE | files)
    assert choice(made, "version") == (version, why)
    assert any("took a release of go 1.24" in one for one in made.warnings) == ("1.24.3" in why)


def test_the_request_goes_before_a_pin_and_the_nearest_pin_before_one_above() -> None:
    files = {"api/go.mod": MOD, "api/main.go": MAIN, ".go-version": "1.26\n"}
    assert choice(planned(files, sub_path="api"), "version")[1] == ".go-version:1 pins 1.26"
    near = planned(files | {"api/.tool-versions": "golang 1.24\n"}, sub_path="api")
    assert choice(near, "version")[1] == "api/.tool-versions:1 pins 1.24" and target(near).startswith("api")
    assert choice(planned(files, version="1.24", sub_path="api"), "version") == ("1.24", "asked for")


@pytest.mark.parametrize(
    ("files", "reason", "where", "words"),
    [
        ({".go-version": "1.19\n"}, "UnknownRuntimeVersion", ".go-version:1", "the catalog has 1.24, 1.25, 1.26, 1.27"),
        ({".go-version": "stable-ish\n"}, "UnknownRuntimeVersion", ".go-version:1", "pins go stable-ish"),
        ({"go.mod": "module x\n\ngo 1.26\n", ".go-version": "1.24\n"}, "ManifestInvalid", ".go-version:1",
         "go.mod:3 needs 1.26"),
        ({"mise.toml": "[tools\n"}, "ManifestInvalid", "mise.toml:1:7", "no TOML"),
    ],
)  # fmt: skip
def test_a_pin_that_cannot_be_met_is_never_another_version(
    files: dict[str, str], reason: str, where: str, words: str
) -> None:
    error = refused(SOURCE | files)
    assert (error.reason, error.where) == (reason, where) and words in error.message


def test_a_release_that_the_catalog_names_meets_its_pin_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    row = '[[row]]\nruntime = "go"\nversion = "1.24"\nrelease = "1.24.3"\ntarget = "native"\n'
    catalog = parse(row + 'toolchain = "go-1.24"\nbase = "go"\n')
    monkeypatch.setattr("tests.unit.test_pipelines_go.CATALOG", catalog)
    assert not any("pins" in one for one in planned(SOURCE | {".go-version": "1.24.3\n"}).warnings)
    warned = planned(SOURCE | {".go-version": "1.24.9\n"}).warnings
    assert ".go-version:1 pins go 1.24.9: took go 1.24.3, which the catalog has" in warned


WITH_C = 'package main\n\n// int three(void) { return 3; }\nimport "C"\n\nfunc main() { println(C.three()) }\n'


def test_cgo_is_built_where_it_is_allowed_and_what_it_writes_ends_with_it() -> None:
    files = {"go.mod": MOD, "main.go": WITH_C}
    error = refused(files)
    assert (error.reason, error.where) == ("CgoRefused", "main.go:4") and "--build-arg cgo=1" in error.next
    plan = planned(files, cgo="1", tags="x")
    (step,) = plan.steps
    assert plan.compiles_c and not planned({"go.mod": MOD, "main.go": "package main\n\nfunc main() {}\n"}).compiles_c
    assert step.runs_source and {cache.access for cache in step.caches} == {Access.READ, Access.OVERLAY}
    assert dict(step.env)["CGO_ENABLED"] == "1" and dict(step.env)["GOCACHE"] == "/cache/go-build"
    assert "-tags=x,netgo,osusergo" in step.argv
    assert "-ldflags=-s -w -buildid= -linkmode=external -extldflags=-static" in step.argv


def test_without_a_word_about_cgo_nothing_changes() -> None:
    assert planned(SOURCE, cgo="0").effects() == planned(SOURCE).effects()
    error = refused(SOURCE, cgo="yes")
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.cgo")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('cgo: C compiler "gcc" not found: exec: "gcc": executable file not found in $PATH', "has no C compiler"),
        ("/usr/bin/ld: cannot find -lpq: No such file or directory", "the C library pq is not in the toolchain"),
    ],
)
def test_what_a_build_with_cgo_lacks_is_named(line: str, words: str) -> None:
    (step,) = planned({"go.mod": MOD, "main.go": WITH_C}, cgo="1").steps
    found = go.diagnose(step, 1, ("# example.com/app", line))
    assert found.reason == "CgoRefused" and words in found.message and found.said[0] == line
