"""An image that somebody else has pushed: resolved in its registry and compared with the container contract.

Nothing is written there. What is wrong is told apart by reason: no such image, no permission, another platform, a
config that the platform cannot run, a host that may not be asked, a registry that does not answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from builder.addresses import Resolve, system_resolve
from builder.errors import BuildError, ErrorClass, PlatformError
from builder.images.destination import DIGEST, BlobMissing, Manifest
from builder.images.image import CONFIG_BYTES, CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE
from builder.images.reference import Reference
from builder.text import size, strangers_json, visible

MANIFEST_TYPES = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
INDEX_TYPES = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")
CONFIG_TYPES = (CONFIG_TYPE, "application/vnd.docker.container.image.v1+json")
MOST_LAYERS = 1000
MOST_ENTRIES = 1000
WHOLE_S = 30.0
"""The most time of one look at an image: whoever looks has few threads, and a registry is anybody's."""
_SHOWN = 100
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_USER = re.compile(r"([0-9]{1,10})(?::[0-9]{1,10})?")


Result = TypeVar("Result")
GetManifest = Callable[[str, str], Manifest | None]
OpenBlob = Callable[[str, str], Any]


@dataclass(frozen=True, kw_only=True)
class External:
    """An image as its registry has it. `digest` is that of the platform's own manifest, `index_digest` that of the
    index around it, empty where the reference names a manifest."""

    digest: str
    index_digest: str
    size_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Login:
    """A user and a password or token of the registry."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How registries of others are reached. `private`: hosts whose address may be any."""

    private: Collection[str] = ()
    insecure: Collection[str] = ()
    ca_bundle: str = ""
    resolve: Resolve = system_resolve
    whole_s: float = WHOLE_S


def resolve(reference: Reference, platform: str, access: Access, login: Login | None, most_bytes: int) -> External:
    """Ask the registry of the reference. Raises `BuildError` with one of the image reasons, RegistryUnavailable."""
    return _asked(
        reference, access, login, lambda manifest, blob: _resolved(reference, platform, manifest, blob, most_bytes)
    )


def read_config(reference: Reference, platform: str, access: Access, login: Login | None) -> Mapping[str, Any]:
    """The config of an image for the platform, whatever it would run. Raises `BuildError` as `resolve`."""

    def read(get_manifest: GetManifest, open_blob: OpenBlob) -> Mapping[str, Any]:
        _, value, _ = _image_of(reference, platform, get_manifest)
        return _object(_config_body(reference, value["config"], open_blob), f"the config of {reference}")

    return _asked(reference, access, login, read)


def _asked(
    reference: Reference, access: Access, login: Login | None, work: Callable[[GetManifest, OpenBlob], Result]
) -> Result:
    """What `work` finds in the registry of the reference, within the time of `access`."""
    from builder.images.guard import Deadline, guarded_client
    from builder.images.registry import Registry
    from builder.images.transport import ONE_SHORT_ATTEMPT, Credentials, Transport

    host = reference.api_host
    insecure = host in access.insecure
    deadline = Deadline(access.whole_s)
    client = guarded_client(
        host,
        private=access.private,
        insecure=insecure,
        ca_bundle=access.ca_bundle,
        timeout_s=ONE_SHORT_ATTEMPT.silence_s,
        resolve=access.resolve,
        deadline=deadline,
    )
    credentials = Credentials(username=login.username, password=login.password) if login else None
    transport = Transport(
        host=host, client=client, credentials=credentials, insecure=insecure, patience=ONE_SHORT_ATTEMPT
    )
    registry = Registry(transport=transport, access="pull")
    try:
        with client:
            return work(registry.get_manifest, registry.open_blob)
    except PlatformError as error:
        if error.reason == "RegistryRefused":
            raise _forbidden(reference, login, error) from None
        if deadline.over:
            message = f"{host} did not finish its answers within {deadline.seconds:g} s"
            raise PlatformError("RegistryUnavailable", message) from None
        raise
    except BuildError:
        raise
    except Exception as error:  # what an answer makes a library raise ends this build, which nothing else would
        message = f"{host} gave an answer that cannot be read ({type(error).__name__})"
        raise PlatformError("RegistryUnavailable", message) from error
    finally:
        deadline.stop()


