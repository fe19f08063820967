"""A build in this process: claim → the line → finish → finalize, over the store itself, until the build has ended.

Any number of processes build over one store. Each is owner and control side of its own build, with a claim and a lease
like any node. A claim's nonce names its process: one that is gone loses its leases to whoever looks next. A build
whose key another process builds is attached to that one, and goes on in its place should it vanish.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from builder.attempt.attempt import Attempt, Node
from builder.attempt.reader import Readers
from builder.build import run_build
from builder.claims.calls import Unanswered
from builder.claims.left import send_left_behind
from builder.claims.outcome import Outcome
from builder.claims.requests import claim_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import IMAGE_QUEUE, is_image
from builder.faults import labels
from builder.local.calls import ServiceCalls
from builder.local.here import Here
from builder.logs import logger
from builder.node.close import close
from builder.node.drive import do_work, driving
from builder.node.fence import require_fence
from builder.node.leftovers import remove_left_behind
from builder.node.target import Destinations
from builder.process import process_start
from builder.services.workers import WorkerService
from builder.store import builds, nodes, sweeps
from builder.store.transitions import EXTERNAL, PENDING, TERMINAL
from builder.toolchains import digests
from builder.toolchains.providers import toolchains_of

if TYPE_CHECKING:
    from builder.control.finalizers import Finalizers

log = logger("local")
NODE = f"local@{os.uname().nodename}"
"""The node of all processes of this machine that build without a server."""
BEAT_MS = 1000
"""A cancel by another process travels with a heartbeat, and there is no server that many of them would load."""
POLL_S = 0.1
RETENTION_S = 86_400.0
LOOK_S = 0.5
"""Between two looks for processes that are gone, while this build waits for another's."""


