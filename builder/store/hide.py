"""Build arguments are often secrets: once a build has ended nobody needs their values. Pure."""

from __future__ import annotations

import json
from typing import Any

HIDDEN = "***"


def hidden(request: str) -> str:
    """A stored request (proto3 JSON) whose build arguments have their names only."""
    if '"buildArgs"' not in request:
        return request
    return json.dumps(_hidden(json.loads(request)), separators=(",", ":"), ensure_ascii=False)


def _hidden(value: Any) -> Any:
    if isinstance(value, list):
        return [_hidden(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: dict.fromkeys(one, HIDDEN) if key == "buildArgs" and isinstance(one, dict) else _hidden(one)
        for key, one in value.items()
    }
