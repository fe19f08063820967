"""Servers of ASGI and WSGI applications: those that a source may bring, and the one of ours where it brings none. Pure.

Which of them runs is decided where the artifact starts (`runtimes/python/front/serve_app.py`): a server may come with a
package that nobody named, as uvicorn does with `fastapi[standard]`.
"""

from __future__ import annotations

from builder.pipelines.python.applications import ASGI, WSGI

SERVERS = {
    ASGI: ("uvicorn", "hypercorn", "granian", "daphne"),
    WSGI: ("gunicorn", "waitress", "granian", "cheroot"),
}
"""Kind → the packages that serve it, in the order of preference; the front has the same."""

_PINNED = {
    ASGI: (
        "uvicorn==0.54.0 --hash=sha256:505bdb0f318731d45f1f712071fc781a8981f6847a31c902c9f5e652d4f67faf",
        "click==8.5.1 --hash=sha256:8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37",
        "h11==0.16.0 --hash=sha256:63cf8bbe7522de3bf65932fda1d9c2772064ffb3dae62d55932da54b31cb6c86",
    ),
    WSGI: ("waitress==3.0.2 --hash=sha256:c56d67fd6e87c2ee598b76abdd4e96cfad1f24cacdea5078d382b1f9d7b5ed2e",),
}
"""The server of ours, whole: pure Python, in few packages, by hash."""


def bundled(kind: str, installed: frozenset[str]) -> tuple[str, ...]:
    """The requirements of our own server for a kind; none where a package that serves it is known to be there."""
    kinds = (kind,) if kind in _PINNED else (ASGI, WSGI)
    return tuple(line for one in kinds if installed.isdisjoint(SERVERS[one]) for line in _PINNED[one])
