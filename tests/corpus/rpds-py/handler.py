"""Persistent data structures by Rust code: a map, and what it was before."""

import json

import rpds


def handler(payload: bytes, ctx: dict) -> dict:
    assert rpds.__file__.endswith(".so")
    before = rpds.HashTrieMap(json.loads(payload))
    after = before.insert("new", True).remove("old")
    return {"before": sorted(before), "after": sorted(after), "queue": list(rpds.Queue([1, 2]).enqueue(3))}
