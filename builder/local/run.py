"""Run an artifact on this machine: pull by digest, unpack, start it sandboxed, wait until it answers.

It is as near to the platform as a machine without one can be (`sandbox/app.py`): the image's user with its home, a
read-only root, the limits of a small instance, no capability, and no network but the relay that brings requests in.
PORT is that of `sandbox/app.py`: a process without capabilities cannot bind 80 here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder import sandbox
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.errors import REASONS, BuildError
from builder.images import place
from builder.images.layout import Layout
from builder.images.reference import parse
from builder.images.runnable import user_of, violated
from builder.images.store import COMPONENT, pull
from builder.sandbox import app, users
from builder.settings import Settings
from builder.text import visible
from builder.tls import plain_transport
from builder.toolchains.wasmtime import OWN_LINE, host_of

READY_S = 20.0
ELSEWHERE_S = 3.0
"""After this time an app that listens somewhere, but not on $PORT, is not waited for."""
SHOWN = 6
"""How many of them an error shows."""
SAID = 400
"""How many of the app's last lines stay, for the error."""
LOOK_S = 0.002
"""Between two looks whether the app listens, and then answers."""
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
    waited for. `env` is the app's own. Raises `BuildError` StartFailed, or the limit's reason, when it ends or does not
    answer in time.
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
        text = app.plain(line.decode("utf-8", "replace"))
        if text != OWN_LINE:
            said.append(text)
            on_line(text)

    try:
        work = home / "work"
        work.mkdir()
        if os.geteuid() == 0:
            os.chown(work, uid, settings.build_uid)
        command, root = _artifact(settings, build, home, work, env or {})
        inside: list[int] = []
        began = time.monotonic()
        serving = sandbox.serve(
            command,
            root,
            app.limits(24 * 3_600_000),
            uid=uid,
            gid=settings.build_uid,
            port=app.PORT,
            on_line=heard,
            use_cgroups=settings.use_cgroups,
            placed=inside.append,
        )
        ended = _end_of(serving)
        try:
            url = f"http://{serving.address[0]}:{serving.address[1]}"
            _await_ready(url, ended, said, lambda: app.listeners(inside[0]) if inside else ())
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
    env: Mapping[str, str] | None = None,
) -> int:
    """Run until interrupted, or until the app ends by itself. Raises `BuildError` when that was no good end."""
    with started(settings, build, env, on_line) as running:
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
    reason = result.reason if result.reason in REASONS else "StartFailed"
    limit = f", its limit here: memory {app.MEMORY >> 20} MiB" if reason == "OutOfMemory" else ""
    return BuildError(
        reason or "StartFailed",
        f"the app {how}{when}{limit}",
        said=app.said(tuple(said), SHOWN),
        next="Correct what the first line names and build again. Does it need a variable? run --env NAME=VALUE",
        exit_code=result.exit_code,
    )


def _artifact(
    settings: Settings, build: pb.Build, home: Path, work: Path, env: Mapping[str, str]
) -> tuple[sandbox.Command, sandbox.Root]:
    """The artifact below `home`, and what starts it: its own program, or for a component wasmtime."""
    name = f"{build.repository}@{build.image_digest}"
    config = _pulled(settings, build, home, lambda rootfs, user: _user_in(rootfs, user, name))
    if config is None:
        component = home / COMPONENT
        component.chmod(0o644)
        host = host_of(
            settings.node_dir, uid=settings.build_uid - 1, gid=settings.build_uid, use_cgroups=settings.use_cgroups
        )
        return host.serving(host.compiled(component), work, env)
    root = sandbox.Root(rootfs=home / "root")
    image_env = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    workdir = config.get("WorkingDir") or "/"
    if not app.has_folder(home / "root", workdir):
        raise violated(name, "config.WorkingDir", f"is a folder that is not in it: {visible(workdir, limit=100)}")
    user = _user_in(home / "root", config.get("User") or "", name)
    if closed := app.closed_folder(home / "root", workdir):
        shown = [visible(each, limit=100) for each in (workdir, closed)]
        raise violated(name, "config.WorkingDir", f"is {shown[0]}, and its user {user[0]} may not enter {shown[1]}")
    command = app.command(
        tuple(config.get("Entrypoint") or ()) + tuple(config.get("Cmd") or ()),
        {**image_env, **env, "PORT": str(app.PORT)},
        cwd=workdir,
        user=user,
        root=root,
        work=work,
    )
    return command, root


