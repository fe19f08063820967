"""`build`: pack, ask, watch, answer. stdout is the reference by digest (or the id with `--detach`)."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.commands.plan import image_of, make, opened, with_dockerfile
from builder.cli.context import Context
from builder.cli.failure import reference
from builder.cli.folder import Found, left_out
from builder.cli.follow import Interrupts, QueueWatcher, View, create, watch
from builder.cli.ignore import Choice
from builder.cli.live import LiveView, Screen
from builder.cli.needed import check_needed, explained
from builder.cli.options import pairs, seconds
from builder.cli.pack import Packed, build_name, check_size, first_bytes, pack
from builder.cli.phases import word
from builder.cli.plain import PlainView
from builder.cli.runtimes import RUNTIMES, nameable, set_runtime
from builder.cli.safe import shown
from builder.cli.stop import Stop, build_exit, interrupted, missing_here, mistake, refused_here
from builder.cli.ticker import Ticker
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dockerfile.choose import DEFAULT, check_path
from builder.errors import EXIT_CANCELLED, BuildError
from builder.git.source import check_reference, parse_url
from builder.images.reference import parse

if TYPE_CHECKING:
    from builder.cli.client import Client
    from builder.local.client import LocalClient
    from builder.settings import Settings

LOCAL = "local"
NO_CLUSTER = (
    "Let a runtime build the source (--runtime NAME), or build and push the image elsewhere and take it from there: "
    "ignite-builder build --image REF"
)
MOST_NAMED = 5
CONTEXT_SLACK = 64 * 1024
"""What the request needs beside the source, within the server's limit of an inline body."""


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
    dockerfile: str = ""


def build(ctx: Context, options: BuildOptions) -> int:
    """Build PATH; the exit code names whose fault a failure is."""
    settings = ctx.settings_for_builds()
    _check_sources(options)
    if options.detach and not settings.server:
        raise mistake(
            "--detach needs a server: without one the build would end with this command",
            where="--detach",
            next="Leave it out, or name a server (--server=URL); one for this machine: ignite-builder dev",
        )
    known = pipelines.load(settings.pipelines)
    packed: Packed | None = None
    try:
        if options.image:
            request = image_request(options)
        elif options.git:
            request = git_request(options, nameable(pipelines.names(known)))
        else:
            choice = Choice(no_ignore=options.no_ignore, include=tuple(options.include))
            packed = pack(options.path, ctx.stdin, with_dockerfile(choice, options.dockerfile, options.path))
            request = request_of(options, packed, nameable(pipelines.names(known)))
    except BuildError as error:
        raise refused_here(error) from None
    what = packed.summary if packed else shown(f"git {options.git}" if options.git else f"image {options.image}")
    again = options.path or (f"--git {options.git}" if options.git else f"--image {options.image}")
    interrupts = Interrupts(hup_stops=not settings.server)
    view = _view(ctx)
    watcher = QueueWatcher(interrupts.events.put, interrupts.events.put if ctx.common.verbose > 1 else None)
    place = f"on {settings.server}" if settings.server else LOCAL
    record: pb.Build | None = None
    ticker = Ticker(view.tick)
    with interrupts.installed(), ExitStack() as stack:
        interrupts.raises = True
        try:
            view.open(f"build {request.name}  {what}  {place}")
            left = packed.folder.left if packed and packed.folder else ()
            if left:
                view.notice(f"left out: {left_out(left)}")
            ticking = stack.enter_context(ExitStack())
            ticking.enter_context(ticker.running())
            try:
                if packed is not None:
                    check_size(packed, settings.upload_bytes)
                if packed is not None and _makes_image(settings, options, packed):
                    _as_image(request, options, settings)
                elif packed is not None and packed.folder is not None:
                    check_needed(packed.folder, options.runtime, known, options.build_args.get("sub_path", ""))
            except BuildError as error:
                raise refused_here(error) from None
            if packed is not None and not settings.server:
                with ticker.held_back():
                    view.doing("looking for what building here needs")
                settings = _prepared(ctx, settings, options, packed, view, ticker)
            if options.git and not settings.server:
                settings = _prepared_for_git(settings)
            with ctx.client(settings, watcher, builds=True) as client:
                if packed is not None:
                    _send_shown(client, request, packed, settings, view, ticker)
                ticking.close()
                view.doing("")
                interrupts.raises = False
                record = create(client, request, view, interrupts)
                if record is None:
                    ctx.leave()
                    raise _unknown(ctx)
                ctx.remember(settings, record.build_id, request.name, "started")
                view.created(record, _head(record, request.name, place))
                if options.detach:
                    view.abandon()
                    return _detached(ctx, record)
                watched = watch(client, record, view, interrupts)
                if watched.left:
                    ctx.leave()
                if watched.build is None:
                    view.abandon()
                    return _left(ctx, record, watched.left)
                # The answer first: what builds here has its folders to tidy up.
                interrupts.raises = not settings.server
                status = pb.BuildStatus.Name(watched.build.status)[len("BUILD_STATUS_") :]
                ctx.remember(settings, record.build_id, request.name, status)
                failure = watched.build.failure
                if words := explained(left, (failure.message, failure.where, *failure.said)):
                    view.notice(words)
                view.close(watched.build, f"{ctx.prog} build {again}")
                return _answer(ctx, watched.build)
        except BaseException as error:
            view.abandon()
            if isinstance(error, KeyboardInterrupt) and record is None:
                raise interrupted("stopped before a build existed") from None
            raise


