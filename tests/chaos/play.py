"""Plays a history on its parts: awaits a state, takes the step, ends what lasts its time; and watches the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from builder.sandbox import cgroups
from tests.chaos.clients import Canceller, Client, Submitter, Tail
from tests.chaos.parts import QUEUES, Part, Parts
from tests.chaos.schedule import Cancel, Fault, History, Submit

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
PATIENCE_S = 240.0
"""Until everything has ended after the last step; a build that is stuck never ends."""
READY_S = 120.0
POLL_S, WATCH_S = 0.05, 0.25
STARTS = 25


class Broken(Exception):
    """A promise that does not hold."""


@dataclass
class Watch:
    """Reads the store four times a second: what has ended stays as it is, nothing goes backwards."""

    parts: Parts
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.wait(WATCH_S):
            with suppress(SQLAlchemyError):
                self.look()

    def look(self) -> None:
        query = "select build_id, status, claim, attempt, published, artifact, log_lines, report_sequence from builds"
        with self.parts.store.connect() as connection:
            rows = [dict(row) for row in connection.execute(text(query)).mappings()]
        for row in rows:
            before = self.seen.get(row["build_id"], row)
            self.seen[row["build_id"]] = row
            if before["status"] in TERMINAL and row != before:
                self.wrong.append(f"changed after its end: {before} became {row}")
            for name in ("claim", "attempt", "published", "log_lines", "report_sequence"):
                if row[name] < before[name]:
                    self.wrong.append(f"{name} went back: {before} became {row}")
        missing = set(self.seen) - {row["build_id"] for row in rows}
        if missing:
            self.wrong.append(f"builds are lost: {sorted(missing)}")


@dataclass
class Play:
    """One run. `told` is what happened, in order."""

    history: History
    parts: Parts
    tell: Callable[[str], None]
    submitters: dict[int, Submitter] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    groups: set[str] = field(default_factory=set)
    """What the names of control groups of the workers' processes begin with."""
    """Pids that were children of a worker."""
    _watch: Watch = field(init=False)
    _ends: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)
    _offsets: dict[str, int] = field(default_factory=dict)
    _progress: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._watch = Watch(self.parts)

    @property
    def wrong(self) -> list[str]:
        return self._watch.wrong + [one for client in self.clients for one in client.wrong]

    def cancels(self) -> frozenset[int]:
        """The numbers of the builds whose cancel was asked for."""
        return frozenset(step.number for _, step in self.history.steps if isinstance(step, Cancel))

    def seen(self) -> dict[str, dict[str, Any]]:
        """The builds as they were last seen, by id."""
        return self._watch.seen

    def run(self) -> None:
        """Play to the end: every build has ended, every spell too. Raises `Broken`."""
        watching = threading.Thread(target=self._watch.run, daemon=True)
        watching.start()
        try:
            self.until(self._nodes_are_known, READY_S, "the nodes do not register")
            for gate, step in self.history.steps:
                self._await_progress(gate)
                self._take(step)
            self.until(lambda: self._is_quiet() and not self._ends, PATIENCE_S, "not all builds ended")
            self.until(lambda: all(part.is_running for part in self.parts.every), READY_S, "a part does not run")
            self._say("quiet")
        finally:
            self._watch.over.set()
            watching.join()

    def _await_progress(self, transitions: int) -> None:
        """So many of them, or all that there is to do."""
        enough = self._progress + transitions
        self.until(lambda: self._progress >= enough or self._is_quiet(), PATIENCE_S, "no step can be taken")

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Poll, while spells end and parts that ended by themselves start again."""
        limit = time.monotonic() + seconds
        while not condition():
            self._end_spells()
            self._supervise()
            self._read_progress()
            if self.wrong:
                raise Broken("; ".join(self.wrong))
            if time.monotonic() > limit:
                raise Broken(f"after {seconds:.0f} s: {what}; {self._state()}")
            time.sleep(POLL_S)

    def _nodes_are_known(self) -> bool:
        with suppress(SQLAlchemyError), self.parts.store.connect() as connection:
            return connection.execute(text("select count(*) from nodes")).scalar() == len(self.parts.workers)
        return False

    def _state(self) -> str:
        seen = [f"{one} {row['status']} claim {row['claim']}" for one, row in self._watch.seen.items()]
        return "; ".join(one for one in seen if not any(word in one for word in TERMINAL)) or "no open build"

    def _say(self, what: str) -> None:
        self.tell(f"{time.monotonic() - self._started:7.2f} s  {what}")

    def _is_quiet(self) -> bool:
        """Whether all that was submitted has been accepted and has ended."""
        if any(client.is_alive() for client in self.clients if not isinstance(client, Tail)):
            return False
        accepted = [one.build_id for one in self.submitters.values()]
        return all(self._watch.seen.get(one, {}).get("status") in TERMINAL for one in accepted)

    def _read_progress(self) -> None:
        for api in self.parts.apis:
            if not api.log.exists():
                continue
            with api.log.open("rb") as log:
                log.seek(self._offsets.get(api.name, 0))
                new = log.read()
            self._offsets[api.name] = self._offsets.get(api.name, 0) + len(new)
            self._progress += new.count(b'"event": "transition"')

    def _supervise(self) -> None:
        """Start what ended by itself, as an operator's supervisor does."""
        for part in self.parts.every:
            if part.down or part.is_running:
                continue
            if part.starts > STARTS:
                raise Broken(f"{part.name} ended {part.starts} times: {part.said()[-1500:]}")
            assert part.process is not None
            self._say(f"{part.name} ended with {part.process.returncode}; started again")
            part.start()
        for worker in self.parts.workers:
            self.groups.update(map(cgroups.name_of, worker.children()))

    # Steps

    def _take(self, step: Submit | Cancel | Fault) -> None:
        if isinstance(step, Submit):
            self._say(f"submit {step.number}: {step.script} {step.mark} of {step.organization}/{step.name}{step.tags}")
            self.submitters[step.number] = Submitter(self.parts, step, self.over, self._accepted)
            self._begin(self.submitters[step.number])
        elif isinstance(step, Cancel):
            self._say(f"cancel {step.number}")
            self._begin(Canceller(self.parts, self.submitters[step.number], self.over))
        else:
            self._say(f"{step.kind} {step.target}, {step.spell_s} s: {self._strike(step)}")

    def _begin(self, client: Client) -> None:
        self.clients.append(client)
        client.start()

    def _accepted(self, submitter: Submitter) -> None:
        if submitter.submit.tailed:
            tail = Tail(self.parts, submitter.submit.organization, submitter.build_id, self.over)
            self.tails.append(tail)
            self._begin(tail)

    def _strike(self, fault: Fault) -> str:
        """Begin a fault; what was hit."""
        verb, _, what = fault.kind.partition("-")
        parts = self.parts
        if verb == "registry":
            parts.proxy.spell(what)
            self._later(fault, "the registry answers", lambda: parts.proxy.spell(""))
            return parts.proxy.host
        if fault.kind in ("flush", "drop-hints", "double-hints", "garbage"):
            return self._spoil(fault.kind)
        if fault.kind == "end-sessions":
            with suppress(SQLAlchemyError), parts.store.connect() as connection:
                ended = connection.execute(
                    text("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
                )
                return f"{len(ended.all())} sessions"
            return "the database is away"
        part = self._part(what, fault.target)
        if part is None or part.down or not part.is_running:
            return "it is down already"
        if what == "child":
            return self._strike_child(fault, part, verb)
        if what == "parent":
            part.down = True
            os.kill(part.pid, signal.SIGKILL)
            assert part.process is not None
            part.process.wait()
            self._later(fault, f"{part.name} starts", part.start)
        elif verb == "kill":
            part.kill()
            self._later(fault, f"{part.name} starts", part.start)
        elif verb == "pause":
            stopped = part.pid
            part.signal_all(signal.SIGSTOP)

            def go_on() -> None:
                if part.pid == stopped:
                    part.signal_all(signal.SIGCONT)

            self._later(fault, f"{part.name} goes on", go_on)
        else:  # TERM; it is started again when it has ended
            os.kill(part.pid, signal.SIGTERM)
        return part.name

    def _strike_child(self, fault: Fault, worker: Part, verb: str) -> str:
        children = worker.children()
        if not children:
            return "it has no child yet"
        pid = children[fault.target % len(children)]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
        if verb == "pause":

            def go_on() -> None:
                if pid in worker.children():
                    os.kill(pid, signal.SIGCONT)

            self._later(fault, f"{pid} goes on", go_on)
        return f"{pid} of {worker.name}"

    def _part(self, what: str, target: int) -> Part | None:
        if what in ("worker", "parent", "child"):
            return self.parts.workers[target % len(self.parts.workers)]
        if what == "api":
            return self.parts.apis[target % len(self.parts.apis)]
        return {"redis": self.parts.redis, "registry": self.parts.registry, "database": self.parts.database}[what]

    def _spoil(self, kind: str) -> str:
        """Redis holds hints only: they vanish, double, or are none."""
        try:
            with self.parts.broker() as broker:
                if kind == "flush":
                    broker.flushall()
                    return "everything in Redis"
                hints = 0
                for queue in QUEUES:
                    lying: Any = broker.lrange(queue, 0, -1)
                    hints += len(lying)
                    if kind == "drop-hints":
                        broker.delete(queue)
                    elif kind == "garbage":
                        broker.lpush(queue, "{not json", '"x"', "[]", '{"body": "x"}')
                    elif lying:
                        broker.lpush(queue, *lying)
                return f"{hints} hints"
        except redis.RedisError as error:
            return f"Redis is away: {type(error).__name__}"

    def _later(self, fault: Fault, what: str, end: Callable[[], None]) -> None:
        self._ends.append((time.monotonic() + fault.spell_s, what, end))

    def _end_spells(self) -> None:
        due = [one for one in self._ends if one[0] <= time.monotonic()]
        for one in due:
            self._ends.remove(one)
            self._say(one[1])
            one[2]()
