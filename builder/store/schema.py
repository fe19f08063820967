"""The tables. Times are ms of the store's clock; JSON columns hold proto3 JSON or plain lists."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    desc,
)  # fmt: skip

metadata = MetaData()


def _ordered(length: int) -> String:
    """Text that is compared and sorted, byte by byte as Python and SQLite do, whatever a database's locale is."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


builds = Table(
    "builds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order of submission
    Column("build_id", _ordered(20), nullable=False, unique=True),
    Column("organization", _ordered(200), nullable=False),
    Column("name", String(200), nullable=False),
    Column("idempotency_key", String(200)),
    Column("request_hash", String(64), nullable=False),
    Column("request", Text, nullable=False),  # CreateBuildRequest without its source
    Column("source_sha256", String(64), nullable=False),
    Column("source_size", BigInteger, nullable=False),
    Column("runtime", String(40), nullable=False),
    Column("queue", String(80), nullable=False),
    Column("toolchain", String(80), nullable=False),
    Column("repository", String(400), nullable=False),
    Column("tags", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("no_cache", Boolean, nullable=False),
    Column("timeout_ms", BigInteger, nullable=False),
    Column("queue_timeout_ms", BigInteger, nullable=False),
    # Status; a RUNNING build is in the stage WORK, JOB or FINALIZE, a PENDING one may be attached to another
    Column("status", String(12), nullable=False),
    Column("stage", String(10), nullable=False, server_default=""),
    Column("attached_to", String(20), nullable=False, server_default=""),
    Column("from_cache_of", String(20), nullable=False, server_default=""),
    Column("claim", BigInteger, nullable=False, server_default="0"),
    Column("attempt", BigInteger, nullable=False, server_default="0"),
    Column("failures", BigInteger, nullable=False, server_default="0"),
    Column("retries", BigInteger, nullable=False, server_default="0"),
    Column("node_id", String(200), nullable=False, server_default=""),
    Column("nonce", String(64), nullable=False, server_default=""),
    Column("lease_until", BigInteger, nullable=False, server_default="0"),
    Column("not_before", BigInteger, nullable=False, server_default="0"),
    Column("queued_at", BigInteger, nullable=False),
    Column("offered_at", BigInteger, nullable=False, server_default="0"),
    Column("offers", Integer, nullable=False, server_default="0"),
    Column("offer_from", BigInteger, nullable=False, server_default="0"),  # offered (again) from here on
    Column("queue_until", BigInteger, nullable=False, server_default="0"),  # then it has waited too long
    Column("finalizer", Boolean, nullable=False, server_default="0"),  # somebody holds it in FINALIZE
    Column("finished", Text, nullable=False, server_default="[]"),  # the claims whose finish was stored
    Column("cancel_requested", Boolean, nullable=False, server_default="0"),
    Column("published", Boolean, nullable=False, server_default="0"),  # the PUBLISH mark: only forward from here
    Column("phase", String(20), nullable=False, server_default="QUEUED"),
    Column("phases", Text, nullable=False, server_default="[]"),
    Column("build_key", String(80), nullable=False, server_default=""),
    Column("code_hash", String(80), nullable=False, server_default=""),
    Column("artifact", Text, nullable=False, server_default=""),  # BuiltArtifact
    Column("failure", Text, nullable=False, server_default=""),  # Failure
    Column("report_sequence", BigInteger, nullable=False, server_default="0"),
    Column("log_lines", BigInteger, nullable=False, server_default="0"),
    Column("claim_lines", BigInteger, nullable=False, server_default="0"),
    Column("log_limit", BigInteger, nullable=False, server_default=str(10 * 1024 * 1024)),  # bytes, over all claims
    Column("log_bytes", BigInteger, nullable=False, server_default="0"),  # stored with a sequence
    Column("held_bytes", BigInteger, nullable=False, server_default="0"),  # the last lines, held back until the end
    Column("log_cut", Boolean, nullable=False, server_default="0"),  # lines were left out; the marker stands there
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False, server_default="0"),
    Column("ended_at", BigInteger, nullable=False, server_default="0"),
    Column("updated_at", BigInteger, nullable=False),
    Column("finalize_tries", Integer, nullable=False, server_default="0"),  # failed; the pause grows with them
    Column("waited_ms", BigInteger, nullable=False, server_default="0"),  # of this attempt, for the control side
    Column("attempts_swept", Integer, nullable=False, server_default="0"),  # `retention.SWEPT` and kin
    Column("avoid", String(200), nullable=False, server_default=""),  # the node whose attempt failed last
    Column("runtime_version", String(40), nullable=False, server_default=""),  # as its node found it, with the next two
    Column("target", String(40), nullable=False, server_default=""),
    Column("warnings", Text, nullable=False, server_default="[]"),
    Column("statement", Text, nullable=False, server_default=""),  # of an artifact that is not ours to attach one to
    Column("provenance", Text, nullable=False, server_default=""),  # SourceProvenance of a git source
    Column("job", Text, nullable=False, server_default=""),  # of this attempt, from its mark on: Job
    Column("job_seen", Boolean, nullable=False, server_default="0"),  # somebody created or saw it
    Column(
        "watcher", String(200), nullable=False, server_default=""
    ),  # the last that adopted it and did not release it
    Column("caught_up", Boolean, nullable=False, server_default="0"),  # it has what the Job did before
    Column("cursors", Text, nullable=False, server_default=""),  # container → [since, lines, newest_ns] of its log
    Column("unwatched", Boolean, nullable=False, server_default="0"),  # a line of the log tells that nobody watches
    UniqueConstraint("organization", "idempotency_key"),
    # Every dispatcher query is a seek into this one, however much is queued.
    Index("builds_to_offer", "status", "queue", "toolchain", "attached_to", "organization", desc("priority"), "number"),
    # Of an organization that waits for its own builds, those that are to be told so.
    Index("builds_held", "status", "queue", "toolchain", "attached_to", "organization", "queued_at", "number"),
    Index("builds_offered", "status", "queue", "offered_at"),
    Index("builds_queue_until", "status", "attached_to", "queue_until"),
    Index("builds_by_lease", "status", "lease_until"),
    Index("builds_by_organization", "organization", "number"),
    Index("builds_by_app", "organization", "name", "number"),
    Index("builds_attached", "attached_to"),
    Index("builds_ended", "status", "ended_at", "number"),
    Index("builds_unswept", "attempts_swept", "ended_at", "number"),
    Index("builds_by_source", "source_sha256"),
)

