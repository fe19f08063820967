"""Proto3 JSON, read strictly and written canonically, by one pass over a table of each message's fields.

`json_format` accepts a field in both spellings (the last wins), `@@@@` as base64, numbers for enums, `1e3` for an
integer and a doubled key. All of these are client mistakes, so they are refused here; what is accepted means the same
there. A line of a log costs a fifth of what it costs there.
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
from google.protobuf.message_factory import GetMessageClass

MAX_DEPTH = 32
_SHOWN = 60
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
"""A string, or what begins a value outside of one."""
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)

_EXCLUDED = {
    "CreateBuildRequest.source": "; an upload whose runtime is named is code.compile.runtime beside sourceRef.contextId"
}
"""Message and oneof → what else says what two members of it were meant to say."""

M = TypeVar("M", bound=Message)


class Malformed(ValueError):
    """What the contract refuses. `where` is the JSON path ("code.compile.runtime"), or "body" for the whole."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.message, self.where = message, where


def parse(cls: type[M], data: bytes, most_values: int | None = None) -> M:
    """A message of `cls` from proto3 JSON in UTF-8, of at most so many values, as `too_many_values` counts them.

    Raises `Malformed`.
    """
    if most_values is not None and too_many_values(data, most_values):
        _refuse("body", f"the body has more than {most_values} values")
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


def too_many_values(data: bytes, most: int) -> bool:
    """Whether JSON has more objects, lists and commas than `most`, before any value of it is made.

    Read, an empty object takes thirty times its bytes. What stands in strings does not count: a text may hold anything.
    """
    if data.count(b"{") + data.count(b"[") + data.count(b",") <= most:
        return False
    values = strings = 0
    for token in _STRUCTURE.finditer(data):
        if data[token.start()] == ord('"'):
            strings += 1
        else:
            values += 1
        if values > most or strings > 2 * most + 1:  # JSON has at most two strings behind each of these
            return True
    return False


def from_json(cls: type[M], value: Mapping[str, Any]) -> M:
    """A message of `cls` from JSON values that are parsed already. Raises as `parse` does."""
    try:
        return cast(M, _read_message(_shape(cls.DESCRIPTOR), value, 1))
    except _Wrong as wrong:
        path = ""
        for part in reversed(wrong.parts):
            path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
        _refuse(path, wrong.message)


