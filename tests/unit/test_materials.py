"""What a build says it was made of: the modules that go.sum pins, the digests of files as they were sent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builder.attempt import dirhash
from builder.pipelines.go import modules
from builder.source.tree import DirTree

H1 = "h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0="
HEX = "dirHash:348bda24330eb231c0f27d630212d2833ac0cf2d4782bfa136b6f9edefbde05d"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"go.sum": f"example.com/y v1.0.0 {H1}\nexample.com/y v1.0.0/go.mod {H1}\n"}, ["example.com/y@v1.0.0"]),
        (
            {"go.sum": f"b.example/z v2.0.0 {H1}\na.example/y v1.0.0 {H1}\n"},
            ["b.example/z@v2.0.0", "a.example/y@v1.0.0"],
        ),
        ({"go.sum": f"example.com/y v1.0.0 {H1}\n" * 2}, ["example.com/y@v1.0.0"]),
        ({"go.sum": "example.com/y v1.0.0 h2:x\nno sum\n\nexample.com/y v1 h1:short=\n"}, []),
    ],
    ids=["module", "in order", "twice", "malformed"],
)
def test_go_names_what_go_sum_pins(files: dict[str, str], found: list[str]) -> None:
    wanted = modules.fetched(files["go.sum"]).wanted
    named = [(one.package, dirhash.in_hex(one.digest)) for one in wanted if one.package]
    assert named == [(f"pkg:golang/{name}", HEX) for name in found]


def test_the_digest_of_a_file_follows_links_only_inside(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/go.sum").write_bytes(b"pinned")
    (tmp_path / "tree/inside").symlink_to("go.sum")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "tree/outside").symlink_to("../secret")
    tree = DirTree(tmp_path / "tree")
    assert tree.sha256("go.sum") == tree.sha256("inside") == "sha256:" + hashlib.sha256(b"pinned").hexdigest()
    assert not tree.has("outside")
