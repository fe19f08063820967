"""Routes follow from the annotations; requests bind strictly; what a client addresses, the server matches."""

from __future__ import annotations

import itertools
import json
import string
from urllib.parse import unquote

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from builder.contract import codec
from builder.contract.codec import Malformed
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.materials import MOST as MOST_MATERIALS
from builder.contract.routes import NOT_YET, address, bind, routes
from builder.services import checks
from builder.services.intake import MAX_REQUEST_BYTES
from builder.store.logs import MOST_CURSORS

SERVICES = pb.DESCRIPTOR.services_by_name
BUILD, WORKER = routes(SERVICES["BuildService"]), routes(SERVICES["WorkerService"])
OPERATE = routes(SERVICES["OperateService"])
ALL = BUILD + WORKER + OPERATE


BY_NAME = {route.rpc_name: route for route in ALL}
ONE = {"build_id": "b1"}


def test_the_contracts_routes() -> None:
    assert [(route.rpc_name, route.method, route.template) for route in BUILD] == [
        ("CreateBuild", "POST", "/v1/ignite/builds"),
        ("GetBuild", "GET", "/v1/ignite/builds/{build_id}"),
        ("ListBuilds", "GET", "/v1/ignite/builds"),
        ("ListBuildReports", "GET", "/v1/ignite/builds/reports"),
        ("StreamBuildLogs", "GET", "/v1/ignite/builds/{build_id}/logs/stream"),
        ("CancelBuild", "POST", "/v1/ignite/builds/{build_id}/cancel"),
        ("SaveBuildSecrets", "PUT", "/v1/ignite/builds/secrets"),
        ("ListBuildSecrets", "GET", "/v1/ignite/builds/secrets"),
        ("DeleteBuildSecret", "DELETE", "/v1/ignite/builds/secrets/{name}"),
    ]
    assert [(route.rpc_name, route.method, route.template) for route in OPERATE] == [
        ("ListNodes", "GET", "/v1/ignite/nodes"),
        ("DrainNode", "POST", "/v1/ignite/nodes/{node_id}/drain"),
        ("ForgetNode", "POST", "/v1/ignite/nodes/{node_id}/forget"),
    ]
    assert {route.rpc_name for route in WORKER} == {method.name for method in SERVICES["WorkerService"].methods}
    assert all(route.template.startswith("/v1/ignite/worker/") for route in WORKER)
    assert len({(route.method, route.template) for route in ALL}) == len(ALL)
    assert {route.rpc_name for route in ALL} >= NOT_YET


def test_what_a_route_says() -> None:
    logs = next(route for route in BUILD if route.rpc_name == "StreamBuildLogs")
    assert (logs.server_streaming, logs.client_streaming, logs.body, logs.has_body) == (True, False, "", False)
    assert logs.path_params == ("build_id",)
    assert (logs.input.name, logs.output.name, logs.service) == ("StreamBuildLogsRequest", "LogEntry", "BuildService")
    create = next(route for route in BUILD if route.rpc_name == "CreateBuild")
    assert (create.server_streaming, create.body, create.has_body, create.path_params) == (False, "*", True, ())


def test_only_the_upload_has_no_annotation() -> None:
    unrouted = {method.name for service in SERVICES.values() for method in service.methods}
    assert unrouted - {route.rpc_name for route in ALL} == {"UploadBuildContext"}


def test_bind_query() -> None:
    query = [("fromStart", "true"), ("from_sequence", "44")]
    wanted = pb.StreamBuildLogsRequest(build_id="b1", from_start=True, from_sequence=44)
    assert bind(BY_NAME["StreamBuildLogs"], ONE, query, b"") == wanted


def test_bind_body() -> None:
    hit = BY_NAME["Heartbeat"]
    beat = pb.HeartbeatRequest(protocol=1, build_id="b1", claim=2**60, phase=pb.BUILD_PHASE_PUSH)
    assert bind(hit, ONE, [], codec.dump(beat)) == beat
    assert bind(hit, ONE, [], b'{"claim": "7"}') == pb.HeartbeatRequest(build_id="b1", claim=7)
    assert bind(BY_NAME["CancelBuild"], ONE, [], b"") == pb.CancelBuildRequest(build_id="b1")


