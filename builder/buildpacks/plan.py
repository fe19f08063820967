"""What a source without a Dockerfile comes to: what decides its Job and its key. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.buildpacks.image import Builder, resolve
from builder.buildpacks.project import ALLOWED, ProjectDescriptor, WantedBuildpack, check_arguments, read_project
from builder.contract.materials import BUILDPACKS
from builder.key import FORMAT, digest_of
from builder.plan import PLATFORM
from builder.source.tree import Tree


@dataclass(frozen=True, kw_only=True)
class BuildpacksPlan:
    """A source that buildpacks are asked to build. `sub_path` is relative to its root.

    `include` and `exclude` are patterns of git.
    """

    because: str
    sub_path: str
    arguments: tuple[tuple[str, str], ...]
    order: tuple[WantedBuildpack, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    warnings: tuple[str, ...]

    def filter(self) -> Callable[[str], bool]:
        """Whether a file, by its path from the app's root, is part of the app."""
        return ProjectDescriptor(include=self.include, exclude=self.exclude).filter()


def plan_buildpacks(
    app: Tree,
    builder: Builder,
    *,
    because: str,
    build_args: Mapping[str, str],
    sub_path: str = "",
    allowed: Sequence[str] = ALLOWED,
) -> BuildpacksPlan:
    """The plan of an `app`, the source below `sub_path`. A request's argument goes before one of `project.toml`.

    Raises `BuildError` ManifestInvalid (`project.toml`), BuildArgUnknown.
    """
    project = read_project(app, allowed)
    own = check_arguments(build_args.items(), allowed)
    return BuildpacksPlan(
        because=because,
        sub_path=sub_path,
        arguments=check_arguments((*project.arguments, *own), allowed),
        order=resolve(project.group, builder),
        include=project.include,
        exclude=project.exclude,
        warnings=project.warnings,
    )


def key_of(plan: BuildpacksPlan, *, organization: str, code_hash: str, builder: str, run_image: str) -> str:
    """The build key. Builder and run image are named by digest, so the key names all that the buildpacks are."""
    effects = {
        "strategy": "buildpacks",
        "sub_path": plan.sub_path,
        "arguments": dict(plan.arguments),
        "order": [[one.id, one.version, one.optional] for one in plan.order],
        "builder": builder.rpartition("@")[2],
        "run_image": run_image.rpartition("@")[2],
    }
    parts: dict[str, Any] = {
        "format": FORMAT,
        "organization": organization,
        "code_hash": code_hash,
        "platform": PLATFORM,
        "image": effects,
    }
    return digest_of(parts)


def materials_of(*, builder: str, run_image: str, archive: str) -> tuple[tuple[str, str], ...]:
    """(name, digest) of what goes into the image, as far as it is known before the build."""
    return (
        (BUILDPACKS, builder.rpartition("@")[2]),
        run_image.rpartition("@")[::2],
        ("context", archive),
    )
