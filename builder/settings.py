"""The settings: every one, typed, frozen, with its default and its bounds. `builder/config.py` reads them.

msgspec stands for the types: a program that ends in half a second has no time to build a larger library's schemas.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from builder.errors import BuildError

SECRET = "***"
REPORT_KEY_CHARACTERS = 16
MIB = 1024 * 1024

# A URL with a user (and maybe a password), and variables that exist to hold a secret (UV_INDEX_X_PASSWORD, GOAUTH).
CREDENTIAL_URL = re.compile(r"://[^/?#\s,|]*@")
CREDENTIAL_NAME = re.compile(r"PASSWORD|USERNAME|TOKEN|SECRET|AUTH")
# A segment of repository names, and of folders of a node: nothing that leads out of either.
ORGANIZATION = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")

# A segment of the paths that drain and forget a node.
NODE_ID = re.compile(r"[A-Za-z0-9][!-.0-~]{0,199}")
NODE_ID_TAKES = "1 to 200 printable ASCII characters without a slash, a letter or digit first"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::([0-9]{1,5}))?")
_REGISTRY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?")
_ADDRESS = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*")  # of IPv6, without brackets
_PREFIX = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9!_.*'()-]+)*/?")
_BY_DIGEST = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_ENGINE = re.compile(r"unix:///[^\s]+|tcp://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?:([0-9]{1,5})")
_TOLERATION = re.compile(r"[\w./-]+(?:=[\w.-]*)?(?::(?:NoSchedule|PreferNoSchedule|NoExecute))?")

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Mebibytes = Annotated[int, Meta(ge=MIB)]
ReadMs = Annotated[int, Meta(ge=1000)]
Slots = Annotated[int, Meta(ge=1, le=4096)]
"""As many as a node may register."""
Days = Annotated[float, Meta(gt=0, le=36_500)]
"""How long something stays; a day may be a fraction."""


SCOPES = ("submit", "read", "worker", "watch", "operate")


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bearer token: what it may do (`submit`, `read`, `worker`, `watch`, `operate`), for whom, and for a worker or
    watcher as which node."""

    token: str
    organization: str = ""
    scopes: tuple[str, ...] = ("submit", "read")
    node: str = ""


class JobLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Jobs of an organization push and pull with: it should open the repositories of that organization alone."""

    organization: str
    username: str
    password: str


class JobResources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Job of an organization may use; what a row leaves out is that of all. `timeout_ms` is the most of a Job:
    what is left of its build's own time ends it, too."""

    organization: str
    cpus: Annotated[float, Meta(gt=0, le=4096)] | None = None
    memory_bytes: Annotated[int, Meta(ge=16 * MIB)] | None = None
    disk_bytes: Mebibytes | None = None
    timeout_ms: Annotated[int, Meta(ge=1000, le=3_600_000)] | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Sizes are bytes, times ms, unless the name has another unit. Made by `validated`: the constructor
    checks nothing."""

    # Who talks to whom
    server: str = ""  # URL of the control API; empty: commands do it in their own process
    token: str = ""  # bearer token of this client or worker
    listen: str = "127.0.0.1:8480"  # address the control API listens on
    # URL of the control API as Jobs reach it, to fetch their sources; default: http://<listen>
    public_url: str = ""
    tokens: tuple[Token, ...] = ()  # bearer tokens the control API accepts
    organization: str = "local"  # organization of builds without a server
    # Where things are stored
    data_dir: str = ""  # records, sources, logs, artifacts of the control side
    node_dir: str = ""  # work folders, caches, toolchains and bases of a build node
    store_url: str = ""  # SQL database; default: SQLite in data_dir
    source_store: str = ""  # s3://BUCKET[/PREFIX]; empty: a folder in data_dir
    # bytes free on the disk of that folder below which no source is received
    source_free_bytes: Natural = 1024 * MIB
    s3_endpoint: str = ""  # URL of the S3 server; empty: that of AWS
    s3_region: str = ""  # its region; empty: as boto3 finds it
    redis_url: str = "redis://127.0.0.1:6379/0"  # Celery's broker and the log stream
    message_key: str = ""  # key of the HMAC over messages; the same on both sides
    # Where artifacts go
    registry: str = ""  # host:port of the registry; empty: an OCI layout folder in data_dir
    registry_insecure: bool = False  # plain HTTP to the registry (loopback is always plain)
    registry_username: str = ""  # registry user
    registry_password: str = ""  # registry password
    repository_prefix: str = ""  # put before <organization>/<name> in the registry
    # registries of prebuilt images whose address is not public: host[:port], or * for any
    private_registries: tuple[str, ...] = ()
    # git hosts whose address is not public: host[:port], or * for any
    git_hosts: tuple[str, ...] = ()
    # file with the keys of git hosts over SSH, for secrets that have none; lines of ssh-keyscan
    git_known_hosts: str = ""
    import_hosts: tuple[str, ...] = ()  # hosts that `https:` imports of Deno may name: host[:port]
    secrets_key_file: str = ""  # keys that stored secrets are encrypted with; default: secrets.key in data_dir
    report_url: str = ""  # where VersionStatus reports are posted; empty: stored, not sent
    report_token: str = ""  # bearer token of the report's receiver
    # start each artifact once beside its push; a build argument overrules it
    start_check: Literal["off", "warn", "require"] = "warn"
    # keys of the signatures of reports; a second one while they are rotated
    report_keys: Annotated[tuple[str, ...], Meta(max_length=2)] = ()
    finalizers: Count = 4  # builds that a control process attests and tags at once
    # Build node
    node_id: str = ""  # identity of this node; default: the host's name
    slots: Slots = 2  # builds at once on this node
    # queues this node reads; default: each runtime's and compile.any, with docker_host also image
    queues: tuple[str, ...] = ()
    # bytes that an image may unpack into: a base or a toolchain of this node, or one that `run` starts
    unpacked_image_bytes: Mebibytes = 16_384 * MIB
    node_free_bytes: Natural = 512 * MIB  # bytes free on the disk of node_dir below which the node takes no builds
    node_free_inodes: Natural = 10_000  # inodes free on the disk of node_dir below which the node takes no builds
    node_disk_bytes: Natural = 51_200 * MIB  # that bases, toolchains and caches of node_dir may take; 0: any number
    build_uid: Count = 61000  # first of the uids builds run as when the worker is root
    unsandboxed: bool = False  # run build steps without a sandbox (never for strangers' code)
    # what ends a build's writing at disk_bytes: the watch, or with `loop` a file system of its own as well (as root)
    disk_fence: Literal["off", "loop"] = "off"
    use_cgroups: bool = True  # use cgroups where they can be written; else rlimits
    pipelines: tuple[str, ...] = ()  # modules with further pipelines
    catalog: str = ""  # another runtimes/catalog.toml
    # get a toolchain that is not on this node when a build needs it, inside its time limit
    fetch_toolchains: bool = False
    # runtime → version used when none is asked for, over the catalog's
    default_versions: dict[str, str] = msgspec.field(default_factory=dict)
    # Limits of a build
    timeout_ms: Annotated[int, Meta(ge=1000, le=3_600_000)] = 600_000
    queue_timeout_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 3_600_000
    memory_bytes: Annotated[int, Meta(ge=16 * MIB)] = 2048 * MIB
    cpus: Annotated[float, Meta(gt=0, le=4096)] = 2.0
    pids: Annotated[int, Meta(ge=8)] = 512
    disk_bytes: Mebibytes = 4096 * MIB
    artifact_bytes: Annotated[int, Meta(ge=MIB, le=10240 * MIB)] = 1024 * MIB
    log_bytes: Annotated[int, Meta(ge=64 * 1024, le=50 * MIB)] = 10 * MIB
    upload_bytes: Mebibytes = 512 * MIB
    inline_bytes: Annotated[int, Meta(ge=1024)] = 4 * MIB
    # Limits of the process that reads a build's source and output; over one it is the source's fault
    read_cpu_ms: ReadMs = 10_000  # processor time of detection, plan, diagnosis, each
    unpack_cpu_ms: ReadMs = 60_000  # processor time of unpacking
    read_ms: ReadMs = 120_000  # time by the clock of each of them
    # memory of that process beside what it begins with
    read_memory_bytes: Annotated[int, Meta(ge=64 * MIB)] = 512 * MIB
    # What one organization may have at once, so that it cannot hold the API; a call beyond it is QuotaExceeded
    queued_builds: Count = 20_000  # queued builds of an organization
    running_jobs: Count = 100  # image builds of an organization at work in a cluster; others wait in the queue
    open_uploads: Count = 4  # uploads of an organization that a control process receives at once
    kept_upload_bytes: Mebibytes = 4096 * MIB  # uploads of an organization that no build names
    log_streams: Count = 100  # log streams of an organization in a control process
    body_rate_bytes: Natural = 64 * 1024  # least rate of a body, a second, over 10 s; 0: any
    bodies_bytes: Mebibytes = 256 * MIB  # bodies in memory of a control process; an organization has a quarter
    # Clocks
    heartbeat_ms: Annotated[int, Meta(ge=50)] = 10_000
    lease_ms: Annotated[int, Meta(ge=200)] = 30_000
    drain_ms: Natural = 60_000
    stop_grace_ms: Natural = 10_000
    tick_ms: Annotated[int, Meta(ge=10)] = 1_000  # period of the reconciler
    retry_backoff_ms: Natural = 2_000  # first delay after a platform failure; doubles
    # How long what is not needed stays; a day may be a fraction
    keep_succeeded_days: Days = 90  # succeeded builds with their logs
    keep_failed_days: Days = 7  # failed and cancelled builds with their logs
    keep_tagged_builds: bool = True  # keep the record of a build that a current tag names, always
    keep_cache_days: Days = 30  # a cache entry, since its last answer
    keep_reports_days: Days = 7  # reports that were delivered
    keep_nodes_days: Days = 7  # a node that was not seen
    keep_uploads_days: Days = 1  # an upload that no build names
    keep_attempt_tags_days: Days = 1  # tags build-<id>-<attempt>, after the build's end
    retention_ms: Annotated[int, Meta(ge=10)] = 3_600_000  # period of the loop that deletes what is past its time
    # What the machine's package clients use
    index_env: dict[str, str] = msgspec.field(default_factory=dict)  # package index variables of build steps
    ca_bundle: str = ""  # CA bundle of indexes, git hosts, registries, server, receiver of reports
    upstream_proxy: str = ""  # HTTP proxy that the egress proxy goes through
    no_proxy: tuple[str, ...] = ()  # hosts it reaches by itself; as NO_PROXY: a domain, CIDR or *
    # Image builds as Jobs of Kubernetes; images are named by digest
    kubeconfig: str = ""  # file that names the cluster; empty: the one that this process runs in
    kube_context: str = ""  # its context, where that is not the current one
    kaniko_namespace: str = "ignite-kaniko"  # namespace of Dockerfile builds, for them alone
    kaniko_executor: str = ""  # image of Kaniko's executor
    dockerfile_from_allowed: tuple[str, ...] = ("*",)  # images that a Dockerfile may name, as globs of references
    buildpacks_namespace: str = "ignite-buildpacks"  # namespace of buildpacks builds
    buildpacks_builder: str = ""  # builder image of Cloud Native Buildpacks, its user not root
    buildpacks_run_image: str = ""  # what apps of buildpacks are put on
    buildpacks_arguments: tuple[str, ...] = ("BP_*",)  # build arguments and variables that buildpacks get, as globs
    fetch_image: str = ""  # image of the program that brings the source into a Job
    job_node_selector: dict[str, str] = msgspec.field(default_factory=dict)  # labels of the nodes that run builds
    job_tolerations: tuple[str, ...] = ()  # taints that builds tolerate: key, key=value, each with :effect or without
    job_runtime_class: str = ""  # RuntimeClass of builds, such as one of gVisor or Kata
    job_priority_class: str = ""  # PriorityClass of builds
    job_pull_secret: str = ""  # Secret with which these images are pulled
    # login with which Jobs push: code of the source can read it; empty: none
    job_registry_username: str = ""
    job_registry_password: str = ""  # its password
    job_registry_logins: tuple[JobLogin, ...] = ()  # in its place, one for each organization; no other then builds
    # cpus, memory_bytes, disk_bytes and timeout_ms of Jobs of an organization, in the place of those of all
    job_resources: tuple[JobResources, ...] = ()
    kaniko_cache: bool = True  # cached layers of RUN, in a repository of each organization
    # Docker engine that builds Dockerfiles where no cluster is configured, for `organization` alone and with its own
    # privileges: unix:///var/run/docker.sock or tcp://HOST:PORT
    docker_host: str = ""
    # Faults, for tests
    crash_at: str = ""  # label at which this process kills itself with SIGKILL

    def replace(self, **values: Any) -> Settings:
        """The same settings but for these values, unchecked."""
        return msgspec.structs.replace(self, **values)

    @property
    def database(self) -> str:
        return self.store_url or f"sqlite:///{posixpath.join(self.data_dir, 'builder.db')}"

    def prefix_of(self, organization: str) -> str:
        """Where the repositories of an organization begin."""
        return "/".join(part for part in (self.repository_prefix, organization) if part)

    @property
    def api_url(self) -> str:
        """Where Jobs reach the control API; empty where `listen` names no host and port."""
        host, port = address_of(self.listen)
        return self.public_url.rstrip("/") or ("" if host == "0.0.0.0" or not port else f"http://{host}:{port}")

    @property
    def secrets_key(self) -> str:
        """The key file of stored secrets."""
        return self.secrets_key_file or posixpath.join(self.data_dir, "secrets.key")

    def queue_list(self, runtimes: tuple[str, ...]) -> tuple[str, ...]:
        """The queues that a node reads; with an engine also that of images."""
        engine = ("image",) if self.docker_host else ()
        return self.queues or (*(f"compile.{name}" for name in runtimes), "compile.any", *engine)


NAMES = Settings.__struct_fields__


def validated(values: Mapping[str, Any]) -> Settings:
    """The settings of these values, text where a number or a truth value is meant. Raises ValueError, whose text begins
    with the setting's name; it repeats no value that may be a secret."""
    try:
        settings = msgspec.convert(dict(values), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(_words_of(str(error))) from None
    for name, check in _CHECKS.items():
        try:
            check(getattr(settings, name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return settings


def _check_organization(name: str) -> None:
    if not ORGANIZATION.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no organization; it takes a-z and 0-9, with single . _ - between them")


def _check_tokens(rows: tuple[Token, ...]) -> None:
    """A token in two rows would belong to whichever of them is looked up first; a client without an organization would
    reach the repositories and builds of all of them. One that no header can carry, or without a scope that a call
    asks for, would be refused each time."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if not row.token:
            raise ValueError(f"row {number} has an empty token")
        if not _BEARER.fullmatch(row.token):
            raise ValueError(f"row {number}: a token {_BEARER_TAKES}")
        for scope in row.scopes:
            if scope not in SCOPES:
                raise ValueError(f"row {number}: {scope[:80]!r} is no scope; it takes {', '.join(SCOPES)}")
        if row.node and not NODE_ID.fullmatch(row.node):
            raise ValueError(f"row {number}: {row.node[:80]!r} is no node; it takes {NODE_ID_TAKES}")
        if row.token in first:
            raise ValueError(f"rows {first[row.token]} and {number} have the same token: give each row its own")
        first[row.token] = number
        if row.organization or {"submit", "read"} & set(row.scopes):
            _check_organization(row.organization)


def _check_job_registry_logins(rows: tuple[JobLogin, ...]) -> None:
    _check_one_row_each(rows)
    for number, row in enumerate(rows, 1):
        if not row.username or not row.password:
            raise ValueError(f"row {number} has an empty {'password' if row.username else 'username'}")


def _check_one_row_each(rows: Iterable[JobLogin | JobResources]) -> None:
    """Each row is of another organization."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        try:
            _check_organization(row.organization)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
        if row.organization in first:
            raise ValueError(f"rows {first[row.organization]} and {number} are of the same organization")
        first[row.organization] = number


def _check_report_keys(keys: tuple[str, ...]) -> None:
    """A signature by a key that can be guessed proves nothing."""
    for number, key in enumerate(keys, 1):
        if len(key) < REPORT_KEY_CHARACTERS:
            raise ValueError(f"key {number} is too short; it takes {REPORT_KEY_CHARACTERS} characters or more")


def _check_index_env(variables: dict[str, str]) -> None:
    """These variables are the environment of build code, which may be anybody's."""
    for name, text in variables.items():
        if CREDENTIAL_URL.search(text) or CREDENTIAL_NAME.search(name.upper()):
            raise ValueError(
                f"{name} holds credentials, which build code could read: "
                f"name an index that asks for none, such as a mirror of yours that adds them (docs/operators.md)"
            )


def _check_import_hosts(hosts: tuple[str, ...]) -> None:
    for host in hosts:
        if not (found := _HOST.fullmatch(host)) or int(found[1] or 443) > 65535:
            raise ValueError(f"{host[:80]!r} is no host; it takes HOST or HOST:PORT, such as files.example.org")


def _check_listed(hosts: tuple[str, ...]) -> None:
    """What no host equals opens nothing, and nobody notices."""
    for host in hosts:
        if host != "*" and not _ADDRESS.fullmatch(host) and not _is_registry(host):
            raise ValueError(f"{host[:80]!r} is no host; it takes HOST, HOST:PORT or *, such as git.example.org")


def _is_registry(host: str) -> bool:
    found = _REGISTRY.fullmatch(host)
    return found is not None and int(found[1] or 443) <= 65535


def _check_registry(host: str) -> None:
    """It is a part of each reference, which has neither a scheme nor a folder in front of the repository."""
    if host and not _is_registry(host):
        shown = without_credentials(host)[:80]
        raise ValueError(
            f"{shown!r} is no registry; it takes HOST or HOST:PORT, such as registry.example.com, "
            "and what stands in front of repositories is repository_prefix"
        )


def _check_prefix(prefix: str) -> None:
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"{prefix[:80]!r} begins no repository; it takes a-z and 0-9, with single . _ - or / between them"
        )


def _check_path(path: str) -> None:
    """No shell has read it, so `~` would be the name of a folder."""
    if path.startswith("~") or "\0" in path:
        raise ValueError(f"{path[:80]!r} is no path here; it takes the whole one, such as /home/me/file")


def _check_image(reference: str) -> None:
    """A tag may name another image tomorrow."""
    if reference and not _BY_DIGEST.fullmatch(reference):
        raise ValueError("it takes an image by digest: host/repository@sha256:…")


def _check_tolerations(rows: tuple[str, ...]) -> None:
    for number, row in enumerate(rows, 1):
        if not _TOLERATION.fullmatch(row):
            raise ValueError(f"row {number}: it takes key, key=value, key:effect or key=value:effect")


def _check_docker_host(host: str) -> None:
    """The socket of this machine, or an engine over TCP without TLS: the way to one over a network is a tunnel."""
    if host and (not (found := _ENGINE.fullmatch(host)) or int(found[1] or 0) > 65535):
        raise ValueError("it takes unix:///PATH/OF/SOCKET or tcp://HOST:PORT")


def _check_bearer(token: str) -> None:
    """It travels in a header, which takes no other character."""
    if token and not _BEARER.fullmatch(token):
        raise ValueError(f"it {_BEARER_TAKES}")


def _check_optional_url(url: str) -> None:
    if url:
        _check_url(url)


def _check_source_store(text: str) -> None:
    if text and not _BUCKET.fullmatch(text):
        raise ValueError("it takes s3://BUCKET or s3://BUCKET/PREFIX")


_BEARER = re.compile(r"[!-~]+")
_BEARER_TAKES = "takes printable ASCII characters alone, and no blank"
_TAKES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "array": "a list"}
_TAKES |= dict.fromkeys(("object", "dict"), "a table")
_BOUNDS = {">=": "{} or more", ">": "more than {}", "<=": "{} or less", "<": "less than {}"}
_PLACE = re.compile(r" - at `\$(?P<place>[^`]*)`$")
_EXPECTED = re.compile(r"Expected `(?P<kind>\w+)[^`]*`(?P<more>.*)", re.DOTALL)
_FIELD = re.compile(r"Object (?P<fault>missing required|contains unknown) field `(?P<field>[^`]*)`")


def _words_of(error: str) -> str:
    """What a setting takes, in words of ours: those of the validator are about its types."""
    at = _PLACE.search(error)
    text = error[: at.start()] if at else error
    name, *inner = [part for part in re.split(r"[.\[\]]+", at["place"] if at else "") if part]
    start = "".join(f"row {int(part) + 1}: " if part.isdecimal() else f"{part}: " for part in inner)
    if field := _FIELD.match(text):
        fault = "it is needed" if field["fault"][0] == "m" else "there is no such field"
        return f"{name}: {start}{field['field']}: {fault}"
    if not (expected := _EXPECTED.match(text)):
        choices = get_args(get_type_hints(Settings).get(name)) or ("a value", "another")
        return f"{name}: {start}it takes {', '.join(map(str, choices[:-1]))} or {choices[-1]}"
    for sign, words in _BOUNDS.items():
        if bound := re.search(rf"(?<![<>=]){re.escape(sign)} (-?[\d.e+]+)", expected["more"]):
            long = "of a length " if "length" in expected["more"] else ""
            return f"{name}: {start}it takes {long}{words.format(f'{float(bound[1]):.12g}')}"
    return f"{name}: {start}it takes {_TAKES.get(expected['kind'], 'another value')}"


_SECRETS = ("token", "password", "message_key", "report_keys", "index_env", "job_registry_logins")


def shown(name: str, value: object) -> str:
    """A value for a person: what may hold a secret is `***`, of a URL only its credentials."""
    if any(word in name for word in _SECRETS) and value:
        return SECRET
    if name.endswith("_url") or name in ("server", "upstream_proxy"):
        return without_credentials(str(value))
    return str(value)


def without_credentials(url: str) -> str:
    """A URL whose user, password and values of the query show as `***`. Where it is ambiguous, more is hidden."""
    scheme, colon, rest = url.partition("://") if "://" in url else ("", "", url)
    _, at, place = rest.rpartition("@")  # the last one: drivers allow a password with @, / and ? in it
    place, question, query = place.partition("?")
    pairs = (pair.rpartition("=") if "=" not in pair else pair.partition("=") for pair in query.split("&"))
    hidden = "&".join(name + equals + SECRET for name, equals, _ in pairs)
    return scheme + colon + (SECRET + at if at else "") + place + (question + hidden if query else "")


def _check_url(url: str, schemes: tuple[str, ...] = ("http", "https")) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{without_credentials(url)} is no URL: {error}") from None
    if parts.scheme not in schemes or not host:
        forms = " or ".join(f"{scheme}://HOST[:PORT]" for scheme in schemes)
        raise ValueError(f"{without_credentials(url)} is no URL of the form {forms}")
    if any(letter <= " " or letter == "\x7f" for letter in url):
        raise ValueError(f"{without_credentials(url)!r} has a blank or a line end, which no URL has")
    if port is None and parts.netloc.endswith(":"):
        raise ValueError(f"{without_credentials(url)} has a colon and no port after it")


def check_redis_url(url: str) -> None:
    """Raises `BuildError` InvalidRequest for a broker that cannot be one: whoever needs it calls this at its start."""
    try:
        _check_url(url, ("redis", "rediss"))
    except ValueError as error:
        raise BuildError("InvalidRequest", f"redis_url: {error}", where="redis_url") from None


def address_of(text: str) -> tuple[str, int]:
    """(host, port) of "host:port" or ":port" (loopback). Raises `ValueError` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text[:80]!r} is no address of the form HOST:PORT, such as 127.0.0.1:8480")
    return host or "127.0.0.1", int(port)


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "organization": _check_organization,
    "server": _check_optional_url,
    "token": _check_bearer,
    "report_url": _check_optional_url,
    "report_token": _check_bearer,
    "public_url": _check_optional_url,
    "s3_endpoint": _check_optional_url,
    "source_store": _check_source_store,
    "listen": address_of,
    "report_keys": _check_report_keys,
    "tokens": _check_tokens,
    "registry": _check_registry,
    "repository_prefix": _check_prefix,
    "private_registries": _check_listed,
    "git_hosts": _check_listed,
    **dict.fromkeys(
        ("data_dir", "node_dir", "catalog", "ca_bundle", "kubeconfig", "git_known_hosts", "secrets_key_file"),
        _check_path,
    ),
    "job_registry_logins": _check_job_registry_logins,
    "job_resources": _check_one_row_each,
    "index_env": _check_index_env,
    "import_hosts": _check_import_hosts,
    "kaniko_executor": _check_image,
    "fetch_image": _check_image,
    "buildpacks_builder": _check_image,
    "buildpacks_run_image": _check_image,
    "job_tolerations": _check_tolerations,
    "docker_host": _check_docker_host,
}
