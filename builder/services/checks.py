"""What a call of a node or watcher may have: checked, or cut, before the store sees it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from google.protobuf import json_format

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import REASONS, BuildError, ErrorClass
from builder.mask import Mask
from builder.services.auth import Caller, require
from builder.services.errors import CallRefused, permission_denied
from builder.settings import NODE_ID, NODE_ID_TAKES
from builder.store import logs
from builder.text import log_line, visible

MOST_NAMES, NAME_CHARACTERS = 1000, 200
"""Queues or toolchains of a node, and each of their names: the dispatcher reads them at each look."""
KEY_CHARACTERS, WORD_CHARACTERS, NONCE_CHARACTERS = 80, 40, 64
"""The most of a key or a digest; of a runtime, its version or its target; of a nonce. A column holds as many."""
TEXT_CHARACTERS, SAID_LINES = 16 * 1024, 6
"""The most of each text of a failure or warning, and of the lines of the tool's own words in a failure."""
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: no calendar has a later time, so a reader of a record or log could not write it."""
MOST_JOBS, FACTS_BYTES = 1000, 64 * 1024
"""The most Jobs in one call of a watcher, and bytes of what it needs to explain the end of a Job."""
MOST_LINES = 20_000
"""The most lines in one call. A node sends 500, a watcher what one read of a container's log had: up to some 12,000
lines of no text."""
MOST_PHASES = 100
"""The most phases of one claim. The line has a tenth of them, and every reader of the record reads them all."""
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_caller(caller: Caller, protocol: int, scopes: Sequence[str]) -> None:
    """Raises `CallRefused` for a token without any of these scopes, and for a node of another version."""
    require(caller, *scopes)
    if protocol != PROTOCOL:
        message = f"the worker speaks protocol {protocol}, the API speaks {PROTOCOL}: install the same version"
        raise CallRefused("FAILED_PRECONDITION", message)


def need(name: str, value: str) -> None:
    """Raises `BuildError` InvalidRequest for a field that is empty."""
    if not value:
        raise BuildError("InvalidRequest", f"{name} is needed", where=name)


def check_name(field: str, name: str) -> None:
    """Raises `BuildError` InvalidRequest for what names no node or watcher."""
    need(field, name)
    if not NODE_ID.fullmatch(name):
        message = f"{field} takes {NODE_ID_TAKES}"
        raise BuildError("InvalidRequest", message, where=field)


def is_of(caller: Caller, node_id: str) -> bool:
    """Whether a token may act for a node or watcher. One that names no node may for all of them (the embedded mode)."""
    return caller.node in ("", node_id)


def check_node(caller: Caller, node_id: str) -> None:
    """Raises `CallRefused` PERMISSION_DENIED for the token of another node."""
    if not is_of(caller, node_id):
        raise permission_denied(f'this token is for the node "{caller.node}"')


def check_few(name: str, values: Collection[str]) -> None:
    """Raises `BuildError` InvalidRequest for too many values, and for one that is too long or not printable."""
    if len(values) > MOST_NAMES or not all(_is_text(value, NAME_CHARACTERS) for value in values):
        message = f"{name} takes up to {MOST_NAMES} values of up to {NAME_CHARACTERS} printable characters"
        raise BuildError("InvalidRequest", message, where=name)


def check_text(name: str, value: str, most: int) -> None:
    """Raises `BuildError` InvalidRequest for a value that is too long or not printable."""
    if not _is_text(value, most):
        raise BuildError("InvalidRequest", f"{name} takes up to {most} printable characters", where=name)


def _is_text(value: str, most: int) -> bool:
    return len(value) <= most and value.isprintable()


def check_nonce(nonce: str) -> None:
    """Raises `BuildError` InvalidRequest without one: two calls would pass for the same, sent twice."""
    need("nonce", nonce)
    check_text("nonce", nonce, NONCE_CHARACTERS)


def check_plan(request: pb.PlannedRequest) -> None:
    """Raises `BuildError` InvalidRequest for a key, digest, runtime, version or target that a record cannot hold."""
    words = (("runtime", request.runtime), ("runtimeVersion", request.runtime_version), ("target", request.target))
    for name, value in (("key", request.key), ("codeHash", request.code_hash)):
        check_text(name, value, KEY_CHARACTERS)
    for name, value in words:
        check_text(name, value, WORD_CHARACTERS)


def check_count(name: str, count: int) -> None:
    """Raises `BuildError` InvalidRequest for a call about too many Jobs."""
    if count > MOST_JOBS:
        raise BuildError("InvalidRequest", f"{name} takes up to {MOST_JOBS} of them", where=name)


def moment(ms: int) -> int:
    """A time that a node names, within the calendar."""
    return min(max(0, ms), LAST_MS)


def check_lines(lines: Collection[pb.LogEntry]) -> None:
    """Raises `BuildError` InvalidRequest for more lines than an owner sends at once."""
    if len(lines) > MOST_LINES:
        raise BuildError("InvalidRequest", f"lines takes up to {MOST_LINES} of them", where="lines")


def check_phases(phases: Collection[pb.PhaseRecord]) -> None:
    """Raises `BuildError` InvalidRequest for more phases than a line has."""
    if len(phases) > MOST_PHASES:
        raise BuildError("InvalidRequest", f"phases takes up to {MOST_PHASES} of them", where="phases")
    for phase in phases:
        phase.started_at_ms, phase.ended_at_ms = moment(phase.started_at_ms), moment(phase.ended_at_ms)


def clean(failure: pb.Failure) -> None:
    """A failure's texts as a log stores them: of bounded length, and nothing in them acts on a terminal. A class that
    is none becomes that of the reason."""
    failure.reason = log_line(failure.reason[:NAME_CHARACTERS])
    for name in ("message", "where", "next"):
        lines = getattr(failure, name)[:TEXT_CHARACTERS].split("\n")
        setattr(failure, name, "\n".join(map(log_line, lines)))
    if failure.error_class not in tuple(ErrorClass):
        failure.error_class = str(REASONS.get(failure.reason, REASONS["Internal"]).error_class)
    failure.said[:] = [log_line(line[:TEXT_CHARACTERS]) for line in failure.said[:SAID_LINES]]


def hide(failure: pb.Failure, mask: Mask) -> None:
    """Hide the secrets of its build in a failure's texts."""
    for name in ("message", "where", "next"):
        setattr(failure, name, mask.text(getattr(failure, name)))
    failure.said[:] = mask.texts(failure.said, resumed=True)  # the last lines of a log: they may begin in a secret


