"""The version, target and warnings of a build as its node found them; the builds of an app by its name."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """What was built before has no version: its app gets the default of today once more."""
    for name in ("runtime_version", "target"):
        op.add_column("builds", sa.Column(name, sa.String(40), nullable=False, server_default=""))
    op.add_column("builds", sa.Column("warnings", sa.Text, nullable=False, server_default="[]"))
    op.create_index("builds_by_app", "builds", ["organization", "name", "number"])
