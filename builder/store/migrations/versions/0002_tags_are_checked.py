"""When a tag last changed, and when the registry was compared with it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Two times for each tag; those there are count as old."""
    for name in ("changed_at", "checked_at"):
        op.add_column("tags", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("tags_changed", "tags", ["changed_at"])
