"""Run an artifact on this machine: pull by digest, unpack, start it sandboxed, wait until it answers.

PORT is 8080 inside: a process without capabilities cannot bind 80. The root is read-only, the user numeric, and there
is no network but the relay that brings requests in.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder import sandbox
from builder.config import Settings
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS, BuildError
from builder.images import place
from builder.images.layout import Layout
from builder.images.store import pull

PORT = 8080
READY_S = 20.0
MEMORY = 512 * 1024 * 1024
SAID = 50
"""How many of the app's last lines are kept, for the error."""
LAYOUT = Layout.name
"""What the reference of an artifact in a data folder begins with."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A started app: where it answers, and how long it took until it did (ms)."""

    url: str
    ready_ms: int
    ended: Future[sandbox.Result]
    """How the app ended, once it did. Raises as `sandbox.run` does."""
    said: Collection[str] = ()


@contextmanager
def started(
    settings: Settings,
    build: pb.Build,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Iterator[Running]:
    """The artifact of a build, running; `on_line` gets its output, in another thread. At the end it is stopped and
    waited for. Raises `BuildError` StepFailed, or the limit's reason, when it ends or does not answer in time.
    """
    folder = Path(settings.node_dir) / "run"
    folder.mkdir(parents=True, exist_ok=True)
    for each in (Path(settings.node_dir), folder):
        each.chmod(0o755)
    home = Path(tempfile.mkdtemp(dir=folder))
    home.chmod(0o755)
    uid = settings.build_uid - 1
    said: deque[str] = deque(maxlen=SAID)

    def heard(stream: sandbox.Stream, line: bytes) -> None:
        said.append(line.decode("utf-8", "replace"))
        on_line(said[-1])

    try:
        config = _pulled(settings, build, home)
        work = home / "work"
        work.mkdir()
        if os.geteuid() == 0:
            os.chown(work, uid, settings.build_uid)
        image_env = dict(pair.partition("=")[::2] for pair in config.get("Env", ()))
        command = sandbox.Command(
            argv=tuple(config["Entrypoint"]) + tuple(config.get("Cmd") or ()),
            work=work,
            env={**image_env, "PORT": str(PORT), "HOME": "/tmp", **(env or {})},
            cwd=config.get("WorkingDir") or "/",
        )
        limits = sandbox.Limits(memory=MEMORY, cpus=1.0, pids=256, disk=64 * 1024 * 1024, wall_ms=24 * 3_600_000)
        began = time.monotonic()
        serving = sandbox.serve(
            command,
            sandbox.Root(rootfs=home / "root"),
            limits,
            uid=uid,
            gid=settings.build_uid,
            port=PORT,
            on_line=heard,
            use_cgroups=settings.use_cgroups,
        )
        ended = _end_of(serving)
        try:
            url = f"http://{serving.address[0]}:{serving.address[1]}"
            _await_ready(url, ended, said)
            ready_ms = int((time.monotonic() - began) * 1000)
            yield Running(url=url, ready_ms=ready_ms, ended=ended, said=said)
        finally:
            serving.stop()
            # The app finishes what is in flight, from the very files that are removed next.
            ended.exception()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run_artifact(
    settings: Settings,
    build: pb.Build,
    on_ready: Callable[[str, int], None],
    on_line: Callable[[str], None] = lambda line: None,
) -> int:
    """Run until interrupted, or until the app ends by itself. Raises `BuildError` when that was no good end."""
    with started(settings, build, on_line=on_line) as running:
        on_ready(running.url, running.ready_ms)
        result = running.ended.result()
        if result.reason != "Cancelled" and (result.reason or result.exit_code):
            raise _ended(result, running.said, "")
    return 0


def _end_of(serving: sandbox.Serving) -> Future[sandbox.Result]:
    """The end of an app, waited for in a thread: a `join` that Ctrl-C interrupts takes its thread for ended (CPython
    3.11), so that nobody could wait for the app any more."""
    ended: Future[sandbox.Result] = Future()

    def wait() -> None:
        try:
            ended.set_result(serving.wait())
        except Exception as error:
            ended.set_exception(error)

    threading.Thread(target=wait, name="app-end", daemon=True).start()
    return ended


def _ended(result: sandbox.Result, said: Collection[str], when: str) -> BuildError:
    """Why an app ended by itself: a limit's reason, a signal, its exit code."""
    how = f"was ended by signal {result.signal}" if result.signal else f"exited {result.exit_code}"
    reason = result.reason if result.reason in REASONS else "StepFailed"
    limit = f", its limit here: memory {MEMORY >> 20} MiB" if reason == "OutOfMemory" else ""
    return BuildError(
        reason or "StepFailed",
        f"the app {how}{when}{limit}",
        said=tuple(said)[-6:],
        next="Read what it wrote last, correct it and build again.",
        exit_code=result.exit_code,
    )


def _pulled(settings: Settings, build: pb.Build, home: Path) -> dict[str, Any]:
    """`pull` from the settings' registry; without one from where the record says that the artifact is.

    A login is for the registry that the settings name, never for a host that only a server's answer names.
    """
    named = build.artifact_ref.removesuffix(f"/{build.repository}@{build.image_digest}")
    host = settings.registry or ("" if named in (LAYOUT, build.artifact_ref) else named)
    target = place.destination(
        host,
        f"{settings.data_dir}/artifacts",
        username=settings.registry_username if settings.registry else "",
        password=settings.registry_password if settings.registry else "",
        insecure=settings.registry_insecure,
        ca_bundle=settings.ca_bundle,
    )
    try:
        return pull(target, build.repository, build.image_digest, home)
    except BuildError as error:
        if error.reason not in ("SourceNotFound", "RegistryRefused"):
            raise
        where = f"registry = {host}" if host else "registry is not set: looked in the data folder"
        hint = f"Set IGNITE_BUILDER_REGISTRY to where it is, with REGISTRY_USERNAME and _PASSWORD: {build.artifact_ref}"
        raise BuildError(error.reason, error.message, where=where, said=error.said, next=hint) from None


def _await_ready(url: str, ended: Future[sandbox.Result], said: Collection[str]) -> None:
    """Ready: /healthz answers 2xx, or for a server without one any HTTP answer."""
    until = time.monotonic() + READY_S
    with httpx.Client(timeout=2, trust_env=False) as client:
        while time.monotonic() < until:
            if ended.done():
                raise _ended(ended.result(), said, " before it answered on $PORT")
            with suppress(httpx.HTTPError):
                if client.get(url + "/healthz").status_code < 500:
                    return
            time.sleep(0.005)
    raise BuildError("StepFailed", f"the app did not answer on $PORT within {READY_S:.0f} s", said=tuple(said)[-6:])
