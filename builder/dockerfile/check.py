"""Stages and sources of a Dockerfile against its context: what a build would find out in a minute, in a moment."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from builder.dockerfile import globbing
from builder.dockerfile.context import Context
from builder.dockerfile.instructions import PREDEFINED, SCRATCH, Dockerfile, Stage, csv_fields, understood
from builder.dockerfile.kaniko import KanikoArguments
from builder.dockerfile.read import Instruction, heredoc_of, read
from builder.dockerfile.words import Bad, Lex, Unknown
from builder.errors import BuildError
from builder.images.reference import parse
from builder.text import visible

NAMED = 8
MOST_NEAR = 5_000
"""Names of stages that unknown ones are compared with, in all; what is beyond gets no hint."""
_WELL_KNOWN = re.compile(
    r"alpine|almalinux|amazoncorretto|amazonlinux|bash|buildpack-deps|busybox|caddy|clojure|composer|dart|debian|"
    r"docker|eclipse-temurin|elixir|erlang|fedora|gcc|golang|gradle|groovy|haproxy|haskell|httpd|ibmjava|julia|"
    r"jetty|jruby|kong|mariadb|maven|memcached|mongo|mysql|nats|nginx|node|openjdk|oraclelinux|perl|php|postgres|"
    r"pypy|python|r-base|rabbitmq|redis|registry|rockylinux|ruby|rust|sapmachine|swift|swipl|tomcat|traefik|ubuntu|"
    r"varnish|vault|wordpress"
)
"""Images of Docker Hub whose names nobody takes for those of a stage, however near they are."""
_REMOTE = re.compile(r"https?://|git@|git://|ssh://")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A Dockerfile that a build may be started for. `bases`: the images it builds on, `warnings` for the log.

    `froms` has a row for each stage: the image it builds on, empty for another stage and for nothing, None where only
    the build knows. `others`, too: the images that Kaniko takes the same words for, where that is another one.
    `mistyped`: (image as it is written, the stage that may be meant).
    """

    dockerfile: Dockerfile
    bases: tuple[str, ...]
    froms: tuple[str | None, ...]
    others: tuple[tuple[str | None, ...], ...]
    warnings: tuple[str, ...]
    mistyped: tuple[tuple[str, str], ...] = ()


def check(
    data: bytes, context: Context, build_args: Mapping[str, str] | None = None, name: str = "Dockerfile"
) -> Checked:
    """Read a Dockerfile and compare it with its context. Raises `BuildError` DockerfileInvalid."""
    dockerfile = understood(read(data, name))
    given = build_args or {}
    known = {**PREDEFINED, **_declared(dockerfile.arguments, PREDEFINED, given)}
    kaniko = KanikoArguments.of(dockerfile.arguments, given)
    froms: list[str | None] = []
    others: list[tuple[str | None, ...]] = []
    warnings: list[str] = []
    names = _Stages(every=frozenset(each.name for each in dockerfile.stages if each.name))
    for stage in dockerfile.stages:
        froms.append(_base(dockerfile, stage, names, known, warnings))
        others.append(tuple(one for one in kaniko.images(stage, names) if one != froms[-1]))
        values = _Values(given=given, outer=known)
        for each in stage.instructions:
            values.see(each)
            holder = each.trigger or each
            if each.name == "run":
                _mounts(dockerfile, each, names, warnings)
            if holder.name in ("copy", "add") and each.name != "onbuild":
                _sources(dockerfile, each, context, values, names, warnings)
        names.add(stage.name)
    bases = tuple(dict.fromkeys(one for one in froms if one))
    return Checked(
        dockerfile=dockerfile,
        bases=bases,
        froms=tuple(froms),
        others=tuple(others),
        warnings=tuple(warnings),
        mistyped=tuple(names.mistyped.items()),
    )


