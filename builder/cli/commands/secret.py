"""`secret set`, `secret ls`, `secret rm`: what builds may use, by name. A value comes from stdin and is never shown."""

from __future__ import annotations

from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.options import small_file
from builder.cli.safe import shown
from builder.cli.stop import PROG, mistake
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

TYPES = ("registry", "git", "build")
MOST_BYTES = 64 * 1024


def save(ctx: Context, name: str, kind: str, username: str, host: str, known_hosts: str) -> int:
    """Store the value that stdin has."""
    secret = _secret(_named(ctx, name), kind, username, host, known_hosts, _value(ctx))
    with ctx.client(ctx.settings_for_builds()) as client:
        saved = client.save_secret(secret)
    if ctx.common.json:
        ctx.document(saved)
    else:
        ctx.say(f"{shown(saved.name)} is stored, version {saved.version}; name it in a build: --secret {saved.name}")
    return 0


def ls(ctx: Context) -> int:
    """List the secrets."""
    with ctx.client(ctx.settings_for_builds()) as client:
        found = client.secrets()
    if ctx.common.json:
        ctx.document(found)
        return 0
    rows = [("SECRET", "TYPE", "HOST", "VERSION", "CHANGED")]
    now_ms, terminal = ctx.now_ms(), ctx.out.is_terminal
    for one in found.secrets:
        changed = fmt.created(one.updated_at_ms, now_ms, terminal=terminal)
        rows.append((shown(one.name), type_word(one), shown(one.host) or "any", str(one.version), changed))
    for line in fmt.table(rows, right=frozenset({3})):
        ctx.out.line(line)
    return 0


def remove(ctx: Context, name: str) -> int:
    """Delete a secret."""
    with ctx.client(ctx.settings_for_builds()) as client:
        client.delete_secret(_named(ctx, name))
    if ctx.common.json:
        ctx.document(pb.DeleteBuildSecretResponse())
    else:
        ctx.say(f"{shown(name)} is deleted")
    return 0


def type_word(secret: pb.Secret) -> str:
    """The type as `--type` takes it."""
    return pb.SecretType.Name(secret.type).removeprefix("SECRET_TYPE_").lower()


def _named(ctx: Context, name: str) -> str:
    if not name:
        raise mistake("a secret must be named", where="NAME", next=f"See which there are: {ctx.prog} secret ls")
    return name


def _value(ctx: Context) -> str:
    """What stdin has, without the line end that an editor or `echo` leaves."""
    data = ctx.stdin.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise mistake(f"the value has more than {MOST_BYTES} bytes", where="stdin")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise mistake("the value is no UTF-8", where="stdin") from None


def _secret(name: str, kind: str, username: str, host: str, known_hosts: str, value: str) -> pb.NamedSecret:
    if kind not in TYPES:
        raise mistake(f'--type is "{kind}"; it takes {", ".join(TYPES)}', where="--type")
    if not value:
        command = f"{PROG} secret set {name} --type {kind} < FILE"
        raise mistake("stdin has no value", where="stdin", next=f"Send it there: {command}")
    secret = pb.NamedSecret(name=name, host=host)
    is_key = kind == "git" and value.startswith("-----BEGIN ")
    _check_options(kind, username, known_hosts, is_key=is_key)
    if kind == "registry":
        secret.registry.username, secret.registry.password = username, value
    elif is_key:
        secret.git_ssh_key.private_key = value + "\n"
        secret.git_ssh_key.known_hosts = small_file(known_hosts, "--known-hosts") if known_hosts else ""
    elif kind == "git":
        secret.git_token.username, secret.git_token.token = username, value
    else:
        secret.value = value
    return secret


def _check_options(kind: str, username: str, known_hosts: str, *, is_key: bool) -> None:
    """Raises `Stop` for an option that is missing, or that this type has no use for. Without keys of hosts an SSH key
    goes by those of the node (`git_known_hosts`)."""
    if kind == "registry" and not username:
        raise mistake("a registry secret needs a user", where="--username", next="Name it: --username NAME")
    if username and (kind == "build" or is_key):
        raise mistake("--username is for a password or a token", where="--username")
    if known_hosts and not is_key:
        raise mistake("--known-hosts is for an SSH key", where="--known-hosts")
