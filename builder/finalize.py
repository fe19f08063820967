"""The line on the control side: check → attest → PUBLISH mark → tags → SUCCEEDED and report.

What was pushed is compared with what its owner reported before it is published. Each step can be repeated. A
failing step is retried later (`finalizers.py`); the build is repeated only if its cached artifact vanished from the
registry, or if the attempt's tag points at something else than its owner reported.
"""

from __future__ import annotations

import functools
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import json_format

from builder.attest.artifact import ArtifactRefused, Described, check_config, described
from builder.attest.provenance import COMPILE_TYPE, IMAGE_TYPE, MEDIA_TYPE, PREDICATE_TYPE, Built, statement
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import is_image, repository_of
from builder.errors import BuildError, PlatformError
from builder.git.source import parse_url
from builder.images.destination import DIGEST, BlobMissing, Destination, Manifest
from builder.images.image import digest_of
from builder.images.together import together
from builder.prebuilt import Prebuilt
from builder.store import builds, record
from builder.store.engine import Store
from builder.store.hide import hidden
from builder.store.transitions import EXTERNAL

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TAG_ROUNDS = 5
TAG_CHECK_FOR_MS, TAG_CHECK_EVERY_MS, TAG_CHECKS = 600_000, 60_000, 20
Phases = tuple[tuple[str, int, int], ...]
"""(name, start, end) in ms"""
BUILDER_ID = "https://ignite.dodil.dev/builder"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An artifact that is what its owner reported, with the size that a puller sees. `require` raises
    `ArtifactRefused` for a config that cannot be; `upload` is begun for its statement."""

    manifest: Manifest
    artifact: pb.BuiltArtifact
    require: Callable[[], None]
    upload: str


@dataclass(frozen=True, kw_only=True)
class Finalizer:
    """Finishes builds that are adopted. `label` names the points at which a fault test may end the process.

    `backoff_ms`: the pause before the attempt that follows a refused artifact, as of any other platform failure.
    """

    store: Store
    destination: Destination
    prebuilt: Prebuilt
    backoff_ms: int
    label: Callable[[str], None]
    stale: Callable[[str], None]
    log: FilteringBoundLogger

    def finish(self, row: builds.Row) -> None:
        """One attempt at a build, `row` as adopted. Raises whatever the registry or the store raises."""
        if row["queue"] == EXTERNAL:
            self._finish_prebuilt(row)
            return
        build_id, claim, repository = row["build_id"], row["claim"], row["repository"]
        artifact = record.built(row)
        digest = artifact.digest
        started = _now()
        manifest: str | Manifest = digest
        confirm: Callable[[], None] = _nothing
        if row["from_cache_of"]:  # from a cache entry of ours: checked and attested when it was built
            if not row["published"]:
                found = self.destination.get_manifest(repository, digest)
                if found is None:
                    builds.rebuild(self.store, build_id, claim, digest)
                    return
                manifest = found
        else:
            try:
                if row["published"]:  # behind the mark it was checked, and its tag may go
                    confirm = self._attest(row, artifact, digest)
                else:
                    checked = self._checked(row, artifact)
                    manifest, artifact = checked.manifest, checked.artifact
                    confirm = self._attest(row, artifact, manifest, checked.require, checked.upload)
            except ArtifactRefused as error:
                why = f"node {row['node_id']} reported an artifact that is not what it pushed: {error}"
                self.log.warning("refused", action="artifact-mismatch", build_id=build_id, why=why)
                if builds.refuse(self.store, build_id, claim, why, self.backoff_ms) is None:
                    self.stale("refuse")
                return
        attested = _now()
        self.label("finalize")
        artifact.reference = self.destination.reference(repository, digest)
        kept = json_format.MessageToJson(artifact, indent=None)
        publish = functools.partial(self._publish, row, manifest, digest, kept)
        pointed, _ = together((lambda halt: publish(), _whole(confirm)))
        if pointed is None:
            return
        if not self._succeed(row, (("ATTEST", started, attested),), attested, pointed):
            self.stale("succeed")

    def _publish(self, row: builds.Row, manifest: str | Manifest, digest: str, artifact: str) -> dict[str, str] | None:
        """The mark, then the tags that the build won, with the digest that each points at. None: stale."""
        tags = json.loads(row["tags"])
        published = builds.publish(self.store, row["build_id"], row["claim"], tags, digest, artifact)
        if published is None:
            return None
        put = functools.partial(self.destination.put_tag, row["repository"], manifest)
        together(_whole(functools.partial(put, tag)) for tag in published.tags)
        return dict.fromkeys(published.tags, digest)

    def _finish_prebuilt(self, row: builds.Row) -> None:
        """Resolve, compare, record. In the image's own registry nothing is written."""
        build_id, claim, started = row["build_id"], row["claim"], _now()
        if not row["published"]:
            try:
                found = self.prebuilt.resolve(row)
            except BuildError as error:
                if builds.unresolved(self.store, build_id, claim, failure_of(error), self.backoff_ms) is None:
                    self.stale("refuse")
                return
            self.label("finalize")
            kept = json_format.MessageToJson(found.artifact, indent=None)
            text = found.statement(row, BUILDER_ID, _now()).decode()
            if builds.publish(self.store, build_id, claim, artifact=kept, statement=text, line=found.line) is None:
                return
        attested = _now()
        if not self._succeed(row, (("ATTEST", started, attested),), attested, {}):
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

    def _checked(self, row: builds.Row, artifact: pb.BuiltArtifact) -> Checked:
        """What the attempt's tag points at, when that is what the owner reported. The check of its config is left to
        call.

        Both raise `ArtifactRefused`, and `PlatformError` for a registry that does not do its part.
        """
        repository, tag = row["repository"], record.attempt_tag(row)
        if row["code_hash"] and not DIGEST.fullmatch(row["code_hash"]):
            raise ArtifactRefused("the code hash is no sha256 digest")
        manifests: list[Manifest | None] = []
        uploads: list[str] = []
        together(
            (
                _whole(lambda: manifests.append(self.destination.get_manifest(repository, tag))),
                _whole(lambda: uploads.append(self.destination.open_upload(repository))),
            )
        )
        (manifest,), (upload,) = manifests, uploads
        if manifest is None:
            raise ArtifactRefused(f"{repository} has no tag {tag}")
        if manifest.digest != artifact.digest:
            raise ArtifactRefused(f"{repository}:{tag} is {manifest.digest}, reported was {artifact.digest}")
        found = described(manifest)
        checked = pb.BuiltArtifact(digest=manifest.digest, size_bytes=found.size_bytes, materials=artifact.materials)
        if artifact.HasField("start_check"):
            checked.start_check.CopyFrom(artifact.start_check)
        require = functools.partial(self._check_config, repository, found, manifest.digest, artifact.config)
        return Checked(manifest=manifest, artifact=checked, require=require, upload=upload)

    def _check_config(self, repository: str, found: Described, digest: str, sent: bytes) -> None:
        """`sent`: by the owner. It is as good as the registry's where it has the digest that the manifest names."""
        if digest_of(sent) == found.config_digest and len(sent) == found.config_size:
            if not self.destination.has_blob(repository, found.config_digest):
                raise ArtifactRefused(f"{repository} has no config {found.config_digest}")
            return check_config(sent, found, digest)
        config = io.BytesIO()
        try:
            for chunk in self.destination.open_blob(repository, found.config_digest):
                config.write(chunk)
                if config.tell() > found.config_size:
                    raise ArtifactRefused("the config is larger than the manifest says")
        except BlobMissing:
            raise ArtifactRefused(f"{repository} has no config {found.config_digest}") from None
        check_config(config.getvalue(), found, digest)

    def _attest(
        self,
        row: builds.Row,
        artifact: pb.BuiltArtifact,
        manifest: str | Manifest,
        require: Callable[[], None] | None = None,
        upload: str = "",
    ) -> Callable[[], None]:
        """The statement of what was built from what, attached to the digest if `require` does not raise; returns what
        confirms it."""
        request = json.loads(hidden(row["request"]))
        payload = statement(
            Built(
                build_id=row["build_id"],
                attempt=row["attempt"],
                organization=row["organization"],
                repository=self.destination.reference(row["repository"], artifact.digest).partition("@")[0],
                digest=artifact.digest,
                size_bytes=artifact.size_bytes,
                source_sha256=row["source_sha256"],
                code_hash=row["code_hash"],
                request=request,
                materials=[(material.name, material.digest) for material in artifact.materials],
                builder_id=BUILDER_ID,
                build_type=IMAGE_TYPE if is_image(record.request(row)) else COMPILE_TYPE,
                commit=_commit(row),
                started_at_ms=row["started_at"],
                finished_at_ms=max((end for _, _, end, _ in json.loads(row["phases"])), default=row["started_at"]),
            )
        )
        annotations = {"in-toto.io/predicate-type": PREDICATE_TYPE}
        attach = functools.partial(self.destination.attach, row["repository"], manifest, MEDIA_TYPE, payload)
        return attach(MEDIA_TYPE, annotations, require or _nothing, upload).confirm


def _whole(call: Callable[[], None]) -> Callable[[Callable[[], None]], None]:
    """For `together`: a call of few requests, which nothing halts in its midst."""
    return lambda halt: call()


def _nothing() -> None:
    """Nothing is left to require of an artifact that was checked before."""


def _commit(row: builds.Row) -> tuple[str, str] | None:
    """(URI, SHA) of a repository."""
    repository = repository_of(record.request(row))
    if repository is None or not row["provenance"]:
        return None
    found = json_format.Parse(row["provenance"], pb.SourceProvenance())
    return parse_url(repository.url).uri, found.commit_sha


def failure_of(error: BuildError) -> pb.Failure:
    """The failure record of an error of the control side in ATTEST."""
    found = pb.Failure(
        reason=error.reason,
        message=error.message,
        error_class=str(error.error_class),
        where=error.where,
        said=error.said,
        next=error.next,
        phase=pb.BUILD_PHASE_ATTEST,
    )
    if isinstance(error, PlatformError):
        found.retry_after_ms = error.retry_after_ms
    return found


def _now() -> int:
    return time.time_ns() // 1_000_000
