"""Which files a Go source embeds."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from builder.pipelines.base import Need
from builder.source.tree import Tree

_EMBED = re.compile(r"^//go:embed[ \t]+(.+)$", re.MULTILINE)
_PATTERN = re.compile(r'"([^"\n]*)"|`([^`\n]*)`|(\S+)')


def required_files(tree: Tree) -> Iterator[Need]:
    """The patterns of `//go:embed`; those of tests are not compiled."""
    for path in tree.files():
        if not path.endswith(".go") or path.endswith("_test.go"):
            continue
        text = tree.read_text(path)
        for line in _EMBED.finditer(text):
            where = f"{path}:{text.count(chr(10), 0, line.start()) + 1}"
            for found in _PATTERN.finditer(line[1]):
                pattern = next(group for group in found.groups() if group is not None).removeprefix("all:")
                below = posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern))
                yield Need(where=where, what=f"embeds {pattern}", paths=(below,))
