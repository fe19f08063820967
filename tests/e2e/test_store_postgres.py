"""The store's promises (tests/store_contract) on a real PostgreSQL, and what shows only there."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import InternalError

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.store import builds, logs, rows
from builder.store.engine import open_store
from builder.store.schema import cache, metadata
from tests.build_fixtures import PATIENCE_S, PYTHON_HANDLER, until
from tests.e2e.conftest import Start
from tests.postgres_fixtures import private_postgres, programs
from tests.store_contract import *  # noqa: F403
from tests.store_contract.world import LEASE, World, Worlds, attached, line, open_world

pytestmark = pytest.mark.e2e

MODEL = "migrated"  # copied for each world: faster than migrating again


class Server:
    """Makes and drops databases of the session's PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = (f"store_{number}" for number in itertools.count())
        self._admin = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")

    def url(self, database: str, scheme: str = "postgresql+psycopg") -> str:
        return f"{scheme}://postgres@/{database}?host={self.folder}"

    def create(self, model: str = "template0") -> str:
        name = next(self._names)
        self._do(f"create database {name} template {model}")
        return name

    def drop(self, name: str) -> None:
        self._do(f"drop database {name} with (force)")

    def schema(self, name: str) -> str:
        """What pg_dump says of the tables, without the migrations' own."""
        what = ("--schema-only", "--no-owner", "--exclude-table=alembic_version")
        argv = [str(programs() / "pg_dump"), *what, f"--host={self.folder}", "--username=postgres", name]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return "\n".join(one for one in done.stdout.splitlines() if not one.startswith(("\\", "--")))

    def close(self) -> None:
        self._admin.dispose()

    def _do(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(statement))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with private_postgres() as folder:
        server = Server(folder)
        server._do(f"create database {MODEL} template template0")
        open_store(server.url(MODEL)).engine.dispose()
        yield server
        server.close()


@pytest.fixture
def worlds(postgres: Server) -> Iterator[Worlds]:
    made: list[tuple[str, World]] = []

    def make() -> World:
        name = postgres.create(MODEL)
        world = open_world(postgres.url(name))
        made.append((name, world))
        return world

    yield make
    for name, world in made:
        world.store.engine.dispose()
        postgres.drop(name)


@pytest.fixture
def world(worlds: Worlds) -> World:
    return worlds()


@pytest.fixture
def empty_url(postgres: Server) -> Iterator[str]:
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


# The whole line


def test_builds_end_to_end(postgres: Server, start: Start) -> None:
    """Three with one key at once (one runs), then one from the cache; every log is whole."""
    name = postgres.create()
    try:
        with start(store_url=postgres.url(name, "postgresql")) as server:
            waiting = [server.submit(f"app-{n}", PYTHON_HANDLER, "python", repository="local/app") for n in range(3)]
            ended = [server.wait(build) for build in waiting]
            ended.append(server.build("late", PYTHON_HANDLER, "python", repository="local/app"))
            assert [build.status for build in ended] == [pb.BUILD_STATUS_SUCCEEDED] * 4
            assert len({build.image_digest for build in ended}) == 1
            assert len([build for build in ended if not build.from_cache_of]) == 1
            for build in ended:
                log = server.log(build.build_id)
                assert [entry.sequence for entry in log.entries] == list(range(1, build.log_lines + 1))
                assert log.entries[-1].line == "SUCCEEDED"
    finally:
        postgres.drop(name)


# Schema and connection


def test_the_migrations_make_the_tables_of_the_schema(postgres: Server, empty_url: str) -> None:
    fresh = create_engine(empty_url)
    metadata.create_all(fresh)
    fresh.dispose()
    assert postgres.schema(MODEL) == postgres.schema(str(fresh.url.database))


def test_autogenerate_finds_nothing_to_migrate(world: World) -> None:
    with world.store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_a_current_store_is_left_as_it_is(postgres: Server, world: World) -> None:
    name = str(world.store.engine.url.database)
    before, build = postgres.schema(name), world.submit()
    again = open_world(postgres.url(name))
    assert again.row(build) == world.row(build)
    again.store.engine.dispose()
    assert postgres.schema(name) == before


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_the_url_that_everybody_writes_is_enough(postgres: Server, scheme: str) -> None:
    store = open_store(postgres.url(MODEL, scheme))
    with store.transaction() as tx:
        assert abs(store.now(tx) - time.time() * 1000) < 600_000  # milliseconds since the epoch, in no zone
    store.engine.dispose()