def _check_sources(options: BuildOptions) -> None:
    """One source, and no option that it has no use for. Raises `Stop`."""
    sources = {"PATH": options.path, "--git": options.git, "--image": options.image}
    named_sources = [name for name, value in sources.items() if value]
    if len(named_sources) != 1:
        what = f"{' and '.join(named_sources)} exclude each other" if named_sources else "there is nothing to build"
        raise mistake(
            what, where="PATH", next="Name a folder, a file, an archive or -, or use --git URL or --image REF"
        )
    if options.secret and options.path:
        step = "Name the source with --image REF or --git URL"
        raise mistake("--secret is for a private image or repository", where="--secret", next=step)
    if options.git and options.dockerfile:
        raise mistake("a Dockerfile of a repository is not built yet", where="--dockerfile")
    if options.image:
        useless = {
            "--runtime": options.runtime,
            "--runtime-version": options.runtime_version,
            "--target": options.target,
            f"the build argument {next(iter(options.build_args), '')}": options.build_args,
            "--repository": options.repository,
            "--tag": options.tags,
            "--include": options.include,
            "--no-ignore": options.no_ignore,
            "--dockerfile": options.dockerfile,
        }
        if named := next((name for name, value in useless.items() if value), ""):
            message = f"{named} is of no use with --image: a prebuilt image stays where it is and as it is"
            raise mistake(message, where=named, next=f"Leave {named} out")


def image_request(options: BuildOptions) -> pb.CreateBuildRequest:
    """The request for a prebuilt image. Raises `BuildError` for a reference that is none, `Stop` as `request_of`."""
    reference = parse(options.image, "--image")
    request = _request(options, build_name(reference.repository.rpartition("/")[2]))
    prebuilt = request.code.image.prebuilt
    prebuilt.image_ref, prebuilt.registry_secret_ref = options.image, options.secret
    return request


def _makes_image(settings: Settings, options: BuildOptions, packed: Packed) -> bool:
    """Whether this source is for image mode: it is unpacked, and its Dockerfile checked, where that may be.

    Raises `BuildError` for a Dockerfile that cannot be built, before anything is sent.
    """
    folder = packed.folder
    if not options.dockerfile and (
        options.runtime or packed.kind == "file" or (folder is not None and not _has_dockerfile(folder, options))
    ):
        return False
    with opened(packed) as source:
        return image_of(settings, packed, source, options.runtime, options.dockerfile, options.build_args) is not None


def _has_dockerfile(folder: Found, options: BuildOptions) -> bool:
    sub_path = options.build_args.get("sub_path", "")
    wanted = posixpath.normpath(posixpath.join(folder.lifted, sub_path, DEFAULT))
    return any(entry.path == wanted for entry in folder.entries)


def _as_image(request: pb.CreateBuildRequest, options: BuildOptions, settings: Settings) -> None:
    """Make the request one for image mode. Raises `BuildError` where nothing here could build it."""
    if not settings.server:
        message = "no image is built from a Dockerfile yet; it was checked alone"
        raise BuildError("ToolchainUnavailable", message, where=options.dockerfile or DEFAULT, next=NO_CLUSTER)
    compiled = dict(request.code.compile.build_args)
    from_code = request.code.image.from_code  # takes the place of code.compile
    from_code.SetInParent()
    from_code.dockerfile_path = options.dockerfile
    from_code.sub_path = compiled.pop("sub_path", "")
    for key, value in compiled.items():
        from_code.build_args[key] = value


def git_request(options: BuildOptions, runtimes: Sequence[str]) -> pb.CreateBuildRequest:
    """The request for a commit: `URL`, `URL#REF` or `URL#REF:FOLDER`. Raises `BuildError`, `Stop` as `request_of`."""
    url, _, rest = options.git.partition("#")
    reference, _, folder = rest.partition(":")
    parse_url(url, "--git")
    if reference:
        check_reference(reference, "--git")
    check_path(folder, "--git")
    request = _request(options, build_name(url.rstrip("/").rpartition("/")[2].removesuffix(".git")))
    source = request.git_source
    source.url, source.reference, source.context_dir, source.secret_ref = url, reference, folder, options.secret
    for key, value in options.build_args.items():
        request.build_args[key] = value
    if options.runtime:
        set_runtime(source.runtime, options.runtime, options.runtime_version, options.target, runtimes)
    elif options.runtime_version or options.target:
        raise mistake("a version or target of a repository needs its runtime", where="--runtime")
    return request


def _prepared_for_git(settings: Settings) -> Settings:
    """Without a server this machine builds it: the sandbox must be there. What the source needs is seen later."""
    from builder.local.machine import require_sandbox, versions_here

    try:
        require_sandbox(settings)
    except BuildError as error:
        raise missing_here(error) from None
    # Without a server it is the user's own network that is asked.
    return settings.replace(default_versions=versions_here(settings), git_hosts=("*",))


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


