"""The in-toto Statement v1 with an SLSA Provenance v1 predicate: what was built from what. Pure.

Facts that the control side found itself are marked apart from those that only the node can know:
`internalParameters.facts` lists both, and each dependency is annotated with its source. The statement is a function of
the build, so attaching it twice gives the same digest.

Sources: https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from builder.plan import PLATFORM
from builder.text import canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
MEDIA_TYPE = "application/vnd.in-toto+json"
SOURCE = "ignite.dodil.dev/source"
CONTROL_SIDE, NODE = "control-side", "node"
"""Values of the annotation `SOURCE`."""
FACTS = {
    CONTROL_SIDE: [
        "subject", "buildType", "externalParameters", "internalParameters", "source", "invocationId", "startedOn",
    ],
    NODE: ["canonical source tree", "materials", "finishedOn"],
}  # fmt: skip
COMPILE_TYPE = "https://ignite.dodil.dev/builder/compile/v1"
IMAGE_TYPE = "https://ignite.dodil.dev/builder/image/v1"
PREBUILT_TYPE = "https://ignite.dodil.dev/builder/prebuilt/v1"


@dataclass(frozen=True, kw_only=True)
class Built:
    """The facts of one build; times ms, digests with their algorithm ("sha256:…"). `repository` has its registry.

    `code_hash`, `materials` and `finished_at_ms` are the node's word.
    """

    build_id: str
    attempt: int
    organization: str
    repository: str
    digest: str
    size_bytes: int
    source_sha256: str
    code_hash: str
    request: Mapping[str, object]
    materials: Sequence[tuple[str, str]]
    builder_id: str
    build_type: str = COMPILE_TYPE
    commit: tuple[str, str] | None = None
    """(URL, SHA) of a git source, which has no stored bytes; the node's word."""
    started_at_ms: int
    finished_at_ms: int


def statement(built: Built) -> bytes:
    """Canonical JSON bytes of the statement. Build arguments are in `request` only by name, never by value."""
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": built.repository, "digest": _digest(built.digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": built.build_type,
                "externalParameters": dict(built.request),
                "internalParameters": {
                    "organization": built.organization,
                    "platform": PLATFORM,
                    "sizeBytes": built.size_bytes,
                    "facts": FACTS,
                },
                "resolvedDependencies": [
                    *_sources(built),
                    *([_dependency("canonical source tree", built.code_hash, NODE)] if built.code_hash else []),
                    *(_dependency(name, digest, NODE) for name, digest in built.materials),
                ],
            },
            "runDetails": {
                "builder": {"id": built.builder_id},
                "metadata": {
                    "invocationId": f"{built.build_id}/{built.attempt}",
                    "startedOn": _time(built.started_at_ms),
                    "finishedOn": _time(built.finished_at_ms),
                },
            },
        },
    }
    return canonical_json(value)


def _sources(built: Built) -> list[dict[str, object]]:
    """Where the source came from: the bytes that are stored, or a commit. A rebase has neither: what it is made of are
    its materials."""
    if built.commit is None and not built.source_sha256:
        return []
    if built.commit is None:
        return [_dependency("source", "sha256:" + built.source_sha256.removeprefix("sha256:"), CONTROL_SIDE)]
    url, sha = built.commit
    named = _dependency("source", f"gitCommit:{sha}", NODE)
    return [{**named, "uri": f"git+{url}"}]


def prebuilt_statement(built: Built, reference: str, asked_digest: str) -> bytes:
    """The statement of an image that was brought: which reference led to which digest, and when. Nothing was built.

    `asked_digest`: of what the reference named, an index or the manifest itself.
    """
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": built.repository, "digest": _digest(built.digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": PREBUILT_TYPE,
                "externalParameters": dict(built.request),
                "internalParameters": {
                    "organization": built.organization,
                    "platform": PLATFORM,
                    "sizeBytes": built.size_bytes,
                },
                "resolvedDependencies": [_dependency(reference, asked_digest, CONTROL_SIDE)],
            },
            "runDetails": {
                "builder": {"id": built.builder_id},
                "metadata": {
                    "invocationId": f"{built.build_id}/{built.attempt}",
                    "startedOn": _time(built.started_at_ms),
                    "finishedOn": _time(built.finished_at_ms),
                },
            },
        },
    }
    return canonical_json(value)


def _dependency(name: str, digest: str, source: str) -> dict[str, object]:
    """A ResourceDescriptor, with who vouches for it."""
    return {"name": name, "digest": _digest(digest), "annotations": {SOURCE: source}}


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value} if value else {"sha256": algorithm}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
