"""Labels to find builds by; the organization, age and feed position of a report."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def _ordered(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """A report that is there is as old as its last try; it gets its position from the first reader."""
    op.create_table(
        "labels",
        sa.Column("build_id", _ordered(20), sa.ForeignKey("builds.build_id"), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(256), nullable=False),
        sa.Column("organization", _ordered(200), nullable=False),
    )
    op.create_index("labels_by_value", "labels", ["organization", "name", "value", "build_id"])
    op.create_table(
        "feeds",
        sa.Column("organization", _ordered(200), primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )
    op.add_column("reports", sa.Column("organization", _ordered(200), nullable=False, server_default=""))
    for name in ("created_at", "position"):
        op.add_column("reports", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.execute(
        "UPDATE reports SET created_at = due_at, organization = coalesce("
        "(SELECT organization FROM builds WHERE builds.build_id = reports.build_id), '')"
    )
    op.create_index("reports_in_feed", "reports", ["organization", "position", "id"])
    op.create_index("reports_waiting", "reports", ["delivered_at", "created_at"])
