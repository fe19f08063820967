"""A history as its seed decides it: builds, cancels and faults in order. Pure: two calls give the same history.

Each step waits for a number of transitions since the step before it, so a fault meets the line at a state and not at a
time. What a spell lasts is part of the history.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ORGANIZATIONS = ("acme", "beta")
NAMES = ("app", "site")
TAGS = (("latest",), ("latest", "stable"), ("stable",))
BUILDS, FAULTS, CANCELS = 14, 9, 2
WORKERS = 2
DUPLICATES = 0.3
LABELS = ("after-claim", "in-step", "mid-build", "after-push")

# Kind → weight.
SCRIPTS = {"quick": 5, "slow": 5, "failing": 2, "chatty": 2, "stubborn": 2, "python": 2}
WORKER_FAULTS = {
    "kill-child": 3,
    "kill-worker": 3,
    "kill-parent": 1,
    "pause-worker": 2,
    "pause-child": 2,
    "drain-worker": 1,
}
API_FAULTS = {"kill-api": 3, "pause-api": 2, "stop-api": 1}
REDIS_FAULTS = {"kill-redis": 2, "pause-redis": 1, "flush": 2, "drop-hints": 2, "double-hints": 2, "garbage": 1}
REGISTRY_FAULTS = {
    "kill-registry": 2,
    "registry-503": 2,
    "registry-429": 1,
    "registry-reset": 1,
    "registry-hang": 1,
    "registry-lost": 2,
}
DATABASE_FAULTS = {"kill-database": 3, "pause-database": 2, "end-sessions": 2}
SEEDS = (1, 2, 3, 4, 5, 6, 7, 8)
"""The seeds of `make test`; together they meet every kind of fault."""
SPELL_S = (0.2, 6.0)
"""From below a heartbeat to two leases."""


@dataclass(frozen=True, kw_only=True)
class Submit:
    """A build: builds of one `mark` and `script` have the same source. `times`: how often its request is sent."""

    number: int
    organization: str
    name: str
    tags: tuple[str, ...]
    script: str
    mark: int
    times: int
    no_cache: bool
    tailed: bool


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """A cancel of the build that was submitted as `number`."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`target` picks a part or one of its processes, modulo how many there are."""

    kind: str
    target: int
    spell_s: float


Step = Submit | Cancel | Fault


@dataclass(frozen=True, kw_only=True)
class History:
    """`steps` with the transitions to await before each. `worker_labels`, `api_label`: where a part kills itself."""

    seed: int
    postgres: bool
    apis: int
    worker_labels: tuple[str, ...]
    api_label: str
    steps: tuple[tuple[int, Step], ...]


def history(seed: int) -> History:
    """The history of a seed."""
    draw = random.Random(seed)
    postgres = draw.random() < 0.4
    submits: list[Submit] = []
    for number in range(BUILDS):
        again = draw.choice(submits) if submits and draw.random() < DUPLICATES else None
        submits.append(
            Submit(
                number=number,
                organization=again.organization if again else draw.choice(ORGANIZATIONS),
                name=draw.choice(NAMES),
                tags=draw.choice(TAGS),
                script=again.script if again else _weighed(draw, SCRIPTS),
                mark=again.mark if again else number,
                times=draw.choice((1, 1, 2)),
                no_cache=draw.random() < 0.15,
                tailed=draw.random() < 0.25,
            )
        )
    kinds = [WORKER_FAULTS, WORKER_FAULTS, API_FAULTS, REDIS_FAULTS, REGISTRY_FAULTS]
    kinds += [DATABASE_FAULTS] if postgres else []
    faults = [
        Fault(
            kind=_weighed(draw, draw.choice(kinds)), target=draw.randrange(4), spell_s=round(draw.uniform(*SPELL_S), 2)
        )
        for _ in range(FAULTS)
    ]
    mixed: list[Step] = [*submits, *faults]
    draw.shuffle(mixed)
    for _ in range(CANCELS):  # after the submit that it cancels
        number = draw.randrange(BUILDS)
        place = next(at for at, step in enumerate(mixed) if isinstance(step, Submit) and step.number == number)
        mixed.insert(draw.randrange(place + 1, len(mixed) + 1), Cancel(number=number))
    return History(
        seed=seed,
        postgres=postgres,
        apis=draw.choice((1, 2)) if postgres else 1,  # SQLite is one process's
        worker_labels=tuple(draw.choice((*LABELS, "", "")) for _ in range(WORKERS)),
        api_label=draw.choice(("finalize", "", "")),
        steps=tuple((draw.choice((0, 0, 1, 3, 5, 8)), step) for step in mixed),
    )


def _weighed(draw: random.Random, kinds: dict[str, int]) -> str:
    return draw.choices(list(kinds), list(kinds.values()))[0]
