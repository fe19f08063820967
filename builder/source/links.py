"""Where symbolic links lead, through each other: by text alone `a/b/l -> ../..` hides that `a/b/l/..` is outside.

Works on the archive's own list of links; reads no disk.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.source.entry import ArchiveEntry, shown, unsafe

HOPS = 40  # as Linux (path_resolution(7), ELOOP)
STEPS = 1_000_000  # over all links; 50,000 honest ones of 6 parts need 300,000


def judge_links(links: Mapping[str, ArchiveEntry], root: str = "") -> None:
    """Refuse a link that resolves outside of `root`, or that turns in a circle. Raises `BuildError` ArchiveUnsafe.

    `links` maps each link's path to its entry; `root` is "" or the one folder that becomes the root.
    """
    targets = {path: entry.target for path, entry in links.items()}
    steps = STEPS
    for path, entry in links.items():
        fault, steps = _fault(targets, root, path, steps)
        if fault:
            fault = f"outside of the {entry.within}" if fault == "outside" else fault
            raise unsafe(entry, f'links to "{shown(entry.target)}", {fault}')


def _fault(targets: Mapping[str, str], root: str, path: str, steps: int) -> tuple[str, int]:
    """("" or what is wrong, the steps that are left)."""
    floor = 1 if root else 0
    at = path.split("/")[:-1]
    todo = targets[path].split("/")[::-1]
    hops = 0
    while todo:
        part = todo.pop()
        steps -= 1
        if steps < 0 or len(at) > 256:
            return "through too many other links", steps
        if part in ("", "."):
            continue
        if part == "..":
            if len(at) <= floor:
                return "outside", steps
            at.pop()
            continue
        at.append(part)
        inner = targets.get("/".join(at))
        if inner is not None:
            hops += 1
            if hops > HOPS:
                return "in a circle", steps
            at.pop()
            todo += inner.split("/")[::-1]
    return "", steps
