"""Where two images that should be the same differ: in the first file of the first layer that does."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import httpx

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.image import MANIFEST_TYPE

GZIP = b"\x1f\x8b"
FIELDS = ("type", "mode", "linkname", "mtime", "uid", "gid", "uname", "gname", "pax_headers")
BLOCK = 65_536
SHOWN = 40
"""Bytes on each side of the first one that differs."""


def pushed_difference(host: str, one: pb.Build, other: pb.Build) -> str:
    """How the pushed images of two builds of one repository differ; empty where their manifests are the same bytes.

    Each manifest and blob is read from the registry, and is what its digest says.
    """
    left, right = (_pushed(host, f"{build.repository}/manifests/{build.image_digest}") for build in (one, other))
    return difference(left, right, lambda digest: _pushed(host, f"{one.repository}/blobs/{digest}"))


def _pushed(host: str, path: str) -> bytes:
    answer = httpx.get(
        f"http://{host}/v2/{path}", headers={"accept": MANIFEST_TYPE}, timeout=120, trust_env=False, verify=False
    )
    answer.raise_for_status()
    assert path.endswith("sha256:" + hashlib.sha256(answer.content).hexdigest())
    return answer.content


def difference(one: bytes, other: bytes, blob: Callable[[str], bytes]) -> str:
    """The same of two manifests; `blob` is digest → bytes."""
    if one == other:
        return ""
    left, right = json.loads(one), json.loads(other)
    if len(left["layers"]) != len(right["layers"]):
        return f"{len(left['layers'])} layers, and {len(right['layers'])}"
    for number, (a, b) in enumerate(zip(left["layers"], right["layers"], strict=True), 1):
        if a["digest"] != b["digest"]:
            return f"layer {number}, {_of_layers(blob(a['digest']), blob(b['digest']))}"
    configs = (json.loads(blob(manifest["config"]["digest"])) for manifest in (left, right))
    return _of_values("config", *configs) or _of_values("manifest", left, right)


def _of_layers(one: bytes, other: bytes) -> str:
    if not one.startswith(GZIP) or not other.startswith(GZIP):
        return _of_bytes(one, other)
    with tarfile.open(fileobj=io.BytesIO(one)) as left, tarfile.open(fileobj=io.BytesIO(other)) as right:
        for a, b in zip_longest(left, right):
            if a is None or b is None or a.name != b.name:
                return f"its entry {a.name if a else 'no more'}, and {b.name if b else 'no more'}"
            for name in FIELDS:
                if (x := getattr(a, name)) != (y := getattr(b, name)):
                    return f"{a.name}: {name} {_shown(name, x)}, and {_shown(name, y)}"
            files = left.extractfile(a), right.extractfile(b)
            if files[0] and files[1] and (x := files[0].read()) != (y := files[1].read()):
                return f"{a.name}: {_of_bytes(x, y)}"
    return "the same files in other bytes"


def _shown(name: str, value: object) -> str:
    return oct(value) if name == "mode" and isinstance(value, int) else repr(value)


def _of_bytes(one: bytes, other: bytes) -> str:
    starts = range(0, max(len(one), len(other)), BLOCK)
    start = next(each for each in starts if one[each : each + BLOCK] != other[each : each + BLOCK])
    pairs = enumerate(zip_longest(one[start : start + BLOCK], other[start : start + BLOCK]), start)
    at = next(number for number, (a, b) in pairs if a != b)
    around = [data[max(0, at - SHOWN) : at + SHOWN] for data in (one, other)]
    return f"{len(one)} and {len(other)} bytes, from byte {at} on: {around[0]!r}, and {around[1]!r}"


def _of_values(where: str, one: Any, other: Any) -> str:
    """The path of the first value that differs."""
    if one == other:
        return ""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return next(found for key in keys if (found := _of_values(f"{where}.{key}", one.get(key), other.get(key))))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        rows = enumerate(zip(one, other, strict=True))
        return next(found for number, (a, b) in rows if (found := _of_values(f"{where}.{number}", a, b)))
    return f"{where}: {one!r}, and {other!r}"
