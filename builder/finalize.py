"""The line on the control side: attest → PUBLISH mark → tags → SUCCEEDED and report.

Each step can be repeated. Another process adopts a build whose finalizer died; its claim fences the old one off.
Trouble repeats the step later, never the build.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from builder.attest.provenance import MEDIA_TYPE, PREDICATE_TYPE, Built, statement
from builder.config import Settings
from builder.errors import BuildError
from builder.oci.destination import Destination
from builder.store import builds, record
from builder.store.engine import Store

LATER_MS = 2_000
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

    def next(self) -> bool:
        """Finish the oldest build that waits. False: none waits."""
        row = builds.adopt_finalize(self.store, self.settings.lease_ms)
        if row is None:
            return False
        try:
            self._finish(row)
        except BuildError as error:
            self.log.warning("trouble in FINALIZE", action="finalize-later", build_id=row["build_id"], error=str(error))
            builds.release_finalize(self.store, row["build_id"], row["claim"], LATER_MS)
        self.changed(row["build_id"])
        return True

    def _finish(self, row: builds.Row) -> None:
        build_id, claim, repository = row["build_id"], row["claim"], row["repository"]
        digest = record.built(row).digest
        started = _now()
        self._attest(row)
        attested = _now()
        self.label("finalize")
        if builds.publish(self.store, build_id, claim) is None:
            return
        for tag in json.loads(row["tags"]):
            if builds.claim_tag(self.store, row, tag, digest):
                self.destination.put_tag(repository, digest, tag)
        phases = (("ATTEST", started, attested), ("FINALIZE", attested, _now()))
        if builds.succeed(self.store, build_id, claim, phases) is None:
            self.stale("succeed")

    def _attest(self, row: builds.Row) -> None:
        """The statement of what was built from what, attached to the digest. A reused artifact has its own already."""
        if row["from_cache_of"]:
            return
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
