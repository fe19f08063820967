"""What was typed after `build` → the CreateBuildRequest, still without its source. Raises before anything is sent."""

from __future__ import annotations

import posixpath
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.cli.commands.plan import image_of
from builder.cli.folder import FoundFolder
from builder.cli.options import pairs, seconds
from builder.cli.pack import Packed, build_name
from builder.cli.runtimes import RUNTIMES, set_runtime
from builder.cli.stop import mistake
from builder.cli.unpacked import opened
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.dockerfile.paths import DEFAULT, check_path
from builder.errors import BuildError
from builder.git.source import check_reference, check_secret, parse_url

if TYPE_CHECKING:
    from builder.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of `build` as they were typed."""

    path: str
    runtime: str = ""
    runtime_version: str = ""
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    repository: str = ""
    tags: Sequence[str] = ()
    labels: Sequence[str] = ()
    platform: str = ""
    no_cache: bool = False
    timeout: str = ""
    detach: bool = False
    include: Sequence[str] = ()
    no_ignore: bool = False
    image: str = ""
    secret: str = ""
    git: str = ""
    submodules: bool = False
    history: bool = False
    dockerfile: str = ""
    buildpacks: bool = False
    rebase: str = ""


def check_sources(options: BuildOptions) -> None:
    """One source, and no option that it has no use for. Raises `Stop`."""
    sources = {"PATH": options.path, "--git": options.git, "--image": options.image, "--rebase": options.rebase}
    named_sources = [name for name, value in sources.items() if value]
    if len(named_sources) != 1:
        what = f"{' and '.join(named_sources)} exclude each other" if named_sources else "there is nothing to build"
        step = "Name a folder, a file, an archive or -, or use --git URL, --image REF or --rebase BUILD"
        raise mistake(what, where="PATH", next=step)
    if options.secret and options.path:
        step = "Name the source with --image REF or --git URL; private modules: --build-arg private_secret=NAME"
        raise mistake("--secret is for a private image or repository", where="--secret", next=step)
    if options.submodules and not options.git:
        step = "Name the source with --git URL, or bring the files of the submodules with the folder"
        raise mistake("--submodules is for a repository", where="--submodules", next=step)
    if options.history and not options.git:
        step = "Name the source with --git URL, or lift .git of the folder: --include .git"
        raise mistake("--history is for a repository", where="--history", next=step)
    if options.git and (options.dockerfile or options.buildpacks):
        _check_git_image(options)
    if options.image:
        why = "a prebuilt image stays where it is and as it is"
        _check_useless(options, "--image", why, {"--tag": options.tags})
    if options.rebase:
        _check_useless(options, "--rebase", "nothing is built anew", {"--secret": options.secret})


def _check_useless(options: BuildOptions, source: str, why: str, more: Mapping[str, object]) -> None:
    """The options that are for what is built, and `more`. Raises `Stop` for one of them."""
    useless = {
        "--runtime": options.runtime,
        "--runtime-version": options.runtime_version,
        "--target": options.target,
        f"the build argument {next(iter(options.build_args), '')}": options.build_args,
        "--repository": options.repository,
        "--include": options.include,
        "--no-ignore": options.no_ignore,
        "--dockerfile": options.dockerfile,
        "--buildpacks": options.buildpacks,
        **more,
    }
    if named := next((name for name, value in useless.items() if value), ""):
        raise mistake(f"{named} is of no use with {source}: {why}", where=named, next=f"Leave {named} out")


def _check_git_image(options: BuildOptions) -> None:
    """The options of an image of a repository, as `plan.image_of` has them for a folder. Raises `Stop`."""
    asked = "--dockerfile" if options.dockerfile else "--buildpacks"
    if options.dockerfile and options.buildpacks:
        raise mistake("--buildpacks and --dockerfile exclude each other", where=asked, next="Leave one of them out")
    compiled = {
        "--runtime": options.runtime,
        "--runtime-version": options.runtime_version,
        "--target": options.target,
    }
    if named := next((name for name, value in compiled.items() if value), ""):
        raise mistake(f"{asked} makes an image, {named} compiles", where=asked, next="Leave one of them out")


def request_of(options: BuildOptions, packed: Packed, runtimes: Sequence[str] = RUNTIMES) -> pb.CreateBuildRequest:
    """The request without its source. Raises `Stop` for an option that cannot be right."""
    request = _request(options, packed.name)
    compiled = request.code.compile
    compiled.SetInParent()
    for key, value in options.build_args.items():
        compiled.build_args[key] = value
    name = packed.runtime(options.runtime)
    if not name and (options.runtime_version or options.target):
        name = _detected(packed, options.build_args.get("sub_path", ""))
    if name:
        set_runtime(compiled.runtime, name, options.runtime_version, options.target, runtimes)
    return request


def image_request(options: BuildOptions) -> pb.CreateBuildRequest:
    """The request for a prebuilt image. Raises `BuildError` for a reference that is none, `Stop` as `request_of`."""
    from builder.images.reference import parse

    reference = parse(options.image, "--image")
    request = _request(options, build_name(reference.repository.rpartition("/")[2]))
    prebuilt = request.code.image.prebuilt
    prebuilt.image_ref, prebuilt.registry_secret_ref = options.image, options.secret
    return request


def rebase_request(options: BuildOptions, settings: Settings) -> pb.CreateBuildRequest:
    """The request for a rebase; without `--name` it has the name of the build. Raises `BuildError` ToolchainUnavailable
    without a server, `Stop` as `request_of`."""
    if not settings.server:
        message = "an image is rebased by a cluster behind a server, and none is configured"
        step = "Name a server that has a cluster: --server=URL"
        raise BuildError("ToolchainUnavailable", message, where="--rebase", next=step)
    request = _request(options, "")
    request.rebase.build_id = options.rebase
    return request


def git_request(options: BuildOptions, runtimes: Sequence[str], settings: Settings) -> pb.CreateBuildRequest:
    """The request for a commit: `URL`, `URL#REF` or `URL#REF:FOLDER`. Raises `BuildError`, `Stop` as `request_of`."""
    url, _, rest = options.git.partition("#")
    reference, _, folder = rest.partition(":")
    check_secret(parse_url(url, "--git"), options.secret, "--secret")
    if reference:
        check_reference(reference, "--git")
    check_path(folder, "--git")
    request = _request(options, build_name(re.split("[/:]", url.rstrip("/"))[-1].removesuffix(".git")))
    if options.dockerfile or options.buildpacks:
        _require_builder(options, settings)
        made = request.code.image.from_git
        made.url, made.reference, made.secret_ref = url, reference, options.secret
        made.submodules, made.history = options.submodules, options.history
        arguments = dict(options.build_args)
        if folder and arguments.setdefault("sub_path", folder) != folder:
            raise mistake("the folder of --git and --sub-path differ", where="--git", next="Leave one of them out")
        _fill_image(made, options, arguments)
        request.buildpacks = options.buildpacks
        return request
    source = request.git_source
    source.url, source.reference, source.context_dir, source.secret_ref = url, reference, folder, options.secret
    source.submodules, source.history = options.submodules, options.history
    for key, value in options.build_args.items():
        request.build_args[key] = value
    if options.runtime:
        set_runtime(source.runtime, options.runtime, options.runtime_version, options.target, runtimes)
    elif options.runtime_version or options.target:
        raise mistake("a version or target of a repository needs its runtime", where="--runtime")
    return request


def as_image(request: pb.CreateBuildRequest, options: BuildOptions, settings: Settings) -> None:
    """Make the request one for image mode. Raises `BuildError` where nothing here could build it."""
    _require_builder(options, settings)
    compiled = dict(request.code.compile.build_args)
    _fill_image(request.code.image.from_code, options, compiled)  # takes the place of code.compile
    request.buildpacks = options.buildpacks


def _require_builder(options: BuildOptions, settings: Settings) -> None:
    """Raises `BuildError` ToolchainUnavailable without a cluster behind a server, and without an engine here."""
    from builder.dockerfile.choose import placed

    where = "--buildpacks" if options.buildpacks else options.dockerfile or DEFAULT
    try:
        placed(
            "buildpacks" if options.buildpacks else "kaniko",
            "",
            cluster=bool(settings.server),
            docker_host=settings.docker_host,
            where=where,
        )
    except BuildError as error:
        if options.buildpacks or options.git:
            raise
        message = f"{error.message}; it was checked alone"
        raise BuildError(error.reason, message, where=where, next=error.next) from None


def _fill_image(
    made: common.ImageFromCode | common.ImageFromGit, options: BuildOptions, build_args: Mapping[str, str]
) -> None:
    """Dockerfile, folder and build arguments of image mode; the folder is typed as a build argument."""
    made.SetInParent()
    made.dockerfile_path = check_path(options.dockerfile, "--dockerfile")
    made.sub_path = build_args.get("sub_path", "")
    for key, value in build_args.items():
        if key != "sub_path":
            made.build_args[key] = value


def makes_image(settings: Settings, options: BuildOptions, packed: Packed) -> bool:
    """Whether this source is for image mode: it is unpacked, and its Dockerfile checked, where that may be.

    Raises `BuildError` for a Dockerfile that cannot be built, before anything is sent.
    """
    folder = packed.folder
    if (
        not options.dockerfile
        and not options.buildpacks
        and (options.runtime or packed.kind == "file" or (folder is not None and not _has_dockerfile(folder, options)))
    ):
        return False
    with opened(packed) as source:
        made = image_of(
            settings,
            packed,
            source,
            options.runtime,
            options.dockerfile,
            options.build_args,
            buildpacks=options.buildpacks,
        )
    return made is not None


def _has_dockerfile(folder: FoundFolder, options: BuildOptions) -> bool:
    sub_path = options.build_args.get("sub_path", "")
    wanted = posixpath.normpath(posixpath.join(folder.lifted, sub_path, DEFAULT))
    return any(entry.path == wanted for entry in folder.entries)


def _detected(packed: Packed, sub_path: str) -> str:
    """A version or target without a runtime belongs to the one that is found in the source."""
    with opened(packed) as source:
        return source.detect("", sub_path).runtime


def _request(options: BuildOptions, name: str) -> pb.CreateBuildRequest:
    """What a request has whatever it is that is built."""
    return pb.CreateBuildRequest(
        name=options.name or name,
        tags=list(options.tags),
        labels=pairs(options.labels, "--label"),
        no_cache=options.no_cache,
        timeout_secs=seconds(options.timeout) if options.timeout else 0,
        platform=options.platform,
        repository=options.repository,
        idempotency_key=uuid.uuid4().hex,
    )
