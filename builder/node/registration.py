"""A node's registration with the API: made before the worker forks, kept up while it runs, ended when it leaves.

Each answer brings the key of the messages, and whether the node drains. Key, counter and drain are in memory that the
children share.
"""

from __future__ import annotations

import platform
import shutil
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from billiard import Array, Value

from builder import pipelines
from builder.claims.left import send_left_behind
from builder.client.api import CHECK_SCHEME, Api, ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import EXIT_CODES, BuildError, ErrorClass
from builder.images.store import images_of
from builder.logs import logger
from builder.node.calls import ApiCalls
from builder.node.floor import lacks
from builder.node.leftovers import remove_left_behind
from builder.node.membership import CHECK_SERVER, refusal
from builder.pipelines.base import Pipeline
from builder.pipelines.catalog import Catalog
from builder.settings import Settings, without_credentials
from builder.toolchains.looks import Looks, fetched_in
from builder.toolchains.provider import Toolchains

log = logger("node")

# Answers to RegisterNode that stay as they are until somebody changes token, node_id or version.
ENDING = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"})
EXIT_UNFIT = EXIT_CODES[ErrorClass.PLATFORM]
GOODBYE_S = 3.0
KEY_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a Celery worker does after its command line overrode the settings: its queues, its concurrency."""

    queues: tuple[str, ...]
    slots: int


class Registration:
    """This node as the API knows it: its queues, slots and toolchains. Its threads and calls are the main process's."""

    def __init__(
        self, settings: Settings, catalog: Catalog, known: tuple[Pipeline, ...], toolchains: Toolchains
    ) -> None:
        self._settings, self._catalog, self._known, self._toolchains = settings, catalog, known, toolchains
        self._folder = Path(settings.node_dir)
        self._reads = Reads(queues=(), slots=settings.slots)
        self._consumer: Any = None
        self._drains = self._paused = False
        self._leaving_since = Value("d", 0.0)
        self._key = Array("c", KEY_BYTES)
        self._dropped = Value("L", 0)
        self._dropped_reported = 0
        self._absent = Value("b", 0)
        fetched = partial(fetched_in, self._folder / "toolchains", images_of(settings.node_dir))
        self._looks = Looks(self._look, fetched)
        self.learn_key(settings.message_key)
        self.leaving = threading.Event()
        """Set once the worker ends: its builds may go on until `drain_ms` are over."""

    @property
    def key(self) -> str:
        """What hints are signed with, as the last answer has it; of any process of this worker."""
        return str(self._key.value.decode())

    def must_hand_back(self) -> bool:
        """Whether the worker has drained for so long that its builds are another node's; of any process of it."""
        since = self._leaving_since.value
        return bool(since) and time.time() - since > self._settings.drain_ms / 1000

    def drop(self, queue: str, why: str) -> None:
        """Count and log a message that is no hint; of any process of this worker."""
        with self._dropped.get_lock():
            self._dropped.value += 1
        log.warning("a message was dropped", action="message-dropped", queue=queue, why=why)

    def lacked(self) -> None:
        """A build found a toolchain gone that this node offers; of any process of this worker."""
        self._absent.value = 1

    def join(self, reads: Reads) -> None:
        """Register for the first time, however long the API takes to answer. Raises `BuildError` when it refuses."""
        self._reads = reads
        api = Api(self._settings.server, self._settings.token, ca_bundle=self._settings.ca_bundle)
        pause = 0.5
        while True:
            try:
                self.register(api)
                break
            except ApiUnreachable as error:
                if error.is_mistake:  # it answers, and never as this URL has it
                    message = f"{without_credentials(self._settings.server)} {error}"
                    raise BuildError("InvalidRequest", message, where="server", next=CHECK_SCHEME) from None
                log.warning(
                    "the API does not answer yet",
                    action="register-failed",
                    server=without_credentials(self._settings.server),
                    error=str(error),
                    next="check server, and that the control side runs there",
                )
                time.sleep(pause)
                pause = min(2 * pause, 2.0)
            except ApiError as error:
                raise refusal(error) from None
            except BuildError as error:  # of the codec: an answer that is none of this API
                if error.where == "ca_bundle":  # or of our own trust, before anything is asked
                    raise
                message = f"what answers at server is no ignite-builder serve: {error.message}"
                raise BuildError("InvalidRequest", message, where="server", next=CHECK_SERVER) from None
        api.close()

    def reading(self, consumer: Any, reads: Reads) -> None:
        """Celery reads the queues by now: what it reads is what counts, and `consumer` is asked to change it."""
        self._consumer, self._reads = consumer, reads

    def leave(self) -> None:
        """The worker ends. Sets flags alone, as a signal handler may."""
        self._leaving_since.value = time.time()
        self.leaving.set()

    def stay(self) -> None:
        """Register in a loop and settle what killed owners left behind; at the end register without queues."""
        api = Api(self._settings.server, self._settings.token, ca_bundle=self._settings.ca_bundle)
        while not self.leaving.wait(min(self._settings.heartbeat_ms, 2000) / 1000):
            try:
                remove_left_behind(self._folder)
            except Exception as error:  # it is tried again, and what is left keeps no node from its builds
                log.warning("what killed builds left stays", action="leftovers-failed", error=repr(error))
            try:
                self.register(api)
                send_left_behind(ApiCalls(api), self._folder / "spool")
            except ApiError as error:
                if error.code not in ENDING:
                    log.warning("the API did not take the register", action="register-failed", error=repr(error))
                    continue
                self._give_up(refusal(error))
                return
            except Exception as error:  # whatever it is: a node that registers no more gets no builds
                log.warning("the API did not take the register", action="register-failed", error=repr(error))
        # Without it hints would arrive for two more leases. Sent once: a successor of the same name may be starting.
        self._reads = Reads(queues=(), slots=self._reads.slots)
        while True:
            try:
                self.register(api)
                break
            except ApiUnreachable as error:
                log.warning("the API did not take the goodbye", action="register-failed", error=repr(error))
                time.sleep(0.5)
            except Exception as error:
                log.warning("the API did not take the goodbye", action="register-failed", error=repr(error))
                break

    def _give_up(self, error: BuildError) -> None:
        """End the worker: the API refuses its calls, so it could neither claim a build nor finish one."""
        from celery.worker import state  # all of Celery's worker; the control side reads this module as well

        self.leave()
        state.should_stop = EXIT_UNFIT
        log.error("the API refuses this node", action="refused", error=str(error), next=error.next)

    def register(self, api: Api) -> None:
        dropped, absent = self._dropped.value, bool(self._absent.value)
        if absent:
            self._absent.value = 0
        lack = lacks(self._settings)
        answer: pb.RegisterNodeResponse = api.call(
            "RegisterNode",
            pb.RegisterNodeRequest(
                protocol=PROTOCOL,
                node_id=self._settings.node_id,
                queues=self._reads.queues,
                toolchains=self._looks.available(again=absent),
                architecture=f"linux/{'amd64' if platform.machine() == 'x86_64' else platform.machine()}",
                slots=0 if lack else self._reads.slots,
                lacks=lack,
                disk_free_bytes=shutil.disk_usage(self._folder).free if self._folder.is_dir() else 0,
                dropped_messages=dropped - self._dropped_reported,
            ),
        )
        self._dropped_reported = dropped
        self.learn_key(answer.message_key)
        self._read_queues(answer.drain, lack)

    def _look(self) -> dict[str, str]:
        """What this node builds with, and what it may get when a build asks for it."""
        rows = self._catalog.toolchains()
        available = self._toolchains.available(rows)
        if self._settings.fetch_toolchains:
            from builder.toolchains.fetch import can_fetch

            more = [row for row in rows if row.name not in available and row.runtime in pipelines.names(self._known)]
            available |= {row.name: "" for row in more if can_fetch(self._settings, row)}
        return available

    def _read_queues(self, drain: bool, lack: str) -> None:
        """Read no queue while the control side drains this node, or while it lacks room: a hint that it lets go comes
        to another node only seconds later. Builds that run end normally."""
        if self._consumer is None:
            return
        turned, self._drains = drain != self._drains, drain
        pause = drain or bool(lack)
        changed = pause != self._paused
        if changed:
            change = self._consumer.cancel_task_queue if pause else self._consumer.add_task_queue
            for queue in self._reads.queues:
                self._consumer.call_soon(change, queue)  # Celery's consumers belong to its own thread
            self._paused = pause
        if turned:
            log.info("drain begins" if drain else "drain ends", action="drain", drain=drain)
        if changed and lack:
            log.warning("no queue is read", action="node-lacks", why=lack)

    def learn_key(self, key: str) -> None:
        """Share a changed key with the children, which would drop every hint until a restart."""
        data = key.encode()
        if len(data) > KEY_BYTES:
            raise ApiUnreachable(f"the API's message key has {len(data)} bytes, limit {KEY_BYTES}")
        self._key.value = data
