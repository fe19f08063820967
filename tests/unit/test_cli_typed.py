"""Every command that we tell people to type is one that our own parser takes, and every page that we name is there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import click
import pytest

from builder.cli.app import EXAMPLES, app, valued_options
from builder.cli.options import split_common
from builder.cli.stop import Stop
from builder.errors import REASONS
from tests.cli_fixtures import run

ROOT = Path(__file__).resolve().parents[2]
PROG = "ignite-builder"
VALUE = "4444"
"""Stands for an id as well as for a number."""
OURS = {"ctx.prog", "self.prog", "PROG", "PROGRAM"}
NAMED_IN = (PROG, ".prog", "PROG")
"""What a file has that names a command: no other one is parsed."""
COMMAND = re.compile(rf"(?<!another )\b{PROG}(?! itself)((?: (?:--?[a-z][a-z-]*(?:=\S+)?|[\w./|-]+))+)")
PAGE = re.compile(r"\bdocs/[a-z-]+\.md\b")


def parse(words: list[str]) -> None:
    """Parse a command line as the program does, without running it. Raises what a mistake raises."""
    _, rest = split_common(words, valued_options())
    command: click.Command = app
    while isinstance(command, click.Group) and (rest or not command.invoke_without_command):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(PROG, rest)


def spoken(*words: str) -> Iterator[tuple[str, str]]:
    """(file, text) of each string of the program that is no docstring, in files that have one of these words; a value
    in it is `VALUE`."""
    for path in sorted((ROOT / "builder").rglob("*.py")):
        source = path.read_text()
        if not any(word in source for word in words):
            continue
        tree = ast.parse(source)
        silent = {
            id(part)
            for node in ast.walk(tree)
            for part in ([node.value] if isinstance(node, ast.Expr) else node.values if _is_text(node) else ())
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                yield path.name, node.value
            elif isinstance(node, ast.JoinedStr):
                yield path.name, "".join(_part(part) for part in node.values)


def _is_text(node: ast.AST) -> TypeGuard[ast.JoinedStr]:
    return isinstance(node, ast.JoinedStr)


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return PROG if ast.unparse(part.value) in OURS else VALUE
    assert isinstance(part, ast.Constant)
    return str(part.value)


def commands_in(text: str) -> list[list[str]]:
    return [[word.rstrip(".,:;") for word in found.split()] for found in COMMAND.findall(text)]


TYPED = sorted(
    {
        (file, *words)
        for file, text in spoken(*NAMED_IN)
        for words in commands_in(text)
        # The name of a command, or the question after it, is what the text is about: no command of its own.
        if words[0] not in (VALUE, "COMMAND") and "--help" not in words
    }
)


def test_the_search_finds_what_we_say() -> None:
    assert ("errors.py", "doctor") in TYPED and len(TYPED) > 15


@pytest.mark.parametrize("typed", TYPED, ids=" ".join)
def test_a_command_that_we_name_is_one(typed: tuple[str, ...]) -> None:
    parse([word for word in typed[1:] if "|" not in word])


@pytest.mark.parametrize("name", sorted(REASONS))
def test_what_a_reason_says_to_do_can_be_done(name: str) -> None:
    for words in commands_in(REASONS[name].hint):
        parse(words)
    for page in PAGE.findall(REASONS[name].hint):
        assert (ROOT / page).is_file()


def test_a_page_that_we_name_is_there() -> None:
    pages = {(file, page) for file, text in spoken("docs/") for page in PAGE.findall(text)}
    assert pages and not [each for each in pages if not (ROOT / each[1]).is_file()]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_command_has_two_examples_that_our_parser_takes(name: str) -> None:
    ran = run(*name.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert all(example in ran.out for example in EXAMPLES[name])
    assert len(EXAMPLES[name]) >= 2
    for example in EXAMPLES[name]:
        parse(shlex.split(example.partition("<")[0]))


@pytest.mark.parametrize("words", [["logs", "--fail"], ["get", "k7m2", "x"], ["bases", "make"], ["ls", "--color=x"]])
def test_the_parser_of_this_test_is_no_rubber_stamp(words: list[str]) -> None:
    with pytest.raises((Stop, KeyError, click.UsageError)):
        parse(words)
