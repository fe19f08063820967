"""A build node: the composition of a worker process. Registers, stays registered, builds what hints name.

The parent process registers before it forks and keeps doing so; the key of the messages, which it learns there, is in
memory shared with its children. Every client with a connection is made after the fork.
"""

from __future__ import annotations

import platform
import shutil
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import structlog
from billiard import Array, Value, current_process
from celery import signals

from builder import pipelines, sandbox
from builder.attempt import git, running
from builder.attempt.attempt import Node
from builder.attempt.reader import Readers
from builder.build import run_build
from builder.claims.calls import Unanswered
from builder.claims.left import send_left_behind
from builder.claims.requests import Close
from builder.client.api import Api, ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import read_run
from builder.contract.protocol import PROTOCOL
from builder.contract.request import IMAGE_QUEUE, is_image
from builder.data import catalog_file
from builder.errors import EXIT_CODES, BuildError, ErrorClass
from builder.faults import labels
from builder.node.budget import within_budget
from builder.node.calls import ApiCalls
from builder.node.cancels import Cancels
from builder.node.drive import claim_build, close, do_work, driving
from builder.node.engine import EngineBuilder, engine_of
from builder.node.fence import require_fence
from builder.node.floor import lacks
from builder.node.image import Launcher, has_cluster, launcher_of
from builder.node.leftovers import remove_left_behind
from builder.node.membership import CHECK_SCHEME, CHECK_SERVER, refusal, require_membership, why_not
from builder.node.target import Destinations
from builder.node.watch import Watch
from builder.pipelines import catalog as catalogs
from builder.process import settle
from builder.sandbox import Blank
from builder.settings import Settings, without_credentials
from builder.toolchains.providers import fetching, toolchains_of

log = structlog.get_logger("node")

# Answers to RegisterNode that stay as they are until somebody changes token, node_id or version.
ENDING = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"})
EXIT_UNFIT = EXIT_CODES[ErrorClass.PLATFORM]
GOODBYE_S = 3.0
BUDGET_S = 600.0
"""Between two looks at what bases, toolchains and caches take on the disk."""
KEY_BYTES = 4096
LOOK_S = 1.0
"""Between two looks at the children."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a Celery worker does after its command line overrode the settings: its queues, its concurrency."""

    queues: tuple[str, ...]
    slots: int


def reads_of(worker: Any, settings: Settings) -> Reads:
    """From Celery's worker object, which has `-Q`, `-X`, `-c` and `--autoscale` applied.

    Before the pool is made its size may still be "auto"; then the setting stands until the worker is ready.
    """
    slots = getattr(worker, "max_concurrency", None) or worker.concurrency
    return Reads(
        queues=tuple(worker.app.amqp.queues.consume_from), slots=slots if isinstance(slots, int) else settings.slots
    )


class WorkerRefused(SystemExit):
    """This worker does not start, or not go on: 75, whatever its operator has to change. Celery lets only a
    `SystemExit` out of a signal's receiver."""

    def __init__(self, error: BuildError) -> None:
        super().__init__(EXIT_UNFIT)
        self.error = error


