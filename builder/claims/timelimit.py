"""The time limit of one attempt. The time that its owner waits for the control side does not count.

Times are seconds of the caller's clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TimeLimit:
    """Starts at `started_at`; `wait` and `resume` enclose what does not count."""

    limit_ms: int
    started_at: float
    _waits: tuple[float, float | None] = (0.0, None)
    """(seconds waited, since when a wait goes on); replaced as a whole, so that another thread may read it."""

    def wait(self, now: float) -> None:
        """The owner begins to wait for the control side."""
        self._waits = (self._waits[0], now)

    def resume(self, now: float) -> None:
        """The wait is over."""
        waited, since = self._waits
        self._waits = (waited + (now - since if since is not None else 0), None)

    def waited_ms(self, now: float) -> int:
        """How long the owner has waited, a wait that goes on included."""
        waited, since = self._waits
        return int((waited + (now - since if since is not None else 0)) * 1000)

    def elapsed_ms(self, now: float) -> int:
        """The build's time by now, without the waits."""
        return int((now - self.started_at) * 1000) - self.waited_ms(now)

    def left_ms(self, now: float) -> int:
        """What is left; negative once the limit is passed."""
        return self.limit_ms - self.elapsed_ms(now)
