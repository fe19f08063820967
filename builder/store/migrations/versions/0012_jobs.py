"""The Kubernetes Job of an attempt, who watches it, and how far its containers' logs were read."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """No build had a Job."""
    columns = (
        ("job", sa.Text, ""),
        ("job_seen", sa.Boolean, "0"),
        ("watcher", sa.String(200), ""),
        ("caught_up", sa.Boolean, "0"),
        ("cursors", sa.Text, ""),
        ("unwatched", sa.Boolean, "0"),
    )
    for name, kind, default in columns:
        op.add_column("builds", sa.Column(name, kind, nullable=False, server_default=default))
