"""Private modules of a request: the paths that hosts of the organization's own serve, and the secret that opens them.

Pure. The services judge both arguments at the submit and at the claim, a pipeline in its plan, the node before it lends
the login to a step: each of them reads the request itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import BuildError
from builder.git.source import parse_url
from builder.pipelines.arguments import Argument
from builder.text import visible

PATHS = Argument(
    name="private",
    meaning="module paths that are fetched by git over https from their own hosts, and from no proxy, as GOPRIVATE has "
    "them: a host, or a host and the start of a path, apart by commas; `*` stands for any part of one name of the path",
    example="git.example.com/acme,github.com/acme/*-internal",
)
SECRET = Argument(
    name="private_secret",
    meaning="the git secret whose token the hosts of `private` take; the step that downloads has it, and no other",
    example="ci",
)
PORT = 443
"""A module path has no port."""
MOST_PATHS, MOST_HOSTS, MOST_TEXT, MOST_NAMES = 32, 8, 2048, 16
_NAME = re.compile(r"(?=[A-Za-z0-9_~*-])[A-Za-z0-9._~-]{0,100}\*?[A-Za-z0-9._~-]{0,100}(?<!\.)")
_SSH = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//|[0-9]*(?:/|$)).*|(?:git\+)?ssh://.*")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Both arguments, judged."""

    paths: tuple[str, ...]
    secret: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """Each host once, in order."""
        return tuple(sorted({path.partition("/")[0] for path in self.paths}))

    def covers(self, module: str) -> bool:
        """Whether a module or import path is one of these, or below one, as `go` reads GOPRIVATE."""
        names = module.split("/")
        return any(_matches(path.split("/"), names) for path in self.paths)


def asked(given: Mapping[str, str]) -> Asked | None:
    """What build arguments ask of private modules; None where they name none. Raises `BuildError` InvalidRequest."""
    if PATHS.name not in given and SECRET.name not in given:
        return None
    for one, other in ((PATHS, SECRET), (SECRET, PATHS)):
        if one.name not in given:
            message = f"the build argument {other.name} takes {one.name} beside it"
            hint = f"For example {one.name}={one.example}"
            raise BuildError("InvalidRequest", message, where=f"buildArgs.{one.name}", next=hint)
    if not given[SECRET.name].strip():
        raise _refused("it names no secret", SECRET)
    found = Asked(paths=_paths(given[PATHS.name]), secret=given[SECRET.name])
    if len(found.hosts) > MOST_HOSTS:
        raise _refused(f"it has {len(found.hosts)} hosts, limit {MOST_HOSTS}")
    return found


def check_host(found: Asked, host: str) -> None:
    """Refuse a secret that is for another host than these. Raises `BuildError` InvalidRequest."""
    if host and _name_of(host) not in found.hosts:
        message = f'the secret "{found.secret}" is only for {host}; the private modules are at {", ".join(found.hosts)}'
        raise BuildError("InvalidRequest", message, where=f"buildArgs.{SECRET.name}")


def opened_by(hosts: tuple[str, ...], host: str) -> tuple[str, ...]:
    """Those of the hosts that a secret is for; `host`: the only one that it is sent to, or empty."""
    return tuple(one for one in hosts if not host or one == _name_of(host))


def _name_of(host: str) -> str:
    return host.removesuffix(f":{PORT}")


def _paths(text: str) -> tuple[str, ...]:
    if len(text) > MOST_TEXT:
        raise _refused(f"it has {len(text)} characters, limit {MOST_TEXT}")
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if len(words) > MOST_PATHS:
        raise _refused(f"it has {len(words)} paths, limit {MOST_PATHS}")
    for word in words:
        if why := _fault(word):
            raise _refused(f'"{visible(_without_login(word), limit=80)}" {why}')
    return words


def _fault(word: str) -> str:
    """Why a word is no path of private modules, or nothing."""
    host, *names = word.split("/")
    if _SSH.fullmatch(word):
        return "is for SSH, which modules are not fetched by; git over https with a token is taken"
    if "://" in word:
        return "is a URL; a module path has no scheme"
    if ":" in word:
        return "has a port or a user, and no module path has one"
    if any(character in host for character in "*?["):
        return "leaves its host open; a host is named whole, since the step that downloads reaches no other"
    if "." not in host or host != host.lower() or not _is_host(host):
        return "begins with no host in lower case"
    if len(names) > MOST_NAMES or not all(_NAME.fullmatch(name) for name in names):
        return "is no module path: names of letters, digits and . _ ~ -, with one * at most in each"
    return ""


def _without_login(word: str) -> str:
    """What may be shown of a word that somebody took for a URL."""
    return re.sub(r"(?:^|(?<=[/@]))[^/@]*+@", "***@", word)


def _is_host(host: str) -> bool:
    try:
        return parse_url(f"https://{host}/x").host == host
    except BuildError:
        return False


def _matches(pattern: list[str], names: list[str]) -> bool:
    return len(names) >= len(pattern) and all(map(_fits, pattern, names))


def _fits(pattern: str, name: str) -> bool:
    before, star, behind = pattern.partition("*")
    if not star:
        return name == pattern
    return len(name) >= len(before) + len(behind) and name.startswith(before) and name.endswith(behind)


def _refused(why: str, argument: Argument = PATHS) -> BuildError:
    message = f"the build argument {argument.name} cannot be read: {why}"
    hint = f"For example {argument.name}={argument.example}"
    return BuildError("InvalidRequest", message, where=f"buildArgs.{argument.name}", next=hint)
