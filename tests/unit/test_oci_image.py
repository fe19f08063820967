"""Images: canonical bytes and what the config says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.images.image import BaseImage, ImageConfig, Platform, build_image, canonical, digest_of
from builder.images.layer import Layer


def layer(number: int) -> Layer:
    return Layer(
        path=Path(f"/nowhere/{number}"),
        digest="sha256:" + f"{number:064x}",
        diff_id="sha256:" + f"{number + 100:064x}",
        size=number * 10,
        created_by=f"step {number}",
    )


CONFIG = ImageConfig(entrypoint=("/app/main", "-x"), env=(("PORT", "8080"), ("PATH", "/mine")), labels=(("b", "2"),))
BASE = BaseImage(
    name="go",
    digest="sha256:" + "b" * 64,
    layers=(layer(1),),
    env=(("PATH", "/bin"), ("TZ", "UTC")),
    labels=(("a", "1"),),
)


def test_canonical_json_is_sorted_dense_and_utf_8() -> None:
    assert canonical({"b": [1, None], "a": "ä"}) == '{"a":"ä","b":[1,null]}'.encode()
    with pytest.raises(BuildError):
        canonical({"a": "\ud800"})


def test_the_manifest_and_config_are_pinned() -> None:
    """Whoever changes these changes the digest of every artifact."""
    assert (
        build_image(BASE, (layer(2),), CONFIG).digest
        == "sha256:aa0e3251f593b55414f1e9ae711e3c5ca5137dbd88718bc5000e565f3721c633"
    )


def test_layers_of_the_base_come_first_and_match_their_diff_ids() -> None:
    image = build_image(BASE, (layer(2), layer(3)), CONFIG)
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    assert [part["digest"] for part in manifest["layers"]] == [layer(n).digest for n in (1, 2, 3)]
    assert config["rootfs"]["diff_ids"] == [layer(n).diff_id for n in (1, 2, 3)]
    assert [entry["created_by"] for entry in config["history"]] == ["step 1", "step 2", "step 3"]
    assert manifest["config"]["digest"] == digest_of(image.config) and manifest["config"]["size"] == len(image.config)
    assert image.digest == digest_of(image.manifest)
    assert image.size_bytes == len(image.manifest) + len(image.config) + 60
    assert manifest["annotations"]["org.opencontainers.image.base.digest"] == BASE.digest


def test_the_config_joins_base_and_app() -> None:
    run = json.loads(build_image(BASE, (), CONFIG).config)["config"]
    assert run["Env"] == ["PATH=/mine", "TZ=UTC", "PORT=8080"]
    assert run["Entrypoint"] == ["/app/main", "-x"] and run["User"] == "65532:65532"
    assert run["Labels"] == {"a": "1", "b": "2"} and run["ExposedPorts"] == {"80/tcp": {}}


def test_every_part_moves_the_digest() -> None:
    plain = build_image(BASE, (layer(2),), CONFIG).digest
    changes: dict[str, Any] = {
        "entrypoint": ("/x",),
        "env": (),
        "workdir": "/x",
        "user": "1:1",
        "labels": (),
        "ports": (81,),
    }
    others = {
        build_image(None, (layer(2),), CONFIG).digest,
        build_image(BASE, (layer(3),), CONFIG).digest,
        build_image(replace(BASE, digest="sha256:" + "c" * 64), (layer(2),), CONFIG).digest,
        *(build_image(BASE, (layer(2),), replace(CONFIG, **{key: value})).digest for key, value in changes.items()),
    }
    assert plain not in others and len(others) == 9


def test_a_base_for_another_platform_is_refused() -> None:
    with pytest.raises(BuildError, match="arm64"):
        build_image(replace(BASE, platform=Platform(architecture="arm64")), (), CONFIG, Platform())
