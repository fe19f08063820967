"""What retention needs: a cache entry's last answer, swept attempt tags, its seeks; tokens of forgotten nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Cache entries that are there count as used now."""
    op.add_column("builds", sa.Column("attempts_swept", sa.Integer, nullable=False, server_default="0"))
    op.create_index("builds_ended", "builds", ["status", "ended_at", "number"])
    op.create_index("builds_unswept", "builds", ["attempts_swept", "ended_at", "number"])
    op.create_index("builds_by_source", "builds", ["source_sha256"])
    op.add_column("cache", sa.Column("used_at", sa.BigInteger, nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("UPDATE cache SET used_at = (extract(epoch from clock_timestamp()) * 1000)::bigint")
    else:
        op.execute("UPDATE cache SET used_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000")
    op.create_index("cache_used", "cache", ["used_at"])
    op.create_index("cache_by_build", "cache", ["build_id"])
    op.create_index("contexts_created", "contexts", ["created_at", "context_id"])
    op.create_index("contexts_by_source", "contexts", ["sha256"])
    op.create_table(
        "revoked",
        sa.Column("node_id", sa.String(200), primary_key=True),
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
    )
