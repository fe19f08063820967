"""The history of a commit as a build gets it: which refs, what its `.git` has beside the objects, how much. Pure.

Nothing of a host's repository but objects and the names of tags comes into it. Hooks, settings, alternates, grafts and
replacements are no objects, and each file that could name one is written here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.git.source import check_reference
from builder.text import canonical_json

HEAD = "refs/ignite/head"
"""Where the commit is in what is fetched with its history."""
MOST_OBJECTS = 1_000_000
MOST_TAGS = 20_000
MOST_BYTES = 256 * 1024 * 1024
"""Packs with their indexes, and the index of the commit's files, have no more."""
PACK_BYTES = 64 * 1024 * 1024
"""A pack has no more: a history is several files, none of which a tool refuses for its size."""
PACK = re.compile(r"pack-[0-9a-f]{40}\.(?:pack|idx)")
CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = false
"""
WITHOUT = "Build the commit without its history."
KEPT = "refs/ignite/commit"
"""A ref in a file of its own: git takes no folder without `refs` for a repository, and an empty one may be lost."""
_TAG = re.compile(r"([0-9a-f]{40}) refs/tags/(.+)")
_COUNT = re.compile(r"(in-pack|count): ([0-9]{1,12})")


@dataclass(frozen=True, kw_only=True)
class History:
    """What a build gets beside the files of its commit. `branch` is empty where a tag or a commit was named; `tags`
    are (name, SHA) of those that are at the commit or before it, sorted; `left_out` counts names that no file has."""

    sha: str
    branch: str
    tags: tuple[tuple[str, str], ...]
    left_out: int = 0

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all that a program can read of it: a SHA of git stands for everything before it."""
        parts = {"commit": self.sha, "branch": self.branch, "tags": self.tags}
        return f"sha256:{hashlib.sha256(canonical_json(parts)).hexdigest()}"

    @property
    def files(self) -> Mapping[str, str]:
        """The files of `.git` that hold no objects, path → content."""
        refs = {f"refs/tags/{name}": sha for name, sha in self.tags}
        if self.branch:
            refs[f"refs/heads/{self.branch}"] = self.sha
        rows = sorted(refs.items(), key=lambda row: row[0].encode("utf-8", "surrogateescape"))
        packed = "".join(f"{sha} {name}\n" for name, sha in rows)
        return {
            "HEAD": f"ref: refs/heads/{self.branch}\n" if self.branch else f"{self.sha}\n",
            "config": CONFIG,
            "packed-refs": f"# pack-refs with: sorted \n{packed}",
            KEPT: f"{self.sha}\n",
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know of it."""
        if not self.left_out:
            return ()
        return (f"{self.left_out} of the repository's tags are not in .git: their names are no text, or too long",)


def history_of(lines: Sequence[str], sha: str, branch: str, at: str) -> History:
    """What `commands.tags` printed. Raises `BuildError` ArchiveTooLarge for too many tags."""
    if len(lines) > MOST_TAGS:
        raise too_large(f"more than {MOST_TAGS} tags", at)
    found: dict[str, str] = {}
    left_out = 0
    for line in lines:
        match = _TAG.fullmatch(line)
        if match is None or not _is_name(match[2]):
            left_out += 1
        else:
            found[match[2]] = match[1]
    return History(sha=sha, branch=branch, tags=tuple(sorted(found.items())), left_out=left_out)


def check_objects(lines: Sequence[str], at: str) -> None:
    """Judge what `commands.count_objects` printed. Raises `BuildError` ArchiveTooLarge."""
    count = sum(int(found[2]) for line in lines if (found := _COUNT.fullmatch(line)))
    if count > MOST_OBJECTS:
        raise too_large(f"{count} objects, {MOST_OBJECTS} are allowed", at)


def check_head(lines: Sequence[str], sha: str, at: str) -> None:
    """Judge what `commands.head` printed. Raises `BuildError` GitReferenceNotFound where git did not take the commit
    with all that is before it."""
    if [*lines] != [sha]:
        message = f"the host does not have the whole history of {sha}: its own repository may be shallow"
        raise BuildError("GitReferenceNotFound", message, where=f"{at}.history", next=WITHOUT)


def too_large(what: str, at: str) -> BuildError:
    """A history that no build gets."""
    message = f"the history of the commit has {what}"
    return BuildError("ArchiveTooLarge", message, where=f"{at}.history", next=WITHOUT)


def _is_name(text: str) -> bool:
    """Whether a tag has a name that is text: bytes that are none came as U+FFFD."""
    try:
        return "\ufffd" not in text and check_reference(text) == text
    except BuildError:
        return False
