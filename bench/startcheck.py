"""The start check: a build whose artifact is started beside its push against the same build without that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from bench import projects
from bench.pairs import differences, interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, if_long, ratio_row, time_row
from bench.servers import KEPT, Place, Server, place

MOST_RATIO = 1.02


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Two servers, each with its own caches; every round builds a revision that neither has built."""
    rows: list[Row] = []
    notes: list[str] = []
    with (
        opened() as here,
        here.server("checked", start_check="warn") as checked,
        here.server("unchecked", start_check="off") as unchecked,
    ):
        for project, label in (
            (projects.vendored(KEPT), "Go, a line of a vendored library"),
            (projects.read("python-service"), "Python with pandas, pillow, requests, a line of the handler"),
            (projects.read("python-small"), "Python handler alone"),
        ):
            arms = {"checked": _arm(checked, project), "unchecked": _arm(unchecked, project)}
            took = interleave(arms, rounds)
            found = ratios(took["checked"], took["unchecked"])
            rows.append(if_long(ratio_row(f"{label}: warn / off", spread(found), found, MOST_RATIO), took["unchecked"]))
            more = differences(took["checked"], took["unchecked"])
            rows.append(time_row(f"{label}: warn − off", spread(more), more, None))
            medians = ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())
            notes.append(f"{label}, medians: {medians}")
    return tuple(rows), tuple(notes)


def _arm(server: Server, project: Project) -> Callable[[int], float]:
    return lambda number: server.build(project, project.archive(number))[0]
