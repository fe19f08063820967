"""Secrets of organizations, encrypted; the statement of an image that is not ours; the commit of a git source."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def _ordered(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """No build had a statement or a commit that its record keeps."""
    op.create_table(
        "secrets",
        sa.Column("organization", _ordered(200), primary_key=True),
        sa.Column("name", _ordered(63), primary_key=True),
        sa.Column("type", sa.String(12), nullable=False),
        sa.Column("host", sa.String(300), nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    for name in ("statement", "provenance"):
        op.add_column("builds", sa.Column(name, sa.Text, nullable=False, server_default=""))
