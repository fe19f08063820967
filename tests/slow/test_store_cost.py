"""What dispatcher and reconciler cost does not grow with what is queued. Counted in SQLite's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from builder.store import builds, logs, offers, outbox, sweeps
from builder.store.schema import reports
from tests.store_contract.world import LEASE, LIVE_MS, World, line, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


def steps_of(world: World, call: Callable[[], object]) -> int:
    """SQLite virtual machine steps, in units of 100: what a call costs, whatever the machine does meanwhile."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with world.store.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_progress_handler(tick, 100)
        raw_count = count
    try:
        call()
    finally:
        with world.store.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.set_progress_handler(None, 0)
    return count - raw_count


def copy(world: World, source: str, first: int, last: int, **changed: str) -> None:
    """Queue a build once more for each n of [first, last): its own number, and columns as expressions of SQL over n.
    One statement: ten thousand rows that Python binds take some ten times as long."""
    new = {"number": "number + n", **changed}
    names = [column.name for column in builds.builds.columns]
    with world.store.engine.begin() as tx:
        made = tx.exec_driver_sql(
            f"insert into builds ({', '.join(names)}) "
            f"with recursive numbers(n) as (select {first} union all select n + 1 from numbers where n < {last - 1}) "
            f"select {', '.join(new.get(name, name) for name in names)} from builds, numbers where build_id = ?",
            (source,),
        )
        assert made.rowcount == last - first


def offer_images(world: World) -> list[str]:
    """What the dispatcher offers of images to one organization that may have four at work."""
    with world.store.transaction() as tx:
        return offers.offerable(tx, world.store.now(tx), "image", ("go-1.26", ""), 4, 4)


@pytest.mark.parametrize("what", ["offerable", "images", "queue_timeouts", "waiting", "look"])
def test_ten_thousand_queued_cost_what_ten_cost(world: World, what: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "offerable": lambda: world.offer(4),
        "images": lambda: offer_images(world),
        "queue_timeouts": world.queue_timeouts,
        "waiting": lambda: offers.waiting(world.store, LIVE_MS),
        "look": lambda: sweeps.look(world.store, LEASE, LIVE_MS, {}),
    }
    queue = {"queue": "image"} if what == "images" else {}
    for _ in range(10):
        world.submit(**queue)
    few = max(1, steps_of(world, calls[what]))
    copy(world, world.submit(**queue), 1, 10_000, build_id="printf('q%019d', n)")
    world.at[0] += 1
    world.at[0] += 6_000  # the hints of the first call no longer fill the window
    many = steps_of(world, calls[what])
    assert many <= 3 * few + 20, f"{few * 100} steps with 10 queued, {many * 100} with 10,000"


@pytest.mark.parametrize("told", [False, True])
def test_ten_thousand_queued_of_a_full_organization_cost_what_ten_cost(world: World, told: bool) -> None:
    """`told`: each of them knows already what it waits for."""
    asked = {"queue": "image", "toolchain": ""}
    world.register("node", queue="image")
    first = world.submit(**asked)
    assert builds.claim(world.store, first, "node", "n", 10**9, 1).row
    waits = ("image", "", "acme")

    def look() -> None:
        warned: sweeps.Warned = {waits: (world.at[0], 10**6)} if told else {}
        due = sweeps.look(world.store, 0, 10**9, warned, 1)
        assert (waits in due.unschedulable) != told

    for _ in range(10):
        world.submit(**asked)
    few = max(1, steps_of(world, look))
    copy(world, world.submit(**asked), 1, 10_000, build_id="printf('q%019d', n)", queued_at="queued_at + n")
    world.at[0] += 10_000
    many = steps_of(world, look)
    assert many <= 3 * few + 20, f"{few * 100} steps with 10 queued, {many * 100} with 10,000"


def test_ten_thousand_organizations_cost_little_more_than_ten(world: World) -> None:
    def offer() -> object:
        return world.offer(4)

    build = world.submit()

    def fill(first: int, last: int) -> None:
        copy(world, build, first, last, build_id="printf('o%019d', n)", organization="printf('o%06d', n)")

    fill(1, 64)
    few = max(1, steps_of(world, offer))
    fill(64, 10_000)
    world.at[0] += 6_000
    many = steps_of(world, offer)
    assert many <= 3 * few + 20, f"{few * 100} steps with 64 organizations, {many * 100} with 10,000"


@pytest.mark.parametrize("what", ["append", "append beyond the limit", "read"])
def test_a_long_log_costs_what_a_short_one_costs(world: World, what: str) -> None:
    build = world.submit(log_limit=60_000 if "beyond" in what else 10**9)
    claim = world.claim(build)

    sent = 0

    def append(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent = logs.append(world.store, build, claim, sent, [line("x" * 400)])[1]

    def read() -> None:
        assert len(logs.read(world.store, build, world.row(build)["log_lines"] - 15)) == 15

    def call() -> None:
        read() if what == "read" else append(5)

    append(150)  # past the limit of 60,000, where there is one
    few = max(1, steps_of(world, call))
    append(500)
    many = steps_of(world, call)
    assert many <= 2 * few + 5, f"{few * 100} steps at first, {many * 100} later"


def test_a_follower_who_has_every_line_reads_no_chunk(world: World) -> None:
    build = world.submit()
    logs.append(world.store, build, world.claim(build), 0, [line("one"), line("two")])
    count = world.row(build)["log_lines"]
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    event.listen(world.store.engine, "before_cursor_execute", note)
    assert logs.read_on(world.store, build, count, 9) == ([], "RUNNING", count)
    assert len(asked) == 1 and "log_chunks" not in asked[0]
    found = logs.read_on(world.store, build, count - 1, 9)
    assert found is not None and [one["l"] for one in found[0]] == ["two"] and len(asked) == 3
    assert logs.read_on(world.store, "nobody", 0, 9) is None


@pytest.mark.parametrize("what", ["oldest report", "page of the feed", "builds of a label"])
def test_ten_thousand_reports_and_labels_cost_what_ten_cost(world: World, what: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "oldest report": lambda: outbox.oldest_ms(world.store),
        "page of the feed": lambda: outbox.feed(world.store, "acme", 5, 3),
        "builds of a label": lambda: builds.page(world.store, "acme", 3, None, labelled={"deploy": "d-1"}),
    }

    def fill(first: int, last: int) -> None:
        for _ in range(first, first + 10):
            world.submit()
        with world.store.engine.begin() as tx:
            values = {"body": "{}", "due_at": 1, "created_at": 1, "organization": "acme"}
            every = [values | {"build_id": "b", "sequence": n, "position": n} for n in range(first, last)]
            tx.execute(reports.insert(), every)
            tx.exec_driver_sql(
                "insert into labels select build_id, 'deploy', 'd-' || number, organization from builds "
                "where build_id not in (select build_id from labels)"
            )

    fill(1, 11)
    outbox.feed(world.store, "acme", 0, 1)
    few = max(1, steps_of(world, calls[what]))
    fill(11, 10_000)
    outbox.feed(world.store, "acme", 0, 1)
    many = steps_of(world, calls[what])
    assert many <= 3 * few + 20, f"{few * 100} steps with 10, {many * 100} with 10,000"
