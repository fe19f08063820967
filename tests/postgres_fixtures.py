"""A private PostgreSQL: its own folder and unix socket, no network, gone when the test session ends."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 300.0
QUICK = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "listen_addresses=")


@dataclass(frozen=True)
class Cluster:
    """A cluster that is made and not started: how to start its server. The socket lies in `folder`."""

    folder: Path
    argv: tuple[str, ...]
    environ: dict[str, str]
    as_user: dict[str, Any]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Make one, remove it on the way out. As root it belongs to another user: PostgreSQL refuses root."""
    server_programs = programs()
    owner = _owner()
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-postgres-", dir="/var/tmp"))  # a socket's path is short
    try:
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        # Sorted as people expect, which is not how bytes sort: what relies on the locale shows.
        locale = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8")
        made = ("--pgdata=data", "--username=postgres", "--auth=trust", "--no-sync", *locale)
        _run(folder, owner, [str(server_programs / "initdb"), *made])
        settings = [part for setting in (*QUICK, f"unix_socket_directories={folder}") for part in ("-c", setting)]
        argv = (str(server_programs / "postgres"), "-D", "data", *settings)
        yield Cluster(folder, argv, _environment(), _as(owner))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_postgres() -> Iterator[Path]:
    """Start one; yields the folder of its socket."""
    with cluster() as made:
        with (made.folder / "server.log").open("ab") as log:
            server = subprocess.Popen(
                made.argv, cwd=made.folder, env=made.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **made.as_user,
            )  # fmt: skip
        try:
            _await(made.folder, server)
            yield made.folder
        finally:
            server.send_signal(signal.SIGINT)  # "fast": sessions are ended, not awaited
            try:
                server.wait(300)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(300)


def programs() -> Path:
    """The folder of the newest server programs: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        raise AssertionError("PostgreSQL's initdb is not installed; next: apt-get install -y postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _owner() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def _run(folder: Path, owner: pwd.struct_passwd | None, argv: list[str]) -> None:
    done = subprocess.run(
        argv, cwd=folder, env=_environment(), capture_output=True, text=True, check=False, timeout=120, **_as(owner)
    )
    assert done.returncode == 0, done.stderr or done.stdout


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not (ready := folder / "data" / "postmaster.pid").exists() or "ready" not in ready.read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"PostgreSQL did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
        time.sleep(0.05)
