"""Open the store: engine, migrations, clock."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Table,
    bindparam,
    create_engine,
    event,
    literal,
    literal_column,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DataError, OperationalError, ProgrammingError

from builder.errors import BuildError
from builder.store.events import Event

# A process that stopped in a transaction (paused, cut off) must not hold a build's row for longer than a lease.
IDLE_IN_TRANSACTION_MS = 30_000
NOW: ColumnElement[int] = bindparam("now", type_=BigInteger)
"""The time in a statement that is built once: a tick that finds nothing costs more to build than to run."""
EVENTS = "ignite.events"
READ = "ignite.read"  # an execution option of a connection: its transaction only reads
POSTGRESQL_NOW = "(extract(epoch from statement_timestamp()) * 1000)::bigint"  # one value all over a statement
DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgresql+psycopg"})
_DATABASE_CLOCK: ColumnElement[int] = literal_column(POSTGRESQL_NOW, BigInteger)
_ASK_CLOCK = text(f"select {POSTGRESQL_NOW}")
BUSY_MS = 20_000
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x19117E  # any number of our own: who brings the schema up to date holds it


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store. `emit` gets one event for each transition, after its transaction is committed."""

    engine: Engine
    emit: Callable[[Event], None] = field(default=lambda _: None)
    clock: Callable[[], int] | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction that writes; on SQLite it takes the write lock at once, so what was read stays true.

        The events that its statements leave (`rows.transition`) are emitted after the commit.
        Raises `BuildError` InvalidRequest for a value that PostgreSQL cannot store (a NUL, more than the column holds).
        """
        with _refusing_values(), self.engine.begin() as connection:
            # Of the pooled connection: whatever a transaction that failed left behind is dropped here.
            left: list[Event] = connection.info.setdefault(EVENTS, [])
            left.clear()
            yield connection
            events = tuple(left)
        for one in events:
            self.emit(one)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads: it takes no lock and waits for no writer.

        On SQLite all its statements see the store as it was at the first one (WAL). PostgreSQL refuses a write in it.
        """
        with _refusing_values(), self.engine.connect() as connection:
            options = {READ: True} if connection.dialect.name == "sqlite" else {"postgresql_readonly": True}
            with connection.execution_options(**options).begin():
                yield connection

    def now(self, connection: Connection) -> int:
        """The store's clock, ms. A statement of its own on PostgreSQL."""
        if self.clock is not None:
            return self.clock()
        if connection.dialect.name == "postgresql":
            return int(connection.execute(_ASK_CLOCK).scalar_one())
        return _own_clock()

    def clock_column(self, connection: Connection) -> ColumnElement[int]:
        """The same clock as a part of another statement."""
        if self.clock is None and connection.dialect.name == "postgresql":
            return _DATABASE_CLOCK
        return literal(self.now(connection), BigInteger)

    def clock_parameter(self, connection: Connection) -> tuple[ColumnElement[int], Mapping[str, int]]:
        """The same for a statement that is built once for each such column; it is run with these parameters."""
        if self.clock is None and connection.dialect.name == "postgresql":
            return _DATABASE_CLOCK, {}
        return NOW, {"now": self.now(connection)}


def only_reads(connection: Connection) -> bool:
    """Whether the transaction of this connection is one of `Store.read`."""
    options = connection.get_execution_options()
    return bool(options.get(READ) or options.get("postgresql_readonly"))


def insert_into(tx: Connection, table: Table) -> Any:
    """An INSERT of the store's dialect, for its ON CONFLICT."""
    return insert_of(tx.dialect.name, table)


