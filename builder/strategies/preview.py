"""The Job that a source or a rebase would become, before anybody is asked: `plan` shows it. Pure.

What a server, its registry or the builder image decides stands there as a word in capitals, `PLACEHOLDERS`. Where the
settings at hand name an image or a registry, that is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.buildpacks.rebase import RebasePlan
from builder.dockerfile.choose import ImageRequest
from builder.engine.plan import ContainerLimits, arguments_of, tag_of
from builder.kube.job import JobAttempt, JobSource
from builder.kube.site import limits_of
from builder.settings import Settings
from builder.strategies import STRATEGIES, buildpacks, by_name, choose, engine
from builder.strategies.base import Target, target_of

PLACEHOLDERS: Mapping[str, str] = {
    "BUILD": "the build's id",
    "SOURCE_URL": "a short-lived URL of the source's archive, a credential",
    "REGISTRY": "the server's registry",
    "ORGANIZATION": "the organization of the token",
    "REPOSITORY": "the repository of the build whose image is rebased",
    "IMAGE_DIGEST": "the digest of that image",
    **{word: f"{setting} of the worker" for one in STRATEGIES for setting, word in one.IMAGES.items()},
    **{word: meaning for one in STRATEGIES for word, meaning in one.UNREAD.items()},
}
_IMAGES = {setting: word for one in STRATEGIES for setting, word in one.IMAGES.items()}
_NUMBERS = {number: word for one in STRATEGIES for number, word in one.NUMBERS.items()}

Packed = Callable[[str, Callable[[str], bool] | None], tuple[str, int, int]]
"""The folder, and which files are sent → digest and bytes of the archive, bytes of a disk that its content takes."""


def job_of(settings: Settings, root: Path, asked: ImageRequest, name: str, packed: Packed) -> dict[str, Any]:
    """The manifest of the first attempt at a build of this name. Raises `BuildError` as the strategy's plan."""
    settings = _with_images(settings)
    strategy = by_name(choose(root, asked).strategy)
    assert strategy is not None
    setup = strategy.setup(settings)
    assert setup is not None, "each has its images"
    known = strategy.unread(setup, root, asked)
    plan = strategy.plan(root, _placed(settings, asked), known)
    digest, size, unpacked = packed(plan.sub_path, strategy.part(plan))
    organization = _organization(settings)
    made = strategy.manifest(
        plan,
        setup,
        known,
        JobAttempt(build_id="BUILD", number=1, organization=organization),
        JobSource(url="SOURCE_URL", digest=digest, archive_bytes=size, unpacked_bytes=unpacked),
        limits_of(settings, organization, settings.timeout_ms),
        _target(settings, f"{settings.prefix_of(organization)}/{name}", asked.build_args),
    )
    found: dict[str, Any] = _in_words(made)
    return found


def rebase_job_of(settings: Settings) -> dict[str, Any]:
    """The manifest of the first attempt at a rebase. The image is one that the server alone knows."""
    settings = _with_images(settings)
    setup, target = buildpacks.setup(settings), _target(settings, "REPOSITORY", {})
    assert setup is not None, "it has its images"
    made = buildpacks.rebase_job(
        RebasePlan(image=f"{target.repository}@IMAGE_DIGEST", run_image=setup.run_image, unchanged=False),
        setup,
        buildpacks.unread_builder(setup),
        JobAttempt(build_id="BUILD", number=1, organization=target.organization),
        limits_of(settings, target.organization, settings.timeout_ms),
        target,
    )
    found: dict[str, Any] = _in_words(made)
    return found


def _with_images(settings: Settings) -> Settings:
    return settings.replace(**{key: getattr(settings, key) or word for key, word in _IMAGES.items()})


def _is_here(settings: Settings) -> bool:
    """Whether the registry of these settings is the one that Jobs push to."""
    return bool(settings.registry) and not settings.server


def _placed(settings: Settings, asked: ImageRequest) -> ImageRequest:
    """With the registry, where it is known here."""
    if not _is_here(settings):
        return asked
    return replace(asked, registry=settings.registry, prefix=settings.prefix_of(settings.organization))


def _organization(settings: Settings) -> str:
    return settings.organization if _is_here(settings) else "ORGANIZATION"


def _target(settings: Settings, repository: str, build_args: Mapping[str, str]) -> Target:
    is_here = _is_here(settings)
    return target_of(
        settings.registry if is_here else "REGISTRY",
        repository,
        "build-BUILD-1",
        organization=_organization(settings),
        build_args=build_args,
        has_cache=True,
        insecure=is_here and settings.registry_insecure,
        has_push_secret=not is_here or bool(settings.job_registry_username or settings.job_registry_logins),
    )


def placeholders_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The placeholders that a manifest has, each with what stands there in its place."""
    text = json.dumps(manifest)
    return {word: meaning for word, meaning in PLACEHOLDERS.items() if word in text}


def _in_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_words(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_in_words(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return _NUMBERS.get(value, value)
    if isinstance(value, str):
        for number, word in _NUMBERS.items():
            value = value.replace(str(number), word)
    return value


def call_of(settings: Settings, root: Path, asked: ImageRequest) -> dict[str, Any]:
    """What the engine of `docker_host` would be asked for in the place of a Job. Raises `BuildError` as its plan."""
    plan = engine.plan(root, _placed(settings, asked), json.dumps(settings.dockerfile_from_allowed))
    limits = ContainerLimits(cpus=settings.cpus, memory_bytes=settings.memory_bytes)
    build = arguments_of(plan, tag=tag_of("BUILD", 1), build_args=asked.build_args, limits=limits)
    return {"host": settings.docker_host, "build": build}
