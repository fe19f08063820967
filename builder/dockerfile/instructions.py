"""Each instruction by the rules of BuildKit: known, with known flags and as many arguments as it takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from builder.dockerfile.read import KNOWN, Document, Instruction, heredoc_of
from builder.dockerfile.words import Bad
from builder.text import visible

_DURATION = re.compile(r"[-+]?(?:0|(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_STAGE = re.compile(r"[a-z][a-z0-9-_.]*")
_INT = re.compile(r"[-+]?[0-9]{1,10}")
SCRATCH = "scratch"
"""What FROM names that is no image."""
PREDEFINED = {
    "BUILDPLATFORM": "linux/amd64", "BUILDOS": "linux", "BUILDARCH": "amd64", "BUILDVARIANT": "",
    "TARGETPLATFORM": "linux/amd64", "TARGETOS": "linux", "TARGETARCH": "amd64", "TARGETVARIANT": "",
    "TARGETSTAGE": "default",
}  # fmt: skip
"""Arguments that FROM sees without an ARG."""
ONE, MANY, BOOL = "one", "many", "bool"
FLAGS: Mapping[str, Mapping[str, str]] = {
    "add": {"chown": ONE, "chmod": ONE, "link": BOOL, "keep-git-dir": BOOL, "checksum": ONE, "unpack": BOOL,
            "exclude": MANY},
    "copy": {"chown": ONE, "from": ONE, "chmod": ONE, "link": BOOL, "exclude": MANY},
    "from": {"platform": ONE},
    "healthcheck": {"interval": ONE, "timeout": ONE, "start-period": ONE, "start-interval": ONE, "retries": ONE},
    "run": {"mount": MANY, "network": ONE, "security": ONE, "device": MANY},
}  # fmt: skip
"""Flags that an instruction takes; others than these instructions take none."""
IGNORED_FLAGS = frozenset({"arg", "stopsignal"})
"""Instructions whose flags BuildKit drops without a look."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A FROM and what follows it. `name` is in lower case, empty without AS."""

    base: str
    name: str
    platform: str
    start: Instruction
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """A file of known instructions. `arguments`: the ARG before the first FROM."""

    document: Document
    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


def understood(document: Document) -> Dockerfile:
    """The stages of a file. Raises `BuildError` DockerfileInvalid."""
    arguments: list[Instruction] = []
    stages: list[tuple[Instruction, str, list[Instruction]]] = []
    for each in document.instructions:
        try:
            flags = judge(each)
        except Bad as error:
            raise document.error(str(error), each, next=_step(each)) from None
        if each.name == "from":
            stages.append((each, flags.get("platform", ""), []))
        elif stages:
            stages[-1][2].append(each)
        elif each.name == "arg":
            arguments.append(each)
        else:
            message = f"{each.name.upper()} stands before the first FROM"
            raise document.error(message, each, next="Begin with FROM and the image to build on; only ARG may precede.")
    made = tuple(
        Stage(
            base=start.args[0],
            name=start.args[2].lower() if len(start.args) == 3 else "",
            platform=platform,
            start=start,
            instructions=tuple(inside),
        )
        for start, platform, inside in stages
    )
    if not made:
        last = document.instructions[-1]
        raise document.error("there is no FROM", last, next="Add FROM and the image to build on.")
    return Dockerfile(document=document, arguments=tuple(arguments), stages=made)


def judge(each: Instruction) -> Mapping[str, str]:
    """The flags of an instruction that can be one. Raises `Bad`."""
    rule = _RULES.get(each.name)
    if rule is None:
        near = difflib.get_close_matches(each.name.lower()[:20], KNOWN, 1)
        hint = f"; is {near[0].upper()} meant?" if near else ""
        raise Bad(f'there is no instruction "{visible(each.name, limit=40)}"{hint}')
    rule(each)
    return {} if each.name in IGNORED_FLAGS else _flags(each)


def _step(each: Instruction) -> str:
    if each.name not in _RULES:
        return "Each line begins with an instruction; a line that continues another ends with a backslash before it."
    return f"See {each.name.upper()} in the Dockerfile reference."


def _flags(each: Instruction) -> Mapping[str, str]:
    known, found = FLAGS.get(each.name, {}), dict[str, str]()
    for flag in each.flags:
        name, equals, value = flag[2:].partition("=")
        shown = visible(f"--{name}", limit=40)
        if not flag.startswith("--") or name not in known:
            takes = ", ".join(f"--{one}" for one in known) or "none"
            raise Bad(f"{each.name.upper()} has no flag {shown}; it takes {takes}")
        kind = known[name]
        if name in found and kind != MANY:
            raise Bad(f"{each.name.upper()} has {shown} twice")
        if kind == BOOL:
            if (equals and not value) or value.lower() not in ("", "true", "false"):
                raise Bad(f"{shown} of {each.name.upper()} takes true or false")
        elif not equals:
            raise Bad(f"{shown} of {each.name.upper()} needs a value: {shown}=VALUE")
        found[name] = value
        _flag_value(each, name, value)
    return found


def _flag_value(each: Instruction, name: str, value: str) -> None:
    if name in ("mount", "device"):
        fields = csv_fields(value)
        if name == "mount":
            _mount(fields)
        elif name == "device":
            _device(fields)
    elif name == "network" and value not in ("default", "none", "host"):
        raise Bad(f'--network is "{visible(value, limit=40)}"; it takes default, none or host')
    elif name == "security" and value not in ("sandbox", "insecure"):
        raise Bad(f'--security is "{visible(value, limit=40)}"; it takes sandbox or insecure')
    elif each.name == "healthcheck" and each.args[0].upper() == "NONE":
        return
    elif name == "retries":
        if value and (not _INT.fullmatch(value) or not 0 <= int(value) < 2**31):
            raise Bad(f'--retries is "{visible(value, limit=40)}"; it takes a whole number from 0 on')
    elif name in ("interval", "timeout", "start-period", "start-interval"):
        _duration(name, value)


