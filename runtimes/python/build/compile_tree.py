"""Compile all modules below a folder so that the same sources give the same bytes; their code names the image's path.

    compile_tree.py NUMBER FOLDER PLACE

A fixed number of processes, whatever the number of processors, share the sorted files in a fixed way: marshal's back
references depend on what was compiled before in the same process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import cache_from_source

from compile_bytecode import modules, write_bytecode

PARTITIONS = 4
IN_THE_WAY = (FileExistsError, NotADirectoryError, IsADirectoryError)
"""A package has something else where its bytecode belongs."""


def compile_tree(root: str | os.PathLike[str], place: str) -> int:
    """Write the bytecode of all modules below `root`, which the image has as `place`; how many modules there are.

    Raises SystemExit where bytecode cannot be written: a full disk must not leave a tree that is compiled in part.
    """
    count = len(modules(os.fspath(root)))
    # Not isolated (-I), which ignores the seed of hashes.
    argv = [sys.executable, "-S", "-B", os.path.abspath(__file__)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    running = [
        subprocess.Popen([*argv, str(number), os.fspath(root), place], env=environment)
        for number in range(min(PARTITIONS, count))
    ]
    if any([process.wait() for process in running]):
        raise SystemExit("bytecode could not be written")
    return count


def compile_partition(number: int, root: str, place: str) -> None:
    """Compile every file whose turn has this number. What does not compile is left out: a template, or code of another
    Python. What must compile was compiled by the check."""
    for name in modules(root)[number::PARTITIONS]:
        source = os.path.join(root, name)
        if not os.access(source, os.R_OK):
            continue
        try:
            write_bytecode(source, f"{place}/{name}", cache_from_source(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError, *IN_THE_WAY):
            continue


if __name__ == "__main__":
    compile_partition(int(sys.argv[1]), sys.argv[2], sys.argv[3])
