"""A column has the name of what it holds: the stage (WORK, FINALIZE) of a RUNNING build."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Rename it; the rows stay as they are."""
    op.execute("ALTER TABLE builds RENAME COLUMN half TO stage")
