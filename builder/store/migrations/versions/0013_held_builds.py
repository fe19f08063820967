"""The builds that wait for others of their organization, in the order in which they are told so."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Without it each look at such an organization sorts all that it has queued."""
    columns = ["status", "queue", "toolchain", "attached_to", "organization", "queued_at", "number"]
    op.create_index("builds_held", "builds", columns)
