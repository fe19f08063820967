"""The outer shape of a WebAssembly component: its imports and exports, read without running or compiling anything.

Layout as the component model's binary format (design/mvp/Binary.md) and the core specification (5.5 Modules) have it:
a preamble, then sections of an id, a size and a body. Only the sections of imports and exports are read, so a large
component costs no more than a small one. The file is hostile: every number is bounded, nothing recurses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import BuildError
from builder.text import visible

MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"
HANDLER = "wasi:http/incoming-handler"
"""What the world `wasi:http/proxy` exports: a host calls it for each request."""
MOST_SECTIONS = 100_000
MOST_NAMES = 10_000
MOST_NAME = 1024
MOST_BODY = 4 * 1024 * 1024
"""The most bytes of one section of imports or exports; a large component has a few kilobytes."""
REFUSED = 6
"""How many imports an error names."""

_CORE_MODULE, _NESTED, _IMPORTS, _EXPORTS, _LAST = 1, 4, 10, 11, 12
_OFFERED = re.compile(r"wasi:(?:io|clocks|random|cli|filesystem|sockets|http)/[a-z][a-z0-9-]*@0\.2\.\d+")
"""The interfaces that WASI 0.2 has (wasi.dev, releases 0.2.x)."""
_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Component:
    """What a component wants of its host and offers to it, by name (`wasi:http/types@0.2.4`), in its own order."""

    imports: tuple[str, ...]
    exports: tuple[str, ...]


class Malformed(Exception):
    """A file is no component; the text names how."""


def read_component(file: BinaryIO) -> Component:
    """The imports and exports of a component. Raises `Malformed`."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(len(COMPONENT))
    if head == MODULE:
        raise Malformed("a core module, not a component")
    if head != COMPONENT:
        raise Malformed("an executable of a machine" if head.startswith(b"\x7fELF") else "no WebAssembly at all")
    imports: list[str] = []
    exports: list[str] = []
    at, sections = len(COMPONENT), 0
    while at < size:
        sections += 1
        if sections > MOST_SECTIONS:
            raise Malformed(f"a component of more than {MOST_SECTIONS} sections")
        file.seek(at)
        kind, length, body = _section(file.read(6), at)
        if body + length > size:
            raise Malformed(f"a component whose section at byte {at} ends behind the file")
        file.seek(body)
        if kind in (_CORE_MODULE, _NESTED):
            _require_inner(file.read(min(length, len(COMPONENT))), kind, at)
        elif kind in (_IMPORTS, _EXPORTS):
            if length > MOST_BODY:
                raise Malformed(f"a component whose section at byte {at} has {length} bytes of names")
            names = _Names(file.read(length), at)
            (imports if kind == _IMPORTS else exports).extend(
                names.imported() if kind == _IMPORTS else names.exported()
            )
            if len(imports) + len(exports) > MOST_NAMES:
                raise Malformed(f"a component of more than {MOST_NAMES} imports and exports")
        at = body + length
    return Component(imports=tuple(imports), exports=tuple(exports))


def require_servable(found: Component, where: str) -> None:
    """Raise `BuildError` StartFailed for a component that no host of `wasi:http/proxy` can serve."""
    if not any(name.startswith(f"{HANDLER}@0.2.") for name in found.exports):
        offered = ", ".join(visible(name, limit=_SHOWN) for name in found.exports[:REFUSED]) or "nothing"
        message = f"the component cannot be served: it exports {offered}, and no {HANDLER}@0.2"
        raise BuildError("StartFailed", message, where=where, next="Write a handler under #[ignite::main].")
    foreign = [name for name in found.imports if not _OFFERED.fullmatch(name)]
    if foreign:
        named = ", ".join(visible(name, limit=_SHOWN) for name in foreign[:REFUSED])
        more = f" and {len(foreign) - REFUSED} more" if len(foreign) > REFUSED else ""
        raise BuildError(
            "StartFailed",
            f"the component imports what no host of WASI 0.2 offers: {named}{more}",
            where=where,
            next="Leave out the crate that wants it, or build for the target native.",
        )


def _section(head: bytes, at: int) -> tuple[int, int, int]:
    """(id, length, offset of the body) of the section whose first bytes are `head`."""
    if head[0] > _LAST:
        raise Malformed(f"a component with an unknown section {head[0]} at byte {at}")
    length, used = _number(head, 1, at)
    return head[0], length, at + used


def _require_inner(head: bytes, kind: int, at: int) -> None:
    """A section of a module or a component begins as one: whatever else is executable has no place in a component."""
    if head != (MODULE if kind == _CORE_MODULE else COMPONENT):
        raise Malformed(f"a component whose section at byte {at} holds no WebAssembly")


def _number(data: bytes, at: int, where: int) -> tuple[int, int]:
    """An unsigned LEB128 of 32 bits, and the offset behind it."""
    value = 0
    for used in range(5):
        if at + used >= len(data):
            raise Malformed(f"a component that ends within its section at byte {where}")
        byte = data[at + used]
        value |= (byte & 0x7F) << (7 * used)
        if byte < 0x80:
            if value >> 32:
                break
            return value, at + used + 1
    raise Malformed(f"a component with a number of more than 32 bits in its section at byte {where}")


class _Names:
    """The body of a section of imports or exports, read from its start on."""

    def __init__(self, data: bytes, where: int) -> None:
        self._data, self._where, self._at = data, where, 0

    def imported(self) -> Iterator[str]:
        for _ in range(self._count()):
            yield self._name()
            self._described()
        self._require_end()

    def exported(self) -> Iterator[str]:
        for _ in range(self._count()):
            yield self._name()
            if self._byte() == 0:  # a sort of the core has a second byte
                self._byte()
            self._u32()
            if self._byte():
                self._described()
        self._require_end()

    def _described(self) -> None:
        """An `externdesc`."""
        kind = self._byte()
        if kind == 0:
            self._byte()
            self._u32()
        elif kind in (1, 4, 5):
            self._u32()
        elif kind == 3:
            if self._byte() == 0:
                self._u32()
        elif kind == 2:
            self._value()
        else:
            raise Malformed(f"a component with an unknown description {kind} in its section at byte {self._where}")

    def _value(self) -> None:
        if self._byte() == 0:
            self._u32()
            return
        raise Malformed(f"a component with a value of a type that is unknown in its section at byte {self._where}")

    def _name(self) -> str:
        form = self._byte()
        if form not in (0, 1):
            raise Malformed(f"a component with an unknown form of name {form} in its section at byte {self._where}")
        length = self._u32()
        if length > MOST_NAME:
            raise Malformed(f"a component with a name of {length} bytes in its section at byte {self._where}")
        end = self._at + length
        if end > len(self._data):
            raise Malformed(f"a component that ends within its section at byte {self._where}")
        try:
            name = self._data[self._at : end].decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"a component with a name that is no text in its section at byte {self._where}") from None
        self._at = end
        return name

    def _count(self) -> int:
        count = self._u32()
        if count > MOST_NAMES:
            raise Malformed(f"a component of {count} names in its section at byte {self._where}")
        return count

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise Malformed(f"a component that ends within its section at byte {self._where}")
        self._at += 1
        return self._data[self._at - 1]

    def _u32(self) -> int:
        value, self._at = _number(self._data, self._at, self._where)
        return value

    def _require_end(self) -> None:
        if self._at != len(self._data):
            raise Malformed(f"a component with bytes behind the names of its section at byte {self._where}")
