"""Every parser and every diagnosis over hostile text, in time that grows as the text does."""

from __future__ import annotations

import functools

import pytest

from tests.growth import assert_linear
from tests.hostile_text import COUNTED, DIAGNOSES, PARSERS, SHAPES, spent

SMALL, LARGE = 16 * 1024, 64 * 1024
LARGER = {"main.go": 4, "imports": 4, "main.ts": 4}
"""How many times as large a file of source is as a manifest; what squares there, like a search for the start of each
token, shows later. Its floor is as much lower."""
FLOOR_S = 0.05
"""What a squaring parser may cost at this size: 16 times 50 ms is no weapon."""


@pytest.mark.parametrize("name", [*PARSERS, *DIAGNOSES])
def test_work_grows_as_the_text_does(name: str) -> None:
    read = (PARSERS | DIAGNOSES)[name]
    times = LARGER.get(name, 1)
    for shape, text in SHAPES.items():
        small, large = text(SMALL * times), text(LARGE * times)
        assert_linear(
            functools.partial(spent, read, small),
            functools.partial(spent, read, large),
            FLOOR_S / times,
            f"{name} over {shape}",
            power=2,
        )


@pytest.mark.parametrize("name", COUNTED)
def test_work_grows_as_the_number_of_parts_does(name: str) -> None:
    read = COUNTED[name]
    assert_linear(functools.partial(spent, read, SMALL), functools.partial(spent, read, LARGE), FLOOR_S, name)


def test_what_is_spent_is_processor_time() -> None:
    def squares(text: str) -> None:
        for _ in range(len(text) ** 2):
            pass

    assert spent(squares, "a" * 2000) > spent(squares, "a" * 20)
