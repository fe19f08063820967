"""The same source gives the same digest: later, and on a node that differs in all that must not travel into it.

One source of each runtime. Every example and target is compared in the corpus.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import two_nodes
from tests.build_fixtures import (
    DENO_PACKAGES,
    GO_MODULE,
    PYTHON_HANDLER,
    PYTHON_WITH_A_WHEEL,
    RUST_PACKAGE,
    Files,
    Server,
    tar_gz_of,
    zip_of,
)
from tests.image_difference import pushed_difference

pytestmark = pytest.mark.e2e
NAMES = {name: "x\n" for name in ("ä.txt", "B.txt", "a.txt")}
"""Files that the two locales order in different ways."""


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_nodes.make_locales(tmp_path_factory.mktemp("locales"))


@pytest.fixture(scope="module")
def here(start: two_nodes.Start) -> Iterator[Server]:
    with two_nodes.one_node(start) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere(start: two_nodes.Start, locales: Path) -> Iterator[Server]:
    with two_nodes.other_node(start, locales) as running:
        yield running


def test_the_nodes_differ_in_all_that_could_leak(here: Server, elsewhere: Server) -> None:
    two_nodes.assert_apart(here, elsewhere)


def test_the_locales_order_names_in_different_ways(locales: Path) -> None:
    def ordered(environ: dict[str, str]) -> list[str]:
        argv, env = ("sort",), environ | {"PATH": os.environ["PATH"], "LOCPATH": str(locales)}
        done = subprocess.run(argv, input="\n".join(NAMES), env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert ordered(two_nodes.ONE) == ["B.txt", "a.txt", "ä.txt"]
    assert ordered(two_nodes.OTHER) == ["a.txt", "ä.txt", "B.txt"]


@pytest.mark.parametrize(
    ("runtime", "files"),
    [("python", PYTHON_WITH_A_WHEEL), ("go", GO_MODULE), ("deno", DENO_PACKAGES), ("rust", RUST_PACKAGE)],
    ids=["python", "go", "deno", "rust"],
)
def test_the_same_source_gives_the_same_digest(
    here: Server, elsewhere: Server, registry: str, runtime: str, files: Files
) -> None:
    files = {**files, **NAMES}
    first = here.build("same", zip_of(files), runtime, no_cache=True)
    two_nodes.pause_after(first)
    again = here.build("same", zip_of(files), runtime, no_cache=True)
    other = elsewhere.build("same", tar_gz_of(files), runtime, no_cache=True)
    assert again.created_at_ms - first.created_at_ms >= two_nodes.APART_MS
    assert other.created_at_ms - again.created_at_ms > 0
    for later in (again, other):
        assert not later.from_cache_of
        assert not later.attached_to
        assert pushed_difference(registry, first, later) == ""
    assert first.image_digest == again.image_digest == other.image_digest


def test_what_differs_is_named_by_layer_file_and_byte(here: Server, registry: str) -> None:
    sources = (tar_gz_of({"handler.py": PYTHON_HANDLER, "note.txt": word}) for word in ("one\n", "other\n"))
    one, other = (here.build("differ", source, "python") for source in sources)
    found = pushed_difference(registry, one, other)
    assert re.fullmatch(
        r"layer \d, app/src/note\.txt: 4 and 6 bytes, from byte 1 on: b'one\\n', and b'other\\n'", found
    )
