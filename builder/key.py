"""The build key: everything that decides the artifact's bytes, and nothing else. Pure.

Two builds with the same key give the same artifact. The store answers a known key from the cache and attaches a build
to one in flight. The organization is a part, because a hit across organizations would leak who builds what. Run-time
environment, tags, limits and labels never reach the build, so they are no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from builder.plan import PLATFORM, Plan
from builder.text import canonical_json

FORMAT = 2
"""Version of the key's own shape. Entries of another format never match, and expire."""


def key_parts(organization: str, code_hash: str, plan: Plan, digests: Mapping[str, str]) -> dict[str, Any]:
    """The named parts. `digests` are those of toolchain, base, SDK and front, as the node bound them."""
    return {
        "format": FORMAT,
        "organization": organization,
        "code_hash": code_hash,
        "platform": PLATFORM,
        "plan": plan.effects(),
        "digests": dict(digests),
    }


def build_key(organization: str, code_hash: str, plan: Plan, digests: Mapping[str, str]) -> str:
    """The key of a planned build: `sha256:<hex>` over the canonical JSON of its parts."""
    return digest_of(key_parts(organization, code_hash, plan, digests))


def digest_of(value: Mapping[str, Any]) -> str:
    """`sha256:<hex>` of a value's canonical JSON."""
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"
