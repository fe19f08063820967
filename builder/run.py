"""Run an artifact on this machine: pull by digest, unpack, start it sandboxed, wait until it answers.

PORT is 8080 inside: a process without capabilities cannot bind 80. The root is read-only, the user numeric, and there
is no network but the relay that brings requests in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder import sandbox
from builder.config import Settings
from builder.errors import BuildError
from builder.oci import place
from builder.oci.destination import Destination
from builder.oci.layer import Layer
from builder.oci.rootfs import unpack_image
from builder.proto.dodil.ignite.v1 import ignite_build_pb2 as pb

PORT = 8080
READY_S = 20.0
MEMORY = 512 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Running:
    """A started app: where it answers, and how long it took until it did (ms)."""

    url: str
    ready_ms: int
    serving: sandbox.Serving


@contextmanager
def started(settings: Settings, build: pb.Build, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """The artifact of a build, running. Raises `BuildError` StepFailed when it ends or does not answer in time."""
    target = place.destination(
        settings.registry,
        f"{settings.data_dir}/artifacts",
        username=settings.registry_username,
        password=settings.registry_password,
        insecure=settings.registry_insecure,
        ca_bundle=settings.ca_bundle,
    )
    folder = Path(settings.node_dir) / "run"
    folder.mkdir(parents=True, exist_ok=True)
    for each in (Path(settings.node_dir), folder):
        each.chmod(0o755)
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    uid = settings.build_uid - 1
    said: list[str] = []
    try:
        config = pull(target, build.repository, build.image_digest, home)
        work = home / "work"
        work.mkdir()
        if os.geteuid() == 0:
            os.chown(work, uid, settings.build_uid)
        image_env = dict(pair.partition("=")[::2] for pair in config.get("Env", ()))
        command = sandbox.Command(
            argv=tuple(config["Entrypoint"]) + tuple(config.get("Cmd") or ()),
            work=work,
            env={**image_env, "PORT": str(PORT), "HOME": "/tmp", **(env or {})},
            cwd=config.get("WorkingDir") or "/",
        )
        limits = sandbox.Limits(memory=MEMORY, cpus=1.0, pids=256, disk=64 * 1024 * 1024, wall_ms=24 * 3_600_000)
        began = time.monotonic()
        serving = sandbox.serve(
            command,
            sandbox.Root(rootfs=home / "root"),
            limits,
            uid=uid,
            gid=settings.build_uid,
            port=PORT,
            on_line=lambda stream, line: said.append(line.decode("utf-8", "replace")),
        )
        try:
            url = f"http://{serving.address[0]}:{serving.address[1]}"
            _await_ready(url, serving, said)
            yield Running(url=url, ready_ms=int((time.monotonic() - began) * 1000), serving=serving)
        finally:
            serving.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run_artifact(settings: Settings, build: pb.Build, on_ready: Callable[[str, int], None]) -> int:
    """Run until interrupted."""
    with started(settings, build) as running:
        on_ready(running.url, running.ready_ms)
        running.serving.wait()
    return 0


def pull(source: Destination, repository: str, digest: str, home: Path) -> dict[str, Any]:
    """Layers into `home`/root; the image's config."""
    manifest = source.get_manifest(repository, digest)
    if manifest is None:
        raise BuildError("SourceNotFound", f"{repository}@{digest} is not there any more")
    value = json.loads(manifest.body)
    config = json.loads(b"".join(source.open_blob(repository, value["config"]["digest"])))
    layers = []
    for index, (part, diff_id) in enumerate(zip(value["layers"], config["rootfs"]["diff_ids"], strict=True)):
        path = home / f"layer-{index}"
        hasher = hashlib.sha256()
        with path.open("wb") as out:
            for chunk in source.open_blob(repository, part["digest"]):
                hasher.update(chunk)
                out.write(chunk)
        layers.append(
            Layer(
                path=path,
                digest=part["digest"],
                diff_id=diff_id,
                size=part["size"],
                media_type=part["mediaType"],
                created_by="",
            )
        )
    unpack_image(layers, home / "root")
    return dict(config["config"])


def _await_ready(url: str, serving: sandbox.Serving, said: list[str]) -> None:
    """Ready: /healthz answers 2xx, or for a server without one any HTTP answer."""
    until = time.monotonic() + READY_S
    with httpx.Client(timeout=2, trust_env=False) as client:
        while time.monotonic() < until:
            if not serving.running():
                break
            try:
                if client.get(url + "/healthz").status_code < 500:
                    return
            except httpx.HTTPError:
                time.sleep(0.005)
    raise BuildError("StepFailed", "the app did not answer on $PORT", said=tuple(said[-6:]))
