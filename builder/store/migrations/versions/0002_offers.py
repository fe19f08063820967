"""What the dispatcher and the reconciler look up by index, who finalizes, which finishes were kept."""

from alembic import op
from sqlalchemy import Column, inspect, text

from builder.store.schema import builds, metadata

revision = "0002"
down_revision = "0001"

COLUMNS = {"offer_from": "0", "queue_until": "0", "finalizer": "0", "finished": "[]"}  # name → default


def upgrade() -> None:
    """Add what is missing: 0001 makes the tables of today, so a new store has all of it already."""
    bind = op.get_bind()
    found = {column["name"] for column in inspect(bind).get_columns("builds")}
    missing = [builds.c[name] for name in COLUMNS if name not in found]
    for column in missing:
        default = COLUMNS[column.name]
        op.add_column("builds", Column(column.name, column.type, nullable=False, server_default=default))
    if missing:
        bind.execute(text("update builds set queue_until = queued_at + queue_timeout_ms"))
    metadata.create_all(bind)
    indexes = {index["name"] for index in inspect(bind).get_indexes("builds")}
    for index in builds.indexes:
        if index.name not in indexes:
            index.create(bind)
    if "builds_by_queue" in indexes:
        op.drop_index("builds_by_queue", "builds")
