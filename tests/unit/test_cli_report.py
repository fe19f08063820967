"""What the report of a bug of ours holds: nothing that may be a secret, in whatever form it was typed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from builder.cli.app import app, valued_options
from builder.cli.options import COMMON_NAMES
from builder.cli.report import HIDDEN, PAIRS, SHOWN, URLS, without_values
from builder.settings import Settings
from tests.cli_fixtures import run

SECRET = "s3cret-word"


def report_of(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str, says: str = "", **settings: Any) -> str:
    """The report of a bug in a command that these words were typed for."""

    def broken(*args: object, **given: object) -> int:
        raise ZeroDivisionError(says)

    for name in ("build.build", "operate.run", "secret.save", "read.ls"):
        monkeypatch.setattr(f"builder.cli.commands.{name}", broken)
    ran = run(*words, settings=Settings(data_dir=str(folder), **settings))
    assert ran.code == 10, ran
    (report,) = (folder / "reports").iterdir()
    assert str(report) in ran.err
    return report.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("build", ".", "--build-arg", f"KEY={SECRET}"),
        ("build", ".", f"--build-arg=KEY={SECRET}"),
        ("build", ".", "--build-arg", f"KEY=a={SECRET}"),
        ("run", "k7m2", "--env", f"KEY={SECRET}"),
        ("run", "k7m2", f"--env=KEY={SECRET}"),
        ("build", ".", "--start", f"./app --token {SECRET}"),
        ("build", ".", f"--start=./app --token={SECRET}"),
        ("build", "--git", f"https://ada:{SECRET}@git.test/a.git"),
        ("build", f"--git=https://{SECRET}@git.test/a.git#main"),
        ("build", "--image", f"https://ada:{SECRET}@registry.test/a:1"),
        ("build", f"https://ada:{SECRET}@git.test/a.git"),
        ("ls", f"--server=https://ada:{SECRET}@ignite.test"),
        ("ls", "--server", f"https://ada:{SECRET}@ignite.test?token={SECRET}"),
        ("ls", "--label", f"deploy={SECRET}"),
        ("secret", "set", "hub", "--type", "registry", "--username", SECRET),
    ],
)
@pytest.mark.parametrize("is_quoted", [False, True], ids=["typed", "quoted by the trace"])
def test_a_report_holds_no_value_that_may_be_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], *, is_quoted: bool
) -> None:
    text = report_of(monkeypatch, tmp_path, *words, says=f"cannot work with {SECRET}" if is_quoted else "")
    assert SECRET not in text
    assert f"argv: ['{words[0]}'" in text and "ZeroDivisionError" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"token": SECRET},
        {"registry_password": SECRET},
        {"server": f"https://ada:{SECRET}@ignite.test"},
        {"redis_url": f"redis://:{SECRET}@127.0.0.1/0"},
        {"store_url": f"postgresql://ada:{SECRET}@db/x"},
    ],
)
def test_a_setting_is_hidden_where_the_trace_quotes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    text = report_of(monkeypatch, tmp_path, "ls", says=f"no header: b'Bearer {SECRET}'", **settings)
    assert SECRET not in text and "b'Bearer ***'" in text


def test_what_is_no_secret_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("build", "./app", "--tag", "v1", "--name=thumbs", "--no-cache", "--build-arg", "K=x", "--label=a=b")
    text = report_of(monkeypatch, tmp_path, *words)
    shown = "['build', './app', '--tag', 'v1', '--name=thumbs', '--no-cache', '--build-arg', 'K=***', '--label=a=***']"
    assert f"argv: {shown}" in text


@pytest.mark.parametrize("words", [("--evn", f"KEY={SECRET}"), (f"--proxy={SECRET}",), ("--", f"KEY={SECRET}")])
def test_a_mistyped_option_shows_no_value_either(words: tuple[str, ...]) -> None:
    assert SECRET not in " ".join(without_values(["run", *words]))


def test_a_report_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = os.umask(0)
    try:
        report_of(monkeypatch, tmp_path, "build", ".", "--tag", "v1")
    finally:
        os.umask(former)
    (report,) = (tmp_path / "reports").iterdir()
    assert report.stat().st_mode & 0o777 == 0o600


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from commands(inner)


def test_every_option_with_a_value_is_in_one_list() -> None:
    """Its value is shown only where somebody has said that it may be."""
    options = {opt for each in commands(app) for param in each.params for opt in param.opts if opt.startswith("-")}
    flags = {
        opt
        for each in commands(app)
        for param in each.params
        if isinstance(param, click.Option) and param.is_flag
        for opt in param.opts
    }
    lists = (SHOWN, PAIRS, URLS, HIDDEN)
    assert frozenset().union(*lists) == options - flags | {"--color", "--server"}
    assert options - flags == valued_options() and {"--color", "--server"} <= set(COMMON_NAMES)
    assert not any(one & other for one, other in itertools.combinations(lists, 2))
