"""HTTP routes, derived from the `google.api.http` annotations of the protos. Pure: no server, no client, no socket."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

UPLOAD_PATH = "/v1/ignite/builds/contexts"
"""POST: the plain streamed upload, `UploadBuildContext` over HTTP. It has no annotation: its body is not JSON."""

SOURCE_PATH = "/v1/ignite/worker/builds/{build_id}/source"
"""GET with `claim`: the stored source's bytes, for the claim's owner. It has no annotation: its answer is not JSON."""

ARCHIVE_PATH = "/v1/ignite/worker/builds/{build_id}/archive"
"""POST with `claim`, `sha256` and `livesS`: the canonical archive's bytes, for the claim's owner. It has no annotation:
its body is not JSON."""

SOURCE_URL_PATH = "/v1/ignite/sources/{sha256}"
"""GET with `expires` and `signature`: a stored source's bytes, for whoever has the URL. It has no annotation, as its
answer is not JSON."""

NOT_YET: frozenset[str] = frozenset()
"""RPCs that answer UNIMPLEMENTED for now."""

NOT_YET_PATHS = ("/v1/ignite/app/", "/v1/ignite/compile/")
"""Where ComputeService will be; it is not in the protos yet."""

MOST_VALUES = 20_000
"""Objects, lists and commas of a request: a submit with 64 KiB beside its source has half as many."""
MOST_VALUES_OF_OWNER = 200_000
"""The same of a call of a node or watcher: a finish may bring 10,000 materials, a batch of a log 20,000 lines."""

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Route:
    """One RPC over HTTP. `template` holds `{field}` for what the path carries; `body` is "*" or, without one, ""."""

    method: str
    template: str
    path_params: tuple[str, ...]
    service: str
    rpc_name: str
    input: Descriptor
    output: Descriptor
    server_streaming: bool
    client_streaming: bool
    body: str

    @property
    def has_body(self) -> bool:
        """Whether the request travels as the body, not in the query."""
        return bool(self.body)


def services() -> tuple[ServiceDescriptor, ...]:
    """The services of the API."""
    by_name = pb.DESCRIPTOR.services_by_name
    return (by_name["BuildService"], by_name["WorkerService"], by_name["OperateService"])


def routes(service: ServiceDescriptor) -> tuple[Route, ...]:
    """The routes of a service, in its order; an RPC without annotation has none.

    Raises `ValueError` for an annotation beyond what we derive: one binding, `{field}` as a whole segment, body `*`.
    """
    return tuple(route for method in service.methods if (route := _route(service.name, method)) is not None)


def _route(service: str, method: MethodDescriptor) -> Route | None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    if verb is None:
        return None
    template = "" if verb == "custom" else str(getattr(rule, verb))
    segments = template.split("/")[1:]
    params = tuple(found[1] for segment in segments if (found := _PARAMETER.fullmatch(segment)))
    plain = all(_PARAMETER.fullmatch(segment) or re.fullmatch(r"[\w.-]+", segment) for segment in segments)
    known = all(name in method.input_type.fields_by_name for name in params)
    if not plain or not known or rule.additional_bindings or rule.body not in ("", "*"):
        raise ValueError(f"{service}.{method.name}: this annotation is not one we derive a route from")
    return Route(
        method=verb.upper(),
        template=template,
        path_params=params,
        service=service,
        rpc_name=method.name,
        input=method.input_type,
        output=method.output_type,
        server_streaming=method.server_streaming,
        client_streaming=method.client_streaming,
        body=rule.body,
    )


def bind(route: Route, params: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes) -> Message:
    """The request message, of what the path carries, decoded query pairs and body.

    With a body the query must be empty, and what the body repeats of the path must be the same. An empty body is `{}`.
    Raises `Malformed`; `where` names the field.
    """
    pairs = tuple(query)
    cls = GetMessageClass(route.input)
    if not route.has_body:
        if body:
            raise codec.Malformed(f"{route.method} {route.template} takes no body", "body")
        return codec.from_query(cls, (*params.items(), *pairs))
    if pairs:
        name = pairs[0][0][:60]
        raise codec.Malformed(f"{name!r}: parameters belong into the body here", name)
    most_values = MOST_VALUES_OF_OWNER if route.service == "WorkerService" else MOST_VALUES
    message = codec.parse(cls, body or b"{}", most_values)
    carried = codec.from_query(cls, params.items())
    for name in params:
        wanted, given = getattr(carried, name), getattr(message, name)
        if given and given != wanted:
            raise codec.Malformed(f"{name} in the body is not the one in the path", name)
        setattr(message, name, wanted)
    return message


def address(route: Route, message: Message) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The client's half of `bind`: the quoted path, and the query pairs of a route without a body.

    Raises `ValueError` when a field that the path carries is empty, or the query cannot carry a field.
    """
    path = _PARAMETER.sub(lambda found: quote(_path_value(message, found[1]), safe=""), route.template)
    if route.has_body:
        return path, ()
    pairs = []
    carried = {route.input.fields_by_name[name].json_name for name in route.path_params}
    for name, value in json_format.MessageToDict(message).items():
        if name in carried:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                raise ValueError(f"{name} cannot travel in a query")
            pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return path, tuple(pairs)


def _path_value(message: Message, name: str) -> str:
    value = str(getattr(message, name))
    if not value:
        raise ValueError(f"{name} is empty, and the path needs it")
    return value