class Owner:
    """This process as the owner and the finalizer of builds."""

    def __init__(self, here: Here, readers: Readers) -> None:
        """`readers` are begun (`builder.local.readers`), and closed with this."""
        settings = here.settings.replace(**{"heartbeat_ms": min(here.settings.heartbeat_ms, BEAT_MS)})
        self.here, self.nonce = here, process_name()
        crash = labels(settings.crash_at, Path(settings.data_dir))
        loading = threading.Event()

        def label(name: str) -> None:
            crash(name)
            if name == "step-runs" and not loading.is_set():  # it runs in processes of its own; this one is idle
                loading.set()
                threading.Thread(target=self._load, name="load", daemon=True).start()

        self._calls = ServiceCalls(WorkerService(here.parts, with_claim_bytes=0))
        apart = Path(settings.node_dir) / "local" / hashlib.sha256(settings.data_dir.encode()).hexdigest()[:12]
        blank = require_fence(settings, apart)
        self._stack = ExitStack()
        self._stack.callback(readers.close)
        self.node = Node(
            settings=settings,
            calls=self._calls,
            catalog=here.parts.catalog,
            known=here.known,
            toolchains=toolchains_of(settings),
            destination=Destinations(),
            readers=readers,
            label=label,
            uid=self._stack.enter_context(build_user(settings.build_uid + settings.slots, Path(settings.node_dir))),
            blank=blank,
            apart=apart,
        )
        self._label = label
        self._making = threading.Lock()
        self._finalizers: Finalizers | None = None
        self._ended: set[str] = set()
        self._looked = _now()
        self._expire_from = self._looked + settings.lease_ms / 1000
        digests.remember_in(Path(settings.node_dir) / "local" / "digests.json")
        self.settle()
        # What this machine cannot build was refused before; slots are none, since no dispatcher's hint leads here.
        can = {row.name: "" for row in here.parts.catalog.toolchains()}
        # One process may have an engine and another none: each claims only what it recorded itself.
        queues = dict.fromkeys((*settings.queue_list(tuple(here.parts.runtimes)), IMAGE_QUEUE))
        nodes.register(here.store, NODE, tuple(queues), can, 0, nodes.LIVE_LEASES * settings.lease_ms)

    def finalizers(self) -> Finalizers:
        """Made while the first step runs, or once a build is about to be finalized: it takes a while to load."""
        with self._making:  # a second pool would not renew the leases of the first
            if self._finalizers is None:
                self._finalizers = self._make_finalizers()
            return self._finalizers

    def _make_finalizers(self) -> Finalizers:
        from builder.control.finalizers import Finalizers, finalizers_destination
        from builder.finalize import Finalizer
        from builder.prebuilt import Prebuilt

        here, settings = self.here, self.node.settings
        finalizer = Finalizer(
            store=here.store,
            destination=finalizers_destination(settings),
            # Without a server it is the user's own network that is asked.
            prebuilt=Prebuilt(settings=settings.replace(private_registries=("*",)), secrets=here.parts.secrets),
            backoff_ms=settings.retry_backoff_ms,
            label=self._label,
            stale=lambda call: None,
            log=log,
        )
        changed = here.changes.tell
        return Finalizers(
            settings=settings,
            store=here.store,
            finalizer=finalizer,
            changed=changed,
            freed=changed,
            log=log,
            nonce=self.nonce,
        )

    def _load(self) -> None:
        """Load what the build needs after its steps. Whoever needs it then meets what fails here."""
        with suppress(Exception):
            if self.here.settings.registry:
                load_registry()
            self.finalizers()

    def settle(self) -> None:
        """Keep the lines that dead processes left, and end their leases: their builds are free now."""
        remove_left_behind(self.node.scratch)
        send_left_behind(self.node.calls, self.node.scratch / "spool")
        sweeps.expire_gone(self.here.store, NODE, is_gone)

    def build(self, build_id: str) -> None:
        """Do what brings the build to its end, or wait for who does it. Returns once it is terminal.

        Raises what the store raises that does not answer. The build is there for the next process then.
        """
        store, changes = self.here.store, self.here.changes
        while True:
            if self._calls.gone is not None:
                raise self._calls.gone
            seen = changes.generation
            row = builds.by_id(store, build_id)
            if row is None or row["status"] in TERMINAL:
                self._ended.add(build_id)
                return
            if row["status"] == PENDING and row["queue"] != EXTERNAL and self.work(row["attached_to"] or build_id):
                continue
            self.finalizers().step()
            self._look()
            changes.wait(seen, POLL_S)

    def _look(self) -> None:
        """While a build waits for another's: see who is gone. What shows by no pid shows by its lease in time."""
        now, lease_s = _now(), self.node.settings.lease_ms / 1000
        if now - self._looked < LOOK_S:
            return
        if now - self._looked > lease_s:  # suspended: nobody could beat, and owners have a whole lease
            self._expire_from = now + lease_s
        self._looked = now
        self.settle()
        store, live_ms = self.here.store, nodes.LIVE_LEASES * self.node.settings.lease_ms
        if now >= self._expire_from and (due := sweeps.look(store, self.node.settings.lease_ms, live_ms, {})).sweeps:
            with store.transaction() as tx:
                sweeps.run(tx, store.now(tx), due.sweeps)

    def work(self, build_id: str) -> bool:
        """Claim a build and do its work. False: it is not to be had (yet)."""
        asked_at = time.monotonic()
        try:
            grant = self.node.calls.claim(claim_request(NODE, build_id, f"{self.nonce} {uuid.uuid4().hex[:12]}"))
        except Unanswered:  # the store is locked or full for now
            return False
        if not grant.granted:
            return False
        with driving(self.node, grant, listening=self._listening, asked_at=asked_at) as attempt:
            close(attempt, do_work(attempt, self._line(grant.request)))
        return True

    def _line(self, request: pb.CreateBuildRequest) -> Callable[[Attempt], Outcome]:
        if not is_image(request):
            return run_build
        from builder.node.engine import engine_of  # with what images need, which no other build loads

        return engine_of(self.here.settings).run

    def retain(self) -> None:
        """Delete what is past its time, at most once a day; `serve` and `dev` have a loop for it."""
        mark = Path(self.here.settings.data_dir) / "retention"
        try:
            if time.time() - mark.stat().st_mtime < RETENTION_S:
                return
        except FileNotFoundError:  # a new data folder has nothing old
            mark.touch()
            return
        mark.touch()
        from builder.control.finalizers import finalizers_destination
        from builder.control.retention import Retention
        from builder.node.budget import within_budget

        settings, parts = self.here.settings, self.here.parts
        destination = finalizers_destination(settings)
        run = Retention(
            settings=settings, store=parts.store, sources=parts.sources, destination=destination, log=log
        ).run
        try:
            run()
            within_budget(settings)
        except Exception as error:  # the build has its answer
            log.warning("retention", action="retention-failed", error=repr(error))

    def close(self) -> None:
        """Give up the builds of others that are finalized here, free the build user, end the readers."""
        if self._finalizers is not None:
            self._finalizers.leave(self._ended)
        self._stack.close()

    @contextmanager
    def _listening(self, build_id: str, on_cancel: Callable[[], None]) -> Iterator[None]:
        self.here.cancels[build_id] = on_cancel
        try:
            yield
        finally:
            del self.here.cancels[build_id]


def _now() -> float:
    """Seconds of a clock that goes on while the machine is suspended, as the store's does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def load_registry() -> None:
    """Load what the push needs. The HTTP client loads half of itself with its first instance."""
    import httpx

    from builder.images import registry
    from builder.tls import new_client

    assert registry
    new_client(timeout=httpx.Timeout(None)).close()


def process_name() -> str:
    """Names this process for ever: PID namespace, pid, start time."""
    namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return f"{namespace} {os.getpid()} {process_start(os.getpid())}"


def is_gone(nonce: str) -> bool:
    """Whether the process that a nonce names has ended. Of one of another PID namespace nothing is known."""
    namespace, _, rest = nonce.partition(" ")
    if namespace != os.readlink("/proc/self/ns/pid").strip("pid:[]"):
        return False
    pid, _, rest = rest.partition(" ")
    return not pid.isdigit() or process_start(int(pid)) != rest.partition(" ")[0]


@contextmanager
def build_user(first: int, node_dir: Path) -> Iterator[int]:
    """A uid for the builds of this process alone: limits and kills go by uid. Any other user than root has only one."""
    if os.geteuid() != 0:
        yield first
        return
    folder = node_dir / "local"
    folder.mkdir(parents=True, exist_ok=True)
    uid = first
    while True:
        with (folder / f"uid-{uid}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                uid += 1
                continue
            yield uid
            return
