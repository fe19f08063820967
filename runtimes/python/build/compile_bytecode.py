"""Compile modules so that the same sources give the same bytes; also the script that compiles a base image's library.

    compile_bytecode.py OUT FOLDER...

Files are unchecked-hash (PEP 552): nothing of a clock is in them and nothing is looked up when they are loaded. Their
code names the path in the image. The files are sorted and one process compiles them in that order, since marshal's
back references depend on what was compiled before; the caller fixes PYTHONHASHSEED.
"""

from __future__ import annotations

import marshal
import os
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash

UNCHECKED_HASH = (0b01).to_bytes(4, "little")
NOT_COMPILABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)


def write_bytecode(source: str, shown: str, target: str) -> None:
    """Compile the file `source`, which the image has as `shown`, into the file `target`; its folder is made.

    Raises one of `NOT_COMPILABLE`.
    """
    with open(source, "rb") as file:
        data = file.read()
    code = compile(data, shown, "exec", dont_inherit=True)
    body = MAGIC_NUMBER + UNCHECKED_HASH + source_hash(data) + marshal.dumps(code)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(body)


def modules(root: str) -> list[str]:
    """Paths below `root` of its .py files, sorted; links are not followed."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and os.path.isfile(path) and not os.path.islink(path):
                found.append(os.path.relpath(path, root))
    return sorted(found, key=lambda path: path.split(os.sep))


def main(out: str, folders: list[str]) -> None:
    """Bytecode of all that compiles in `folders`, at the same paths below `out`."""
    for folder in folders:
        for name in modules(folder):
            path = os.path.join(folder, name)
            try:
                write_bytecode(path, path, out + cache_from_source(path))
            except NOT_COMPILABLE as error:  # a template, or code of another Python: nobody imports it
                print(f"{path} is not compiled: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
