"""A folder that cannot be written, a full store, a limit that is reached: the machine's condition, no bug of ours."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from builder.cli.commands import about
from builder.cli.stop import DISK_ERRORS, of_disk, of_limit
from builder.settings import Settings
from tests.cli_fixtures import Ran, run

FOLDERS = {"data_dir": "/home/ada/.local/share/ignite-builder", "node_dir": "/var/lib/ignite-builder"}


@pytest.mark.parametrize("number", sorted(DISK_ERRORS))
@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/home/ada/.local", "data_dir"),
        ("/home/ada/.local/share/ignite-builder/builder.db", "data_dir"),
        ("/var/lib/ignite-builder/work/x", "node_dir"),
    ],
    ids=["above", "below", "of the node"],
)
def test_the_setting_is_named_and_the_platform_at_fault(number: int, path: str, setting: str) -> None:
    found = of_disk(OSError(number, "words", path), FOLDERS)
    assert found is not None
    assert (found.exit_code, found.error_class, found.where) == (75, "platform", setting)
    assert path in found.message and "words" in found.message
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert (found.reason == "NodeDiskFull") is full
    assert ("Free space" if full else f"IGNITE_BUILDER_{setting.upper()}=FOLDER") in found.next


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, "words", "/etc/passwd"),
        OSError(errno.EROFS, "words"),
        OSError(errno.EBADF, "words", "/var/lib/ignite-builder/x"),
    ],
    ids=["elsewhere", "nameless", "another error"],
)
def test_any_other_error_stays_a_bug_of_ours(error: OSError) -> None:
    assert of_disk(error, FOLDERS) is None


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    ran = run("ls", settings=Settings(data_dir=str(tmp_path / "home" / "data"), node_dir=str(tmp_path / "node")))
    assert ran.code == 75 and "REFUSED  Internal" in ran.err and "data_dir" in ran.err, ran
    assert "bug of ours" not in ran.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_the_folder_for_temporary_files_is_named_by_its_variable(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp/mine")
    copied = OSError(number, "words", "/src/a.py", None, "/tmp/mine/ignite-plan-1/src/a.py")
    ran = _run_into(copied, tmp_path, monkeypatch)
    assert ran.code == 75 and "ignite-plan-1/src/a.py cannot be written: words" in ran.err, ran
    assert "TMPDIR" in ran.err and "IGNITE_BUILDER_TMPDIR" not in ran.err


def test_a_machine_without_a_folder_for_temporary_files_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    def none() -> str:
        raise error

    monkeypatch.setattr(tempfile, "gettempdir", none)
    ran = _run_into(error, tmp_path, monkeypatch)
    assert ran.code == 75 and "No usable temporary directory" in ran.err and "TMPDIR=FOLDER" in ran.err, ran


_LIMITS = [
    (OSError(errno.EMFILE, "Too many open files", "/x.py"), "open files"),
    (OSError(errno.ENFILE, "Too many open files in system"), "open files"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "processes or threads"),
    (RuntimeError("can't start new thread"), "processes or threads"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
    (MemoryError(), "memory"),
]


@pytest.mark.parametrize(("error", "what"), _LIMITS, ids=[repr(error) for error, _ in _LIMITS])
def test_a_limit_that_is_reached_is_named_with_what_mends_it(
    error: Exception, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _run_into(error, tmp_path, monkeypatch)
    assert ran.code == 75 and f"no more {what}" in ran.err and "Raise the limit" in ran.err, ran
    assert "bug of ours" not in ran.err and "BROKEN" not in ran.err
    assert not (tmp_path / "data" / "reports").exists()


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError(errno.EBADF, "words"), ValueError("x")], ids=repr)
def test_any_other_error_is_no_limit(error: Exception) -> None:
    assert of_limit(error) is None


def _sqlite(name: str, words: str) -> OperationalError:
    cause = sqlite3.OperationalError(words)
    cause.sqlite_errorname = name
    return OperationalError("INSERT", {}, cause)


def test_a_full_store_is_the_disks_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _run_into(_sqlite("SQLITE_FULL", "database or disk is full"), tmp_path, monkeypatch)
    assert ran.code == 75 and "NodeDiskFull" in ran.err and "data_dir" in ran.err, ran
    assert "database or disk is full" in ran.err and "Free space" in ran.err


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_BUSY", "SQLITE_READONLY", "SQLITE_CORRUPT"])
def test_a_store_that_does_not_answer_is_the_machines_fault(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = _run_into(_sqlite(name, "words"), tmp_path, monkeypatch)
    assert ran.code == 75 and "the store does not answer: words" in ran.err and "Internal" in ran.err, ran


def test_a_statement_that_the_store_refuses_stays_a_bug_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run_into(_sqlite("SQLITE_ERROR", "no such table: x"), tmp_path, monkeypatch).code == 10


def _run_into(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The program where a command raises this."""

    def fail(*args: object) -> int:
        raise error

    monkeypatch.setattr(about, "reasons", fail)
    settings = Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node"))
    return run("reasons", settings=settings)
