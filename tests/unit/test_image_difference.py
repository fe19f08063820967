"""What two images differ in, by the first file of the first layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.images.image import Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from tests.image_difference import difference
from tests.oci_fixtures import make_layer, make_tree

SAME = {"a.txt": "a", "b/c.txt": "0123456789" * 20_000}
CONFIG = ImageConfig(entrypoint=("/app/a",), env=(("A", "1"),))


def compared(one: Image, other: Image) -> str:
    blobs = {layer.digest: layer.path for image in (one, other) for layer in image.layers}
    configs = {image.config_digest: image.config for image in (one, other)}
    return difference(one.manifest, other.manifest, lambda digest: configs.get(digest) or blobs[digest].read_bytes())


def image(*layers: Layer, config: ImageConfig = CONFIG) -> Image:
    return build_image(None, layers, config)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"b/c.txt": SAME["b/c.txt"][:-1] + "x"}, "app/b/c.txt: 200000 and 200000 bytes, from byte 199999 on: "),
        ({"b/c.txt": SAME["b/c.txt"] + "x"}, "app/b/c.txt: 200000 and 200001 bytes, from byte 200000 on: "),
        ({"aa.txt": ""}, "its entry app/b, and app/aa.txt"),
        ({"c.txt": ""}, "its entry no more, and app/c.txt"),
    ],
    ids=["nothing", "a byte", "the size", "a name", "one file more"],
)
def test_the_first_file_is_named(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    first = make_layer(tmp_path, "first", {"same": "same"})
    one, other = make_layer(tmp_path / "one", "app", SAME), make_layer(tmp_path / "other", "app", SAME | changed)
    found = compared(image(first, one), image(first, other))
    assert found.startswith(f"layer 2, {said}" if said else "") and bool(found) == bool(said), found


def test_a_mode_and_a_time_are_named(tmp_path: Path) -> None:
    plain = make_layer(tmp_path, "plain", SAME)
    tree = make_tree(tmp_path / "executable", SAME, ("a.txt",))
    executable = write_layer([(tree, "/app")], tmp_path / "executable.tar.gz")
    assert compared(image(plain), image(executable)) == "layer 1, app/a.txt: mode 0o644, and 0o755"
    later = write_layer([(tmp_path / "plain-tree", "/app")], tmp_path / "later.tar.gz", mtime=7)
    assert compared(image(plain), image(later)) == "layer 1, app: mtime 0, and 7"


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    layer = make_layer(tmp_path, "one", SAME)
    other = ImageConfig(entrypoint=("/app/a",), env=(("A", "2"),))
    assert compared(image(layer), image(layer, config=other)) == "config.config.Env.0: 'A=1', and 'A=2'"
    assert compared(image(layer), image(layer, layer)) == "1 layers, and 2"
