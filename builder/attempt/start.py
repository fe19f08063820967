"""The start check: the artifact is started once, beside PACKAGE and PUSH, as the platform would start it.

It runs in the sandbox, as the build user, without a network, over the base's root with the layers' own folders bound
into it read-only, until it listens on $PORT or ends. The steps of the build have ended, so nobody changes what is
packaged meanwhile, and nobody puts a link where a layer is bound from.

A program that can start on no machine ends the build. Whatever else stops it is a warning, or where the build requires
a start its end.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from builder import sandbox
from builder.attempt.attempt import Attempt
from builder.attempt.planned import Bound
from builder.attempt.programs import host_path
from builder.claims.outcome import Start, StartStatus
from builder.errors import BuildError, PlatformError
from builder.images.gather import open_source
from builder.images.runnable import user_of
from builder.images.store import images_of
from builder.pipelines.arguments import FILES
from builder.plan import ComponentOutput, Output
from builder.sandbox import app
from builder.source.tree import DirTree
from builder.toolchains.wasmtime import host_of, program_here, unit_of

WITHIN_S = 5.0
AFTER_PUSH_S = 1.0
LOOK_S = 0.005
MOST_LINES = 400
SAID = 6
LISTEN_THERE = "Listen on 0.0.0.0 and on the port that $PORT names."


@contextmanager
def starting(attempt: Attempt, bound: Bound) -> Iterator[Trial]:
    """The start check of what the build left, going on while the context is open; nothing of it lives afterwards."""
    trial = Trial(attempt, bound, attempt.grant.start_check or "off")
    trial.begin()
    try:
        yield trial
    finally:
        trial.end()


def _placed(source: Path, dest: str, dests: Set[str]) -> Iterator[sandbox.Mount]:
    """A layer in the root. Where another one lies inside of it, each of its own files and folders by itself: nothing
    can be mounted where a folder that is read-only has nothing. Links of a build are not followed."""
    if not any(each.startswith(f"{dest}/") for each in dests):
        yield sandbox.Mount(source=source, dest=dest)
        return
    with os.scandir(source) as entries:
        plain = (each for each in entries if each.is_dir(follow_symlinks=False) or each.is_file(follow_symlinks=False))
        names = sorted(each.name for each in plain)
    for name in names:
        if f"{dest}/{name}" not in dests:
            yield sandbox.Mount(source=source / name, dest=f"{dest}/{name}")


class Trial:
    """One start. Its thread starts the sandbox, which dies with it; another one looks where the program listens."""

    def __init__(self, attempt: Attempt, bound: Bound, mode: str) -> None:
        self._attempt, self._bound, self._mode = attempt, bound, mode
        self._folder = attempt.work.with_suffix(".start")
        self._known, self._ended = threading.Event(), threading.Event()
        self._stopped = False
        self._found: Start | None = None
        self._where: tuple[app.Address, ...] = ()
        self._first: FileIO | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._lines: deque[str] = deque(maxlen=MOST_LINES)

    def begin(self) -> None:
        """Start the program, unless the build asks for no check or this node has no sandbox."""
        if self._mode == "off":
            return
        if self._attempt.node.settings.unsandboxed:
            self._found = Start(status=StartStatus.SKIPPED, message="skipped, since this node runs without a sandbox")
            return
        self._use_host()
        self._thread(self._run)

    def _use_host(self) -> None:
        """Let the disk budget leave a fetched wasmtime where it is."""
        node_dir = self._attempt.node.settings.node_dir
        program = program_here(node_dir) if isinstance(self._bound.plan.output, ComponentOutput) else None
        if program and (unit := unit_of(program, node_dir)):
            self._attempt.use(unit)

    def verdict(self) -> Start | None:
        """What was found; None where no check was asked for. Waits as long as the build's check may take.

        Raises `BuildError` StartFailed, `PlatformError` where a start is required and none could be tried.
        """
        if self._threads:
            until = time.monotonic() + (WITHIN_S if self._mode == "require" else AFTER_PUSH_S)
            while not self._known.wait(LOOK_S * 10) and (self._mode == "require" or time.monotonic() < until):
                self._attempt.check()
        found = self._found or self._unknown() if self._threads else self._found
        if found is None:
            return None
        failed = found.nowhere or (self._mode == "require" and found.status in (StartStatus.EXITED, StartStatus.SILENT))
        if failed:
            raise BuildError("StartFailed", found.message, said=found.said, next=found.next, exit_code=found.exit_code)
        if self._mode == "require" and found.status is StartStatus.UNKNOWN:
            raise PlatformError("SandboxUnavailable", f"the artifact could not be started: {found.message}")
        self._tell(found)
        return found

    def end(self) -> None:
        """End the program and wait until nothing of it lives."""
        self._stopped = True
        self._kill()
        for thread in self._threads:
            thread.join()
        if self._threads:
            sandbox.remove_tree(self._folder)

    def _tell(self, found: Start) -> None:
        log = self._attempt.log
        if found.status is StartStatus.LISTENS:
            mib = found.memory_bytes / (1024 * 1024)
            log.system(f"start check: listened on $PORT after {found.cold_start_ms} ms, {mib:.1f} MiB of memory")
            return
        log.system(f"warning: start check: {found.line}")

    def _unknown(self) -> Start:
        elsewhere = app.elsewhere(self._where)
        if elsewhere:
            return Start(status=StartStatus.SILENT, message=self._listens_at(elsewhere), next=LISTEN_THERE)
        return Start(status=StartStatus.UNKNOWN, message="not known: it neither listened nor ended before the push did")

    def _listens_at(self, elsewhere: str) -> str:
        return f"the program listens on {elsewhere}, where nobody can reach it, not on 0.0.0.0:$PORT"

    def _thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="start-check", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            result = self._started()
            self._found = self._found or self._judged(result)
        except BuildError as error:
            self._found = (
                self._found
                or self._refused(error)
                or Start(status=StartStatus.UNKNOWN, message=f"not known: {error.message}")
            )
        except Exception as error:  # a fault of ours never ends the build
            self._found = self._found or Start(status=StartStatus.UNKNOWN, message=f"not known: {error!r}")
        finally:
            self._ended.set()
            self._known.set()

    def _refused(self, error: BuildError) -> Start | None:
        """A component that is none can start on no machine; on a node without wasmtime nobody knows."""
        if error.reason == "ToolchainUnavailable":
            return Start(status=StartStatus.SKIPPED, message=f"skipped: {error.message}", next=error.next)
        if error.reason != "StartFailed":
            return None
        return Start(status=StartStatus.EXITED, message=error.message, said=error.said, next=error.next,
                     exit_code=error.exit_code, nowhere=True)  # fmt: skip

    def _started(self) -> sandbox.Result:
        attempt, output = self._attempt, self._bound.plan.output
        settings = attempt.node.settings
        self._folder.mkdir()
        attempt.chown_to_build_user(self._folder)
        command, root = self._component(output) if isinstance(output, ComponentOutput) else self._program(output)
        return sandbox.run(
            command,
            root,
            app.limits(int(WITHIN_S * 1000)),
            uid=attempt.node.uid,
            gid=settings.build_uid,
            egress=None,
            on_line=lambda stream, line: self._heard(line),
            cancelled=self._must_end,
            grace_ms=0,
            placed=self._placed,
            use_cgroups=settings.use_cgroups,
        )

    def _heard(self, line: bytes) -> None:
        self._lines.append(self._attempt.log.mask.text(app.plain(line.decode("utf-8", "replace"))))

    def _program(self, output: Output) -> tuple[sandbox.Command, sandbox.Root]:
        """What a container runtime would start: the program over its base."""
        attempt, toolchain = self._attempt, self._bound.toolchain
        base = toolchain.base
        assert base is not None
        mounts: list[sandbox.Mount] = []
        for layer in output.layers:
            source = host_path(attempt, toolchain, layer.source)
            self._require_plain(source)
            mounts += _placed(source, layer.dest, {each.dest for each in output.layers})
        settings = attempt.node.settings
        images = images_of(settings.node_dir, settings.unpacked_image_bytes)
        root = sandbox.Root(rootfs=images.rootfs(base.digest), mounts=tuple(mounts))
        env = dict(base.env) | dict(output.env)
        command = app.command(
            output.entrypoint, env, cwd=output.workdir, user=user_of(output.user), root=root, work=self._folder
        )
        return command, root

    def _component(self, output: ComponentOutput) -> tuple[sandbox.Command, sandbox.Root]:
        """What serves a component here. Compiling it is part of the check: whoever serves it compiles it, too."""
        attempt, settings = self._attempt, self._attempt.node.settings
        source = host_path(attempt, self._bound.toolchain, output.component)
        self._require_plain(source)
        host = host_of(
            settings.node_dir, uid=attempt.node.uid, gid=settings.build_uid, use_cgroups=settings.use_cgroups
        )
        code = host.compiled(source, self._must_end)
        return host.serving(code, self._folder, {})

    def _must_end(self) -> bool:
        return self._stopped or self._found is not None or self._attempt.lease.must_stop()

    def _left_behind(self, lines: tuple[str, ...]) -> str:
        """The file of the source that the program missed, or its folder, where its runtime puts none into the image."""
        attempt, plan = self._attempt, self._bound.plan
        takes = next((one.BUILD_ARGS for one in attempt.node.known if plan.detection.runtime == one.NAME), ())
        missed = app.missing_file(lines, plan.output.workdir) if isinstance(plan.output, Output) else ""
        if FILES.name not in takes or not missed:
            return ""
        there = any(path == missed or path.endswith(f"/{missed}") for path in DirTree(attempt.source).files())
        return missed.partition("/")[0] if there else ""

    def _require_plain(self, source: Path) -> None:
        """Raise for a path of the build's that leads through a link; packaging names it."""
        work = self._attempt.work
        try:
            os.close(open_source(source, work if source.is_relative_to(work) else None))
        except OSError as error:
            raise PlatformError("Internal", f"{source.name} cannot be read: {error.strerror}") from None

    def _placed(self, first: int) -> None:
        """Look for the program's port from its start on. `first` is a process of its namespace, which it ends with."""
        with self._lock:
            self._first = FileIO(os.pidfd_open(first), "r")
        began = time.monotonic()
        self._thread(lambda: self._look(first, began))

    def _look(self, first: int, began: float) -> None:
        while not self._ended.wait(LOOK_S):
            self._where = app.listeners(first)
            if not app.is_ready(self._where, app.PORT):
                continue
            after = int((time.monotonic() - began) * 1000)
            self._found = Start(status=StartStatus.LISTENS, cold_start_ms=after, memory_bytes=app.memory(first))
            self._known.set()
            self._kill()
            return

    def _kill(self) -> None:
        """KILL the first process of the namespace, and with it all others."""
        with self._lock, suppress(OSError):
            if self._first:
                signal.pidfd_send_signal(self._first.fileno(), signal.SIGKILL)

    def _judged(self, result: sandbox.Result) -> Start | None:
        """What the end of the program means; None where this check ended it."""
        lines = tuple(self._lines)
        if result.reason == "Cancelled":
            return None
        if result.reason == "Timeout":
            elsewhere = app.elsewhere(self._where)
            message = f"the program did not listen on $PORT within {WITHIN_S:.0f} s"
            message = self._listens_at(elsewhere) if elsewhere else message
            return Start(
                status=StartStatus.SILENT, message=message, said=app.said(lines, SAID) if not elsewhere else (),
                next=LISTEN_THERE,
            )  # fmt: skip
        how = f"was ended by signal {result.signal}" if result.signal else f"exited {result.exit_code}"
        message = f"the program {how} before it listened on $PORT"
        library = app.missing_library(lines) if result.exit_code else ""
        if library:
            message, hint = (
                f"{message}: the shared library {library} is not in the image",
                ("Take a package that brings it along, or do without what needs it."),
            )
        elif app.is_absent(result.exit_code, lines):
            message, hint = _absent(lines)
        elif result.reason == "OutOfMemory":
            message, hint = f"{message}: it reached {app.MEMORY >> 20} MiB of memory", "Use less memory at the start."
        elif left := self._left_behind(lines):
            message = f"{message}; {left} is in the source and not in the image"
            hint = f"Put it there: --files {left}. Or embed it in the program."
        else:
            hint = "Read what it wrote, correct it and build again. A variable that it needs is set where it runs."
        return Start(
            status=StartStatus.EXITED, message=message, said=app.said(lines, SAID), next=hint,
            exit_code=result.exit_code, nowhere=bool(library) or app.is_absent(result.exit_code, lines),
        )  # fmt: skip


def _absent(lines: tuple[str, ...]) -> tuple[str, str]:
    """(message, next step) where there was no program to start; a launcher's words say which one and why."""
    message = "there is no program that could be started"
    program, why = app.not_started(lines)
    if not program:
        return message, "Build a program for linux/amd64."
    hint = f"Start a program that the image has, or bring {program} along: in the source, or by a package that has it."
    if "denied" in why:
        hint = f"Mark {program} as executable (chmod +x) where it is sent from, or start it by its interpreter."
    elif "format" in why:
        hint = f"The first line of {program} must name its interpreter (#!), or it must be built for linux/amd64."
    return f"{message}: {program}: {why}", hint
