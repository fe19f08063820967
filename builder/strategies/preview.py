"""The Job that a source would become, before anybody is asked: `plan` shows it. Pure.

What a server, its registry or the builder image decides stands there as a word in capitals, `PLACEHOLDERS`. Where the
settings at hand name an image or a registry, that is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builder.buildpacks.image import Builder
from builder.buildpacks.project import Wanted, read_project
from builder.dockerfile.choose import ImageRequest
from builder.kube.job import Attempt, Source
from builder.kube.site import limits_of
from builder.settings import Settings
from builder.source.tree import DirTree
from builder.strategies import by_name, choose
from builder.strategies.base import Setup, target_of
from builder.strategies.buildpacks import NAME as BUILDPACKS
from builder.strategies.buildpacks import Known

PLACEHOLDERS: Mapping[str, str] = {
    "BUILD": "the build's id",
    "SOURCE_URL": "a short-lived URL of the source's archive, a credential",
    "REGISTRY": "the server's registry",
    "ORGANIZATION": "the organization of the token",
    "EXECUTOR_IMAGE": "kaniko_executor of the worker",
    "FETCH_IMAGE": "fetch_image of the worker",
    "BUILDER_IMAGE": "buildpacks_builder of the worker",
    "RUN_IMAGE": "buildpacks_run_image of the worker",
    "BUILDER_UID": "the user of the builder image",
    "BUILDER_GID": "the group of the builder image",
    "BUILDER_VERSION": "the version that the builder image has",
}
_IMAGES = {
    "kaniko_executor": "EXECUTOR_IMAGE",
    "fetch_image": "FETCH_IMAGE",
    "buildpacks_builder": "BUILDER_IMAGE",
    "buildpacks_run_image": "RUN_IMAGE",
}
_NUMBERS = {2_000_000_011: "BUILDER_UID", 2_000_000_012: "BUILDER_GID"}
"""Numbers that no image has, in the place of those that are words in the end."""

Packed = Callable[[str, Callable[[str], bool] | None], tuple[str, int, int]]
"""The folder, and which files are sent → digest and bytes of the archive, bytes of the files in it."""


def job_of(settings: Settings, root: Path, asked: ImageRequest, name: str, packed: Packed) -> dict[str, Any]:
    """The manifest of the first attempt at a build of this name. Raises `BuildError` as the strategy's plan."""
    settings = settings.replace(**{key: getattr(settings, key) or word for key, word in _IMAGES.items()})
    strategy = by_name(choose(root, asked).strategy)
    assert strategy is not None
    setup = strategy.setup(settings)
    assert setup is not None, "each has its images"
    known = _known(setup, root, asked) if strategy.NAME == BUILDPACKS else strategy.learn(setup, {})
    plan = strategy.plan(root, asked, known)
    digest, size, unpacked = packed(plan.sub_path, strategy.part(plan))
    is_here = bool(settings.registry) and not settings.server
    registry, organization = (settings.registry, settings.organization) if is_here else ("REGISTRY", "ORGANIZATION")
    made = strategy.manifest(
        plan,
        setup,
        known,
        Attempt(build_id="BUILD", number=1, organization=organization),
        Source(url="SOURCE_URL", digest=digest, archive_bytes=size, unpacked_bytes=unpacked),
        limits_of(settings, settings.timeout_ms),
        target_of(
            registry,
            f"{settings.prefix_of(organization)}/{name}",
            "build-BUILD-1",
            organization=organization,
            build_args=asked.build_args,
            has_cache=True,
            insecure=is_here and settings.registry_insecure,
            has_push_secret=not is_here or bool(settings.job_registry_username),
        ),
    )
    found: dict[str, Any] = _in_words(made)
    return found


def placeholders_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The placeholders that a manifest has, each with what stands there in its place."""
    text = json.dumps(manifest)
    return {word: meaning for word, meaning in PLACEHOLDERS.items() if word in text}


def _known(setup: Setup, root: Path, asked: ImageRequest) -> str:
    """What `learn` would know of the builder image. It has each buildpack that `project.toml` names: whether it does is
    known where it is read."""
    group = read_project(DirTree(root / asked.sub_path), setup.allowed).group
    has = tuple(Wanted(id=one.id, version=one.version or "BUILDER_VERSION") for one in group)
    uid, gid = _NUMBERS
    return json.dumps(asdict(Known(builder=Builder(uid=uid, gid=gid, buildpacks=has), arguments=setup.allowed)))


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
