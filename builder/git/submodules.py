"""Submodules of a commit: which ones `.gitmodules` names, where they are, which commit of each belongs to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.git.source import MOST_URL, NEXT, GitUrl, parse_url
from builder.text import visible

FILE = ".gitmodules"
MOST, DEPTH = 64, 4
"""Submodules of a build, and how deep they are in one another."""
MOST_LISTED = 1000
"""Names in one `.gitmodules`: they become words of one command line."""
MOST_NAMED = 8
_KEY = re.compile(r"submodule\.(.*)\.(path|url)", re.DOTALL)
_LINK = re.compile(r"160000 commit ([0-9a-f]{40})\t(.*)")


@dataclass(frozen=True, kw_only=True)
class Submodule:
    """A submodule as the commit names it. `url` is text of a stranger."""

    name: str
    path: str
    url: str


def named_in(lines: Sequence[str]) -> tuple[Submodule, ...]:
    """The submodules of a `.gitmodules`, as `commands.submodules` prints it; those alone whose folder can be one.

    Of two with the same folder the last one counts, as in git.
    """
    found: dict[str, dict[str, str]] = {}
    for entry in "\n".join(lines).split("\0"):
        key, _, value = entry.partition("\n")
        if match := _KEY.fullmatch(key):
            found.setdefault(match[1], {})[match[2]] = value
    every = (Submodule(name=name, path=one.get("path", ""), url=one.get("url", "")) for name, one in found.items())
    return tuple({one.path: one for one in every if _is_folder(one.path)}.values())


def links_in(lines: Sequence[str]) -> Mapping[str, str]:
    """Folder → commit of the submodules that a tree has, as `commands.links` prints it."""
    return {found[2]: found[1] for line in lines if (found := _LINK.fullmatch(line))}


def url_of(above: GitUrl, one: Submodule) -> GitUrl:
    """Where a submodule is; what begins with `./` or `../` is relative to the repository that names it.

    Raises `BuildError` GitUrlRefused, also for one over SSH of another user, host or port than those of `above`.
    """
    where, text = f"{FILE}: submodule.{visible(one.name, limit=80)}.url", one.url
    if text.startswith(("./", "../")) and len(text) <= MOST_URL:
        base, path = _split(above)
        while text.startswith(("./", "../")):
            if text.startswith("../"):
                if not path:
                    message = f'the url "{visible(one.url, limit=120)}" leads out of its host'
                    raise BuildError("GitUrlRefused", message, where=where, next=NEXT)
                path.pop()
            text = text.partition("/")[2]
        text = base + "/".join((*path, text))
    url = parse_url(text, where)
    if url.is_ssh and (url.user, url.host, url.port) != (above.user, above.host, above.port):
        message = f"{visible(url.text, limit=200)} is over SSH, and no key is for {url.user} at {url.host}:{url.port}"
        step = "Name it by https where it is public, or have it at the user, host and port of the repository."
        raise BuildError("GitUrlRefused", message, where=where, next=step)
    return url


def _split(url: GitUrl) -> tuple[str, list[str]]:
    """(what stands before its path, the parts of the path)."""
    if url.is_ssh and not url.text.startswith("ssh://"):
        base, path = f"{url.user}@{url.host}:", url.text.removeprefix(f"{url.user}@{url.host}:").rstrip("/")
        return (f"{base}/", path[1:].split("/")) if path.startswith("/") else (base, path.split("/"))
    scheme, _, rest = url.text.rstrip("/").partition("://")
    place, *path_parts = rest.split("/")
    return f"{scheme}://{place}/", path_parts


def left_out(modules: Sequence[Submodule]) -> str:
    """A warning that names them; empty without one."""
    if not modules:
        return ""
    names = [visible(one.path, limit=80) for one in modules[:MOST_NAMED]]
    more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
    are = "are submodules, whose folders are" if len(modules) > 1 else "is a submodule, whose folder is"
    return f"{', '.join(names)}{more} {are} empty in this build; submodules = true (--submodules) fetches them"


def too_many(most: str, at: str) -> BuildError:
    """More submodules than a build may have."""
    message = f"the commit has more submodules than a build takes: {most}"
    step = "Leave those out that the build does not need, or copy their files into the repository."
    return BuildError("InvalidRequest", message, where=f"{at}.submodules", next=step)


def _is_folder(path: str) -> bool:
    """Whether git would take it as the folder of a submodule, and a line can name it."""
    parts = path.split("/")
    return (
        0 < len(path) <= 1024
        and path.isprintable()
        and '"' not in path
        and "\\" not in path
        and not any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    )
