"""Proto JSON: what is refused, where, and with which words; every message survives dump and parse."""

from __future__ import annotations

import base64
import functools
import json
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


def refused(cls: type[Message], text: str | bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        codec.parse(cls, text.encode() if isinstance(text, str) else text)
    return caught.value


def test_the_wire_example_of_the_contract() -> None:
    runtime = codec.parse(
        common.Runtime, b'{"rust":{"target":"RUST_COMPILATION_TARGET_NATIVE","toolchainVersion":"1.82"}}'
    )
    assert runtime.rust.target == common.RUST_COMPILATION_TARGET_NATIVE
    assert runtime.rust.toolchain_version == "1.82"
    assert codec.dump(runtime) == (b'{"rust":{"target":"RUST_COMPILATION_TARGET_NATIVE","toolchainVersion":"1.82"}}')


def test_dump_is_canonical() -> None:
    build = pb.Build(
        build_id="b1",
        status=pb.BUILD_STATUS_RUNNING,
        size_bytes=2**53 + 1,
        attempt=2,
        image_refs=["r/é\u2028"],
        build_args={"K": "v"},
    )
    assert codec.dump(build) == (
        b'{"buildId":"b1","status":"BUILD_STATUS_RUNNING","imageRefs":["r/\\u00e9\\u2028"],'
        b'"sizeBytes":"9007199254740993","buildArgs":{"K":"v"},"attempt":2}'
    )
    assert codec.dump(pb.Build()) == b"{}"
    assert codec.dump(pb.CreateBuildRequest(zipped_code=b"\x00\xff")) == b'{"zippedCode":"AP8="}'


@pytest.mark.parametrize(
    "text, where, says",
    [
        ('{"bildId": "x"}', "bildId", '"buildId"'),
        ('{"buildId": "a", "build_id": "b"}', "build_id", "twice"),
        ('{"buildId": "a", "buildId": "b"}', "buildId", "twice"),
        ('{"failure": {"reason": "a", "reason": "b"}}', "failure.reason", "twice"),
        ('{"buildArgs": {"A": "1", "A": "2"}}', "buildArgs.A", "twice"),
        ('{"status": 2}', "status", "a number"),
        ('{"status": 99}', "status", "a number"),
        ('{"status": "RUNNING"}', "status", '"BUILD_STATUS_RUNNING"'),
        ('{"status": "build_status_running"}', "status", "BUILD_STATUS"),
        ('{"status": "2"}', "status", "not a value"),
        ('{"status": ""}', "status", "not a value"),
        ('{"sizeBytes": 1e3}', "sizeBytes", "1000.0"),
        ('{"sizeBytes": 1.0}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": "1e3"}', "sizeBytes", "1e3"),
        ('{"sizeBytes": " 1"}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": "+1"}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": "01"}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": "1_000"}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": "\u0661"}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": ""}', "sizeBytes", "plain digits"),
        ('{"sizeBytes": true}', "sizeBytes", "a boolean"),
        ('{"sizeBytes": "9223372036854775808"}', "sizeBytes", "between"),
        ('{"sizeBytes": -9223372036854775809}', "sizeBytes", "between"),
        ('{"attempt": -1}', "attempt", "between"),
        ('{"attempt": 4294967296}', "attempt", "between"),
        ('{"cancelRequested": "true"}', "cancelRequested", "true or false"),
        ('{"cancelRequested": 1}', "cancelRequested", "true or false"),
        ('{"name": 1}', "name", "a string"),
        ('{"name": "\\ud800"}', "name", "surrogate"),
        ('{"buildArgs": {"\\udc00": "x"}}', "buildArgs", "surrogate"),
        ('{"buildArgs": {"A": 1}}', "buildArgs.A", "a string"),
        ('{"buildArgs": {"A": null}}', "buildArgs.A", "null"),
        ('{"buildArgs": {"a b": 1}}', 'buildArgs["a b"]', "a string"),
        ('{"buildArgs": ["A"]}', "buildArgs", "an object"),
        ('{"tags": "latest"}', "tags", "a list"),
        ('{"tags": ["a", null]}', "tags[1]", "null"),
        ('{"phases": [{}, {"phase": "PUSH"}]}', "phases[1].phase", '"BUILD_PHASE_PUSH"'),
        ('{"failure": []}', "failure", "an object"),
        ('{"failure": "x"}', "failure", "an object"),
        ('{"@type": "x"}', '["@type"]', "no such field"),
        ('{"[dodil.x]": "x"}', '["[dodil.x]"]', "no such field"),
        ("[]", "body", "an object, not a list"),
        ("null", "body", "null"),
        ('"x"', "body", "a string"),
        ("", "body", "not JSON"),
        ("{", "body", "not JSON"),
        ("{} {}", "body", "not JSON"),
        ('{"sizeBytes": NaN}', "body", "NaN"),
        ('{"sizeBytes": -Infinity}', "body", "Infinity"),
        ('{"sizeBytes": ' + "9" * 5000 + "}", "body", "not JSON"),
        ("[" * 200_000, "body", "nested"),
        ('{"name": ' + "[" * 200_000, "body", "nested"),
    ],
)
def test_refused_build(text: str, where: str, says: str) -> None:
    error = refused(pb.Build, text)
    assert error.where == where
    assert says in error.message
    assert len(error.message) < 600


@pytest.mark.parametrize(
    "text",
    [
        "@@@@",
        "QQ",
        "QQ=",
        "QQ===",
        "Q",
        "QR==",
        "-_-_",
        "QQ==\n",
        " QQ==",
        "QQ==QQ==",
        "AAAA=",
        "AAAA==",
        "AAAA====",
        "====",
        "é",
    ],
)
def test_refused_base64(text: str) -> None:
    error = refused(pb.CreateBuildRequest, json.dumps({"zippedCode": text}))
    assert error.where == "zippedCode"
    assert "base64" in error.message


@pytest.mark.parametrize(
    "cls, value, where",
    [
        (pb.CreateBuildRequest, {"contextId": "a", "zippedCode": "QQ=="}, "zippedCode"),
        (pb.CreateBuildRequest, {"context_id": "", "code": {}}, "code"),
        (common.CodeSource, {"compile": {}, "image": {}}, "image"),
        (common.CompileSource, {"sourceCode": "", "archive": ""}, "archive"),
        (
            pb.CreateBuildRequest,
            {"code": {"compile": {"runtime": {"go": {}, "rust": {}}}}},
            "code.compile.runtime.rust",
        ),
        (pb.CreateBuildRequest, {"code": {"compile": {"runtime": "go"}}}, "code.compile.runtime"),
        (common.Runtime, {"rust": {"target": "NATIVE"}}, "rust.target"),
    ],
)
def test_refused_oneof_and_path(cls: type[Message], value: Any, where: str) -> None:
    assert refused(cls, json.dumps(value)).where == where


@pytest.mark.parametrize("text", ['"NaN"', '"1.5"', "true", "1e999", "1" + "0" * 400])
def test_refused_number(text: str) -> None:
    assert refused(pb.Limits, f'{{"cpus": {text}}}').where == "cpus"


@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b'{"name": "\xff"}', b"\xef\xbb\xbf{}", b"\x00"])
def test_refused_encoding(data: bytes) -> None:
    assert refused(pb.Build, data).where == "body"


