"""The context of a Dockerfile's build: its paths, and what an ignore file leaves out of them. Pure."""

from __future__ import annotations

import difflib
import posixpath
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice

from builder.dockerfile import globbing
from builder.globs import MobyPattern, deciding

MOST_COMPARED = 200_000
"""Names that wildcards are compared with, in all, long ones counted several times; what is beyond is for the build."""
COMPARED_AT_ONCE = 10
"""Rules of an ignore file that cost as much as one name and its pattern."""
MOST_BELOW = 8000
"""Paths below a folder that is left out, of which a rule with `!` may send some: so many are looked at."""


@dataclass(kw_only=True)
class Context:
    """What a build would see: `paths` of all files, links and folders; `ignored` by which rules, of which file."""

    paths: Collection[str]
    ignored: tuple[MobyPattern, ...] = ()
    ignore_file: str = ".dockerignore"
    compared: int = 0
    _known: frozenset[str] = field(default_factory=frozenset)
    _sorted: list[str] | None = None
    _rules: dict[str, MobyPattern | None] = field(default_factory=dict)
    _left_out: dict[str, MobyPattern | None] = field(default_factory=dict)
    _negated: bool = False

    def __post_init__(self) -> None:
        self._known = frozenset(self.paths) | {""}
        self._negated = any(pattern.negated for pattern in self.ignored)

    def has(self, path: str) -> bool:
        return path in self._known

    def rule(self, path: str) -> MobyPattern | None:
        """The rule that leaves a path out; None: it is sent. The last one that matches it or a folder above decides."""
        if path in self._rules:
            return self._rules[path]
        if self.compared >= MOST_COMPARED:
            return None
        self.compared += 1 + len(self.ignored) * (1 + path.count("/")) // COMPARED_AT_ONCE
        return self._rules.setdefault(path, deciding(self.ignored, path))

    def left_out(self, path: str) -> MobyPattern | None:
        """The rule by which nothing of a path is sent."""
        if path not in self._left_out:
            self._left_out[path] = self._nothing_below(path)
        return self._left_out[path]

    def _nothing_below(self, path: str) -> MobyPattern | None:
        rule = self.rule(path) if self.ignored and path else None
        if rule is None or not self._negated:
            return rule
        if self._sorted is None:
            self._sorted = sorted(self.paths)
        paths, at = self._sorted, bisect_left(self._sorted, path + "/")
        for count, each in enumerate(islice(paths, at, None)):
            if not each.startswith(path + "/"):
                break
            if count >= MOST_BELOW or self.compared >= MOST_COMPARED or self.rule(each) is None:
                return None
            self.compared += count % COMPARED_AT_ONCE == 0
        return rule

    def near(self, path: str) -> str:
        """A path that may be meant."""
        name = posixpath.basename(path)
        same = sorted(each for each in self.paths if posixpath.basename(each) == name)
        if same:
            return same[0]
        folder = posixpath.dirname(path)
        beside = [each for each in self.paths if posixpath.dirname(each) == folder][:2000]
        return next(iter(difflib.get_close_matches(path, beside, 1)), "")

    def matched(self, pattern: str) -> bool:
        """Whether a path matches a pattern with wildcards and is sent."""
        if self.compared >= MOST_COMPARED:
            return True
        parts = [globbing.tokens(part) for part in pattern.split("/")]
        if None in parts:
            return True  # no pattern: the build reports it
        for path in self.paths:
            names = path.split("/")
            if len(names) != len(parts):
                continue
            self.compared += 1 + len(pattern) * len(path) // 4096
            if self.compared >= MOST_COMPARED:
                return True
            same = all(globbing.matches(part or (), name) for part, name in zip(parts, names, strict=True))
            if same and self.left_out(path) is None:
                return True
        return False
