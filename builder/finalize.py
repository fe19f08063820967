"""The line on the control side: attest → PUBLISH mark → tags → SUCCEEDED and report.

Each step can be repeated. Another process adopts a build whose finalizer died; its claim fences the old one off.
Trouble repeats the step later, never the build; but an artifact of the cache that the registry lost is built again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from structlog.typing import FilteringBoundLogger

from builder.attest.provenance import MEDIA_TYPE, PREDICATE_TYPE, Built, statement
from builder.config import Settings
from builder.images.destination import Destination
from builder.store import builds, record
from builder.store.engine import Store

LATER_MS = 2_000
TAG_ROUNDS = 5
TAG_CHECK_FOR_MS, TAG_CHECK_EVERY_MS, TAG_CHECKS = 600_000, 60_000, 20
BUILDER_ID = "https://ignite.dodil.dev/builder"


@dataclass(frozen=True, kw_only=True)
class Finalizer:
    """Finishes builds, one at a time. `label` names the points at which a fault test may end the process."""

    settings: Settings
    store: Store
    destination: Destination
    label: Callable[[str], None]
    changed: Callable[[str], None]
    stale: Callable[[str], None]
    log: FilteringBoundLogger
    _unreleased: dict[str, int] = field(default_factory=dict)
    """Claims of ours that trouble ended, and the store did not hear of it: they must not count as lost finalizers."""

    def next(self) -> bool:
        """Finish the oldest build that waits. False: none waits."""
        self._release()
        row = builds.adopt_finalize(self.store, self.settings.lease_ms)
        if row is None:
            return False
        try:
            with self._kept(row):
                self._finish(row)
        except Exception as error:  # the registry's, the store's: whatever it is, the build is not at fault
            self.log.warning(
                "trouble in FINALIZE", action="finalize-later", build_id=row["build_id"], error=repr(error)
            )
            self._unreleased[row["build_id"]] = row["claim"]
            self._release()
        self.changed(row["build_id"])
        return True

    def check_tags(self) -> None:
        """Compare tags that changed in the last ten minutes with the registry; two control sides may have met there."""
        for row in builds.tags_to_check(self.store, TAG_CHECK_FOR_MS, TAG_CHECK_EVERY_MS, TAG_CHECKS):
            if self.destination.resolve(row["repository"], row["tag"]) != row["digest"]:
                self.log.warning("a tag was moved", action="tag-repaired", repository=row["repository"], tag=row["tag"])
                self._point(row["repository"], row["tag"], row["digest"])

    def _release(self) -> None:
        for build_id, claim in tuple(self._unreleased.items()):
            builds.release_finalize(self.store, build_id, claim, LATER_MS)
            del self._unreleased[build_id]

    @contextmanager
    def _kept(self, row: builds.Row) -> Iterator[None]:
        """Renew the lease while a registry takes its time: else another adopts, and this one counts as lost."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.settings.lease_ms / 3000):
                try:
                    if not builds.keep_finalize(self.store, row["build_id"], row["claim"], self.settings.lease_ms):
                        return
                except SQLAlchemyError as error:
                    self.log.warning("a lease was not renewed", action="finalize-unkept", error=repr(error))

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _finish(self, row: builds.Row) -> None:
        build_id, claim, repository = row["build_id"], row["claim"], row["repository"]
        digest = record.built(row).digest
        started = _now()
        if row["from_cache_of"]:  # attested when it was built
            if not row["published"] and self.destination.resolve(repository, digest) is None:
                builds.rebuild(self.store, build_id, claim, digest)
                return
        else:
            self._attest(row)
        attested = _now()
        self.label("finalize")
        if builds.publish(self.store, build_id, claim) is None:
            return
        for tag in json.loads(row["tags"]):
            if builds.claim_tag(self.store, row, tag, digest):
                self._point(repository, tag, digest)
        phases = (("ATTEST", started, attested), ("FINALIZE", attested, _now()))
        if builds.succeed(self.store, build_id, claim, phases) is None:
            self.stale("succeed")

    def _point(self, repository: str, tag: str, digest: str) -> None:
        """PUT, then look whose the tag is now: a newer build may have put its own between our claim and our PUT."""
        for _ in range(TAG_ROUNDS):
            self.destination.put_tag(repository, digest, tag)
            wanted = builds.tag_digest(self.store, repository, tag)
            if wanted in (digest, ""):
                return
            digest = wanted

    def _attest(self, row: builds.Row) -> None:
        """The statement of what was built from what, attached to the digest."""
        artifact = record.built(row)
        request = json.loads(row["request"])
        for holder in (request, request.get("code", {}).get("compile", {})):
            if "buildArgs" in holder:
                holder["buildArgs"] = dict.fromkeys(holder["buildArgs"], "***")
        payload = statement(
            Built(
                build_id=row["build_id"],
                attempt=row["attempt"],
                organization=row["organization"],
                reference=artifact.reference,
                digest=artifact.digest,
                source_sha256=row["source_sha256"],
                code_hash=row["code_hash"],
                request=request,
                materials=[(material.name, material.digest) for material in artifact.materials],
                builder_id=BUILDER_ID,
                started_at_ms=row["started_at"],
                finished_at_ms=max((end for _, _, end, _ in json.loads(row["phases"])), default=row["started_at"]),
            )
        )
        annotations = {"in-toto.io/predicate-type": PREDICATE_TYPE}
        self.destination.attach(row["repository"], artifact.digest, MEDIA_TYPE, payload, MEDIA_TYPE, annotations)


def _now() -> int:
    return time.time_ns() // 1_000_000
