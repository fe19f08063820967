"""Probes of the edges: what a hostile tenant, node, step or writer to Redis tries, each with its verdict.

A module is an area. Each function tries one thing against the running service and returns what came of it, which
tests/e2e/test_edge_probes.py compares with the verdict that the table has. Walls of the sandbox itself are
tests/probes/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

World = TypeVar("World")
PROBES: list[Probe] = []


@dataclass(frozen=True)
class Probe:
    """`attack` takes the running service (`world.World`) and returns what came of it."""

    area: str
    name: str
    verdict: str
    attack: Callable[..., str]

    def __str__(self) -> str:
        return f"{self.area}.{self.name}"


def probe(verdict: str) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    """Enter a function as a probe that must end with this verdict."""

    def enter(attack: Callable[[World], str]) -> Callable[[World], str]:
        area = attack.__module__.rpartition(".")[2]
        PROBES.append(Probe(area, attack.__name__, verdict, attack))
        return attack

    return enter
