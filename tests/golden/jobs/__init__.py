"""The golden Jobs: manifests of Dockerfile and buildpacks builds, from the plainest to one with every option, and what
`plan` shows of the examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.buildpacks.manifest import BuildpacksBuild, Rebase, cache_image, rebase_manifest
from builder.buildpacks.manifest import manifest as buildpacks_manifest
from builder.buildpacks.project import WantedBuildpack
from builder.dockerfile.choose import ImageRequest
from builder.kaniko.manifest import DockerfileBuild, cache_repository, manifest
from builder.kube.job import JobAttempt, JobLimits, JobSource, Site, Toleration
from builder.kube.site import limits_of
from builder.settings import JobResources, Settings
from builder.strategies.preview import job_of, rebase_job_of

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[2] / "examples"
MIB = 1024 * 1024
SOURCE = JobSource(
    url="https://store.example/sources/0123?signature=abc",
    digest="sha256:" + "01" * 32,
    archive_bytes=20_480,
    unpacked_bytes=9_000,
)
LIMITS = JobLimits(cpus=1.5, memory_bytes=2048 * MIB, disk_bytes=4096 * MIB, timeout_ms=599_001)
ATTEMPT = JobAttempt(build_id="babcdefghjkmnpqrstvw", number=2, organization="acme")
EXECUTOR = "registry.example/kaniko/executor@sha256:" + "ab" * 32
BUILDER = "registry.example/cnb/builder@sha256:" + "ef" * 32
RUN = "registry.example/cnb/run@sha256:" + "fe" * 32
FETCHER = "registry.example/ignite/fetch@sha256:" + "cd" * 32


def manifests() -> dict[str, dict[str, Any]]:
    """Name → manifest of a Dockerfile build."""
    site = Site(namespace="ignite-kaniko", executor=EXECUTOR, fetcher=FETCHER)
    everything = _everything(EXECUTOR)
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
    row = JobResources(organization="acme", cpus=0.5, memory_bytes=512 * MIB, disk_bytes=1024 * MIB, timeout_ms=120_000)
    own = limits_of(Settings(job_resources=(row,)), ATTEMPT.organization, LIMITS.timeout_ms)
    return {
        "plain": manifest(site, ATTEMPT, SOURCE, LIMITS, plain),
        "own-resources": manifest(site, ATTEMPT, SOURCE, own, plain),
        "everything": manifest(everything, ATTEMPT, SOURCE, LIMITS, full),
    }


def buildpacks_manifests() -> dict[str, dict[str, Any]]:
    """Name → manifest."""
    site = Site(namespace="ignite-buildpacks", executor=BUILDER, fetcher=FETCHER)
    plain = BuildpacksBuild(
        repository="registry.example/acme/app", tag="build-babcdefghjkmnpqrstvw-2", run_image=RUN, uid=1001, gid=1000
    )
    full = BuildpacksBuild(
        repository="registry.example/acme/app",
        tag="build-babcdefghjkmnpqrstvw-2",
        run_image=RUN,
        uid=1001,
        gid=1000,
        sub_path="services/app",
        arguments=(("BP_HOSTILE", 'x" -run-image=evil.example/a\n$(HOME)'), ("BP_VERSION", "1.2")),
        order=(
            WantedBuildpack(id="acme/first", version="1.0.0", optional=True),
            WantedBuildpack(id="acme/second", version="2.1.0"),
        ),
        process="worker",
        previous_image="registry.example/acme/app@sha256:" + "12" * 32,
        cache_image=cache_image("registry.example/builds", "acme", "registry.example/acme/app"),
        insecure_registries=("registry.example", "10.0.0.1:5000"),
    )
    rebase = Rebase(
        image="registry.example/acme/app@sha256:" + "12" * 32,
        repository="registry.example/acme/app",
        tag="build-babcdefghjkmnpqrstvw-2",
        run_image=RUN,
        uid=1001,
        gid=1000,
        insecure_registries=("registry.example",),
    )
    return {
        "buildpacks-plain": buildpacks_manifest(site, ATTEMPT, SOURCE, LIMITS, plain),
        "buildpacks-everything": buildpacks_manifest(_everything(BUILDER), ATTEMPT, SOURCE, LIMITS, full),
        "buildpacks-rebase": rebase_manifest(site, ATTEMPT, LIMITS, rebase),
    }


def previews() -> dict[str, dict[str, Any]]:
    """Name → what `plan` shows of an example, and of a rebase: the settings name no image and no registry."""

    def packed(folder: str, part: object) -> tuple[str, int, int]:
        return SOURCE.digest, SOURCE.archive_bytes, SOURCE.unpacked_bytes

    arguments = {"BASE": EXECUTOR, "NAME": "Ada"}
    asked = {
        "image-dockerfile": ImageRequest(build_args=arguments),
        "image-buildpacks": ImageRequest(buildpacks=True, build_args={"BP_MODE": "fast"}),
    }
    made = {f"plan-{name}": job_of(Settings(), EXAMPLES / name, one, "app", packed) for name, one in asked.items()}
    return {**made, "plan-rebase": rebase_job_of(Settings())}


def all_manifests() -> dict[str, dict[str, Any]]:
    """Name of the golden file → manifest."""
    return {**manifests(), **buildpacks_manifests(), **previews()}


def _everything(executor: str) -> Site:
    return Site(
        namespace="builds",
        executor=executor,
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


def text_of(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