@pytest.mark.parametrize(
    "rpc, params, query, body, where",
    [
        ("CancelBuild", ONE, [], b'{"buildId": "b2"}', "build_id"),
        ("CreateBuild", {}, [("name", "x")], b"{}", "name"),
        ("CreateBuild", {}, [], b'{"nam": "x"}', "nam"),
        ("GetBuild", ONE, [("buildId", "b2")], b"", "buildId"),
        ("GetBuild", ONE, [("build_id", "b1")], b"", "build_id"),
        ("ListBuilds", {}, [("limit", "x")], b"", "limit"),
        ("ListBuilds", {}, [], b"{}", "body"),
    ],
)
def test_bind_refuses(rpc: str, params: dict[str, str], query: list[tuple[str, str]], body: bytes, where: str) -> None:
    with pytest.raises(Malformed) as caught:
        bind(BY_NAME[rpc], params, query, body)
    assert caught.value.where == where


@given(
    build_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    start=st.booleans(),
    at=st.integers(0, 2**63 - 1),
)
def test_what_is_addressed_is_bound(build_id: str, start: bool, at: int) -> None:
    logs = next(route for route in BUILD if route.rpc_name == "StreamBuildLogs")
    request = pb.StreamBuildLogsRequest(build_id=build_id, from_start=start, from_sequence=at)
    path, query = address(logs, request)
    assert path.isascii() and path.count("/") == logs.template.count("/")
    segment = unquote(path.split("/")[4])
    assert bind(logs, {"build_id": segment}, query, b"") == request


def test_address() -> None:
    by_name = {route.rpc_name: route for route in ALL}
    listing = pb.ListBuildsRequest(limit=5, status=pb.BUILD_STATUS_FAILED, name="a b")
    assert address(by_name["ListBuilds"], listing) == (
        "/v1/ignite/builds",
        (("limit", "5"), ("status", "BUILD_STATUS_FAILED"), ("name", "a b")),
    )
    stream = pb.StreamBuildLogsRequest(build_id="b1", from_start=True)
    path = "/v1/ignite/builds/b1/logs/stream"
    assert address(by_name["StreamBuildLogs"], stream) == (path, (("fromStart", "true"),))
    assert address(by_name["Finish"], pb.FinishRequest(build_id="a/b")) == ("/v1/ignite/worker/builds/a%2Fb/finish", ())
    with pytest.raises(ValueError, match="build_id is empty"):
        address(by_name["GetBuild"], pb.GetBuildRequest())


