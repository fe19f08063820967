"""Dockerfiles before a build: what is wrong, where and what to do. Hostile ones are in tests/slow."""

from __future__ import annotations

import pytest

from builder.dockerfile.allowed import require_allowed
from builder.dockerfile.check import Checked, check
from builder.dockerfile.context import MOST_COMPARED, Context
from builder.dockerfile.read import _json
from builder.dockerfile.words import Bad
from builder.errors import BuildError
from builder.globs import moby_patterns

FILES = ("app.py", "src/main.go", "src/lib/a.c", "requirements.txt", "docs/a.md", "docs/b.md")


def context(*files: str, ignore: bytes = b"") -> Context:
    paths = {"/".join(file.split("/")[:n]) for file in files or FILES for n in range(1, file.count("/") + 2)}
    return Context(paths=sorted(paths), ignored=moby_patterns(ignore))


def checked(text: str, *, ignore: bytes = b"", **build_args: str) -> Checked:
    return check(text.encode(), context(ignore=ignore), build_args)


def refused(text: str, *, ignore: bytes = b"", **build_args: str) -> BuildError:
    with pytest.raises(BuildError) as raised:
        checked(text, ignore=ignore, **build_args)
    error = raised.value
    assert (error.reason, str(error.error_class)) == ("DockerfileInvalid", "user_code")
    assert error.next and error.message.isprintable() and all(line.isprintable() for line in error.said)
    return error


