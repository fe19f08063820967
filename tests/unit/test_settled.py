"""What a process has loaded is looked through by the garbage collector once."""

from __future__ import annotations

import gc

from builder.process import settle


def test_what_was_loaded_is_collected_once_and_looked_through_no_more() -> None:
    circle: list[object] = []
    circle.append(circle)
    del circle
    try:
        settle()
        assert gc.get_freeze_count() > 10_000 and gc.get_count()[2] == 0
        assert gc.collect() < 1000, "what could be freed was freed before"
    finally:
        gc.unfreeze()
