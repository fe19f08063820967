"""Why a node takes no builds, and which node a build avoids; argument values of builds that have ended are hidden."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """What has ended keeps the names of its arguments only."""
    op.add_column("nodes", sa.Column("lacks", sa.String(200), nullable=False, server_default=""))
    op.add_column("builds", sa.Column("avoid", sa.String(200), nullable=False, server_default=""))
    connection = op.get_bind()
    builds = sa.table("builds", *(sa.column(name) for name in ("number", "status", "request")))
    ended = sa.select(builds.c.number, builds.c.request).where(
        builds.c.status.in_(("SUCCEEDED", "FAILED", "CANCELLED")), builds.c.request.like('%"buildArgs"%')
    )
    for number, request in connection.execute(ended).all():
        connection.execute(sa.update(builds).where(builds.c.number == number).values(request=_hidden(request)))


def _hidden(request: str) -> str:
    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {
            key: dict.fromkeys(one, "***") if key == "buildArgs" and isinstance(one, dict) else walk(one)
            for key, one in value.items()
        }

    return json.dumps(walk(json.loads(request)), separators=(",", ":"), ensure_ascii=False)
