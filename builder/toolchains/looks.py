"""When a node looks which toolchains it has: it registers far more often than those change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.images.store import ImageStore

LOOK_S = 15.0
"""Between two looks at a machine's programs, which its operator may install or remove at any time."""


class Looks:
    """The last look of `look`. `fetched` is compared at each call; another value has it look at once."""

    def __init__(
        self,
        look: Callable[[], Mapping[str, str]],
        fetched: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._fetched, self._clock = look, fetched, clock
        self._last: tuple[object, float, Mapping[str, str]] | None = None

    def available(self, *, again: bool = False) -> Mapping[str, str]:
        """Toolchain name → digest, at most `LOOK_S` old. `again` has it look whatever there was. Raises as `look`."""
        fetched, now = self._fetched(), self._clock()
        if again or self._last is None or self._last[0] != fetched or now - self._last[1] >= LOOK_S:
            self._last = None  # one that fails is made again at the next call
            self._last = fetched, now, self._look()
        return self._last[2]


def fetched_in(copies: Path, images: ImageStore) -> object:
    """Changes when an image or a package is fetched, or removed."""
    try:
        packages = os.stat(copies).st_mtime_ns
    except OSError:
        packages = 0
    return packages, images.stamp()
