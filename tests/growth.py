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


def assert_linear(small: Spent, large: Spent, floor_s: float, what: str = "", power: int = 3) -> None:
    """`large` does four times the work of `small`. `floor_s` is what squaring work may cost at the small size: less can
    not be told from noise.

    A large input that costs no more than `MOST_GROWTH` floors is fine. Where it can cost no more, because the small one
    cost so little, it is left out: most are, and they are most of the work. `power`: work that grows faster than that
    costs too much at the small size already. It is 2 for 300 parts and more, whose cube is 27 million steps.
    """
    ratios = []
    for _ in range(TRIES):
        first = small()
        if first * 4**power <= MOST_GROWTH * floor_s:
            return
        took = large()
        if took <= MOST_GROWTH * floor_s:
            return
        ratios.append(took / max(floor_s, first))
        if ratios[-1] <= MOST_GROWTH:
            return
    raise AssertionError(f"{what}: {ratios}")
