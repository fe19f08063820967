"""Git commands of an attempt in the sandbox, each with its host or without a network, over HTTPS or SSH.

A command that reaches the host has the egress proxy and the secret, and sees nothing but its own folder. Over SSH it
has the socket of an agent, and no key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from builder import sandbox
from builder.addresses import normalized
from builder.attempt.attempt import Attempt
from builder.attempt.hosts import machine_git, policy_of, require
from builder.attempt.sshagent import serving
from builder.attempt.steps import TAIL_LINES, step_launcher, step_limits
from builder.attempt.verdict import of_room
from builder.errors import BuildError, PlatformError
from builder.git import commands, ssh
from builder.git.agent import Agent, Unusable, private_key
from builder.git.source import GitUrl, check_secret
from builder.sandbox.proxy import PORT
from builder.settings import MIB
from builder.text import visible

FOLDER = "git"
"""The folder of all that git reads and writes, in the work folder."""
MOST_LINES = 200_000
MOST_TEXT = 32 * MIB
"""Bytes of what a command prints: a line alone may have 16 KiB."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a request names, judged; `at` is the field of the request."""

    url: GitUrl
    reference: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Ran:
    code: int
    out: tuple[str, ...]
    err: tuple[str, ...]
    refused: bool = False
    unreachable: bool = False
    cut: bool = False
    """It printed more than was read."""


def online(attempt: Attempt, named: Named, argv: tuple[str, ...], *, login: bool = True) -> Ran:
    """A command that asks the host, with the secret where it has one and `login`. Raises `BuildError`."""
    settings, url = attempt.node.settings, named.url
    host = normalized(url.host)
    policy = policy_of(settings, frozenset({(host, url.port)}))
    egress = sandbox.Egress(policy, settings.upstream_proxy, settings.no_proxy)
    if url.is_ssh:
        egress.tunnel = (host, url.port)
        with _keyed(attempt, named) as (env, mounts):
            ran = run(attempt, argv, egress, env, mounts)
    else:
        ran = run(attempt, argv, egress, _token(attempt) if login else {})
    if ran.code != 0:
        raise commands.failed(
            url,
            [ssh.named(url, line, PORT) for line in ran.err] if url.is_ssh else ran.err,
            refused=ran.refused,
            unreachable=ran.unreachable,
            login=login and bool(_token(attempt)),
            at=named.at,
        )
    return ran


@contextmanager
def _keyed(attempt: Attempt, named: Named) -> Iterator[tuple[Mapping[str, str], tuple[sandbox.Mount, ...]]]:
    """(environment, mounts) of a step over SSH: the socket of an agent with the secret's key, and the keys of hosts.

    Both files end with the step. Raises `BuildError` GitAuthFailed without a key or known hosts.
    """
    settings, secrets, url = attempt.node.settings, attempt.grant.secrets, named.url
    where = f"{named.at}.secretRef"
    check_secret(url, secrets.get("git.private_key", ""), where)
    require(ssh.SSH, "openssh-client")
    try:
        agent = Agent(private_key(secrets["git.private_key"]), url.user)
    except Unusable as why:
        raise BuildError("GitAuthFailed", f"the secret's key cannot be used: {why}", where=where) from None
    known = secrets.get("git.known_hosts") or _known_hosts(settings.git_known_hosts)
    if not known.strip():
        raise ssh.no_known_hosts(url, where)
    socket, file = attempt.work / ssh.SOCKET, attempt.work / ssh.KNOWN_HOSTS
    write(attempt, file, known, 0o644)
    try:
        with serving(socket, agent, attempt.build_user):
            if settings.unsandboxed:  # no tunnel, and the files are where git runs
                yield ssh.environment(url, "", 0), ()
            else:
                mounts = [sandbox.Mount(source=each, dest=f"{ssh.FOLDER}/{each.name}") for each in (socket, file)]
                yield ssh.environment(url, ssh.FOLDER, PORT), tuple(mounts)
    finally:
        file.unlink()


def _known_hosts(path: str) -> str:
    """The operator's file. Raises `PlatformError` GitUnavailable for one that cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise PlatformError("GitUnavailable", f"git_known_hosts of this node cannot be read: {why}") from None


def offline(attempt: Attempt, argv: tuple[str, ...], env: Mapping[str, str] = MappingProxyType({})) -> Ran:
    ran = run(attempt, argv, None, env)
    if ran.code != 0:
        said = tuple(visible(line, limit=200) for line in ran.err[-6:])
        if wrong := next((line for line in ran.err if "invalid path" in line), ""):  # `.git/config`, `../x`
            message = f"git refuses a path of the commit: {visible(wrong, limit=200)}"
            raise BuildError("ArchiveUnsafe", message, next="Delete it from the repository and commit.")
        raise PlatformError("GitUnavailable", "what git fetched cannot be read", said=said)
    return ran


def run(
    attempt: Attempt,
    argv: tuple[str, ...],
    egress: sandbox.Egress | None,
    env: Mapping[str, str] = MappingProxyType({}),
    mounts: tuple[sandbox.Mount, ...] = (),
    *,
    most: int = MOST_TEXT,
) -> Ran:
    settings = attempt.node.settings
    out: list[str] = []
    err: list[str] = []
    room = most
    mask = attempt.log.mask  # a host may answer with the token that it got

    def on_line(stream: sandbox.Stream, data: bytes) -> None:
        nonlocal room
        if stream is sandbox.Stream.SYSTEM:  # the sandbox's words, not git's
            return
        lines = out if stream is sandbox.Stream.STDOUT else err
        room -= len(data)
        if room >= 0 and len(lines) < MOST_LINES:
            lines.append(mask.text(data.decode("utf-8", "replace")))

    result = sandbox.run(
        sandbox.Command(argv=argv, env={**commands.ENVIRONMENT, **env}, work=attempt.work, folders=(FOLDER,)),
        sandbox.Root(mounts=(*machine_git(attempt), *mounts)),
        step_limits(attempt),
        uid=attempt.node.uid,
        gid=settings.build_uid,
        egress=egress,
        on_line=on_line,
        cancelled=attempt.lease.must_stop,
        grace_ms=settings.stop_grace_ms,
        use_cgroups=settings.use_cgroups,
        launcher=step_launcher(settings),
    )
    for line in egress.summary_lines() if egress else ():
        attempt.log.system(line)
    attempt.check()
    if result.reason:
        raise BuildError(result.reason, f"git reached a limit of the build: {result.reason}")
    if result.exit_code and (full := of_room(attempt, "git", result.exit_code, result.room, err[-TAIL_LINES:])):
        raise full
    return Ran(
        code=result.exit_code,
        out=tuple(out),
        err=tuple(err),
        refused=bool(egress and egress.refused()),
        unreachable=bool(egress and egress.unreachable()),
        cut=room < 0,
    )


def _token(attempt: Attempt) -> Mapping[str, str]:
    """The secret for the environment of a step that asks its host, and of no other; empty where it is no token."""
    secrets = attempt.grant.secrets
    if not secrets.get("git.token"):
        return {}
    return commands.login_of(secrets.get("git.username", ""), secrets["git.token"])


def write(attempt: Attempt, path: Path, text: str, mode: int) -> None:
    """A file of ours in a folder that git has written to: nothing that is there is followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    attempt.chown_to_build_user(path)