def from_query(cls: type[M], pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> M:
    """A message of `cls` from decoded path and query parameters; a repeated field may occur several times.

    Only fields that are no messages can occur. A mapping has lost what occurred twice: rather hand in pairs.
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
    return float(text) if field.cpp_type in _FLOATS and _DECIMAL.fullmatch(text) else text


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
    return json.dumps(_written(message), separators=(",", ":")).encode("ascii")


def _written(message: Message) -> dict[str, Any]:
    """The message as JSON values, its fields in the order of their numbers."""
    shape = _shape(message.DESCRIPTOR)
    writers = shape.writers
    if writers is None:
        return json_format.MessageToDict(message)
    made = {}
    for field, value in message.ListFields():
        name, write = writers[field.number]
        made[name] = value if write is None else write(value)
    return made


class _Object(dict[str, Any]):
    """A JSON object that remembers a key that occurred twice."""

    doubled: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return made


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


class _Wrong(Exception):
    """A value that is refused; `parts` are the keys and indices to it, the innermost first."""

    def __init__(self, message: str, *parts: str | int) -> None:
        super().__init__(message)
        self.message, self.parts = message, list(parts)


Read = Callable[[Any, int], Any]
"""The field's value of a JSON value, which is so many messages deep. Raises `_Wrong`."""

Write = Callable[[Any], Any]
"""The JSON value of a field's value."""


@dataclass(frozen=True, kw_only=True)
class _Field:
    name: str
    oneof: str | None
    read: Read


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A message as it is read and written: `fields` by both spellings; `writers` by number, with the name on the wire,
    None where `json_format` writes it."""

    name: str
    cls: type[Message]
    fields: Mapping[str, _Field]
    wire_names: tuple[str, ...]
    writers: Mapping[int, tuple[str, Write | None]] | None


@functools.cache
def _shape(descriptor: Descriptor) -> _Shape:
    fields: dict[str, _Field] = {}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        made = _Field(name=field.name, oneof=oneof.name if oneof else None, read=_field_reader(field))
        fields[field.name] = fields[field.json_name] = made
    return _Shape(
        name=descriptor.name,
        cls=GetMessageClass(descriptor),
        fields=fields,
        wire_names=tuple(field.json_name for field in descriptor.fields),
        writers=_writers(descriptor),
    )


def _read_message(shape: _Shape, value: Any, depth: int) -> Message:
    if not isinstance(value, dict):
        raise _Wrong(f"must be an object, not {_kind(value)}")
    if depth > MAX_DEPTH:
        raise _Wrong(f"nested deeper than {MAX_DEPTH}")
    doubled = getattr(value, "doubled", None)
    if doubled is not None:
        raise _Wrong("is given twice", doubled)
    seen: dict[str, str] = {}
    members: dict[str, str] = {}
    made: dict[str, Any] = {}
    for key, item in value.items():
        field = shape.fields.get(key)
        if field is None:
            _unknown_field(shape, key)
        name = field.name
        if name in seen:
            raise _Wrong(f'is given twice: as "{seen[name]}" and as "{key}"', key)
        seen[name] = key
        if item is None:  # proto3 JSON: null is the field left out
            continue
        if field.oneof is not None and members.setdefault(field.oneof, key) != key:
            hint = _EXCLUDED.get(f"{shape.name}.{field.oneof}", "")
            raise _Wrong(f'excludes "{members[field.oneof]}": only one of "{field.oneof}" may be given{hint}', key)
        try:
            made[name] = field.read(item, depth)
        except _Wrong as wrong:
            wrong.parts.append(key)
            raise
    return shape.cls(**made)


def _unknown_field(shape: _Shape, key: str) -> NoReturn:
    near = difflib.get_close_matches(key[:_SHOWN], shape.wire_names, 1)
    hint = f'; is "{near[0]}" meant?' if near else ""
    raise _Wrong(f"is no field of {shape.name}{hint}", key)


def _is_map(entry: Descriptor | None) -> bool:
    return entry is not None and bool(entry.GetOptions().map_entry)


def _field_reader(field: FieldDescriptor) -> Read:
    if (entry := field.message_type) is not None and _is_map(entry):
        return _map_reader(entry)
    one = _value_reader(field)
    return _list_reader(one) if field.is_repeated else one


def _list_reader(one: Read) -> Read:
    def read(value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise _Wrong(f"must be a list, not {_kind(value)}")
        made: list[Any] = []
        try:
            for item in value:
                made.append(one(item, depth))  # its length is the index of the item that is refused
        except _Wrong as wrong:
            wrong.parts.append(len(made))
            raise
        return made

    return read


def _map_reader(entry: Descriptor) -> Read:
    of_key = _value_reader(entry.fields_by_name["key"])
    of_value = _value_reader(entry.fields_by_name["value"])

    def read(value: Any, depth: int) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise _Wrong(f"must be an object, not {_kind(value)}")
        if getattr(value, "doubled", None) is not None:
            raise _Wrong("is given twice", str(value.doubled))  # type: ignore[attr-defined]
        made = {}
        for key, item in value.items():
            name = of_key(key, depth)
            try:
                made[name] = of_value(item, depth)
            except _Wrong as wrong:
                wrong.parts.append(key)
                raise
        return made

    return read


def _value_reader(field: FieldDescriptor) -> Read:
    message_type, enum_type = field.message_type, field.enum_type
    if message_type is not None:
        # looked up late: a message may hold itself
        return lambda value, depth: _read_message(_shape(message_type), value, depth + 1)
    if enum_type is not None:
        numbers = {name: each.number for name, each in enum_type.values_by_name.items()}
        return lambda value, _: _read_enum(numbers, value)
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return lambda value, _: _read_integer(low, high, value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _read_bytes
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _read_string
    return _read_number


def _read_enum(numbers: Mapping[str, int], value: Any) -> int:
    number = numbers.get(value) if isinstance(value, str) else None
    if number is not None:
        return number
    if not isinstance(value, str):
        raise _Wrong(f"must be one of {', '.join(numbers)}, not {_kind(value)}")
    short = [name for name in numbers if value and name.endswith("_" + value.upper())]
    near = short or difflib.get_close_matches(value[:_SHOWN], tuple(numbers), 1)
    hint = f'; is "{near[0]}" meant?' if near else f"; it has {', '.join(numbers)}"
    raise _Wrong(f"{_short(repr(value))} is not a value of this enum{hint}")


def _read_integer(low: int, high: int, value: Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        found = _short(repr(value)) if isinstance(value, str | float) else _kind(value)
        raise _Wrong(f"must be an integer in plain digits, not {found}")
    if not low <= value <= high:
        raise _Wrong(f"must be between {low} and {high}")
    return value


def _read_bytes(value: Any, _depth: int) -> bytes:
    if not isinstance(value, str):
        raise _Wrong(f"must be base64 in a string, not {_kind(value)}")
    try:
        data = base64.b64decode(value, validate=True)
        if len(value) % 4:  # b64decode takes "AAAA="
            raise binascii.Error("the length is not a multiple of 4")
        # the last group alone shows bits beyond the data, which decode to the same bytes
        if value and base64.b64encode(base64.b64decode(value[-4:])).decode() != value[-4:]:
            raise binascii.Error("bits are left over")
    except (binascii.Error, ValueError) as error:
        raise _Wrong(f"is not standard base64 with padding: {_short(str(error))}") from None
    return data


def _read_bool(value: Any, _depth: int) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"must be true or false, not {_kind(value)}")
    return value


def _read_string(value: Any, _depth: int) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"must be a string, not {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _Wrong("holds half of a surrogate pair, which is no text") from None
    return value


def _read_number(value: Any, _depth: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"must be a number, not {_kind(value)}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise _Wrong("must be a finite number")
    return value


def _writers(descriptor: Descriptor) -> Mapping[int, tuple[str, Write | None]] | None:
    """How each field is written; None when one is a map or a float, which are rare, and never in a log line."""
    fields = descriptor.fields
    if any(_is_map(field.message_type) or field.cpp_type in _FLOATS for field in fields):
        return None
    return {field.number: (field.json_name, _field_writer(field)) for field in fields}


def _field_writer(field: FieldDescriptor) -> Write | None:
    one = _value_writer(field)
    if not field.is_repeated:
        return one
    return list if one is None else lambda values: [one(value) for value in values]


def _value_writer(field: FieldDescriptor) -> Write | None:
    if field.message_type is not None:
        return _written
    if field.enum_type is not None:
        names = {number: each.name for number, each in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.cpp_type in _WIDE:
        return str
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda data: base64.b64encode(data).decode("ascii")
    return None


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
