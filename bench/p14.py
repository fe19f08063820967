"""P14: `ignite-builder build` without a server against `ko build`, both as whole programs; the price of a start."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import builder
from bench import ko, projects
from bench.pairs import interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, ratio_row
from bench.servers import KEPT, Place, place
from builder.config import PREFIX

PROGRAM = str(Path(sys.executable).parent / "ignite-builder")
MOST_SAME, MOST_CHANGED, MOST_START = 0.6, 0.9, 6.0
SPAWNS = 5
"""Runs of a program that takes milliseconds, for each value."""


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """All of P14. The program has its bytecode, as an installation writes it, whatever PYTHONDONTWRITEBYTECODE says."""
    compileall.compile_dir(Path(builder.__file__).parent, quiet=1)
    with opened() as here:
        project = projects.read("go-service")
        local = _program(here, project)
        other = ko.Ko(project, here.folder / "ko", here.registry, ko.installed())
        other.prepare(here.bases, "go")
        alone = ko.Ko(project, here.folder / "alone", here.registry, ko.installed())
        alone.prepare(here.bases, "go")
        changed = interleave(
            {
                "local": lambda number: local(f"local-{number}"),
                "ko": other.build,
                "compiler": lambda number: alone.compile(f"alone-{number}"),
            },
            rounds,
        )
        same = interleave({"local": lambda _: local("same"), "ko": lambda _: other.build("same")}, rounds)
    starts = interleave(
        {
            "version": lambda _: _spawn(PROGRAM, "--version"),
            "help": lambda _: _spawn(PROGRAM, "--help"),
            "bare": lambda _: _spawn(sys.executable, "-c", "pass"),
        },
        rounds,
    )
    rows, notes = [], []
    for label, took, arm, against, most in (
        ("Go service, unchanged: `ignite-builder build` without a server / ko", same, "local", "ko", MOST_SAME),
        ("Go service, one line changed: the same / ko", changed, "local", "ko", MOST_CHANGED),
        ("Go service, one line changed: its `go build` alone / ko", changed, "compiler", "ko", None),
        ("`ignite-builder --version` / `python -c pass`", starts, "version", "bare", MOST_START),
        ("`ignite-builder --help` / `python -c pass`", starts, "help", "bare", MOST_START),
    ):
        found = ratios(took[arm], took[against])
        rows.append(ratio_row(label, spread(found), found, most))
        medians = ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())
        notes.append(f"{label.partition(':')[0]}, medians: {medians}")
    return tuple(rows), tuple(dict.fromkeys(notes))


def _program(here: Place, project: Project) -> Callable[[str], float]:
    """`ignite-builder build` with a home and a node folder of its own; the registry and the base are ko's."""
    folder, home, node = (here.folder / name for name in ("local", "local-home", "local-node"))
    home.mkdir()
    node.mkdir(mode=0o755)
    for shared in ("bases", "toolchains"):
        (KEPT / shared).mkdir(parents=True, exist_ok=True)
        (node / shared).symlink_to(KEPT / shared)
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {
        "HOME": str(home),
        PREFIX + "NODE_DIR": str(node),
        PREFIX + "REGISTRY": here.registry,
        PREFIX + "ORGANIZATION": "bench",
        PREFIX + "BUILD_UID": str(next(here.uids)),
    }
    argv = (PROGRAM, "build", str(folder), "--name", project.name)

    def build(number: str) -> float:
        project.write(folder, number)
        began = time.perf_counter()
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"ignite-builder: {done.stderr}")
        return took

    return build


def _spawn(*argv: str) -> float:
    """Seconds of the fastest of a few runs."""
    took = []
    for _ in range(SPAWNS):
        began = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=True)
        took.append(time.perf_counter() - began)
    return min(took)