class WorkerProcess:
    """One node process; its children share it by fork. Writes why it refuses to start to `say`, where there is one."""

    def __init__(self, settings: Settings, say: TextIO | None = None) -> None:
        assert git and running  # what the line loads when it needs it is here before the children are
        self.settings = settings
        self._say = say
        self.folder = Path(settings.node_dir)
        self.catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
        self.known = pipelines.load(settings.pipelines)
        self.toolchains = toolchains_of(settings)
        self._reads = Reads(queues=(), slots=settings.slots)
        self._consumer: Any = None
        self._drains = self._paused = False
        self._draining_since = Value("d", 0.0)
        self._key = Array("c", KEY_BYTES)
        self._dropped = Value("L", 0)
        self._dropped_reported = 0
        self._learn_key(settings.message_key)
        self._node: Node | None = None
        self._settled = False
        self._image_line: Launcher | EngineBuilder | None = None
        self._blank: Blank | None = None
        self._cancels = Cancels(settings.redis_url)
        self._watch = Watch((settings.heartbeat_ms + settings.stop_grace_ms) / 1000)
        self._leaving = threading.Event()
        self._known_by: threading.Thread | None = None

    # The parent process

    def connect_signals(self) -> None:
        """Hook into Celery's life."""
        signals.worker_init.connect(self._on_init, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)
        signals.worker_shutdown.connect(self._on_stopped, weak=False)

    def queues(self) -> tuple[str, ...]:
        """The queues this node reads where `-Q` names no others."""
        return self.settings.queue_list(pipelines.names(self.known))

    def _on_init(self, sender: Any, **_: object) -> None:
        try:
            require_membership(self.settings)
            require_sandbox(self.settings)
            self._blank = require_fence(self.settings, self.folder)
            self._reads = reads_of(sender, self.settings)
            if IMAGE_QUEUE in self._reads.queues:
                self._image_line = image_line_of(self.settings)
            self._join()
            settle()  # before the fork, so that no collection of a child copies what it shares
        except BuildError as error:
            if self._say is not None:
                self._say.write(why_not(error))
            raise WorkerRefused(error) from None

    def _join(self) -> None:
        """Register for the first time, however long the API takes to answer. Raises `BuildError` when it refuses."""
        api = Api(self.settings.server, self.settings.token)
        pause = 0.5
        while True:
            try:
                self._register(api)
                break
            except ApiUnreachable as error:
                if error.is_mistake:  # it answers, and never as this URL has it
                    message = f"{without_credentials(self.settings.server)} {error}"
                    raise BuildError("InvalidRequest", message, where="server", next=CHECK_SCHEME) from None
                log.warning(
                    "the API does not answer yet",
                    action="register-failed",
                    server=without_credentials(self.settings.server),
                    error=str(error),
                    next="check server, and that the control side runs there",
                )
                time.sleep(pause)
                pause = min(2 * pause, 2.0)
            except ApiError as error:
                raise refusal(error) from None
            except BuildError as error:  # of the codec: an answer that is none of this API
                message = f"what answers at server is no ignite-builder serve: {error.message}"
                raise BuildError("InvalidRequest", message, where="server", next=CHECK_SERVER) from None
        api.close()

    def _on_ready(self, sender: Any, **_: object) -> None:
        self._reads = reads_of(sender.controller, self.settings)
        self._consumer = sender
        self._known_by = threading.Thread(target=self._stay_known, daemon=True)
        self._known_by.start()
        threading.Thread(target=self._watch_children, name="watch", daemon=True).start()
        threading.Thread(target=self._stay_within_budget, name="budget", daemon=True).start()

    def _watch_children(self) -> None:
        """Until the process ends: a drain waits for children that return."""
        while True:
            self._watch.look()
            time.sleep(min(self.settings.heartbeat_ms / 1000, LOOK_S))

    def _stay_within_budget(self) -> None:
        """Look what bases, toolchains and caches take, at the start and then in a loop."""
        while True:
            try:
                within_budget(self.settings)
            except (OSError, BuildError) as error:
                log.warning("the disk budget was not looked at", action="budget-failed", error=repr(error))
            if self._leaving.wait(BUDGET_S):
                return

    def _on_shutdown(self, **_: object) -> None:
        """Runs inside a signal handler, so it only sets flags."""
        self._draining_since.value = time.time()
        self._leaving.set()

    def _on_stopped(self, **_: object) -> None:
        """The last builds have ended: wait until the API knows that this node leaves."""
        self._leaving.set()
        if self._known_by is not None:
            self._known_by.join(GOODBYE_S)

    def _stay_known(self) -> None:
        """Register in a loop and settle what killed owners left behind; at the end register without queues."""
        api = Api(self.settings.server, self.settings.token)
        while not self._leaving.wait(min(self.settings.heartbeat_ms, 2000) / 1000):
            try:
                remove_left_behind(self.folder)
                self._register(api)
                send_left_behind(ApiCalls(api), self.folder / "spool")
            except ApiError as error:
                if error.code not in ENDING:
                    log.warning("the API did not take the register", action="register-failed", error=repr(error))
                    continue
                self._give_up(refusal(error))
                return
            except (ApiUnreachable, Unanswered, BuildError, OSError) as error:
                log.warning("the API did not take the register", action="register-failed", error=repr(error))
        # Without it hints would arrive for two more leases. Sent once: a successor of the same name may be starting.
        self._reads = Reads(queues=(), slots=self._reads.slots)
        while True:
            try:
                self._register(api)
                break
            except ApiError as error:
                log.warning("the API did not take the goodbye", action="register-failed", error=repr(error))
                break
            except ApiUnreachable as error:
                log.warning("the API did not take the goodbye", action="register-failed", error=repr(error))
                time.sleep(0.5)

    def _give_up(self, error: BuildError) -> None:
        """End the worker: the API refuses its calls, so it could neither claim a build nor finish one."""
        from celery.worker import state  # all of Celery's worker; the control side reads this module as well

        log.error("the API refuses this node", action="refused", error=str(error), next=error.next)
        self._on_shutdown()
        state.should_stop = EXIT_UNFIT

    def _register(self, api: Api) -> None:
        dropped = self._dropped.value
        lack = lacks(self.settings)
        answer: pb.RegisterNodeResponse = api.call(
            "RegisterNode",
            pb.RegisterNodeRequest(
                protocol=PROTOCOL,
                node_id=self.settings.node_id,
                queues=self._reads.queues,
                toolchains=self._toolchains(),
                architecture=f"linux/{'amd64' if platform.machine() == 'x86_64' else platform.machine()}",
                slots=0 if lack else self._reads.slots,
                lacks=lack,
                disk_free_bytes=shutil.disk_usage(self.folder).free if self.folder.is_dir() else 0,
                dropped_messages=dropped - self._dropped_reported,
            ),
        )
        self._dropped_reported = dropped
        self._learn_key(answer.message_key)
        self._read_queues(answer.drain, lack)

    def _toolchains(self) -> dict[str, str]:
        """What this node builds with, and what it may get when a build asks for it."""
        rows = self.catalog.toolchains()
        available = self.toolchains.available(rows)
        if self.settings.fetch_toolchains:
            from builder.toolchains.fetch import can_fetch

            more = [row for row in rows if row.name not in available and row.runtime in pipelines.names(self.known)]
            available |= {row.name: "" for row in more if can_fetch(self.settings, row)}
        return available

    def _read_queues(self, drain: bool, lack: str) -> None:
        """Read no queue while the control side drains this node, or while it lacks room: a hint that it lets go comes
        to another node only seconds later. Builds that run end normally."""
        if self._consumer is None:
            return
        if drain != self._drains:
            self._drains = drain
            log.info("drain begins" if drain else "drain ends", action="drain", drain=drain)
        pause = drain or bool(lack)
        if pause == self._paused:
            return
        self._paused = pause
        if lack:
            log.warning("no queue is read", action="node-lacks", why=lack)
        change = self._consumer.cancel_task_queue if pause else self._consumer.add_task_queue
        for queue in self._reads.queues:
            self._consumer.call_soon(change, queue)  # Celery's consumers belong to its own thread

    def _learn_key(self, key: str) -> None:
        """Share a changed key with the children, which would drop every hint until a restart."""
        data = key.encode()
        if len(data) > KEY_BYTES:
            raise ApiUnreachable(f"the API's message key has {len(data)} bytes, limit {KEY_BYTES}")
        self._key.value = data

    # The parent process and the children

    def dropped(self, queue: str, why: str) -> None:
        """Count and log a message that is no hint."""
        with self._dropped.get_lock():
            self._dropped.value += 1
        log.warning("a message was dropped", action="message-dropped", queue=queue, why=why)

    # The children

    def handle(self, body: dict[str, object]) -> None:
        """The task's body: from a hint to the end of a claim. A bad hint is dropped; no failure ends the worker."""
        build_id = read_run(body, self._key.value.decode())
        if build_id is None:
            self.dropped("", "another version, or not signed with our key")
            return
        if lack := lacks(self.settings):  # since the last registration; the store offers the build again
            log.warning("a hint was let go", action="node-lacks", build_id=build_id, why=lack)
            return
        try:
            node = self._node = self._node or self._make_node()
            grant = claim_build(node, build_id)
            if grant is None:
                return
            node.readers.start()  # at the first build, before the first thread
            index = _index()
            try:
                with driving(
                    node,
                    grant,
                    draining=self._must_hand_back,
                    listening=self._cancels.listening,
                    counts_until=partial(self._watch.claimed, index),
                ) as attempt:
                    line = self._image_line_of(grant)
                    outcome = do_work(attempt, line.run if line else run_build)
                    how = close(attempt, outcome)
                    if isinstance(line, Launcher) and outcome.job is not None and how is Close.ABANDONED:
                        line.abandon(outcome.job)
            finally:
                self._watch.returned(index)
            if not self._settled:  # the first build has loaded what the next ones need
                self._settled = True
                settle()
            log.info("owned", action="owned", build_id=build_id, word=how.value)
        except Exception as error:
            log.error("an owner failed", action="owner-failed", build_id=build_id, error=repr(error), exc_info=True)

    def _image_line_of(self, grant: pb.ClaimBuildResponse) -> Launcher | EngineBuilder | None:
        """What makes an image; None for every other build."""
        if not is_image(grant.request):
            return None
        self._image_line = self._image_line or image_line_of(self.settings)
        return self._image_line

    def _must_hand_back(self) -> bool:
        since = self._draining_since.value
        return bool(since) and time.time() - since > self.settings.drain_ms / 1000

    def _make_node(self) -> Node:
        settings = self.settings
        return Node(
            settings=settings,
            calls=ApiCalls(Api(settings.server, settings.token)),
            catalog=self.catalog,
            known=self.known,
            toolchains=self.toolchains,
            destination=Destinations(),
            label=labels(settings.crash_at, self.folder),
            readers=Readers(self.known, self.catalog),
            fetch=fetching(settings),
            blank=self._blank,
            uid=settings.build_uid + _index(),
        )


def _index() -> int:
    """The number of this child among those of the pool."""
    return getattr(current_process(), "index", 0) or 0


def image_line_of(settings: Settings) -> Launcher | EngineBuilder:
    """A cluster goes before an engine. Raises `BuildError` InvalidRequest as `launcher_of`."""
    if settings.docker_host and not has_cluster(settings):
        return engine_of(settings)
    return launcher_of(settings)


def require_sandbox(settings: Settings) -> None:
    """A worker without a sandbox does not start, unless that is an explicit setting, noted in its log.

    Raises `BuildError` SandboxUnavailable.
    """
    if settings.unsandboxed:
        log.error("UNSANDBOXED: build steps run as this user, with its files and network", action="unsandboxed")
        return
    missing = [finding for finding in sandbox.check() if not finding.ok and finding.name in ("bubblewrap", "sandbox")]
    if missing:
        words = "; ".join(f"{finding.name}: {finding.detail}" for finding in missing)
        steps = "; ".join(finding.next for finding in missing)
        raise BuildError("SandboxUnavailable", f"a worker refuses to start without a sandbox: {words}", next=steps)
