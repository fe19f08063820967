"""Read a request: its runtime, version and target, its repository, its start check. Pure; both sides use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


GIT_SOURCE, FROM_GIT, FROM_CODE = "gitSource", "code.image.fromGit", "code.image.fromCode"
"""The fields of a request that name a repository or context, as messages name them."""
REBASED = "rebase.buildId"
"""The field that names the build whose image is rebased."""
REBUILD = "Build it again: what is built stands on the run image that is current."
"""The next step where its image cannot be rebased."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What a request names of a git repository, as it was sent. `at` is its field, `folder_at` that of its folder."""

    url: str
    reference: str
    folder: str
    secret: str
    submodules: bool
    at: str
    folder_at: str
    history: bool = False

    def where(self, name: str) -> str:
        """The path of one of its fields."""
        return f"{self.at}.{name}"


def repository_of(request: pb.CreateBuildRequest) -> Repository | None:
    """The repository that a request is of, in compile mode or image mode; None for every other source."""
    if request.WhichOneof("source") == "git_source":
        compiled = request.git_source
        return Repository(
            url=compiled.url,
            reference=compiled.reference,
            folder=compiled.context_dir,
            secret=compiled.secret_ref,
            submodules=compiled.submodules,
            history=compiled.history,
            at=GIT_SOURCE,
            folder_at=f"{GIT_SOURCE}.contextDir",
        )
    if request.code.image.WhichOneof("variant") == "from_git":
        made = request.code.image.from_git
        return Repository(
            url=made.url,
            reference=made.reference,
            folder=made.sub_path,
            secret=made.secret_ref,
            submodules=made.submodules,
            history=made.history,
            at=FROM_GIT,
            folder_at=f"{FROM_GIT}.subPath",
        )
    return None


def built_image(request: pb.CreateBuildRequest) -> tuple[common.ImageFromCode | common.ImageFromGit, str]:
    """What a cluster makes an image of, with its field: both sources name a folder, a Dockerfile and build arguments.

    Of a request that is for nothing of the kind: an empty one.
    """
    if request.code.image.WhichOneof("variant") == "from_git":
        return request.code.image.from_git, FROM_GIT
    return request.code.image.from_code, FROM_CODE


IMAGE_QUEUE = "image"
"""The queue of builds that a cluster does: only workers whose settings name it take one."""


def is_rebase(request: pb.CreateBuildRequest) -> bool:
    """Whether it puts an image that is there on another run image."""
    return request.WhichOneof("source") == "rebase"


def is_image(request: pb.CreateBuildRequest) -> bool:
    """Whether it is for image mode: what is built of it, a cluster builds."""
    return is_rebase(request) or request.code.WhichOneof("source") == "image"


def arguments_of(request: pb.CreateBuildRequest) -> Mapping[str, str]:
    """The build arguments of a request in compile mode. Those of an image are its Dockerfile's own."""
    return {} if is_image(request) else request.code.compile.build_args or request.build_args


START_CHECK = "start_check"
"""The build argument, of every runtime, that overrules the setting of this name."""
START_CHECKS = ("off", "warn", "require")


def start_check_of(request: pb.CreateBuildRequest, default: str) -> str:
    """The start check that a build asks for: "off", "warn" or "require". An image of the user's own has none."""
    if is_image(request):
        return "off"
    arguments = request.code.compile.build_args or request.build_args
    return str(arguments[START_CHECK]) if START_CHECK in arguments else default
