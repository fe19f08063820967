"""What a request names: a URL, a reference, a folder. Judged before anything is asked; no program reads it before."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from builder.errors import BuildError
from builder.text import visible

MOST_URL, MOST_REFERENCE = 2048, 255
HTTPS_PORT, SSH_PORT = 443, 22
DEFAULT_REFERENCE = "main"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+")
_HOST, _PORT = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)", r"(?P<port>[1-9][0-9]{0,4})"
_USER = r"(?P<user>[A-Za-z0-9_][A-Za-z0-9._+-]{0,63})"
_HTTPS = re.compile(rf"https://{_HOST}(?::{_PORT})?(?P<path>/[A-Za-z0-9._~%+@:,=/-]+)")
_SSH = re.compile(rf"ssh://{_USER}@{_HOST}(?::{_PORT})?(?P<path>/[A-Za-z0-9._~+@:,=/-]+)")
_SCP = re.compile(rf"{_USER}@{_HOST}:(?P<path>[A-Za-z0-9._~+@,=/][A-Za-z0-9._~+@:,=/-]*)")
"""How scp and git write it: a path that does not begin with `/` is below the home of the user."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40}):")
_REFERENCE = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_SHA = re.compile(r"[0-9a-f]{7,40}")
NEXT = "Write it as https://HOST/PATH, or for SSH as ssh://USER@HOST/PATH or USER@HOST:PATH."


@dataclass(frozen=True, kw_only=True)
class GitUrl:
    """A URL for https, or for SSH where it has a `user`. `host` is in lower case, an address in its brackets."""

    text: str
    host: str
    port: int
    user: str = ""

    @property
    def is_ssh(self) -> bool:
        """Whether ssh asks its host, with a key."""
        return bool(self.user)

    @property
    def uri(self) -> str:
        """The same as RFC 3986 has it: what scp writes is no URI."""
        if not self.user or self.text.startswith("ssh://"):
            return self.text
        return f"ssh://{self.user}@{self.host}/{self.text.partition(f'@{self.host}:')[2].lstrip('/')}"


def parse_url(text: str, where: str = "gitSource.url") -> GitUrl:
    """The URL of a repository. Raises `BuildError` GitUrlRefused."""
    shown = f'"{visible(_without_login(text), limit=120)}"'
    if not text or len(text) > MOST_URL:
        raise _refused(f"the URL has {len(text)} characters; it takes 1 to {MOST_URL}", where)
    found = _HTTPS.fullmatch(text) or _SSH.fullmatch(text) or _SCP.fullmatch(text)
    if found is None:
        raise _refused(_why(text, shown), where)
    parts = found.groupdict()
    user, path, named_port = parts.get("user", ""), parts["path"], parts.get("port") or ""
    port = int(named_port or (SSH_PORT if user else HTTPS_PORT))
    if port > 65535:
        raise _refused(f"{shown} has the port {port}", where)
    host = _checked_host(parts["host"].lower(), shown, where)
    _check_path(path, shown, where)
    if found.re is _SCP:
        return GitUrl(text=f"{user}@{host}:{path}", host=host, port=port, user=user)
    before, behind = f"ssh://{user}@" if user else "https://", f":{named_port}" if named_port else ""
    return GitUrl(text=f"{before}{host}{behind}{path}", host=host, port=port, user=user)


def check_secret(url: GitUrl, secret: str, where: str) -> None:
    """That a URL for SSH comes with a secret: without a key no host answers. Raises `BuildError` GitAuthFailed."""
    if url.is_ssh and not secret:
        message = f"{visible(url.text, limit=200)} is read with an SSH key, and no secret is named"
        step = "Store the key: ignite-builder secret set NAME --type git < KEYFILE; then name it: --secret NAME"
        raise BuildError("GitAuthFailed", message, where=where, next=step)


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
    if text.startswith("ssh://") and re.match(r"ssh://[^/]*:[^/@]*@", text):
        return f"{shown} has a password in it; SSH takes a key, which a secret has"
    if text.startswith("ssh://") and "@" not in text[len("ssh://") :].partition("/")[0]:
        return f"{shown} names no user; hosts of repositories mostly take git: ssh://git@HOST/PATH"
    if re.match(r"ssh://[^/:]*:[^/0-9]", text):
        return f"{shown} has a path where a URL has its port; it may be meant as USER@HOST:PATH"
    if text.startswith("ssh://") or re.fullmatch(r"[\w.-]+@[\w.-]+:.*", text):
        return f"{shown} has characters, a port or a path that no URL of a repository has over SSH"
    if scheme:
        return f"{shown} has the scheme {visible(scheme[1].lower(), limit=40)}; https and ssh are taken"
    return f"{shown} is no URL"


def _without_login(text: str) -> str:
    """The URL without its password; without its user, too, unless it is for SSH, where that is no secret."""
    shown = re.sub(r"^((?:ssh://)?[\w.+-]*):[^/]*@", r"\1:***@", text[:MOST_URL])
    return shown if shown.startswith("ssh://") else re.sub(r"//[^/]*@", "//***@", shown)


def _checked_host(host: str, shown: str, where: str) -> str:
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise _refused(f"{shown} names no host", where) from None
    _check_name(host, shown, where)
    return host


def _check_path(path: str, shown: str, where: str) -> None:
    parts = path.removeprefix("/").split("/")
    if not path.strip("/"):
        raise _refused(f"{shown} names no repository", where)
    if any(part in (".", "..") for part in parts) or "//" in path or "%2f" in path.lower() or "%2e" in path.lower():
        raise _refused(f"{shown} has a path that a server may read in two ways", where)
    if not re.fullmatch(r"(?:[^%]|%[0-9A-Fa-f]{2})*", path) or re.search(r"%[01][0-9A-Fa-f]|%7[fF]", path):
        raise _refused(f"{shown} has a path with what is no character", where)


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
