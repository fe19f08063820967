"""The golden Jobs: manifests of Dockerfile builds, from the plainest to one with every option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.kaniko.manifest import DockerfileBuild, cache_repository, manifest
from builder.kube.job import Attempt, Limits, Site, Source, Toleration

FOLDER = Path(__file__).parent
MIB = 1024 * 1024
SOURCE = Source(
    url="https://store.example/sources/0123?signature=abc",
    digest="sha256:" + "01" * 32,
    archive_bytes=20_480,
    unpacked_bytes=9_000,
)
LIMITS = Limits(cpus=1.5, memory_bytes=2048 * MIB, disk_bytes=4096 * MIB, timeout_ms=599_001)
ATTEMPT = Attempt(build_id="babcdefghjkmnpqrstvw", number=2, organization="acme")
EXECUTOR = "registry.example/kaniko/executor@sha256:" + "ab" * 32
FETCHER = "registry.example/ignite/fetch@sha256:" + "cd" * 32


def manifests() -> dict[str, dict[str, Any]]:
    """Name → manifest."""
    site = Site(namespace="ignite-kaniko", executor=EXECUTOR, fetcher=FETCHER)
    everything = Site(
        namespace="builds",
        executor=EXECUTOR,
        fetcher=FETCHER,
        node_selector=(("kubernetes.io/arch", "amd64"), ("pool", "builds")),
        tolerations=(
            Toleration(key="builds", value="yes", effect="NoSchedule"),
            Toleration(key="spot"),
        ),
        runtime_class="gvisor",
        priority_class="low",
        pull_secret="images",
    )
    plain = DockerfileBuild(repository="registry.example/acme/app", tag="build-babcdefghjkmnpqrstvw-2")
    full = DockerfileBuild(
        repository="registry.example/acme/app",
        tag="build-babcdefghjkmnpqrstvw-2",
        dockerfile="docker/App.Dockerfile",
        sub_path="services/app",
        target="final",
        build_args=(("VERSION", "1.2"), ("HOSTILE", "x --destination=evil.example/a\n--force"), ("EMPTY", "")),
        labels=(("org.opencontainers.image.revision", "abc"),),
        cache_repository=cache_repository("registry.example/builds", "acme"),
        insecure_registries=("registry.example", "10.0.0.1:5000"),
    )
    return {
        "plain": manifest(site, ATTEMPT, SOURCE, LIMITS, plain),
        "everything": manifest(everything, ATTEMPT, SOURCE, LIMITS, full),
    }


def text_of(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
