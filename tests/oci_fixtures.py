"""Small trees and images for the tests of `builder/images`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from builder.images.image import Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer


def make_tree(root: Path, files: Mapping[str, str | bytes], executable: tuple[str, ...] = ()) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o755 if name in executable else 0o644)
    return root


def make_layer(work: Path, name: str, files: Mapping[str, str | bytes], place: str = "/app") -> Layer:
    tree = make_tree(work / f"{name}-tree", files)
    return write_layer([(tree, place)], work / f"{name}.tar.gz", created_by=name)


def make_image(work: Path, text: str = "hello", layers: int = 2) -> Image:
    work.mkdir(parents=True, exist_ok=True)
    made = [make_layer(work, f"layer{n}", {f"file{n}": text * 100, "sub/x": str(n)}) for n in range(layers)]
    return build_image(None, tuple(made), ImageConfig(entrypoint=("/app/file0",), env=(("A", "1"),)))
