"""Images on a node's disk, and pulling one from where artifacts are."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.images.image import CONFIG_BYTES, Image, canonical, digest_of, image_of
from builder.images.layer import MEDIA_TYPE, PLAIN_TYPE
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
    ],
    ids=["deep", "surrogate", "list", "no JSON", "no layers", "a number"],
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


def changed(made: Image, registry: Layout, config: Any = None, **layer: Any) -> str:
    """Push an image as somebody else makes it: `config` changes the part of that name, `layer` the descriptor of its
    one layer, where `content` is its blob. Returns its digest."""
    value, whole = json.loads(made.manifest), json.loads(made.config)
    whole["config"] = {**whole["config"], **config} if isinstance(config, dict) else config or whole["config"]
    layers = made.layers
    if "content" in layer:
        content = layer.pop("content")
        path = layers[0].path.with_name("content")
        path.write_bytes(content)
        layers = (replace(layers[0], path=path, digest=digest_of(content), size=len(content)),)
        layer |= {"digest": digest_of(content), "size": len(content)}
    if "diff_id" in layer:
        whole["rootfs"]["diff_ids"] = [layer.pop("diff_id")]
    body = canonical(whole)
    value["config"] |= {"digest": digest_of(body), "size": len(body)}
    value["layers"][0] |= layer
    manifest = canonical(value)
    registry.push(
        replace(made, manifest=manifest, config=body, digest=digest_of(manifest), layers=layers), "org/app", None
    )
    return digest_of(manifest)


@pytest.mark.parametrize(
    ("config", "where", "words"),
    [
        ([["Entrypoint", ["/app"]]], "config", "is no object"),
        (7, "config", "is no object"),
        ({"Env": {"A": "1"}}, "config.Env", "is no list"),
        ({"Env": [1]}, "config.Env", "that is no text: 1"),
        ({"Env": ["=1"]}, "config.Env", "without a name"),
        ({"Env": [""]}, "config.Env", "without a name"),
        ({"Env": ["A=\0"]}, "config.Env", "a NUL"),
        ({"Env": ["A=" + "x" * 131_070]}, "config.Env", "more than 131071 bytes"),
        ({"Env": ["A=" + "\u00fc" * 65_536]}, "config.Env", "more than 131071 bytes"),
        ({"Entrypoint": "/app"}, "config.Entrypoint", "is no list"),
        ({"Entrypoint": ["/app", None]}, "config.Entrypoint", "that is no text: None"),
        ({"Entrypoint": None, "Cmd": "/app"}, "config.Cmd", "is no list"),
        ({"Entrypoint": None}, "config.Entrypoint", "nothing to start"),
        ({"Entrypoint": [], "Cmd": []}, "config.Entrypoint", "nothing to start"),
        ({"Entrypoint": [""]}, "config.Entrypoint", "nothing to start"),
        ({"User": 1000}, "config.User", "that is no text: 1000"),
        ({"User": "2147483648"}, "config.User", "2147483647"),
        ({"User": "1:" + "9" * 5000}, "config.User", "2147483647"),
        ({"WorkingDir": ["/"]}, "config.WorkingDir", "that is no text"),
        ({"WorkingDir": "app"}, "config.WorkingDir", "no absolute path: app"),
    ],
)
def test_a_config_that_starts_nothing_is_refused_before_anything_is_fetched(
    tmp_path: Path, config: Any, where: str, words: str
) -> None:
    registry = Layout(tmp_path / "registry")
    digest = changed(make_image(tmp_path / "w", layers=1), registry, config)
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(BuildError) as caught:
        pull(registry, "org/app", digest, home)
    assert (caught.value.reason, caught.value.where) == ("ImageContractViolated", where)
    assert words in caught.value.message and f"org/app@{digest}" in caught.value.message
    assert len(caught.value.message) < 300 and list(home.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        {"Env": None, "User": None, "WorkingDir": None, "Cmd": None},
        {"Entrypoint": None, "Cmd": ["/app"]},
        {"Env": ["A"], "User": "app"},
        {"User": "\u00b2"},
        {"Env": ["A=" + "x" * 131_069]},
    ],
)
def test_what_a_config_may_leave_out_is_taken(tmp_path: Path, config: dict[str, Any]) -> None:
    registry = Layout(tmp_path / "registry")
    found = pull(registry, "org/app", changed(make_image(tmp_path / "w", layers=1), registry, config), tmp_path)
    assert found is not None and config.items() <= found.items()


@pytest.mark.parametrize(("user", "mode"), [("7", 0o705), ("app", 0o705), ("other", 0o700)])
def test_what_a_user_may_by_the_images_files_the_root_lets_all_others(tmp_path: Path, user: str, mode: int) -> None:
    """A name says who it is once the files are there."""
    made, registry = make_image(tmp_path / "w", layers=1), Layout(tmp_path / "registry")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry = tarfile.TarInfo("srv")
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, 7, 8
        tar.addfile(entry)
    digest = changed(
        made,
        registry,
        {"User": user},
        content=content.getvalue(),
        mediaType=PLAIN_TYPE,
        diff_id=digest_of(content.getvalue()),
    )
    looked: list[Path] = []

    def who(root: Path, name: str) -> tuple[int, int]:
        looked.append(root / "srv")
        assert looked[-1].is_dir()
        return {"7": (7, 0), "app": (7, 8), "other": (9, 9)}[name]

    pull(registry, "org/app", digest, tmp_path, who=who)
    assert (tmp_path / "root/srv").stat().st_mode & 0o777 == mode and len(looked) == 1


@pytest.mark.parametrize("kind", [PLAIN_TYPE, "application/vnd.docker.image.rootfs.diff.tar"])
def test_a_pulled_layer_of_plain_tar_is_taken_as_one(tmp_path: Path, kind: str) -> None:
    made, registry = make_image(tmp_path / "w", layers=1), Layout(tmp_path / "registry")
    tar = gzip.decompress(made.layers[0].path.read_bytes())
    pull(registry, "org/app", changed(made, registry, content=tar, mediaType=kind), tmp_path)
    assert (tmp_path / "root/app/file0").is_file()


def test_a_pulled_layer_of_another_kind_is_named_before_it_is_fetched(tmp_path: Path) -> None:
    registry = Layout(tmp_path / "registry")
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    digest = changed(make_image(tmp_path / "w", layers=1), registry, mediaType=kind)
    with pytest.raises(BuildError) as caught:
        pull(registry, "org/app", digest, tmp_path)
    assert caught.value.reason == "ImageContractViolated" and caught.value.where.startswith("layer sha256:")
    assert f"{kind}; tar and tar+gzip are taken" in caught.value.message and not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "layer", [{"content": b"no gzip"}, {"diff_id": "sha256:" + "1" * 64}, {"diff_id": 5}, {"mediaType": PLAIN_TYPE}]
)
def test_a_layer_that_was_pushed_damaged_is_the_images_fault(tmp_path: Path, layer: dict[str, Any]) -> None:
    registry = Layout(tmp_path / "registry")
    digest = changed(make_image(tmp_path / "w", layers=1), registry, **layer)
    with pytest.raises(BuildError, match="a layer is damaged") as caught:
        pull(registry, "org/app", digest, tmp_path)
    assert caught.value.reason == "ImageContractViolated" and not (tmp_path / "root").exists()


def test_an_entry_that_leads_out_is_named_with_its_image(tmp_path: Path) -> None:
    """Whoever starts an image packed no archive: `tar -tf FILE` is of no use to them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../x"))
    registry, content = Layout(tmp_path / "registry"), out.getvalue()
    digest = changed(
        make_image(tmp_path / "w", layers=1),
        registry,
        content=content,
        mediaType=PLAIN_TYPE,
        diff_id=digest_of(content),
    )
    with pytest.raises(BuildError, match=rf"org/app@{digest} cannot be unpacked: \.\./x leads out") as caught:
        pull(registry, "org/app", digest, tmp_path)
    assert caught.value.reason == "ArchiveUnsafe" and "Build the artifact again" in caught.value.next
    assert not (tmp_path / "root").exists()


