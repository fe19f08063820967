"""Images on a node's disk, and pulling one from where artifacts are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.images.image import CONFIG_BYTES, canonical, digest_of
from builder.images.layout import Layout
from builder.images.store import ImageStore, pull
from builder.text import size
from tests.oci_fixtures import make_image


def test_a_pulled_image_is_its_files_and_its_config(tmp_path: Path) -> None:
    image = make_image(tmp_path / "w")
    registry = Layout(tmp_path / "registry")
    registry.push(image, "org/app", None)
    home = tmp_path / "home"
    home.mkdir()
    config = pull(registry, "org/app", image.digest, home)
    assert config == json.loads(image.config)["config"]
    assert sorted(path.name for path in (home / "root/app").iterdir()) == ["file0", "file1", "sub"]
    with pytest.raises(BuildError, match="SourceNotFound"):
        pull(registry, "org/app", "sha256:" + "0" * 64, home)


def test_an_image_that_is_too_large_is_not_unpacked_and_names_the_setting(tmp_path: Path) -> None:
    """For an image of the node the operator's part is missing; for one that somebody starts it is the image."""
    image = make_image(tmp_path / "w")
    store = ImageStore(tmp_path / "store", most_unpacked=2000)
    store.put(image, "go")
    with pytest.raises(BuildError, match=r"takes more than .* unpacked") as caught:
        store.rootfs(image.digest)
    assert caught.value.reason == "ToolchainUnavailable"
    assert "UNPACKED_IMAGE_BYTES" in caught.value.next
    assert list((tmp_path / "store/rootfs").iterdir()) == []
    assert ImageStore(tmp_path / "store").rootfs(image.digest).is_dir()
    registry = Layout(tmp_path / "registry")
    registry.push(image, "org/app", None)
    for limit in (10, 2000):  # the layers' blobs, and what is in them
        home = tmp_path / f"home{limit}"
        home.mkdir()
        with pytest.raises(BuildError, match="ArtifactTooLarge") as caught:
            pull(registry, "org/app", image.digest, home, limit)
        assert "UNPACKED_IMAGE_BYTES" in caught.value.next and not (home / "root").exists()
    limit = image.layers[0].size + 1  # the second layer is one too much, and the limit is that of all
    with pytest.raises(BuildError, match=rf"takes more than {size(limit)} here"):
        pull(registry, "org/app", image.digest, home, limit)


def test_a_config_that_no_artifact_has_is_not_read_into_memory(tmp_path: Path) -> None:
    made = make_image(tmp_path / "w", layers=1)
    registry = Layout(tmp_path / "registry")
    home = tmp_path / "home"
    home.mkdir()
    for more, fits in ((0, True), (1, False)):
        config = made.config.rstrip() + b" " * (CONFIG_BYTES + more - len(made.config.rstrip()))
        value = json.loads(made.manifest)
        value["config"] |= {"digest": digest_of(config), "size": 10}  # whatever the manifest has for it
        body = canonical(value)
        image = replace(made, manifest=body, config=config, digest=digest_of(body))
        registry.push(image, "org/app", None)
        if fits:
            assert pull(registry, "org/app", image.digest, home) == json.loads(made.config)["config"]
            continue
        (tmp_path / "other").mkdir()
        with pytest.raises(BuildError, match=r"ArtifactTooLarge: the config .* has more than 1 MiB"):
            pull(registry, "org/app", image.digest, tmp_path / "other")
        assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        b'{"config": ' + b"[" * 100_000,
        b'{"config": {}, "rootfs": {"diff_ids": ["\\ud800"]}}',
        b"[]",
        b"nothing",
        b'{"config": {}, "rootfs": {"diff_ids": []}}',
        b'{"config": {}, "rootfs": {"diff_ids": 5}}',
        b'{"config": 5, "rootfs": {"diff_ids": ["sha256:0"]}}',
    ],
    ids=["deep", "surrogate", "list", "no JSON", "no layers", "a number", "a config that is a number"],
)
def test_a_config_that_is_none_is_refused_with_its_image(tmp_path: Path, config: bytes) -> None:
    made = make_image(tmp_path / "w", layers=1)
    value = json.loads(made.manifest)
    value["config"] |= {"digest": digest_of(config), "size": len(config)}
    body = canonical(value)
    registry = Layout(tmp_path / "registry")
    registry.push(replace(made, manifest=body, config=config, digest=digest_of(body)), "org/app", None)
    with pytest.raises(BuildError, match="is no image") as caught:
        pull(registry, "org/app", digest_of(body), tmp_path)
    assert caught.value.reason == "ImageContractViolated" and not (tmp_path / "root").exists()


def test_a_manifest_cannot_name_a_file_outside_the_folder(tmp_path: Path) -> None:
    image = make_image(tmp_path / "w", layers=1)
    value = json.loads(image.manifest)
    value["layers"][0]["digest"] = "sha256:../../escaped"
    body = canonical(value)
    registry = Layout(tmp_path / "registry")
    registry.push(replace(image, manifest=body, digest=digest_of(body)), "org/app", None)
    home = tmp_path / "deep/home"
    home.mkdir(parents=True)
    with pytest.raises(BuildError, match="is no sha256 digest"):
        pull(registry, "org/app", digest_of(body), home)
    assert list(home.iterdir()) == [] and not (tmp_path / "escaped").exists()


def test_an_image_that_is_put_is_found_by_name_and_pushed_on_as_it_was(tmp_path: Path) -> None:
    store, image = ImageStore(tmp_path / "store"), make_image(tmp_path / "w")
    put = store.put(image, "go")
    assert put == store.get("go") == store.get("go", image.digest) and store.names() == ("go",)
    assert [layer.base for layer in put.layers] == ["go", "go"]
    again = store.image("go")
    assert again is not None and (again.digest, again.manifest, again.config) == (
        image.digest,
        image.manifest,
        image.config,
    )
    assert store.image("absent") is None and store.get("../go") is None
