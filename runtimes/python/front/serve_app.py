"""Serve an ASGI or WSGI application of the source on $PORT (80), at 0.0.0.0.

    serve_app.py asgi|wsgi|app MODULE:ATTRIBUTE[()]

The server is the first of `SERVERS` that the artifact's own packages bring, else the one of ours in `BUNDLED`. It
runs in this process, as `python -m SERVER` would. `app`: importing it shows which of both it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import runpy
import signal
import sys
from typing import Any

HERE = os.path.dirname(os.path.realpath(__file__))
BUNDLED = "/app/server"
SERVERS = {
    "asgi": ("uvicorn", "hypercorn", "granian", "daphne"),
    "wsgi": ("gunicorn", "waitress", "granian", "cheroot"),
}


def words(server: str, kind: str, target: str, port: str) -> list[str]:
    """The arguments of a server. `target()` is a factory, each server's own way."""
    name, is_factory = target.removesuffix("()"), target.endswith("()")
    if server == "uvicorn":
        return ["--host", "0.0.0.0", "--port", port, *(["--factory"] if is_factory else []), name]
    if server == "hypercorn":
        return ["--bind", f"0.0.0.0:{port}", target]
    if server == "granian":
        options = ["--host", "0.0.0.0", "--port", port, "--interface", kind]
        return [*options, *(["--factory"] if is_factory else []), name]
    if server == "daphne":
        return ["-b", "0.0.0.0", "-p", port, name]
    if server == "gunicorn":
        return ["--bind", f"0.0.0.0:{port}", target]
    if server == "waitress":
        return [f"--listen=0.0.0.0:{port}", *(["--call"] if is_factory else []), name]
    return ["--bind", f"0.0.0.0:{port}", name]


def kind_of(target: str) -> str:
    """Whether what a name means is called as ASGI or as WSGI (as uvicorn distinguishes them)."""
    module, _, name = target.removesuffix("()").partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if target.endswith("()"):
        found = found()
    if inspect.isclass(found):
        return "asgi" if hasattr(found, "__await__") else "wsgi"
    call = found if inspect.isroutine(found) else type(found).__call__
    return "asgi" if inspect.iscoroutinefunction(call) else "wsgi"


def server_for(kind: str, target: str) -> str:
    """The first server that can be imported. Daphne and cheroot call no factory."""
    fitting = [name for name in SERVERS[kind] if not (target.endswith("()") and name in ("daphne", "cheroot"))]
    found = next((name for name in fitting if importlib.util.find_spec(name)), "")
    if not found:
        sys.path.append(BUNDLED)
        found = next((name for name in fitting if importlib.util.find_spec(name)), "")
    if not found:
        raise SystemExit(f"no {kind.upper()} server is in the image; one of {', '.join(fitting)} serves it")
    return found


def has_control_socket() -> bool:
    """Whether this gunicorn (25.1 or newer) would make a socket in the home folder."""
    return hasattr(importlib.import_module("gunicorn.config"), "ControlSocketDisable")


def main(kind: str, target: str) -> None:
    """Become the server."""
    sys.path[:] = [*(path for path in sys.path if os.path.realpath(path or ".") != HERE), HERE]
    kind = kind_of(target) if kind == "app" else kind
    server = server_for(kind, target)
    if server == "waitress":  # it drains when Python exits, and has no handler of its own for TERM
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    more = ["--no-control-socket"] if server == "gunicorn" and has_control_socket() else []  # the root is read-only
    sys.argv = [server, *more, *words(server, kind, target, os.environ.get("PORT") or "80")]
    runpy.run_module(server, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
