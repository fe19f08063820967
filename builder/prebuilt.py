"""A prebuilt image on the control side: which login and host a request may use, and what the image turned out to be.

The registry is asked by `images/external.py`; nothing is pushed or tagged there. Images of the server's own registry
are open to the organization that they belong to, with the server's login.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.addresses import Resolve, system_resolve
from builder.attest.provenance import Built, prebuilt_statement
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.credentials import Secrets
from builder.errors import BuildError
from builder.images.external import Access, External, Login, resolve
from builder.images.reference import Reference, is_own, parse
from builder.plan import PLATFORM
from builder.settings import Settings
from builder.store import record
from builder.text import size

if TYPE_CHECKING:
    from builder.store.rows import Row


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """An image that can run, and how the record names it."""

    reference: Reference
    image: External

    @property
    def artifact(self) -> pb.BuiltArtifact:
        """As the record has it."""
        named = f"{self.reference.name}:{self.reference.tag}" if self.reference.tag else ""
        return pb.BuiltArtifact(
            digest=self.image.digest,
            reference=f"{self.reference.name}@{self.image.digest}",
            size_bytes=self.image.size_bytes,
            tag_reference=named,
        )

    @property
    def line(self) -> str:
        """For the log."""
        what = f"{self.reference} is {self.image.digest} for {PLATFORM}, {size(self.image.size_bytes)}"
        return "; warning: ".join((what, *self.image.warnings))

    def statement(self, row: Row, builder_id: str, now_ms: int) -> bytes:
        """The in-toto statement; it stays in the record."""
        built = Built(
            build_id=row["build_id"],
            attempt=row["attempt"],
            organization=row["organization"],
            repository=self.reference.name,
            digest=self.image.digest,
            size_bytes=self.image.size_bytes,
            source_sha256="",
            code_hash="",
            request={"imageRef": str(self.reference)},
            materials=(),
            builder_id=builder_id,
            started_at_ms=row["started_at"],
            finished_at_ms=now_ms,
        )
        return prebuilt_statement(built, str(self.reference), self.image.index_digest or self.image.digest)


@dataclass(frozen=True, kw_only=True)
class Prebuilt:
    """Asks the registries of prebuilt images. `secrets` are those of all organizations."""

    settings: Settings
    secrets: Secrets
    resolver: Resolve = field(default=system_resolve)

    def resolve(self, row: Row) -> FoundImage:
        """What the request of a row names. Raises `BuildError` with an image or secret reason, RegistryUnavailable."""
        settings, asked = self.settings, record.request(row).code.image.prebuilt
        reference = parse(asked.image_ref)
        own = is_own(reference, settings.registry, settings.prefix_of(row["organization"]))
        private = [*settings.private_registries, *([settings.registry] if own else [])]
        access = Access(
            private=private,
            insecure=[settings.registry] if own and settings.registry_insecure else [],
            ca_bundle=settings.ca_bundle,
            resolve=self.resolver,
        )
        login = self._login(asked.registry_secret_ref, row["organization"], reference) if not own else _own(settings)
        found = resolve(reference, PLATFORM, access, login, settings.artifact_bytes)
        return FoundImage(reference=reference, image=found)

    def _login(self, name: str, organization: str, reference: Reference) -> Login | None:
        if not name:
            return None
        found = self.secrets.registry(organization, name, "registrySecretRef")
        if found.host and found.host not in (reference.host, reference.api_host):
            message = f'the secret "{name}" is only for {found.host}; the image is at {reference.host}'
            raise BuildError("InvalidRequest", message, where="registrySecretRef")
        return Login(username=found.username, password=found.password)


def _own(settings: Settings) -> Login | None:
    if not settings.registry_username:
        return None
    return Login(username=settings.registry_username, password=settings.registry_password)
