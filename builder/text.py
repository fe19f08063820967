"""Text that has one form everywhere: canonical JSON. Pure."""

from __future__ import annotations

import json


def canonical_json(value: object) -> bytes:
    """JSON in UTF-8 with sorted keys and no white space: the same value gives the same bytes.

    Raises `ValueError` for NaN, infinity and text that is no Unicode.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
