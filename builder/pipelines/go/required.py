"""Which files a Go source embeds."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from builder.pipelines.base import Need
from builder.pipelines.go.source import FILE_LIMIT, read_embeds
from builder.source.tree import Tree


def required_files(tree: Tree) -> Iterator[Need]:
    """The patterns of `//go:embed`; those of tests are not compiled."""
    for path in tree.files():
        if not path.endswith(".go") or path.endswith("_test.go"):
            continue
        for pattern, line in read_embeds(tree.read_text(path, FILE_LIMIT)):
            glob = pattern.removeprefix("all:")
            below = posixpath.normpath(posixpath.join(posixpath.dirname(path), glob))
            yield Need(where=f"{path}:{line}", what=f"embeds {glob}", paths=(below,))
