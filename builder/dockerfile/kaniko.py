"""FROM as Kaniko reads it, which is another image than BuildKit's for some Dockerfiles. Pure."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from builder.dockerfile.instructions import PREDEFINED, SCRATCH, Stage
from builder.dockerfile.read import Instruction
from builder.dockerfile.words import Bad, Lex, Unknown
from builder.errors import BuildError
from builder.images.reference import parse


@dataclass(frozen=True, kw_only=True)
class KanikoArguments:
    """The values that Kaniko gives the variables of FROM. They are not those of BuildKit: a build argument counts
    without an ARG for it and not where it is empty, a default sees the first ARG of a name rather than what is passed,
    and a default in single quotes is expanded. `has_open`: a default has a value that nobody can tell here."""

    values: Mapping[str, str]
    has_open: bool

    @classmethod
    def of(cls, arguments: Iterable[Instruction], given: Mapping[str, str]) -> KanikoArguments:
        """Read the ARG before the first FROM, with the build arguments of a request (`given`)."""
        first: dict[str, str] = {}
        last: dict[str, str] = {}
        seen, has_open = ChainMap(first, dict(given)), False
        for each in arguments:
            for word in each.args:
                key, equals, default = word.partition("=")
                if not equals:
                    continue
                try:
                    last[key] = Lex(_without_quotes(default), env=seen).text()
                except Bad:
                    continue
                except Unknown:
                    has_open = True
                    continue
                first.setdefault(key, last[key])
        passed = {key: value.partition("=")[0] for key, value in given.items()}
        return cls(values={**last, **{key: value for key, value in passed.items() if value}}, has_open=has_open)

    def images(self, stage: Stage, names: Container[str]) -> Iterator[str | None]:
        """What a stage builds on, with and without the variables of the platform; None where only the build knows."""
        if "$" not in stage.base:
            return
        if self.has_open:
            yield None
        for known in (self.values, {**PREDEFINED, **self.values}):
            try:
                base = Lex(stage.base, env=known).text()
            except Bad:
                continue
            except Unknown:
                yield None
                continue
            if base and base.lower() not in names and base != SCRATCH:
                yield _normal(base)


def _without_quotes(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _normal(image: str) -> str | None:
    try:
        return str(parse(image))
    except BuildError:
        return None