def insert_of(dialect: str, table: Table) -> Any:
    """The same for a statement that is built once."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # with its drivers: 50 ms that a folder's store does without

    return postgresql.insert(table)


def _own_clock() -> int:
    return time.time_ns() // 1_000_000  # SQLite lives in this process: its clock is ours


@contextmanager
def _refusing_values() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise BuildError("InvalidRequest", f"the store cannot keep a value: {error.orig}") from error


def open_store(url: str, emit: Callable[[Event], None] = lambda _: None) -> Store:
    """Connect and bring the schema up to date.

    Raises `BuildError`: InvalidRequest for a URL of another kind and for a schema that a newer version of this program
    wrote, Internal for a database that does not answer or does not accept the login.
    """
    parsed = _parsed(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    try:
        if is_sqlite and parsed.database and parsed.database != ":memory:":
            _make_private(Path(parsed.database))
        # The text of an error goes into logs, and what a statement carries is the users'.
        engine = create_engine(parsed, pool_pre_ping=not is_sqlite, hide_parameters=True)
    except (ArgumentError, TypeError, ValueError) as error:  # of the query: what the driver does not know
        raise _no_store(f"the store {_shown(parsed)} cannot be opened: {error}") from None
    except OSError as error:
        raise _unreachable(parsed, error.strerror or str(error)) from None
    if is_sqlite:
        _prepare_sqlite(engine)
    else:
        _prepare_postgresql(engine)
    try:
        if not _is_current(engine):
            with engine.begin() as connection:
                _migrate(connection)
    except OperationalError as error:
        engine.dispose()
        why = " ".join(str(error.orig).split())
        if is_full(error):
            message, step = f"the store {_shown(parsed)} does not open: {why}", "Free space on its disk."
            raise BuildError("NodeDiskFull", message, where=parsed.database or "", next=step) from None
        raise _unreachable(parsed, why) from None
    except BaseException:
        engine.dispose()
        raise
    return Store(engine=engine, emit=emit)


def is_full(error: Exception) -> bool:
    """Whether the disk of the store takes no more."""
    return getattr(getattr(error, "orig", None), "sqlite_errorname", "") == "SQLITE_FULL"


def _make_private(database: Path) -> None:
    """The file is for this user alone, whatever the umask, before a byte is in it; SQLite makes -wal and -shm alike."""
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for name in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError, PermissionError):
            os.chmod(f"{database}{name}", 0o600)


def _parsed(url: str) -> URL:
    """`postgresql://` and `postgres://`, as everybody writes them, mean the driver that is installed with us."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _no_store("the store's URL cannot be read") from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in DRIVERS:
        raise _no_store(f'the store cannot be "{parsed.drivername}"')
    return parsed


def _shown(url: URL) -> str:
    """The URL without its password; the query may hold another one."""
    return url.set(query={}).render_as_string(hide_password=True)


def _no_store(message: str) -> BuildError:
    step = "Set store_url to sqlite:////FILE or postgresql://USER@HOST/DATABASE; without it records are in data_dir."
    return BuildError("InvalidRequest", message, where="store_url", next=step)


def _unreachable(url: URL, why: str) -> BuildError:
    step = "See that the database runs, can be reached from here and accepts this login; else correct store_url."
    return BuildError("Internal", f"the store {_shown(url)} does not open: {why}", where="store_url", next=step)


def newest_version() -> str:
    """The version of the schema that this program writes: the first word of its newest migration's name."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*"))


def _is_current(engine: Engine) -> bool:
    """Whether the schema has this program's version: one query, where the migration tool would take 0.2 s to load."""
    try:
        with engine.connect().execution_options(**{READ: True}) as connection:
            return connection.exec_driver_sql("select version_num from alembic_version").scalar() == newest_version()
    except (OperationalError, ProgrammingError):  # no such table; whoever cannot be reached is reported below
        return False


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":  # two processes that start at once: the second finds it done
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the store {_shown(connection.engine.url)} has a schema that this version does not know ({error})"
        step = "run the version that wrote it, or name another store in store_url"
        raise BuildError("InvalidRequest", message, where="store_url", next=step) from error


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy begins; the driver must not
        for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        _use_wal(connection)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN DEFERRED" if only_reads(connection) else "BEGIN IMMEDIATE")


def _use_wal(connection: sqlite3.Connection) -> None:
    """The change to WAL wants the file for itself, and SQLite refuses at once instead of waiting for the other one."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
        time.sleep(0.01)


def _prepare_postgresql(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        # Set here and not in the URL's options, which connection poolers refuse.
        with connection.cursor() as cursor:
            cursor.execute(f"set idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}")
        connection.commit()
