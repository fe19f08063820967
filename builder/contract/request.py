"""Read a compile request: which runtime, version and target, which start check. Pure; both sides use it."""

from __future__ import annotations

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common


def runtime_of(runtime: common.Runtime) -> tuple[str, str]:
    """(version, target) of whichever runtime is set; the target is the short wire word in lower case ("native")."""
    name = runtime.WhichOneof("runtime")
    if not name:
        return "", ""
    value = getattr(runtime, name)
    version = str(getattr(value, "toolchain_version", "") or getattr(value, "version", ""))
    field = value.DESCRIPTOR.fields_by_name.get("target")
    if field is None or not value.target:
        return version, ""
    return version, str(field.enum_type.values_by_number[value.target].name).rsplit("_", 1)[1].lower()


def compiled_runtime(request: pb.CreateBuildRequest) -> common.Runtime:
    """The runtime that a request names, of whichever source."""
    if request.WhichOneof("source") == "git_source":
        return request.git_source.runtime
    return request.code.compile.runtime


IMAGE_QUEUE = "image"
"""The queue of builds that a cluster does: only workers whose settings name it take one."""


def is_image(request: pb.CreateBuildRequest) -> bool:
    """Whether a cluster builds it, as an image of a Dockerfile."""
    return request.code.WhichOneof("source") == "image"


START_CHECK = "start_check"
"""The build argument, of every runtime, that overrules the setting of this name."""
START_CHECKS = ("off", "warn", "require")


def start_check_of(request: pb.CreateBuildRequest, default: str) -> str:
    """The start check that a build asks for: "off", "warn" or "require". An image of the user's own has none."""
    if request.code.WhichOneof("source") == "image":
        return "off"
    arguments = request.code.compile.build_args or request.build_args
    return str(arguments[START_CHECK]) if START_CHECK in arguments else default
