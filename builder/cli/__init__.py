"""`ignite-builder`: the command line. What it looks like and promises is docs/cli.md."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from builder.config import Loaded

__all__ = ["main"]

SERVERS = {"celery", "uvicorn"}


def main() -> int:
    """The console script: hands the world to `builder.cli.program.run_program` and ends the process.

    The interpreter's own end takes 80 ms, to free what the kernel frees anyway. Only where servers ran does it run
    what they registered for it.
    """
    code = run()
    if not SERVERS & sys.modules.keys():
        with contextlib.suppress(OSError, ValueError):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(code)
    return code


def run() -> int:
    """The program's exit code. Nothing is collected until a command that lives longer asks for it.

    httpx imports a command line of its own where rich is installed, 60 ms of it. Without that module it is what it is
    without its extra `cli`. A local build defines 240 dataclasses, whose methods are compiled when they are called.
    """
    gc.disable()
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from builder.cli.methods import compile_when_called

    compile_when_called()
    from builder.cli.program import run_program

    stdin = sys.stdin.buffer if sys.stdin is not None else io.BytesIO()
    return run_program(sys.argv[1:], os.environ, _lenient(sys.stdout), _lenient(sys.stderr), stdin, _load)


def _load(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Loaded:
    """The settings; their module is imported by the first command that asks for one."""
    from builder import config

    return config.load(flags, environ)


def _lenient(stream: TextIO | None) -> TextIO:
    """What a stream's encoding cannot hold is written as an escape instead of ending the program. Whoever closed a
    stream before the start (`>&-`) wants nothing of it."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