def check_job(job: pb.Job) -> None:
    """Raises `BuildError` InvalidRequest for what cannot be a Job, or is too large for a record."""
    for name, value in (("strategy", job.strategy), ("name", job.name), ("namespace", job.namespace)):
        if not _DNS_LABEL.fullmatch(value):
            raise BuildError("InvalidRequest", f"job.{name} takes a DNS label", where=f"job.{name}")
    if len(job.facts.encode()) > FACTS_BYTES:
        message = f"job.facts has {len(job.facts.encode())} bytes, {FACTS_BYTES} are allowed"
        raise BuildError("InvalidRequest", message, where="job.facts")
    job.deadline_at_ms = moment(job.deadline_at_ms)


def checked_cursors(found: Mapping[str, pb.LogCursor]) -> dict[str, logs.Position]:
    """Where the readers of a Job's containers stand. Raises `BuildError` InvalidRequest."""
    if len(found) > logs.MOST_CURSORS or not all(_DNS_LABEL.fullmatch(name) for name in found):
        message = f"cursors takes up to {logs.MOST_CURSORS} names of containers"
        raise BuildError("InvalidRequest", message, where="cursors")
    return {
        name: (min(max(0, at.since), LAST_MS // 1000), max(0, at.lines), max(0, at.newest_ns))
        for name, at in found.items()
    }


def checked_provenance(found: pb.SourceProvenance) -> str:
    """A node's word of a commit, in its form, as the record stores it. Raises `BuildError` InvalidRequest."""
    if not re.fullmatch(r"[0-9a-f]{40}", found.commit_sha):
        raise BuildError("InvalidRequest", "a commit has 40 hex digits", where="provenance.commitSha")
    kept = pb.SourceProvenance(
        commit_sha=found.commit_sha,
        author=visible(found.author, limit=200),
        branch=visible(found.branch, limit=255),
        source_timestamp_ms=min(max(found.source_timestamp_ms, 0), LAST_MS),
    )
    return json_format.MessageToJson(kept, indent=None)
