"""P4: what a build costs in transactions of the store, round trips to Redis and calls of the API; an idle `serve`.

Thirty builds at once on one node, cache miss, no retry; the idle rate of the same run is subtracted. Log batches are
not part of it: AppendLog is one transaction and one call.
"""

from __future__ import annotations

import itertools
import json
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import redis

from bench import statements
from bench.results import Row, judged
from bench.servers import Place, Served, cpu_s, place, served
from builder import config
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.images.store import images_of
from builder.local.embedded import Embedded
from builder.pipelines import catalog as catalogs
from builder.toolchains.looks import Looks, fetched_in
from builder.toolchains.providers import toolchains_of

BUILDS = 30
IDLE_S = 10.0
SETTLED_S, WATCHED_S = 5.0, 60.0
MOST_IDLE, MOST_LOOK_MS = 1.0, 1.0
REGISTERS, REGISTERED_S = 400, 2
WAIT_S = 300.0
MOST = {"transactions": 12.0, "round trips": 8.0, "calls": 6.0}
WHAT = {
    "transactions": "store transactions of a build",
    "round trips": "Redis round trips of a build",
    "calls": "API calls of a build",
}

Counts = Mapping[str, float]
Ended = queue.SimpleQueue[str]


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """All of P4 that is counted; it is counted once, however many rounds."""
    ended: Ended = queue.SimpleQueue()
    with opened() as here, receiver(ended) as url, here.server("p4", report_url=url, slots=2) as server:
        found, idle = a_build(server.running, server.api, ended)
    rows = tuple(
        Row(
            what=WHAT[name],
            target=f"≤ {most:g}",
            measured=f"{found[name]:.1f}",
            spread="counted",
            pairs=BUILDS,
            verdict=judged(found[name], most),
        )
        for name, most in MOST.items()
    )
    rows += statements.measure()
    with opened() as here, served(here) as running:
        rows += (idle_cpu(running), look(here))
    return rows, ("idle, a second: " + ", ".join(f"{idle[name]:.1f} {name}" for name in MOST),)


def idle_cpu(running: Served) -> Row:
    """What `serve` uses of one core with a worker registered and nothing to do, once both have started."""
    running.until_ready()
    time.sleep(SETTLED_S)
    began, before = time.monotonic(), cpu_s(running.process.pid)
    time.sleep(WATCHED_S)
    used = (cpu_s(running.process.pid) - before) / (time.monotonic() - began) * 100
    return Row(
        what="idle `serve`: one core",
        target=f"≤ {MOST_IDLE:g}%",
        measured=f"{used:.2f}%",
        spread=f"over {WATCHED_S:.0f} s",
        pairs=1,
        verdict=judged(used, MOST_IDLE),
        raw=(used,),
    )


def look(here: Place) -> Row:
    """What a node pays to know its toolchains each time that it registers, on a clock that goes on by 2 s.

    Most times it compares what was fetched, and each 15 s it looks at the whole machine. The first look is not of it.
    """
    settings = config.load({"node_dir": str(here.folder / "node")}, {}).settings
    rows = catalogs.read(catalog_file(settings.catalog)).toolchains()
    toolchains = toolchains_of(settings)
    whole: list[float] = []

    def looked() -> dict[str, str]:
        before = time.process_time()
        available = toolchains.available(rows)
        whole.append((time.process_time() - before) * 1000)
        return available

    fetched = partial(fetched_in, here.folder / "node" / "toolchains", images_of(settings.node_dir))
    seconds = itertools.count(step=REGISTERED_S)
    looks = Looks(looked, fetched, clock=lambda: float(next(seconds)))
    looks.available()
    whole.clear()
    before = time.process_time()
    for _ in range(REGISTERS):
        looks.available()
    ms = (time.process_time() - before) / REGISTERS * 1000
    return Row(
        what="a node's look at its toolchains, each time that it registers: processor time",
        target=f"≤ {MOST_LOOK_MS:g} ms",
        measured=f"{ms:.2f} ms",
        spread=f"{REGISTERS} registers, {len(whole)} of them looked for {statistics.median(whole):.1f} ms",
        pairs=1,
        verdict=judged(ms, MOST_LOOK_MS),
        raw=(ms,),
    )


def a_build(running: Embedded, api: Api, ended: Ended) -> tuple[Counts, Counts]:
    """(what one build costs, what an idle second costs)"""
    for number in range(2):  # connections, and what each process loads once
        submit(api, number, "warm")
        await_ended(ended, 1)
    counters = Counters(running)
    began, before = counters.take()
    time.sleep(IDLE_S)
    at, idle = counters.take()
    rate = {name: (idle[name] - before[name]) / (at - began) for name in idle}
    began, before = counters.take()
    for number in range(BUILDS):
        submit(api, number, "counted")
    await_ended(ended, BUILDS)
    at, after = counters.take()
    return {name: (after[name] - before[name] - rate[name] * (at - began)) / BUILDS for name in after}, rate


@contextmanager
def receiver(ended: Ended) -> Iterator[str]:
    """Where reports go; `ended` gets the status of each last one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            report = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            if report["versionStatus"] != "VERSION_STATUS_COMPILING":
                ended.put(report["versionStatus"])

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class Counters:
    """What has been counted so far, and what counting costs itself."""

    def __init__(self, running: Embedded) -> None:
        self._url = running.url
        self._redis = redis.Redis.from_url(running.control.settings.redis_url)
        self._pages = 0
        first, second = self._page(), self._page()
        self._own = _transactions(second) - _transactions(first)

    def _page(self) -> dict[str, float]:
        lines = httpx.get(self._url + "/metrics", trust_env=False, timeout=60).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def take(self) -> tuple[float, Counts]:
        """(seconds, counts); the page's own transactions are not in them."""
        page = self._page()
        commands: Mapping[str, Any] = self._redis.info("commandstats")
        own = ("cmdstat_info", "cmdstat_client")
        calls = {key: value for key, value in page.items() if key.startswith("ignite_api_calls_total")}
        appended = calls.pop('ignite_api_calls_total{rpc="AppendLog"}', 0.0)
        self._pages += 1
        return time.monotonic(), {
            "transactions": _transactions(page) - appended - self._own * self._pages,
            "round trips": sum(float(each["calls"]) for name, each in commands.items() if not name.startswith(own)),
            "calls": sum(calls.values()),
        }


def _transactions(page: Mapping[str, float]) -> float:
    return sum(value for name, value in page.items() if name.startswith("ignite_store_transactions_total"))


def submit(api: Api, number: int, word: str) -> None:
    """A small Python build that no cache knows."""
    request = pb.CreateBuildRequest(name=f"counted-{number}")
    request.code.compile.runtime.python.SetInParent()
    request.code.compile.source_code = f'WORD = "{word}"\n\ndef handler(payload, ctx):\n    return {number}\n'.encode()
    api.call("CreateBuild", request)


def await_ended(ended: Ended, count: int) -> None:
    """Wait for the last reports of so many builds. Raises RuntimeError when one did not succeed."""
    found = {ended.get(timeout=WAIT_S) for _ in range(count)}
    if found != {"VERSION_STATUS_DRAFT"}:
        raise RuntimeError(f"builds ended with {', '.join(sorted(found))}")
