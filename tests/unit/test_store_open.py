"""A store that cannot be opened is refused in words: what it is, whose fault, what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from builder.errors import BuildError
from builder.store import engine
from builder.store.engine import open_store

pytestmark = pytest.mark.migrates


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@db.test/x",
        "postgresql+asyncpg://u:hunter2@db.test/x",
        "sqlite+aiosqlite:////x.db",
        "no url hunter2",
        "postgresql://u:hunter2@db.test:port/x",
    ],
)
def test_a_store_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(BuildError) as caught:
        open_store(url)
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "store_url")
    assert "postgresql://USER@HOST" in caught.value.next
    assert "hunter2" not in caught.value.message


def test_a_file_that_cannot_be_made_is_ours_and_names_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "file" / "x.db", tmp_path / "folder.db"):
        with pytest.raises(BuildError, match=str(path)) as caught:
            open_store(f"sqlite:///{path}")
        assert (caught.value.reason, caught.value.where, caught.value.row.exit_code) == ("Internal", "store_url", 75)
        assert "store_url" in caught.value.next


def test_a_full_disk_is_named_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection) -> None:
        cause = sqlite3.OperationalError("database or disk is full")
        cause.sqlite_errorname = "SQLITE_FULL"
        raise OperationalError("CREATE TABLE", {}, cause)

    monkeypatch.setattr(engine, "_migrate", fail)
    with pytest.raises(BuildError, match="database or disk is full") as caught:
        open_store(f"sqlite:///{tmp_path / 'store.db'}")
    assert (caught.value.reason, caught.value.where) == ("NodeDiskFull", str(tmp_path / "store.db"))
    assert caught.value.next == "Free space on its disk." and caught.value.row.exit_code == 75


def test_no_error_of_a_statement_has_what_it_carries(tmp_path: Path) -> None:
    """Its text goes into the log with the trace of an unforeseen error, and build arguments are in statements."""
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with pytest.raises(OperationalError) as caught, store.transaction() as tx:
        tx.execute(text("insert into nowhere values (:value)"), {"value": "hunter2"})
    assert "insert into nowhere" in str(caught.value) and "hunter2" not in str(caught.value)
    store.engine.dispose()
