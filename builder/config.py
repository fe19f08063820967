"""Every setting, typed and frozen. The only module that reads the environment.

Precedence: flag (an argument of `load`), `IGNITE_BUILDER_<NAME>`, `$XDG_CONFIG_HOME/ignite-builder/config.toml`,
default. No file of the current folder is read: a checkout must not redirect a token (docs/cli.md).

A process that this program starts gets the loaded settings whole, as one value (`handed_over`), and reads nothing else.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from builder import indexes
from builder.errors import BuildError

PREFIX = "IGNITE_BUILDER_"
HANDED_OVER = PREFIX + "SETTINGS"
SECRET = "***"
REPORT_KEY_CHARACTERS = 16
MIB = 1024 * 1024

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
# A URL with a user (and maybe a password), and variables that exist to hold a secret (UV_INDEX_X_PASSWORD, GOAUTH).
CREDENTIAL_URL = re.compile(r"://[^/?#\s,|]*@")
CREDENTIAL_NAME = re.compile(r"PASSWORD|USERNAME|TOKEN|SECRET|AUTH")
NO_PROXY_VARIABLES = ("NO_PROXY", "no_proxy")
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
# A segment of repository names, and of folders of a node: nothing that leads out of either.
ORGANIZATION = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


# The time that something stays, in days.
Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]


class Token(BaseModel):
    """A bearer token: what it may do (`submit`, `read`, `worker`, `operate`), for whom, and for a worker as which
    node."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    token: str
    organization: str = ""
    scopes: tuple[str, ...] = ("submit", "read")
    node: str = ""

    @model_validator(mode="after")
    def _for_somebody(self) -> Token:
        """A client without an organization would reach the repositories and builds of all of them."""
        if self.organization or {"submit", "read"} & set(self.scopes):
            _organization(self.organization)
        return self


def _organization(name: str) -> str:
    if not ORGANIZATION.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no organization; it takes a-z and 0-9, with single . _ - between them")
    return name


