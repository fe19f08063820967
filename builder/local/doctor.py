"""What is missing on this machine, what follows from it, and the command that mends it."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis

from builder import pipelines, sandbox
from builder.bases.debian import missing_for_mmdebstrap
from builder.client.api import CHECK_SCHEME, Api, ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.data import catalog_file
from builder.engine.api import connect
from builder.errors import BuildError
from builder.images.layer import compressor_is_the_known_one
from builder.node.floor import lacks
from builder.pipelines import catalog as catalogs
from builder.pipelines.catalog import Catalog
from builder.settings import Settings
from builder.text import size, visible
from builder.toolchains import wasmtime
from builder.toolchains.host import find_program
from builder.toolchains.provider import Toolchains
from builder.toolchains.providers import toolchains_of

ANSWER_S = 5.0
EMBEDDED_ONLY = ("redis-server",)
PROGRAMS = (
    ("redis-server", "`dev` does not start", "apt-get install -y redis-server"),
    ("mmdebstrap", "base images cannot be made here", "apt-get install -y mmdebstrap"),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    name: str
    effect: str = ""
    mend: str = ""


def findings(settings: Settings) -> tuple[Finding, ...]:
    """Programs, sandbox, control groups, compressor, toolchains, disk; with a server, what a node needs of it."""
    found: list[Finding] = []
    for name, effect, mend in PROGRAMS:
        if settings.server and name in EMBEDDED_ONLY:
            continue
        found.append(Finding(ok=bool(find_program(name)), name=name, effect=effect, mend=mend))
    found.append(
        Finding(
            ok=wasmtime.program_here(settings.node_dir, find_program) is not None,
            name=wasmtime.COMMAND,
            effect="components do not run here, and are not started once to check them",
            mend=wasmtime.INSTALL,
        )
    )
    if lack := missing_for_mmdebstrap():
        mend = lack.mend.removeprefix("An operator runs: ")
        found.append(
            Finding(ok=False, name="uidmap", effect=f"base images cannot be made here: {lack.what}", mend=mend)
        )
    for each in sandbox.check():
        if each.ok:
            found.append(Finding(ok=True, name=f"{each.name}: {each.detail}"))
        else:
            found.append(Finding(ok=False, name=each.name, effect=each.detail, mend=each.next))
    if not settings.use_cgroups:
        effect = "memory and processes are watched from outside, CPU is not limited"
        found.append(Finding(ok=False, name="use_cgroups is off", effect=effect, mend="set use_cgroups = true"))
    found.append(
        Finding(
            ok=compressor_is_the_known_one(),
            name="compressor",
            effect="artifacts get other digests here than on other nodes",
            mend="a CPU with SSE4.2, and the package isal as uv.lock pins it: make setup",
        )
    )
    catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
    toolchains = toolchains_of(settings)
    for name in pipelines.names(pipelines.load(settings.pipelines)):
        found.append(_toolchain(catalog, toolchains, name))
    folder = next(up for up in (Path(settings.node_dir), *Path(settings.node_dir).parents) if up.is_dir())
    found.append(Finding(ok=True, name=f"caches where a source's own code runs: {_lent(str(folder))}"))
    free = shutil.disk_usage(folder).free
    if below := lacks(settings):
        mend = "free some, or lower the setting named"
        found.append(Finding(ok=False, name="disk", effect=f"a worker takes no builds here: {below}", mend=mend))
    needed, effect = settings.disk_bytes, "builds may fill the disk"
    if settings.disk_fence == "loop":
        place = work if (work := folder / "work").is_dir() else folder  # often a disk of its own
        found.append(_fence(settings, place))
        free = shutil.disk_usage(place).free
        needed = sandbox.size_for(settings.disk_bytes) * settings.slots + settings.node_free_bytes
        effect = f"not all slots get a file system at once, which takes {size(needed)} with node_free_bytes"
    found.append(
        Finding(
            ok=free > needed,
            name=f"{free / 1024**3:.0f} GiB free",
            effect=effect,
            mend="free some",
        )
    )
    found += engine(settings) if settings.docker_host else ()
    found += control_side(settings) if settings.server else ()
    return tuple(found)


def engine(settings: Settings) -> tuple[Finding, ...]:
    """Whether the engine answers, and who may use it."""
    host = settings.docker_host
    try:
        with closing(connect(host)) as found:
            version = visible(found.version(), limit=40)
    except BuildError as error:
        effect = f"no Dockerfile is built here: {error.message}"
        return (Finding(ok=False, name="docker_host", effect=effect, mend=error.next),)
    mine = f"its builds are as root of that machine, for the organization {settings.organization} alone"
    return (Finding(ok=True, name=f"Docker engine {version} at {host}: {mine}"),)


def _fence(settings: Settings, folder: Path) -> Finding:
    """Whether each build can have a file system of its own; one is mounted."""
    try:
        blank = sandbox.tried(folder, settings.disk_bytes)
    except BuildError as error:
        effect = f"a worker does not start here: {error.message}"
        return Finding(ok=False, name="disk_fence", effect=effect, mend=error.next)
    return Finding(ok=True, name=f"disk_fence: what a build writes lies in a file system of {size(blank.size)}")


def _lent(folder: str) -> str:
    """What such a step has of a cache that it wants to write."""
    try:
        lacks = sandbox.lacks_overlay(folder)
    except OSError as error:
        lacks = str(error)
    return f"empty ones at first, thrown away ({lacks})" if lacks else "an overlay of the organization's, thrown away"


def control_side(settings: Settings) -> tuple[Finding, ...]:
    """What a build node needs of the control side: the server, a token for this node, one protocol, the broker."""
    if settings.token.isascii() and settings.token.isprintable() and settings.token:
        asked = _asked(settings)
    else:
        effect = "it has characters that no header takes" if settings.token else "the server takes no call without one"
        mend = "set token_file to a file with a token of the scope worker"
        asked = Finding(ok=False, name="token", effect=effect, mend=mend)
    return (asked, _broker(settings))


def _asked(settings: Settings) -> Finding:
    """Two claims of no build, which change nothing: one without a nonce ends at it, behind scope and protocol."""
    server = _without_login(settings.server)
    try:
        with closing(Api(settings.server, settings.token, ANSWER_S, ca_bundle=settings.ca_bundle)) as api:
            return (
                _judged(settings, _refusal(api, settings, nonce=""))
                or _judged(settings, _refusal(api, settings, nonce="doctor"))
                or Finding(ok=True, name=f"server {server}{_version(api)}, token, protocol {PROTOCOL}")
            )
    except (ApiUnreachable, httpx.InvalidURL, ValueError) as error:
        mend = "correct the setting server, or start it: ignite-builder serve"
        if isinstance(error, ApiUnreachable) and error.is_mistake:
            mend = CHECK_SCHEME
        return Finding(ok=False, name="server", effect=f"{server} does not answer: {error}"[:300], mend=mend)


def _version(api: Api) -> str:
    """The server's version, where it answers one."""
    try:
        found = json.loads(b"".join(api.download("/version")))
        return f" {visible(str(found['version']), limit=40)}"
    except (ApiError, ValueError, KeyError, TypeError):
        return ""


