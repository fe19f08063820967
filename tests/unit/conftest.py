"""Unit tests cannot touch the world (tests/unit_fixtures.py)."""

from __future__ import annotations

from tests.unit_fixtures import compiled_once, no_world, nothing_logged, schema_once

__all__ = ["compiled_once", "no_world", "nothing_logged", "schema_once"]
