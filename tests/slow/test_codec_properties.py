"""Every message survives dump and parse, and what is changed in one is read or refused with words."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.contract import codec
from builder.contract.codec import Malformed
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.contract.dodil.ignite.v1 import ignite_compute_pb2 as compute

FILES = (common.DESCRIPTOR, compute.DESCRIPTOR, pb.DESCRIPTOR)
CLASSES = [GetMessageClass(each) for file in FILES for each in file.message_types_by_name.values()]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=3)
KEYS = st.lists(TEXTS, max_size=2, unique=True)
FLAGS = st.booleans()


@functools.cache  # a strategy is checked when it is first drawn from
def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values that Python's protobuf takes for one element of a field."""
    if field.message_type is not None:
        return messages_of(field.message_type, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type in codec._RANGES:
        return st.integers(*codec._RANGES[field.cpp_type])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return TEXTS
    return st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> Message:
    """A message of any shape; two levels down only scalars are set."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(FLAGS) or (field.message_type is not None and depth > 2):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill(getattr(message, field.name), field.message_type.fields_by_name["value"], draw, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(lists_of(field, depth)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field, depth)))
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


def _fill(entries: Any, value: FieldDescriptor, draw: st.DrawFn, depth: int) -> None:
    """Entries of a map; one of messages is filled through its keys."""
    if value.message_type is None:
        entries.update(draw(MAPS))
        return
    for key in draw(KEYS):
        entries[key].CopyFrom(draw(values(value, depth)))


@functools.cache
def messages_of(descriptor: Any, depth: int = 0) -> st.SearchStrategy[Message]:
    """The strategy of a message, one for all its places."""
    return messages(descriptor, depth)


@functools.cache
def lists_of(field: FieldDescriptor, depth: int) -> st.SearchStrategy[list[Any]]:
    """A few elements of a repeated field."""
    return st.lists(values(field, depth), max_size=3)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.DESCRIPTOR.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_message_survives_dump_and_parse(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages_of(cls.DESCRIPTOR))
    dumped = codec.dump(message)
    assert codec.parse(cls, dumped) == message
    assert dumped.isascii() and b"\n" not in dumped
    wanted = json_format.MessageToDict(message)
    assert dumped == json.dumps(wanted, separators=(",", ":")).encode()
    assert codec.parse(cls, dumped) == json_format.ParseDict(wanted, cls())


ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e3", "@@@@", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def replaced(draw: Callable[[st.SearchStrategy[Any]], Any], value: Any) -> Any:
    """The value with one place of it changed."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        renamed = draw(st.sampled_from([key, key.upper(), key + "_", "buildId", "build_id"]))
        return {**{k: v for k, v in value.items() if k != key}, renamed: replaced(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [*value[:-1], replaced(draw, value[-1])]
    return draw(ODD)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.DESCRIPTOR.name)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_mutated_json_is_read_or_refused_with_words(cls: type[Message], data: st.DataObject) -> None:
    value = json.loads(codec.dump(data.draw(messages_of(cls.DESCRIPTOR))))
    text = json.dumps(replaced(data.draw, value)).encode()
    cut = data.draw(st.integers(0, 4 * len(text)))
    text = text[:cut]
    try:
        message = codec.parse(cls, text)
    except Malformed as error:
        assert error.where
        error.message.encode()
    else:
        assert codec.parse(cls, codec.dump(message)) == message
        assert json_format.ParseDict(json.loads(text), cls()) == message


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    try:
        codec.parse(pb.CreateBuildRequest, data)
    except Malformed as error:
        assert error.message


@settings(max_examples=300, deadline=None)
@given(text=st.text("ABab+/-_=09\n", max_size=12))
def test_base64_is_exactly_the_canonical_one(text: str) -> None:
    try:
        read = codec.parse(pb.CreateBuildRequest, json.dumps({"zippedCode": text}).encode()).zipped_code
    except Malformed:
        return
    assert base64.b64encode(read).decode() == text
