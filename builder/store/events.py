"""One structured event for each transition, emitted after the commit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """`action` is the transition's name in `transitions.py`; `stale` writes changed nothing."""

    action: str
    build_id: str
    status: str = ""
    organization: str = ""
    queue: str = ""
    reason: str = ""
    claim: int = 0
    phases: tuple[tuple[str, int], ...] = ()
    """(phase, ms) of every attempt, with the event of a build's end."""
