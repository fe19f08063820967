"""The part of `plan` that shows image mode: the Job or the engine's call of a plan, with placeholders. Pure."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli import format as fmt
from builder.cli.safe import shown
from builder.cli.terminal import Look
from builder.contract.request import START_CHECK
from builder.settings import Settings
from builder.source.unpack import ArchiveLimits

if TYPE_CHECKING:
    from builder.dockerfile.choose import ImagePlan

FOLD = 110
"""Columns of a manifest's line that takes more than one value."""
STRATEGIES = {
    "kaniko": "container image, by Kaniko in a Kubernetes Job",
    "buildpacks": "container image, by Cloud Native Buildpacks in a Kubernetes Job",
    "docker": "container image, by the Docker engine of docker_host",
    "rebase": "container image, its base exchanged by the lifecycle of buildpacks in a Kubernetes Job",
}


def image_arguments(build_args: Mapping[str, str]) -> dict[str, str]:
    """The arguments that are for the image's build, of those that were typed."""
    return {name: value for name, value in build_args.items() if name not in (START_CHECK, "sub_path")}


def job_of(settings: Settings, root: Path, made: ImagePlan, build_args: Mapping[str, str], name: str) -> dict[str, Any]:
    """The Job of the plan, and what its placeholders stand for; or the call of an engine.

    Raises `BuildError` for what a worker would refuse.
    """
    from builder.attempt.canonical import write_archive
    from builder.dockerfile.choose import ImageRequest
    from builder.strategies import preview

    def packed(folder: str, part: Callable[[str], bool] | None) -> tuple[str, int, int]:
        with tempfile.TemporaryDirectory(prefix="ignite-plan-") as work:
            out = Path(work) / "archive.tar"
            archive = write_archive(root, out, limit=ArchiveLimits().archive, folder=folder, part=part)
        return f"sha256:{archive.sha256}", archive.size, archive.unpacked

    asked = ImageRequest(
        dockerfile=made.dockerfile,
        sub_path=made.sub_path,
        build_args=image_arguments(build_args),
        buildpacks=made.strategy == "buildpacks",
    )
    if made.strategy == "docker":
        return {"engine": preview.call_of(settings, root, asked)}
    manifest = preview.job_of(settings, root, asked, name, packed)
    return {"job": manifest, "placeholders": preview.placeholders_of(manifest)}


def placed_here(settings: Settings, made: ImagePlan) -> ImagePlan:
    """The plan with what builds it here; where nothing does, with what a server would take."""
    if settings.server or not settings.docker_host or made.strategy == "buildpacks":
        return made
    from builder.dockerfile.choose import placed

    host = settings.docker_host
    strategy, because = placed(made.strategy, made.because, cluster=False, docker_host=host, where=made.dockerfile)
    return replace(made, strategy=strategy, because=because)


def job_lines(job: Mapping[str, Any], look: Look, output: str, next_command: str) -> tuple[str, ...]:
    """What the placeholders of a Job stand for, the Job, and what comes of it."""
    words = [f"{word}  {meaning}" for word, meaning in job["placeholders"].items()]
    lines = [f"{'' if at else 'job':<9}{text}" for at, text in enumerate(words)]
    after = [f"output   {output}", f"next     {look.paint('cyan', shown(next_command))}"]
    return (*cut(lines, look), *folded(job["job"]).split("\n"), *cut(after, look))


def folded(value: Any, indent: int = 0) -> str:
    """JSON that has on one line what fits there. It escapes all that a terminal would obey."""
    flat = json.dumps(value).replace("\x7f", "\\u007f")
    if indent + len(flat) <= FOLD or not isinstance(value, (dict, list)):
        return flat
    inner, ends = " " * (indent + 2), "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        rows = [f"{json.dumps(name)}: {folded(one, indent + 2)}" for name, one in value.items()]
    else:
        rows = [folded(one, indent + 2) for one in value]
    return ends[0] + "\n" + ",\n".join(inner + row for row in rows) + f"\n{' ' * indent}{ends[1]}"


def cut(lines: Sequence[str], look: Look) -> tuple[str, ...]:
    """The lines as wide as the terminal is; whole where there is none."""
    return tuple(line if look.columns is None else fmt.cut(line, look.columns, look.symbols.ellipsis) for line in lines)
