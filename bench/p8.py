"""P8: an identical rebuild is answered from the whole-build cache: how long, how many compilers, how many bytes.

Compilers run as the node's build users; the kernel tells of every execve while the rebuild runs, and those of these
users are counted. Bytes are counted by a meter between the service and the registry. Both also count a first build, to
show that they see what they should.
"""

from __future__ import annotations

from bench import execs, meter, projects
from bench.pairs import Spread, interleave, spread
from bench.projects import Project
from bench.results import MET, SHORT, Row, count_row
from bench.servers import KEPT, Server, place

Found = tuple[tuple[Row, ...], tuple[str, ...]]
MOST_PART = 0.05


def measure(rounds: int) -> Found:
    """Times against the registry itself; counts in a second server behind the meter."""
    rows: list[Row] = []
    notes: list[str] = []
    both = (
        (projects.vendored(KEPT), "Go, a line of a vendored library"),
        (projects.read("python-service"), "Python with pandas, pillow, requests"),
        (projects.read("rust-service"), "Rust with axum, regex, serde"),
        (projects.read("deno-service"), "Deno with hono, zod"),
    )
    with place() as here:
        with here.server("p8") as server:
            for project, label in both:
                row, note = _timed(server, project, label, rounds)
                rows.append(row)
                notes.append(note)
        with meter.before(here.registry) as counting, here.server("p8-counted", registry=counting.address) as server:
            for project, label in both:
                rows += _counted(server, counting, project, label, rounds, notes)
    return tuple(rows), tuple(notes)


def _timed(server: Server, project: Project, label: str, rounds: int) -> tuple[Row, str]:
    took: dict[str, list[float]] = {"first": [], "again": []}
    for number in range(rounds + 1):
        archive = project.archive(number)
        first, _ = server.build(project, archive)
        again, record = server.build(project, archive)
        if not record.from_cache_of:
            raise RuntimeError("an identical rebuild was not answered from the cache")
        if number:
            took["first"].append(first)
            took["again"].append(again)
    parts = [again / first for again, first in zip(took["again"], took["first"], strict=True)]
    found: Spread = spread(parts)
    row = Row(
        what=f"{label}: identical rebuild / first",
        target=f"≤ {MOST_PART:.0%}",
        measured=f"{found.median:.1%}",
        spread=f"{found.least:.1%}–{found.most:.1%}, quartiles {found.low:.1%}–{found.high:.1%}",
        pairs=found.count,
        verdict=MET if found.median <= MOST_PART else SHORT,
        raw=tuple(parts),
    )
    medians = f"first {spread(took['first']).median:.3f} s, again {spread(took['again']).median * 1000:.0f} ms"
    return row, f"{label}, medians with warm caches: {medians}"


def _counted(
    server: Server, counting: meter.Meter, project: Project, label: str, rounds: int, notes: list[str]
) -> list[Row]:
    users = range(server.settings.build_uid, server.settings.build_uid + server.settings.slots + 1)
    server.build(project, project.archive("warm"))
    counting.take()
    with execs.counted() as first:
        server.build(project, project.archive("counted"))
    sent, requests = counting.take()
    seen = ", ".join(f"{number} {method}" for method, number in sorted(requests.items()))
    notes.append(
        f"{label}: the same counters over the first build saw {first.of(users)} programs start and {sent:,} "
        f"blob bytes go up ({seen})"
    )
    if not first.of(users) or not sent:
        raise RuntimeError("the counters are blind: a first build starts compilers and uploads a layer")
    archive = project.archive("counted")
    with execs.counted() as again:
        interleave({"again": lambda _: server.build(project, archive)[0]}, rounds, warm=0)
    sent, requests = counting.take()
    if again.lost or again.unknown:
        lost = (
            "the kernel dropped events" if again.lost else f"{again.unknown} programs were gone before they were seen"
        )
        notes.append(f"{label}: {lost} during the rebuilds; the count of processes is a lower bound")
    seen = ", ".join(f"{number} {method}" for method, number in sorted(requests.items())) or "no request at all"
    return [
        count_row(
            f"{label}: processes of the build users in all rebuilds",
            again.of(users),
            0,
            rounds,
            complete=not again.lost and not again.unknown,
        ),
        count_row(f"{label}: blob bytes uploaded in all rebuilds", sent, 0, rounds, seen),
    ]
