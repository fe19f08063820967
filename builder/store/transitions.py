"""What may become what: the one table of transitions. `rows.transition` writes by it and refuses what it lacks.

`docs/states.md` is generated from it (`make generate`). Terminal statuses are written once; every statement has what it
read (status, claim) in its condition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"
TERMINAL = (SUCCEEDED, FAILED, CANCELLED)
WORK, JOB, FINALIZE = "WORK", "JOB", "FINALIZE"
OWNED = (WORK, JOB)
"""The stages in which an owner outside of the control side has the build: a node, a watcher."""
WORK_PHASES = ("FETCH_SOURCE", "DETECT", "PLAN", "BUILD", "PACKAGE", "PUSH")
"""The phases that an owner of work may report, in the order of the line."""

EXTERNAL = "external"
"""The queue of prebuilt images. No node reads it: a finalizer takes them, which alone asks their registries."""

IMAGE = "image"
"""The queue of image builds from an uploaded context: of nodes that can create Jobs."""

MAX_FAILURES = 3
MAX_RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class Transition:
    """`guard` is what the statement's condition holds beside the status."""

    name: str
    before: str
    after: tuple[str, ...]
    guard: str
    note: str


def _row(name: str, before: str, after: str, guard: str, note: str) -> Transition:
    return Transition(name=name, before=before, after=tuple(after.split()), guard=guard, note=note)


_OWNER, _WATCHER, _CONTROL = "claim, WORK", "claim, JOB", "claim, FINALIZE"
_EITHER = "claim, WORK or JOB"

TRANSITIONS: tuple[Transition, ...] = (
    _row("submit", "", PENDING, "idempotency key unseen", "record and first report (COMPILING)"),
    _row("offer", PENDING, PENDING, "not attached, `offer_from` over",
         "a hint; once it lies in Redis no more: again at once, then after 10, 20, 30 s; refused by the node that "
         "failed the build: at once while another one has a free slot"),
    _row("claim", PENDING, RUNNING, "not attached, `not_before` over, the node can, its organization has room",
         "new claim and attempt, WORK; of image builds an organization has `running_jobs` in WORK and JOB"),
    _row("resolve", PENDING, RUNNING, f"queue `{EXTERNAL}`, `not_before` over, no finalizer at its repository",
         "a prebuilt image: new claim and attempt, FINALIZE at once; organizations take turns"),
    _row("heartbeat", RUNNING, RUNNING, _EITHER, "renews the lease, notes what the owner waited"),
    _row("planned", RUNNING, RUNNING, f"{_OWNER}, no cancel asked for", "the key is known: on, or one of the next two"),
    _row("reuse", RUNNING, RUNNING, f"{_OWNER}, no cancel asked for",
         "built before, or a rebase without a change: FINALIZE with the stored digest"),
    _row("attach", RUNNING, PENDING, f"{_OWNER}, no followers", "the key is in flight: waits for its primary"),
    _row("launching", RUNNING, RUNNING, f"{_OWNER}, no cancel asked for",
         "the attempt is marked with the Job that its owner creates next"),
    _row("launched", RUNNING, RUNNING, f"{_OWNER}, marked, every line kept, no cancel asked for",
         "the Job is created: JOB, new claim, no owner, the lease over"),
    _row("adopt-job", RUNNING, RUNNING, "JOB, not watched, the watcher has caught up with all of its others",
         "new claim, same attempt; the build that was without a watcher for longest first"),
    _row("caught-up", RUNNING, RUNNING, _WATCHER, "the watcher has what the Job did before: its loss counts no more"),
    _row("release", RUNNING, RUNNING, _WATCHER, "the watcher drains: new claim, no owner, the Job goes on"),
    _row("unwatched", RUNNING, FAILED, "JOB, not watched for the queue timeout, no cancel asked for",
         "`ClusterUnavailable`; a line of the log tells it a lease after the last watcher's"),
    _row("built", RUNNING, RUNNING, f"{_EITHER}, every line kept, no cancel asked for", "FINALIZE, new claim"),
    _row("fail", RUNNING, FAILED, f"{_EITHER}, every line kept, no cancel asked for", "and last report"),
    _row("retry", RUNNING, PENDING, f"{_EITHER}, every line kept, retries left or the Job unseen",
         "a platform failure; stays the primary of its key; a Job that nobody saw costs no retry"),
    _row("hand-back", RUNNING, PENDING, f"{_OWNER}, no cancel asked for", "the node drains; costs nothing"),
    _row("adopt", RUNNING, RUNNING, "FINALIZE, lease over, no finalizer at its repository",
         "new claim; due for longest first; a lost finalizer counts until the mark"),
    _row("finalizer-lost", RUNNING, FAILED, "FINALIZE, lease over, no PUBLISH mark", f"poison at {MAX_FAILURES}"),
    _row("finalize-later", RUNNING, RUNNING, _CONTROL,
         "trouble: again after a pause; its finalizer's process ends: at once; counts as nothing"),
    _row("artifact-gone", RUNNING, PENDING, f"{_CONTROL}, no PUBLISH mark, reused",
         "the registry lacks what was built before: it is built"),
    _row("artifact-refused", RUNNING, f"{PENDING} {FAILED}", f"{_CONTROL}, no PUBLISH mark, not reused",
         "the attempt's tag has another artifact than its owner reported: `Internal`, as retry and fail"),
    _row("image-refused", RUNNING, f"{PENDING} {FAILED}", f"{_CONTROL}, no PUBLISH mark, queue `{EXTERNAL}`",
         "the image is none that can run, or its registry does not answer; as retry and fail"),
    _row("publish", RUNNING, RUNNING, f"{_CONTROL}, no cancel asked for", "the PUBLISH mark: only forward from here"),
    _row("succeed", RUNNING, SUCCEEDED, f"{_CONTROL}, PUBLISH mark", "and last report"),
    _row("cancel-pending", PENDING, CANCELLED, "", "and last report"),
    _row("cancel-request", RUNNING, RUNNING, "WORK or JOB", "the owner confirms; of a Job its next watcher"),
    _row("cancelled", RUNNING, CANCELLED, "cancel asked for, no PUBLISH mark",
         "at planned, launched, finish, hand-back, timeout; in FINALIZE at once"),
    _row("lease-expired", RUNNING, f"{PENDING} {FAILED} {CANCELLED} {RUNNING}", "claim, WORK or JOB, lease over",
         f"poison at {MAX_FAILURES}; CANCELLED when that was asked for; a marked attempt: JOB without a watcher; the "
         "loss of a watcher that had caught up does not count"),
    _row("queue-timeout", PENDING, FAILED, "not attached", "since it entered the queue, without backoff"),
    _row("build-timeout", RUNNING, FAILED, "no PUBLISH mark, not a Job that nobody watches",
         "time without its owner's waits, one lease late"),
    _row("primary-succeeded", PENDING, RUNNING, "attached", "FINALIZE with its own tags and report"),
    _row("primary-failed", PENDING, FAILED, "attached", "user_code but for limits, or poison: alike"),
    _row("promote", PENDING, PENDING, "attached, the primary ended otherwise",
         "the oldest is queued and takes the key over, the others follow it"),
)  # fmt: skip

