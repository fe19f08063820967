"""`https:` imports: hosts that the operator lists, and the modules of theirs that deno.lock pins. Pure.

No index has such code, so nothing but the lock's SHA-256 says what it is: without a lock none is fetched. The node
compares each module with that digest before a shared cache has it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from builder.errors import BuildError, refused_source
from builder.pipelines.deno import jsr
from builder.pipelines.deno.jsonc import read_json, table
from builder.pipelines.deno.lock import LOCK
from builder.pipelines.deno.project import Need, Project, Reached, outside
from builder.pipelines.limits import LOCK_LIMIT
from builder.plan import Fetched, WantedFile, WriteFile
from builder.source.tree import Tree

CACHE = "modules"
LIST = "modules.json"
HOSTS = "hosts.json"
INDEX = "https"
"""The kind of index in `toolchain.toml` that stands for the hosts of `import_hosts`."""
VENDOR = "vendor/"
SETTING = "import_hosts"
MODULES_MOST = 20_000
_PORT = ":443"
_URL = re.compile(r"https://[!#-&(-;=?-\[\]_a-z~]{1,2000}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCKED = "Run `deno install --entrypoint {}` with Deno 2 and commit deno.lock."


@dataclass(frozen=True, kw_only=True)
class Remote:
    """What of `https:` imports is fetched: `hosts` ("deno.land:443") that are listed and that imports or the lock name.

    `skipped` are those of the lock that are not listed. `vendored`: the source has all of them below vendor/. `jsr`:
    the packages of JSR that the lock pins are fetched, too.
    """

    hosts: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    vendored: bool = False
    jsr: bool = False

    @property
    def allowed(self) -> str:
        """The hosts as `--allow-import` lists them, `*` for any; empty where nothing is imported."""
        return "*" if self.vendored else ",".join((*self.hosts, *((jsr.HOST,) if self.jsr else ())))

    @property
    def fetched(self) -> bool:
        """Whether anything is fetched."""
        return bool(self.hosts) or self.jsr


def host_of(url: str) -> str:
    """`host:port` of an `https:` URL; empty for what is none."""
    if not _URL.fullmatch(url):
        return ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    return f"{host.rstrip('.')}:{port or 443}" if host and "@" not in parts.netloc else ""


def remote_of(
    project: Project, reached: Reached, lock: Mapping[str, Any], listed: Collection[str], entry: str
) -> Remote:
    """What the `https:` imports of a project need. `listed` is the operator's list: `host`, or `host:port`.

    A source with `"vendor": true` and the folder brings them: nothing is fetched, and no host needs to be listed.
    Raises `BuildError` DependencyNotFound for a host that is not listed, LockOutdated where there is no lock.
    """
    found = outside(project, reached).items()
    needs = [Need(specifier=one, where=where) for one, where in found if one.startswith(("https:", "http:"))]
    packages = [Need(specifier=one, where=where) for one, where in found if one.startswith("jsr:")]
    if not needs and not packages:
        return Remote()
    if project.config.get("vendor") is True and any(path.startswith(VENDOR) for path in project.tree.files()):
        return Remote(vendored=True)
    allowed = {one.lower() if ":" in one else f"{one.lower()}{_PORT}" for one in listed}
    hosts = {_required(project, need, allowed, entry) for need in needs}
    jsr.check_locked(packages, lock, project.lock, entry)
    pinned = {host for url in table(lock, "remote") if (host := host_of(url))}
    return Remote(
        hosts=tuple(sorted(hosts | pinned & allowed)),
        skipped=tuple(sorted(pinned - allowed)),
        jsr=bool(table(lock, "jsr")),
    )


def _required(project: Project, need: Need, allowed: Collection[str], entry: str) -> str:
    """The host of an import that is fetched. Raises `BuildError` for one that is not."""
    if need.specifier.startswith("http:"):
        message = f"{need.specifier[:200]} is imported; code is fetched by https: alone"
        hint = "Import it by https:, or from npm."
        raise refused_source(message, where=need.where, next=hint, reason="DependencyNotFound")
    host = host_of(need.specifier)
    if host not in allowed:
        raise not_fetched(need.specifier, host, need.where)
    if not project.lock:
        message = f"{need.specifier[:200]} is imported, and no {LOCK} pins what it is"
        raise BuildError("LockOutdated", message, where=need.where, next=_LOCKED.format(entry))
    return host


def not_fetched(specifier: str, host: str, where: str) -> BuildError:
    """An import whose host is not listed."""
    shown = host.removesuffix(_PORT)
    message = f"{specifier[:200]} is imported; this builder fetches no code from {shown or 'there'}"
    hint = (
        'Take the package from npm (npm:NAME@VERSION), or send vendor/ with the source ("vendor": true in deno.json).'
    )
    if shown:
        hint = f"{hint[:-1]}; or ask the operator to list {shown} in {SETTING}."
    return refused_source(message, where=where, next=hint, reason="DependencyNotFound")


def stub(remote: Remote) -> WriteFile:
    """The hosts, and "jsr" beside them, for what reads the lock beside the stubs."""
    return WriteFile(path=HOSTS, content=json.dumps((*remote.hosts, *((jsr.INDEX,) if remote.jsr else ()))))


def fetched(stubs: Tree, name: str) -> Fetched | None:
    """The modules of the lock beside the stubs that are of the hosts there, and the list that our programs read.

    Of JSR its metadata, then, once that lies beside the stubs, the files that it names.
    Raises `BuildError` ManifestInvalid for a lock that pins one by no SHA-256.
    """
    if not stubs.has(LOCK) or not stubs.has(HOSTS):
        return None
    hosts = frozenset(json.loads(stubs.read_text(HOSTS)))
    lock = read_json(stubs, LOCK, LOCK_LIMIT, comments=False)
    pinned = table(lock, "remote")
    wanted: dict[str, WantedFile] = {}
    listed: list[dict[str, object]] = []

    def add(url: str, digest: str, index: str, package: str = "", **more: object) -> None:
        if len(listed) >= MODULES_MOST:
            raise BuildError("ManifestInvalid", f"{name} has more than {MODULES_MOST} modules", where=name)
        pin = f"sha256:{digest}"
        wanted.setdefault(
            digest, WantedFile(cache=CACHE, source=digest, path=digest, digest=pin, package=package, index=index)
        )
        integrity = "sha256-" + base64.b64encode(bytes.fromhex(digest)).decode()
        listed.append({"url": url, "path": digest, "integrity": integrity, "index": index, **more})

    if len(pinned) > MODULES_MOST:
        raise BuildError("ManifestInvalid", f"{name} has more than {MODULES_MOST} modules", where=name)
    for url, digest in pinned.items():
        if host_of(url) not in hosts:
            continue
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            message = f"{url[:200]} is pinned by {str(digest)[:40]!r}, not by a SHA-256"
            raise BuildError("ManifestInvalid", message, where=name, next="Write it again: deno install")
        add(url, digest, INDEX, url)
    if jsr.INDEX in hosts:
        releases = tuple(jsr.releases(lock, name))
        for one in releases:
            add(one.url, one.digest, jsr.INDEX, one.url, metadata=jsr.metadata_path(one))
        for one in releases:
            for file in jsr.files(stubs, one):
                add(file.url, file.digest, jsr.INDEX)
        listed += [{"url": url, "path": "", "text": text} for url, text in jsr.versions(releases)]
    return Fetched(wanted=tuple(wanted.values()), files=(WriteFile(path=LIST, content=json.dumps(listed)),))