def _resolved(
    reference: Reference, platform: str, get_manifest: GetManifest, open_blob: OpenBlob, most_bytes: int
) -> External:
    manifest, value, index_digest = _image_of(reference, platform, get_manifest)
    sizes = [_size(part, reference) for part in (value["config"], *value["layers"])]
    total = len(manifest.body) + sum(sizes)
    if total > most_bytes:
        message = f"{reference} has {size(total)}, limit {size(most_bytes)}"
        raise BuildError("ArtifactTooLarge", message, where="imageRef", error_class=ErrorClass.CLIENT)
    warnings = check_config(_config_body(reference, value["config"], open_blob), platform, str(reference))
    return External(digest=manifest.digest, index_digest=index_digest, size_bytes=total, warnings=warnings)


def _image_of(
    reference: Reference, platform: str, get_manifest: GetManifest
) -> tuple[Manifest, Mapping[str, Any], str]:
    """(manifest for the platform, its JSON with config and layers, digest of the index around it or nothing)."""
    manifest, index_digest = _get(reference, reference.wanted, get_manifest), ""
    value = _object(manifest.body, f"the manifest of {reference}")
    if _media_type(manifest, value) in INDEX_TYPES:
        index_digest = manifest.digest
        manifest = _get(reference, _of_platform(reference, value, platform), get_manifest)
        value = _object(manifest.body, f"the manifest of {reference}")
    config, layers = value.get("config"), value.get("layers")
    is_image = _media_type(manifest, value) in MANIFEST_TYPES and isinstance(config, dict)
    if not is_image or not isinstance(config, dict) or config.get("mediaType") not in CONFIG_TYPES:
        kind = _media_type(manifest, value) if not isinstance(config, dict) else config.get("mediaType", "")
        raise violated(f"{reference} is no container image but {_shown(kind)}")
    if not isinstance(layers, list) or not 0 < len(layers) <= MOST_LAYERS:
        raise violated(f"{reference} has no list of 1 to {MOST_LAYERS} layers")
    return manifest, value, index_digest


def _config_body(reference: Reference, config: Mapping[str, Any], open_blob: OpenBlob) -> bytes:
    """The config that a manifest names."""
    size_bytes = _size(config, reference)
    if size_bytes > CONFIG_BYTES:
        raise violated(f"the config of {reference} has {size(size_bytes)}, limit {size(CONFIG_BYTES)}")
    return _blob(reference, config["digest"], size_bytes, open_blob)


def _get(reference: Reference, wanted: str, get_manifest: GetManifest) -> Manifest:
    found = get_manifest(reference.repository, wanted)
    if found is None:
        what = f"{reference.name} has no {wanted}" if wanted != reference.wanted else f"there is no image {reference}"
        raise BuildError("ImageNotFound", what, where="imageRef")
    return found


def _media_type(manifest: Manifest, value: Mapping[str, Any]) -> str:
    """As the manifest itself names it; the registry's header counts where it names none."""
    return str(value.get("mediaType") or manifest.media_type)


def _of_platform(reference: Reference, index: Mapping[str, Any], platform: str) -> str:
    """The digest of the one manifest of an index that is for the platform."""
    entries = index.get("manifests")
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise violated(f"the index {reference} has no list of at most {MOST_ENTRIES} manifests")
    there: list[str] = []
    for entry in entries:
        found = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(found, dict) or not DIGEST.fullmatch(str(entry.get("digest"))):
            continue
        name = f"{found.get('os')}/{found.get('architecture')}"
        if name == platform:
            return str(entry["digest"])
        if name != "unknown/unknown":  # attestations of BuildKit
            there.append(visible(name, limit=40))
    raise BuildError(
        "ImagePlatformMismatch",
        f"{reference} is for {', '.join(dict.fromkeys(there[:8])) or 'no platform'}; {platform} is needed",
        where="imageRef",
    )


