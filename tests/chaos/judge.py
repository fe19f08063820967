"""The promises, judged when a history is quiet. Each broken one is a sentence."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from builder.attest.provenance import PREDICATE_TYPE
from builder.images import registry as registries
from builder.images.registry import Registry
from builder.sandbox import cgroups
from builder.store.transitions import BY_NAME, TRANSITIONS
from tests.build_fixtures import until
from tests.chaos import sources
from tests.chaos.clients import Tail
from tests.chaos.parts import Parts
from tests.chaos.play import TERMINAL, Play
from tests.chaos.schedule import Submit
from tests.crash_fixtures import is_terminal

SETTLE_S = 240.0
"""Until reports are delivered and nodes are swept, which follows the last end by a few ticks."""
ENDS = frozenset(row.name for row in TRANSITIONS if set(row.after) & set(TERMINAL))
SCRIPT_STREAM = "LOG_STREAM_STDOUT"

Row = dict[str, Any]


def judge(play: Play) -> list[str]:
    """What is broken, while the parts run. Waits for what follows the last end."""
    wrong = list(play.wrong)
    wrong += _settled(play)
    builds = _rows(play.parts, "select * from builds order by number")
    by_id = {row["build_id"]: row for row in builds}
    submits = {one.build_id: one.submit for one in play.submitters.values()}
    wrong += list(_accepted_once(play, by_id))
    wrong += list(_ended_once(play.parts, by_id))
    wrong += list(_outcomes(by_id, submits, play.cancels()))
    wrong += list(_reports(play.parts, by_id))
    wrong += list(_one_digest(builds))
    wrong += list(_logs(play, by_id, submits))
    wrong += list(_artifacts(play.parts, builds))
    return wrong


def judge_left(play: Play) -> list[str]:
    """What is left once the parts have ended; a process that was killed ends in its own time."""
    until(lambda: not _left(play), SETTLE_S)
    return _left(play)


def _left(play: Play) -> list[str]:
    wrong = []
    needle = str(play.parts.folder).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = process.joinpath("cmdline").read_bytes()
            named = needle in line or needle in process.joinpath("environ").read_bytes()
            state = process.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if named and int(process.name) != os.getpid() and state not in "ZX":
                wrong.append(
                    f"a process is left: {process.name} {line.replace(bytes(1), b' ').decode(errors='replace')}"
                )
    wrong += [f"a build process is left: {one}" for one in play.parts.build_processes()]
    wrong += [f"a mount is left: {one}" for one in play.parts.mounts()]
    found = cgroups.available()
    for parent in set(found.parents.values()) if found else ():
        wrong += [f"a control group is left: {group}" for name in play.groups for group in parent.glob(f"{name}*")]
    return wrong


def _rows(parts: Parts, query: str) -> list[Row]:
    with parts.store.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def _settled(play: Play) -> list[str]:
    """Whatever becomes true a moment later: told, swept, drained."""
    parts = play.parts

    def reports_wait() -> list[str]:
        return [f"report {row}" for row in _rows(parts, "select * from reports where delivered_at = 0")]

    waiting: dict[str, Callable[[], list[str]]] = {
        "a report is not delivered": reports_wait,
        "left on a node": parts.left_on_nodes,
        "a build process lives": parts.build_processes,
        "a key is in flight": lambda: [str(row) for row in _rows(parts, "select * from in_flight")],
        "lines are held back": lambda: [
            str(row["build_id"]) for row in _rows(parts, "select build_id from held_lines")
        ],
        "a tail has no end": lambda: [tail.build_id for tail in play.tails if tail.is_alive()],
    }
    limit = time.monotonic() + SETTLE_S
    while (left := {what: found for what, find in waiting.items() if (found := find())}) and time.monotonic() < limit:
        time.sleep(0.1)
    return [f"after {SETTLE_S:.0f} s: {what}: {found[:5]}" for what, found in left.items()]


def _accepted_once(play: Play, by_id: dict[str, Row]) -> Iterator[str]:
    """No accepted build is lost, and a request that was repeated made one."""
    accepted = {one.build_id for one in play.submitters.values()}
    if lost := accepted - set(by_id):
        yield f"accepted builds are lost: {sorted(lost)}"
    if doubled := set(by_id) - accepted:
        yield f"builds that no answer named: {sorted(doubled)}"


def _ended_once(parts: Parts, by_id: dict[str, Row]) -> Iterator[str]:
    """One terminal status; the log of events agrees, as far as a killed process came to write it."""
    ends: dict[str, list[str]] = defaultdict(list)
    for event in parts.transitions():
        if event["action"] not in BY_NAME:
            yield f"{event['action']} is no transition"
        elif event["action"] in ENDS and event["status"] in TERMINAL:
            ends[event["build_id"]].append(event["status"])
    for build_id, row in by_id.items():
        if row["status"] not in TERMINAL:
            yield f"{build_id} has not ended: {row['status']}"
        if len(ends[build_id]) > 1 or set(ends[build_id]) - {row["status"]}:
            yield f"{build_id} is {row['status']}, the log of events says {ends[build_id]}"


def _outcomes(by_id: dict[str, Row], submits: dict[str, Submit], cancels: frozenset[int]) -> Iterator[str]:
    """A good source is never blamed, a bad one never succeeds, and nobody cancels but who is asked to."""
    for build_id, row in by_id.items():
        if build_id not in submits:
            continue
        bad = sources.has_to_fail(submits[build_id])
        failure = json.loads(row["failure"]) if row["failure"] else {}
        if row["status"] == "SUCCEEDED" and bad:
            yield f"{build_id} SUCCEEDED, and its source has to fail"
        if row["status"] == "FAILED" and not bad and failure.get("errorClass") != "platform":
            yield f"{build_id} has a good source and FAILED with {failure}"
        if row["status"] == "CANCELLED" and submits[build_id].number not in cancels:
            yield f"{build_id} is CANCELLED, and nobody asked for it"


def _reports(parts: Parts, by_id: dict[str, Row]) -> Iterator[str]:
    """One terminal report, the last; sequences 1..n in the outbox and at the receiver, each with one meaning."""
    outbox: dict[str, dict[int, Row]] = defaultdict(dict)
    for report in _rows(parts, "select build_id, sequence, body, delivered_at from reports order by id"):
        outbox[report["build_id"]][report["sequence"]] = json.loads(report["body"])
    for build_id, row in by_id.items():
        kept, received = outbox[build_id], parts.reports.of(build_id)
        if list(kept) != list(range(1, len(kept) + 1)) or row["report_sequence"] != len(kept):
            yield f"{build_id}: reports {list(kept)}, and the record says {row['report_sequence']}"
        if [is_terminal(one) for one in kept.values()] != [False] * (len(kept) - 1) + [True]:
            yield f"{build_id}: not one terminal report, the last: {[one['buildStatus'] for one in kept.values()]}"
        elif kept[len(kept)]["buildStatus"] != f"BUILD_STATUS_{row['status']}":
            yield f"{build_id} is {row['status']}, its last report says {kept[len(kept)]['buildStatus']}"
        if sorted(received) != sorted(kept):
            yield f"{build_id}: the receiver has the reports {sorted(received)} of {sorted(kept)}"
        for sequence, same in received.items():
            if any(one != kept.get(sequence) for one in same):
                yield f"{build_id}: the receiver got another report {sequence} than the outbox has"
        order = [int(one["sequence"]) for one in list(parts.reports.received) if one["buildId"] == build_id]
        news = [at for number, at in enumerate(order) if at not in order[:number]]
        if news != sorted(news):
            yield f"{build_id}: its reports came as {order}"


def _one_digest(builds: list[Row]) -> Iterator[str]:
    """The same source gives the same digest, whichever node and attempt."""
    digests: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in builds:
        if row["status"] == "SUCCEEDED":
            digests[row["source_sha256"], row["runtime"]].add(json.loads(row["artifact"])["digest"])
    for source, found in digests.items():
        if len(found) > 1:
            yield f"the source {source} has the digests {sorted(found)}"


def _logs(play: Play, by_id: dict[str, Row], submits: dict[str, Submit]) -> Iterator[str]:
    """Dense from 1; of an attempt no line doubled or missing before its end; complete where the build SUCCEEDED."""
    ended = play.over
    for build_id, row in by_id.items():
        if build_id not in submits:
            continue
        whole = Tail(play.parts, row["organization"], build_id, ended)
        whole.start()
        whole.join(SETTLE_S)
        yield from whole.wrong
        if whole.eof != (row["log_lines"], f"BUILD_STATUS_{row['status']}") or len(whole.lines) != row["log_lines"]:
            yield f"{build_id}: {len(whole.lines)} lines and eof {whole.eof}, the record: {row['log_lines']}"
        for tail in play.tails:
            if tail.build_id == build_id and (tail.lines, tail.eof) != (whole.lines, whole.eof):
                yield f"{build_id}: a reader that followed saw {len(tail.lines)} lines and {tail.eof}, another log"
        printed = [line for _, stream, line in whole.lines if stream == SCRIPT_STREAM and line.startswith("line ")]
        runs: list[list[int]] = []
        for number in (int(line.removeprefix("line ")) for line in printed):
            if number == 0:
                runs.append([])
            if not runs or number != len(runs[-1]):
                yield f"{build_id}: line {number} follows {runs[-1][-1:] if runs else []}"
                break
            runs[-1].append(number)
        if len(runs) > row["attempt"]:
            yield f"{build_id}: {len(runs)} runs are in the log of {row['attempt']} attempts"
        lines = sources.LINES.get(submits[build_id].script, 0)
        if row["status"] == "SUCCEEDED" and not row["from_cache_of"] and lines and (not runs or len(runs[-1]) != lines):
            yield f"{build_id} SUCCEEDED with {len(runs[-1]) if runs else 0} of {lines} lines"


def _artifacts(parts: Parts, builds: list[Row]) -> Iterator[str]:
    """The registry holds what the records say, and a tag is the newest submitted build's that asked for it."""
    target = registries.connect(parts.registry_host)
    wanted: dict[tuple[str, str], Row] = {}
    try:
        for row in builds:  # in the order of submission
            if row["status"] != "SUCCEEDED":
                continue
            for tag in json.loads(row["tags"]):
                wanted[row["repository"], tag] = row
            yield from _whole(target, parts, row)
        for (repository, tag), row in wanted.items():
            digest, found = json.loads(row["artifact"])["digest"], target.resolve(repository, tag)
            if found != digest:
                yield f"{repository}:{tag} is {found}, and {row['build_id']} made {digest}"
        kept = {(row["repository"], row["tag"]): row for row in _rows(parts, "select * from tags")}
        if extra := set(kept) - set(wanted):
            yield f"tags without a succeeded build: {sorted(extra)}"
    finally:
        target.close()


def _whole(target: Registry, parts: Parts, row: Row) -> Iterator[str]:
    """Manifest, every blob and the statement of a build."""
    digest = json.loads(row["artifact"])["digest"]
    manifest = target.get_manifest(row["repository"], digest)
    if manifest is None:
        yield f"{row['build_id']}: its manifest {digest} is not in {row['repository']}"
        return
    body = json.loads(manifest.body)
    for blob in (body["config"], *body["layers"]):
        url = f"http://{parts.registry_host}/v2/{row['repository']}/blobs/{blob['digest']}"
        answer = httpx.head(url, trust_env=False)
        if answer.status_code != 200 or int(answer.headers["content-length"]) != blob["size"]:
            yield f"{row['build_id']}: its blob {blob['digest']} is not whole: {answer.status_code}"
    types = [
        one.get("annotations", {}).get("in-toto.io/predicate-type")
        for one in target.referrers(row["repository"], digest)
    ]
    if PREDICATE_TYPE not in types:
        yield f"{row['build_id']}: no statement is attached to {digest}: {types}"
