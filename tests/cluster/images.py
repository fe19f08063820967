"""The images of the test cluster: made on the spot by our own recipes, layers and registry client."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from pathlib import Path

from builder.bases.make import build_base
from builder.images.image import BaseImage, Image, ImageConfig, build_image
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
    debian_base()


def debian_base() -> BaseImage:
    """A Debian of our own recipe."""
    return build_base(ImageStore(STORE / "bases"), "debian", HERE / "debian")


def debian(work: Path) -> Image:
    """The same with a server of files and root as its user, as the images are that people build on."""
    base = debian_base()
    config = ImageConfig(entrypoint=(), env=base.env, user="", ports=())
    return build_image(None, (*base.layers, server(work)), config)


def server(work: Path) -> Layer:
    """A layer with `serve`, which answers with the files of its folder."""
    go_build(HERE / "serve", (".",), work / "bin")
    return write_layer([(work / "bin/serve", "/usr/local/bin/serve")], work / "server.tar.gz", created_by="serve")


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
    """The base of the Dockerfiles under test, in a repository of the organization that builds them."""
    with tempfile.TemporaryDirectory() as work:
        return push(host, "acme/debian", debian(Path(work)))


def push_builder(host: str) -> str:
    """A builder image of Cloud Native Buildpacks: the lifecycle and two buildpacks of ours on the Debian."""
    user = "1000"
    with tempfile.TemporaryDirectory() as work:
        cnb = Path(work) / "cnb"
        shutil.copytree(HERE / "buildpacks", cnb / "sources")
        (cnb / "lifecycle").mkdir()
        for name in ("lifecycle", "launcher"):
            shutil.copyfile(BUILDERS.place / name, cnb / "lifecycle" / name)
            (cnb / "lifecycle" / name).chmod(0o755)
        for phase in ("analyzer", "detector", "restorer", "builder", "exporter", "rebaser"):
            (cnb / "lifecycle" / phase).symlink_to("lifecycle")
        (cnb / "sources" / "order.toml").rename(cnb / "order.toml")
        rows = []
        for source in sorted((cnb / "sources").iterdir()):
            row = tomllib.loads((source / "buildpack.toml").read_text())["buildpack"]
            place = cnb / "buildpacks" / row["id"].replace("/", "_") / row["version"]
            place.parent.mkdir(parents=True)
            source.rename(place)
            rows.append({"id": row["id"], "version": row["version"]})
            if row["id"] == "ignite/static":
                go_build(HERE / "serve", (".",), place)
        (cnb / "sources").rmdir()
        config = ImageConfig(
            entrypoint=(),
            env=(("PATH", USER_PATH), ("CNB_USER_ID", user), ("CNB_GROUP_ID", user)),
            user=f"{user}:{user}",
            labels=(
                ("io.buildpacks.builder.metadata", json.dumps({"buildpacks": rows})),
                ("io.buildpacks.lifecycle.apis", json.dumps({"platform": {"supported": ["0.13", "0.14"]}})),
            ),
            ports=(),
        )
        layer = write_layer([(cnb, "/cnb")], Path(work) / "layer.tar.gz", created_by="buildpacks")
        return push(host, "test/builder", build_image(debian_base(), (layer,), config))


def page(text: str, work: Path) -> Image:
    """A server of one page on the Debian, whose user is not root."""
    base, serve = debian_base(), server(work)
    (work / "index.html").write_text(text)
    layer = write_layer([(work / "index.html", "/srv/index.html")], work / "layer.tar.gz", created_by="page")
    config = ImageConfig(entrypoint=("serve",), env=base.env, workdir="/srv", ports=(8080,))
    return build_image(None, (*base.layers, serve, layer), config)


def push_run(host: str, version: str) -> str:
    """A run image: the Debian with a file that says which version of it this is."""
    with tempfile.TemporaryDirectory() as work:
        mark = Path(work) / "version"
        mark.write_text(version)
        layer = write_layer([(mark, "/etc/run-version")], Path(work) / "layer.tar.gz", created_by="version")
        config = ImageConfig(entrypoint=(), env=(("PATH", USER_PATH),), user="1000:1000", ports=())
        return push(host, "test/run", build_image(debian_base(), (layer,), config))


def one_program(program: Path, place: str, work: Path) -> Layer:
    """A layer with one program."""
    copy = work / "program"
    shutil.copyfile(program, copy)
    copy.chmod(0o755)
    return write_layer([(copy, place)], work / "layer.tar.gz", created_by=program.name)