def test_a_manifest_with_a_layer_for_each_byte_is_refused(tmp_path: Path) -> None:
    made, registry = make_image(tmp_path / "w", layers=1), Layout(tmp_path / "registry")
    value, whole = json.loads(made.manifest), json.loads(made.config)
    value["layers"] *= 1001
    whole["rootfs"]["diff_ids"] *= 1001
    body = canonical(whole)
    value["config"] |= {"digest": digest_of(body), "size": len(body)}
    manifest = canonical(value)
    registry.push(replace(made, manifest=manifest, config=body, digest=digest_of(manifest)), "org/app", None)
    with pytest.raises(BuildError, match="1001 layers, 1000 are allowed"):
        pull(registry, "org/app", digest_of(manifest), tmp_path)


def outside() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    return out.getvalue()


def test_a_toolchain_image_that_cannot_be_unpacked_is_no_fault_of_a_source(tmp_path: Path) -> None:
    made, store = make_image(tmp_path / "w", layers=1), ImageStore(tmp_path / "store")
    for kind, content, words in (
        ("application/vnd.oci.image.layer.v1.tar+zstd", b"", "tar and tar"),
        (MEDIA_TYPE, gzip.compress(outside()), "leads out of its folder"),
    ):
        layer = replace(made.layers[0], path=tmp_path / "blob", digest=digest_of(content), size=len(content))
        layer.path.write_bytes(content)
        image = image_of(made.config, (replace(layer, media_type=kind),))
        store.put(image, "go")
        with pytest.raises(BuildError, match=words) as caught:
            store.rootfs(image.digest)
        assert caught.value.reason == "ToolchainUnavailable" and image.digest in caught.value.message


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
