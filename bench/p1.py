"""P1: a build through the service against the same toolchain commands and the push by hand. P13: Go against `ko build`.

Every round builds a revision that nobody has built, so the whole-build cache never answers; the caches of packages
and compilers are warm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench import ko, projects
from bench.byhand import Hand
from bench.pairs import Spread, differences, interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, if_long, p95_row, ratio_row, time_row
from bench.servers import KEPT, Place, Server, place
from builder.config import PREFIX
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

Found = tuple[tuple[Row, ...], tuple[str, ...]]
MOST_RATIO = 1.15
MOST_MS, MOST_P95_MS = 60, 150
SMALL_FACTOR = 3


def measure(rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place) -> Found:
    """All of P1."""
    rows: list[Row] = []
    notes: list[str] = []
    with opened() as here, here.server_apart("p1") as server:
        for project, label in (
            (projects.vendored(KEPT), "Go, a line of a vendored library"),
            (projects.read("python-service"), "Python with pandas, pillow, requests, a line of the handler"),
        ):
            rows += _long(here, server, project, label, rounds, notes)
        for name, label in (("go-small", "small Go service"), ("python-small", "Python handler alone")):
            rows += _small(here, server, projects.read(name), label, rounds * SMALL_FACTOR, notes)
    return tuple(rows), tuple(notes)


def measure_ko(rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place) -> Found:
    """What of P13 concerns Go."""
    notes: list[str] = []
    with opened() as here, here.server("p13") as server:
        rows = _against_ko(here, server, projects.read("go-service"), rounds, notes)
    return tuple(rows), tuple(notes)


def _hand(here: Place, server: Server, project: Project, arm: str) -> Hand:
    """Each arm has caches of its own: what one has compiled, the next one of the same round would only link."""
    folder = here.folder / f"hand-{project.name}-{arm}"
    return Hand(project, folder, here.registry, here.bases, server.settings.default_versions)


def _service(
    server: Server, project: Project, digests: dict[str, str], phases: dict[str, list[float]]
) -> Callable[[int], float]:
    def build(number: int) -> float:
        took, record = server.build(project, project.archive(number))
        if record.from_cache_of:
            raise RuntimeError("the cache answered a build that was to be measured")
        digests[f"digest {number}"] = record.image_digest
        for phase in record.phases:
            name = pb.BuildPhase.Name(phase.phase).removeprefix("BUILD_PHASE_")
            phases.setdefault(name, []).append(phase.duration_ms)
        return took

    return build


def _bare(hand: Hand, digests: dict[str, str]) -> Callable[[int], float]:
    def build(number: int) -> float:
        took = hand.bare(number)
        digests[f"digest {number}"] = hand.digest
        return took

    return build


def _long(here: Place, server: Server, project: Project, label: str, rounds: int, notes: list[str]) -> list[Row]:
    ours, theirs = dict[str, str](), dict[str, str]()
    arms = {
        "service": _service(server, project, ours, {}),
        "bare": _bare(_hand(here, server, project, "bare"), theirs),
        "typed": _hand(here, server, project, "typed").typed,
    }
    took = interleave(arms, rounds)
    bare, typed = ratios(took["service"], took["bare"]), ratios(took["service"], took["typed"])
    notes.append(_medians(label, took))
    notes.append(_same(label, ours, theirs))
    return [
        if_long(ratio_row(f"{label}: service / bare", spread(bare), bare, MOST_RATIO), took["bare"]),
        if_long(ratio_row(f"{label}: service / typed", spread(typed), typed, MOST_RATIO), took["typed"]),
    ]


def _small(here: Place, server: Server, project: Project, label: str, rounds: int, notes: list[str]) -> list[Row]:
    hand, ours, theirs = _hand(here, server, project, "bare"), dict[str, str](), dict[str, str]()
    phases: dict[str, list[float]] = {}
    took = interleave({"service": _service(server, project, ours, phases), "bare": _bare(hand, theirs)}, rounds)
    more = differences(took["service"], took["bare"])
    found: Spread = spread(more)
    notes.append(_medians(label, took))
    notes.append(_same(label, ours, theirs))
    parts = ", ".join(f"{name.lower()} {spread(values).median:.0f}" for name, values in phases.items())
    notes.append(f"{label}: the service's own phases, medians in ms: {parts}")
    return [
        time_row(f"{label}: service − bare", found, more, MOST_MS),
        p95_row(f"{label}: service − bare, 95th percentile", found, MOST_P95_MS),
    ]


def _against_ko(here: Place, server: Server, project: Project, rounds: int, notes: list[str]) -> list[Row]:
    other = ko.Ko(project, here.folder / "ko", here.registry, ko.installed())
    other.prepare(here.bases, "go")
    build = _service(server, project, {}, {})
    program = _program(here, server, project)
    changed = interleave(
        {"service": build, "program": lambda number: program(f"program-{number}"), "ko": other.build}, rounds
    )
    again = project.archive("same")
    server.build(project, again)
    other.build("same")
    same = interleave(
        {
            "service": lambda _: server.build(project, again)[0],
            "program": lambda _: program("same"),
            "ko": lambda _: other.build("same"),
        },
        rounds,
    )

    def cold(forget: Callable[[], None], arm: Callable[[int], float]) -> Callable[[int], float]:
        def run(number: int) -> float:
            forget()
            return arm(number)

        return run

    arms = {"service": cold(server.forget_compiler_cache, build), "ko": cold(other.forget_compiler_cache, other.build)}
    empty = interleave(arms, rounds, first=10_000, warm=0)
    rows = []
    for label, took, most in (
        ("Go service, one line changed: service / ko", changed, 0.7),
        ("Go service, unchanged: service / ko", same, 0.15),
        ("Go service, compiler cache empty, modules there: service / ko", empty, 1.0),
    ):
        for arm, what in (
            ("service", label),
            ("program", label.replace("service / ko", "`ignite-builder build` / ko")),
        ):
            if arm in took:
                found = ratios(took[arm], took["ko"])
                rows.append(ratio_row(what, spread(found), found, most))
        notes.append(_medians(label.partition(":")[0], took))
    return rows


def _program(here: Place, server: Server, project: Project) -> Callable[[str], float]:
    """`ignite-builder build` as a whole program, as `ko build` is one: with its start, reading and packing."""
    folder, home = here.folder / "program", here.folder / "program-home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {"HOME": str(home), PREFIX + "SERVER": server.url, PREFIX + "TOKEN": server.token}
    argv = (str(Path(sys.executable).parent / "ignite-builder"), "build", str(folder), "--name", project.name)

    def build(number: str) -> float:
        project.write(folder, number)
        began = time.perf_counter()
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"ignite-builder: {done.stderr}")
        return took

    return build


def _medians(label: str, took: dict[str, list[float]]) -> str:
    return f"{label}, medians: " + ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())


def _same(label: str, ours: dict[str, str], theirs: dict[str, str]) -> str:
    numbers = [name for name in ours if name in theirs]
    equal = sum(ours[name] == theirs[name] for name in numbers)
    return (
        f"{label}: the artifact of the service and of the bare build had the same digest in {equal} of {len(numbers)}"
    )