def _duration(name: str, value: str) -> None:
    if not value:
        return
    if len(value) > 100 or not _DURATION.fullmatch(value):
        raise Bad(f'--{name} is "{visible(value, limit=40)}"; it takes a time such as 30s or 1m30s')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(value))
    if seconds and (seconds < 0.001 or value.startswith("-")):
        raise Bad(f"--{name} is {value}; the shortest time is 1ms")


def _mount(fields: list[str]) -> None:
    for field in fields:
        key, equals, value = field.partition("=")
        if equals and key.lower() == "from" and "$" in value[:-1]:
            raise Bad("from of --mount takes no variable; give the stage a name with FROM ... AS and name that")


def _device(fields: list[str]) -> None:
    for number, field in enumerate(fields):
        key, equals, value = field.partition("=")
        known = key.lower() in ("name", "required")
        if not equals and (key.lower() == "required" or number == 0):
            continue
        if not known or (key.lower() == "required" and value.lower() not in ("true", "false", "1", "0", "t", "f")):
            raise Bad(f'--device has "{visible(field, limit=60)}"; it takes a name and required')


def csv_fields(text: str) -> list[str]:
    """The fields of one line of CSV. Raises `Bad`."""
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            parts: list[str] = []
            at += 1
            while True:
                end = text.find('"', at)
                if end < 0:
                    raise Bad("a double quote in the flag is not closed")
                parts.append(text[at:end])
                at = end + 1
                if not text.startswith('"', at):
                    break
                parts.append('"')
                at += 1
            fields.append("".join(parts))
            if at < len(text) and text[at] != ",":
                raise Bad("behind a closed double quote of the flag comes no comma")
            end = at if at < len(text) else -1
        else:
            end = text.find(",", at)
            field = text[at:] if end < 0 else text[at:end]
            if '"' in field:
                raise Bad("a double quote in the flag begins no field")
            fields.append(field)
        if end < 0:
            return fields
        at = end + 1


def _one(each: Instruction) -> None:
    if len(each.args) != 1:
        raise Bad(f"{each.name.upper()} takes one argument, {len(each.args)} are given")


def _some(each: Instruction) -> None:
    if not each.args:
        raise Bad(f"{each.name.upper()} needs an argument")


def _anything(each: Instruction) -> None:
    """RUN, CMD and ENTRYPOINT may be empty."""


def _from(each: Instruction) -> None:
    words = each.args
    if len(words) == 3 and words[1].lower() == "as":
        if not _STAGE.fullmatch(words[2].lower()):
            shown = visible(words[2], limit=60)
            raise Bad(f'"{shown}" cannot name a stage: a letter first, then letters, digits, - _ and .')
    elif len(words) != 1:
        raise Bad("FROM takes an image, and maybe AS with a name: FROM IMAGE [AS NAME]")


def _transfer(each: Instruction) -> None:
    if len(each.args) < 2:
        raise Bad(f"{each.name.upper()} takes sources and a destination, {len(each.args)} of them is given")
    try:
        bad = heredoc_of(each.args[-1]) is not None
    except Bad:
        bad = False
    if bad:
        raise Bad(f"the destination of {each.name.upper()} cannot be a heredoc")


def _pairs(each: Instruction) -> None:
    _some(each)
    if not all(each.args[::2]):
        raise Bad(f"{each.name.upper()} has a value without a name")


def _arg(each: Instruction) -> None:
    _some(each)
    if any(word.startswith("=") for word in each.args):
        raise Bad("ARG has a value without a name")


def _volume(each: Instruction) -> None:
    _some(each)
    if not all(word.strip() for word in each.args):
        raise Bad("VOLUME has an empty path")


def _shell(each: Instruction) -> None:
    if not each.args or (not each.is_json and not "".join(each.args)):
        raise Bad("SHELL needs an argument")
    if not each.is_json:
        raise Bad('SHELL takes a list in brackets: SHELL ["/bin/sh", "-c"]')


def _healthcheck(each: Instruction) -> None:
    _some(each)
    kind, command = each.args[0].upper(), each.args[1:]
    if kind == "NONE":
        if command:
            raise Bad("HEALTHCHECK NONE takes nothing behind it")
    elif kind != "CMD":
        raise Bad(f'HEALTHCHECK takes CMD or NONE, not "{visible(each.args[0], limit=40)}"')
    elif not command:
        raise Bad("HEALTHCHECK CMD needs a command")


def _onbuild(each: Instruction) -> None:
    _some(each)
    trigger = each.args[0].strip().upper()
    if trigger in ("ONBUILD", "MAINTAINER", "FROM"):
        raise Bad(f"ONBUILD cannot trigger {trigger}")


_RULES: Mapping[str, Callable[[Instruction], None]] = {
    "add": _transfer, "arg": _arg, "cmd": _anything, "copy": _transfer, "entrypoint": _anything, "env": _pairs,
    "expose": _some, "from": _from, "healthcheck": _healthcheck, "label": _pairs, "maintainer": _one,
    "onbuild": _onbuild, "run": _anything, "shell": _shell, "stopsignal": _one, "user": _one, "volume": _volume,
    "workdir": _one,
}  # fmt: skip
