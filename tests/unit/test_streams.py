"""Log streams over a real store, without HTTP: where they begin, what they share, what they hold."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from builder import pipelines
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.parts import Parts
from builder.services.streams import PAGE_BYTES, PAGE_LINES, LogStreams, Page, Pages, Place, entry_json
from builder.services.tails import Tails
from builder.services.workers import WorkerService
from builder.settings import Settings
from builder.store import builds, logs
from builder.store.engine import Store, open_store
from builder.store.schema import log_chunks
from builder.stores.folder import FolderStore

ACME = Caller(organization="acme", scopes=frozenset({"submit", "read"}))
NODE = Caller(organization="", scopes=frozenset({"worker"}))
PATIENCE_S = 60.0
END = b"end "
"""What an encoded end begins with, and no line."""
T = TypeVar("T")


@dataclass
class World:
    """One claimed build, its log, and the streams of it. `encoded` has the sequence of every encoding."""

    store: Store
    parts: Parts
    tails: Tails
    streams: LogStreams
    encoded: list[int]
    build: str = ""
    claim: int = 0
    count: int = 0
    read: list[list[int]] = field(default_factory=list)

    def begin(self) -> None:
        request = pb.CreateBuildRequest(name="app")
        request.code.compile.source_code = b"x = 1\n"
        request.code.compile.runtime.python.SetInParent()
        self.build = BuildService(self.parts).create_build(ACME, request).build_id
        worker = WorkerService(self.parts)
        worker.register_node(NODE, pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["compile.python"], slots=1))
        claim = pb.ClaimBuildRequest(protocol=1, build_id=self.build, node_id="n", nonce="x")
        self.claim = worker.claim_build(NODE, claim).claim

    def write(self, count: int, more: str = "") -> None:
        """So many lines, as a node sends them, each with `more` behind it; readers hear of them."""
        request = pb.AppendLogRequest(protocol=1, build_id=self.build, claim=self.claim, first_index=self.count)
        for number in range(self.count, self.count + count):
            request.lines.add(line=f"line {number}{more}", stream=pb.LOG_STREAM_STDOUT, timestamp_ms=1)
        assert not WorkerService(self.parts).append_log(NODE, request).stale
        self.count += count

    def finish(self, last: int = 0) -> None:
        """End the build, with so many lines that were not sent before."""
        failure = pb.Failure(reason="CompileFailed", message="m", error_class="user_code")
        request = pb.FinishRequest(protocol=1, build_id=self.build, claim=self.claim, failure=failure)
        request.first_index = self.count
        for number in range(self.count, self.count + last):
            request.lines.add(line=f"line {number}", stream=pb.LOG_STREAM_STDOUT, timestamp_ms=1)
        self.count += last
        request.log_count = self.count
        assert not WorkerService(self.parts).finish(NODE, request).stale

    def lines(self) -> int:
        """How many the log has."""
        return BuildService(self.parts).get_build(ACME, pb.GetBuildRequest(build_id=self.build)).log_lines

    async def open(self, last: str = "", **fields: Any) -> Place:
        return await self.streams.open(ACME, pb.StreamBuildLogsRequest(build_id=self.build, **fields), last)

    async def follow(self, place: Place) -> tuple[list[int], pb.LogEntry | None]:
        """All that a reader gets: sequences, and the end."""
        found: list[int] = []
        async for part in self.streams.stream(place):
            if part is not None and part.startswith(END):
                return found, pb.LogEntry.FromString(part.removeprefix(END))
            found += sequences(part or b"")
        return found, None


class LostRedis(redis.Redis):
    """A Redis that is away: hints to other processes are lost, as they may be."""

    def execute_command(self, *args: object, **options: object) -> object:
        raise redis.ConnectionError("away")


def sequences(data: bytes) -> list[int]:
    """Those of a part; the end has none."""
    return [] if data.startswith(END) else [int(json.loads(line)["sequence"]) for line in data.splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = open_store(f"sqlite:///{tmp_path}/builder.db")
    tails = Tails(LostRedis())
    parts = Parts(
        settings=Settings(),
        store=store,
        sources=FolderStore(tmp_path / "sources"),
        catalog=catalog.read(catalog_file("")),
        runtimes=pipelines.arguments(),
        wake=lambda: None,
        changed=tails.tell,
        stale=lambda call: None,
        dropped=lambda count: None,
    )
    encoded: list[int] = []

    def encode(line: logs.Line) -> bytes:
        encoded.append(line["s"])
        return (entry_json(line) + "\n").encode()

    made = World(
        store, parts, tails, LogStreams(parts, tails, encode, lambda entry: END + entry.SerializeToString()), encoded
    )
    made.begin()
    yield made
    store.engine.dispose()


def run(world: World, work: Callable[[], Awaitable[T]]) -> T:
    """In a loop that tails are bound to."""

    async def bound() -> T:
        world.tails.bind(asyncio.get_running_loop())
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(bound())


def test_where_a_stream_begins(world: World) -> None:
    world.write(7)
    lines = world.lines()

    async def work() -> list[int]:
        opened = [
            await world.open(),
            await world.open(from_start=True),
            await world.open(from_sequence=4),
            await world.open(from_sequence=0),
            await world.open(from_sequence=4, last="6"),
            await world.open("0"),
        ]
        return [place.after for place in opened]

    assert run(world, work) == [lines, 0, 3, 0, 6, 0]


@pytest.mark.slow
def test_the_end_has_the_record_as_get_build_has_it(world: World) -> None:
    world.write(2)
    world.finish()

    async def work() -> pb.LogEntry | None:
        return (await world.follow(await world.open(from_start=True)))[1]

    eof = run(world, work)
    assert eof is not None and eof.build.failure.reason == "CompileFailed"
    assert eof.build == BuildService(world.parts).get_build(ACME, pb.GetBuildRequest(build_id=world.build))


def test_a_record_that_retention_takes_meanwhile_leaves_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.finish()
    monkeypatch.setattr(builds, "by_id", lambda store, build_id: None)

    async def work() -> pb.LogEntry | None:
        return (await world.follow(await world.open(from_start=True)))[1]

    eof = run(world, work)
    assert eof is not None and (eof.status, eof.HasField("build")) == (pb.BUILD_STATUS_FAILED, False)


def test_every_reader_gets_each_sequence_once_and_in_order_and_each_is_encoded_once(world: World) -> None:
    world.write(300)

    async def work() -> list[tuple[list[int], pb.LogEntry | None]]:
        place = await world.open(from_start=True)
        readers = [asyncio.create_task(world.follow(place)) for _ in range(50)]
        for _ in range(40):
            await asyncio.to_thread(world.write, 100)
        await asyncio.to_thread(world.finish, last=3)
        return await asyncio.gather(*readers)

    found = run(world, work)
    wanted = list(range(1, world.lines() + 1))
    assert len(found) == 50 and len(wanted) > 4303
    for got, eof in found:
        assert got == wanted
        assert eof is not None and (eof.sequence, eof.status) == (wanted[-1], pb.BUILD_STATUS_FAILED)
    assert sorted(world.encoded) == wanted
    assert (len(world.streams.pages), world.streams.pages.bytes) == (0, 0)  # nobody follows any more


def test_a_reader_within_a_page_is_served_from_it(world: World) -> None:
    world.write(100)
    world.finish()

    async def work() -> list[list[int]]:
        first, second = await world.open(from_start=True), await world.open("41")
        stream = world.streams.stream(first)
        await anext(stream)
        got = (await world.follow(second))[0]
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()
        return [got]

    lines = world.lines()
    assert run(world, work) == [list(range(42, lines + 1))]
    assert sorted(world.encoded) == list(range(1, lines + 1))


def test_a_stalled_reader_stops_nobody_and_goes_on_from_the_store(world: World) -> None:
    """What it left behind is out of the cache by then: memory does not grow with its distance."""
    world.streams.pages = Pages(budget=20_000)
    most = [0]

    async def work() -> tuple[list[int], list[int]]:
        place = await world.open(from_start=True)
        world.write(10)
        stalled = world.streams.stream(place)
        head = await anext(stalled)
        other = asyncio.create_task(world.follow(place))
        for _ in range(60):
            await asyncio.to_thread(world.write, 100)
            most[0] = max(most[0], world.streams.pages.bytes)
        await asyncio.to_thread(world.finish)
        quick, _ = await other
        late = sequences(head or b"")
        async for part in stalled:
            late += sequences(part or b"")
            most[0] = max(most[0], world.streams.pages.bytes)
        return quick, late

    quick, late = run(world, work)
    assert quick == late == list(range(1, world.lines() + 1))
    one_page = PAGE_LINES * 120
    assert 0 < most[0] <= 20_000 + one_page


@pytest.mark.parametrize("first", [1, 2, 60, 121])
def test_a_reader_of_long_lines_gets_pages_of_bounded_size_from_one_read(world: World, first: int) -> None:
    """One that stalls holds a page, so a page is bounded in bytes; and the next is there without another read."""
    for _ in range(12):
        world.write(10, "x" * 16_000)
    world.finish()

    async def work() -> list[bytes]:
        parts = [part async for part in world.streams.stream(await world.open(from_sequence=first))]
        return [part for part in parts if part is not None and not part.startswith(END)]

    pages = run(world, work)
    assert [number for page in pages for number in sequences(page)] == list(range(first, world.lines() + 1))
    assert max(map(len, pages)) <= PAGE_BYTES
    assert len(set(world.encoded)) == len(world.encoded)


def test_a_line_that_is_larger_than_a_page_has_one_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.services.streams.PAGE_BYTES", 100)
    world.write(2)
    world.write(2, "x" * 500)
    world.write(2)
    world.finish()

    async def work() -> tuple[list[int], pb.LogEntry | None]:
        return await world.follow(await world.open(from_start=True))

    got, eof = run(world, work)
    assert got == list(range(1, world.lines() + 1)) and eof is not None


def test_a_reader_that_leaves_takes_the_page_from_nobody(world: World) -> None:
    world.write(10)
    world.finish()

    async def work() -> list[int]:
        place = await world.open(from_start=True)
        leaving = asyncio.create_task(world.follow(place))
        staying = asyncio.create_task(world.follow(place))
        while not world.streams._filling:
            await asyncio.sleep(0)
        leaving.cancel()
        return (await staying)[0]

    assert run(world, work) == list(range(1, world.lines() + 1))


def test_a_read_that_has_ended_is_awaited_by_nobody(world: World) -> None:
    """Between its end and its removal a reader may come for the same page. It would get an empty one again and again,
    without a pause in which the loop could remove it."""
    world.write(3)

    async def work() -> tuple[int, int]:
        place = await world.open(from_start=True)
        ended: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        ended.set_result(Page(first=1, last=0, data=b"", ends=array("I")))
        with world.tails.follow(place.build_id) as feed:
            feed.edge = place.log_lines
            world.streams._filling[place.build_id, 0, feed.generation] = ended
            page = await world.streams._page(feed, place, 0)
            world.streams._filled((place.build_id, 0, feed.generation), ended)  # its removal comes late
        return page.last, place.log_lines

    last, lines = run(world, work)
    assert last == lines > 0 and world.streams._filling == {}


def test_a_log_whose_lines_are_gone_has_an_end(world: World) -> None:
    world.write(10)
    world.finish()
    with world.store.transaction() as tx:
        tx.execute(delete(log_chunks))

    async def work() -> tuple[list[int], pb.LogEntry | None]:
        return await world.follow(await world.open(from_start=True))

    got, eof = run(world, work)
    assert (got, eof is not None and eof.eof) == ([], True)


@pytest.mark.parametrize("beyond", [0, 1, 100, 10**18 - 1])
def test_the_end_of_a_log_has_the_sequence_of_its_last_line(world: World, beyond: int) -> None:
    world.write(3)
    world.finish()
    lines = world.lines()

    async def work() -> tuple[list[int], pb.LogEntry | None]:
        return await world.follow(await world.open(str(min(lines + beyond, 10**18 - 1))))

    got, eof = run(world, work)
    assert (got, eof is not None and eof.sequence) == ([], lines)


def test_tails_that_end_leave_streams_without_an_end(world: World) -> None:
    async def work() -> tuple[list[int], pb.LogEntry | None]:
        reader = asyncio.create_task(world.follow(await world.open(from_start=True)))
        while world.tails._feeds.get(world.build) is None:
            await asyncio.sleep(0)
        world.tails.end()
        return await reader

    assert run(world, work)[1] is None


PHASES = [name.removeprefix("BUILD_PHASE_") for name in pb.BuildPhase.keys()[1:]]
STREAMS = [name.removeprefix("LOG_STREAM_") for name in pb.LogStream.keys()[1:]]


@given(
    sequence=st.integers(1, 2**63 - 1),
    at=st.integers(0, 2**63 - 1),
    phase=st.sampled_from(["", *PHASES]),
    stream=st.sampled_from(STREAMS),
    text=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_line_is_encoded_as_the_codec_does(sequence: int, at: int, phase: str, stream: str, text: str) -> None:
    entry = pb.LogEntry(
        sequence=sequence, timestamp_ms=at, line=text, stream=pb.LogStream.Value("LOG_STREAM_" + stream)
    )
    if phase:
        entry.phase = pb.BuildPhase.Value("BUILD_PHASE_" + phase)
    line = {"s": sequence, "t": at, "p": phase, "o": stream, "l": text}
    assert entry_json(line).encode() == codec.dump(entry)


def page(first: int, count: int) -> Page:
    from array import array

    data = b"".join(b"%06d" % number for number in range(first, first + count))
    ends = array("I", range(6, 6 * count + 6, 6))
    return Page(first=first, last=first + count - 1, data=data, ends=ends)


def test_pages_that_overlap_and_pages_that_go() -> None:
    pages = Pages(budget=60)
    pages.put("a", page(1, 5))
    pages.put("a", page(3, 5))
    found = pages.find("a", 6)
    assert found is not None and found.behind(6) == b"000007"
    assert pages.find("a", 7) is None and pages.find("b", 0) is None
    pages.put("b", page(1, 4))
    assert pages.bytes <= 60 and pages.find("b", 0) is not None
    assert pages.find("a", 0) is None  # the least recently used went
    pages.forget("a")
    pages.forget("b")
    assert (len(pages), pages.bytes) == (0, 0)


def test_the_record_at_the_end_of_a_log_takes_room_among_the_pages() -> None:
    pages = Pages(budget=60)
    for build_id in "ab":
        pages.put(build_id, replace(page(1, 1), eof=b"{}" * 20))
    assert (len(pages), pages.bytes) == (1, 46)
    pages.forget("b")
    assert pages.bytes == 0
