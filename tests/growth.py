"""Whether work grows as its input does.

Processor time of four times the input is compared with that of the input: 4 where work is linear, 16 where it squares.
"""

from __future__ import annotations

from collections.abc import Callable

MOST_GROWTH = 9
TRIES = 10
"""Another process's use of the machine adds to one try, not to each."""

Spent = Callable[[], float]
"""Does the work once; the processor time it took, s."""


def assert_linear(small: Spent, large: Spent, floor_s: float, what: str = "") -> None:
    """`large` does four times the work of `small`. `floor_s` is what squaring work may cost at the small size: less can
    not be told from noise.

    Where the large input costs no more than `MOST_GROWTH` floors, the small one decides nothing and is left out.
    """
    ratios = []
    for _ in range(TRIES):
        took = large()
        if took <= MOST_GROWTH * floor_s:
            return
        ratios.append(took / max(floor_s, small()))
        if ratios[-1] <= MOST_GROWTH:
            return
    raise AssertionError(f"{what}: {ratios}")