def check_config(body: bytes, platform: str, name: str) -> tuple[str, ...]:
    """Compare an image's config with the container contract. Returns warnings.

    Raises `BuildError` ImagePlatformMismatch, ImageContractViolated.
    """
    value = _object(body, f"the config of {name}")
    found = f"{value.get('os')}/{value.get('architecture')}"
    if found != platform:
        raise BuildError("ImagePlatformMismatch", f"{name} is for {_shown(found)}; {platform} is needed")
    config = value.get("config") or {}
    if not isinstance(config, dict):
        raise violated(f"the config of {name} is no object")
    command = [*_words(config, "Entrypoint", name), *_words(config, "Cmd", name)]
    if not command or not command[0]:
        raise violated(f"{name} has neither ENTRYPOINT nor CMD: there is nothing to start")
    if not all(pair.partition("=")[0] for pair in _words(config, "Env", name)):
        raise violated(f"{name} has a variable without a name")
    workdir = config.get("WorkingDir") or "/"
    if not isinstance(workdir, str) or not workdir.startswith("/"):
        raise violated(f"{name} starts in {_shown(workdir)}, which is no absolute path")
    _check_user(config.get("User"), name)
    return _port_warnings(config, name)


def _check_user(user: Any, name: str) -> None:
    step = "Add a line such as USER 65532:65532 to its Dockerfile, and push it again."
    if not isinstance(user, str) or not user:
        raise violated(f"{name} names no user, so it would run as root; the platform runs numeric users but 0", step)
    found = _USER.fullmatch(user)
    if found is None:
        message = f"{name} runs as {_shown(user)}, a name that only its own files explain; a numeric user is needed"
        raise violated(message, step)
    if not 0 < int(found[1]) < 2**31:
        raise violated(f"{name} runs as user {found[1]}; a user above 0 and below 2147483648 is needed", step)


def _port_warnings(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The app listens on $PORT; a port that is exposed besides is of no use, one without TCP cannot be right."""
    ports = config.get("ExposedPorts") or {}
    if not isinstance(ports, dict):
        raise violated(f"the exposed ports of {name} are no object")
    tcp: list[str] = []
    for port in ports:
        found = _PORT.fullmatch(port)
        if found is None or not 0 < int(found[1]) <= int(found[2] or found[1]) <= 65535:
            raise violated(f"{name} exposes {_shown(port)}, which is no port")
        if (found[3] or "tcp") == "tcp":
            tcp.append(port)
    if ports and not tcp:
        exposed = ", ".join(sorted(ports)[:8])
        raise violated(f"{name} exposes {exposed} and no TCP port; requests come over TCP to $PORT")
    if len(tcp) > 1:
        return (f"{name} exposes {', '.join(sorted(tcp)[:8])}; requests come only to $PORT",)
    return ()


def _words(config: Mapping[str, Any], key: str, name: str) -> list[str]:
    words = config.get(key) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise violated(f"{key} of {name} is no list of words")
    return words


def _blob(reference: Reference, digest: str, most: int, open_blob: OpenBlob) -> bytes:
    body = bytearray()
    try:
        for chunk in open_blob(reference.repository, digest):
            body += chunk
            if len(body) > most:
                raise violated(f"the config of {reference} is larger than its manifest says")
    except BlobMissing:
        raise BuildError("ImageNotFound", f"{reference.name} lacks the config of {reference}") from None
    return bytes(body)


def _size(descriptor: Any, reference: Reference) -> int:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    count = descriptor.get("size") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or type(count) is not int or count < 0:
        raise violated(f"the manifest of {reference} has a descriptor without sha256 digest or size")
    return count


def _object(body: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = strangers_json(body)
    except (ValueError, RecursionError):
        raise violated(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise violated(f"{what} is no JSON object")
    return value


def violated(message: str, next: str = "") -> BuildError:
    """An image that the platform cannot run."""
    return BuildError("ImageContractViolated", message, where="imageRef", next=next)


def _forbidden(reference: Reference, login: Login | None, error: BuildError) -> BuildError:
    """Registries answer alike for an image that is private and one that is not there, so both are named."""
    if login is None:
        message = f"{reference.host} refused {reference} without a login: it is private, or it does not exist"
        return BuildError("ImageForbidden", message, where="imageRef")
    message = f"{reference.host} refused {reference} to the user {visible(login.username, limit=60)}"
    return BuildError("ImageForbidden", message, where="registrySecretRef", next="See what this login may pull.")


def _shown(text: object) -> str:
    return f'"{visible(str(text), limit=_SHOWN)}"'
