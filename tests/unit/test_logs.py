"""What a process writes about itself: no traceback shows a variable, and a line that cannot be written ends nothing."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from builder.logs import configure, event_log, log_to, log_to_stdout, logger

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("nothing_logged")
SECRET = "tok-4f1c9a77e2d0"


def trouble(log: Any) -> None:
    """An error in a frame that holds a secret, as those of an owner do."""
    grant, secrets = {"redis_url": f"redis://:{SECRET}@redis/0"}, [SECRET]
    try:
        raise RuntimeError(f"{len(grant) + len(secrets)} things")
    except RuntimeError as error:
        log.error("an owner failed", action="owner-failed", error=repr(error), exc_info=True)


def test_no_traceback_of_a_process_shows_a_variable_with_rich_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.util.find_spec("rich"), "with it structlog's own form shows them"
    trouble(structlog.get_logger("another's"))
    assert SECRET in capsys.readouterr().out, "so this is what is to be seen where nothing is configured"
    trouble(logger("node"))
    said = capsys.readouterr()
    assert said.out == "" and SECRET not in said.err
    assert re.match(r"[0-9-]{10} [0-9:]{8} \[error +\] an owner failed +action=owner-failed error=", said.err), said.err
    assert "Traceback (most recent call last):\n" in said.err and "RuntimeError: 2 things\n" in said.err


def test_whatever_else_logs_in_a_server_shows_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    trouble(structlog.get_logger("of a pipeline that an operator added"))
    said = capsys.readouterr()
    assert "RuntimeError: 2 things" in said.err and SECRET not in said.err + said.out


@pytest.mark.parametrize("where", ["file", "stdout", "events"])
def test_lines_of_json_have_level_and_trace_and_no_variable(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = io.StringIO(), tmp_path / "run/control.log"
    if where == "file":
        log_to(path)
    elif where == "stdout":
        log_to_stdout()
    trouble(event_log(out) if where == "events" else logger("local"))
    text = path.read_text() if where == "file" else out.getvalue() or capsys.readouterr().out
    assert SECRET not in text
    (line,) = map(json.loads, text.splitlines())
    assert (line["level"], line["event"], line["action"]) == ("error", "an owner failed", "owner-failed")
    assert line["exception"].endswith("RuntimeError: 2 things")


def test_only_one_module_configures_and_makes_loggers() -> None:
    """Any other way to one has the form that shows variables."""
    found = re.compile(
        r"^\s*(import structlog|from structlog\b(?!\.typing import FilteringBoundLogger$).*)", re.MULTILINE
    )
    users = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "builder").rglob("*.py") if found.search(path.read_text())
    }
    assert users == {"builder/logs.py"}


def test_no_url_in_a_line_has_a_login(capsys: pytest.CaptureFixture[str]) -> None:
    """httpx repeats the whole URL in the error of a status, and a report's may have a login."""
    for log in (logger("node"), event_log(sys.stderr)):
        log.error("x", error=f"404 for url 'https://u:{SECRET}@reports.test/a@b'", server="https://plain.test/@scope/x")
    said = capsys.readouterr().err
    assert SECRET not in said and said.count("https://***@reports.test/a@b") == 2, said
    assert said.count("https://plain.test/@scope/x") == 2


# --- a line that cannot be written


class Broken(io.StringIO):
    """A stream whose disk is full or whose reader has gone: the error comes with the write, or with the flush."""

    def __init__(self, error: Exception, at: str) -> None:
        super().__init__()
        self._error, self._at = error, at

    def write(self, text: str) -> int:
        if self._at == "write":
            raise self._error
        return super().write(text)

    def flush(self) -> None:
        if self._at == "flush":
            raise self._error


ERRORS = [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe"), ValueError("I/O on closed file")]


@pytest.mark.parametrize("at", ["write", "flush"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_cannot_be_written_is_lost_and_raises_nothing(
    error: Exception, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_log(Broken(error, at)).error("x", action="y")
    monkeypatch.setattr("sys.stderr", Broken(error, at))
    logger("node").error("x", action="y")
    monkeypatch.setattr("sys.stdout", Broken(error, at))
    log_to_stdout()
    logger("broker").error("x", action="y")


def test_a_closed_stream_and_none_at_all_raise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    logger("node").error("x")
    closed = io.StringIO()
    closed.close()
    event_log(closed).error("x")


def test_lines_come_again_once_there_is_room(tmp_path: Path) -> None:
    """A file that cannot be opened is looked for again with the next line."""
    (tmp_path / "run").write_text("a file where the folder shall be")
    log_to(tmp_path / "run/control.log")
    logger("local").error("lost")
    (tmp_path / "run").unlink()
    logger("local").error("kept")
    (line,) = (tmp_path / "run/control.log").read_text().splitlines()
    assert json.loads(line)["event"] == "kept"


def test_a_character_that_the_stream_has_not_is_written_as_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(written, encoding="ascii"))
    logger("node").error("änders", path="a\udce4")
    assert b"\\xe4nders" in written.getvalue() and b"\\udce4" in written.getvalue()
