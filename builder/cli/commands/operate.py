"""`run`, `serve`, `worker`, `watch`, `dev`, `doctor`, `bases build`: the machine's side.

What these start lives in `builder/local/`, `builder/node/` and `builder/control/`; each is imported inside its command,
so that the others work without it.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from builder.cli import format as fmt
from builder.cli.commands.plan import catalog_of
from builder.cli.context import Context
from builder.cli.options import check_id
from builder.cli.safe import shown
from builder.cli.stop import Stop, mistake, refused_here, unfit_node
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.plan import Toolchain
from builder.settings import Settings

FOREGROUND = (signal.SIGTERM, signal.SIGHUP)
"""What ends a program that belongs to a terminal."""


class Finding(Protocol):
    """One row of `builder.local.doctor.findings`."""

    @property
    def ok(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def effect(self) -> str: ...

    @property
    def mend(self) -> str: ...


def run(ctx: Context, build_id: str, env: Mapping[str, str]) -> int:
    """Start the artifact of a build here, sandboxed, with these variables; print its URL. Ctrl-C stops it, with 0."""
    settings = ctx.settings_for_builds()
    wanted = check_id(build_id) if build_id else ctx.last_started(settings)
    with ctx.client(settings) as client:
        build = client.get(wanted)
    if build.status != pb.BUILD_STATUS_SUCCEEDED:
        status = pb.BuildStatus.Name(build.status).removeprefix("BUILD_STATUS_")
        raise Stop(
            "FailedPrecondition",
            f"{fmt.short_id(build.build_id)} has no artifact: {status}",
            exit_code=2,
            next=f"See why: {ctx.prog} get {fmt.short_id(build.build_id)}",
        )

    def ready(url: str, after_ms: int = 0) -> None:
        if ctx.common.json:
            ctx.document({"buildId": build.build_id, "url": url, "readyMs": str(after_ms)})
        else:
            ctx.out.line(url)
        what = f"{shown(build.name)} {fmt.short_id(build.build_id)} ready in {fmt.readiness(after_ms)}"
        ctx.say(f"{what}, sandboxed; Ctrl-C stops it")

    from builder.local.run import run_artifact

    try:
        with ends_as_interrupted():
            return run_artifact(settings, build, ready, lambda line: ctx.say(shown(line, tabs=True)), env)
    except BuildError as error:
        raise refused_here(error) from None
    except KeyboardInterrupt:
        return 0


def serve(ctx: Context) -> int:
    """The control side: API, dispatcher, reconciler. The first Ctrl-C drains, the second leaves."""
    from builder.control import process as server

    return _until_interrupted(lambda: server.serve(ctx.settings()))


def worker(ctx: Context) -> int:
    """A build node."""
    from builder.node.main import work

    try:
        return _until_interrupted(lambda: work(ctx.settings()))
    except Stop as stop:
        raise unfit_node(stop) from None


def watch(ctx: Context) -> int:
    """A watcher of Jobs. It drains at the first TERM or Ctrl-C: its builds go to another one."""
    from builder.watcher.main import watch as run_watcher

    gc.enable()
    try:
        settings = ctx.settings()
    except Stop as stop:
        raise unfit_node(stop) from None
    try:
        return run_watcher(settings)
    except BuildError as error:
        raise unfit_node(refused_here(error)) from None


def dev(ctx: Context) -> int:
    """Server, worker and what they need, in one, for a laptop."""
    settings = ctx.settings().replace(**{"server": ""})

    def together() -> None:
        with ctx.local_server(settings) as server, _token_file(settings, server.token) as token:
            if ctx.common.json:
                ctx.document({"url": server.url, "tokenFile": str(token)})
            else:
                ctx.out.line(server.url)
            names = f"IGNITE_BUILDER_SERVER={server.url} IGNITE_BUILDER_TOKEN_FILE={token}"
            ctx.say(f"ready; Ctrl-C stops all of it\nnext   {names} {ctx.prog} build .")
            # The first Ctrl-C ends the wait, and the parts are drained; a second one kills them.
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()

    return _until_interrupted(together, FOREGROUND)


@contextlib.contextmanager
def _token_file(settings: Settings, token: str) -> Iterator[Path]:
    """A token is never printed: other shells read it from a file that only this user can, while the server runs."""
    path = Path(settings.data_dir) / "run" / "token"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(token, encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _until_interrupted(work: Any, numbers: Iterable[signal.Signals] = (signal.SIGTERM,)) -> int:
    gc.enable()
    try:
        with ends_as_interrupted(numbers):
            answer = work()
    except BuildError as error:
        raise refused_here(error) from None
    except KeyboardInterrupt:
        return 0
    return answer if isinstance(answer, int) else 0


def doctor(ctx: Context) -> int:
    """What is missing on this machine, what follows from it, and the command that mends it; 1 when something is."""
    from builder.local.doctor import findings

    found: tuple[Finding, ...] = findings(ctx.settings())
    missing = [each for each in found if not each.ok]
    if ctx.common.json:
        rows = [{"ok": each.ok, "name": each.name, "effect": each.effect, "mend": each.mend} for each in found]
        ctx.document({"findings": rows})
    else:
        for line in doctor_rows(found, ctx.look(ctx.out)):
            ctx.out.line(line)
    return 1 if missing else 0


def doctor_rows(found: tuple[Finding, ...], look: Look) -> tuple[str, ...]:
    """All that is there in one row, then a row for each that is missing."""
    there = ", ".join(shown(each.name) for each in found if each.ok)
    room = None if look.columns is None else look.columns - 2
    rest = ("  " + row for row in fmt.wrap(there, room)[1:])
    lines = [f"{look.paint('green', look.symbols.done)} {fmt.wrap(there, room)[0]}", *rest] if there else []
    missing = [each for each in found if not each.ok]
    rows = [
        (shown(each.name), shown(_effect(each)), f"mend: {shown(each.mend)}" if each.mend else "") for each in missing
    ]
    mark = look.paint("red", look.symbols.failed)
    return (*lines, *(f"{mark} {line}" for line in fmt.table(rows)))


def _effect(finding: Finding) -> str:
    """What follows, without the name and the command: they stand in columns of their own."""
    return finding.effect.removeprefix(f"{finding.name}: ").removesuffix(f": {finding.mend}")


APART = "-build"
"""Behind a base's name: the image in which what comes as source is built, where a recipe has one."""


