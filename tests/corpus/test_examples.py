"""Every example gives the same digest on two nodes that differ in all that must not travel into an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import two_nodes
from tests.build_fixtures import Server, tar_gz_of, zip_of
from tests.corpus.projects import COMPONENTS, build
from tests.golden.update import examples, files_of, target_of
from tests.image_difference import pushed_difference

pytestmark = pytest.mark.e2e


def test_the_nodes_differ_in_all_that_could_leak(server: Server, elsewhere: Server) -> None:
    two_nodes.assert_apart(server, elsewhere)


@pytest.mark.parametrize("folder", examples(), ids=lambda path: path.name)
def test_an_example_gives_the_same_digest_on_both(
    server: Server, elsewhere: Server, registry: str, folder: Path
) -> None:
    files, target = files_of(folder), target_of(folder)
    runtime = f"rust@{COMPONENTS}" if target else ""
    one = build(server, folder.name, zip_of(files), runtime, target=target, no_cache=True)
    two_nodes.pause_after(one)
    other = build(elsewhere, folder.name, tar_gz_of(files), runtime, target=target, no_cache=True)
    assert other.created_at_ms - one.created_at_ms >= two_nodes.APART_MS
    assert not one.from_cache_of
    assert not other.from_cache_of
    assert pushed_difference(registry, one, other) == ""
    assert one.image_digest == other.image_digest