@dataclass(kw_only=True)
class _Stages:
    """The names of the stages before the one that is looked at, and of `every` stage; one without a name has ""."""

    every: Collection[str]
    names: list[str] = field(default_factory=list)
    mistyped: dict[str, str] = field(default_factory=dict)
    """Image as it is written → the stage that may be meant."""
    compared: int = 0
    _known: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        self.names.append(name)
        self._known.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self.names)

    def shown(self) -> str:
        """The last ones, for people."""
        first = max(0, len(self.names) - NAMED)
        return ", ".join(name or str(index) for index, name in enumerate(self.names[first:], first))

    def near(self, name: str) -> str:
        """The stage that may be meant."""
        left = MOST_NEAR - self.compared
        if left <= 0:
            return ""
        named = [one for one in self.names[-left:] if one]
        self.compared += len(named)
        return next(iter(difflib.get_close_matches(name, named, 1, 0.75)), "")


def _declared(
    arguments: Iterable[Instruction], known: Mapping[str, str], given: Mapping[str, str]
) -> Mapping[str, str]:
    """The ARG that have a value, by their defaults and what is passed."""
    found: dict[str, str] = {}
    values = ChainMap(found, dict(known))
    for each in arguments:
        for word in each.args:
            key, equals, default = word.partition("=")
            if key in given:
                found[key] = given[key]
            elif equals:
                try:
                    found[key] = Lex(default, env=values).text()
                except (Bad, Unknown):
                    continue
    return found


class _Values:
    """The variables of a stage as far as anybody can tell: ARG and ENV in their order."""

    def __init__(self, *, given: Mapping[str, str], outer: Mapping[str, str]) -> None:
        self._given, self._outer = given, outer
        self._known: dict[str, str] = {}
        self._open: set[str] = set()

    def see(self, each: Instruction) -> None:
        if each.name == "arg":
            for word in each.args:
                key, equals, default = word.partition("=")
                if key in self._given:
                    self._set(key, self._given[key])
                elif equals:
                    self._expand(key, default)
                elif key in self._outer:
                    self._set(key, self._outer[key])
        elif each.name == "env":
            for key, value in zip(each.args[::2], each.args[1::2], strict=True):
                self._expand(key, value)

    def _set(self, key: str, value: str) -> None:
        self._known[key] = value
        self._open.discard(key)

    def _expand(self, key: str, value: str) -> None:
        text = self.expanded(value)
        if text is None:
            self._known.pop(key, None)
            self._open.add(key)
        else:
            self._set(key, text)

    def expanded(self, text: str) -> str | None:
        """The text with its variables; None where a value comes from the base image or nobody knows it."""
        if "$" not in text:
            try:
                return Lex(text, env={}).text()
            except Bad:
                return None
        names = re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", text)
        if not names or any(name not in self._known for name in names):
            return None
        try:
            return Lex(text, env=self._known).text()
        except (Bad, Unknown):
            return None


