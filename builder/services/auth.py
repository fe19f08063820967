"""Who is calling: bearer tokens, their scopes and organization. The organization never comes from a body alone."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from builder.services.errors import permission_denied, unauthenticated
from builder.settings import Token
from builder.store.transitions import JOB, WORK


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A verified caller. `node` is set for workers and watchers; `token_sha256` names the token without telling it."""

    organization: str
    scopes: frozenset[str]
    node: str = ""
    token_sha256: str = ""


class Tokens:
    """The tokens the API accepts. Looked up by SHA-256, compared in constant time."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._by_hash = {hashlib.sha256(token.token.encode()).digest(): token for token in tokens}

    def caller(self, authorization: str) -> Caller:
        """The caller of an `Authorization` header. Raises `CallRefused` UNAUTHENTICATED."""
        kind, _, value = authorization.partition(" ")
        if kind.lower() != "bearer" or not value:
            raise unauthenticated("send Authorization: Bearer <token>")
        wanted = hashlib.sha256(value.strip().encode()).digest()
        for known, token in self._by_hash.items():
            if hmac.compare_digest(known, wanted):
                scopes = frozenset(token.scopes)
                return Caller(
                    organization=token.organization, scopes=scopes, node=token.node, token_sha256=wanted.hex()
                )
        raise unauthenticated("this token is not known here")


SCOPES = {
    "CreateBuild": "submit",
    "CancelBuild": "submit",
    "SaveBuildSecrets": "submit",
    "ListBuildSecrets": "read",
    "DeleteBuildSecret": "submit",
    "UploadBuildContext": "submit",
    "GetBuild": "read",
    "ListBuilds": "read",
    "ListBuildReports": "read",
    "StreamBuildLogs": "read",
    "ListNodes": "operate",
    "DrainNode": "operate",
    "ForgetNode": "operate",
    "AdoptJob": "watch",
    "CaughtUp": "watch",
    "BeatJobs": "watch",
    "CurrentJobs": "watch",
}
"""RPC → the scope that a token needs. All others, of `WorkerService`, need `worker`."""

OWNERS = ("worker", "watch")
STAGE_OF = {"worker": WORK, "watch": JOB}
"""Scope → the stage whose builds its owners write: a node and a watcher may have one name, and a claim is small."""
OWNERS_CALLS = frozenset({"AppendLog", "Finish", "HandBack"})
"""RPCs of whoever has a build, a node or a watcher: either scope will do."""


def admit(caller: Caller, rpc_name: str) -> None:
    """Whether the caller may call at all, before a byte of the body is read. Raises as `require` does."""
    require(caller, *(OWNERS if rpc_name in OWNERS_CALLS else (SCOPES.get(rpc_name, "worker"),)))


def stages_of(caller: Caller) -> tuple[str, ...]:
    """The stages in which the caller may own a build."""
    return tuple(stage for scope, stage in STAGE_OF.items() if scope in caller.scopes)


def require(caller: Caller, *scopes: str) -> None:
    """Raises `CallRefused` PERMISSION_DENIED when the token has none of these scopes."""
    if not caller.scopes.intersection(scopes):
        raise permission_denied(f"this token lacks the scope {' or '.join(scopes)}")


def same_organization(caller: Caller, named: str) -> str:
    """The caller's organization; a body that names another one is refused."""
    if named and named != caller.organization:
        raise permission_denied(f'the token is for organization "{caller.organization}", the request names "{named}"')
    return caller.organization
