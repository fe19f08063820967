"""One file: answers with what it was sent and who asked."""

import json

import ignite


def handler(payload: bytes, ctx: dict) -> dict:
    name = json.loads(payload or b"{}").get("name", "world")
    return {"hello": name, "execution": ctx["execution_id"], "path": ignite.request().path}
