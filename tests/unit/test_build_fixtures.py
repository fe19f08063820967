"""How the end-to-end tests wait: soon at first, then more rarely, because each look takes the processor."""

from __future__ import annotations

import pytest

from tests import build_fixtures
from tests.build_fixtures import until


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(build_fixtures, "time", made)
    return made


def test_who_waits_long_looks_less_often(clock: Clock) -> None:
    assert until(lambda: clock.now > 1030)
    assert clock.sleeps[0] < 0.03 and clock.sleeps == sorted(clock.sleeps)
    assert len(clock.sleeps) < 30 / 0.08 and max(clock.sleeps) <= 0.1


def test_what_does_not_come_is_looked_for_once_more_at_the_end(clock: Clock) -> None:
    assert not until(lambda: False, 5)
    assert until(lambda: clock.now >= 1010, 4.99)
