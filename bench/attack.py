"""A node under attack: the time of an honest build while another slot reads hostile text, against that without."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager

from bench import projects
from bench.pairs import interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, ratio_row
from bench.servers import Place, Server, place
from builder.client.api import Api
from builder.client.patient import NullWatcher, PatientApi, SystemClock
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import hostile_pipelines
from tests.build_fixtures import tar_of

MOST_RATIO = 1.2
HOSTILE = (
    {"handler.py": "", "requirements.txt": "requests" + " " * 20_000 + "!"},
    {"handler.py": "", "requirements.txt": "a" * 300_000},
    {"handler.py": "", "pyproject.toml": "a." * 20_000 + "a=1"},
    {"handler.py": "", "pyproject.toml": "a=" + "[" * 100_000},
)
"""Inputs of a review that took a node's slots for minutes, or its memory, by their reading alone."""
READING, STREAM = "beside a reader that never ends", "beside a stream of hostile sources"


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Rounds with and without each attack take turns; each builds a revision that nobody has built."""
    project = projects.read("python-small")
    with opened() as here, here.server("attack", slots=2, pipelines=(hostile_pipelines.__name__,)) as server:
        ended: list[str] = []
        archives = tuple(map(tar_of, HOSTILE))  # an attacker packs on a machine of his own
        spins = tar_of({"attack.txt": hostile_pipelines.spin.__name__})

        def reading(number: int) -> float:
            with reader_busy(server, spins):
                return _build(server, project, f"{number}-reading")

        def attacked(number: int) -> float:
            with attacker(server, archives, ended):
                return _build(server, project, f"{number}-attacked")

        def alone(number: int) -> float:
            return _build(server, project, f"{number}-alone")

        took = interleave({READING: reading, STREAM: attacked, "alone": alone}, rounds)
    rows = []
    for name in (READING, STREAM):
        found = ratios(took[name], took["alone"])
        rows.append(ratio_row(f"Python handler alone: {name} / alone", spread(found), found, MOST_RATIO))
    reasons = ", ".join(f"{ended.count(one)} {one}" for one in sorted(set(ended)))
    medians = ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())
    return tuple(rows), (f"medians: {medians}", f"the builds of the stream ended: {reasons}")


def _build(server: Server, project: Project, revision: str) -> float:
    return server.build(project, project.archive(revision))[0]


@contextmanager
def reader_busy(server: Server, archive: bytes) -> Iterator[None]:
    """A hostile build whose reader works without an end, from its plan on; it is cancelled, and its end waited for."""
    api = Api(server.url, server.token)
    try:
        created = _submitted(api, archive)
        lines = PatientApi(api, SystemClock(), NullWatcher()).follow(created)
        while next(lines).phase != pb.BUILD_PHASE_DETECT:  # its only line; the plan follows at once
            pass
        yield
        api.call("CancelBuild", pb.CancelBuildRequest(build_id=created))
        for _ in lines:
            pass
    finally:
        api.close()


@contextmanager
def attacker(server: Server, archives: Sequence[bytes], ended: list[str]) -> Iterator[None]:
    """One hostile build after the other, from the first one's claim on; the last one's end is waited for."""
    over, began = threading.Event(), threading.Event()
    failed: list[Exception] = []

    def attack() -> None:
        try:
            with closing(Api(server.url, server.token)) as api:
                for archive in itertools.cycle(archives):
                    created = _submitted(api, archive)
                    for _ in PatientApi(api, SystemClock(), NullWatcher()).follow(created):
                        began.set()
                    record: pb.Build = api.call("GetBuild", pb.GetBuildRequest(build_id=created))
                    ended.append(record.failure.reason or pb.BuildStatus.Name(record.status))
                    if over.is_set():
                        return
        except Exception as error:
            failed.append(error)
        finally:
            began.set()

    thread = threading.Thread(target=attack)
    thread.start()
    began.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:  # an honest build was measured beside nothing
        raise failed[0]


def _submitted(api: Api, archive: bytes) -> str:
    """The id of a hostile build."""
    request = pb.CreateBuildRequest(name="hostile", no_cache=True)
    request.code.compile.archive = archive
    created: pb.CreateBuildResponse = api.call("CreateBuild", request)
    return created.build_id