def _progress(packed: Packed, *, to_server: bool) -> str:
    """How far the packing of a folder is; whoever receives it reads as fast as it is packed."""
    if packed.folder is None:
        return "sending the source" if to_server else ""
    what = "packing and sending" if to_server else "packing"
    return f"{what} {fmt.size(packed.count.read)} of {fmt.size(packed.size)}"


def _detected(packed: Packed, sub_path: str) -> str:
    """A version or target without a runtime belongs to the one that is found in the source."""
    with opened(packed) as source:
        return source.detect("", sub_path).runtime


def _prepared(
    ctx: Context, settings: Settings, options: BuildOptions, packed: Packed, view: View, ticker: Ticker
) -> Settings:
    """Without a server this machine is the only node: what it cannot build would wait until its queue timeout.

    The settings with the versions that it has. A base image that is lacking is made. Raises `Stop` (75). A source that
    cannot be planned is left to the build, which keeps a record of it.
    """
    from builder.local.machine import prepare, require_sandbox, versions_here

    try:
        require_sandbox(settings)
    except BuildError as error:
        raise missing_here(error) from None
    settings = settings.replace(**{"default_versions": versions_here(settings)})
    try:
        runtime = packed.runtime(options.runtime)
        with opened(packed, runtime) as source:
            plan = make(settings, source, runtime, options.runtime_version, options.target, options.build_args)
    except BuildError:
        return settings

    def making() -> None:
        with ticker.held_back():
            view.status("making the images of the toolchain; that happens once")

    try:
        prepare(settings, plan.toolchain, making)
    except BuildError as error:
        raise missing_here(error) from None
    return settings


def _send_shown(
    client: Client | LocalClient,
    request: pb.CreateBuildRequest,
    packed: Packed,
    settings: Settings,
    view: View,
    ticker: Ticker,
) -> None:
    """Send the source while the view shows how far that is; name what looks like a secret."""
    with ticker.held_back():
        view.doing(lambda: _progress(packed, to_server=bool(settings.server)))
    _send(client, request, packed, settings.inline_bytes)
    for name in packed.count.secrets[:MOST_NAMED]:
        view.notice(f"{shown(name)} looks like a secret, and is sent: leave it out with .igniteignore")


def _send(client: Client | LocalClient, request: pb.CreateBuildRequest, packed: Packed, inline_bytes: int) -> None:
    """Put a small source into the request (base64 makes it a third larger), upload a large one before it."""
    room = max(inline_bytes - CONTEXT_SLACK, 0) * 3 // 4
    try:
        data, whole = first_bytes(packed.chunks(), room)
        if whole and request.code.WhichOneof("source") == "image":
            request.code.image.from_code.archive = data
        elif whole and packed.kind == "file":
            request.code.compile.source_code = data
        elif whole:
            request.code.compile.archive = data
        else:
            request.source_ref.context_id = client.upload(packed.chunks).context_id
    except BuildError as error:
        raise refused_here(error) from None


def _view(ctx: Context) -> View:
    look = ctx.look(ctx.err)
    if ctx.common.quiet or not ctx.is_live():
        return PlainView(write=ctx.err.line, look=look, now_ms=ctx.now_ms, quiet=ctx.common.quiet)
    screen = Screen(write=ctx.err.write, size=ctx.size)
    return LiveView(screen=screen, look=look, now_ms=ctx.now_ms, verbose=ctx.common.verbose > 0)


def _head(build: pb.Build, name: str, place: str) -> str:
    whose = f"organization {shown(build.organization_name)} {place}" if place != LOCAL else LOCAL
    return f"build {fmt.short_id(build.build_id)}  {shown(build.name or name)}  {whose}"


def _answer(ctx: Context, build: pb.Build) -> int:
    status = pb.BuildStatus.Name(build.status)
    if ctx.common.json:
        ctx.document(build)
    elif build.status == pb.BUILD_STATUS_SUCCEEDED:
        ctx.out.line(shown(reference(build)))
    return build_exit(status, build.failure.reason, build.failure.error_class)


def _detached(ctx: Context, build: pb.Build) -> int:
    if ctx.common.json:
        ctx.document(build)
    else:
        ctx.out.line(build.build_id)
    return 0


def _left(ctx: Context, build: pb.Build, why: str) -> int:
    """Left before the end: after a second Ctrl-C, or because the terminal is gone."""
    if ctx.common.json:
        ctx.document(build)
    if why == "detached":
        return 0
    ctx.say(
        f"left {fmt.short_id(build.build_id)} in {word(build.phase)}; see how it ends: {ctx.prog} get {build.build_id}"
    )
    return EXIT_CANCELLED


def _unknown(ctx: Context) -> Stop:
    return Stop(
        "Cancelled",
        "left before the server answered; the build may have begun",
        exit_code=EXIT_CANCELLED,
        next=f"See whether it did: {ctx.prog} ls",
        verdict="LEFT",
    )
