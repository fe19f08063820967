"""Images on a node's disk: an OCI layout folder, and each image's root unpacked once.

`builder/bases/` puts base images in, a build reads them. Several processes may use one store at once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import BuildError, PlatformError
from builder.images.destination import DIGEST, REPOSITORY, Destination, check_names
from builder.images.image import CONFIG_BYTES, BaseImage, Image, Platform
from builder.images.layer import MEDIA_TYPE, PLAIN_TYPE, Layer
from builder.images.layout import Layout, Stamp
from builder.images.rootfs import TooMany
from builder.images.runnable import require_runnable, user_of
from builder.images.unpack import MOST_UNPACKED, LayerDamaged, require_kinds, unpack_image
from builder.images.wasm import CONFIG_TYPE as WASM_CONFIG_TYPE
from builder.text import size, strangers_json, visible

BASES = "bases/"
TOOLCHAINS = "toolchains/"
TAG = "current"
COMPONENT = "component.wasm"
OCI_LAYER = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": MEDIA_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar": PLAIN_TYPE,
}
"""Docker's name of a layer's media type → that of OCI, for the same bytes."""
MOST_LAYERS = 1000


@dataclass(frozen=True)
class ImageStore:
    """The images of a node below `root`: `layout/` has the blobs, `rootfs/` the unpacked roots.

    `prefix` keeps the names of base images and those of toolchain images apart; they share blobs and roots.
    `most_unpacked`: bytes that one may unpack into.
    """

    root: Path
    prefix: str = BASES
    most_unpacked: int = MOST_UNPACKED
    _known: dict[str, tuple[Stamp, BaseImage | None]] = field(default_factory=dict, repr=False, compare=False)

    def get(self, name: str, digest: str = "") -> BaseImage | None:
        """The image that `name` points at, or pointed at once for a `digest`; None when there is none.

        An image by name is read again only when the index has changed.
        """
        if digest:
            return self._read(name, digest)
        stamp = self.stamp()
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            known = self._known[name] = (stamp, self._read(name, TAG))
        return known[1]

    def stamp(self) -> Stamp:
        """Changes whenever a name gets or loses an image."""
        return self._layout.stamp()

    def image(self, name: str) -> Image | None:
        """The image as it can be pushed elsewhere; None when there is none of this name."""
        base = self.get(name)
        if base is None:
            return None
        manifest = self._blob(base.digest)
        return Image(
            manifest=manifest,
            config=self._blob(json.loads(manifest)["config"]["digest"]),
            digest=base.digest,
            layers=base.layers,
        )

    def put(self, image: Image, name: str, origin: str = "") -> BaseImage:
        """Store `image` and point `name` at it. `origin` is a digest of what it was made from (`came_from`)."""
        self.prepare()
        self._layout.push(image, self.prefix + name, TAG)
        if origin:
            self._layout.put_tag(self.prefix + name, image.digest, _origin_tag(origin))
        stored = self._read(name, image.digest)
        if stored is None:
            raise PlatformError("Internal", f"image {name} was stored and is not there")
        return stored

    def came_from(self, name: str, origin: str) -> bool:
        """Whether the image that `name` points at was stored with this `origin`."""
        current = self._layout.resolve(self.prefix + name, TAG)
        return current is not None and current == self._layout.resolve(self.prefix + name, _origin_tag(origin))

    def remove(self, name: str) -> None:
        """Let `name` point at nothing. Its blobs go with `collect`."""
        for each in self._layout.names():
            repository, colon, tag = each.partition(":")
            if colon and repository == self.prefix + name:
                self._layout.untag(repository, tag)

    def collect(self, digests: Iterable[str], age_s: float) -> int:
        """Delete blobs older than `age_s` of images that no name points at, but for those of these digests. Returns
        how many lines of the index and blobs went."""
        wanted = set(digests)
        known = (each.partition("@") for each in self._layout.names())
        return self._layout.collect([(name, digest) for name, _, digest in known if digest in wanted], age_s)

    def names(self) -> tuple[str, ...]:
        """The names that point at an image, sorted."""
        suffix = f":{TAG}"
        found = (name for name in self._layout.names() if name.startswith(self.prefix) and name.endswith(suffix))
        return tuple(name.removeprefix(self.prefix).removesuffix(suffix) for name in found)

    def rootfs(self, digest: str) -> Path:
        """The image of this digest unpacked, for use as a sandbox root: read-only by custom, readable by any uid.

        Unpacked by the first call for a digest. Raises `BuildError` ToolchainUnavailable when the image is absent,
        unpacked larger than it may be, or one that cannot be unpacked here.
        """
        folder = self.root / "rootfs"
        final = folder / digest.removeprefix("sha256:")
        if DIGEST.fullmatch(digest) and final.is_dir():
            return final
        layers = self._layers(digest)
        self.prepare(folder)
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
        try:
            try:
                unpack_image(layers, partial / "root", limit=self.most_unpacked)
            except BuildError as error:
                if isinstance(error, PlatformError):
                    raise
                message, step = f"image {digest}: {error.message}", error.next
                if error.reason == "ArtifactTooLarge" and not isinstance(error, TooMany):
                    message, step = f"image {digest} takes more than {size(self.most_unpacked)} unpacked", _RAISE
                raise BuildError("ToolchainUnavailable", message, next=step) from None
            with suppress(OSError):  # another process was first: its folder holds the same
                (partial / "root").rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        if not final.is_dir():
            raise PlatformError("Internal", f"image {digest} could not be unpacked")
        return final

    def prepare(self, folder: Path | None = None) -> None:
        """Make the store's folders, passable for the build user whatever the umask."""
        for each in (self.root, folder or self.root):
            each.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # another user's folder stays as open as its owner made it
                each.chmod(0o755)

    @property
    def _layout(self) -> Layout:
        return Layout(self.root / "layout", name="images")

    def _blob(self, digest: str) -> bytes:
        return self._layout.blob_path(digest).read_bytes()

    def _read(self, name: str, reference: str) -> BaseImage | None:
        if not REPOSITORY.fullmatch(name) or "/" in name:
            return None
        manifest = self._layout.get_manifest(self.prefix + name, reference)
        if manifest is None:
            return None
        value = json.loads(manifest.body)
        config = json.loads(self._blob(value["config"]["digest"]))
        run = config.get("config") or {}
        return BaseImage(
            name=name,
            digest=manifest.digest,
            layers=layers_of(value, config, self._layout.blob_path, base=name),
            env=tuple((key, value) for key, _, value in (pair.partition("=") for pair in run.get("Env") or ())),
            labels=tuple(sorted((run.get("Labels") or {}).items())),
            platform=Platform(os=config["os"], architecture=config["architecture"]),
        )

    def _layers(self, digest: str) -> tuple[Layer, ...]:
        """The layers of the image of this digest, whatever its name. Raises `BuildError` ToolchainUnavailable."""
        try:
            if not DIGEST.fullmatch(digest):
                raise FileNotFoundError(digest)
            manifest = json.loads(self._blob(digest))
            config = json.loads(self._blob(manifest["config"]["digest"]))
        except FileNotFoundError:
            raise BuildError("ToolchainUnavailable", f"image {digest} is not on this node") from None
        return layers_of(manifest, config, self._layout.blob_path)


