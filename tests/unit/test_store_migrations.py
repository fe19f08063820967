"""The migrations make today's tables, once, and know what they do not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine

from builder.errors import BuildError
from builder.store import builds, engine, outbox
from builder.store.engine import open_store
from builder.store.schema import metadata

pytestmark = pytest.mark.migrates

Statements = dict[str, str]


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[Engine]:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield store.engine
    store.engine.dispose()


def statements(engine: Engine) -> Statements:
    """Table or index → the statement that made it. Stricter than autogenerate, which on SQLite takes every default of
    an empty text and every descending index for a difference."""
    with engine.connect() as tx:
        rows = tx.exec_driver_sql("select name, sql from sqlite_master where sql is not null").all()
    # Constraints may come in another order; blanks do not count.
    return {name: " ".join(sorted(re.sub(r"\s+", " ", sql).split(", "))) for name, sql in rows}


def test_the_migrations_make_the_tables_of_the_schema(migrated: Engine, tmp_path: Path) -> None:
    fresh = create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    metadata.create_all(fresh)
    found, wanted = statements(migrated), statements(fresh)
    fresh.dispose()
    del found["alembic_version"]
    assert found == wanted


def test_a_current_store_is_left_as_it_is(migrated: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = statements(migrated)
    monkeypatch.setattr(engine, "_migrate", lambda tx: pytest.fail("the migration tool was loaded for nothing"))
    again = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    again.engine.dispose()
    assert statements(migrated) == before


def test_the_newest_version_is_the_head_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(engine.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [engine.newest_version()]


def test_the_stage_of_a_build_outlives_the_new_name_of_its_column(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    with old.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0002")
        columns = [row.name for row in tx.exec_driver_sql("pragma table_info(builds)") if row.notnull]
        values = dict.fromkeys(columns, 0) | {"build_id": "b" * 20, "status": "RUNNING", "half": "FINALIZE"}
        marks = ", ".join(f":{name}" for name in values)
        tx.exec_driver_sql(f"insert into builds ({', '.join(values)}) values ({marks})", values)
    old.dispose()
    store = open_store(url)
    row = builds.by_id(store, "b" * 20)
    store.engine.dispose()
    assert row is not None and (row["status"], row["stage"]) == ("RUNNING", "FINALIZE")


def test_a_report_that_was_there_before_the_feed_is_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))

    def insert(table: str, **values: object) -> None:
        columns = [row.name for row in tx.exec_driver_sql(f"pragma table_info({table})") if row.notnull]
        values = dict.fromkeys(columns, 0) | values
        marks = ", ".join(f":{name}" for name in values)
        tx.exec_driver_sql(f"insert into {table} ({', '.join(values)}) values ({marks})", values)

    with old.begin() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0008")
        insert("builds", build_id="b" * 20, organization="acme", status="RUNNING")
        insert("reports", id=1, build_id="b" * 20, sequence=1, body="{}", due_at=77)
    old.dispose()
    store = open_store(url)
    (row,) = outbox.feed(store, "acme", 0, 10)
    store.engine.dispose()
    assert (row["build_id"], row["position"], row["created_at"]) == ("b" * 20, 1, 77)


def test_a_store_of_a_newer_version_is_refused_with_words(migrated: Engine, tmp_path: Path) -> None:
    with migrated.begin() as tx:
        tx.exec_driver_sql("update alembic_version set version_num = '9999'")
    with pytest.raises(BuildError, match=r"does not know.*9999") as refused:
        open_store(f"sqlite:///{tmp_path / 'store.db'}")
    assert refused.value.where == "store_url" and "version that wrote it" in refused.value.next


def test_no_migration_reads_the_schema_that_moves_on() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert len(scripts.get_heads()) == 1
    for revision in scripts.walk_revisions():
        text = Path(revision.path).read_text(encoding="utf-8")
        assert "import" in text and "builder" not in re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
