"""Columns that nothing reads go: the lines of a chunk are counted by its sequences, a request names its kind."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE builds DROP COLUMN single_file")
    op.execute("ALTER TABLE log_chunks DROP COLUMN count")
