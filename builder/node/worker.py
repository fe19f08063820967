"""A build node: the composition of a worker process. Registers, stays registered, builds what hints name.

The main process registers before it forks and keeps doing so (`registration.py`); a child builds (`child.py`). Every
client with a connection is made after the fork.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from celery import signals

from builder import pipelines, sandbox
from builder.attempt import git, reading, running
from builder.contract.request import IMAGE_QUEUE
from builder.data import catalog_file
from builder.errors import BuildError
from builder.logs import logger
from builder.node.budget import within_budget
from builder.node.child import Child, image_line_of
from builder.node.fence import require_fence
from builder.node.membership import require_membership, why_not
from builder.node.registration import EXIT_UNFIT, GOODBYE_S, Reads, Registration
from builder.node.watch import Watch
from builder.pipelines import catalog as catalogs
from builder.process import settle
from builder.settings import Settings
from builder.toolchains.providers import toolchains_of

log = logger("node")

BUDGET_S = 600.0
"""Between two looks at what bases, toolchains and caches take on the disk."""
LOOK_S = 1.0
"""Between two looks at the children."""
STDERR = 2


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
        self._known = pipelines.load(settings.pipelines)
        reading.load_all(self._known, images=True)  # each child has readers
        catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
        toolchains = toolchains_of(settings)
        self._watch = Watch((settings.heartbeat_ms + settings.stop_grace_ms) / 1000)
        self.registration = Registration(settings, catalog, self._known, toolchains)
        self.child = Child(settings, self.registration, self._watch, catalog, self._known, toolchains)
        self._known_by: threading.Thread | None = None

    def connect_signals(self) -> None:
        """Hook into Celery's life."""
        signals.worker_init.connect(self._on_init, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutting_down.connect(self._on_shutdown, weak=False)
        signals.worker_shutdown.connect(self._on_stopped, weak=False)

    def queues(self) -> tuple[str, ...]:
        """The queues this node reads where `-Q` names no others."""
        return self.settings.queue_list(pipelines.names(self._known))

    def _on_init(self, sender: Any, **_: object) -> None:
        try:
            require_membership(self.settings)
            require_sandbox(self.settings)
            self.child.blank = require_fence(self.settings, Path(self.settings.node_dir))
            reads = reads_of(sender, self.settings)
            if IMAGE_QUEUE in reads.queues:
                self.child.image_line = image_line_of(self.settings)
            self.registration.join(reads)
            settle()  # before the fork, so that no collection of a child copies what it shares
        except BuildError as error:
            if self._say is not None:
                self._say.write(why_not(error))
            raise WorkerRefused(error) from None

    def _on_ready(self, sender: Any, **_: object) -> None:
        self.registration.reading(sender, reads_of(sender.controller, self.settings))
        # Celery's own answer to this signal writes the local variables of its threads.
        faulthandler.register(signal.SIGUSR1, file=STDERR, chain=False)
        self._known_by = threading.Thread(target=self.registration.stay, daemon=True)
        self._known_by.start()
        threading.Thread(target=self._watch_children, name="watch", daemon=True).start()
        threading.Thread(target=self._stay_within_budget, name="budget", daemon=True).start()

    def _watch_children(self) -> None:
        """Until the process ends: a drain waits for children that return."""
        while True:
            try:
                self._watch.look()
            except Exception as error:  # the next look is as good
                log.error("the children were not looked at", action="watch-failed", error=repr(error))
            time.sleep(min(self.settings.heartbeat_ms / 1000, LOOK_S))

    def _stay_within_budget(self) -> None:
        """Look what bases, toolchains and caches take, at the start and then in a loop."""
        while True:
            try:
                within_budget(self.settings)
            except Exception as error:  # the next look is as good
                log.warning("the disk budget was not looked at", action="budget-failed", error=repr(error))
            if self.registration.leaving.wait(BUDGET_S):
                return

    def _on_shutdown(self, **_: object) -> None:
        """Runs inside a signal handler, so it only sets flags."""
        self.registration.leave()

    def _on_stopped(self, **_: object) -> None:
        """The last builds have ended: wait until the API knows that this node leaves."""
        self.registration.leaving.set()
        if self._known_by is not None:
            self._known_by.join(GOODBYE_S)


def require_sandbox(settings: Settings) -> None:
    """A worker without a sandbox does not start, unless that is an explicit setting, noted in its log.

    Raises `BuildError` SandboxUnavailable.
    """
    if settings.unsandboxed:
        log.error("UNSANDBOXED: build steps run as this user, with its files and network", action="unsandboxed")
        return
    needed = ("bubblewrap", "processes", "sandbox")
    missing = [finding for finding in sandbox.check() if not finding.ok and finding.name in needed]
    if missing:
        words = "; ".join(f"{finding.name}: {finding.detail}" for finding in missing)
        steps = "; ".join(finding.next for finding in missing)
        raise BuildError("SandboxUnavailable", f"a worker refuses to start without a sandbox: {words}", next=steps)
