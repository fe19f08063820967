"""A child process of the worker: from a hint to the end of a claim. What has a connection is made after the fork."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from billiard import current_process

from builder.attempt.attempt import Node
from builder.attempt.reader import Readers
from builder.build import run_build
from builder.claims.requests import Close
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import read_run
from builder.contract.request import is_image
from builder.faults import labels
from builder.logs import logger
from builder.mask import NOTHING, mask_of, trace_of
from builder.node.calls import ApiCalls
from builder.node.cancels import Cancels
from builder.node.close import close
from builder.node.drive import claim_build, do_work, driving
from builder.node.engine import EngineBuilder, engine_of
from builder.node.floor import lacks
from builder.node.image import Launcher, has_cluster, launcher_of
from builder.node.leftovers import REHEARSALS
from builder.node.registration import Registration
from builder.node.target import Destinations
from builder.node.watch import Watch
from builder.pipelines.base import Pipeline
from builder.pipelines.catalog import Catalog
from builder.process import settle
from builder.sandbox import Blank
from builder.settings import Settings
from builder.toolchains.provider import Toolchains
from builder.toolchains.providers import fetching

log = logger("node")


class Child:
    """What a child does with hints. Made before the fork; `blank` and `image_line` are set before it."""

    def __init__(
        self,
        settings: Settings,
        registration: Registration,
        watch: Watch,
        catalog: Catalog,
        known: tuple[Pipeline, ...],
        toolchains: Toolchains,
    ) -> None:
        self._settings, self._registration, self._watch = settings, registration, watch
        self._catalog, self._known, self._toolchains = catalog, known, toolchains
        self._cancels = Cancels(settings.redis_url)
        self._node: Node | None = None
        self._settled = False
        self.blank: Blank | None = None
        self.image_line: Launcher | EngineBuilder | None = None

    def handle(self, body: dict[str, object]) -> None:
        """The task's body: from a hint to the end of a claim. A bad hint is dropped; no failure ends the worker."""
        build_id = read_run(body, self._registration.key)
        if build_id is None:
            self._registration.drop("", "another version, or not signed with our key")
            return
        if lack := lacks(self._settings):  # since the last registration; the store offers the build again
            log.warning("a hint was let go", action="node-lacks", build_id=build_id, why=lack)
            return
        grant: pb.ClaimBuildResponse | None = None
        try:
            node = self._node = self._node or self._make_node()
            asked_at = time.monotonic()
            grant = claim_build(node, build_id)
            if grant is None:
                return
            node.readers.start()  # at the first build, before the first thread
            index = _index()
            try:
                with driving(
                    node,
                    grant,
                    draining=self._registration.must_hand_back,
                    listening=self._cancels.listening,
                    counts_until=partial(self._watch.claimed, index),
                    asked_at=asked_at,
                ) as attempt:
                    line = self._line_of(grant)
                    outcome = do_work(attempt, line.run if line else run_build)
                    if outcome.failure is not None and outcome.failure.reason == "ToolchainUnavailable":
                        self._registration.lacked()
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
            mask = mask_of(grant.secrets) if grant else NOTHING
            error_text, trace = mask.text(repr(error)), trace_of(error, mask)
            log.error("an owner failed", action="owner-failed", build_id=build_id, error=error_text, exception=trace)

    def _line_of(self, grant: pb.ClaimBuildResponse) -> Launcher | EngineBuilder | None:
        """What makes an image; None for every other build."""
        if not is_image(grant.request):
            return None
        self.image_line = self.image_line or image_line_of(self._settings)
        return self.image_line

    def _make_node(self) -> Node:
        settings = self._settings
        return Node(
            settings=settings,
            calls=ApiCalls(Api(settings.server, settings.token, ca_bundle=settings.ca_bundle)),
            catalog=self._catalog,
            known=self._known,
            toolchains=self._toolchains,
            destination=Destinations(),
            label=labels(settings.crash_at, Path(settings.node_dir)),
            readers=Readers(self._known, self._catalog, rehearsals=rehearsals(settings)),
            fetch=fetching(settings),
            blank=self.blank,
            uid=settings.build_uid + _index(),
        )


def rehearsals(settings: Settings) -> Path:
    """Where this process's readers rehearse."""
    return Path(settings.node_dir, REHEARSALS, str(os.getpid()))


def _index() -> int:
    """The number of this child among those of the pool."""
    return getattr(current_process(), "index", 0) or 0


def image_line_of(settings: Settings) -> Launcher | EngineBuilder:
    """A cluster goes before an engine. Raises `BuildError` InvalidRequest as `launcher_of`."""
    if settings.docker_host and not has_cluster(settings):
        return engine_of(settings)
    return launcher_of(settings)
