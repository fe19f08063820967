"""How git asks a host over SSH: the one command line of ssh, and what ssh's words mean. Pure.

No file of a user or of the machine counts. The key is in an agent that answers on a socket; the keys of hosts are in a
file of ours. In the sandbox ssh connects to a port of its loopback, whose other end is the host of the URL and no
other: no command is started for a connection, and no stranger's name is in one. The host is checked by its own name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from builder.errors import BuildError
from builder.git.source import SSH_PORT, GitUrl
from builder.text import visible

SSH = "/usr/bin/ssh"
FOLDER = "/run/ssh"
"""In the sandbox: a folder with the two names below, which a step over SSH has beside its own."""
SOCKET, KNOWN_HOSTS = "agent", "known_hosts"
LOOPBACK = "127.0.0.1"
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "KnownHostsCommand=none",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CheckHostIP=no",
    "NoHostAuthenticationForLocalhost=no",
    "CanonicalizeHostname=no",
    "PreferredAuthentications=publickey",
    "PubkeyAuthentication=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "HostbasedAuthentication=no",
    "GSSAPIAuthentication=no",
    "IdentityFile=none",
    "AddKeysToAgent=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "ProxyCommand=none",
    "ProxyJump=none",
    "ControlMaster=no",
    "ControlPath=none",
    "EscapeChar=none",
    "RequestTTY=no",
    "ConnectTimeout=30",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "LogLevel=ERROR",
)


def environment(url: GitUrl, folder: str, tunnel_port: int) -> Mapping[str, str]:
    """What makes git ask the host of `url` with a command of ours.

    `folder`: where the socket of the agent and the keys of hosts are; empty: where git runs. `tunnel_port`: the port of
    the loopback whose other end is the host; 0: ssh connects to the host itself.
    """
    return {"GIT_ALLOW_PROTOCOL": "ssh", "GIT_SSH_VARIANT": "ssh", "GIT_SSH_COMMAND": _line(url, folder, tunnel_port)}


def _line(url: GitUrl, folder: str, tunnel_port: int) -> str:
    """A line for the shell. Of an option that is there twice ssh reads the first one, also where git adds a port."""
    place = f"{folder}/" if folder else ""
    through = (f"HostName={LOOPBACK}", f"Port={tunnel_port}") if tunnel_port else ()
    files = (f"IdentityAgent={place}{SOCKET}", f"UserKnownHostsFile={place}{KNOWN_HOSTS}")
    options = (*through, f"HostKeyAlias={known_name(url)}", *files, *OPTIONS)
    return shlex.join([SSH, "-F", "none", *(word for option in options for word in ("-o", option))])


def known_name(url: GitUrl) -> str:
    """The name of a host in `known_hosts`."""
    host = url.host.strip("[]")
    return host if url.port == SSH_PORT else f"[{host}]:{url.port}"


def named(url: GitUrl, line: str, tunnel_port: int) -> str:
    """A line of ssh with the host in the place of the loopback that it is reached by."""
    if not tunnel_port:
        return line
    line = re.sub(rf"\[{re.escape(LOOPBACK)}\]:{tunnel_port}\b", f"{url.host}:{url.port}", line)
    line = re.sub(rf"\b{re.escape(LOOPBACK)} port {tunnel_port}\b", f"{url.host} port {url.port}", line)
    return re.sub(rf"\b{re.escape(url.user)}@{re.escape(LOOPBACK)}:", f"{url.user}@{url.host}:", line)


def no_known_hosts(url: GitUrl, where: str) -> BuildError:
    """Neither the secret nor the node has a key of any host."""
    message = f"{url.host}:{url.port} cannot be told from another host: the secret has no known hosts"
    return BuildError("GitAuthFailed", message, where=where, next=_know(url))


def failure(url: GitUrl, lines: Sequence[str], at: str, said: tuple[str, ...]) -> BuildError | None:
    """What the words of ssh, or of the host behind it, mean; None where they are git's own."""
    text, name, where = "\n".join(lines).lower(), visible(url.text, limit=200), f"{at}.url"
    place = f"{url.host}:{url.port}"
    if "host key verification failed" in text:
        if "host identification has changed" in text:
            message = f"{place} has another key than the known hosts have of it: it is another host, or has a new key"
        elif "revoked" in text:
            message = f"{place} has a key that the known hosts revoke"
        else:
            message = f"the key of {place} is not among the known hosts"
        return BuildError("GitAuthFailed", message, where=where, next=_know(url), said=said)
    if any(each in text for each in _NO_REPOSITORY):
        message = f"there is no repository at {name}, or none that the secret's key may read"
        return BuildError("GitReferenceNotFound", message, where=where, said=said)
    if "unable to negotiate" in text or "no mutual signature" in text:
        message = f"{place} and ssh on the node have no algorithm in common"
        step = "An operator of the host lets it take today's: ed25519, ECDSA, or RSA with SHA-2."
        return BuildError("GitUrlRefused", message, where=where, next=step, said=said)
    if any(each in text for each in _KEY_REFUSED):
        message = f"{name} refused the secret's key"
        step = "Add its public half to the host, as a key that may read this repository: ssh-keygen -y -f KEYFILE"
        return BuildError("GitAuthFailed", message, where=where, next=step, said=said)
    if any(each in text for each in _NO_GIT):
        message = f"{place} runs no git for {url.user}"
        step = "See what it answers: git ls-remote URL; the user of most hosts is git."
        return BuildError("GitUrlRefused", message, where=where, next=step, said=said)
    return None


def _know(url: GitUrl) -> str:
    port = "" if url.port == SSH_PORT else f"-p {url.port} "
    host = url.host.strip("[]")
    return (
        f"Compare what this prints with the keys that the host publishes: ssh-keyscan {port}{host} > known_hosts; "
        "then set the secret again with --known-hosts known_hosts"
    )


_KEY_REFUSED = (
    "permission denied (", "too many authentication failures", "no supported authentication methods",
    "denied by fallthru", "you don't have permission to", "does not have permission", "access denied", "unauthorized",
)  # fmt: skip
_NO_GIT = (
    "git-upload-pack: not found", "git-upload-pack: command not found", "git-upload-pack: no such file",
    "account is currently not available", "unrecognized command", "only allows sftp",
)  # fmt: skip
_NO_REPOSITORY = (
    "repository not found", "does not appear to be a git repository", "could not be found", "does not exist",
    "invalid repository path", "no such repository",
)  # fmt: skip
