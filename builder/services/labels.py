"""Labels: what a client may put on a build, and how a list asks for builds that have them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from builder.errors import BuildError

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
MAX_LABELS, LABEL_BYTES = 16, 256


def check_labels(labels: Mapping[str, str]) -> None:
    """The labels of a new build. Raises `BuildError` InvalidRequest."""
    if len(labels) > MAX_LABELS:
        message = f"{len(labels)} labels are given, {MAX_LABELS} are allowed"
        raise BuildError("InvalidRequest", message, where="labels")
    for key, value in labels.items():
        _label(key, value, f"labels.{key[:80]}")


def _label(key: str, value: str, where: str) -> None:
    if not _LABEL.fullmatch(key):
        message = "the key of a label takes 1 to 63 of A-Z, a-z, 0-9, . _ / -, a letter or digit at both ends"
        raise BuildError("InvalidRequest", message, where=where)
    if len(value.encode()) > LABEL_BYTES or not value.isprintable():
        message = f"the value of a label takes up to {LABEL_BYTES} bytes of printable text"
        raise BuildError("InvalidRequest", message, where=where)


def label_filter(texts: Sequence[str]) -> dict[str, str]:
    """The labels that a list asks for, "KEY=VALUE" each. Raises `BuildError` InvalidRequest."""
    found: dict[str, str] = {}
    for index, text in enumerate(texts[: MAX_LABELS + 1]):
        where = f"label[{index}]"
        key, equals, value = text.partition("=")
        if not equals:
            raise BuildError("InvalidRequest", f'"{text[:80]}" is no KEY=VALUE', where=where)
        _label(key, value, where)
        if found.setdefault(key, value) != value:
            raise BuildError("InvalidRequest", f"{key} cannot have two values", where=where)
    if len(texts) > MAX_LABELS:
        raise BuildError("InvalidRequest", f"a list takes up to {MAX_LABELS} labels", where="label")
    return found
