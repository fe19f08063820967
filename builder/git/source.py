"""What a request names: a URL, a reference, a folder. Judged before anything is asked; no program reads it before."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from builder.errors import BuildError
from builder.text import visible

MOST_URL, MOST_REFERENCE = 2048, 255
DEFAULT_REFERENCE = "main"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+")
_HTTPS = re.compile(r"https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?(/[A-Za-z0-9._~%+@:,=/-]+)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40}):")
_REFERENCE = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_SHA = re.compile(r"[0-9a-f]{7,40}")
NEXT = "Write it as https://HOST/PATH."


@dataclass(frozen=True, kw_only=True)
class GitUrl:
    """An https URL. `host` is in lower case, an address in its brackets."""

    text: str
    host: str
    port: int


def parse_url(text: str, where: str = "gitSource.url") -> GitUrl:
    """The URL of a repository. Raises `BuildError` GitUrlRefused."""
    shown = f'"{visible(_without_login(text), limit=120)}"'
    if not text or len(text) > MOST_URL:
        raise _refused(f"the URL has {len(text)} characters; it takes 1 to {MOST_URL}", where)
    found = _HTTPS.fullmatch(text)
    if found is None:
        raise _refused(_why(text, shown), where)
    host, port, path = found[1].lower(), int(found[2] or 443), found[3]
    if port > 65535:
        raise _refused(f"{shown} has the port {port}", where)
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise _refused(f"{shown} names no host", where) from None
    else:
        _check_name(host, shown, where)
    parts = path.split("/")[1:]
    if any(part in (".", "..") for part in parts) or "//" in path or "%2f" in path.lower() or "%2e" in path.lower():
        raise _refused(f"{shown} has a path that a server may read in two ways", where)
    if not re.fullmatch(r"(?:[^%]|%[0-9A-Fa-f]{2})*", path) or re.search(r"%[01][0-9A-Fa-f]|%7[fF]", path):
        raise _refused(f"{shown} has a path with what is no character", where)
    return GitUrl(text=f"https://{host}{f':{found[2]}' if found[2] else ''}{path}", host=host, port=port)


def check_reference(text: str, where: str = "gitSource.reference") -> str:
    """A branch, a tag or a commit, `main` for none, by the rules of git-check-ref-format. Raises `BuildError`."""
    if not text:
        return DEFAULT_REFERENCE
    parts = text.split("/")
    wrong = (
        len(text) > MOST_REFERENCE
        or not _REFERENCE.fullmatch(text)
        or not text.isprintable()
        or text.startswith("-")
        or text == "@"
        or ".." in text
        or "@{" in text
        or text.endswith(".")
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    )
    if wrong:
        step = "Name a branch, a tag or a commit, as git itself writes it."
        message = f'"{visible(text, limit=80)}" cannot be a reference'
        raise BuildError("InvalidRequest", message, where=where, next=step)
    return text


def is_commit(text: str) -> bool:
    """Whether a reference may be a commit, whole or short."""
    return _SHA.fullmatch(text) is not None


def _why(text: str, shown: str) -> str:
    scheme = _SCHEME.match(text)
    if re.match(r"https://[^/]*@", text, re.IGNORECASE):
        return f"{shown} has a user or a token in it; a secret holds these"
    if text.startswith("https://"):
        return f"{shown} has characters, a port or a path that no URL of a repository has"
    if text.startswith("ssh://") or re.fullmatch(r"[\w.-]+@[\w.-]+:.*", text):
        return f"{shown} is for SSH, which is not built yet; https is taken"
    if scheme:
        return f"{shown} has the scheme {visible(scheme[1].lower(), limit=40)}; https is taken"
    return f"{shown} is no URL"


def _without_login(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", text[:MOST_URL])


def _check_name(name: str, shown: str, where: str) -> None:
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused(f"{shown} names no host", where)
    if all(_NUMERIC.fullmatch(label) for label in labels):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise _refused(f"{shown} names no host: write an address as four numbers", where) from None


def _refused(message: str, where: str) -> BuildError:
    return BuildError("GitUrlRefused", message, where=where, next=NEXT)
