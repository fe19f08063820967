"""What an ELF file says of itself: the program that loads it (elf(5)). Headers are read, each up to a bound."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

MAGIC = b"\x7fELF"
PARTS = struct.Struct("<32xQ14xHH")
"""The part of the header that says where the program headers are, the size of one, and how many."""
PART = struct.Struct("<I4xQ16xQ16x")
"""A program header: kind, place in the file, size in it."""
INTERPRETER = 3
MOST_PARTS, LONGEST_NAME = 64, 1024


def loader_of(file: BinaryIO) -> str:
    """The program that loads a file and its shared libraries (PT_INTERP); empty where it needs none.

    What is no ELF file, or contradicts itself, names none: the kernel refuses it.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(PARTS.size)
    if len(head) < PARTS.size or not head.startswith(MAGIC):
        return ""
    at, size, count = PARTS.unpack(head)
    if size != PART.size or at > end:
        return ""
    file.seek(at)
    table = file.read(PART.size * min(count, MOST_PARTS))
    for kind, place, length in PART.iter_unpack(table[: len(table) // PART.size * PART.size]):
        if kind == INTERPRETER and length <= LONGEST_NAME and place <= end:
            file.seek(place)
            return file.read(length).rstrip(b"\0").decode("utf-8", "replace")
    return ""
