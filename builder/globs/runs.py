"""Runs of tokens between those of a kind, for every dialect of patterns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def runs(tokens: Sequence[T], by: T) -> list[list[T]]:
    """The runs of tokens between those that are `by`, empty ones too."""
    out: list[list[T]] = [[]]
    for token in tokens:
        if token == by:
            out.append([])
        else:
            out[-1].append(token)
    return out
