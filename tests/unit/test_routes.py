"""Routes follow from the annotations; requests bind strictly; what a client addresses, the server matches."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from hypothesis import given
from hypothesis import strategies as st

from builder.contract import codec
from builder.contract.codec import Malformed
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.routes import NOT_YET, address, bind, routes

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
