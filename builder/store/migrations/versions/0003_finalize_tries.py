"""How many attempts of FINALIZE have failed, so that the pause between them can grow."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A count for each build; those there start at none."""
    op.add_column("builds", sa.Column("finalize_tries", sa.Integer, nullable=False, server_default="0"))