class Settings(BaseModel):
    """All settings. Sizes are bytes, times ms, unless the name has another unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Who talks to whom
    server: str = Field("", description="URL of the control API; empty: commands do it in their own process")
    token: str = Field("", description="bearer token of this client or worker")
    listen: str = Field("127.0.0.1:8480", description="address the control API listens on")
    tokens: tuple[Token, ...] = Field((), description="bearer tokens the control API accepts")
    organization: str = Field("local", description="organization of builds without a server")
    # Where things are stored
    data_dir: str = Field("", description="records, sources, logs, artifacts of the control side")
    node_dir: str = Field("", description="work folders, caches, toolchains and bases of a build node")
    store_url: str = Field("", description="SQL database; default: SQLite in data_dir")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Celery's broker and the log stream")
    message_key: str = Field("", description="key of the HMAC over messages; the same on both sides")
    # Where artifacts go
    registry: str = Field("", description="host:port of the registry; empty: an OCI layout folder in data_dir")
    registry_insecure: bool = Field(False, description="plain HTTP to the registry (loopback is always plain)")
    registry_username: str = Field("", description="registry user")
    registry_password: str = Field("", description="registry password")
    repository_prefix: str = Field("", description="put before <organization>/<name> in the registry")
    private_registries: tuple[str, ...] = Field(
        (), description="registries of prebuilt images whose address is not public: host[:port], or * for any"
    )
    secrets_key_file: str = Field(
        "", description="keys that stored secrets are encrypted with; default: secrets.key in data_dir"
    )
    report_url: str = Field("", description="where VersionStatus reports are posted; empty: kept, not sent")
    report_token: str = Field("", description="bearer token of the report's receiver")
    start_check: Literal["off", "warn", "require"] = Field(
        "warn", description="start each artifact once beside its push; a build argument overrules it"
    )
    report_keys: tuple[str, ...] = Field(
        (), max_length=2, description="keys of the signatures of reports; a second one while they are rotated"
    )
    finalizers: int = Field(4, ge=1, description="builds that a control process attests and tags at once")
    # Build node
    node_id: str = Field("", description="identity of this node; default: the host's name")
    slots: int = Field(2, ge=1, description="builds at once on this node")
    queues: tuple[str, ...] = Field((), description="queues this node reads; default: each runtime's and compile.any")
    node_free_bytes: int = Field(
        512 * MIB, ge=0, description="bytes free on the disk of node_dir below which the node takes no builds"
    )
    node_free_inodes: int = Field(
        10_000, ge=0, description="inodes free on the disk of node_dir below which the node takes no builds"
    )
    build_uid: int = Field(61000, ge=1, description="first of the uids builds run as when the worker is root")
    unsandboxed: bool = Field(False, description="run build steps without a sandbox (never for strangers' code)")
    use_cgroups: bool = Field(True, description="use cgroups where they can be written; else rlimits")
    pipelines: tuple[str, ...] = Field((), description="modules with further pipelines")
    catalog: str = Field("", description="another runtimes/catalog.toml")
    default_versions: dict[str, str] = Field(
        default_factory=dict, description="runtime → version taken when none is asked for, over the catalog's"
    )
    # Limits of a build
    timeout_ms: int = Field(600_000, ge=1000, le=3_600_000)
    queue_timeout_ms: int = Field(3_600_000, ge=1000, le=86_400_000)
    memory_bytes: int = Field(2048 * MIB, ge=16 * MIB)
    cpus: float = Field(2.0, gt=0, allow_inf_nan=False)
    pids: int = Field(512, ge=8)
    disk_bytes: int = Field(4096 * MIB, ge=MIB)
    artifact_bytes: int = Field(1024 * MIB, ge=MIB, le=10240 * MIB)
    log_bytes: int = Field(10 * MIB, ge=64 * 1024, le=50 * MIB)
    upload_bytes: int = Field(512 * MIB, ge=MIB)
    inline_bytes: int = Field(4 * MIB, ge=1024)
    # Limits of the process that reads a build's source and output; over one it is the source's fault
    read_cpu_ms: int = Field(10_000, ge=1000, description="processor time of detection, plan, diagnosis, each")
    unpack_cpu_ms: int = Field(60_000, ge=1000, description="processor time of unpacking")
    read_ms: int = Field(120_000, ge=1000, description="time by the clock of each of them")
    read_memory_bytes: int = Field(
        512 * MIB, ge=64 * MIB, description="memory of that process beside what it begins with"
    )
    # What one organization may have at once, so that it cannot hold the API; a call beyond it is QuotaExceeded
    queued_builds: int = Field(20_000, ge=1, description="queued builds of an organization")
    open_uploads: int = Field(4, ge=1, description="uploads of an organization that a control process receives at once")
    kept_upload_bytes: int = Field(4096 * MIB, ge=MIB, description="uploads of an organization that no build names")
    log_streams: int = Field(100, ge=1, description="log streams of an organization in a control process")
    body_rate_bytes: int = Field(64 * 1024, ge=0, description="least rate of a body, a second, over 10 s; 0: any")
    bodies_bytes: int = Field(
        256 * MIB, ge=MIB, description="bodies in memory of a control process; an organization has a quarter"
    )
    # Clocks
    heartbeat_ms: int = Field(10_000, ge=50)
    lease_ms: int = Field(30_000, ge=200)
    drain_ms: int = Field(60_000, ge=0)
    stop_grace_ms: int = Field(10_000, ge=0)
    tick_ms: int = Field(1_000, ge=10, description="period of the reconciler")
    retry_backoff_ms: int = Field(2_000, ge=0, description="first delay after a platform failure; doubles")
    # How long what is not needed stays; a day may be a fraction
    keep_succeeded_days: Days = Field(90, description="succeeded builds with their logs")
    keep_failed_days: Days = Field(7, description="failed and cancelled builds with their logs")
    keep_tagged_builds: bool = Field(True, description="keep the record of a build that a current tag names, always")
    keep_cache_days: Days = Field(30, description="a cache entry, since its last answer")
    keep_reports_days: Days = Field(7, description="reports that were delivered")
    keep_nodes_days: Days = Field(7, description="a node that was not seen")
    keep_uploads_days: Days = Field(1, description="an upload that no build names")
    keep_attempt_tags_days: Days = Field(1, description="tags build-<id>-<attempt>, after the build's end")
    retention_ms: int = Field(3_600_000, ge=10, description="period of the loop that deletes what is past its time")
    # What the machine's package clients use
    index_env: dict[str, str] = Field(default_factory=dict, description="package index variables of build steps")
    ca_bundle: str = Field("", description="CA bundle that fetch steps trust")
    upstream_proxy: str = Field("", description="HTTP proxy that the egress proxy goes through")
    no_proxy: tuple[str, ...] = Field((), description="hosts it reaches by itself; as NO_PROXY: a domain, CIDR or *")
    # Faults, for tests
    crash_at: str = Field("", description="label at which this process kills itself with SIGKILL")

    @field_validator("organization")
    @classmethod
    def _is_an_organization(cls, value: str) -> str:
        return _organization(value)

    @field_validator("server", "report_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        if value:
            _check_url(value)
        return value

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        address_of(value)
        return value

    @field_validator("report_keys")
    @classmethod
    def _are_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """A signature by a key that can be guessed proves nothing."""
        for number, key in enumerate(value, 1):
            if len(key) < REPORT_KEY_CHARACTERS:
                raise ValueError(f"key {number} is too short; it takes {REPORT_KEY_CHARACTERS} characters or more")
        return value

    @field_validator("tokens")
    @classmethod
    def _each_once(cls, value: tuple[Token, ...]) -> tuple[Token, ...]:
        """A token in two rows would belong to whichever of them is looked up first."""
        first: dict[str, int] = {}
        for number, row in enumerate(value, 1):
            if not row.token:
                raise ValueError(f"row {number} has an empty token")
            if row.token in first:
                raise ValueError(f"rows {first[row.token]} and {number} have the same token: give each row its own")
            first[row.token] = number
        return value

    @field_validator("index_env")
    @classmethod
    def _without_credentials(cls, value: dict[str, str]) -> dict[str, str]:
        """These variables are the environment of build code, which may be anybody's."""
        for name, text in value.items():
            if CREDENTIAL_URL.search(text) or CREDENTIAL_NAME.search(name.upper()):
                raise ValueError(
                    f"{name} holds credentials, which build code could read: "
                    f"name an index that asks for none, such as a mirror of yours that adds them (docs/operators.md)"
                )
        return value

    @property
    def database(self) -> str:
        return self.store_url or f"sqlite:///{Path(self.data_dir) / 'builder.db'}"

    def prefix_of(self, organization: str) -> str:
        """Where the repositories of an organization begin."""
        return "/".join(part for part in (self.repository_prefix, organization) if part)

    @property
    def secrets_key(self) -> Path:
        return Path(self.secrets_key_file or Path(self.data_dir) / "secrets.key")

    def queue_list(self, runtimes: tuple[str, ...]) -> tuple[str, ...]:
        return self.queues or (*(f"compile.{name}" for name in runtimes), "compile.any")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The settings and where each came from (`flag`, a variable's name, a file, `default`)."""

    settings: Settings
    origins: Mapping[str, str]

    def describe(self) -> tuple[tuple[str, str, str], ...]:
        """Rows (name, value, origin); what may hold a secret shows as `***`, of a URL only its credentials."""
        rows = []
        for name in Settings.model_fields:
            value = getattr(self.settings, name)
            shown = _without_secrets(name, value) if value else str(value)
            rows.append((name, shown, self.origins.get(name, "default")))
        return tuple(rows)


def _without_secrets(name: str, value: object) -> str:
    if any(word in name for word in ("token", "password", "message_key", "report_keys", "index_env")):
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


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read flag, environment, file and default, in this order of precedence; settings that were handed over replace
    the last three.

    Raises `BuildError` InvalidRequest for an unknown key (with the nearest known one) or a value of the wrong shape.
    """
    handed = environ.get(HANDED_OVER)
    sources = (_handed(handed),) if handed else (_defaults(environ), _file(environ), _environment(environ))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, origin in sources:
        for key, value in source.items():
            values[key] = value
            origins[key] = origin.get(key, "") if isinstance(origin, dict) else origin
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origins[key] = value, "flag"
    for key in values:
        if key not in Settings.model_fields:
            near = difflib.get_close_matches(key, Settings.model_fields, 1)
            hint = f'; is "{near[0]}" meant?' if near else ""
            raise BuildError("InvalidRequest", f"{key} is not a setting{hint}", where=origins[key])
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        message = f"{name}: {_words_of(first)}"
        raise BuildError("InvalidRequest", message, where=origins.get(name, name)) from None
    return Loaded(settings=settings, origins=origins)


_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}
_TAKES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
}


def _words_of(error: Mapping[str, Any]) -> str:
    """What a setting takes, in words of ours: those of the validator are about its types."""
    kind, context, place = str(error["type"]), error.get("ctx", {}), ".".join(map(str, error["loc"][1:]))
    at = f"{place}: " if place else ""
    if kind == "value_error":
        return at + str(error["msg"]).removeprefix("Value error, ")
    if bound := next((text.format(f"{context[name]:.12g}") for name, text in _BOUNDS.items() if name in context), ""):
        return f"{at}it takes {bound}"
    if kind == "literal_error":
        return f"{at}it takes {str(context['expected']).replace(chr(39), '')}"
    if kind in ("missing", "extra_forbidden"):
        return f"{at}{'it is needed' if kind == 'missing' else 'there is no such field'}"
    return f"{at}it takes {_TAKES.get(kind.partition('_')[0], 'another value')}"


Source = tuple[dict[str, Any], "str | dict[str, str]"]


def _defaults(environ: Mapping[str, str]) -> Source:
    """Defaults that depend on the machine. The build user cannot enter root's home, so nodes live below /var."""
    home = Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/")) / ".local/share") / "ignite-builder"
    is_root = os.geteuid() == 0
    values: dict[str, Any] = {
        "data_dir": str(home),
        "node_dir": "/var/lib/ignite-builder" if is_root else str(home / "node"),
        "node_id": os.uname().nodename,
        "index_env": _index_env(environ),
        "ca_bundle": next((environ[name] for name in CA_VARIABLES if environ.get(name)), ""),
        "upstream_proxy": next((environ[name] for name in PROXY_VARIABLES if environ.get(name)), ""),
        "no_proxy": _words(next((environ[name] for name in NO_PROXY_VARIABLES if environ.get(name)), "")),
    }
    return values, "default"


def _words(text: str) -> tuple[str, ...]:
    """The words of a list with commas or blanks, as programs read NO_PROXY."""
    return tuple(text.replace(",", " ").split())


def _index_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The index settings of the machine's own clients, of every runtime: a sandbox's environment starts empty."""
    return {name: text for one in indexes.shipped().values() for name, text in one.from_machine(environ).items()}


def _file(environ: Mapping[str, str]) -> Source:
    base = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    path = Path(environ.get(PREFIX + "CONFIG") or base / "ignite-builder" / "config.toml")
    if not path.is_file():
        return {}, ""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BuildError("InvalidRequest", f"the settings file cannot be read: {error}", where=str(path)) from None


def _environment(environ: Mapping[str, str]) -> Source:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    hints = get_type_hints(Settings)
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or name == "config":
            continue
        if name.endswith("_file") and name.removesuffix("_file") in Settings.model_fields:
            name = name.removesuffix("_file")
            content = Path(text).read_text(encoding="utf-8").strip()
            values[name] = tuple(content.split()) if hints.get(name) == tuple[str, ...] else content
        else:
            values[name] = _from_text(hints.get(name), text)
        origins[name] = variable
    return values, origins


def _from_text(hint: object, text: str) -> Any:
    """Lists are comma-separated; structured settings are TOML values (`[{token="…", scopes=["read"]}]`)."""
    if hint == tuple[str, ...]:
        return tuple(part for part in text.split(",") if part)
    if hint in (tuple[Token, ...], dict[str, str]):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def new_secret() -> str:
    """A fresh random token (256 bits, URL-safe)."""
    return secrets.token_urlsafe(32)


@contextmanager
def handed_over(settings: Settings) -> Iterator[dict[str, str]]:
    """The environment of a process of ours that is to have exactly these settings, for as long as this is open.

    The settings lie in memory of this process and on no disk. The variable names the place, so the other's environment
    holds no secret, and a worker that restarts itself (SIGHUP, which closes every descriptor) finds them again.
    Variables of the machine (PATH, proxies, CA) go on as they are.
    """
    descriptor = os.memfd_create("ignite-builder-settings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "wb", buffering=0) as memory:
        os.fchmod(descriptor, 0o600)
        memory.write(settings.model_dump_json().encode())
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        yield env | {HANDED_OVER: f"/proc/{os.getpid()}/fd/{descriptor}"}


def _handed(place: str) -> Source:
    """All settings of the process that started this one."""
    try:
        text = Path(place).read_bytes()
        values = Settings.model_validate_json(text)
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are not whole"
        message = f"the settings that this process was started with cannot be read: {why}"
        step = f"Unset {HANDED_OVER} to read the settings file and the environment."
        raise BuildError("InvalidRequest", message, where=HANDED_OVER, next=step) from None
    missing = set(Settings.model_fields) - values.model_fields_set
    if missing:
        message = f"the settings that this process was started with lack {', '.join(sorted(missing))}"
        step = "Both processes must be of the same version."
        raise BuildError("InvalidRequest", message, where=HANDED_OVER, next=step)
    return {name: getattr(values, name) for name in Settings.model_fields}, HANDED_OVER