labels = Table(
    "labels",  # the callers' own labels of their builds, to find these by
    metadata,
    Column("build_id", _ordered(20), ForeignKey("builds.build_id"), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("value", String(256), nullable=False),
    Column("organization", _ordered(200), nullable=False),
    Index("labels_by_value", "organization", "name", "value", "build_id"),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("build_id", _ordered(20), ForeignKey("builds.build_id"), primary_key=True),
    Column("first_sequence", BigInteger, primary_key=True),
    Column("lines", Text, nullable=False),
)

held_lines = Table(
    "held_lines",  # the last lines of a log that reached its limit; no sequence yet
    metadata,
    Column("build_id", _ordered(20), ForeignKey("builds.build_id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("bytes", Integer, nullable=False),
    Column("lines", Text, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("build_id", _ordered(20), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("delivered_at", BigInteger, nullable=False, server_default="0"),
    Column("organization", _ordered(200), nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False, server_default="0"),
    Column("position", BigInteger, nullable=False, server_default="0"),  # in its organization's feed; 0: no reader yet
    UniqueConstraint("build_id", "sequence"),
    Index("reports_due", "delivered_at", "due_at"),
    Index("reports_in_feed", "organization", "position", "id"),
    Index("reports_waiting", "delivered_at", "created_at"),  # a scrape asks for the oldest, however many wait
)

feeds = Table(
    "feeds",  # the last position of an organization's feed of reports
    metadata,
    Column("organization", _ordered(200), primary_key=True),
    Column("position", BigInteger, nullable=False),
)

in_flight = Table(
    "in_flight",
    metadata,
    Column("organization", _ordered(200), primary_key=True),
    Column("build_key", String(80), primary_key=True),
    Column("build_id", _ordered(20), nullable=False),
)

turns = Table(
    "turns",  # where the round through the organizations of a queue goes on
    metadata,
    Column("queue", String(80), primary_key=True),
    Column("organization", _ordered(200), nullable=False),
)

cache = Table(
    "cache",
    metadata,
    Column("organization", _ordered(200), primary_key=True),
    Column("build_key", String(80), primary_key=True),
    Column("repository", String(400), primary_key=True),
    Column("build_id", _ordered(20), nullable=False),
    Column("artifact", Text, nullable=False),
    Column("used_at", BigInteger, nullable=False, server_default="0"),  # its last answer, or when it was written
    Index("cache_used", "used_at"),
    Index("cache_by_build", "build_id"),
)

tags = Table(
    "tags",
    metadata,
    Column("repository", String(400), primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("changed_at", BigInteger, nullable=False, server_default="0"),
    Column("checked_at", BigInteger, nullable=False, server_default="0"),  # when the registry was compared with it
    Index("tags_changed", "changed_at"),
)

contexts = Table(
    "contexts",
    metadata,
    Column("context_id", String(40), primary_key=True),
    Column("organization", _ordered(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("contexts_created", "created_at", "context_id"),
    Index("contexts_by_source", "sha256"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String(200), primary_key=True),
    Column("queues", Text, nullable=False),
    Column("toolchains", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("drain", Boolean, nullable=False, server_default="0"),
    Column("lacks", String(200), nullable=False, server_default=""),  # why it offers no slots now
)

revoked = Table(
    "revoked",  # tokens that may not act as a node any more: it was forgotten
    metadata,
    Column("node_id", String(200), primary_key=True),
    Column("token_sha256", String(64), primary_key=True),
    Column("revoked_at", BigInteger, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("organization", _ordered(200), primary_key=True),
    Column("name", _ordered(63), primary_key=True),
    Column("type", String(12), nullable=False),  # BUILD, GIT or REGISTRY
    Column("host", String(300), nullable=False),  # the only one that it is sent to; empty: any
    Column("sealed", Text, nullable=False),  # encrypted, with everything else of it as associated data
    Column("version", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