def test_a_value_that_cannot_be_kept_is_the_clients_fault(world: World) -> None:
    for key in ("nul\x00", "k" * 300):
        with pytest.raises(BuildError) as refused:
            world.submit(idempotency_key=key)
        assert refused.value.reason == "InvalidRequest"
    assert builds.get(world.store, "acme", "b000\x00") is None
    assert builds.get(world.store, "acme", world.submit()) is not None


def test_an_owner_that_stops_in_a_transaction_is_cut_off(world: World) -> None:
    with world.store.transaction() as tx:
        limit = tx.execute(text("show idle_in_transaction_session_timeout")).scalar_one()
    assert limit == "30s"


def test_a_read_cannot_write_and_leaves_its_connection_as_it_was(world: World) -> None:
    build = world.submit()
    with pytest.raises(InternalError, match="read-only transaction"), world.store.read() as tx:
        tx.execute(builds.builds.update().values(name="changed"))
    assert world.claim(build) == 1


def test_a_store_whose_connections_broke_goes_on(world: World) -> None:
    build = world.submit()
    with world.store.engine.connect() as held:
        own = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        world.row(build)  # a second connection, idle in the pool
        held.execute(text(own + " and pid <> pg_backend_pid()"))
        left = text("select count(*) from pg_stat_activity where datname = current_database()")

        def have_ended() -> bool:
            held.rollback()  # a transaction sees the activity of its begin
            return bool(held.execute(left).scalar_one() == 1)

        assert until(have_ended), "they end in their own time"
    assert world.claim(build) == 1


def test_organizations_take_turns_whatever_the_locale_sorts_first(world: World) -> None:
    """In this database "a" sorts before "B"; the round through the organizations goes by bytes."""
    names = ["B", "a", "C", "b", "Ä", "z-1", "z_1"]
    for name in names:
        for toolchain in ("go-1.26", ""):
            world.submit(name, toolchain=toolchain)
    seen = []
    for _ in range(2 * len(names)):
        (build,) = world.offer(1)
        seen.append(world.row(build)["organization"])
        world.fail_work(build, world.claim(build))
    assert seen == sorted(names) * 2


# Transactions that meet at a given point


def blocked(world: World) -> bool:
    """Whether a client of this world's database waits for a lock."""
    clients = "select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
    query = text(f"select count(*) from pg_locks where not granted and pid in ({clients})")
    with world.store.engine.connect() as tx:
        return bool(tx.execute(query).scalar())


