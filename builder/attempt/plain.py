"""Frozen dataclasses and errors as JSON, and back, by the types that are declared: the messages of two processes.

What comes back is data and nothing else: one side has run over hostile text, so no pickle of it is ever loaded.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from builder.errors import REASONS, BuildError, ErrorClass, PlatformError

Shape = TypeVar("Shape")


def to_json(value: object) -> bytes:
    """Dataclasses, enums, tuples, mappings and plain values."""
    return json.dumps(value, default=_plain).encode()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_plain(shape: type[Shape], value: object) -> Shape:
    """A value of JSON as what it is declared to be. Raises `ValueError` for anything else."""
    return cast(Shape, _read(shape, value))


def _read(shape: Any, value: object) -> object:
    origin, inner = get_origin(shape), get_args(shape)
    if shape in (str, int, bool, float):
        if type(value) is not shape:
            raise ValueError(f"a {shape.__name__} is needed, not {type(value).__name__}")
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _read(_member(inner, value), value)
    if origin is tuple and isinstance(value, list):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return tuple(_read(kind, one) for kind, one in zip(kinds, value, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {_read(inner[0], key): _read(inner[1], one) for key, one in value.items()}
    if isinstance(shape, type) and issubclass(shape, enum.Enum):
        return shape(value)
    if dataclasses.is_dataclass(shape) and isinstance(value, dict):
        fields = _fields(cast(Any, shape))
        if set(value) != set(fields):
            raise ValueError(f"{shape} has other fields")
        return cast(Any, shape)(**{name: _read(kind, value[name]) for name, kind in fields.items()})
    raise ValueError(f"{shape} is needed, not {type(value).__name__}")


def _member(inner: tuple[Any, ...], value: object) -> Any:
    """The one of a union that a value is: of several dataclasses that with its fields."""
    kinds = [one for one in inner if one is not type(None)]
    if len(kinds) == 1:
        return kinds[0]
    found = [one for one in kinds if isinstance(value, dict) and set(_fields(one)) == set(value)]
    if len(found) != 1:
        raise ValueError(f"one of {kinds} is needed")
    return found[0]


def prepare(*shapes: type) -> None:
    """Look up what these types declare, once for all processes that are forked later."""
    for shape in shapes:
        _fields(shape)


@functools.cache
def _fields(shape: type) -> Mapping[str, Any]:
    hints = get_type_hints(shape)
    return {field.name: hints[field.name] for field in dataclasses.fields(cast(Any, shape))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A `BuildError` on its way."""

    reason: str
    message: str
    where: str
    said: tuple[str, ...]
    next: str
    exit_code: int
    limit: int
    peak: int
    platform: bool
    retry_after_ms: int
    error_class: ErrorClass

    def error(self) -> BuildError:
        """The error itself. Raises `ValueError` for a reason that the table does not know."""
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason")
        if self.platform:
            after = self.retry_after_ms
            return PlatformError(self.reason, self.message, retry_after_ms=after, where=self.where, said=self.said)
        return BuildError(
            self.reason,
            self.message,
            where=self.where,
            said=self.said,
            next=self.next,
            exit_code=self.exit_code,
            limit=self.limit,
            peak=self.peak,
            error_class=self.error_class,
        )


def failed(error: BuildError) -> Failed:
    """An error as a value."""
    return Failed(
        reason=error.reason,
        message=error.message,
        where=error.where,
        said=tuple(error.said),
        next=error.next,
        exit_code=error.exit_code,
        limit=error.limit,
        peak=error.peak,
        platform=isinstance(error, PlatformError),
        retry_after_ms=error.retry_after_ms if isinstance(error, PlatformError) else 0,
        error_class=error.error_class,
    )
