"""The first schema, as it was: `builder/store/schema.py` moves on, this does not. A change is another migration."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _ordered(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _number(name: str, default: str | None = "0") -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def _text(name: str, length: int, default: str | None = None) -> "sa.Column[str]":
    return sa.Column(name, sa.String(length), nullable=False, server_default=default)


def _document(name: str, default: str | None = None) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _flag(name: str, default: str | None = "0") -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean, nullable=False, server_default=default)


def upgrade() -> None:
    """Create the tables."""
    _builds()
    _of_builds()
    _of_organizations()
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String(200), primary_key=True),
        _document("queues"),
        _document("toolchains"),
        sa.Column("slots", sa.Integer, nullable=False),
        _number("seen_at", None),
        _flag("drain"),
    )


def _builds() -> None:
    op.create_table(
        "builds",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("build_id", _ordered(20), nullable=False, unique=True),
        sa.Column("organization", _ordered(200), nullable=False),
        _text("name", 200),
        sa.Column("idempotency_key", sa.String(200)),
        _text("request_hash", 64),
        _document("request"),
        _text("source_sha256", 64),
        _number("source_size", None),
        _flag("single_file", None),
        _text("runtime", 40),
        _text("queue", 80),
        _text("toolchain", 80),
        _text("repository", 400),
        _document("tags"),
        sa.Column("priority", sa.Integer, nullable=False),
        _flag("no_cache", None),
        _number("timeout_ms", None),
        _number("queue_timeout_ms", None),
        _text("status", 12),
        _text("half", 10, ""),
        _text("attached_to", 20, ""),
        _text("from_cache_of", 20, ""),
        _number("claim"),
        _number("attempt"),
        _number("failures"),
        _number("retries"),
        _text("node_id", 200, ""),
        _text("nonce", 64, ""),
        _number("lease_until"),
        _number("not_before"),
        _number("queued_at", None),
        _number("offered_at"),
        sa.Column("offers", sa.Integer, nullable=False, server_default="0"),
        _number("offer_from"),
        _number("queue_until"),
        _flag("finalizer"),
        _document("finished", "[]"),
        _flag("cancel_requested"),
        _flag("published"),
        _text("phase", 20, "QUEUED"),
        _document("phases", "[]"),
        _text("build_key", 80, ""),
        _text("code_hash", 80, ""),
        _document("artifact", ""),
        _document("failure", ""),
        _number("report_sequence"),
        _number("log_lines"),
        _number("claim_lines"),
        _number("log_limit", "10485760"),
        _number("log_bytes"),
        _number("held_bytes"),
        _flag("log_cut"),
        _number("created_at", None),
        _number("started_at"),
        _number("ended_at"),
        _number("updated_at", None),
        sa.UniqueConstraint("organization", "idempotency_key"),
    )
    lane = ("status", "queue", "toolchain", "attached_to", "organization", sa.text("priority DESC"), "number")
    op.create_index("builds_to_offer", "builds", lane)
    op.create_index("builds_offered", "builds", ["status", "queue", "offered_at"])
    op.create_index("builds_queue_until", "builds", ["status", "attached_to", "queue_until"])
    op.create_index("builds_by_lease", "builds", ["status", "lease_until"])
    op.create_index("builds_by_organization", "builds", ["organization", "number"])
    op.create_index("builds_attached", "builds", ["attached_to"])


def _of_builds() -> None:
    op.create_table(
        "log_chunks",
        sa.Column("build_id", _ordered(20), sa.ForeignKey("builds.build_id"), primary_key=True),
        sa.Column("first_sequence", sa.BigInteger, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        _document("lines"),
    )
    op.create_table(
        "held_lines",
        sa.Column("build_id", _ordered(20), sa.ForeignKey("builds.build_id"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        _document("lines"),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("build_id", _ordered(20), nullable=False),
        _number("sequence", None),
        _document("body"),
        _number("due_at", None),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        _number("delivered_at"),
        sa.UniqueConstraint("build_id", "sequence"),
    )
    op.create_index("reports_due", "reports", ["delivered_at", "due_at"])


def _of_organizations() -> None:
    op.create_table(
        "in_flight",
        sa.Column("organization", _ordered(200), primary_key=True),
        sa.Column("build_key", sa.String(80), primary_key=True),
        sa.Column("build_id", _ordered(20), nullable=False),
    )
    op.create_table(
        "turns",
        sa.Column("queue", sa.String(80), primary_key=True),
        sa.Column("organization", _ordered(200), nullable=False),
    )
    op.create_table(
        "cache",
        sa.Column("organization", _ordered(200), primary_key=True),
        sa.Column("build_key", sa.String(80), primary_key=True),
        sa.Column("repository", sa.String(400), primary_key=True),
        sa.Column("build_id", _ordered(20), nullable=False),
        _document("artifact"),
    )
    op.create_table(
        "tags",
        sa.Column("repository", sa.String(400), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        _text("digest", 80),
    )
    op.create_table(
        "contexts",
        sa.Column("context_id", sa.String(40), primary_key=True),
        sa.Column("organization", _ordered(200), nullable=False),
        _text("sha256", 64),
        _number("size", None),
        _number("created_at", None),
    )
