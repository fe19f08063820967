"""The control side as a process: store, services, loops, HTTP. `Control` is also what the embedded mode starts."""

from __future__ import annotations

import functools
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

import redis
from sqlalchemy import select

import builder
from builder import pipelines
from builder.broker.app import make_celery
from builder.contract.protocol import CANCEL_CHANNEL
from builder.control import folder
from builder.control.finalizers import Finalizers, finalizers_destination
from builder.control.loops import LOOPS, Loops
from builder.control.metrics import Metrics
from builder.control.reports import Reports
from builder.control.retention import Retention
from builder.credentials import secrets_of
from builder.data import catalog_file
from builder.errors import EXIT_CANCELLED, BuildError
from builder.faults import labels
from builder.finalize import Finalizer
from builder.logs import configure, event_log, log_to_stdout
from builder.pipelines import catalog as catalogs
from builder.prebuilt import Prebuilt
from builder.process import leave_no_core, open_many_files, settle
from builder.services.builds import BuildService
from builder.services.nodes import OperateService
from builder.services.parts import Parts
from builder.services.streams import LogStreams
from builder.services.tails import Tails
from builder.services.uploads import Uploads
from builder.services.workers import WorkerService
from builder.settings import Settings, address_of, check_redis_url
from builder.store import nodes, outbox, queues
from builder.store.engine import open_store
from builder.store.events import Event
from builder.store.schema import builds
from builder.stores.choose import store_of
from builder.transports.http.app import Api, make_app
from builder.transports.http.events import end_event, log_event
from builder.transports.http.probes import Probes
from builder.transports.http.server import Server


class Control:
    """Everything of the control side in one process. `events` gets a line for each transition and each trouble;
    by default standard output does."""

    def __init__(
        self, settings: Settings, on_event: Callable[[Event], None] = lambda _: None, *, events: TextIO | None = None
    ) -> None:
        if not settings.message_key or not settings.tokens:
            raise BuildError("InvalidRequest", "serve needs the settings message_key and tokens", where="message_key")
        check_redis_url(settings.redis_url)
        self.settings = settings
        self._on_event = on_event
        self.log = event_log(events or sys.stdout)
        self.metrics = Metrics(
            queued=lambda: queues.lengths(self.store),
            oldest_ms=lambda: queues.oldest_ms(self.store),
            free=self._free_slots,
            reports=lambda: outbox.waiting(self.store),
            oldest_report_ms=lambda: outbox.oldest_ms(self.store),
            states=lambda: nodes.states(self.store, nodes.LIVE_LEASES * settings.lease_ms),
        )
        folder.make_private(settings.data_dir, settings.node_dir)
        self.store = open_store(settings.database, self._emit)
        self.metrics.count_transactions(self.store)
        self.redis = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2)
        self.tails = Tails(self.redis)
        catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
        finalizer = Finalizer(
            store=self.store,
            destination=finalizers_destination(settings),
            prebuilt=Prebuilt(settings=settings, secrets=secrets_of(settings, self.store)),
            backoff_ms=settings.retry_backoff_ms,
            label=labels(settings.crash_at, Path(settings.data_dir)),
            stale=self.metrics.stale,
            log=self.log,
        )
        sources = store_of(settings)
        self.loops = Loops(
            settings=settings,
            store=self.store,
            celery=make_celery(settings),
            finalizers=Finalizers(
                settings=settings, store=self.store, finalizer=finalizer, changed=self.tails.tell, log=self.log
            ),
            reports=Reports(settings=settings, store=self.store, log=self.log),
            retention=Retention(
                settings=settings,
                store=self.store,
                sources=sources,
                destination=finalizer.destination,
                log=self.log,
                deleted=self.metrics.deleted,
                left=self.metrics.left,
            ),
            redis=self.redis,
            log=self.log,
            stepped=self.metrics.stepped,
            alone=lambda: self.tails.alone,
        )
        parts = Parts(
            settings=settings,
            store=self.store,
            sources=sources,
            catalog=catalog,
            runtimes=pipelines.arguments(pipelines.load(settings.pipelines)),
            wake=functools.partial(self.loops.wake, "dispatch"),
            changed=self.tails.tell,
            stale=self.metrics.stale,
            dropped=self.metrics.dropped,
        )
        asked: dict[str, Callable[[], object]] = {"redis": self.redis.ping, "store": self._ask_store}
        asked |= {f"loop {name}": functools.partial(self.loops.ask, name) for name in LOOPS}
        streams = LogStreams(parts, self.tails, log_event, end_event)
        services = (BuildService(parts), WorkerService(parts), OperateService(parts))
        api = Api(settings, *services, streams, Uploads(parts), self.metrics.called)
        self.app = make_app(api, Probes(asked, self.metrics.page, self.log), self.log)
        self._tails_threads = [
            threading.Thread(target=work, name="tails", daemon=True) for work in (self.tails.read, self.tails.publish)
        ]

    def _emit(self, event: Event) -> None:
        """Tell everybody of a transition. Raises nothing: it is committed, and whoever made it has done so."""
        for tell in (self.metrics.count, self._log_transition, self.loops.changed, self._tell_owner, self._on_event):
            try:
                tell(event)
            except Exception as error:
                with suppress(Exception):
                    build_id, why = event.build_id, repr(error)
                    self.log.error("somebody was not told", action="event-untold", build_id=build_id, error=why)

    def _log_transition(self, event: Event) -> None:
        self.log.info("transition", **{name: value for name, value in vars(event).items() if name != "phases"})

    def _tell_owner(self, event: Event) -> None:
        """A cancel travels at once over Redis; without it the next heartbeat carries it."""
        if event.action != "cancel-request":
            return
        try:
            self.redis.publish(CANCEL_CHANNEL, event.build_id)
        except redis.RedisError:
            self.log.warning("a cancel waits for the next heartbeat", action="cancel-slow", build_id=event.build_id)

    def _free_slots(self) -> Mapping[str, int]:
        return self.loops.free_slots()

    def _ask_store(self) -> None:
        """By a read of a table, which waits for no writer; a store that takes no writes fails the loops."""
        with self.store.read() as tx:
            tx.execute(select(builds.c.number).limit(1))

    def server(self) -> Server:
        """The HTTP server, to be run over a listening socket; its loop is the one that tails run in."""
        return Server(self.app, self.tails)

    def start(self) -> None:
        """Start the loops and the threads of the tails."""
        for thread in self._tails_threads:
            thread.start()
        self.loops.start()

    def stop(self) -> None:
        """End them."""
        self.tails.stop()
        self.loops.stop()
        for thread in self._tails_threads:
            thread.join(timeout=2)
        self.store.engine.dispose()
        self.redis.close()


