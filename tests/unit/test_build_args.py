"""A build argument reaches the plan of a pipeline that reads it, or is refused: none is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import REASONS, BuildError, ErrorClass
from builder.pipelines import catalog
from builder.pipelines.arguments import COMMON_ARGS, INJECTS, beside, check_arguments, names, start_of
from builder.pipelines.base import PlanRequest
from builder.plan import Plan
from builder.source.tree import DictTree
from tests import pipeline_script
from tests.golden.update import examples, files_of

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = {pipelines.detect(DictTree(files_of(folder))).runtime: files_of(folder) for folder in examples()}
"""Runtime → the source of one of its examples."""


def planned(runtime: str, files: dict[str, str | bytes], **arguments: str) -> Plan:
    own = runtime == pipeline_script.NAME
    known = (pipeline_script,) if own else pipelines.PIPELINES
    rows = catalog.read((Path(__file__).parents[1] / "data" if own else runtimes_dir()) / "catalog.toml")
    tree = DictTree(files)
    request = PlanRequest(runtime=runtime, build_args=arguments)
    return pipelines.plan(pipelines.detect(tree, runtime, known), tree, request, rows, known)


def test_the_sources_here_cover_every_runtime() -> None:
    assert set(SOURCES) == set(pipelines.names())


@pytest.mark.parametrize("runtime", SOURCES)
def test_an_argument_that_a_runtime_does_not_read_is_refused_by_name_only(runtime: str) -> None:
    with pytest.raises(BuildError) as caught:
        planned(runtime, SOURCES[runtime], DEBUG="a-secret")
    assert (caught.value.reason, caught.value.where) == ("BuildArgUnknown", "buildArgs.DEBUG")
    known = ", ".join({one.NAME: one.BUILD_ARGS for one in pipelines.PIPELINES}[runtime] + COMMON_ARGS)
    assert caught.value.message == f'{runtime} has no build argument "DEBUG"; it takes {known}'
    assert REASONS["BuildArgUnknown"].error_class is ErrorClass.CLIENT


def test_a_known_argument_reaches_the_step_and_the_message_lists_it() -> None:
    made = planned("script", {"build.py": ""}, GREETING="hello")
    assert made.steps[0].env == (("GREETING", "hello"),)
    with pytest.raises(BuildError, match='script has no build argument "GREETNG"; it takes GREETING'):
        planned("script", {"build.py": ""}, GREETING="hello", GREETNG="hello")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("entri", "Did you mean entry?"), ("subPath", "Did you mean sub_path?"), ("Sub-Path", "Did you mean sub_path?")],
)
def test_the_nearest_argument_is_named(name: str, hint: str) -> None:
    with pytest.raises(BuildError) as caught:
        planned("go", SOURCES["go"], **{name: "x"})
    assert (caught.value.reason, caught.value.next) == ("BuildArgUnknown", hint)


@pytest.mark.parametrize(
    ("path", "words"),
    [("../other", "leads out"), ("/etc", "leads out"), ("a/../..", "leads out"), ("nope", "is no folder")],
)
def test_a_sub_path_that_is_no_folder_of_the_source_is_refused(path: str, words: str) -> None:
    with pytest.raises(BuildError) as caught:
        pipelines.detect(DictTree(SOURCES["go"]), None, sub_path=path)
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "buildArgs.sub_path")
    assert words in caught.value.message


@pytest.mark.parametrize("runtime", pipelines.names())
def test_every_argument_is_documented_with_an_example(runtime: str) -> None:
    module = next(one for one in pipelines.PIPELINES if runtime == one.NAME)
    rows = pipelines.argument_rows()[runtime]
    assert names(rows) == (*module.BUILD_ARGS, *COMMON_ARGS)
    assert all(row.meaning and row.example and "|" not in row.meaning + row.example for row in rows)
    assert f"### {runtime.capitalize()}\n" in (DOCS / "runtimes.md").read_text(encoding="utf-8")


INJECTING = (
    "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "PATH", "NODE_OPTIONS", "NODE_PATH",
    "npm_config_script_shell", "PYTHONSTARTUP", "PYTHONPATH", "PIP_INDEX_URL", "UV_INDEX", "RUSTC_WRAPPER", "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN", "CARGO_BUILD_RUSTC", "CARGO_HOME", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN", "CGO_CFLAGS", "CC",
    "CFLAGS", "MAKEFLAGS", "GIT_SSH_COMMAND", "GIT_CONFIG_COUNT", "SSH_ASKPASS", "PERL5OPT", "RUBYOPT",
    "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "HTTPS_PROXY", "no_proxy",
)  # fmt: skip


@pytest.mark.parametrize("name", INJECTING)
def test_a_name_that_injects_code_is_refused_with_the_reason_even_where_a_pipeline_reads_it(name: str) -> None:
    with pytest.raises(BuildError) as caught:
        check_arguments("script", (name,), {name: "a-secret"})
    error = caught.value
    assert (error.reason, error.where) == ("BuildArgUnknown", f"buildArgs.{name}")
    why = error.message.removeprefix(f'"{name}" is refused as a build argument: ')
    assert any(why == one for _, one in INJECTS) and "a-secret" not in error.message + error.next


def test_no_argument_of_a_runtime_has_a_name_that_injects_code() -> None:
    for runtime, rows in pipelines.argument_rows().items():
        check_arguments(runtime, names(rows), dict.fromkeys(names(rows), "x"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\nb", "control character"), ("a\0b", "control character"), ("a\x1b[2J", "control character"),
        ("-o", "starts with a dash"), ("--modfile=x", "starts with a dash"),
    ],
    ids=["line end", "NUL", "escape", "option", "long option"],
)  # fmt: skip
def test_a_value_is_one_word(value: str, words: str) -> None:
    with pytest.raises(BuildError) as caught:
        planned("go", SOURCES["go"], entry=value)
    error = caught.value
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.entry") and words in error.message
    assert value not in error.message


@pytest.mark.parametrize("text", ["", "app", "{}", "[]", '[""]', "[1]", '["a\\u0000"]', "[" * 2000, '["x", null]'])
def test_start_is_a_list_of_words(text: str) -> None:
    with pytest.raises(BuildError) as caught:
        start_of({"start": text})
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "buildArgs.start")


def test_the_words_of_start_are_taken_as_they_are() -> None:
    assert start_of({"start": '["./app", "-v", "two words", "line\\nend"]'}) == (
        "./app",
        "-v",
        "two words",
        "line\nend",
    )
    assert start_of({}) == ()


TREE = DictTree(
    dict.fromkeys(
        ("api/app.go", "api/static/a.css", "api/static/img/b.png", "api/static/.cache/c", "api/.env", "api/x,y.txt",
         "api/.well-known/k", "other/z"),
        "x",
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("static", ["static/a.css", "static/img/b.png"]),
        ("static/", ["static/a.css", "static/img/b.png"]),
        ("./static/*.css", ["static/a.css"]),
        ("**/*.png, app.go", ["app.go", "static/img/b.png"]),
        ("*", ["app.go", "static/a.css", "static/img/b.png", "x,y.txt"]),
        (".", ["app.go", "static/a.css", "static/img/b.png", "x,y.txt"]),
        (".env", [".env"]),
        (".well-known,static/.cache", [".well-known/k", "static/.cache/c"]),
        ('["x,y.txt"]', ["x,y.txt"]),
        ("", []),
    ],
)
def test_files_names_files_folders_and_patterns(text: str, found: list[str]) -> None:
    placed = beside(TREE, "api", {"files": text}, "app")
    assert [(one.path, one.source) for one in placed] == [(f"app/{path}", f"api/{path}") for path in found]


@pytest.mark.parametrize(
    "text",
    ["../other", "/etc/passwd", "a/../../b", "..", "nope", "*.html", "static,", '["a"', "[1]", "**/**/**/**/x"],
)
def test_files_that_lead_out_or_match_nothing_are_refused(text: str) -> None:
    with pytest.raises(BuildError) as caught:
        beside(TREE, "api", {"files": text}, "app")
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "buildArgs.files")
