"""Settle the claims of processes that are gone: send the lines of their spools, then hand the builds back."""

from __future__ import annotations

from pathlib import Path

from builder.claims.calls import Calls, Refused
from builder.claims.requests import append_request, hand_back_request
from builder.claims.spool import BATCH_LINES, Line, forget, forget_dead_owners, left_behind
from builder.logs import logger

log = logger("claims")


def send_left_behind(calls: Calls, folder: Path) -> int:
    """Settle the spools below `folder` that no live process owns. Returns how many were settled.

    A refused spool stays for the next round and delays no other. Raises `Unanswered`.
    """
    settled = 0
    for build_id, claim, lines, path in left_behind(folder):
        try:
            if not _send_all(calls, build_id, claim, lines):
                continue
            calls.hand_back(hand_back_request(build_id, claim, "lost"))
        except Refused as error:
            log.warning("left lines refused", action="left-lines-refused", build_id=build_id, error=str(error))
            continue
        settled += 1
        forget(path)
    forget_dead_owners(folder)
    return settled


def _send_all(calls: Calls, build_id: str, claim: int, lines: tuple[Line, ...]) -> bool:
    """Send until every line is acknowledged or the claim is stale. False: the control side makes no progress."""
    start = 0
    while start < len(lines):
        answer = calls.append_log(append_request(build_id, claim, lines[start : start + BATCH_LINES]))
        if answer.stale:
            return True
        if answer.kept_until_index <= start:
            log.warning("left lines not kept", action="left-lines-not-kept", build_id=build_id, claim=claim)
            return False
        start = answer.kept_until_index
    return True
