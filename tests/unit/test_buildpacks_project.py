"""`project.toml`, build arguments, and what image configs say of a builder and an app."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.buildpacks.image import App, Builder, read_app, read_builder, resolve
from builder.buildpacks.plan import BuildpacksPlan, key_of, materials_of, plan_buildpacks
from builder.buildpacks.project import (
    MOST_BYTES,
    MOST_ROWS,
    ProjectDescriptor,
    WantedBuildpack,
    check_arguments,
    read_project,
)
from builder.errors import BuildError
from builder.source.tree import DictTree

SCHEMA_2 = """
[_]
schema-version = "0.2"
id = "acme"
[[_.licenses]]
type = "MIT"
[io.buildpacks]
builder = "acme/builder"
exclude = ["*.log", "!keep.log", "/docs/"]
[[io.buildpacks.group]]
id = "acme/node"
version = "1.0.0"
[[io.buildpacks.group]]
id = "acme/run"
optional = true
[[io.buildpacks.env.build]]
name = "BP_B"
value = "old"
[[io.buildpacks.build.env]]
name = "BP_B"
value = "new"
[[io.buildpacks.build.env]]
name = "BP_A"
value = ""
"""
SCHEMA_1 = """
[project]
id = "acme"
[build]
include = ["src/", "index.html"]
[[build.buildpacks]]
id = "acme/node"
[[build.env]]
name = "BP_A"
value = "1"
"""


def read(text: str, *allowed: str) -> ProjectDescriptor:
    return read_project(DictTree({"project.toml": text}), allowed or ("BP_*",))


def test_a_source_without_one_asks_nothing() -> None:
    project = read_project(DictTree({"a": ""}))
    assert project == ProjectDescriptor() and project.filter()("a")


def test_schema_2() -> None:
    project = read(SCHEMA_2)
    assert project.arguments == (("BP_A", ""), ("BP_B", "new"))
    assert project.group == (
        WantedBuildpack(id="acme/node", version="1.0.0"),
        WantedBuildpack(id="acme/run", optional=True),
    )
    assert project.warnings == ("project.toml: builder acme/builder is not used: the operator chooses it",)
    is_part = project.filter()
    paths = ("index.html", "a/x.log", "a/keep.log", "docs/a/b", "a/docs/b", "x.log/inner")
    assert [path for path in paths if is_part(path)] == ["index.html", "a/keep.log", "a/docs/b"]


def test_schema_1() -> None:
    project = read(SCHEMA_1)
    assert project.arguments == (("BP_A", "1"),) and project.group == (WantedBuildpack(id="acme/node"),)
    is_part = project.filter()
    paths = ("index.html", "a/index.html", "src/x/y", "README", "lib/src")
    assert [path for path in paths if is_part(path)] == ["index.html", "a/index.html", "src/x/y"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is no TOML"),
        ('[_]\nschema-version = "9"', "schema-version 9 is not known"),
        ("[_]\nschema-version = 0.2", "schema-version 0.2 is not known"),
        ("io = 3", "io is no table"),
        ("[io]\nbuildpacks = []", "buildpacks is no table"),
        ("[io.buildpacks]\ngroup = 1", "group is no list"),
        ("[io.buildpacks]\ngroup = [1]", "group is no list"),
        ("[io.buildpacks]\ninclude = [1]", "include is no list"),
        ('[io.buildpacks]\ninclude = ["a"]\nexclude = ["b"]', "include and exclude"),
        ("[io.buildpacks.pre]\n", "io.buildpacks.pre is not supported"),
        ('[[io.buildpacks.group]]\nuri = "https://evil.example/x.cnb"', "by uri is not supported"),
        ('[[io.buildpacks.group]]\nid = "x"\n[io.buildpacks.group.script]\n', "by script is not supported"),
        ("[[io.buildpacks.group]]\n", "id is absent"),
        ('[[io.buildpacks.group]]\nid = "../../x"', "is no buildpack"),
        ('[[io.buildpacks.group]]\nid = "x"\nversion = "1\\n[[order]]"', "is no buildpack"),
        ('[[io.buildpacks.build.env]]\nname = "BP_A"', "value is absent"),
        ('[[io.buildpacks.build.env]]\nname = "LD_PRELOAD"\nvalue = "x"', "LD_PRELOAD is not allowed"),
        ('[[io.buildpacks.build.env]]\nname = "BP_/../x"\nvalue = "x"', "is not allowed"),
        ('[[io.buildpacks.build.env]]\nname = "BP_A"\nvalue = "a\\u0000"', "has a NUL"),
    ],
)  # fmt: skip
def test_what_it_may_not_ask_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(BuildError) as refused:
        read(text)
    assert refused.value.reason == "ManifestInvalid" and words in refused.value.message
    assert refused.value.where.startswith("project.toml")


def test_it_is_bounded() -> None:
    for text in (
        "#" * 70_000,
        '[io.buildpacks]\nexclude = ["a"' + ', "a"' * MOST_ROWS + "]",
        '[[io.buildpacks.group]]\nid = "a"\n' * (MOST_ROWS + 1),
    ):
        with pytest.raises(BuildError) as refused:
            read(text)
        assert refused.value.reason == "ManifestInvalid"


def test_arguments_are_those_of_the_allow_list() -> None:
    assert check_arguments([("BP_B", "1"), ("BP_A", "x"), ("BP_B", "2")]) == (("BP_A", "x"), ("BP_B", "2"))
    assert check_arguments([("NODE_ENV", "x")], ("BP_*", "NODE_ENV")) == (("NODE_ENV", "x"),)
    for rows in (
        [("NODE_ENV", "x")],
        [("bp_a", "x")],
        [("BP_A", "x" * MOST_BYTES)],
        [(f"BP_{number}", "") for number in range(MOST_ROWS + 1)],
    ):
        with pytest.raises(BuildError) as refused:
            check_arguments(rows)
        assert refused.value.reason == "BuildArgUnknown"


def config(env: dict[str, str], **labels: Any) -> dict[str, Any]:
    rows = {f"io.buildpacks.{name.replace('_', '.')}": json.dumps(value) for name, value in labels.items()}
    return {"config": {"Env": [f"{name}={value}" for name, value in env.items()], "Labels": rows}}


USER = {"CNB_USER_ID": "1001", "CNB_GROUP_ID": "1000"}


def test_a_builder_image_says_its_user_and_its_buildpacks() -> None:
    rows = {"buildpacks": [{"id": "acme/node", "version": "1.0.0"}, {"id": "acme/node", "version": "2.0.0"}]}
    apis = {"platform": {"supported": ["0.13", "0.14"]}}
    builder = read_builder(config(USER, builder_metadata=rows, lifecycle_apis=apis))
    one, two = WantedBuildpack(id="acme/node", version="1.0.0"), WantedBuildpack(id="acme/node", version="2.0.0")
    assert builder == Builder(uid=1001, gid=1000, buildpacks=(one, two))
    assert resolve([WantedBuildpack(id="acme/node", version="1.0.0")], builder) == (one,)
    assert resolve([WantedBuildpack(id="acme/node", optional=True)], builder)[0].version == "2.0.0"
    with pytest.raises(BuildError, match="no buildpack acme/node@3") as refused:
        resolve([WantedBuildpack(id="acme/node", version="3")], builder)
    assert "acme/node@1.0.0, acme/node@2.0.0" in refused.value.next


@pytest.mark.parametrize(
    ("env", "labels", "words"),
    [
        ({}, {}, "CNB_USER_ID is absent"),
        ({**USER, "CNB_USER_ID": "0"}, {}, "CNB_USER_ID is 0"),
        ({**USER, "CNB_GROUP_ID": "cnb"}, {}, "CNB_GROUP_ID is cnb"),
        (USER, {"lifecycle_apis": {"platform": {"supported": ["0.12"]}}}, "no Platform API 0.14, but 0.12"),
    ],
)
def test_an_image_that_cannot_build_is_refused(env: dict[str, str], labels: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError) as refused:
        read_builder(config(env, **labels))
    assert words in refused.value.message and refused.value.where == "buildpacks_builder"


def test_an_app_says_what_it_was_put_on() -> None:
    lifecycle = {"runImage": {"reference": "r/run@sha256:1", "topLayer": "sha256:2"}, "sbom": {"sha": "sha256:3"}}
    build = {"buildpacks": [{"id": "acme/node", "version": "1.0.0"}]}
    app = read_app(config({}, lifecycle_metadata=lifecycle, build_metadata=build))
    wanted = (WantedBuildpack(id="acme/node", version="1.0.0"),)
    assert app == App(run_image="r/run@sha256:1", top_layer="sha256:2", sbom="sha256:3", buildpacks=wanted)
    assert read_app({}) is None and read_app(config({}, lifecycle_metadata=[])) is None


BUILDER = Builder(
    uid=1,
    gid=1,
    buildpacks=(WantedBuildpack(id="acme/node", version="1.0.0"), WantedBuildpack(id="acme/run", version="2")),
)


def planned(files: dict[str, str], **build_args: str) -> BuildpacksPlan:
    return plan_buildpacks(DictTree(files), BUILDER, because="there is no Dockerfile", build_args=build_args)


def test_a_plan_is_the_request_over_the_project() -> None:
    plan = planned({"project.toml": SCHEMA_2}, BP_B="of the request", BP_C="3")
    assert plan.arguments == (("BP_A", ""), ("BP_B", "of the request"), ("BP_C", "3"))
    assert [(one.id, one.version, one.optional) for one in plan.order] == [
        ("acme/node", "1.0.0", False),
        ("acme/run", "2", True),
    ]
    assert plan.warnings and plan.exclude == ("*.log", "!keep.log", "/docs/")
    assert planned({}).order == ()
    with pytest.raises(BuildError) as refused:
        planned({}, NODE_ENV="x")
    assert refused.value.reason == "BuildArgUnknown"


def test_the_key_is_all_that_decides_the_image() -> None:
    def key(plan: BuildpacksPlan, **changed: str) -> str:
        values = {
            "organization": "acme",
            "code_hash": "c",
            "builder": "r/b@sha256:1",
            "run_image": "r/r@sha256:2",
            **changed,
        }
        return key_of(plan, **values)

    plain = planned({})
    changed = (
        {"organization": "other"},
        {"code_hash": "d"},
        {"builder": "r/b@sha256:3"},
        {"run_image": "r/r@sha256:3"},
    )
    keys = {key(plain, **one) for one in changed}
    keys |= {key(planned({}, BP_A="1")), key(planned({"project.toml": SCHEMA_2})), key(plain)}
    assert len(keys) == 7
    assert key(plain, builder="mirror/b@sha256:1") == key(plain), "where an image lies decides nothing"
    assert materials_of(builder="r/b@sha256:1", run_image="r/r@sha256:2", archive="sha256:3") == (
        ("buildpacks", "sha256:1"),
        ("r/r", "sha256:2"),
        ("context", "sha256:3"),
    )
