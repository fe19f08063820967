"""Files of settings, and those that variables name: what cannot be read is a wrong setting, and none of it is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.config import MOST_BYTES, load
from builder.errors import BuildError
from tests.cli_fixtures import run

CANARY = b"s3cret"
UNREADABLE: Mapping[str, bytes | None] = {
    "no UTF-8": CANARY + b"\xff\xfe\0",
    "Latin-1": 'organization = "s3cret-é"\n'.encode("latin-1"),
    "absent": None,
    "too large": CANARY * MOST_BYTES,
}
NO_TOML = {
    "no TOML": b"organization = s3cret\n",
    "nested too deep": b"tokens = " + b"[" * 100_000,
    "a number too long": b"slots = " + b"9" * 5_000,
}


def refused(environ: Mapping[str, str], where: str) -> None:
    """Settings cannot be loaded: for a client 2, for a worker 75, each with where and what to do."""
    environ = {"HOME": "/nonexistent", **environ}
    with pytest.raises(BuildError) as caught:
        load({}, environ)
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", where)
    assert caught.value.next != caught.value.row.hint and "s3cret" not in str(caught.value)
    for command, code in (("ls", 2), ("config", 2), ("worker", 75), ("watch", 75)):
        ran = run(command, environ=environ, load=load)
        assert (ran.code, ran.out) == (code, ""), ran
        text = "".join(ran.err.split())
        assert "".join(where.split()) in text and "next" in text and "s3cret" not in text


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("variable", ["IGNITE_BUILDER_TOKEN_FILE", "IGNITE_BUILDER_REPORT_KEYS_FILE"])
def test_a_file_that_a_variable_names(tmp_path: Path, variable: str, name: str) -> None:
    path = tmp_path / "file"
    if (data := UNREADABLE[name]) is not None:
        path.write_bytes(data)
    refused({variable: str(path)}, variable)


def in_folder(tmp_path: Path) -> Path:
    path = tmp_path / "ignite-builder" / "config.toml"
    path.parent.mkdir()
    return path


@pytest.mark.parametrize("name", [*NO_TOML, *(name for name in UNREADABLE if name != "absent")])
@pytest.mark.parametrize("is_named", [False, True])
def test_the_settings_file(tmp_path: Path, name: str, *, is_named: bool) -> None:
    path = in_folder(tmp_path)
    path.write_bytes(NO_TOML.get(name) or UNREADABLE[name] or b"")
    if is_named:
        refused({"IGNITE_BUILDER_CONFIG": str(path)}, str(path) if name in NO_TOML else "IGNITE_BUILDER_CONFIG")
    else:
        refused({"XDG_CONFIG_HOME": str(tmp_path)}, str(path))


@pytest.mark.parametrize("name", ["absent.toml", "", "x" * 300])
def test_a_settings_file_that_a_variable_names_has_to_be_there(tmp_path: Path, name: str) -> None:
    """Defaults in its place would be another server, another folder, another list of tokens."""
    refused({"IGNITE_BUILDER_CONFIG": f"{tmp_path}/{name}"}, "IGNITE_BUILDER_CONFIG")
    assert load({}, {"HOME": "/nonexistent", "XDG_CONFIG_HOME": f"{tmp_path}/absent"}).settings.slots == 2


def test_a_settings_file_may_be_a_pipe_and_begin_with_a_mark(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    in_folder(tmp_path).write_bytes(mark + b"slots = 3\r\n")
    assert load({}, {"HOME": "/nonexistent", "XDG_CONFIG_HOME": str(tmp_path)}).settings.slots == 3
    (tmp_path / "token").write_bytes(mark + b"t0ken\r\n")
    with pipe_of(b"slots = 4\n") as path:
        environ = {"IGNITE_BUILDER_CONFIG": path, "IGNITE_BUILDER_TOKEN_FILE": str(tmp_path / "token")}
        settings = load({}, {"HOME": "/nonexistent", **environ}).settings
    assert (settings.slots, settings.token) == (4, "t0ken")


@contextmanager
def pipe_of(data: bytes) -> Iterator[str]:
    """The path of a pipe that holds this, as a shell's `<(…)` has one."""
    end, start = os.pipe()
    try:
        os.write(start, data)
        os.close(start)
        yield f"/dev/fd/{end}"
    finally:
        os.close(end)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("second", ["IGNITE_BUILDER_TOKEN_FILE", "IGNITE_BUILDER_token"])
def test_two_variables_of_one_setting_are_refused_in_either_order(tmp_path: Path, second: str, order: int) -> None:
    """Which of them counted would be an accident of the environment's order."""
    (tmp_path / "token").write_text("s3cret-2", encoding="utf-8")
    both = [("IGNITE_BUILDER_TOKEN", "s3cret-1"), (second, str(tmp_path / "token"))][::order]
    refused(dict(both), both[1][0])


def test_a_variable_of_a_file_names_one() -> None:
    refused({"IGNITE_BUILDER_TOKEN_FILE": ""}, "IGNITE_BUILDER_TOKEN_FILE")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NODE_ID", "s3cret\udcff"),
        ("TOKENS", "[" * 100_000),
        ("TOKENS", "9" * 5_000),
        ("INDEX_ENV", "{a=" + "9" * 5_000),
    ],
)
def test_a_variable_that_no_setting_takes(name: str, text: str) -> None:
    variable = f"IGNITE_BUILDER_{name}"
    environ = {"HOME": "/nonexistent", variable: text}
    with pytest.raises(BuildError) as caught:
        load({}, environ)
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", variable)
    assert "s3cret" not in str(caught.value) and run("ls", environ=environ, load=load).code == 2


def test_the_text_of_a_file_is_taken_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken-e\n", encoding="utf-8")
    environ = {"HOME": "/nonexistent", "IGNITE_BUILDER_TOKEN_FILE": str(tmp_path / "token")}
    assert load({}, environ).settings.token == "t0ken-e"
