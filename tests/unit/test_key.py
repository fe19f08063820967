"""The build key: what decides the artifact's bytes changes it, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builder import key
from builder.key import build_key, key_parts
from builder.plan import (
    Access,
    Cache,
    Choice,
    CopyFile,
    Detection,
    LayerSource,
    Network,
    Output,
    Plan,
    Sees,
    Step,
    Toolchain,
    WriteFile,
)

DIGESTS = {"base": "sha256:b", "go": "sha256:g", "sdk sdk": "sha256:s"}
LAYER = LayerSource(source="/work/out", dest="/app", created_by="compile")
STEP = Step(
    name="compile",
    argv=("go", "build", "-o", "/work/out/app"),
    runs_source=False,
    caches=(Cache(name="go-build", access=Access.WRITE),),
    env=(("CGO_ENABLED", "0"),),
)
PLAN = Plan(
    detection=Detection(runtime="go", because="go.mod at the root"),
    toolchain=Toolchain(runtime="go", version="1.26", target="native", name="go-1.26", base="go"),
    choices=(Choice(name="entry", value=".", why="the only one"),),
    steps=(STEP,),
    output=Output(layers=(LAYER,), entrypoint=("/app/app",), env=(("A", "1"),), summary="static binary"),
    files=(WriteFile(path="go.mod", content="module app\n"),),
    warnings=("no toolchain line",),
    materials=("go.sum",),
)


def step(**changes: Any) -> Plan:
    return replace(PLAN, steps=(replace(STEP, **changes),))


def output(**changes: Any) -> Plan:
    return replace(PLAN, output=replace(PLAN.output, **changes))


def toolchain(**changes: str) -> Plan:
    return replace(PLAN, toolchain=replace(PLAN.toolchain, **changes))


KEYED: dict[str, Callable[[], Plan]] = {
    "a flag": lambda: step(argv=(*STEP.argv, "-race")),
    "the split of a command line": lambda: step(argv=("go build", *STEP.argv[2:])),
    "the network": lambda: step(network=Network.INDEX, sees=Sees.STUBS, cwd="/work/fetch"),
    "what a step sees": lambda: step(sees=Sees.STUBS, cwd="/work/fetch"),
    "a cache": lambda: step(caches=()),
    "how a cache is mounted": lambda: step(caches=(Cache(name="go-build", access=Access.READ),)),
    "a stub": lambda: replace(PLAN, stubs=(WriteFile(path="go.mod", content="module app\n"),)),
    "a copied stub": lambda: replace(PLAN, copies=(CopyFile(path="go.sum", source="go.sum"),)),
    "an environment variable of a step": lambda: step(env=(("CGO_ENABLED", "1"),)),
    "the working directory": lambda: step(cwd="/work/src/cmd"),
    "another step": lambda: replace(PLAN, steps=(STEP, STEP)),
    "a written file's content": lambda: replace(PLAN, files=(WriteFile(path="go.mod", content="module other\n"),)),
    "a written file's path": lambda: replace(PLAN, files=(WriteFile(path="go.work", content="module app\n"),)),
    "a layer's source": lambda: output(layers=(replace(LAYER, source="/work/src"),)),
    "a layer's place": lambda: output(layers=(replace(LAYER, dest="/srv"),)),
    "a layer's history": lambda: output(layers=(replace(LAYER, created_by="other"),)),
    "the entry point": lambda: output(entrypoint=("/app/other",)),
    "the artifact's environment": lambda: output(env=(("A", "2"),)),
    "the artifact's working directory": lambda: output(workdir="/app"),
    "the user": lambda: output(user="0:0"),
    "the version": lambda: toolchain(version="1.25"),
    "the target": lambda: toolchain(target="wasm"),
    "the runtime": lambda: toolchain(runtime="rust"),
    "the toolchain's name": lambda: toolchain(name="go-1.25"),
    "the base's name": lambda: toolchain(base="go-musl"),
}
WORDS: dict[str, Callable[[], Plan]] = {
    "why it was detected": lambda: replace(PLAN, detection=Detection(runtime="go", because="main.go")),
    "a choice": lambda: replace(PLAN, choices=()),
    "a warning": lambda: replace(PLAN, warnings=()),
    "the name of a step": lambda: step(name="build"),
    "the summary": lambda: output(summary="other words"),
    "which files the provenance reads": lambda: replace(PLAN, materials=()),
}


@pytest.mark.parametrize("part", KEYED)
def test_each_part_of_the_plan_that_decides_bytes_changes_the_key(part: str) -> None:
    assert build_key("acme", "sha256:c", KEYED[part](), DIGESTS) != build_key("acme", "sha256:c", PLAN, DIGESTS)


@pytest.mark.parametrize("part", WORDS)
def test_words_for_people_do_not(part: str) -> None:
    changed = WORDS[part]()
    assert changed != PLAN
    assert build_key("acme", "sha256:c", changed, DIGESTS) == build_key("acme", "sha256:c", PLAN, DIGESTS)


@pytest.mark.parametrize(
    ("organization", "code_hash", "digests"),
    [
        ("evil", "sha256:c", DIGESTS),
        ("acme", "sha256:d", DIGESTS),
        ("acme", "sha256:c", {**DIGESTS, "base": "sha256:other"}),
        ("acme", "sha256:c", {**DIGESTS, "go": "sha256:other"}),
        ("acme", "sha256:c", {**DIGESTS, "sdk sdk": "sha256:other"}),
        ("acme", "sha256:c", {**DIGESTS, "front": "sha256:f"}),
        ("acme", "sha256:c", {name: DIGESTS[name] for name in ("base", "go")}),
    ],
    ids=["organization", "code hash", "base", "toolchain", "SDK", "front added", "SDK gone"],
)
def test_each_part_beside_the_plan_changes_the_key(organization: str, code_hash: str, digests: dict[str, str]) -> None:
    assert build_key(organization, code_hash, PLAN, digests) != build_key("acme", "sha256:c", PLAN, DIGESTS)


@pytest.mark.parametrize("name", ["FORMAT", "PLATFORM"])
def test_format_and_platform_change_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_key("acme", "sha256:c", PLAN, DIGESTS)
    monkeypatch.setattr(key, name, "other")
    assert build_key("acme", "sha256:c", PLAN, DIGESTS) != before


def test_the_key_is_a_digest_and_does_not_depend_on_the_order_of_digests() -> None:
    backwards = dict(reversed(DIGESTS.items()))
    assert build_key("acme", "sha256:c", PLAN, backwards) == build_key("acme", "sha256:c", PLAN, DIGESTS)
    assert set(key_parts("acme", "sha256:c", PLAN, DIGESTS)) == {
        "format", "organization", "code_hash", "platform", "plan", "digests",
    }  # fmt: skip