def images_of(node_dir: str | Path, most_unpacked: int = MOST_UNPACKED) -> ImageStore:
    """The base images of the node whose folder is `node_dir`."""
    return ImageStore(Path(node_dir) / "bases", BASES, most_unpacked)


def toolchain_images_of(node_dir: str | Path, most_unpacked: int = MOST_UNPACKED) -> ImageStore:
    """The toolchain images of the node whose folder is `node_dir`."""
    return ImageStore(Path(node_dir) / "bases", TOOLCHAINS, most_unpacked)


def _origin_tag(origin: str) -> str:
    return f"origin-{origin.removeprefix('sha256:')[:40]}"


def layers_of(
    manifest: Mapping[str, Any], config: Mapping[str, Any], blob: Callable[[str], Path], base: str = ""
) -> tuple[Layer, ...]:
    """The layers that a manifest and its config describe, lowest first; `blob` maps a digest to its file."""
    parts, diff_ids = manifest["layers"], config["rootfs"]["diff_ids"]
    history = [row.get("created_by", "") for row in config.get("history") or () if not row.get("empty_layer")]
    return tuple(
        Layer(
            path=blob(part["digest"]),
            digest=part["digest"],
            diff_id=diff_id,
            size=part["size"],
            media_type=OCI_LAYER.get(part["mediaType"], part["mediaType"]),
            created_by=history[index] if index < len(history) else "",
            base=base,
        )
        for index, (part, diff_id) in enumerate(zip(parts, diff_ids, strict=True))
    )