def bases_build(ctx: Context, names: list[str]) -> int:
    """Make the base images that this node needs, and print each with its digest."""
    from builder import pipelines
    from builder.toolchains.fetch import ensure_base

    settings = ctx.settings()
    planned = pipelines.names(pipelines.load(settings.pipelines))
    wanted: dict[str, Toolchain] = {}
    for row in catalog_of(settings).toolchains():
        if row.runtime in planned and (row.base in names or (not names and _is_default(settings, row))):
            wanted.setdefault(row.base, row)
        for name in names:
            if row.runtime in planned and name == f"{row.base}{APART}":
                wanted.setdefault(name, replace(row, base=name))
    for name in names:
        if name not in wanted:
            raise mistake(f'"{name}" is not a base of the catalog', where="NAME", next=f"See: {ctx.prog} runtimes")
    made = []
    try:
        with ends_as_interrupted():
            for name, row in wanted.items():
                ctx.say(f"making {name}")
                made.append((name, ensure_base(settings, row)))
    except BuildError as error:
        raise refused_here(error) from None
    if ctx.common.json:
        ctx.document({"bases": [{"name": name, "digest": digest} for name, digest in made]})
        return 0
    for name, digest in made:
        ctx.out.line(f"{name} {digest}")
    return 0


def _is_default(settings: Settings, row: Toolchain) -> bool:
    """Without names: the bases of each runtime's default version."""
    return catalog_of(settings).find(row.runtime) == row


@contextlib.contextmanager
def ends_as_interrupted(numbers: Iterable[signal.Signals] = FOREGROUND) -> Iterator[None]:
    """These signals end a program as INT does: what it has started ends first, and what it has begun goes. One that is
    ignored stays so (nohup). uvicorn raises the signals it caught again at its end, so without this a TERM would end
    the process before its parts were."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {each: signal.getsignal(each) for each in numbers}
    for each, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
