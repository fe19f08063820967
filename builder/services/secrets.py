"""Save, list and delete the secrets of an organization. Values come in and never go out."""

from __future__ import annotations

import re

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.credentials import MOST_SECRETS, Secrets
from builder.errors import BuildError
from builder.git.agent import Unusable, private_key
from builder.services.errors import QuotaExceeded
from builder.store.rows import Row
from builder.store.secrets import BUILD, GIT, REGISTRY, TooMany

MOST_BYTES = 64 * 1024
MOST_TOKEN = 8 * 1024
"""Bytes of a git token, as servers take them in a header. Every line of a build is searched for each part of it."""
MOST_AT_ONCE = 100
FULL_RETRY_S = 60
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[1-9][0-9]{0,4})?")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n?")
_KNOWN_HOST = re.compile(r"(?:@[a-z-]+[ \t]+)?[^\s@]\S*[ \t]+[a-z0-9@.-]+[ \t]+[A-Za-z0-9+/]+=*(?:[ \t]|$)")
"""A marker, the names of a host or their hashes, the kind of its key, its key: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""
_KINDS = {"value": BUILD, "git_token": GIT, "git_ssh_key": GIT, "registry": REGISTRY}


def save(secrets: Secrets, organization: str, request: pb.SaveBuildSecretsRequest) -> pb.SaveBuildSecretsResponse:
    """Check all of them, then store each. Raises `BuildError` InvalidRequest, `QuotaExceeded`."""
    every = [*(pb.NamedSecret(name=name, value=value) for name, value in sorted(request.secrets.items()))]
    every += request.named
    if not every or len(every) > MOST_AT_ONCE:
        raise _refused(f"{len(every)} secrets are sent; a call takes 1 to {MOST_AT_ONCE}", "secrets")
    if len({one.name for one in every}) < len(every):
        raise _refused("a name is sent twice", "named")
    values = [(one, *_checked(one)) for one in every]
    rows: list[Row] = []
    for one, type_, value in values:
        try:
            rows.append(secrets.save(organization, one.name, type_, one.host, value))
        except TooMany:
            message = f'"{organization}" has {MOST_SECRETS} secrets, which is all it may have'
            raise QuotaExceeded(message, FULL_RETRY_S) from None
    return pb.SaveBuildSecretsResponse(names=[one.name for one in every], secrets=[shown(row) for row in rows])


def shown(row: Row) -> pb.Secret:
    """A secret as the wire has it: all but its value."""
    return pb.Secret(
        name=row["name"],
        type=pb.SecretType.Value(f"SECRET_TYPE_{row['type']}"),
        host=row["host"],
        version=row["version"],
        created_at_ms=row["created_at"],
        updated_at_ms=row["updated_at"],
    )


def _checked(one: pb.NamedSecret) -> tuple[str, dict[str, str]]:
    """(type, value) of a secret that can be one. No message repeats a value."""
    if not _NAME.fullmatch(one.name):
        raise _refused("a name takes 1 to 63 of A-Z, a-z, 0-9, . _ -, a letter or digit at both ends", "named.name")
    kind = one.WhichOneof("kind")
    if kind is None:
        raise _refused(f'"{one.name}" has no value; it takes one of value, gitToken, gitSshKey, registry', "named")
    type_, where = _KINDS[kind], f"named.{one.name}"
    if one.ByteSize() > MOST_BYTES:
        raise _refused(f'"{one.name}" has {one.ByteSize()} bytes, {MOST_BYTES} are allowed', where)
    if one.host and (type_ == BUILD or not _HOST.fullmatch(one.host)):
        raise _refused(f'the host of "{one.name}" takes name[:port] in lower case, of a git or registry secret', where)
    if kind == "value":
        value = {"value": one.value}
    elif kind == "registry":
        value = {"username": one.registry.username, "password": one.registry.password}
        _one_line(one.name, value, where)
    elif kind == "git_token":
        value = {"username": one.git_token.username, "token": one.git_token.token}
        _one_line(one.name, value, where, may_lack="username")
        if (size := len(value["token"].encode())) > MOST_TOKEN:
            raise _refused(f'the token of "{one.name}" has {size} bytes, {MOST_TOKEN} are allowed', where)
    else:
        value = _ssh_key(one.name, one.git_ssh_key, where)
    if not all(value[name] for name in ("value", "password", "token") if name in value):
        raise _refused(f'"{one.name}" has an empty value', where)
    return type_, value


def _ssh_key(name: str, sent: pb.GitSshKey, where: str) -> dict[str, str]:
    """A private key, and the keys of hosts; without these each node has those of its operator."""
    text = sent.private_key.replace("\r\n", "\n")
    try:
        private_key(text)
    except Unusable as why:
        raise _refused(f'the private key of "{name}" cannot be used: {why}', where) from None
    if not _PEM.fullmatch(text):
        raise _refused(f'"{name}" has more than a private key: the text of a file as ssh-keygen writes it', where)
    lines = [line for line in sent.known_hosts.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if sent.known_hosts and not (lines and all(map(_KNOWN_HOST.match, lines))):
        raise _refused(f'"{name}" has no known hosts: lines as ssh-keyscan HOST prints them', where)
    return {"private_key": text, "known_hosts": sent.known_hosts}


def _one_line(name: str, value: dict[str, str], where: str, may_lack: str = "") -> None:
    """Credentials travel in headers and in lines of git's protocol."""
    for field, text in value.items():
        if not text and field != may_lack:
            raise _refused(f'"{name}" has no {field}', where)
        if any(c < " " or c == "\x7f" for c in text):
            raise _refused(f'the {field} of "{name}" has a line end or another control character', where)
    if ":" in value.get("username", ""):
        raise _refused(f'the username of "{name}" has a colon', where)


def _refused(message: str, where: str) -> BuildError:
    return BuildError("InvalidRequest", message, where=where)
