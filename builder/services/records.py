"""A record as clients see it."""

from __future__ import annotations

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import compiled_runtime, runtime_of
from builder.store import builds, record


def shown(row: builds.Row) -> pb.Build:
    """A record with the version and target that were asked for, until its node has found those that it builds."""
    found = record.build(row)
    if not found.runtime_version:
        found.runtime_version, found.target = runtime_of(compiled_runtime(record.request(row)))
    return found
