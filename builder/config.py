"""Where settings come from. The only module that reads the environment; `builder/settings.py` has their shapes.

Precedence: flag (an argument of `load`), `IGNITE_BUILDER_<NAME>`, `$XDG_CONFIG_HOME/ignite-builder/config.toml`,
default. No file of the current folder is read: a checkout must not redirect a token (docs/cli.md).

A process that this program starts gets the loaded settings whole, as one value (`handed_over`), and reads nothing else.
"""

from __future__ import annotations

import difflib
import fcntl
import functools
import os
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from builder import indexes
from builder.errors import BuildError
from builder.settings import NAMES, Settings, shown, validated

PREFIX = "IGNITE_BUILDER_"
HANDED_OVER = PREFIX + "SETTINGS"
MOST_BYTES = 1024 * 1024
"""The most that a settings file has, or one that a variable names."""

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian and kin, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora and kin
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
"""Where a machine keeps whom it trusts: with what its operator has added, which no image and no library has."""
NO_PROXY_VARIABLES = ("NO_PROXY", "no_proxy")
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The settings and where each came from (`flag`, a variable's name, a file, `default`)."""

    settings: Settings
    origins: Mapping[str, str]

    def describe(self) -> tuple[tuple[str, str, str], ...]:
        """Rows (name, value, origin); what may hold a secret shows as `***`, of a URL only its credentials."""
        return tuple(
            (name, shown(name, getattr(self.settings, name)), self.origins.get(name, "default")) for name in NAMES
        )


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
        if key not in NAMES:
            near = difflib.get_close_matches(key, NAMES, 1)
            hint = f'; is "{near[0]}" meant?' if near else ""
            raise BuildError("InvalidRequest", f"{key} is not a setting{hint}", where=origins[key])
    try:
        settings = validated(values)
    except ValueError as error:
        name = str(error).partition(":")[0]
        raise BuildError("InvalidRequest", str(error), where=origins.get(name, name)) from None
    if (
        not handed and settings.ca_bundle and not os.path.isfile(settings.ca_bundle)
    ):  # also where this user may not look
        message = f"ca_bundle: {settings.ca_bundle} is no file that can be seen"
        raise BuildError("InvalidRequest", message, where=origins["ca_bundle"])
    return Loaded(settings=settings, origins=origins)


SettingsSource = tuple[dict[str, Any], "str | dict[str, str]"]


def _bundles(environ: Mapping[str, str]) -> Iterator[str]:
    """Where a bundle may be; a variable that names no file is nobody's wish."""
    yield from (environ[name] for name in CA_VARIABLES if environ.get(name))
    yield from CA_FILES


def _defaults(environ: Mapping[str, str]) -> SettingsSource:
    """Defaults that depend on the machine. The build user cannot enter root's home, so nodes live below /var."""
    home = Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/")) / ".local/share") / "ignite-builder"
    is_root = os.geteuid() == 0
    values: dict[str, Any] = {
        "data_dir": str(home),
        "node_dir": "/var/lib/ignite-builder" if is_root else str(home / "node"),
        "node_id": os.uname().nodename,
        "index_env": _index_env(environ),
        "ca_bundle": next((path for path in _bundles(environ) if os.path.isfile(path)), ""),
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


def _file(environ: Mapping[str, str]) -> SettingsSource:
    """The settings file. One that a variable names has to be there; that of the user's folder may be absent."""
    base = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    named = environ.get(PREFIX + "CONFIG")
    path = Path(named or base / "ignite-builder" / "config.toml")
    if not named and not path.is_file():
        return {}, ""
    text = _text_of(str(path), PREFIX + "CONFIG" if named else str(path))
    try:
        return tomllib.loads(text), str(path)
    except (ValueError, RecursionError) as error:
        why = error if isinstance(error, tomllib.TOMLDecodeError) else "a value is too long, or nested too deep"
        step = "Correct the file; it is TOML, a line NAME = VALUE for each setting."
        message = f"the settings file cannot be read: {why}"
        raise BuildError("InvalidRequest", message, where=str(path), next=step) from None


def _text_of(path: str, where: str) -> str:
    """The text of a file, which may be a pipe. Raises `BuildError` InvalidRequest; none of the file is repeated."""
    if not path:
        step = "Name a file, or unset the variable."
        raise BuildError("InvalidRequest", "this variable names no file", where=where, next=step)
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) <= MOST_BYTES:
            return data.decode("utf-8-sig")  # some editors begin a file with the mark
        why, step = f"it has more than {MOST_BYTES} bytes", "Name the file that was meant."
    except UnicodeDecodeError:
        why, step = "it is no UTF-8", "Write it as UTF-8, or name the file that was meant."
    except OSError as error:
        why, step = error.strerror or str(error), "See that the file is there and that this user may read it."
    raise BuildError("InvalidRequest", f"{path} cannot be read: {why}", where=where, next=step)


@functools.cache
def _hints() -> Mapping[str, object]:
    """The type of each setting; to resolve them takes longer than all else that is read."""
    return get_type_hints(Settings)


def _environment(environ: Mapping[str, str]) -> SettingsSource:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    hints = _hints()
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or name == "config":
            continue
        if any("\udc80" <= letter <= "\udcff" for letter in text):  # a byte that Python could not decode
            message = "the value of this variable is no UTF-8"
            raise BuildError("InvalidRequest", message, where=variable, next="Write it as UTF-8.")
        in_file = name.endswith("_file") and name.removesuffix("_file") in NAMES
        name = name.removesuffix("_file") if in_file else name
        if name in origins:
            message = f"{origins[name]} and {variable} are both set, and are one setting"
            raise BuildError("InvalidRequest", message, where=variable, next="Unset one of them.")
        if in_file:
            content = _text_of(text, variable).strip()
            hint = hints.get(name)
            values[name] = tuple(content.split()) if hint == tuple[str, ...] else _from_text(hint, content)
        else:
            values[name] = _from_text(hints.get(name), text)
        origins[name] = variable
    return values, origins


def _from_text(hint: object, text: str) -> Any:
    """Lists are comma-separated; structured settings are TOML values (`[{token="…", scopes=["read"]}]`)."""
    if hint == tuple[str, ...]:
        return tuple(part for part in text.split(",") if part)
    if _is_structured(hint):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # whatever it is, it is no table
            return text
    return text


def _is_structured(hint: object) -> bool:
    """Whether a setting is a table, or a list of tables."""
    of = next(iter(get_args(hint)), None)
    return hint == dict[str, str] or (isinstance(of, type) and issubclass(of, msgspec.Struct))


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
        memory.write(msgspec.json.encode(settings))
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        yield env | {HANDED_OVER: f"/proc/{os.getpid()}/fd/{descriptor}"}


def _handed(place: str) -> SettingsSource:
    """All settings of the process that started this one."""
    try:
        values = msgspec.json.decode(Path(place).read_bytes(), type=dict[str, Any])
        validated(values)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are not whole"
        message = f"the settings that this process was started with cannot be read: {why}"
        step = f"Unset {HANDED_OVER} to read the settings file and the environment."
        raise BuildError("InvalidRequest", message, where=HANDED_OVER, next=step) from None
    if missing := set(NAMES) - set(values):
        message = f"the settings that this process was started with lack {', '.join(sorted(missing))}"
        step = "Both processes must be of the same version."
        raise BuildError("InvalidRequest", message, where=HANDED_OVER, next=step)
    return values, HANDED_OVER
