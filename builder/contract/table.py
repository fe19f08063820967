"""The route table of `docs/api.md`, made from the descriptors."""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.routes import ARCHIVE_PATH, NOT_YET, SOURCE_PATH, SOURCE_URL_PATH, UPLOAD_PATH, Route, routes

_HEAD = "| RPC | HTTP | request | answer | now |\n|---|---|---|---|---|\n"


def route_table() -> str:
    """Markdown: one table per service, RPCs in the order of the proto, then what has no annotation."""
    services = pb.DESCRIPTOR.services_by_name
    build, worker = services["BuildService"], services["WorkerService"]
    upload = f"| (upload) | `POST {UPLOAD_PATH}` | bytes, streamed | `UploadBuildContextResponse` | yes |\n"
    source = f"| (source) | `GET {SOURCE_PATH}?claim=N` | none | bytes, streamed | yes |\n"
    asked = "claim=N&sha256=HEX&livesS=S"
    archive = f"| (archive) | `POST {ARCHIVE_PATH}?{asked}` | bytes, streamed | `StoredArchive` | yes |\n"
    url = f"| (source URL) | `GET {SOURCE_URL_PATH}?expires=MS&signature=HEX` | none | bytes, streamed | yes |\n"
    operate = _table(services["OperateService"])
    return f"{_table(build)}{upload}\n{_table(worker)}{source}{archive}{url}\n{operate}"


def _table(service: ServiceDescriptor) -> str:
    by_name = {route.rpc_name: route for route in routes(service)}
    rows = "".join(_row(method, by_name.get(method.name)) for method in service.methods)
    return f"### {service.full_name}\n\n{_HEAD}{rows}"


def _row(method: MethodDescriptor, route: Route | None) -> str:
    http = f"`{route.method} {route.template}`" if route else "none"
    asked = ("stream of " if method.client_streaming else "") + f"`{method.input_type.name}`"
    answer = ("stream of " if method.server_streaming else "") + f"`{method.output_type.name}`"
    now = "yes" if route and method.name not in NOT_YET else "UNIMPLEMENTED"
    return f"| {method.name} | {http} | {asked} | {answer} | {now} |\n"
