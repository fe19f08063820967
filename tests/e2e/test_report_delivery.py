"""Reports over real HTTP: kept without a receiver, in order, and a receiver that hangs for one organization."""

from __future__ import annotations

import io
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from builder import config
from builder.control.reports import Reports
from builder.logs import event_log
from builder.store import outbox
from builder.store.schema import reports
from tests.build_fixtures import closed_port
from tests.store_contract.world import World, open_world

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "report_receiver.py"

Judge = Callable[[dict[str, Any]], int]


@contextmanager
def receiver(judge: Judge) -> Iterator[str]:
    """Answers each report with the status that `judge` gives it; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = judge(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/reports"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


class Driven:
    """Reports whose batches a test waits for."""

    def __init__(self, world: World, url: str, keys: tuple[str, ...] = ()) -> None:
        self.batches: queue.SimpleQueue[None] = queue.SimpleQueue()
        settings = config.load({"report_url": url, "report_keys": keys}).settings
        self.reports = Reports(
            settings=settings, store=world.store, log=event_log(io.StringIO()), freed=lambda: self.batches.put(None)
        )

    def run(self, batches: int) -> None:
        """One step, and so many batches that end."""
        self.reports.step()
        for _ in range(batches):
            self.batches.get(timeout=300)


def ended(world: World, organization: str = "acme") -> str:
    build = world.submit(organization)
    world.fail_work(build, world.claim(build))
    return build


def test_without_a_receiver_reports_are_kept_and_one_that_comes_later_gets_all(world: World) -> None:
    build = ended(world)
    Driven(world, "").run(0)
    assert outbox.waiting(world.store) == 3
    got: list[tuple[str, int]] = []

    def take(report: dict[str, Any]) -> int:
        got.append((report["buildId"], int(report["sequence"])))
        return 200

    with receiver(take) as url:
        Driven(world, url).run(1)
    assert got == [(build, 1), (build, 2), (build, 3)]
    assert outbox.waiting(world.store) == 0


def test_a_report_that_is_refused_comes_again_before_the_next_one_of_its_build(world: World) -> None:
    first, second = ended(world), ended(world)
    got: list[tuple[str, int]] = []
    refusals = [(first, 2)]

    def judge(report: dict[str, Any]) -> int:
        one = (report["buildId"], int(report["sequence"]))
        if one in refusals:
            refusals.remove(one)
            return 500
        got.append(one)
        return 200

    with receiver(judge) as url:
        driven = Driven(world, url)
        driven.run(1)
        assert got == [(first, 1), (second, 1), (second, 2), (second, 3)]
        driven.run(0)
        world.at[0] += 1_000
        driven.run(1)
    assert got[4:] == [(first, 2), (first, 3)]


def test_a_receiver_that_hangs_for_one_organization_gets_the_others_reports(world: World) -> None:
    slow, hanging = ended(world), threading.Event()
    go = threading.Event()
    got: list[str] = []

    def judge(report: dict[str, Any]) -> int:
        if report["organizationName"] == "acme":
            hanging.set()
            assert go.wait(300)
        got.append(report["buildId"])
        return 200

    with receiver(judge) as url:
        driven = Driven(world, url)
        driven.run(0)
        assert hanging.wait(300)
        other = ended(world, "beta")
        driven.run(1)
        assert got == [other] * 3
        assert outbox.waiting(world.store) == 3
        go.set()
        driven.batches.get(timeout=300)
    assert got[3:] == [slow] * 3


def test_a_receiver_that_is_not_there_is_asked_once_for_all_of_an_organization(world: World) -> None:
    first, _ = ended(world), ended(world)
    with closed_port() as port:
        driven = Driven(world, f"http://127.0.0.1:{port}/reports")
        driven.run(1)
        driven.run(0)
    assert outbox.due(world.store, 100) == []
    with world.store.engine.connect() as tx:
        tries = tx.execute(reports.select()).mappings().all()
    assert {(row["build_id"], row["sequence"]) for row in tries if row["tries"]} == {(first, 1)}
    world.at[0] += 1_000
    assert len(outbox.due(world.store, 100)) == 6


OLD, NEW = "the old key of reports", "the new key of reports"


@contextmanager
def example(*keys: str) -> Iterator[tuple[str, IO[str]]]:
    """The receiver of the documentation as its reader starts it: its URL, and the lines that it prints."""
    environ = {"REPORT_KEYS": ",".join(keys)}
    argv = [sys.executable, "-I", str(EXAMPLE), "127.0.0.1:0"]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process.stdout
        finally:
            process.kill()


def test_the_example_receiver_applies_what_is_signed_and_gets_the_rest_once_it_knows_the_key(world: World) -> None:
    build = world.submit(request='{"labels":{"deploy":"d-17"}}')
    world.fail_work(build, world.claim(build))
    with example(OLD) as (url, _):
        Driven(world, url, (NEW,)).run(1)
        Driven(world, url).run(0)
    assert outbox.waiting(world.store) == 3, "neither another key nor no signature is acknowledged"
    world.at[0] += 60_000
    with example(NEW) as (url, printed):
        Driven(world, url, (OLD, NEW)).run(1)
        assert outbox.waiting(world.store) == 0
        with world.store.transaction() as tx:  # an acknowledgement that was not noted
            tx.execute(reports.update().values(delivered_at=0))
        Driven(world, url, (NEW,)).run(1)
        other = ended(world)
        Driven(world, url, (NEW,)).run(1)
        lines = [printed.readline().split() for _ in range(6)]
    status = ["VERSION_STATUS_COMPILING", "VERSION_STATUS_COMPILING", "VERSION_STATUS_FAILED"]
    assert lines == [
        [one, str(number), said, labels]
        for one, labels in ((build, "deploy=d-17"), (other, "-"))
        for number, said in enumerate(status, 1)
    ]