def while_it_waits(world: World, build: str, call: Callable[[], Any], then: Callable[[Any, Any], None]) -> Any:
    """Hold the row of `build`, start `call`, wait until it waits for a lock; do `then` and commit. What it returns."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    with world.store.transaction() as tx:
        row = rows.lock_one(tx, builds.builds.c.build_id == build)
        thread.start()
        assert until(lambda: blocked(world) or not thread.is_alive()) and thread.is_alive(), "it did not wait"
        then(tx, row)
    thread.join(PATIENCE_S)
    assert answers, "it failed or still waits"
    return answers[0]


def test_a_claim_that_waited_for_another_loses(world: World) -> None:
    build = world.submit()

    def granted(tx: Any, row: Any) -> None:
        rows.write(tx, row, status="RUNNING", stage="WORK", claim=row["claim"] + 1, node_id="other", nonce="other")

    claimed = while_it_waits(world, build, lambda: builds.claim(world.store, build, "node", "n", LEASE), granted)
    assert claimed.row is None and claimed.refused == "it is RUNNING"
    assert world.row(build)["node_id"] == "other"


def test_a_write_that_waited_while_its_claim_was_taken_is_stale(world: World) -> None:
    def taken(tx: Any, row: Any) -> None:
        rows.requeue(tx, world.at[0], row, "hand-back")

    for call in (
        lambda build, claim: world.fail_work(build, claim).outcome == "stale",
        lambda build, claim: builds.heartbeat(world.store, build, claim, "BUILD", LEASE) is None,
        lambda build, claim: builds.hand_back(world.store, build, claim, "drain") is None,
        lambda build, claim: builds.planned(world.store, build, claim, "key", "code", "go").verdict == "STALE",
        lambda build, claim: logs.append(world.store, build, claim, 0, [line("x")])[0],
    ):
        build = world.submit()
        assert while_it_waits(world, build, partial(call, build, world.claim(build)), taken)
        assert (world.row(build)["status"], world.row(build)["log_lines"]) == ("PENDING", 0)


def planned_late(world: World) -> tuple[str, Callable[[], str]]:
    late = world.submit()
    claim = world.claim(late)
    return late, lambda: builds.planned(world.store, late, claim, "key", "code", "go").verdict


def test_a_build_does_not_wait_for_a_primary_that_gave_its_key_up_meanwhile(world: World) -> None:
    """The primary goes on with another key: what it makes is not what the late build asked for."""
    primary, _, followers = attached(world)
    late, planned = planned_late(world)

    def another_key(tx: Any, row: Any) -> None:
        rows.give_up_key(tx, world.at[0], row)
        rows.write(tx, row, build_key="other")

    assert while_it_waits(world, primary, planned, another_key) == "ATTACHED"
    assert world.row(late)["attached_to"] == followers[0]


def test_a_build_whose_primary_succeeds_meanwhile_takes_its_result(world: World) -> None:
    primary = world.submit()
    assert builds.planned(world.store, primary, world.claim(primary), "key", "code", "go").verdict == "GO_ON"
    world.succeed_work(primary, world.row(primary)["claim"])
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None and builds.publish(world.store, primary, adopted["claim"])
    late, planned = planned_late(world)

    def succeeded(tx: Any, row: Any) -> None:
        names = ("organization", "build_key", "repository", "build_id", "artifact")
        tx.execute(cache.insert().values(**{name: row[name] for name in names}))
        rows.end(tx, world.at[0], row, "succeed", "SUCCEEDED", "")

    assert while_it_waits(world, primary, planned, succeeded) == "REUSE"
    assert world.row(late)["from_cache_of"] == primary


def test_a_build_whose_primary_fails_meanwhile_is_the_primary(world: World) -> None:
    primary = world.submit()
    assert builds.planned(world.store, primary, world.claim(primary), "key", "code", "go").verdict == "GO_ON"
    late, planned = planned_late(world)

    def failed(tx: Any, row: Any) -> None:
        rows.end(tx, world.at[0], row, "fail", "FAILED", rows.failure("CompileFailed", "m"))

    assert while_it_waits(world, primary, planned, failed) == "GO_ON"
    assert world.row(late)["attached_to"] == ""


def test_a_held_build_holds_up_neither_reconciler_nor_finalizer(world: World) -> None:
    held, other = world.submit(), world.submit()
    for build in (held, other):
        world.claim(build)
    world.at[0] += LEASE + 1
    with world.store.transaction() as tx:
        rows.lock_one(tx, builds.builds.c.build_id == held)
        assert [row["build_id"] for row in world.expire_leases()] == [other]
    assert [row["build_id"] for row in world.expire_leases()] == [held]


# Cost


def rows_read(engine: Engine, call: Callable[[], object]) -> int:
    """How many rows the call's SELECTs look at (kept or filtered away), by EXPLAIN ANALYZE of each."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "FROM builds" in statement:
            seen.append((statement.removesuffix(" FOR UPDATE SKIP LOCKED"), parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert seen
    total = 0
    with engine.connect() as connection:
        for statement, parameters in seen:
            found = connection.exec_driver_sql(f"explain (analyze, format json) {statement}", parameters).scalar_one()
            total += _rows(found[0]["Plan"] if isinstance(found, list) else json.loads(found)[0]["Plan"])
    return total


def _rows(plan: dict[str, Any]) -> int:
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    inner = sum(_rows(part) for part in plan.get("Plans", ()))
    return max(int(own * plan["Actual Loops"]), inner)


@pytest.mark.parametrize("organizations", [1, 10_000])
def test_ten_thousand_queued_cost_what_ten_cost(world: World, organizations: int) -> None:
    values = dict(world.row(world.submit()))
    del values["number"]
    many = [values | {"build_id": f"q{n:019d}", "organization": f"o{n % organizations:06d}"} for n in range(10_000)]
    with world.store.engine.begin() as tx:
        tx.execute(builds.builds.insert(), many)
        tx.execute(text("analyze builds"))
    for call in (
        lambda: world.offer(4),
        world.queue_timeouts,
        world.expire_leases,
        lambda: builds.adopt_finalize(world.store, LEASE),
        lambda: builds.page(world.store, "o000000", 20, None),
        lambda: builds.get(world.store, "o000000", "q0000000000000000000"),
    ):
        assert rows_read(world.store.engine, call) < 700
        world.at[0] += 6_000