MISTAKES = [
    ("FORM alpine\n", "1:1", 'there is no instruction "FORM"; is FROM meant?'),
    ("RUN make\nFROM alpine\n", "1:1", "RUN stands before the first FROM"),
    ("# syntax=docker/dockerfile:1\n\n# nothing\n", "1:1", "Dockerfile has no instruction"),
    ("ARG A=1\n", "1:1", "there is no FROM"),
    ("FROM\n", "1:1", "FROM takes an image, and maybe AS with a name: FROM IMAGE [AS NAME]"),
    ("FROM a b\n", "1:1", "FROM takes an image, and maybe AS with a name: FROM IMAGE [AS NAME]"),
    ("FROM Alpine\n", "1:6", 'FROM "Alpine" names no repository: lower-case parts with / between them'),
    ("FROM alpine:\n", "1:6", 'FROM "alpine:" has no tag behind its colon'),
    ("FROM ${BASE}\n", "1:6", "FROM ${BASE} names no image: BASE has no value"),
    ("FROM alpine AS 1st\n", "1:1", '"1st" cannot name a stage: a letter first, then letters, digits, - _ and .'),
    ("FROM alpine\nCOPY app.py\n", "2:1", "COPY takes sources and a destination, 1 of them is given"),
    ("FROM alpine\nCOPY ap.py .\n", "2:6", 'COPY names "ap.py", which is not in the context; there is "app.py"'),
    ("FROM alpine\nCOPY \\\n  app.py \\\n  main.go /x/\n", "4:3",
     'COPY names "main.go", which is not in the context; there is "src/main.go"'),
    ("FROM alpine\nADD ../secret /\n", "2:5", 'ADD names "../secret", which is not in the context'),
    ("FROM alpine\nCOPY --from=build /a /b\nFROM alpine AS build\n", "", ""),
    ("FROM alpine AS a\nCOPY --from=b /a /b\nFROM alpine AS b\n", "2:13",
     "--from=b is this stage itself or a later one: no stage is before it"),
    ("FROM alpine AS a\nFROM alpine\nCOPY --from=1 /a /b\n", "3:13", "--from=1 is no stage: before it are a"),
    ("FROM alpine AS a\nFROM alpine\nCOPY --from=A:B:C /a /b\n", "3:13",
     '--from=A:B:C is no stage (before it are a) and no image: "A:B:C" has no tag behind its colon'),
    ("FROM alpine\nRUN --mount=from=9,target=/x make\n", "2:18", "--from=9 is no stage: no stage is before it"),
    ("FROM alpine\nRUN --mont=type=cache make\n", "2:1",
     "RUN has no flag --mont; it takes --mount, --network, --security, --device"),
    ("FROM alpine\nRUN <<EOF\nmake\n", "2:1", 'the heredoc "EOF" has no end: a line that is just this word'),
    ("FROM alpine\nENV A\n", "2:1", "ENV takes a name and a value: ENV NAME=VALUE"),
    ("FROM alpine\nENV A=1 B\n", "2:1",
     '"B" of ENV has no =; write NAME=VALUE, and quotes around a value with spaces'),
    ("FROM alpine\nSHELL /bin/bash -c\n", "2:1", 'SHELL takes a list in brackets: SHELL ["/bin/sh", "-c"]'),
    ("FROM alpine\nCMD [1]\n", "2:1", "a list in brackets takes strings in double quotes alone"),
    ("FROM alpine\nHEALTHCHECK --interval=5 CMD x\n", "2:1", '--interval is "5"; it takes a time such as 30s or 1m30s'),
    ("FROM alpine\nHEALTHCHECK curl x\n", "2:1", 'HEALTHCHECK takes CMD or NONE, not "curl"'),
    ("FROM alpine\nONBUILD FROM x\n", "2:1", "ONBUILD cannot trigger FROM"),
    ("FROM alpine\nUSER\n", "2:1", "USER takes one argument, 0 are given"),
    ("FROM alpine\n\tworkdri /x\n", "2:2", 'there is no instruction "workdri"; is WORKDIR meant?'),
    ("# escape=x\nFROM alpine\n", "1:1", 'escape is "x"; it takes \\ or `'),
    ("FROM alpine\nRUN a \\\n# why\n && \x1b[2Jb\nbad\n", "5:1", 'there is no instruction "bad"; is ADD meant?'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_has_its_place_and_words(text: str, where: str, message: str) -> None:
    if not where:  # an image of Docker Hub has the name that a later stage has
        assert refused(text).where == "Dockerfile:2:13"
        return
    error = refused(text)
    assert (error.where, error.message) == (f"Dockerfile:{where}", message)


def test_the_line_and_the_next_step_are_in_the_error() -> None:
    error = refused("ARG TAG\nFROM alpine:3\nCOPY --chown=1:1 requirments.txt /x\n")
    assert error.said == ("COPY --chown=1:1 requirments.txt /x",)
    assert error.next.startswith("Paths count from the context's root")
    assert refused("FROM ${BASE}\n").next == (
        "Declare it before the first FROM, ARG BASE=IMAGE, or give it: --build-arg BASE=IMAGE"
    )


@pytest.mark.parametrize(
    "text",
    [
        "from alpine as Build\nfrom build\ncopy --from=BUILD /a /b\n",
        "\ufeffFROM alpine\r\nRUN a \\\r\n  b\r\n",
        "# escape=`\nFROM alpine\nRUN a `\n b\n",
        "FROM alpine\nRUN <<-'EOF' cat\n\tFROM here\n\tEOF\nRUN true\n",
        "FROM alpine\nCOPY <<one <<two app.py /x/\n1\none\n2\ntwo\n",
        "FROM alpine\nADD https://example.com/x git@example.com:a/b.git#v1 /x/\n",
        "FROM alpine\nCOPY . /x\nCOPY / /y\nCOPY ./src/ src/lib/../main.go docs/*.md /z/\n",
        "FROM alpine\nCOPY $UNKNOWN/x ${FROM_BASE}/y /z/\n",
        'FROM alpine\nCOPY ["app.py", "src", "/x/"]\n',
        "FROM scratch\nCOPY --link --chmod=755 app.py /\n",
        "FROM alpine\nCOPY --from=nginx:1 /etc /etc\nCOPY --from=ghcr.io/a/b@sha256:" + "0" * 64 + " /a /b\n",
        "FROM --platform=$BUILDPLATFORM alpine\nRUN --mount=type=cache,target=/c --mount=type=secret,id=x make\n",
        "FROM alpine\nENV D=src\nARG F=main.go\nCOPY $D/${F} ${X:-app.py} /x/\n",
        "FROM alpine\nHEALTHCHECK --interval=1m30s --retries=3 CMD curl x\nSTOPSIGNAL 9\nVOLUME /a /b\n",
        "FROM alpine\nONBUILD COPY not-here /x\nMAINTAINER me\n",
        "FROM alpine\nRUN\nCMD\nENTRYPOINT []\n",
    ],
    ids=range(16),
)
def test_what_builds_passes(text: str) -> None:
    assert checked(text).warnings == ()


def test_bases_are_listed_without_stages_and_scratch() -> None:
    text = "ARG V=3\nARG IMAGE=r.example.com/b:$V\nFROM $IMAGE AS a\nFROM a\nFROM scratch\nFROM alpine:${V:-9}\n"
    assert checked(text).bases == ("r.example.com/b:3", "docker.io/library/alpine:3")
    assert checked(text, V="4", IMAGE="x").bases == ("docker.io/library/x:latest", "docker.io/library/alpine:4")


def test_a_variable_of_the_stage_is_followed_and_one_of_the_base_is_not() -> None:
    assert refused("FROM alpine\nARG F=none.py\nCOPY $F /x\n").where == "Dockerfile:3:6"
    checked("FROM alpine\nARG F=none.py\nCOPY $F /x\n", F="app.py")
    checked("FROM alpine\nARG F\nCOPY $F /x\n")
    assert refused("ARG F=none.py\nFROM alpine\nARG F\nCOPY $F /x\n").where == "Dockerfile:4:6"
    checked("ARG F=none.py\nFROM alpine\nCOPY $F /x\n")  # empty there, as it is in a build
    checked("FROM alpine\nENV F=$PATH\nCOPY $F /x\n")


def test_what_an_ignore_file_leaves_out_is_named_with_its_line() -> None:
    error = refused("FROM alpine\nCOPY docs /x\n", ignore=b"# text\n*.log\ndocs\n")
    assert error.message == 'COPY names "docs", which .dockerignore:3 leaves out ("docs")'
    assert error.next == "Take it out of .dockerignore:3, or add a line !docs behind it."
    checked("FROM alpine\nCOPY docs /x\n", ignore=b"docs\n!docs/a.md\n")
    checked("FROM alpine\nCOPY docs/a.md /x\n", ignore=b"docs\n!docs/a.md\n")
    assert refused("FROM alpine\nCOPY docs/b.md /x\n", ignore=b"docs\n!docs/a.md\n").where == "Dockerfile:2:6"
    assert refused("FROM alpine\nCOPY docs/a.md /x\n", ignore=b"**/*.md\n").where == "Dockerfile:2:6"
    checked("FROM alpine\nCOPY . /x\n", ignore=b"*\n")
    assert checked("FROM alpine\nCOPY docs/*.md /x\n", ignore=b"docs\n").warnings == (
        "Dockerfile:2: COPY docs/*.md matches no file of the context",
    )


def test_a_stage_that_is_mistyped_is_a_warning_since_an_image_may_be_meant() -> None:
    rows = {
        "FROM alpine AS builder\nFROM alpine\nCOPY --from=biulder /a /b\n": ("3:13", "--from=biulder", "builder"),
        "FROM alpine AS build\nFROM biuld\n": ("2:6", "FROM biuld", "build"),
        "ARG B=buidl\nFROM alpine AS build\nFROM $B\n": ("3:6", "FROM buidl", "build"),
        "FROM alpine AS build\nFROM alpine\nRUN --mount=type=bind,from=biuld,target=/x ls\n": (
            "3:28", "--from=biuld", "build",
        ),
    }  # fmt: skip
    for text, (place, what, stage) in rows.items():
        words = f'{what} is no stage, so an image of Docker Hub; is the stage "{stage}" meant?'
        found = checked(text)
        assert found.warnings == (f"Dockerfile:{place}: {words}",)
        assert found.mistyped == ((what.removeprefix("--from=").removeprefix("FROM "), stage),)


@pytest.mark.parametrize("name", ["nginx", "node", "golang", "biuld:latest", "acme/biuld", "r.example/biuld", "other"])
def test_a_name_that_is_an_images_is_no_slip(name: str) -> None:
    stages = "".join(f"FROM alpine AS {one}\n" for one in ("nginx1", "nodes", "golangs", "build"))
    assert checked(f"{stages}FROM {name}\nCOPY --from={name} /a /b\n").warnings == ()


def test_an_allow_list_that_refuses_a_mistyped_stage_names_the_stage() -> None:
    text = "FROM r.example/alpine:3 AS build\nFROM r.example/alpine:3\nCOPY --from=biuld /a /b\n"
    with pytest.raises(BuildError) as error:
        require_allowed(checked(text), ("r.example/*",))
    assert (error.value.reason, error.value.where) == ("DockerfileInvalid", "Dockerfile:3:13")
    assert 'is the stage "build" meant?' in error.value.message and error.value.next == "Name the stage: build"


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.py", True), ("a?p.py", True), ("[a-c]pp.py", True), ("[^a]pp.py", False), ("src/*", True),
        ("*/main.go", True), ("*", True), ("*.go", False), ("src/*/*.c", True), ("\\app.py", True), ("s*/l*/a.?", True),
    ],
)  # fmt: skip
def test_wildcards_are_those_of_go(pattern: str, matches: bool) -> None:
    assert (checked(f"FROM alpine\nCOPY {pattern} /x/\n").warnings == ()) == matches


