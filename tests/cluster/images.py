"""The images of the test cluster: made on the spot by our own recipes, layers and registry client."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from builder.bases.make import build_base
from builder.images.image import Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from builder.images.registry import connect
from builder.images.store import ImageStore
from builder.kube.fetcher import compile_fetcher, fetcher_image
from tests.cluster.programs import BUILDERS, CACHE, HERE, go_build

STORE = CACHE.parent / "cluster"
USER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def prepare() -> None:
    """Compile and make what needs no running cluster: the first call on a machine takes minutes."""
    BUILDERS.compiled()
    debian()


def debian() -> Image:
    """A Debian of our own recipe, whose user is root, as the images are that people build on."""
    base = build_base(ImageStore(STORE / "bases"), "debian", HERE / "debian")
    return build_image(None, base.layers, ImageConfig(entrypoint=(), env=base.env, user="", ports=()))


def push(host: str, repository: str, image: Image) -> str:
    """Push to the cluster's registry; how a pod names it."""
    registry = connect(host, insecure=True)
    try:
        return registry.push(image, repository, "latest").reference
    finally:
        registry.close()


def push_pause(host: str) -> str:
    """What every pod's sandbox runs."""
    with tempfile.TemporaryDirectory() as work:
        go_build(HERE / "pause", (".",), Path(work) / "bin")
        layer = one_program(Path(work) / "bin" / "pause", "/pause", Path(work))
        return push(host, "test/pause", build_image(None, (layer,), ImageConfig(entrypoint=("/pause",), ports=())))


def push_fetcher(host: str) -> str:
    """What brings the source into a Job."""
    with tempfile.TemporaryDirectory() as work:
        return push(host, "test/fetch", fetcher_image(compile_fetcher("go", Path(work), os.environ), Path(work)))


def push_executor(host: str) -> str:
    """Kaniko's executor, laid out as its own Dockerfile does."""
    with tempfile.TemporaryDirectory() as work:
        layer = one_program(BUILDERS.place / "executor", "/kaniko/executor", Path(work))
        config = ImageConfig(
            entrypoint=("/kaniko/executor",),
            env=(
                ("PATH", f"{USER_PATH}:/kaniko"),
                ("HOME", "/root"),
                ("USER", "root"),
                ("DOCKER_CONFIG", "/kaniko/.docker/"),
                ("SSL_CERT_DIR", "/kaniko/ssl/certs"),
            ),
            workdir="/workspace",
            user="0:0",
            ports=(),
        )
        return push(host, "test/kaniko", build_image(None, (layer,), config))


def push_debian(host: str) -> str:
    """The base of the Dockerfiles under test."""
    return push(host, "test/debian", debian())


def one_program(program: Path, place: str, work: Path) -> Layer:
    """A layer with one program."""
    copy = work / "program"
    shutil.copyfile(program, copy)
    copy.chmod(0o755)
    return write_layer([(copy, place)], work / "layer.tar.gz", created_by=program.name)
