"""The notices of a connection that breaks and comes back. Pure."""

from __future__ import annotations


def retry_text(seconds: int, sequence: int) -> str:
    """The notice of a lost connection, or of one that was never there."""
    if sequence == 0:
        return f"no connection; trying again in {seconds}s"
    return f"connection lost after line {sequence}; trying again in {seconds}s"


def again_text(sequence: int) -> str:
    """The notice of a connection that is back."""
    return f"connected again at line {sequence}; none lost, none doubled"
