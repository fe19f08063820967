"""The end of a followed build: its record comes with the log's last entry, from an older server by another call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from builder.cli.client import Client
from builder.cli.follow import Interrupts, View, watch
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

RECORD = pb.Build(build_id="b", status=pb.BUILD_STATUS_SUCCEEDED, image_digest="sha256:1")


class Server:
    """A log of one line. `end` is its last entry."""

    def __init__(self, end: pb.LogEntry) -> None:
        self.end, self.gets = end, 0

    def follow(self, build_id: str, after: int) -> Iterator[pb.LogEntry]:
        yield pb.LogEntry(sequence=1, line="one")
        yield self.end

    def get(self, build_id: str) -> pb.Build:
        self.gets += 1
        return RECORD


class Shown:
    """A view that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def entry(self, entry: pb.LogEntry) -> None:
        self.lines.append(entry.line)

    def tick(self) -> None:
        return


@pytest.mark.parametrize("with_record", [True, False])
def test_the_record_is_asked_for_where_the_end_has_none(with_record: bool) -> None:
    end = pb.LogEntry(eof=True, sequence=1, status=RECORD.status, build=RECORD if with_record else None)
    server, view = Server(end), Shown()
    watched = watch(cast(Client, server), pb.Build(build_id="b"), cast(View, view), Interrupts())
    assert (watched.build, watched.left, view.lines) == (RECORD, "", ["one"])
    assert server.gets == (0 if with_record else 1)
