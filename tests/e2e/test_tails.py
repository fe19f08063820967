"""Fifty tails of a chatty build over real sockets: each sequence once, the end, bounded memory, no one waits for a
reader that stalls. Nothing here is timed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.client.api import Api
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.local import embedded
from builder.services import streams
from builder.services.streams import Pages
from builder.services.tails import Feed
from builder.store import logs
from tests.build_fixtures import until

pytestmark = pytest.mark.e2e

READERS, BATCHES, LINES = 50, 60, 250
BUDGET = 400_000
PATIENCE_S = 300


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(pages, bytes) that a server of this process holds after each new page."""
    found: list[tuple[int, int]] = []
    put = Pages.put

    def counted(self: Pages, build_id: str, page: streams.Page) -> None:
        put(self, build_id, page)
        found.append((len(self), self.bytes))

    monkeypatch.setattr(Pages, "put", counted)
    monkeypatch.setattr(Pages.__init__, "__defaults__", (BUDGET,))
    return found


@pytest.fixture
def running(tmp_path: Path, kept: list[tuple[int, int]]) -> Iterator[embedded.Embedded]:
    # Nobody renews the claim of the played node: the lease outlasts the test.
    settings = load({"data_dir": str(tmp_path), "log_bytes": 50 * 1024 * 1024, "lease_ms": 3_600_000}).settings
    with embedded.start(settings, worker=False) as here:
        yield here


@pytest.fixture
def node(running: embedded.Embedded) -> Iterator[Node]:
    made = Node(running)
    yield made
    made.client.close()
    made.api.close()


class Node:
    """The owner of one build, which prints."""

    def __init__(self, running: embedded.Embedded) -> None:
        worker = next(token.token for token in running.control.settings.tokens if "worker" in token.scopes)
        self.client, self.api = Api(running.url, running.token), Api(running.url, worker)
        self.build_id = self.submit()
        node = pb.RegisterNodeRequest(protocol=PROTOCOL, node_id="n", queues=["compile.python"], slots=1)
        self.api.call("RegisterNode", node)
        asked = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=self.build_id, node_id="n", nonce="x")
        self.claim, self.count = self.api.call("ClaimBuild", asked).claim, 0

    def submit(self) -> str:
        request = pb.CreateBuildRequest(name="talks")
        request.code.compile.source_code = b"x = 1\n"
        request.code.compile.runtime.python.SetInParent()
        return str(self.client.call("CreateBuild", request).build_id)

    def print(self, lines: int) -> None:
        request = pb.AppendLogRequest(
            protocol=PROTOCOL, build_id=self.build_id, claim=self.claim, first_index=self.count
        )
        for number in range(self.count, self.count + lines):
            request.lines.add(line=f"line {number} " + "x" * 60, stream=pb.LOG_STREAM_STDOUT, timestamp_ms=1)
        assert not self.api.call("AppendLog", request).stale
        self.count += lines

    def fail(self) -> None:
        failure = pb.Failure(reason="CompileFailed", message="m", error_class="user_code")
        request = pb.FinishRequest(protocol=PROTOCOL, build_id=self.build_id, claim=self.claim, failure=failure)
        request.log_count = self.count
        assert not self.api.call("Finish", request).stale


def read_all(running: embedded.Embedded, build_id: str, begun: threading.Semaphore) -> tuple[list[int], bool]:
    """Sequences as they came, and whether the last event was the end."""
    api, found, ended = Api(running.url, running.token), list[int](), False
    try:
        for entry in api.log(build_id):
            assert not ended
            if entry.eof:
                ended = True
                continue
            found.append(entry.sequence)
            if len(found) == 1:
                begun.release()
    finally:
        api.close()
    return found, ended


def stalled(running: embedded.Embedded, build_id: str) -> socket.socket:
    """A reader that has asked, and takes nothing of the answer."""
    host, port = running.url.removeprefix("http://").split(":")
    waiting = socket.socket()
    waiting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    waiting.settimeout(PATIENCE_S)
    waiting.connect((host, int(port)))
    head = f"GET /v1/ignite/builds/{build_id}/logs/stream?fromStart=true HTTP/1.1\r\nhost: x\r\n"
    waiting.sendall(f"{head}authorization: Bearer {running.token}\r\nconnection: close\r\n\r\n".encode())
    return waiting


def drained(waiting: socket.socket) -> list[int]:
    """The sequences that a reader gets once it reads."""
    data = bytearray()
    while chunk := waiting.recv(65_536):
        data += chunk
    body, at = bytearray(), data.index(b"\r\n\r\n") + 4
    while size := int(data[at : (end := data.index(b"\r\n", at))], 16):
        body += data[end + 2 : end + 2 + size]
        at = end + 4 + size
    events = bytes(body).decode().split("\n\n")
    return [int(event.split("\n")[0].removeprefix("id: ")) for event in events if "\nevent: log\n" in event]


def test_fifty_readers_get_every_line_once_beside_one_that_stalls(
    running: embedded.Embedded, node: Node, kept: list[tuple[int, int]]
) -> None:
    node.print(1)
    begun = threading.Semaphore(0)
    with stalled(running, node.build_id) as waiting, ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read_all, running, node.build_id, begun) for _ in range(READERS)]
        for _ in range(READERS):
            assert begun.acquire(timeout=PATIENCE_S)
        for _ in range(BATCHES):
            node.print(LINES)
        node.fail()
        found = [reader.result(timeout=PATIENCE_S) for reader in readers]
        record = node.client.call("GetBuild", pb.GetBuildRequest(build_id=node.build_id))
        wanted = list(range(1, record.log_lines + 1))
        assert all(sequences == wanted and ended for sequences, ended in found)
        assert max(held for _, held in kept) <= BUDGET + streams.PAGE_LINES * 250  # and one page that is larger
        assert drained(waiting) == wanted
    pages = len(kept)
    assert pages < READERS * BATCHES  # shared: not one for each reader and batch
    assert max(count for count, _ in kept) <= BATCHES


def test_tails_hold_up_no_heartbeat(running: embedded.Embedded, node: Node) -> None:
    """More tails than there are threads for all calls, each in a read of the store that does not end."""
    released = threading.Event()
    fill = streams.LogStreams._fill
    begun, ended = list[str](), list[str]()

    def slow(*args: object) -> list[object]:
        assert released.wait(PATIENCE_S)
        return []

    async def noted(self: streams.LogStreams, feed: Feed, place: streams.Place, after: int) -> streams.Page:
        begun.append(place.build_id)
        try:
            return await fill(self, feed, place, after)
        finally:
            ended.append(place.build_id)

    builds = [node.submit() for _ in range(45)]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(len(builds)) as pool:
        try:
            patch.setattr(streams.LogStreams, "_fill", noted)
            readers = [pool.submit(read_all, running, build, threading.Semaphore(0)) for build in builds]
            assert until(lambda: set(ended) == set(builds), PATIENCE_S), "each has read once"
            patch.setattr(logs, "read", slow)
            for build in builds:
                running.control.tails.tell(build)
            assert until(lambda: len(begun) - len(ended) == len(builds), PATIENCE_S), "each is in a read"
            beat = pb.HeartbeatRequest(protocol=PROTOCOL, build_id=node.build_id, claim=node.claim)
            for _ in range(20):
                assert not node.api.call("Heartbeat", beat).stale
            node.print(10)
            assert not any(reader.done() for reader in readers)
        finally:
            released.set()
            running.control.tails.ended = True
        for reader in readers:
            assert reader.result(timeout=PATIENCE_S)[1] is False
