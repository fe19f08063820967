"""Components as bytes: the sections that a reader of their outer shape looks at, around a core module without code."""

from __future__ import annotations

from collections.abc import Sequence

from builder.images.component import COMPONENT, MODULE

HANDLER = "wasi:http/incoming-handler@0.2.4"
TYPES = "wasi:http/types@0.2.4"


def number(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def section(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + number(len(body)) + body


def named(name: str) -> bytes:
    return b"\0" + number(len(name.encode())) + name.encode()


def imports(*names: str) -> bytes:
    """Imports of instances of type 0."""
    return section(10, number(len(names)) + b"".join(named(name) + b"\x05\0" for name in names))


def exports(*names: str) -> bytes:
    """Exports of instance 0, each with its type."""
    return section(11, number(len(names)) + b"".join(named(name) + b"\x05\0\x01\x05\0" for name in names))


def component(of: Sequence[str] = (TYPES,), to: Sequence[str] = (HANDLER,), module: bytes = MODULE) -> bytes:
    """A component that imports `of` and exports `to`."""
    custom = section(0, b"\x04name" + b"x" * 300)
    return COMPONENT + custom + imports(*of) + section(1, module) + exports(*to)
