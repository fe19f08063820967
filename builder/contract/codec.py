"""Proto3 JSON, read strictly: `json_format` after a pass over the descriptor that refuses what it lets through.

Alone, `json_format` takes a field in both spellings (the last wins), `@@@@` as base64, numbers for enums, `1e3` for
an integer and a doubled key. Nobody who sends one of these means it.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

MAX_DEPTH = 32
_SHOWN = 60
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

M = TypeVar("M", bound=Message)


class Malformed(ValueError):
    """What the contract refuses. `where` is the JSON path ("code.compile.runtime"), or "body" for the whole."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.message, self.where = message, where


def parse(cls: type[M], data: bytes) -> M:
    """A message of `cls` from proto3 JSON in UTF-8.

    Raises `Malformed`.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        _refuse("body", f"the body is not UTF-8: byte {error.start}")
    except json.JSONDecodeError as error:
        _refuse("body", f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}")
    except RecursionError:
        _refuse("body", f"the body is nested deeper than {MAX_DEPTH}")
    except ValueError as error:
        _refuse("body", f"the body is not JSON: {_short(str(error))}")
    if not isinstance(value, dict):
        _refuse("body", f"the body must be an object, not {_kind(value)}")
    return from_json(cls, value)


def from_json(cls: type[M], value: Mapping[str, Any]) -> M:
    """A message of `cls` from JSON values that are parsed already. Raises as `parse` does."""
    _check_message(_shape(cls.DESCRIPTOR), value, "", 1)
    try:
        return json_format.ParseDict(dict(value), cls())
    except (json_format.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        _refuse("body", _short(str(error)))


def from_query(cls: type[M], pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> M:
    """A message of `cls` from decoded path and query parameters; a repeated field may be given several times.

    Only fields that are no messages can be given. A mapping has lost what was given twice: rather hand in pairs.
    Raises as `parse` does.
    """
    value: dict[str, Any] = {}
    descriptor = cast(Descriptor, cls.DESCRIPTOR)
    by_name = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    for name, text in pairs.items() if isinstance(pairs, Mapping) else pairs:
        field = by_name.get(name)
        if field is None or field.message_type is not None:
            known = ", ".join(field.json_name for field in descriptor.fields if field.message_type is None)
            _refuse(_join("", name), f"is not a parameter here; there is {known or 'none'}")
        if field.is_repeated:
            value.setdefault(name, []).append(_from_text(field, text))
        elif name in value:
            _refuse(_join("", name), "is given twice")
        else:
            value[name] = _from_text(field, text)
    return from_json(cls, value)


def _from_text(field: FieldDescriptor, text: str) -> Any:
    """The JSON value a parameter stands for; what it cannot stand for stays text, for the check to refuse."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL and text in ("true", "false"):
        return text == "true"
    is_float = field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
    return float(text) if is_float and _DECIMAL.fullmatch(text) else text


def number(text: str, where: str) -> int:
    """A number from a header, a parameter or a cursor. Raises `Malformed`; any store can compare it.

    `str.isdigit` takes digits that `int` does not, and `int` takes more than a column holds.
    """
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Malformed(f"{where} takes 1 to 18 digits, not {_short(text)!r}", where)
    return int(text)


def dump(message: Message) -> bytes:
    """Canonical proto3 JSON: camelCase, 64-bit integers as strings, enum names, defaults omitted.

    One line of ASCII, so that no reader of server-sent events finds a line separator inside.
    """
    return json.dumps(json_format.MessageToDict(message), separators=(",", ":")).encode("ascii")


class _Object(dict[str, Any]):
    """A JSON object that remembers a key it was given twice."""

    doubled: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return made


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


Check = Callable[[Any, str, int], None]
"""Raises for a value (second argument its path, third its depth) that the field may not have."""


