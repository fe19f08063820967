"""DETECT and PLAN of image mode, in the reader: the Dockerfile of an unpacked source, checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.dockerfile.check import SCRATCH
from builder.dockerfile.choose import ImageRequest, read_image
from builder.dockerfile.instructions import Dockerfile, Stage, csv_fields
from builder.errors import BuildError, ErrorClass
from builder.kaniko.ended import Instruction
from builder.kaniko.plan import DockerfilePlan


def dockerfile_plan(root: Path, asked: ImageRequest) -> DockerfilePlan:
    """The plan for the source below `root`. Raises `BuildError` as `read_image`, and for a source without a
    Dockerfile."""
    plan, dockerfile = read_image(root, asked)
    if dockerfile is None:
        step = "Add a Dockerfile, or let a runtime build the source: send code.compile (--runtime NAME)."
        message = f"{plan.because}, and Cloud Native Buildpacks are not built yet"
        raise BuildError("InvalidRequest", message, where="dockerfilePath", next=step, error_class=ErrorClass.CLIENT)
    return DockerfilePlan(
        because=plan.because,
        dockerfile=plan.dockerfile,
        sub_path=plan.sub_path,
        bases=plan.bases,
        pinned=all(_is_pinned(image) for image in _images(dockerfile)),
        warnings=plan.warnings,
        instructions=tuple(_instructions(dockerfile)),
    )


def _instructions(dockerfile: Dockerfile) -> Iterator[Instruction]:
    for number, stage in enumerate(dockerfile.stages):
        for one in (stage.start, *stage.instructions):
            yield Instruction(stage=number, line=one.line, text=one.original)


def _images(dockerfile: Dockerfile) -> Iterator[str]:
    """Every image that the file names, as it is written."""
    names: set[str] = set()
    for stage in dockerfile.stages:
        for image in (stage.base, *_sources(stage)):
            if image.lower() not in names and not image.isdigit() and image != SCRATCH:
                yield image
        names.add(stage.name)


def _sources(stage: Stage) -> Iterator[str]:
    """What `COPY --from` and `RUN --mount` take files from."""
    for flag in (flag for one in stage.instructions for flag in (one.trigger or one).flags):
        name, _, value = flag.partition("=")
        if name == "--from":
            yield value
        elif name == "--mount":
            yield from (field[5:] for field in csv_fields(value) if field.lower().startswith("from=") and field[5:])


def _is_pinned(image: str) -> bool:
    """A variable may be any image: what it is worth is known to the build alone."""
    return "@sha256:" in image and "$" not in image
