"""Slow tests are unit tests in all but their time: they cannot touch the world either (tests/unit_fixtures.py)."""

from __future__ import annotations

from tests.unit_fixtures import compiled_once, no_world, schema_once

__all__ = ["compiled_once", "no_world", "schema_once"]