def _refusal(api: Api, settings: Settings, nonce: str) -> ApiError | None:
    """How a claim of a build that cannot be is refused, where its protocol, scope or node is the cause."""
    request = pb.ClaimBuildRequest(protocol=PROTOCOL, node_id=settings.node_id, build_id="doctor", nonce=nonce)
    try:
        api.call("ClaimBuild", request)
    except ApiError as error:
        at_the_nonce = not nonce and error.detail.get("where") == "nonce"
        not_registered = nonce and error.code == "FAILED_PRECONDITION"
        return None if at_the_nonce or not_registered else error
    return None


def _judged(settings: Settings, error: ApiError | None) -> Finding | None:
    if error is None:
        return None
    message = error.message[:300]
    if error.code == "UNAUTHENTICATED":
        mend = "take a token from the setting tokens of the server"
        return Finding(ok=False, name="token", effect=message, mend=mend)
    if error.code == "PERMISSION_DENIED":
        mend = f'give it scopes = ["worker"] and node = "{settings.node_id}" in the setting tokens of the server'
        return Finding(ok=False, name="token", effect=message, mend=mend)
    if error.code == "FAILED_PRECONDITION":
        return Finding(ok=False, name="protocol", effect=message, mend="install the server's version here")
    mend = "correct the setting server: this is no server of ignite-builder"
    return Finding(ok=False, name="server", effect=message, mend=mend)


def _broker(settings: Settings) -> Finding:
    where = _without_login(settings.redis_url)
    try:
        client = redis.Redis.from_url(
            settings.redis_url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S, retry=None
        )
        with client:
            client.ping()
    except (redis.RedisError, OSError, ValueError, TypeError) as error:  # TypeError: an unknown option of the URL
        mend = "correct the setting redis_url, or start Redis there"
        return Finding(ok=False, name="broker", effect=f"{where} does not answer: {error}"[:300], mend=mend)
    return Finding(ok=True, name=f"broker {where}")


def _without_login(url: str) -> str:
    """A URL as it may be shown: neither user nor password, nor what stands behind the path."""
    head, _, rest = url.partition("://")
    return f"{head}://{rest.rpartition('@')[2].partition('?')[0]}" if rest else url


def _toolchain(catalog: Catalog, toolchains: Toolchains, runtime: str) -> Finding:
    """Whether this machine builds a runtime in its default version."""
    try:
        row = catalog.find(runtime)
    except BuildError as error:
        mend = f"add a row for {runtime} to the catalog, or take its pipeline out of pipelines"
        return Finding(ok=False, name=runtime, effect=f"not built anywhere: {error.message}", mend=mend)
    try:
        toolchains.find(row)
    except BuildError as error:
        return Finding(ok=False, name=row.name, effect=error.message, mend=error.next)
    return Finding(ok=True, name=row.name)
