"""What tools, programs, hosts and images say, and words of requests: read in time that grows as the text does."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from builder.attempt import verdict
from builder.buildpacks import ended as buildpacks
from builder.buildpacks.project import check_arguments, read_project
from builder.engine import ended as engine
from builder.errors import BuildError
from builder.git import commands, submodules
from builder.git.source import parse_url
from builder.images.reference import parse
from builder.kaniko import ended as kaniko
from builder.kube import ended as kube
from builder.kube.ended import Ended
from builder.pipelines.arguments import check_values, patterns_of, start_of
from builder.pipelines.deno import jsr
from builder.pipelines.deno.project import Need
from builder.sandbox import app
from builder.source.tree import DictTree, DirTree
from builder.text import log_line
from tests.growth import assert_linear
from tests.hostile_text import SHAPES

SMALL, LARGE = 16 * 1024, 64 * 1024
FLOOR_S = 0.02
MORE: dict[str, Callable[[int], str]] = {
    name: functools.partial(lambda unit, before, size: before + unit * (size // len(unit)), unit, before)
    for name, (unit, before) in {
        "copies": ("COPY failed: stat /docker-builder1/", ""),
        "copies and stats": ("COPY failed: stat a: ", ""),
        "execs": ("runtime create failed exec: ", ""),
        "parse errors": ("dockerfile parse error line 1: ", ""),
        "steps": ("Step 1/1 : FROM a\n", ""),
        "final errors": ("error building image: ", ""),
        "stages": ("ERROR: failed to run image ", ""),
        "panics": ("panic: ", ""),
        "missing libraries": ("error while loading shared libraries: ", ""),
        "no file": ("No such file or directory: '", ""),
        "tracebacks": ("Traceback (most recent call last):\n", ""),
        "refs": ("0" * 40 + "\trefs/heads/a\n", ""),
        "parents": ("../", ""),
        "colons": ("a:", ""),
        "dots": ("a.", ""),
        "users": ("a@", ""),
        "percents": ("%4", "https://a/"),
        "tabs of output": ("\t", "a"),
        "caches": ("/cache/ corrupt ", ""),
        "stars": ("*a", ""),
        "submodule keys": ("submodule.a.url=", ""),
    }.items()
}
ALL = {**SHAPES, **MORE}
LOCKED = {"jsr": {"@a/b@1.0.0": {"integrity": "0" * 64}}}
"""A lock with one package."""


def lines_of(text: str) -> list[str]:
    return [line[at : at + 16384] for line in text.split("\n") for at in range(0, len(line) or 1, 16384)]


def of_engine(text: str) -> None:
    seen = engine.Transcript()
    for line in lines_of(text):
        seen.heard(line)
    seen.message({"error": text})
    engine.is_own(text)
    engine.diagnose(seen, [kaniko.Instruction(stage=0, line=1, text=f"COPY {text}")], "Dockerfile")


def of_kaniko(text: str) -> None:
    job = Ended(reason="StepFailed", message="m", container="build", exit_code=1, said=text)
    rows = [kaniko.Instruction(stage=0, line=number, text=line) for number, line in enumerate(lines_of(text)[:500], 1)]
    for lines in (lines_of(text), [f"error building image: {text}"]):
        kaniko.diagnose(job, lines, rows)


def of_buildpacks(text: str) -> None:
    for container in ("detect", "build", "export", "rebase", "analyze"):
        job = Ended(reason="StepFailed", message="m", container=container, exit_code=51, said=text)
        buildpacks.diagnose(job, {container: [*lines_of(text), f"ERROR: failed to {text}"]}, "a/b")
    buildpacks.pushed_digest(text[:4096])


def of_git(text: str) -> None:
    lines = lines_of(text)
    for url in ("https://host.example/a", "ssh://git@host.example/a"):
        commands.failed(parse_url(url, "git.url"), lines, refused=False, unreachable=False, login=True)
    commands.found_in(lines, "main")
    submodules.links_in(lines)
    for one in submodules.named_in([f"submodule.a.url\n{text}\0submodule.a.path\na\0submodule.{text}.path\nb"]):
        with suppress(BuildError):
            submodules.url_of(parse_url("https://host.example/a/b", "git.url"), one)


def kube_report(text: str) -> None:
    kube._report(text)


def of_jsr(text: str) -> None:
    lock = {"jsr": {text: {"integrity": text}, "@a/b@1.0.0": {"integrity": text}}}
    need = Need(specifier=f"jsr:{text}", where="main.ts:1")
    with pytest.raises(BuildError):
        jsr.check_locked([need], lock, "deno.lock", "main.ts")
    tuple(jsr.versions(jsr.releases(lock, "deno.lock")))


def of_jsr_metadata(text: str) -> None:
    """The metadata of a package, once as it is and once as the name of a file of it."""
    for whole in (text, json.dumps({"manifest": {f"/{text}": {"checksum": text}}})):
        release = jsr.Release(name="@a/b", version="1.0.0", digest=hashlib.sha256(whole.encode()).hexdigest())
        try:
            tuple(jsr.files(DictTree({jsr.metadata_path(release): whole}), release))
        except BuildError as error:
            assert error.error_class != "platform"


def of_program(text: str) -> None:
    lines = lines_of(text)
    app.first_error(lines)
    app.said(lines, 6)
    app.missing_library(lines)
    app.missing_file(lines, "/app")
    app.is_absent(127, lines)


def of_step(text: str) -> None:
    for line in lines_of(text):
        cut = line[: verdict.LINE_LIMIT]
        for pattern in (verdict._FULL, verdict._IN_CACHE, verdict._BROKEN):
            pattern.search(cut)


def named(tmp_path: Path, text: str) -> None:
    (tmp_path / "go.mod").write_text(text, "utf-8", "surrogateescape")
    verdict._named(DirTree(tmp_path), ("go.mod",), "evil.example:443")


def refusing(read: Callable[[str], object]) -> Callable[[str], None]:
    def reads(text: str) -> None:
        try:
            read(text)
        except BuildError as error:
            assert error.error_class != "platform", error

    return reads


READERS: dict[str, Callable[[str], None]] = {
    "the engine": of_engine,
    "kaniko": of_kaniko,
    "the lifecycle": of_buildpacks,
    "git": of_git,
    "a program that starts": of_program,
    "a step": of_step,
    "the fetcher of a Job": kube_report,
    "JSR in a lock": refusing(of_jsr),
    "metadata of JSR": of_jsr_metadata,
    "a URL of git": refusing(lambda text: parse_url(text, "git.url")),
    "a URL of git, its path": refusing(lambda text: parse_url(f"https://host.example/{text}", "git.url")),
    "an image's reference": refusing(parse),
    "the name of an argument": refusing(lambda text: check_values({text: "x"})),
    "the value of an argument": refusing(lambda text: check_values({"x": text})),
    "patterns of files": refusing(lambda text: patterns_of({"files": text})),
    "a start command": refusing(lambda text: start_of({"start": text})),
    "an argument of buildpacks": refusing(lambda text: check_arguments([(text, text)])),
    "project.toml": refusing(lambda text: read_project(DictTree({"project.toml": text}))),
}


def spent(read: Callable[[str], None], text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


@pytest.mark.parametrize("name", READERS)
def test_work_grows_as_the_text_does(name: str) -> None:
    for shape, text in ALL.items():
        small, large = text(SMALL), text(LARGE)
        assert_linear(
            functools.partial(spent, READERS[name], small),
            functools.partial(spent, READERS[name], large),
            FLOOR_S,
            f"{name} over {shape}",
            power=2,
        )


@pytest.mark.parametrize("shape", ["words and strings", "short lines", "dots"])
def test_a_manifest_that_may_name_a_host_is_searched_once(shape: str, tmp_path: Path) -> None:
    read = functools.partial(named, tmp_path)
    small, large = ALL[shape](SMALL), ALL[shape](LARGE)
    assert_linear(functools.partial(spent, read, small), functools.partial(spent, read, large), FLOOR_S, shape)


@pytest.mark.parametrize(
    "unit",
    [
        "COPY failed: stat a: ",
        "runtime create failed exec: ",
        "failed to create task",
        "error building image: failed to get fileinfo for /kaniko/buildcontext/: lstat ",
        "dockerfile parse error line 1: ",
    ],
)
def test_the_last_words_of_a_builder_are_read_in_time_that_grows_as_they_do(unit: str) -> None:
    """They are cut at 4096 characters, of which an expression that squares or worse makes seconds."""

    def words(size: int) -> float:
        text = unit * (size // len(unit)) + "\nx"
        seen = engine.Transcript(error=text)
        job = Ended(reason="StepFailed", message="m", container="build", exit_code=1)
        began = time.process_time()
        engine.diagnose(seen, [], "Dockerfile")
        kaniko.diagnose(job, [f"error building image: {text[:-2]}"], [])
        return time.process_time() - began

    assert_linear(functools.partial(words, 1000), functools.partial(words, 4000), 0.002, unit)


INTRODUCERS = ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x1b ", *map(chr, range(0x80, 0xA0))]


@pytest.mark.parametrize("more", ["", "0;", "\x1b", "\x9d"])
@pytest.mark.parametrize("part", INTRODUCERS, ids=repr)
def test_a_line_costs_what_it_is_long(part: str, more: str) -> None:
    """The pattern is linear: each try of a match, however it ends, looks at what the next one does not look at."""

    def spent(count: int) -> float:
        text = part + more
        lines = (text * count, part + more * count, part * count + more)
        began = time.process_time()
        for line in lines:
            assert "\x1b" not in log_line(line)
        return time.process_time() - began

    assert_linear(lambda: spent(5_000), lambda: spent(20_000), 0.05, power=2)
