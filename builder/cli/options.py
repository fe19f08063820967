"""Options that every command takes, wherever they stand after the program's name. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from builder.cli.stop import mistake
from builder.cli.terminal import When

MOST_BYTES = 1024 * 1024
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Common:
    """`--json --plain -q -v --color --ascii --server --version`; `verbose` counts."""

    json: bool = False
    plain: bool = False
    quiet: bool = False
    verbose: int = 0
    color: When = "auto"
    ascii: bool = False
    server: str | None = None
    version: bool = False


COMMON_HELP = "--json  --plain  -q, --quiet  -v, --verbose  --color=WHEN  --ascii  --server=URL  --version"
COMMON_NAMES = ("--json", "--plain", "--quiet", "--verbose", "--color", "--ascii", "--server", "--version", "--help")


def split_common(argv: Sequence[str], takes_value: Container[str] = ()) -> tuple[Common, list[str]]:
    """Take the common options out of `argv`; what follows `--`, and the values of `takes_value`, stay untouched.

    Raises `Stop` for a value that `--color` does not know, or one that is missing.
    """
    common, rest = Common(), []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif not word.startswith("-") or word in ("-", "-h", "--help"):
            rest.append(word)
        elif word.partition("=")[0] in ("--color", "--server"):
            name, equals, value = word.partition("=")
            common = _valued(common, name, value if equals else next(words, None))
        elif (flag := _flag(common, word)) is not None:
            common = flag
        elif word in takes_value:
            rest += [word, *itertools.islice(words, 1)]
        else:
            rest.append(word)
    return common, rest


def _flag(common: Common, word: str) -> Common | None:
    if word == "--json":
        return replace(common, json=True)
    if word == "--plain":
        return replace(common, plain=True)
    if word == "--ascii":
        return replace(common, ascii=True)
    if word == "--version":
        return replace(common, version=True)
    if word in ("-q", "--quiet"):
        return replace(common, quiet=True)
    if word == "--verbose":
        return replace(common, verbose=common.verbose + 1)
    if re.fullmatch(r"-v+", word):
        return replace(common, verbose=common.verbose + len(word) - 1)
    return None


def _valued(common: Common, name: str, value: str | None) -> Common:
    if not value:
        raise mistake(f"{name} needs a value", where=name, next=f"{name}={'auto' if name == '--color' else 'URL'}")
    if name == "--server":
        return replace(common, server=value)
    for known in get_args(When):
        if value == known:
            return replace(common, color=known)
    raise mistake(f'--color is "{value}"; it takes auto, always or never', where=name)


def wants_json(argv: Sequence[str]) -> bool:
    """Whether `--json` was asked for, also when the rest of the line cannot be read."""
    return "--json" in (argv[: argv.index("--")] if "--" in argv else argv)


def seconds(text: str) -> int:
    """`600`, `90s`, `10m`, `1h` in seconds. Raises `Stop` with what it takes."""
    found = re.fullmatch(r"([0-9]{1,9})([smh]?)", text)
    if not found or int(found[1]) == 0:
        raise mistake(f'--timeout is "{text}"; it takes a time such as 90s, 10m or 1h', where="--timeout")
    return int(found[1]) * _SECONDS[found[2]]


def pairs(texts: Sequence[str], option: str) -> Mapping[str, str]:
    """`KEY=VALUE` each. Raises `Stop` for one without `=`, without a key, or with a key that came before."""
    out: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise mistake(f'{option} is "{text}"; it takes KEY=VALUE', where=option)
        if key in out:
            raise mistake(f"{option} names {key} twice", where=option)
        out[key] = value
    return out


def arguments(texts: Sequence[str], options: Mapping[str, str]) -> Mapping[str, str]:
    """The build arguments of `--build-arg K=V` and of the options that stand for one. Raises `Stop`."""
    out = dict(pairs(texts, "--build-arg"))
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value and name in out:
            raise mistake(f"{option} and --build-arg {name} exclude each other", where=option)
        if value:
            out[name] = _start(value) if name == "start" else value
    return out


def _start(text: str) -> str:
    """A command line as the JSON list that is sent."""
    import json
    import shlex

    if text.lstrip().startswith("["):
        return text
    try:
        return json.dumps(shlex.split(text), ensure_ascii=False)
    except ValueError as error:
        raise mistake(f"--start cannot be read: {error}", where="--start", next='--start "./app serve"') from None


def environment(texts: Sequence[str], files: Sequence[str], environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables of `--env K=V` over those of `--env-file`; of two files the later one wins. Raises `Stop`.

    A file has a line K=V for each variable, as Docker reads it: no quotes, no expansion; empty lines and `#` are left
    out; K alone has the value that it has in `environ`, and is left out where it has none.
    """
    out: dict[str, str] = {}
    for name in files:
        # Only a line feed ends a line, with or without a carriage return: others are characters of a value.
        for number, line in enumerate(small_file(name, "--env-file").removeprefix("\ufeff").split("\n"), 1):
            text = line.removesuffix("\r").lstrip()
            if text and not text.startswith("#"):
                out |= _variable(text, "--env-file", f"{name}:{number}", environ)
    for text in texts:
        out |= _variable(text, "--env", "--env")
    return out


def _variable(text: str, option: str, where: str, environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """One variable, or none. A refusal does not repeat the text: it may be a line of a secret."""
    key, equals, value = text.partition("=")
    if (not equals and environ is None) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key) or "\0" in value:
        takes = "KEY=VALUE" if environ is None else "KEY=VALUE or KEY in each line"
        raise mistake(f"{option} takes {takes}; a key has letters, digits and _ . -", where=where)
    if equals:
        return {key: value}
    return {key: environ[key]} if environ and key in environ else {}


def small_file(path: str, option: str) -> str:
    """The text of a file that an option names. Raises `Stop` for one that cannot be read, is no UTF-8, or has more than
    `MOST_BYTES`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) <= MOST_BYTES:
            return data.decode()
        why = f"it has more than {MOST_BYTES} bytes"
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "it is no UTF-8"
    raise mistake(f"{path} cannot be read: {why}", where=option)


def check_id(text: str) -> str:
    """An id or the start of one: 4 to 20 lower-case letters and digits. Raises `Stop`."""
    if not re.fullmatch(r"[0-9a-z]{4,20}", text):
        what = "is shorter than 4 characters" if len(text) < 4 else "is not the start of an id"
        raise mistake(f'"{text}" {what}', where="BUILD", next="See which builds there are: ignite-builder ls")
    return text
