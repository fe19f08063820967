"""Programs of the framework Rocket, which reads its port from a variable of its own and never from $PORT. Pure.

What starts such a program is a launcher that sets ROCKET_PORT. Rocket.toml is weaker than a variable; an application
whose own code merges a port into its configuration stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.pipelines.rust.config import TRIPLES
from builder.pipelines.rust.inputs import Source
from builder.pipelines.rust.manifest import Package, Project, below, table

CRATE = "rocket"
ENV = (("ROCKET_ADDRESS", "0.0.0.0"),)
"""Rocket's own default is loopback, where nobody reaches it."""
VARIABLE = "ROCKET_PORT=$PORT"
"""What a launcher sets, and no config of an image can: one variable to the value of another."""


def serves(source: Source) -> bool:
    """Whether the program may serve by Rocket: it depends on it, or a package of the source that it takes by path
    does. With a handler it is our front that serves."""
    return source.triple == TRIPLES["native"] and not source.entry.handler and _depends(source.project)


def _depends(project: Project) -> bool:
    by_folder = {one.folder: one for one in project.packages}
    waiting, seen = [project.package], {project.package.folder}
    while waiting:
        for name, folder in _taken(waiting.pop(), project):
            if name == CRATE:
                return True
            if folder in by_folder and folder not in seen:
                seen.add(folder)
                waiting.append(by_folder[folder])
    return False


def _taken(package: Package, project: Project) -> Iterator[tuple[str, str]]:
    """(name of the crate, its folder in the source or "") of what the code of a package is compiled with."""
    shared = table(table(project.top, "workspace"), "dependencies")
    targets = table(package.table, "target")
    for part in (package.table, *(table(targets, target) for target in targets)):
        for key, value in table(part, "dependencies").items():
            rows: Mapping[str, Any] = value if isinstance(value, dict) else {}
            at = package.folder
            if rows.get("workspace") is True:
                rows, at = table(shared, key), project.root
            path = rows.get("path")
            yield str(rows.get("package", key)), below(at, path) if isinstance(path, str) else ""
