"""The first schema."""

from alembic import op

from builder.store.schema import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables. The next migration must freeze this list, since `metadata` moves on."""
    metadata.create_all(op.get_bind())