@dataclass(frozen=True, kw_only=True)
class _Field:
    name: str
    oneof: str | None
    check: Check


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A message as the check needs it: both spellings of each field."""

    name: str
    fields: Mapping[str, _Field]
    wire_names: tuple[str, ...]


@functools.cache
def _shape(descriptor: Descriptor) -> _Shape:
    fields: dict[str, _Field] = {}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        made = _Field(name=field.name, oneof=oneof.name if oneof else None, check=_field_check(field))
        fields[field.name] = fields[field.json_name] = made
    return _Shape(name=descriptor.name, fields=fields, wire_names=tuple(field.json_name for field in descriptor.fields))


def _check_message(shape: _Shape, value: Any, path: str, depth: int) -> None:
    if not isinstance(value, dict):
        _refuse(path, f"must be an object, not {_kind(value)}")
    if depth > MAX_DEPTH:
        _refuse(path, f"nested deeper than {MAX_DEPTH}")
    doubled = getattr(value, "doubled", None)
    if doubled is not None:
        _refuse(_join(path, doubled), "is given twice")
    seen: dict[str, str] = {}
    members: dict[str, str] = {}
    for key, item in value.items():
        field = shape.fields.get(key)
        if field is None:
            _unknown_field(shape, path, key)
        if field.name in seen:
            _refuse(_join(path, key), f'is given twice: as "{seen[field.name]}" and as "{key}"')
        seen[field.name] = key
        if item is None:  # proto3 JSON: null is the field left out
            continue
        if field.oneof is not None and members.setdefault(field.oneof, key) != key:
            _refuse(_join(path, key), f'excludes "{members[field.oneof]}": only one of "{field.oneof}" may be given')
        field.check(item, _join(path, key), depth)


def _unknown_field(shape: _Shape, path: str, key: str) -> NoReturn:
    near = difflib.get_close_matches(key[:_SHOWN], shape.wire_names, 1)
    hint = f'; is "{near[0]}" meant?' if near else ""
    _refuse(_join(path, key), f"{shape.name} has no such field{hint}")


def _field_check(field: FieldDescriptor) -> Check:
    of_message = field.message_type
    if of_message is not None and of_message.GetOptions().map_entry:
        return _map_check(of_message)
    one = _value_check(field)
    return _list_check(one) if field.is_repeated else one


def _list_check(one: Check) -> Check:
    def check(value: Any, path: str, depth: int) -> None:
        if not isinstance(value, list):
            _refuse(path, f"must be a list, not {_kind(value)}")
        for index, item in enumerate(value):
            one(item, f"{path}[{index}]", depth)

    return check


def _map_check(entry: Descriptor) -> Check:
    of_key = _value_check(entry.fields_by_name["key"])
    of_value = _value_check(entry.fields_by_name["value"])

    def check(value: Any, path: str, depth: int) -> None:
        if not isinstance(value, dict):
            _refuse(path, f"must be an object, not {_kind(value)}")
        if getattr(value, "doubled", None) is not None:
            _refuse(_join(path, str(value.doubled)), "is given twice")  # type: ignore[attr-defined]
        for key, item in value.items():
            of_key(key, path, depth)
            of_value(item, _join(path, key), depth)

    return check


def _value_check(field: FieldDescriptor) -> Check:
    message_type, enum_type = field.message_type, field.enum_type
    if message_type is not None:
        # looked up late: a message may hold itself
        return lambda value, path, depth: _check_message(_shape(message_type), value, path, depth + 1)
    if enum_type is not None:
        names = tuple(enum_type.values_by_name)
        return lambda value, path, depth: _check_enum(names, value, path)
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return lambda value, path, depth: _check_integer(low, high, value, path)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _check_bytes
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _check_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _check_string
    return _check_number


def _check_enum(names: tuple[str, ...], value: Any, path: str) -> None:
    if isinstance(value, str) and value in names:
        return
    if not isinstance(value, str):
        _refuse(path, f"must be one of {', '.join(names)}, not {_kind(value)}")
    short = [name for name in names if value and name.endswith("_" + value.upper())]
    near = short or difflib.get_close_matches(value[:_SHOWN], names, 1)
    hint = f'; is "{near[0]}" meant?' if near else f"; it has {', '.join(names)}"
    _refuse(path, f"{_short(repr(value))} is not a value of this enum{hint}")


def _check_integer(low: int, high: int, value: Any, path: str) -> None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        found = _short(repr(value)) if isinstance(value, str | float) else _kind(value)
        _refuse(path, f"must be an integer in plain digits, not {found}")
    if not low <= value <= high:
        _refuse(path, f"must be between {low} and {high}")


def _check_bytes(value: Any, path: str, _depth: int) -> None:
    if not isinstance(value, str):
        _refuse(path, f"must be base64 in a string, not {_kind(value)}")
    try:
        base64.b64decode(value, validate=True)
        if len(value) % 4:  # b64decode takes "AAAA="
            raise binascii.Error("the length is not a multiple of 4")
        # the last group alone shows bits beyond the data, which decode to the same bytes
        if value and base64.b64encode(base64.b64decode(value[-4:])).decode() != value[-4:]:
            raise binascii.Error("bits are left over")
    except (binascii.Error, ValueError) as error:
        _refuse(path, f"is not standard base64 with padding: {_short(str(error))}")


def _check_bool(value: Any, path: str, _depth: int) -> None:
    if not isinstance(value, bool):
        _refuse(path, f"must be true or false, not {_kind(value)}")


def _check_string(value: Any, path: str, _depth: int) -> None:
    if not isinstance(value, str):
        _refuse(path, f"must be a string, not {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            _refuse(path, "holds half of a surrogate pair, which is no text")


def _check_number(value: Any, path: str, _depth: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(path, f"must be a number, not {_kind(value)}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        _refuse(path, "must be a finite number")


def _join(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{_short(json.dumps(key))}]"
    return f"{path}.{_short(key)}" if path else _short(key)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _kind(value: Any) -> str:
    """What it is, never what it holds: a value in the wrong place may be a secret."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


def _refuse(where: str, message: str) -> NoReturn:
    raise Malformed(message if where == "body" else f"{where} {message}", where)
