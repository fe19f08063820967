"""The line on the control side: attest → PUBLISH mark → tags → SUCCEEDED and report.

Each step can be repeated. A failing step is retried later (`finalizers.py`); the build is repeated only if its cached
artifact vanished from the registry.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.attest.provenance import MEDIA_TYPE, PREDICATE_TYPE, Built, statement
from builder.errors import BuildError
from builder.images.destination import Destination
from builder.store import builds, record
from builder.store.engine import Store

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TAG_ROUNDS = 5
TAG_CHECK_FOR_MS, TAG_CHECK_EVERY_MS, TAG_CHECKS = 600_000, 60_000, 20
Phases = tuple[tuple[str, int, int], ...]
"""(name, start, end) in ms"""
BUILDER_ID = "https://ignite.dodil.dev/builder"


@dataclass(frozen=True, kw_only=True)
class Finalizer:
    """Finishes builds that are adopted. `label` names the points at which a fault test may end the process."""

    store: Store
    destination: Destination
    label: Callable[[str], None]
    stale: Callable[[str], None]
    log: FilteringBoundLogger

    def finish(self, row: builds.Row) -> None:
        """One attempt at a build, `row` as adopted. Raises whatever the registry or the store raises."""
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
        published = builds.publish(self.store, build_id, claim, json.loads(row["tags"]), digest)
        if published is None:
            return
        pointed = dict.fromkeys(published.tags, digest)
        for tag in pointed:
            self.destination.put_tag(repository, digest, tag)
        if not self._succeed(row, (("ATTEST", started, attested),), attested, pointed):
            self.stale("succeed")

    def _succeed(self, row: builds.Row, phases: Phases, since: int, pointed: dict[str, str]) -> bool:
        """SUCCEEDED, once every tag points where it should: a newer build may have put its own between our claim and
        our PUT. False: stale."""
        for last in (*[False] * TAG_ROUNDS, True):
            every = (*phases, ("FINALIZE", since, _now()))
            try:
                done = builds.succeed(self.store, row["build_id"], row["claim"], every, {} if last else pointed)
                return done is not None
            except builds.TagsMoved as moved:
                for tag, digest in moved.tags.items():
                    self.destination.put_tag(row["repository"], digest, tag)
                pointed |= moved.tags
        raise AssertionError("the last round compares no tags")

    def check_tags(self) -> None:
        """Compare tags that changed in the last ten minutes with the registry; two control sides may have met there."""
        for row in builds.tags_to_check(self.store, TAG_CHECK_FOR_MS, TAG_CHECK_EVERY_MS, TAG_CHECKS):
            repository, tag = row["repository"], row["tag"]
            try:
                if self.destination.resolve(repository, tag) != row["digest"]:
                    self.log.warning("a tag was moved", action="tag-repaired", repository=repository, tag=tag)
                    self._point(repository, tag, row["digest"])
            except BuildError as error:  # one repository in trouble: the others are still compared
                self.log.warning(
                    "a tag could not be compared",
                    action="tag-unchecked",
                    repository=repository,
                    tag=tag,
                    error=repr(error),
                )

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