def _base(
    dockerfile: Dockerfile, stage: Stage, names: _Stages, known: Mapping[str, str], warnings: list[str]
) -> str | None:
    """The image that a stage builds on; empty for another stage and for nothing, None where only the build knows.

    Raises `BuildError`.
    """
    document = dockerfile.document
    try:
        base = Lex(stage.base, env=known, escape=document.escape).text()
    except Unknown:
        return None
    except Bad as error:
        raise document.error(f"FROM {visible(stage.base, limit=80)}: {error}", stage.start, stage.base) from None
    if not base:
        variable = next(iter(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", stage.base)), "")
        message = f"FROM {visible(stage.base, limit=80)} names no image"
        step = "Name an image."
        if variable:
            message += f": {variable} has no value"
            step = f"Declare it before the first FROM, ARG {variable}=IMAGE, or give it: --build-arg {variable}=IMAGE"
        raise document.error(message, stage.start, stage.base, step)
    if base.lower() in names or base == SCRATCH:
        return ""
    try:
        image = str(parse(base, "FROM"))
    except BuildError as error:
        raise document.error(f"FROM {error.message}", stage.start, stage.base, error.next) from None
    _look_mistyped(dockerfile, stage.start, stage.base, base, names, warnings)
    return image


def _mounts(dockerfile: Dockerfile, each: Instruction, names: _Stages, warnings: list[str]) -> None:
    for flag in each.flags:
        if not flag.startswith("--mount="):
            continue
        for one in csv_fields(flag.partition("=")[2]):
            key, _, value = one.partition("=")
            if key.lower() == "from" and value:
                _stage(dockerfile, each, value, names, warnings)


def _stage(dockerfile: Dockerfile, each: Instruction, text: str, names: _Stages, warnings: list[str]) -> None:
    """Judge what `--from` names: a stage before this one, or an image. Raises `BuildError`."""
    document, shown = dockerfile.document, visible(text, limit=80)
    stages = f"before it are {names.shown()}" if names else "no stage is before it"
    if text.isascii() and text.isdigit():
        if len(text) > 6 or int(text) >= len(names):
            raise document.error(f"--from={shown} is no stage: {stages}", each, text, "Name an earlier stage.")
        return
    lower = text.lower()
    if lower in names or "$" in text:
        return
    if lower in names.every:
        message = f"--from={shown} is this stage itself or a later one: {stages}"
        raise document.error(message, each, text, "Move that stage before this one.")
    try:
        parse(text, "--from")
    except BuildError as error:
        message = f"--from={shown} is no stage ({stages}) and no image: {error.message}"
        raise document.error(message, each, text, "Name an earlier stage or an image.") from None
    _look_mistyped(dockerfile, each, text, text, names, warnings)


def _look_mistyped(
    dockerfile: Dockerfile, each: Instruction, word: str, image: str, names: _Stages, warnings: list[str]
) -> None:
    """Warn of an image of Docker Hub whose name is nearly that of a stage before it. A registry, tag or digest makes
    clear that an image is meant, and so does the name of one that many use. It is no error: it may be an image."""
    if any(char in image for char in "/:@") or _WELL_KNOWN.fullmatch(image) or not (near := names.near(image.lower())):
        return
    names.mistyped[image] = near
    what = f"FROM {visible(image, limit=80)}" if each.name == "from" else f"--from={visible(image, limit=80)}"
    place = dockerfile.document.place(each, word)
    warnings.append(f'{place}: {what} is no stage, so an image of Docker Hub; is the stage "{near}" meant?')


def _sources(
    dockerfile: Dockerfile,
    each: Instruction,
    context: Context,
    values: _Values,
    names: _Stages,
    warnings: list[str],
) -> None:
    """Every source of a COPY or ADD that comes from the context must be in it. Raises `BuildError`."""
    origin = next((flag.partition("=")[2] for flag in each.flags if flag.startswith("--from=")), "")
    if origin:
        _stage(dockerfile, each, origin, names, warnings)
        return
    for word in each.args[:-1]:
        if _is_heredoc(word) or (each.name == "add" and _REMOTE.match(word)):
            continue
        source = values.expanded(word)
        if source is None or (each.name == "add" and _REMOTE.match(source)):
            continue
        if warning := _source(dockerfile, each, context, word, source):
            warnings.append(warning)


def _is_heredoc(word: str) -> bool:
    try:
        return heredoc_of(word) is not None
    except Bad:
        return False


def _source(dockerfile: Dockerfile, each: Instruction, context: Context, word: str, source: str) -> str:
    document, name = dockerfile.document, each.name.upper()
    path = posixpath.normpath("/" + source).lstrip("/")
    shown = visible(source, limit=120)
    if globbing.is_wild(path):
        if context.matched(path):
            return ""
        return f"{document.name}:{each.line}: {name} {shown} matches no file of the context"
    if not context.has(path):
        near = context.near(path)
        hint = f'; there is "{visible(near, limit=120)}"' if near else ""
        message = f'{name} names "{shown}", which is not in the context{hint}'
        step = "Paths count from the context's root, not from the Dockerfile. Correct it, or add the file."
        raise document.error(message, each, word, step)
    if (rule := context.left_out(path)) is not None:
        where = f"{context.ignore_file}:{rule.line}"
        message = f'{name} names "{shown}", which {where} leaves out ("{visible(rule.text, limit=60)}")'
        raise document.error(message, each, word, f"Take it out of {where}, or add a line !{shown} behind it.")
    return ""
