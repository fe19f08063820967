"""The layout folder as a destination."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from builder.errors import BuildError, PlatformError
from builder.images.destination import Destination, fallback_tag
from builder.images.image import digest_of
from builder.images.layout import REF_NAME, Layout
from tests.oci_fixtures import make_image


def attach(layout: Destination, digest: str, text: str = "statement") -> str:
    made = layout.attach("org/app", digest, "application/vnd.in-toto+json", text.encode(), "text/plain", {"k": "v"})
    made.confirm()
    return made.digest


def test_push_then_read(tmp_path: Path) -> None:
    layout: Destination = Layout(tmp_path / "out")
    image = make_image(tmp_path / "w")
    pushed = layout.push(image, "org/app", "v1")
    assert pushed.reference == f"oci-layout/org/app@{image.digest}"
    assert (pushed.uploaded_blobs, pushed.existing_blobs) == (3, 0)
    assert pushed.uploaded_bytes == len(image.config) + sum(layer.size for layer in image.layers)
    assert layout.resolve("org/app", "v1") == image.digest == layout.resolve("org/app", image.digest)
    manifest = layout.get_manifest("org/app", "v1")
    assert manifest is not None and manifest.body == image.manifest
    for layer in image.layers:
        assert b"".join(layout.open_blob("org/app", layer.digest)) == layer.path.read_bytes()
    assert layout.resolve("org/app", "v2") is None
    assert layout.resolve("org/other", image.digest) is None, "a manifest belongs to its repository"


def test_a_second_push_sends_nothing(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "out"), make_image(tmp_path / "w")
    layout.push(image, "org/app", "v1")
    index = (layout.root / "index.json").stat()
    again = layout.push(image, "org/app", "v1")
    assert (again.uploaded_blobs, again.uploaded_bytes, again.existing_blobs) == (0, 0, 3)
    assert (layout.root / "index.json").stat().st_ino == index.st_ino, "nothing changed, nothing was written"


def test_tags_move_and_survive(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    one, two = make_image(tmp_path / "1", "one"), make_image(tmp_path / "2", "two")
    layout.push(one, "org/app", "latest")
    layout.push(two, "org/app", None)
    layout.put_tag("org/app", two.digest, "latest")
    assert layout.resolve("org/app", "latest") == two.digest
    assert layout.resolve("org/app", one.digest) == one.digest
    names = [
        entry["annotations"][REF_NAME] for entry in json.loads((layout.root / "index.json").read_text())["manifests"]
    ]
    assert names == sorted(names) and len(set(names)) == 3
    with pytest.raises(PlatformError):
        layout.put_tag("org/app", "sha256:" + "0" * 64, "latest")


def test_attaching_is_idempotent_and_lists_each_once(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "out"), make_image(tmp_path / "w")
    layout.push(image, "org/app", None)
    first, second, other = (
        attach(layout, image.digest),
        attach(layout, image.digest),
        attach(layout, image.digest, "o"),
    )
    assert first == second != other
    listed = layout.referrers("org/app", image.digest)
    assert {entry["digest"] for entry in listed} == {first, other} and len(listed) == 2
    assert listed[0]["artifactType"] == "application/vnd.in-toto+json" and listed[0]["annotations"] == {"k": "v"}
    manifest = layout.get_manifest("org/app", first)
    assert manifest is not None
    value = json.loads(manifest.body)
    assert value["subject"]["digest"] == image.digest and value["subject"]["size"] == len(image.manifest)
    assert b"".join(layout.open_blob("org/app", value["layers"][0]["digest"])) == b"statement"
    assert layout.resolve("org/app", fallback_tag(image.digest)) is not None
    assert layout.referrers("org/app", "sha256:" + "1" * 64) == ()


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "out"), make_image(tmp_path / "w")
    layout.push(image, "org/app", None)

    def work(number: int) -> None:
        Layout(layout.root).push(image, "org/app", f"t{number}")
        attach(Layout(layout.root), image.digest, f"statement {number % 3}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {layout.resolve("org/app", f"t{number}") for number in range(8)} == {image.digest}
    assert len(layout.referrers("org/app", image.digest)) == 3
    assert not list(layout.root.rglob(".partial-*"))


def test_a_changed_layer_or_blob_is_noticed(tmp_path: Path) -> None:
    layout, image = Layout(tmp_path / "out"), make_image(tmp_path / "w")
    image.layers[0].path.write_bytes(b"changed")
    with pytest.raises(BuildError, match="any more"):
        layout.push(image, "org/app", "v1")
    assert layout.resolve("org/app", "v1") is None and not list(layout.root.rglob(".partial-*"))
    layout.blob_path(digest_of(b"x")).write_bytes(b"y")
    with pytest.raises(PlatformError):
        b"".join(layout.open_blob("org/app", digest_of(b"x")))


@pytest.mark.parametrize("repository", ["", "UPPER", "../up", "a//b", "/a", "a/", "a/../b", "a b", "a" * 256, "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, repository: str) -> None:
    layout = Layout(tmp_path / "out")
    with pytest.raises(BuildError) as caught:
        layout.resolve(repository, "latest")
    assert caught.value.reason == "InvalidRequest"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", ["", ".x", "a/b", "a b", "x" * 129, "sha256:abc", "sha512:" + "0" * 128, "a\n"])
def test_a_reference_that_is_none_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(BuildError) as caught:
        Layout(tmp_path / "out").resolve("org/app", reference)
    assert caught.value.reason == "InvalidRequest"
