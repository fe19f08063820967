"""Which images a Dockerfile builds on and copies from: whether an operator's list has them, and digests. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from builder.dockerfile.check import SCRATCH, Checked
from builder.dockerfile.instructions import Dockerfile, Stage, csv_fields
from builder.dockerfile.read import Instruction
from builder.errors import BuildError
from builder.globs import name_glob
from builder.images.reference import parse
from builder.text import visible

ALL = "*"
NAMED = 8


def require_allowed(found: Checked, allowed: Sequence[str]) -> None:
    """Compare every image that the Dockerfile names with the patterns of an operator, each of a whole reference.

    Raises `BuildError` DockerfileInvalid for one that none matches, or that a variable names whose value is not known.
    """
    if ALL in allowed:
        return
    names: set[str] = set()
    for stage, base in zip(found.dockerfile.stages, found.froms, strict=True):
        if base is None:
            raise _refused(found.dockerfile, stage.start, stage.base, allowed, is_known=False)
        if base and not _matches(base, allowed):
            raise _refused(found.dockerfile, stage.start, stage.base, allowed)
        names.add(stage.name)
        for each, value in origins(stage):
            if _is_stage(value, names):
                continue
            if "$" in value:
                raise _refused(found.dockerfile, each, value, allowed, is_known=False)
            if not _matches(_normal(value), allowed):
                raise _refused(found.dockerfile, each, value, allowed)


def is_pinned(found: Checked) -> bool:
    """Whether every image that the Dockerfile names is named by digest. A variable of FROM counts by its value, which
    the source and the build arguments decide; one that only the build knows may be any image."""
    names: set[str] = set()
    for stage, base in zip(found.dockerfile.stages, found.froms, strict=True):
        if base is None or (base and not _is_by_digest(base)):
            return False
        names.add(stage.name)
        taken = (value for _, value in origins(stage) if value)
        if not all(_is_stage(value, names) or _is_by_digest(value) for value in taken):
            return False
    return True


def _is_stage(value: str, names: Collection[str]) -> bool:
    return value.lower() in names or value.isdigit() or value == SCRATCH


def _is_by_digest(image: str) -> bool:
    return "@sha256:" in image and "$" not in image


def origins(stage: Stage) -> Iterator[tuple[Instruction, str]]:
    """What `COPY --from` and `RUN --mount` take files from, a stage or an image, also below ONBUILD."""
    for each in stage.instructions:
        for flag in (each.trigger or each).flags:
            name, _, value = flag.partition("=")
            if name == "--from":
                yield each, value
            elif name == "--mount":
                yield from ((each, field[5:]) for field in csv_fields(value) if field.lower().startswith("from="))


def _normal(image: str) -> str:
    try:
        return str(parse(image))
    except BuildError:
        return image


def _matches(reference: str, allowed: Sequence[str]) -> bool:
    return any(name_glob(pattern).matches(reference) for pattern in allowed)


def _refused(
    dockerfile: Dockerfile, each: Instruction, word: str, allowed: Sequence[str], *, is_known: bool = True
) -> BuildError:
    shown = visible(word, limit=120)
    why = "is none that this server allows" if is_known else "may be any image: only the build knows what it stands for"
    there = ", ".join(allowed[:NAMED]) + (" and more" if len(allowed) > NAMED else "")
    step = f"Take an image that one of these matches: {there or 'none'}. An operator changes dockerfile_from_allowed."
    return dockerfile.document.error(f"{shown} {why}", each, word, step)
