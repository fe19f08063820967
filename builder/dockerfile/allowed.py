"""Which images a Dockerfile builds on and copies from: whose they are, whether an operator's list has them, and
their digests. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from builder.dockerfile.check import Checked
from builder.dockerfile.instructions import SCRATCH, Stage, csv_fields
from builder.dockerfile.read import Instruction
from builder.errors import BuildError
from builder.globs import name_glob
from builder.images.reference import is_own, parse
from builder.text import visible

ALL = "*"
NAMED = 8


def require_allowed(found: Checked, allowed: Sequence[str]) -> None:
    """Compare every image that the Dockerfile names with the patterns of an operator, each of a whole reference.

    Raises `BuildError` DockerfileInvalid for one that none matches, or that a variable names whose value is not known.
    """
    if ALL in allowed:
        return
    for each, word, image in _images(found):
        if image is None or not _matches(_normal(image), allowed):
            raise _refused(found, each, word, allowed, is_known=image is not None)


def require_own(found: Checked, registry: str, prefix: str) -> None:
    """Every image in the server's own `registry` must be below the `prefix` of the build's organization: a Job pulls
    with a login that reads those of the others, too. `registry`: host[:port], empty for none.

    Raises `BuildError` as `is_own`, and DockerfileInvalid for an image that a variable names whose value is not known.
    """
    if not registry:
        return
    for each, word, image in _images(found):
        if image is None:
            message = f"{visible(word, limit=120)} may be any image: only the build knows what it stands for"
            raise found.dockerfile.document.error(message, each, word, "Write the image's name there.")
        try:
            is_own(parse(image), registry, prefix)
        except BuildError as error:
            raise found.dockerfile.document.error(error.message, each, word, error.next, reason=error.reason) from None


def _images(found: Checked) -> Iterator[tuple[Instruction, str, str | None]]:
    """(instruction, its word, the image) of every image that the Dockerfile names; None where only the build knows. A
    word of FROM is there once more for each other image that Kaniko takes it for."""
    names: set[str] = set()
    for stage, base, others in zip(found.dockerfile.stages, found.froms, found.others, strict=True):
        yield from ((stage.start, stage.base, one) for one in (base, *others) if one != "")
        names.add(stage.name)
        for each, value in origins(stage):
            if value and not _is_stage(value, names):
                yield each, value, None if "$" in value else value


def is_pinned(found: Checked) -> bool:
    """Whether every image that the Dockerfile names is named by digest. A variable of FROM counts by its value, which
    the source and the build arguments decide; one that only the build knows may be any image."""
    return all(image is not None and "@sha256:" in image for _, _, image in _images(found))


def _is_stage(value: str, names: Collection[str]) -> bool:
    return value.lower() in names or value.isdigit() or value == SCRATCH


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
    found: Checked, each: Instruction, word: str, allowed: Sequence[str], *, is_known: bool = True
) -> BuildError:
    shown = visible(word, limit=120)
    if stage := dict(found.mistyped).get(word):
        message = f'{shown} is no stage before it, and no image that this server allows; is the stage "{stage}" meant?'
        return found.dockerfile.document.error(message, each, word, f"Name the stage: {stage}")
    why = "is none that this server allows" if is_known else "may be any image: only the build knows what it stands for"
    there = ", ".join(allowed[:NAMED]) + (" and more" if len(allowed) > NAMED else "")
    step = f"Take an image that one of these matches: {there or 'none'}. An operator changes dockerfile_from_allowed."
    return found.dockerfile.document.error(f"{shown} {why}", each, word, step)
