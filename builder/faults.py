"""Labelled points of the line at which a fault test ends the process with SIGKILL (setting `crash_at`).

A label fires once for each data folder: the restarted process goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path


def labels(crash_at: str, state: Path) -> Callable[[str], None]:
    """A function that kills this process at the label `crash_at`, once; with an empty `crash_at` it does nothing."""

    def reached(label: str) -> None:
        if label != crash_at:
            return
        state.mkdir(parents=True, exist_ok=True)
        try:
            (state / f"crashed-{label}").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return reached
