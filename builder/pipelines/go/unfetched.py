"""What git and `go` print where a private module does not arrive, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.output import SAID, TROUBLE, first_match, said_from
from builder.pipelines.private import PATHS, SECRET
from builder.plan import Diagnosis, Private

_URL = re.compile(r"https://(?:[^'/@\s]{1,300}@)?([^'\"/\s:?]{1,253})(/[^'\"\s?]{0,2000})?")
_LOGIN = re.compile(r"could not read (?:Username|Password)")
_REFUSED = re.compile(r"Authentication failed for|requested URL returned error: 40[13]|\?go-get=1: 40[13] ")
_GONE = re.compile(r"repository '[^']{1,2000}' not found|[Rr]epository not found|requested URL returned error: 404")
_OTHER = re.compile(r"GOVCS disallows using (\S{1,40}) for|transport '([\w+-]{1,40})' not allowed|insecure URL")
_DOWN = re.compile(r"requested URL returned error: (?:429|5\d\d)|\?go-get=1: (?:429|5\d\d) ")
_BROKEN = re.compile(r"Failed to connect|Empty reply from server|timed out|tunnel failed, response 5|\": EOF")
"""Words about a connection that ended too early; `TROUBLE` has other words of it."""
_CERTIFICATE = re.compile(r"certificate|x509:|SSL peer|TLS handshake")
_NAMELESS = re.compile(r"unrecognized import path")
_SILENT = re.compile(r"no secure protocol found for repository")
"""What `go` prints of a path that names its repository, whatever git printed."""
_NO_VERSION = re.compile(r"unknown revision|no matching versions|invalid version|does not contain package")
_MODULE = re.compile(r"(?:^|[\s:\"])((?:[\w-]+\.)+[\w-]+(?:/[\w.~-]+)*)(?:@(v[\w.+-]+))?(?=[\s:\",]|$)")


def unfetched(private: Private, said: Sequence[str]) -> Diagnosis | None:
    """What the first line about a private module means; None where no line is about one."""
    secret = f'the secret "{private.secret}"'
    where = f"buildArgs.{SECRET.name}"
    if line := first_match(said, _REFUSED):
        host = _host(line, private)
        return Diagnosis(
            reason="GitAuthFailed", message=f"{host} refused the login of {secret}, or lets it read nothing there",
            where=where, said=said_from(said, _REFUSED),
            next="Store a token that is valid and may read it: ignite-builder secret set NAME --type git",
        )  # fmt: skip
    if first_match(said, _SILENT) and (module := _found(_about(said, _SILENT), private)):
        return Diagnosis(
            reason="GitAuthFailed", message=f"git cannot read https://{module[1]} with {secret}: "
            "its token is refused or may not read it, or there is no such repository",
            where=where, said=said_from(said, _SILENT),
            next=f"Try the token by hand: git ls-remote https://{module[1]}",
        )  # fmt: skip
    if line := first_match(said, _LOGIN):
        return Diagnosis(
            reason="GitAuthFailed", message=f"{_host(line, private)} asks for a login, and {secret} is not for it",
            where=where, said=said_from(said, _LOGIN),
            next=f"Name the host in {PATHS.name}, and a git secret that is for it.",
        )  # fmt: skip
    if line := first_match(said, _GONE):
        found = _URL.search(line)
        at = f"https://{found[1]}{found[2] or ''}" if found else _host(line, private)
        return Diagnosis(
            reason="DependencyNotFound", message=f"there is no repository at {at}, or {secret} may not see it",
            where=_where(_about(said, _GONE), private), said=said_from(said, _GONE),
            next="Correct the module's path, or give the token the right to read it.",
        )  # fmt: skip
    if found := _OTHER.search(first_match(said, _OTHER)):
        how, about = found[1] or found[2] or "another scheme", _about(said, _OTHER)
        return Diagnosis(
            reason="DependencyNotFound", message=f"{_named(about, private)} is fetched by {how}; https is taken",
            where=_where(about, private), said=said_from(said, _OTHER),
            next="Serve it by git over https, or vendor it: go mod vendor",
        )  # fmt: skip
    of_hosts = [line for line in said if any(host in line for host in private.hosts)]
    if line := first_match(said, _DOWN) or first_match(of_hosts, TROUBLE) or first_match(of_hosts, _BROKEN):
        return Diagnosis(
            reason="GitUnavailable", message=f"{_host(line, private)} did not answer: {line.strip()[:200]}",
            said=tuple(one for one in said[said.index(line) :] if one)[:SAID],
            next="Nothing to change in your code. Try again later.",
        )  # fmt: skip
    if line := first_match(of_hosts, _CERTIFICATE):
        return Diagnosis(
            reason="GitUrlRefused", message=f"the certificate of {_host(line, private)} is not trusted here",
            where=f"buildArgs.{PATHS.name}", said=said_from(said, _CERTIFICATE),
            next="The operator of the node adds the authority that signed it: ca_bundle.",
        )  # fmt: skip
    if first_match(said, _NAMELESS) and (module := _found(_about(said, _NAMELESS), private)):
        return Diagnosis(
            reason="DependencyNotFound", message=f"{module[1].partition('/')[0]} names no repository of {module[1]}",
            where=_where(_about(said, _NAMELESS), private), said=said_from(said, _NAMELESS),
            next="Let the host answer ?go-get=1, or write the repository into the module's path: HOST/PATH.git",
        )  # fmt: skip
    line = next((one for one in said if _NO_VERSION.search(one) and _found([one], private)), "")
    if line:
        return Diagnosis(
            reason="DependencyNotFound", message=f"{_named([line], private)} is not at its host",
            where=_where([line], private), said=said_from(said, _NO_VERSION),
            next="Push the tag of this version, or require one that is there.",
        )  # fmt: skip
    return None


def _host(line: str, private: Private) -> str:
    """The host of a URL in the words of git or `go`."""
    found = _URL.search(line)
    return found[1] if found else private.hosts[0] if len(private.hosts) == 1 else "a host of private"


def _about(said: Sequence[str], pattern: re.Pattern[str]) -> Sequence[str]:
    """The first line in which the pattern is found and those above it, the nearest first: they name what failed."""
    at = next((at for at, line in enumerate(said) if pattern.search(line)), len(said) - 1)
    return [*reversed(said[: at + 1]), *said[at + 1 :]]


def _found(said: Sequence[str], private: Private) -> re.Match[str] | None:
    """The first module of these hosts."""
    every = (found for line in said for found in _MODULE.finditer(line))
    return next((one for one in every if one[1].partition("/")[0] in private.hosts and "/" in one[1]), None)


def _named(said: Sequence[str], private: Private) -> str:
    found = _found(said, private)
    return f"{found[1]}@{found[2]}" if found and found[2] else found[1] if found else "a private module"


def _where(said: Sequence[str], private: Private) -> str:
    found = _found(said, private)
    return f"go.mod  {found[1]}" if found else ""