def made(*methods: tuple[str, str, str, str]) -> ServiceDescriptor:
    """A service with RPCs (name, verb, template, body), each taking `In {name}`."""
    file = descriptor_pb2.FileDescriptorProto(
        name="made.proto", package="made", syntax="proto3", dependency=["google/api/annotations.proto"]
    )
    field = file.message_type.add(name="In").field.add(name="name", number=1)
    field.type, field.label = field.TYPE_STRING, field.LABEL_OPTIONAL
    service = file.service.add(name="Made")
    for name, verb, template, body in methods:
        method = service.method.add(name=name, input_type=".made.In", output_type=".made.In")
        rule = method.options.Extensions[annotations_pb2.http]
        setattr(rule, verb, template)
        rule.body = body
    pool = descriptor_pool.DescriptorPool()
    for dependency in ("google/protobuf/descriptor.proto", "google/api/http.proto", "google/api/annotations.proto"):
        known = descriptor_pool.Default().FindFileByName(dependency)
        pool.AddSerializedFile(known.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    descriptor: ServiceDescriptor = pool.FindServiceByName("made.Made")
    return descriptor


@pytest.mark.parametrize(
    "verb, template, body",
    [
        ("get", "/x/{name=**}", ""),
        ("get", "/x/{other}", ""),
        ("get", "/x/{name}:run", ""),
        ("get", "/x/*", ""),
        ("post", "/x", "name"),
    ],
)
def test_an_annotation_we_do_not_derive_is_an_error(verb: str, template: str, body: str) -> None:
    with pytest.raises(ValueError, match=r"Made\.A"):
        routes(made(("A", verb, template, body)))


def test_requests_are_json_all_the_way() -> None:
    request = pb.CreateBuildRequest(name="hello", idempotency_key="k")
    request.code.compile.runtime.go.toolchain_version = "1.26"
    request.code.compile.archive = b"\x1f\x8b"
    body = codec.dump(request)
    assert json.loads(body)["code"]["compile"]["archive"] == "H4s="
    assert bind(BY_NAME["CreateBuild"], {}, [], body) == request


TEXT = '{"[,\\'


def counted(value: object) -> int:
    """The objects, lists and commas of a value as JSON."""
    if isinstance(value, dict | list):
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(0, len(inner) - 1) + sum(map(counted, inner))
    return 0


VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(TEXT + "}]:é", max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(TEXT, max_size=3), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_values_are_counted_as_json_has_them_and_not_what_stands_in_texts(value: object, ascii: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode()
    count = counted(value)
    assert not codec.too_many_values(data, count)
    assert count == 0 or codec.too_many_values(data, count - 1)


@pytest.mark.parametrize("rpc", ["CreateBuild", "Heartbeat"])
@pytest.mark.parametrize("item", ["{}", "[]", "1.5", '"ab"', '{"a":{}}', '""'])
def test_a_body_of_too_many_values_is_refused_before_one_is_made(
    rpc: str, item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, six MiB of empty objects are hundreds."""

    def loads(*args: object, **more: object) -> object:
        raise AssertionError("it was read")

    monkeypatch.setattr(json, "loads", loads)
    body = b'{"code":[' + b",".join([item.encode()] * 250_000) + b"]}"
    with pytest.raises(Malformed, match=r"the body has more than [0-9]+ values") as caught:
        bind(BY_NAME[rpc], {name: "b1" for name in BY_NAME[rpc].path_params}, [], body)
    assert caught.value.where == "body"
    with pytest.raises(Malformed, match="more than"):
        bind(BY_NAME["CreateBuild"], {}, [], b'{"a":"' + b"{" * 20_001 + b'"' + b'""' * 50_000)


def materials(count: int) -> list[pb.Material]:
    return [pb.Material(name=f"name {number}", digest="sha256:" + "a" * 64, uri="u") for number in range(count)]


def entries(count: int, text: str) -> list[pb.LogEntry]:
    one = pb.LogEntry(
        timestamp_ms=1, phase=pb.BUILD_PHASE_BUILD, stream=pb.LOG_STREAM_STDOUT, line=text, sequence=1, eof=True
    )
    return [one] * count


def largest() -> dict[str, Message]:
    """RPC → the message of the most values that its service takes."""
    names = ("".join(each) for size in (1, 2, 3) for each in itertools.product(string.ascii_letters, repeat=size))
    arguments: dict[str, str] = {}
    while pb.CreateBuildRequest(build_args=arguments).ByteSize() <= MAX_REQUEST_BYTES:
        arguments |= dict.fromkeys(itertools.islice(names, 1000), "")
    many = [f"{number}" for number in range(checks.MOST_NAMES)]
    beats = [pb.JobBeat(build_id="b", claim=1, phase=pb.BUILD_PHASE_BUILD)] * checks.MOST_JOBS
    success = pb.BuiltArtifact(digest="d", materials=materials(MOST_MATERIALS))
    phase = pb.PhaseRecord(
        phase=pb.BUILD_PHASE_PLAN, status=pb.PHASE_STATUS_FAILED, started_at_ms=1, ended_at_ms=2, duration_ms=1
    )
    phases = [phase] * checks.MOST_PHASES
    cursors = {f"c{number}": pb.LogCursor(since=1, lines=1, newest_ns=1) for number in range(MOST_CURSORS)}
    lines = entries(checks.MOST_LINES, TEXT)
    return {
        "CreateBuild": pb.CreateBuildRequest(name="n", build_args=arguments),
        "SaveBuildSecrets": pb.SaveBuildSecretsRequest(secrets={f"S{number}": TEXT * 8000 for number in range(100)}),
        "RegisterNode": pb.RegisterNodeRequest(queues=many, toolchains=dict.fromkeys(many, "d")),
        "BeatJobs": pb.BeatJobsRequest(beats=beats),
        "AppendLog": pb.AppendLogRequest(build_id="b1", lines=lines, cursors=cursors),
        "Finish": pb.FinishRequest(build_id="b1", success=success, phases=phases, lines=lines),
        "Planned": pb.PlannedRequest(build_id="b1", warnings=[TEXT] * 100_000, phases=phases),
    }


@pytest.mark.slow
@pytest.mark.parametrize("rpc", ["CreateBuild", "SaveBuildSecrets", "RegisterNode", "BeatJobs", "AppendLog", "Finish",
                                 "Planned"])  # fmt: skip
def test_the_largest_message_that_a_service_takes_is_read(rpc: str) -> None:
    message, route = largest()[rpc], BY_NAME[rpc]
    assert bind(route, ONE if "build_id" in route.path_params else {}, [], codec.dump(message)) == message
