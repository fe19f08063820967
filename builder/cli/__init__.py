"""`ignite-builder`: the command line. What it looks like and promises is docs/cli.md."""

from __future__ import annotations

import inspect
import io
import sys
from typing import TextIO

__all__ = ["main"]


def main() -> int:
    """The console script: hands the world to `builder.cli.program.run_program` and answers the exit code."""
    from builder import config
    from builder.cli.program import run_program

    # The environment is read in builder/config.py only; this is the mapping that its `load` reads.
    environ = inspect.signature(config.load).parameters["environ"].default
    return run_program(sys.argv[1:], environ, _lenient(sys.stdout), _lenient(sys.stderr), sys.stdin.buffer, config.load)


def _lenient(stream: TextIO) -> TextIO:
    """What a stream's encoding cannot hold is written as an escape instead of ending the program."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
