"""The Celery messages: shapes, canonical bytes and signatures. Pure.

`ignite.build.run {v, build_id, kid, sig}` is a hint: whoever gets it asks the store, and the claim decides.
`sig` is an HMAC-SHA256 over the canonical rest, so nobody who can only write to Redis can start a claim.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping

RUN = "ignite.build.run"
VERSION = 1
_BUILD_ID = re.compile(r"[a-z][0-9a-z]{19}")


def key_id(key: str) -> str:
    """A short name of a key that does not give it away."""
    return hashlib.sha256(b"kid" + key.encode()).hexdigest()[:8]


def sign(body: Mapping[str, object], key: str) -> str:
    """HMAC-SHA256 (hex) over the body without `sig`, as JSON with sorted keys and no white space."""
    rest = {name: value for name, value in body.items() if name != "sig"}
    data = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key.encode(), data, hashlib.sha256).hexdigest()


def run_message(build_id: str, key: str) -> dict[str, object]:
    """The hint for one build."""
    body: dict[str, object] = {"v": VERSION, "build_id": build_id, "kid": key_id(key)}
    return body | {"sig": sign(body, key)}


def read_run(body: Mapping[str, object], key: str) -> str | None:
    """The build id of a genuine hint; None for an unknown version, a bad signature or a malformed body."""
    build_id, signature = body.get("build_id"), body.get("sig")
    if body.get("v") != VERSION or not isinstance(build_id, str) or not isinstance(signature, str):
        return None
    if not _BUILD_ID.fullmatch(build_id) or not hmac.compare_digest(
        sign(body, key).encode(), signature.encode("utf-8", "replace")
    ):
        return None
    return build_id
