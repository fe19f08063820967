"""JSON by C code: what it is sent comes back sorted, with the slashes as they were."""

import ujson


def handler(payload: bytes, ctx: dict) -> str:
    assert ujson.__file__.endswith(".so")
    return ujson.dumps(ujson.loads(payload), sort_keys=True, ensure_ascii=False, escape_forward_slashes=False)
