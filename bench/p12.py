"""P12: the same source gives the same digest: again and again, on two nodes, on one core and on two."""

from __future__ import annotations

import os

from bench import projects
from bench.projects import Project
from bench.results import MET, SHORT, Row
from bench.servers import Server, on_cores, place

Found = tuple[tuple[Row, ...], tuple[str, ...]]
SOURCES = (("go-service", "Go with cel-go and goldmark"), ("python-service", "Python with pandas, pillow, requests"))


def measure(rounds: int) -> Found:
    """Two nodes, then a third on one core; each has its own folders, users and caches."""
    found: dict[str, dict[str, list[str]]] = {name: {} for name, _ in SOURCES}
    cores = sorted(os.sched_getaffinity(0))
    with place() as here:
        for node, used in (("node-a", cores), ("node-b", cores), ("one-core", cores[:1])):
            with on_cores(set(used)), here.server(node) as server:
                for name, _ in SOURCES:
                    found[name][node] = _digests(server, projects.read(name), rounds)
    rows = tuple(_row(label, found[name], rounds) for name, label in SOURCES)
    counts = f"{len(cores)} core{'s' if len(cores) != 1 else ''}"
    return rows, (
        f"node-a and node-b ran on {counts}, the third node on 1; the first build on each found empty caches",
    )


def _digests(server: Server, project: Project, rounds: int) -> list[str]:
    archive = project.archive("p12")
    digests = []
    for _ in range(rounds):
        _, record = server.build(project, archive, no_cache=True)
        if record.from_cache_of:
            raise RuntimeError("no_cache was answered from the cache")
        digests.append(record.image_digest)
    return digests


def _row(label: str, by_node: dict[str, list[str]], rounds: int) -> Row:
    digests = [digest for found in by_node.values() for digest in found]
    different = len(set(digests))
    return Row(
        what=f"{label}: {rounds} builds on each of {len(by_node)} nodes",
        target="1 digest",
        measured=f"{different} digest{'s' if different != 1 else ''}",
        spread=f"{len(digests)} builds; {digests[0][:19]}…",
        pairs=len(digests),
        verdict=MET if different == 1 else SHORT,
    )