def own_token(settings: Settings) -> str:
    """A token that lets the user of this data folder build for the organization of the settings; empty without one."""
    for row in settings.tokens:
        if row.organization == settings.organization and {"submit", "read"} <= set(row.scopes):
            return row.token
    return ""


def listen(address: str) -> socket.socket:
    """A listening socket at "host:port" (port 0: any free one). Raises `BuildError` InvalidRequest."""
    try:
        host, port = address_of(address)
    except ValueError as error:
        raise BuildError("InvalidRequest", f"listen: {error}", where="listen") from None
    # With its protocol named, asyncio turns Nagle off: an answer in two writes would else wait 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, UnicodeError) as error:  # a host name may have no form in IDNA
        listener.close()
        why = getattr(error, "strerror", "") or error
        step = "Set listen to an address of this machine and a port that is free."
        raise BuildError("InvalidRequest", f"cannot listen on {address}: {why}", where="listen", next=step) from None
    return listener


def serve(settings: Settings) -> int:
    """`ignite-builder serve`: until TERM or INT. The first signal ends it once open requests are answered, a second one
    at once."""
    leave_no_core()
    open_many_files()  # before the server counts how many connections it may have
    os.umask(0o077)  # this process starts no node, whose folders build users enter
    log_to_stdout()
    configure()
    control = Control(settings)
    if settings.registry_username:
        control.log.warning(
            "every node that claims a build is lent this registry login: it should open nothing but the builds' own",
            action="registry-login-lent",
            registry=settings.registry,
            username=settings.registry_username,
        )
    if any("worker" in row.scopes and not row.node for row in settings.tokens):
        control.log.warning(
            "a worker token that names no node writes for every node: give each node a token of its own, with node",
            action="worker-token-for-every-node",
        )
    listener = listen(settings.listen)
    server = control.server()

    def stop(sig: int, frame: FrameType | None) -> None:
        if server.should_exit:
            os._exit(EXIT_CANCELLED)  # nothing is lost: every write was one transaction, every claim has its lease
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    control.start()
    settle()
    host, port = listener.getsockname()
    control.log.info("listening", action="listening", url=f"http://{host}:{port}", version=builder.__version__)
    try:
        with folder.served(Path(settings.data_dir), f"http://{host}:{port}", own_token(settings)):
            server.run(sockets=[listener])
    finally:
        control.stop()
        gc.freeze()  # at its exit the interpreter would look through all modules once more: a second for nothing
    return 0