def test_a_value_in_the_wrong_place_is_not_repeated() -> None:
    error = refused(pb.Destination, '{"password": ["hunter2"], "insecure": "hunter2"}')
    assert "hunter2" not in error.message
    assert "hunter2" not in refused(pb.Destination, '{"insecure": "hunter2"}').message


def test_long_names_are_cut() -> None:
    error = refused(pb.Build, json.dumps({"x" * 100_000: 1}))
    assert len(error.message) < 300
    assert len(error.where) < 100


def test_accepted_spellings() -> None:
    assert codec.parse(pb.Build, b'{"build_id": "a", "size_bytes": 5, "attempt": "3"}') == pb.Build(
        build_id="a", size_bytes=5, attempt=3
    )
    assert codec.parse(pb.Build, b'{"name": null, "failure": null, "tags": null}') == pb.Build()
    both = codec.parse(pb.CreateBuildRequest, b'{"contextId": null, "zippedCode": "QQ=="}')
    assert both.WhichOneof("source") == "zipped_code"
    assert codec.parse(pb.Limits, b'{"cpus": 2}').cpus == codec.parse(pb.Limits, b'{"cpus": 2.0}').cpus == 2
    empty = codec.parse(pb.CreateBuildRequest, b'{"code": {"compile": {"sourceCode": ""}}}')
    assert empty.code.compile.WhichOneof("body") == "source_code"
    assert codec.parse(pb.StreamBuildLogsRequest, b'{"fromSequence": "0"}').HasField("from_sequence")


def test_deep_nesting_is_refused_by_depth() -> None:
    shape = codec._shape(pb.Build.DESCRIPTOR)
    with pytest.raises(codec._Wrong, match="nested deeper than 32"):
        codec._read_message(shape, {}, codec.MAX_DEPTH + 1)


def test_queries() -> None:
    parsed = codec.from_query(pb.ListBuildsRequest, [("limit", "5"), ("status", "BUILD_STATUS_FAILED"), ("cursor", "")])
    assert (parsed.limit, parsed.status) == (5, pb.BUILD_STATUS_FAILED)
    logs = codec.from_query(
        pb.StreamBuildLogsRequest, [("build_id", "b"), ("fromStart", "true"), ("fromSequence", "44")]
    )
    assert (logs.from_start, logs.from_sequence) == (True, 44)
    assert codec.from_query(pb.Limits, [("cpus", "1.5")]).cpus == 1.5
    assert codec.from_query(pb.Limits, {"cpus": "2", "pids": "3"}) == pb.Limits(cpus=2, pids=3)
    assert list(codec.from_query(pb.Failure, [("said", "a"), ("said", "b")]).said) == ["a", "b"]


@pytest.mark.parametrize(
    "cls, pairs, where",
    [
        (pb.ListBuildsRequest, [("limit", "five")], "limit"),
        (pb.ListBuildsRequest, [("limit", "1e1")], "limit"),
        (pb.ListBuildsRequest, [("limit", "")], "limit"),
        (pb.ListBuildsRequest, [("limit", "-1")], "limit"),
        (pb.ListBuildsRequest, [("limit", "1"), ("limit", "1")], "limit"),
        (pb.ListBuildsRequest, [("status", "FAILED")], "status"),
        (pb.ListBuildsRequest, [("status", "4")], "status"),
        (pb.ListBuildsRequest, [("pageSize", "4")], "pageSize"),
        (pb.StreamBuildLogsRequest, [("fromStart", "True")], "fromStart"),
        (pb.StreamBuildLogsRequest, [("fromStart", "1")], "fromStart"),
        (pb.StreamBuildLogsRequest, [("fromStart", "true"), ("from_start", "true")], "from_start"),
        (pb.Build, [("failure", "{}")], "failure"),
        (pb.Build, [("failure.reason", "x")], '["failure.reason"]'),
        (pb.Limits, [("cpus", "nan")], "cpus"),
    ],
)
def test_refused_queries(cls: type[Message], pairs: list[tuple[str, str]], where: str) -> None:
    with pytest.raises(Malformed) as caught:
        codec.from_query(cls, pairs)
    assert caught.value.where == where


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


def replaced(draw: st.DrawFn, value: Any) -> Any:
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
