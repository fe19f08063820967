"""A reference to an image as people write it: `[host[:port]/]path[:tag][@sha256:…]`. Parsed, never resolved. Pure.

The grammar is that of the distribution project, without its ambiguities: a first part with a dot, a colon or the name
`localhost` is a host, anything else is a repository of Docker Hub.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from builder.errors import BuildError
from builder.images.destination import DIGEST, REPOSITORY, TAG
from builder.text import visible

DOCKER_HUB, DOCKER_HUB_API = "docker.io", "registry-1.docker.io"
MOST_CHARACTERS = 512
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`host` is as the reference has it ("docker.io", "localhost:5000"). Tag or digest may be empty, not both."""

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def api_host(self) -> str:
        """The host that answers for it."""
        return DOCKER_HUB_API if self.host == DOCKER_HUB else self.host

    @property
    def name(self) -> str:
        """The reference without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What a registry is asked for; a digest decides where both are written."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str, where: str = "imageRef") -> Reference:
    """The reference that a text is. Without tag and digest the tag is `latest`. Raises `BuildError` InvalidRequest."""
    if not text:
        raise _refused("an image reference is needed", where)
    if len(text) > MOST_CHARACTERS:
        raise _refused(f"the reference has {len(text)} characters, {MOST_CHARACTERS} are allowed", where)
    shown = f'"{visible(text, limit=120)}"'
    if not text.isascii() or any(c <= " " or c == "\x7f" for c in text):
        raise _refused(f"{shown} has characters that no image reference has", where)
    if "://" in text:
        raise _refused(f"{shown} is a URL; a reference has no scheme", where)
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _refused(f"{shown} has no sha256 digest behind its @", where)
    first, slash, path = rest.partition("/")
    if slash and (any(c in first for c in ".:[]") or first == "localhost"):
        host = _host(first, shown, where)
    else:
        host, path = DOCKER_HUB, rest
    path, colon, tag = path.partition(":")
    if colon and not TAG.fullmatch(tag):
        raise _refused(f"{shown} has no tag behind its colon", where)
    if host in (DOCKER_HUB, "index.docker.io", DOCKER_HUB_API):
        host, path = DOCKER_HUB, path if "/" in path else f"library/{path}"
    if not REPOSITORY.fullmatch(path) or len(path) > 255:
        raise _refused(f"{shown} names no repository: lower-case parts with / between them", where)
    return Reference(host=host, repository=path, tag=tag or ("" if digest else "latest"), digest=digest)


def is_own(reference: Reference, registry: str, prefix: str) -> bool:
    """Whether a reference is of our own registry, where an organization has what is below its prefix.

    Raises `BuildError` RepositoryForbidden for what another one has there, InvalidRequest for another spelling of it.
    """
    if not registry or _bare(reference.host) != _bare(registry):
        return False
    if reference.host != registry.lower():
        raise _refused(
            f'"{reference.host}" is the registry {registry} of this server, written in another way', "imageRef"
        )
    if not reference.repository.startswith(prefix + "/"):
        message = f'"{reference.repository}" is outside of your prefix "{prefix}/" of {registry}'
        raise BuildError("RepositoryForbidden", message, where="imageRef")
    return True


def _bare(host: str) -> str:
    """A host without the port that its scheme implies."""
    return re.sub(r":(?:443|80)$", "", host.lower())


def _host(text: str, shown: str, where: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?", text)
    if found is None or int(found[2] or 1) > 65535:
        raise _refused(f"{shown} names no host: a name or address, and maybe a port", where)
    name = found[1].lower()
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            raise _refused(f"{shown} names no host: {name} is no address", where) from None
    else:
        _check_name(name, shown, where)
    return name + (f":{found[2]}" if found[2] else "")


def _check_name(name: str, shown: str, where: str) -> None:
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(f"{shown} names no host: {visible(name, limit=80)} is no name", where)
    if all(_NUMERIC.fullmatch(label) for label in labels):
        # Resolvers read 127.1, 0x7f.1 and 2130706433 as addresses; who reads the reference does not.
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise _refused(f"{shown} names no host: write an address as four numbers", where) from None


def _refused(message: str, where: str) -> BuildError:
    step = "Write it as HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST."
    return BuildError("InvalidRequest", message, where=where, next=step)
