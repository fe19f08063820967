"""How long the owner of an attempt has waited for the control side: no part of the build's time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """A sum for each build; those there start at none."""
    op.add_column("builds", sa.Column("waited_ms", sa.BigInteger, nullable=False, server_default="0"))
