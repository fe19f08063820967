"""Modes, colours and symbols by stream and environment; the options that every command takes."""

from __future__ import annotations

import pytest

from builder.cli.options import Common, check_id, pairs, seconds, split_common, wants_json
from builder.cli.stop import Stop
from builder.cli.terminal import ASCII, UNICODE, Look, When, columns_of, rows_of, use_ascii, use_colour, use_live


@pytest.mark.parametrize(
    ("when", "env", "terminal", "expected"),
    [
        ("auto", {"TERM": "xterm"}, True, True),
        ("auto", {"TERM": "xterm"}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"CLICOLOR_FORCE": "1"}, False, True),
        ("auto", {"CLICOLOR_FORCE": "0"}, False, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_precedence(when: When, env: dict[str, str], terminal: bool, expected: bool) -> None:
    assert use_colour(when, env, is_terminal=terminal) is expected


@pytest.mark.parametrize(
    ("env", "terminal", "columns", "plain", "expected"),
    [
        ({"TERM": "xterm"}, True, 60, False, True),
        ({"TERM": "xterm"}, True, 59, False, False),
        ({"TERM": "xterm"}, False, 88, False, False),
        ({"TERM": "xterm"}, True, 88, True, False),
        ({"TERM": "dumb"}, True, 88, False, False),
        ({}, True, 88, False, False),
        ({"TERM": "xterm", "CI": "true"}, True, 88, False, False),
    ],
)
def test_live_view(env: dict[str, str], terminal: bool, columns: int, plain: bool, expected: bool) -> None:
    assert use_live(env, is_terminal=terminal, columns=columns, plain=plain) is expected


@pytest.mark.parametrize(
    ("env", "flag", "expected"),
    [
        ({"LANG": "de_DE.UTF-8"}, False, False),
        ({"LANG": "de_DE.utf8"}, False, False),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, False, True),
        ({}, False, True),
        ({"LANG": "de_DE.UTF-8"}, True, True),
    ],
)
def test_ascii(env: dict[str, str], flag: bool, expected: bool) -> None:
    assert use_ascii(env, flag=flag) is expected


def test_both_symbol_sets_have_the_same_columns_and_ascii_is_ascii() -> None:
    for name in ("done", "same", "failed", "warning", "waiting"):
        assert len(getattr(ASCII, name)) == len(getattr(UNICODE, name)) == 1
        assert getattr(ASCII, name).isascii()
    assert ASCII.ellipsis.isascii() and ASCII.spinner.isascii()


def test_paint_sends_nothing_without_colour() -> None:
    assert Look().paint("red", "FAILED") == "FAILED"
    assert Look(colour=True).paint("red", "FAILED") == "\x1b[31mFAILED\x1b[0m"


def test_size_of_the_environment_beats_the_terminal() -> None:
    assert columns_of(100, {"COLUMNS": "72"}) == 72
    assert columns_of(100, {"COLUMNS": "wide"}) == 100
    assert rows_of(24, {}) == 24


def test_common_options_stand_anywhere() -> None:
    common, rest = split_common(["--json", "get", "-vv", "k7m2", "--color=never", "--server", "http://x", "-q"])
    assert rest == ["get", "k7m2"]
    assert common == Common(json=True, verbose=2, color="never", server="http://x", quiet=True)


def test_values_and_what_follows_two_dashes_are_left_alone() -> None:
    common, rest = split_common(["build", "--name", "--json", ".", "--", "-q"], frozenset({"--name"}))
    assert common == Common()
    assert rest == ["build", "--name", "--json", ".", "--", "-q"]
    assert wants_json(["get", "--json"]) and not wants_json(["get", "--", "--json"])


@pytest.mark.parametrize("argv", [["--color=blue"], ["--color"], ["--server="], ["--server"]])
def test_wrong_common_options_are_named(argv: list[str]) -> None:
    with pytest.raises(Stop) as caught:
        split_common(argv)
    assert caught.value.exit_code == 2
    assert argv[0].partition("=")[0] in caught.value.message


def test_times_and_pairs() -> None:
    assert [seconds(text) for text in ("600", "90s", "10m", "1h")] == [600, 90, 600, 3600]
    assert pairs(["A=1", "B=x=y", "C="], "--build-arg") == {"A": "1", "B": "x=y", "C": ""}
    for bad in ("", "0", "ten", "1d", "-5", "1.5m"):
        with pytest.raises(Stop, match="--timeout"):
            seconds(bad)
    for wrong in (["A"], ["=1"], ["A=1", "A=2"]):
        with pytest.raises(Stop, match="--build-arg"):
            pairs(wrong, "--build-arg")


def test_ids() -> None:
    assert check_id("k7m2") == "k7m2"
    for bad in ("k7m", "K7M2", "k7m2/..", "k" * 21):
        with pytest.raises(Stop) as caught:
            check_id(bad)
        assert caught.value.exit_code == 2
