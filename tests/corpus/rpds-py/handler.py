"""Persistent data structures by Rust code: a map, and what it was before."""

import json

import rpds


def handler(payload: bytes, ctx: dict) -> dict:
    compiled = getattr(rpds, "rpds", rpds)  # newer releases of maturin put a package around it
    assert compiled.__file__.endswith(".so")
    before = rpds.HashTrieMap(json.loads(payload))
    after = before.insert("new", True).remove("old")
    return {"before": sorted(before), "after": sorted(after), "queue": list(rpds.Queue([1, 2]).enqueue(3))}
