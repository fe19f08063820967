"""Open the store: engine, migrations, clock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text

from builder.store.events import Event


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store. `emit` gets one event for each transition, after its transaction is committed."""

    engine: Engine
    emit: Callable[[Event], None] = field(default=lambda _: None)
    clock: Callable[[], int] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction; on SQLite it takes the write lock at once, so what was read stays true."""
        with self.engine.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> int:
        """The store's clock, ms."""
        if self.clock is not None:
            return self.clock()
        if connection.dialect.name == "postgresql":
            query = text("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
            return int(connection.execute(query).scalar_one())
        return time.time_ns() // 1_000_000  # SQLite lives in this process: its clock is ours


def open_store(url: str, emit: Callable[[Event], None] = lambda _: None) -> Store:
    """Connect and bring the schema up to date."""
    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_pre_ping=not is_sqlite)
    if is_sqlite:
        _prepare_sqlite(engine)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return Store(engine=engine, emit=emit)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy begins; the driver must not
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=20000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
