"""A folder as it is sent: its entries without what is left out, judged as the unpacker will judge them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder.cli.ignore import (
    DOCKER,
    SECRETS,
    Choice,
    Includes,
    Rule,
    Rules,
    default_rule,
    litter_rule,
    rules_of,
    secret_rule,
)
from builder.errors import BuildError
from builder.source.entry import ArchiveEntry, safe_parts, safe_target, shown
from builder.source.limits import ArchiveLimits, Meter
from builder.source.links import judge_links
from builder.source.write import single_folder


@dataclass(frozen=True, kw_only=True)
class FolderEntry:
    """One entry of a folder: `path` relative with `/`, `link` the target of a symbolic link."""

    path: str
    size: int
    executable: bool = False
    link: str | None = None
    is_dir: bool = False


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left out: a file, or a folder with all below it (`path` ends with `/`)."""

    path: str
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class FoundFolder:
    """A folder: what is sent, sorted by path, and what is not."""

    root: Path
    entries: tuple[FolderEntry, ...]
    left: tuple[Left, ...] = ()

    @property
    def files(self) -> tuple[FolderEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.is_dir)

    @property
    def lifted(self) -> str:
        """The one folder that holds everything and becomes the root where it is unpacked, or ""."""
        return single_folder({entry.path: "folder" if entry.is_dir else "file" for entry in self.entries})


def find(root: Path, choice: Choice | None = None) -> FoundFolder:
    """Everything of a folder that is sent. Never follows a link; sockets and devices are left out silently.

    Raises `BuildError` InvalidRequest for what cannot be read, ArchiveTooLarge for folders too deep.
    """
    choice = choice or Choice()
    walk = _Walk(root=root, rules=rules_of(root, choice), includes=Includes(choice.include), choice=choice)
    entries, left = walk.folder("", None, 1)
    entries.sort(key=lambda entry: os.fsencode(entry.path))
    return FoundFolder(
        root=root, entries=tuple(entries), left=tuple(sorted(left, key=lambda each: os.fsencode(each.path)))
    )


@dataclass(kw_only=True)
class _Walk:
    root: Path
    rules: Rules
    includes: Includes
    choice: Choice
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)

    def folder(self, below: str, out: Rule | None, depth: int) -> tuple[list[FolderEntry], list[Left]]:
        """What a folder holds. `out`: the rule that leaves it out, where it is looked into all the same."""
        if depth - 1 > self.limits.depth:
            message = f'"{shown(below)}" is {depth - 1} levels deep, limit {self.limits.depth}'
            raise BuildError("ArchiveTooLarge", message, where=below, next="Leave it out, or make it less deep")
        here = self.root / below
        items = self._list(here, below)
        names = frozenset(item.name for item, mode in items if stat.S_ISREG(mode))
        self.rules.enter(below, here, names)
        entries: list[FolderEntry] = []
        left: list[Left] = []
        for item, mode in items:
            path = f"{below}/{item.name}" if below else item.name
            is_folder = stat.S_ISDIR(mode)
            if not is_folder and not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                continue
            rule, for_good = self._rule(item, path, names, out, is_folder=is_folder)
            if not is_folder:
                if rule is not None:
                    left.append(Left(path=path, rule=rule))
                else:
                    with suppress(FileNotFoundError):  # a link that is gone by now
                        entries.append(_entry(item, path, mode))
                continue
            if rule is not None and (for_good or not self._may_hold(path)):
                left.append(Left(path=f"{path}/", rule=rule))
                continue
            inner, inner_left = self.folder(path, rule, depth + 1)
            if rule is not None and not inner:
                left.append(Left(path=f"{path}/", rule=rule))
                continue
            entries += [FolderEntry(path=path, size=0, is_dir=True), *inner]
            left += inner_left
        return entries, left

    def _list(self, here: Path, below: str) -> list[tuple[os.DirEntry[str], int]]:
        try:
            with os.scandir(here) as listing:
                found = []
                for item in listing:
                    with suppress(FileNotFoundError):  # an editor's lock or a temporary file, gone by now
                        found.append((item, item.stat(follow_symlinks=False).st_mode))
                return found
        except OSError as error:
            message = f"{shown(below) or self.root}/ cannot be read: {error.strerror}"
            raise BuildError(
                "InvalidRequest", message, where=below or str(self.root), next="Make it readable"
            ) from None

    def _rule(
        self, item: os.DirEntry[str], path: str, beside: frozenset[str], out: Rule | None, *, is_folder: bool
    ) -> tuple[Rule | None, bool]:
        """Why a path is left out, or None; and whether nothing below it can be sent."""
        there = Path(item.path)
        if litter := litter_rule(item.name, is_folder=is_folder):
            return litter, True
        verdict = self.rules.verdict(path, is_folder=is_folder)
        if self.includes.names(path):
            return None, False
        if secret := secret_rule(item.name, there):
            return secret, False
        if out is not None and out.source == SECRETS:
            return out, False
        if self.includes.match(path):
            return None, False
        if out is not None and out.source != DOCKER:  # only a line of that file takes back what lies below
            return out, False
        if verdict is not None and verdict.out:
            return verdict.rule, False
        made = None if self.choice.no_ignore else default_rule(item.name, there, beside, is_folder=is_folder)
        return (None if verdict is not None else made), False

    def _may_hold(self, folder: str) -> bool:
        return self.includes.may_hold(folder) or self.rules.may_hold(folder)


def _entry(item: os.DirEntry[str], path: str, mode: int) -> FolderEntry:
    if stat.S_ISLNK(mode):
        return FolderEntry(path=path, size=0, link=os.readlink(item.path))
    size = item.stat(follow_symlinks=False).st_size
    return FolderEntry(path=path, size=size, executable=bool(mode & stat.S_IXUSR))


def judge(found: FoundFolder) -> None:
    """Refuse what the unpacker would refuse of names and links. Raises `BuildError` ArchiveUnsafe about the folder."""
    links = {}
    try:
        for entry in found.entries:
            name = os.fsencode(entry.path).decode("utf-8", "surrogateescape")
            judged = ArchiveEntry(number=0, name=name, kind="link" if entry.link is not None else "file",
                            target=entry.link or "")  # fmt: skip
            above = len(safe_parts(judged, name)) - 1
            if entry.link is not None:
                safe_target(judged, above)
                links[name] = judged
        judge_links(links, found.lifted)
    except BuildError as error:
        next_step = "Leave it out with a line in .igniteignore, or replace it: only what is below the folder is sent"
        raise BuildError(error.reason, error.message, where=error.where, next=next_step) from None


def judge_sizes(found: FoundFolder, limits: ArchiveLimits) -> None:
    """Refuse what the unpacker would refuse of sizes, names and counts, but for the total. Raises `BuildError`
    ArchiveTooLarge."""
    meter = Meter(limits, 0)
    for entry in found.entries:
        if entry.size > limits.file:
            meter.entry(ArchiveEntry(number=0, name=entry.path, kind="file", size=entry.size))
        meter.named(entry.path, entry.link or "")
    meter.made(len(found.entries))


def left_out(left: Sequence[Left], most: int = 3) -> str:
    """What is left out in one line: by which rule, how much, and examples; "" for nothing."""
    by_source: dict[str, list[str]] = {}
    for each in left:
        by_source.setdefault(each.rule.source, []).append(each.path)
    parts = []
    for source, paths in by_source.items():
        named = ", ".join(shown(path) for path in paths[:most]) + (", …" if len(paths) > most else "")
        parts.append(f"{len(paths)} by {source if source.endswith('ignore') else f'the {source}'} ({named})")
    return "; ".join(parts)