BY_NAME = {row.name: row for row in TRANSITIONS}


def page() -> str:
    """`docs/states.md`."""
    rows = [
        f"| {row.name} | {row.before or '-'} | {', '.join(row.after)} | {row.guard or '-'} | {row.note} |"
        for row in TRANSITIONS
    ]
    head = ("| transition | from | to | condition beside the status | notes |", "|---|---|---|---|---|")
    return "\n".join((_HEAD, *head, *rows, _TAIL))


_HEAD = """\
# States of a build

Generated from `builder/store/transitions.py` by `make generate`. Each row but heartbeat is emitted as one event, after
its commit: a line of the control side's log, a count of `/metrics`. The transaction of an end (`SUCCEEDED`, `FAILED`,
`CANCELLED`) also calls the listeners of `builder/store/listeners.py`; the report is the first.

The store is the truth. A RUNNING build is in one of three stages: WORK (owned by a worker), JOB (owned by a watcher,
which follows the Kubernetes Job that the worker created) or FINALIZE (owned by the control side). Every statement has
what it read (status, claim) in its condition; a terminal status is written once. Where several rows fit: terminal
stands, then cancel, then poison, then the rest.
"""

_TAIL = f"""
A build ends FAILED `WorkerLost` at {MAX_FAILURES} lost owners. A platform failure is retried {MAX_RETRIES} times.
In JOB time without a watcher extends the build's. A watcher adopts one build after the other, each caught up before the
next; whoever is lost later than that costs nothing, since the Job goes on.
A cancelled build in JOB is CANCELLED once its watcher has deleted the Job. While the cluster does not answer it stays
RUNNING, at most until its time is over (`build-timeout`, or `unwatched`): then it is CANCELLED, and its log names the
Job, which may still run. CANCELLED is an end: no further attempt, no finalizer, no tag but the attempt's own, which the
Job itself pushes; a watcher deletes the Job once the cluster answers.
A primary (the build that has a key in flight) is never attached; it stays the primary while it is queued again.
"""


if __name__ == "__main__":
    print(page(), end="")


def furthest(phase: str, reported: Iterable[str]) -> str:
    """The phase of a build once its owner has reported these: a claim only goes forward, and no report leads beyond
    its work."""
    known = [WORK_PHASES.index(one) for one in (phase, *reported) if one in WORK_PHASES]
    return WORK_PHASES[max(known)] if known else phase
