"""`ignite-builder` as its user starts it: the installed program, in a home of its own, with nothing of our settings."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local.embedded import end
from tests import uids
from tests.kept import SHARED

PROGRAM = str(Path(sys.executable).parent / "ignite-builder")
PATIENCE_S = 300
"""For a whole build, the compilers' first start included, on a machine that does other things as well."""
OURS = ("IGNITE_BUILDER_", "XDG_")


@dataclass(frozen=True)
class Ran:
    """An ended run: the exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> pb.Build:
        """The one document of `--json`, read by the contract's codec."""
        return codec.parse(pb.Build, self.out.encode())


@dataclass(frozen=True)
class Program:
    """The program with a home and settings; `settings` are those that a variable gives ("server" and so on).

    `executable` may be another installation, and `cwd` the folder it starts in.
    """

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    executable: str = PROGRAM
    cwd: Path | None = None

    @property
    def environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        ours = {f"IGNITE_BUILDER_{name.upper()}": value for name, value in self.settings.items()}
        return inherited | {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"} | ours

    def run(self, *argv: str, stdin: bytes = b"", **more: str) -> Ran:
        """Run to the end; `more` are further environment variables."""
        done = subprocess.run(
            [self.executable, *argv],
            cwd=self.cwd,
            env=self.environ | more,
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def started(self, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start it, stdout and stderr as pipes; what still runs afterwards is ended."""
        process = subprocess.Popen(
            [self.executable, *argv],
            cwd=self.cwd,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            end(process, 30)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextmanager
def serving(program: Program, command: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`serve` or `worker`, which speak for as long as they live: the process, and the file with what they said."""
    program.home.mkdir(parents=True, exist_ok=True)
    said = program.home / f"{command}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            [program.executable, command],
            cwd=program.cwd,
            env=program.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process, said
    finally:
        end(process, 30)


def ended(process: subprocess.Popen[bytes], seconds: float = PATIENCE_S) -> Ran:
    """What a started program said (since it was last read) until it ended by itself."""
    out, err = process.communicate(timeout=seconds)
    return Ran(process.returncode, out.decode(), err.decode())


def processes_that_name(folder: Path) -> list[str]:
    """Other living processes with this folder in their arguments or environment: "pid command line"."""
    found, needle = [], str(folder).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            cmdline = process.joinpath("cmdline").read_bytes()
            names_it = needle in cmdline or needle in process.joinpath("environ").read_bytes()
            if names_it and int(process.name) != os.getpid():
                found.append(f"{process.name} {cmdline.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


@contextmanager
def over(kept: Path) -> Iterator[Program]:
    """The program in a home of its own, over the images and caches that sessions share: no toolchain of a home."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-images-", dir="/var/tmp") as folder:
        home, node = Path(folder) / "home", Path(folder) / "node"
        for each in (Path(folder), home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        for name in SHARED:
            (node / name).symlink_to(kept / name)
        # Of the group of the tests' server, to which the shared caches belong; its own uid comes after those of slots.
        yield Program(home, {"node_dir": str(node), "build_uid": str(uids.SERVER), "slots": "4"})
