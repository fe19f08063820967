"""The config of an image that is to be started (OCI image-spec, config.md): whoever made the image wrote it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError
from builder.text import visible

LONGEST_WORD = 128 * 1024 - 1
"""Bytes of one argument or variable that the kernel passes to a program (MAX_ARG_STRLEN, with the NUL behind it)."""
LARGEST_ID = 2**31 - 1
OWN_USER = (65532, 65532)
"""The uid and gid of our own bases' apps."""


def require_runnable(run: Any, image: str) -> Mapping[str, Any]:
    """The part `config` of an image's config, when a program can be started by it.

    Of it `Entrypoint`, `Cmd` and `Env` are lists of text or null, `User` and `WorkingDir` text or null. Raises
    `BuildError` ImageContractViolated.
    """
    if not isinstance(run, dict):
        raise violated(image, "config", "is no object")
    command = [word for key in ("Entrypoint", "Cmd") for word in _words(run, key, image)]
    if not command or not command[0]:
        raise violated(image, "config.Entrypoint", "and Cmd name nothing to start")
    for pair in _words(run, "Env", image):
        if not pair.partition("=")[0]:
            raise violated(image, "config.Env", "has a variable without a name")
    workdir = _text(run, "WorkingDir", image)
    if workdir and not workdir.startswith("/"):
        raise violated(image, "config.WorkingDir", f"is no absolute path: {visible(workdir, limit=100)}")
    for number in _text(run, "User", image).split(":"):
        if number.isascii() and number.isdigit() and (len(number) > 10 or int(number) > LARGEST_ID):
            raise violated(image, "config.User", f"is beyond the largest number of a user, {LARGEST_ID}")
    return run


def user_of(user: str) -> tuple[int, int]:
    """The uid and gid that an app is started as here, by the user of its image alone: what its files have to that user
    is in `sandbox/users.py`. Where it is no number, `OWN_USER`."""
    uid, _, gid = user.partition(":")
    is_numeric = re.fullmatch("[0-9]{1,10}(:[0-9]{0,10})?", user) is not None
    return (int(uid), int(gid or 0)) if is_numeric else OWN_USER


def violated(image: str, where: str, why: str) -> BuildError:
    """An image that cannot be started for what its config has at `where`."""
    return BuildError("ImageContractViolated", f"{where} of {image} {why}", where=where)


def _words(run: Mapping[str, Any], key: str, image: str) -> list[str]:
    words = run.get(key)
    if words is None:
        return []
    if not isinstance(words, list):
        raise violated(image, f"config.{key}", "is no list of text")
    return [_checked(word, f"config.{key}", image) for word in words]


def _text(run: Mapping[str, Any], key: str, image: str) -> str:
    value = run.get(key)
    return "" if value is None else _checked(value, f"config.{key}", image)


def _checked(value: Any, where: str, image: str) -> str:
    if not isinstance(value, str):
        raise violated(image, where, f"has something that is no text: {visible(repr(value), limit=100)}")
    if "\0" in value:
        raise violated(image, where, "has a NUL, which no program can be given")
    if len(value) > LONGEST_WORD or len(value.encode()) > LONGEST_WORD:
        raise violated(image, where, f"has a text of more than {LONGEST_WORD} bytes, which no program can be given")
    return value
