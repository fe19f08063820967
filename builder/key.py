"""The build key: everything that decides the artifact's bytes, and nothing else. Pure.

Two builds with the same key give the same artifact; so a hit is answered from the store and a build in flight is
attached to. The organization is a part, because a hit across organizations would leak who builds what. The
application's run-time environment is not: it never reaches the build. Parts are sorted and length-prefixed, so no
two different lists of parts can give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from builder.pipelines.base import PlanRequest
from builder.plan import Plan

PLATFORM = "linux/amd64"


def key_parts(
    organization: str, code_hash: str, plan: Plan, digests: Mapping[str, str], request: PlanRequest
) -> dict[str, str]:
    """The named parts of the key; `digests` are those of toolchain and base, bound on the node."""
    parts = {
        "organization": organization,
        "code_hash": code_hash,
        "runtime": plan.toolchain.runtime,
        "version": plan.toolchain.version,
        "target": plan.toolchain.target,
        "platform": PLATFORM,
        "recipe": str(plan.recipe),
        "single_file": str(request.single_file),
    }
    parts |= {f"argument.{name}": value for name, value in request.build_args.items()}
    parts |= {f"digest.{name}": value for name, value in digests.items()}
    return parts


def digest_of_parts(parts: Mapping[str, str]) -> str:
    """`sha256:<hex>` over the sorted, length-prefixed parts."""
    hasher = hashlib.sha256(b"ignite-build-key-1")
    for name in sorted(parts):
        for text in (name, parts[name]):
            data = text.encode()
            hasher.update(len(data).to_bytes(8, "big") + data)
    return f"sha256:{hasher.hexdigest()}"


def build_key(organization: str, code_hash: str, plan: Plan, digests: Mapping[str, str], request: PlanRequest) -> str:
    """The key of a planned build, `sha256:<hex>`."""
    return digest_of_parts(key_parts(organization, code_hash, plan, digests, request))
