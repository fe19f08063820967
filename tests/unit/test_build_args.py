"""A build argument reaches the plan of a pipeline that reads it, or is refused: none is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import REASONS, BuildError, ErrorClass
from builder.pipelines import catalog
from builder.pipelines.base import COMMON_ARGS, PlanRequest
from builder.plan import Plan
from builder.source.tree import DictTree
from tests import pipeline_script
from tests.golden.update import examples, files_of

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