def pull(
    source: Destination,
    repository: str,
    digest: str,
    folder: Path,
    most_unpacked: int = MOST_UNPACKED,
    who: Callable[[Path, str], tuple[int, int]] = lambda root, user: user_of(user),
) -> dict[str, Any] | None:
    """Unpack the image of `digest` into `folder`/root, for its user; returns its config. The layers' blobs stay in
    `folder`.

    None for a component, which is `folder`/component.wasm then. `most_unpacked`: bytes that its layers, packed or
    unpacked, may take. `who` is the uid and gid of the config's user in an unpacked root; where they are others than
    its text alone gives (`user_of`), the image is unpacked once more, for them: no root keeps the owners of its files.

    Raises `BuildError` SourceNotFound when it is absent, ImageContractViolated for what is no image, and as
    `Destination.open_blob` and `unpack_image` do.
    """
    manifest = source.get_manifest(repository, digest)
    if manifest is None:
        raise BuildError("SourceNotFound", f"{repository}@{digest} is not there any more")

    def blob_path(blob: str) -> Path:
        check_names(repository, digest=blob)
        return folder / blob.removeprefix("sha256:")

    name = f"{repository}@{digest}"
    component, run = "", dict[str, Any]()
    layers: tuple[Layer, ...] = ()
    try:
        value = strangers_json(manifest.body)
        if value["config"]["mediaType"] == WASM_CONFIG_TYPE:
            (layer,) = value["layers"]
            component = str(layer["digest"])
        else:
            config = _config(source, repository, value["config"]["digest"])
            run, layers = config["config"], layers_of(value, config, blob_path)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # whoever builds an image writes its config
        raise _no_image(f"{name} is no image: {visible(str(error), limit=200)}") from error
    if component:
        _download(source, repository, component, folder / COMPONENT, most_unpacked)
        return None
    run = dict(require_runnable(run, name))
    require_kinds(layers, name)
    if len(layers) > MOST_LAYERS:
        raise _no_image(f"{name} has {len(layers)} layers, {MOST_LAYERS} are allowed")
    taken = 0
    for one in layers:
        taken += _download(source, repository, one.digest, one.path, most_unpacked, taken)
    try:
        user, root = run.get("User") or "", folder / "root"
        unpack_image(layers, root, limit=most_unpacked, reader=user_of(user))
        if (found := who(root, user)) != user_of(user):
            shutil.rmtree(root)
            unpack_image(layers, root, limit=most_unpacked, reader=found)
    except LayerDamaged as error:  # each blob is what its digest says, so it was pushed so
        raise _no_image(f"{name} cannot be unpacked: {error.message}") from error
    except BuildError as error:
        if error.reason == "ArchiveUnsafe":  # whose next step is for who packs an archive
            raise BuildError(error.reason, f"{name} cannot be unpacked: {error.message}", next=_AGAIN) from error
        if error.reason != "ArtifactTooLarge" or isinstance(error, TooMany):
            raise
        raise _too_large(repository, digest, most_unpacked) from None
    return run


_AGAIN = "Build the artifact again, or name another build."


def _no_image(message: str) -> BuildError:
    return BuildError("ImageContractViolated", message, next=_AGAIN)


def _config(source: Destination, repository: str, digest: str) -> Any:
    """The config of an image, in memory. Raises `BuildError` ArtifactTooLarge for one that no artifact has."""
    body = bytearray()
    for chunk in source.open_blob(repository, digest):
        body += chunk
        if len(body) > CONFIG_BYTES:
            message = f"the config of the image in {repository} has more than {size(CONFIG_BYTES)}: {digest}"
            raise BuildError("ArtifactTooLarge", message, next=_AGAIN)
    return strangers_json(bytes(body))


def _download(source: Destination, repository: str, digest: str, path: Path, limit: int, before: int = 0) -> int:
    """Write a blob to a file; returns how many bytes it has. Raises `BuildError` ArtifactTooLarge where it and the
    `before` others are over the limit."""
    written = 0
    with path.open("wb") as out:
        for chunk in source.open_blob(repository, digest):
            written += len(chunk)
            if before + written > limit:
                raise _too_large(repository, digest, limit)
            out.write(chunk)
    return written


_RAISE = "Set IGNITE_BUILDER_UNPACKED_IMAGE_BYTES to more, if the image is meant."


def _too_large(repository: str, digest: str, limit: int) -> BuildError:
    return BuildError("ArtifactTooLarge", f"{repository}@{digest} takes more than {size(limit)} here", next=_RAISE)
