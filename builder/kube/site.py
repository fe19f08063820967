"""The settings of Jobs."""

from __future__ import annotations

from builder.errors import BuildError
from builder.kube.job import JobLimits, Site, Toleration
from builder.settings import Settings


def site_of(settings: Settings) -> Site:
    """Where Dockerfile builds run. Raises `BuildError` InvalidRequest without the two images: whoever creates Jobs
    calls this at its start."""
    return _site(settings, settings.kaniko_namespace, "kaniko_executor")


def buildpacks_site_of(settings: Settings) -> Site:
    """Where buildpacks builds run. Raises `BuildError` InvalidRequest as `site_of`, and without a run image."""
    _need(settings, "buildpacks_run_image")
    if not settings.buildpacks_namespace:
        message = "buildpacks_namespace: builds of buildpacks_builder need a namespace"
        step = "Name the one of deploy/kubernetes/buildpacks.yaml: ignite-buildpacks"
        raise BuildError("InvalidRequest", message, where="buildpacks_namespace", next=step)
    return _site(settings, settings.buildpacks_namespace, "buildpacks_builder")


def limits_of(settings: Settings, organization: str, left_ms: int) -> JobLimits:
    """What a Job of an organization may use, with so much left of its build's time."""
    row = next((one for one in settings.job_resources if one.organization == organization), None)
    if row is None:
        return JobLimits(
            cpus=settings.cpus, memory_bytes=settings.memory_bytes, disk_bytes=settings.disk_bytes, timeout_ms=left_ms
        )
    return JobLimits(
        cpus=row.cpus or settings.cpus,
        memory_bytes=row.memory_bytes or settings.memory_bytes,
        disk_bytes=row.disk_bytes or settings.disk_bytes,
        timeout_ms=min(left_ms, row.timeout_ms or left_ms),
        own=tuple(
            name
            for name, given in (
                ("cpus", row.cpus),
                ("memory_bytes", row.memory_bytes),
                ("disk_bytes", row.disk_bytes),
                ("timeout_ms", row.timeout_ms is not None and row.timeout_ms < left_ms),
            )
            if given
        ),
    )


def _site(settings: Settings, namespace: str, executor: str) -> Site:
    return Site(
        namespace=namespace,
        executor=_need(settings, executor),
        fetcher=_need(settings, "fetch_image"),
        node_selector=tuple(sorted(settings.job_node_selector.items())),
        tolerations=tuple(_toleration(row) for row in settings.job_tolerations),
        runtime_class=settings.job_runtime_class,
        priority_class=settings.job_priority_class,
        pull_secret=settings.job_pull_secret,
    )


def _need(settings: Settings, name: str) -> str:
    if not (image := str(getattr(settings, name))):
        raise BuildError(
            "InvalidRequest",
            f"{name}: image builds on Kubernetes need this image, by digest",
            where=name,
            next="docs/image-builds.md says how each is made",
        )
    return image


def _toleration(row: str) -> Toleration:
    rest, _, effect = row.partition(":")
    key, _, value = rest.partition("=")
    return Toleration(key=key, value=value, effect=effect)
