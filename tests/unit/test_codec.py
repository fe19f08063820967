"""Proto JSON: what is refused, where, and with which words. What is generated is in tests/slow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

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
        ('{"@type": "x"}', '["@type"]', "is no field of Build"),
        ('{"[dodil.x]": "x"}', '["[dodil.x]"]', "is no field of Build"),
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
