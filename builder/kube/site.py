"""The settings of Jobs."""

from __future__ import annotations

from builder.errors import BuildError
from builder.kube.job import Site, Toleration
from builder.settings import Settings


def site_of(settings: Settings) -> Site:
    """Where Dockerfile builds run. Raises `BuildError` InvalidRequest without the two images: whoever creates Jobs
    calls this at its start."""
    for name in ("kaniko_executor", "fetch_image"):
        if not getattr(settings, name):
            raise BuildError(
                "InvalidRequest",
                f"{name}: image builds on Kubernetes need this image, by digest",
                where=name,
                next="docs/image-builds.md says how both are made",
            )
    return Site(
        namespace=settings.kaniko_namespace,
        executor=settings.kaniko_executor,
        fetcher=settings.fetch_image,
        node_selector=tuple(sorted(settings.job_node_selector.items())),
        tolerations=tuple(_toleration(row) for row in settings.job_tolerations),
        runtime_class=settings.job_runtime_class,
        priority_class=settings.job_priority_class,
        pull_secret=settings.job_pull_secret,
    )


def _toleration(row: str) -> Toleration:
    rest, _, effect = row.partition(":")
    key, _, value = rest.partition("=")
    return Toleration(key=key, value=value, effect=effect)