def _user_in(rootfs: Path, user: str, image: str) -> tuple[int, int]:
    """Who the app is by its image; where that names no user, who the apps of our own bases are."""
    if not user or user.startswith(":"):
        return user_of(user)
    try:
        return users.user_in(rootfs, user)
    except LookupError as error:
        raise violated(image, "config.User", f"is {visible(user, limit=100)}, {error}") from None


def _pulled(
    settings: Settings, build: pb.Build, home: Path, who: Callable[[Path, str], tuple[int, int]]
) -> dict[str, Any] | None:
    """`pull` from the settings' registry; without one from where the record places the artifact.

    A login, and leave to go without TLS, are for the registry that the settings name, never for a host that only a
    server's answer names.
    """
    host, repository = place_of(settings, build)
    is_ours = bool(settings.registry) and host == settings.registry
    target = place.destination(
        host,
        f"{settings.data_dir}/artifacts",
        username=settings.registry_username if is_ours else "",
        password=settings.registry_password if is_ours else "",
        insecure=settings.registry_insecure and is_ours,
        ca_bundle=settings.ca_bundle,
    )
    try:
        return pull(target, repository, build.image_digest, home, settings.unpacked_image_bytes, who)
    except BuildError as error:
        if error.reason not in ("SourceNotFound", "RegistryRefused"):
            raise
        where = f"registry = {host}" if host else "registry is not set: looked in the data folder"
        ref = next(iter(build.image_refs), build.artifact_ref)
        hint = f"Set IGNITE_BUILDER_REGISTRY to where it is, with REGISTRY_USERNAME and _PASSWORD: {ref}"
        raise BuildError(error.reason, error.message, where=where, said=error.said, next=hint) from None


def place_of(settings: Settings, build: pb.Build) -> tuple[str, str]:
    """(host, repository) of an artifact; the host is empty for the data folder.

    A prebuilt image is where its reference points, whatever the settings are.
    """
    if build.code_kind == common.CODE_KIND_PREBUILT and build.image_refs:
        reference = parse(build.image_refs[0])
        return reference.api_host, reference.repository
    named = build.artifact_ref.removesuffix(f"/{build.repository}@{build.image_digest}")
    return settings.registry or ("" if named in (LAYOUT, build.artifact_ref) else named), build.repository


def _await_ready(
    url: str,
    ended: Future[sandbox.Result],
    said: Collection[str],
    where: Callable[[], Sequence[app.Address]],
) -> None:
    """Ready: it listens where the platform reaches it, and /healthz or, for a server without one, anything answers."""
    began = time.monotonic()
    listens: Sequence[app.Address] = ()
    with httpx.Client(transport=plain_transport(), timeout=2, trust_env=False) as client:
        while (waited := time.monotonic() - began) < READY_S:
            if ended.done():
                raise _ended(ended.result(), said, " before it answered on $PORT")
            listens = where()
            if not app.is_ready(listens, app.PORT):
                if listens and waited > ELSEWHERE_S:
                    break
                time.sleep(LOOK_S)
                continue
            with suppress(httpx.HTTPError):
                if client.get(url + "/healthz").status_code < 500:
                    return
            time.sleep(LOOK_S)
    if listens and not app.is_ready(listens, app.PORT):
        raise BuildError(
            "StartFailed",
            f"the app listens on {app.elsewhere(listens)}; the platform reaches 0.0.0.0:$PORT alone",
            said=app.said(tuple(said), SHOWN),
            next="Listen on 0.0.0.0 and on the port that the variable PORT names.",
        )
    raise BuildError(
        "StartFailed",
        f"the app did not {'answer' if listens else 'listen'} on $PORT within {READY_S:.0f} s",
        said=app.said(tuple(said), SHOWN),
        next="Listen on 0.0.0.0 and on the port that the variable PORT names.",
    )
