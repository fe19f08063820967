"""`build`: pack, ask, watch, answer. stdout is the reference by digest (or the id with `--detach`)."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.commands.plan import make, with_dockerfile
from builder.cli.context import Context
from builder.cli.failure import reference
from builder.cli.folder import left_out
from builder.cli.follow import Interrupts, QueueWatcher, View, create, watch
from builder.cli.ignore import Choice
from builder.cli.live import LiveView, Screen
from builder.cli.needed import check_needed, explained
from builder.cli.pack import Packed, check_size, first_bytes, pack
from builder.cli.plain import PlainView
from builder.cli.requests import (
    BuildOptions,
    as_image,
    check_sources,
    git_request,
    image_request,
    makes_image,
    rebase_request,
    request_of,
)
from builder.cli.runtimes import nameable
from builder.cli.safe import shown
from builder.cli.stop import Stop, build_exit, interrupted, missing_here, mistake, refused_here
from builder.cli.ticker import Ticker
from builder.cli.unpacked import opened
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import EXIT_CANCELLED, BuildError
from builder.settings import without_credentials

if TYPE_CHECKING:
    from builder.cli.client import Client
    from builder.local.client import LocalClient
    from builder.settings import Settings

LOCAL = "local"
MOST_NAMED = 5
CONTEXT_SLACK = 64 * 1024
"""What the request needs beside the source, within the server's limit of an inline body."""


def build(ctx: Context, options: BuildOptions) -> int:
    """Build PATH; the exit code names whose fault a failure is."""
    settings = ctx.settings_for_builds()
    check_sources(options)
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
            request = git_request(options, nameable(pipelines.names(known)), settings)
        elif options.rebase:
            request = rebase_request(options, settings)
        else:
            choice = Choice(no_ignore=options.no_ignore, include=tuple(options.include))
            choice = with_dockerfile(choice, options.dockerfile, options.path)
            packed = pack(options.path, ctx.stdin, choice, settings.upload_bytes)
            request = request_of(options, packed, nameable(pipelines.names(known)))
    except BuildError as error:
        raise refused_here(error) from None
    what = packed.summary if packed else shown(_named(options))
    again = _again(options)
    interrupts = Interrupts(hup_stops=not settings.server)
    view = _view(ctx)
    watcher = QueueWatcher(interrupts.events.put, interrupts.events.put if ctx.common.verbose > 1 else None)
    place = f"on {without_credentials(settings.server)}" if settings.server else LOCAL
    record: pb.Build | None = None
    ticker = Ticker(view.tick)
    with interrupts.installed(), ExitStack() as stack:
        interrupts.raises = True
        try:
            view.open("  ".join((f"build {request.name}".rstrip(), what, place)))
            left = packed.folder.left if packed and packed.folder else ()
            if left:
                view.notice(f"left out: {left_out(left)}")
            ticking = stack.enter_context(ExitStack())
            ticking.enter_context(ticker.running())
            try:
                if packed is not None:
                    check_size(packed, settings.upload_bytes)
                is_image = packed is not None and makes_image(settings, options, packed)
                if is_image:
                    as_image(request, options, settings)
                elif packed is not None and packed.folder is not None:
                    check_needed(packed.folder, options.runtime, known, options.build_args.get("sub_path", ""))
            except BuildError as error:
                raise refused_here(error) from None
            if packed is not None and not settings.server:
                with ticker.held_back():
                    view.doing("looking for what building here needs")
                if is_image:
                    _require_engine(settings)
                else:
                    settings = _prepared(ctx, settings, options, packed, view, ticker)
            if options.git and not settings.server:
                settings = _prepared_for_git(settings)
                if request.code.WhichOneof("source") == "image":
                    _require_engine(settings)
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
                name = record.name or request.name
                ctx.remember(settings, record.build_id, name, "started")
                view.created(record, _head(record, name, place))
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
                ctx.remember(settings, record.build_id, name, status)
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


def _named(options: BuildOptions) -> str:
    """What is built where nothing of this machine is sent."""
    if options.rebase:
        return f"rebase of {options.rebase}"
    return f"git {options.git}" if options.git else f"image {options.image}"


def _again(options: BuildOptions) -> str:
    """What names the same source to `build`, and whether it becomes an image."""
    named = {
        "--git": options.git,
        "--image": options.image,
        "--rebase": options.rebase,
        "--dockerfile": options.dockerfile,
        "--secret": options.secret,
    }
    words = [word for name, value in named.items() if value for word in (name, value)]
    flags = {"--submodules": options.submodules, "--history": options.history, "--buildpacks": options.buildpacks}
    words += [flag for flag, is_given in flags.items() if is_given]
    return shlex.join([*([options.path] if options.path else []), *words])


def _prepared_for_git(settings: Settings) -> Settings:
    """Without a server this machine builds it: the sandbox must be there. What the source needs is seen later."""
    from builder.local.machine import require_sandbox, versions_here

    try:
        require_sandbox(settings)
    except BuildError as error:
        raise missing_here(error) from None
    # Without a server it is the user's own network that is asked.
    return settings.replace(default_versions=versions_here(settings), git_hosts=("*",))


def _require_engine(settings: Settings) -> None:
    """Without a server the engine of this machine builds images. Raises `Stop` (75) where it does not answer."""
    from builder.local.machine import require_engine

    try:
        require_engine(settings)
    except BuildError as error:
        raise missing_here(error) from None


def _progress(packed: Packed, *, to_server: bool) -> str:
    """How far the packing of a folder is; whoever receives it reads as fast as it is packed."""
    if packed.folder is None:
        return "sending the source" if to_server else ""
    what = "packing and sending" if to_server else "packing"
    return f"{what} {fmt.size(packed.count.read)} of {fmt.size(packed.size)}"


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
    ctx.say(f"left {fmt.short_id(build.build_id)}; see how it ends: {ctx.prog} get {build.build_id}")
    return EXIT_CANCELLED


def _unknown(ctx: Context) -> Stop:
    return Stop(
        "Cancelled",
        "left before the server answered; the build may have begun",
        exit_code=EXIT_CANCELLED,
        next=f"See whether it did: {ctx.prog} ls",
        verdict="LEFT",
    )