# Hostile ones


def test_a_folder_is_looked_through_once_whoever_names_it() -> None:
    """A rule with a `!` below it: what is sent of a folder is found out by a look at each of its paths."""
    many = Context(paths=["d", *(f"d/{at}" for at in range(5_000))], ignored=moby_patterns(b"d\n!e"))
    with pytest.raises(BuildError, match="leaves out"):
        check(b"FROM a\nCOPY d /x\n", many)
    once = many.compared
    assert many.left_out("d") is not None and many.compared == once


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """A twentieth of the names that are compared, so that hostile files need to be no larger."""
    assert MOST_COMPARED == 200_000
    monkeypatch.setattr("builder.dockerfile.context.MOST_COMPARED", MOST_COMPARED // 20)
    return MOST_COMPARED // 20


def test_many_wildcards_over_many_files_are_bounded(most: int) -> None:
    many = Context(paths=[f"d/{'a' * 50}{at}" for at in range(1_000)])
    text = "FROM a\n" + "COPY d/*a*a*a*b /x\n" * 1_000
    check(text.encode(), many)
    assert most <= many.compared <= most + 1


def test_a_file_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(BuildError, match="bytes, 1048576 are allowed"):
        check(b"#" * (1024 * 1024 + 1), context())


def test_an_ignore_file_is_compared_within_a_budget(most: int) -> None:
    """Each source again with each rule: half a million sources of one file, and a rule on each line of another."""
    rules = moby_patterns(b"z*\n" * 2000)
    copies = "FROM a\n" + ("COPY " + "a " * 2000 + "/x\n") * 15
    same = Context(paths=["a"], ignored=rules)
    check(copies.encode(), same)
    assert same.compared < 1000, "a path is compared once"
    many = Context(paths=[f"f{number}" for number in range(500)], ignored=rules)
    copies = "FROM a\n" + "".join(f"COPY f{number} /x/\n" for number in range(500))
    check(copies.encode(), many)
    assert most <= many.compared <= most + 1000


def test_a_list_with_half_a_character_is_refused_by_name() -> None:
    with pytest.raises(Bad, match="no character"):
        _json(r'["a\ud800"]')
