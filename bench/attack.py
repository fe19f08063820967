"""A node under attack: the time of an honest build while another slot reads hostile text, against that without."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench import projects
from bench.pairs import interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, ratio_row
from bench.servers import Place, Server, place
from builder.client.api import Api
from builder.client.patient import NullWatcher, PatientApi, SystemClock
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import tar_of

MOST_RATIO = 1.2
HOSTILE = (
    {"handler.py": "", "requirements.txt": "requests" + " " * 20_000 + "!"},
    {"handler.py": "", "requirements.txt": "a" * 300_000},
    {"handler.py": "", "pyproject.toml": "a." * 20_000 + "a=1"},
    {"handler.py": "", "pyproject.toml": "a=" + "[" * 100_000},
    {"go.mod": "module x\n\ngo 1.24\n", "main.go": "package main\n" + 'import "fmt"\n' * 300_000},
)
"""Inputs of a review that took a node's slots for minutes, or its memory."""


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Rounds with and without the attack take turns; each builds a revision that nobody has built."""
    project = projects.read("python-small")
    with opened() as here, here.server("attack", slots=2) as server:
        ended: list[str] = []

        def attacked(number: int) -> float:
            with attacker(server, ended):
                return _build(server, project, number)

        took = interleave({"attacked": attacked, "alone": lambda number: _build(server, project, -number)}, rounds)
    found = ratios(took["attacked"], took["alone"])
    reasons = ", ".join(f"{ended.count(one)} {one}" for one in sorted(set(ended)))
    medians = ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())
    row = ratio_row("Python handler alone: beside hostile sources / alone", spread(found), found, MOST_RATIO)
    return (row,), (f"medians: {medians}", f"the hostile builds ended: {reasons}")


def _build(server: Server, project: Project, number: int) -> float:
    return server.build(project, project.archive(number))[0]


@contextmanager
def attacker(server: Server, ended: list[str]) -> Iterator[None]:
    """One hostile build after the other, from the first one's claim on; the last one's end is waited for."""
    over, began = threading.Event(), threading.Event()

    def attack() -> None:
        api = Api(server.running.url, server.running.token)
        try:
            while not over.is_set():
                for files in HOSTILE:
                    request = pb.CreateBuildRequest(name="hostile", no_cache=True)
                    request.code.compile.archive = tar_of(files)
                    created: pb.CreateBuildResponse = api.call("CreateBuild", request)
                    for _ in PatientApi(api, SystemClock(), NullWatcher()).follow(created.build_id):
                        began.set()
                    record: pb.Build = api.call("GetBuild", pb.GetBuildRequest(build_id=created.build_id))
                    ended.append(record.failure.reason or pb.BuildStatus.Name(record.status))
                    if over.is_set():
                        return
        finally:
            began.set()
            api.close()

    thread = threading.Thread(target=attack)
    thread.start()
    began.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()
