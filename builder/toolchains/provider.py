"""What a provider of toolchains is, and the ordered tuple of them that a node asks.

`find` only reads: registration, `doctor` and `runtimes` call it. `provide` has effects: a build calls it when it binds
its plan to this node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.indexes import Indexes
from builder.plan import Toolchain
from builder.sandbox import Mount, Root
from builder.toolchains.digests import digest_of

LENT = "apart image"
"""What a toolchain's digests call the image whose programs join the root of steps that see nothing of the build."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file or folder of the toolchain on this machine, and where a step finds it.

    `files` below `source` decide the bytes that come out; None stands for all of them.
    """

    name: str
    source: Path
    dest: str
    files: tuple[str, ...] | None
    content: tuple[str, ...] = ()
    """The folders below `source` that a step needs; empty: all of them."""

    @property
    def digest(self) -> str:
        """The digest of a single file; of a folder, that of its `files`."""
        if self.source.is_dir():
            return digest_of(self.source, self.files)
        return digest_of(self.source.parent, (self.source.name,))


@dataclass(frozen=True, kw_only=True)
class FoundToolchain:
    """A toolchain that could be provided here.

    `base` is the image that artifacts are built on, None for those that have none. `root` is the digest of the image
    that is the sandbox's root; empty where the root has nothing but mounts. `path` are folders of the sandbox that join
    the PATH of its steps.
    """

    row: Toolchain
    base: BaseImage | None
    where: str
    """Where it comes from, for people: "host", or the image."""
    root: str = ""
    has_c: bool = False
    """Whether that root has a C compiler."""
    apart: str = ""
    """The digest of another image, the root of steps that see nothing of the build; empty where there is none."""
    apart_parts: tuple[Part, ...] = ()
    """What of another toolchain joins that root, where the machine has it itself."""
    lent: Toolchain | None = None
    """The other toolchain that joins it, where an image has it."""
    lent_image: str = ""
    """The digest of that image."""
    parts: tuple[Part, ...] = ()
    path: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """Variables of its steps that the machine's own programs bring; `digests` has what they are read of."""
    indexes: Indexes = field(default_factory=Indexes)

    def digests(self) -> dict[str, str]:
        """Name → digest of everything that decides what comes out. Hashes only what has changed since the last call."""
        base = {"base": self.base.digest} if self.base else {}
        image = {"toolchain": self.root} if self.root and self.root not in base.values() else {}
        apart = {"apart": self.apart} if self.apart else {}
        also = {f"apart {part.name}": part.digest for part in self.apart_parts}
        also |= {LENT: self.lent_image} if self.lent_image else {}
        return base | image | apart | also | {part.name: part.digest for part in self.parts}


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A toolchain as a build uses it: the composed root, the base image, the digests of everything that compiles."""

    root: Root
    base: BaseImage | None
    digests: Mapping[str, str]
    apart: Root | None = None
    """Another root, for steps that see nothing of the build."""
    path: tuple[str, ...] = ()
    """Folders of the sandbox that join the PATH of its steps."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables that an image brings for its programs, or the machine's own, below those of a step."""
    indexes: Indexes = field(default_factory=Indexes)
    """The package indexes that its fetch steps reach."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Place in the sandbox → digest of each single file of it that a node stores."""


class Provider(Protocol):
    """A source of toolchains: the host's own programs, a toolchain image."""

    def find(self, row: Toolchain) -> FoundToolchain:
        """What `provide` would give. Reads only. Raises `BuildError` ToolchainUnavailable that names what lacks."""
        ...

    def has(self, row: Toolchain) -> bool:
        """Whether `find` lacks nothing, or nothing but the base image."""
        ...

    def provide(self, found: FoundToolchain) -> Provided:
        """Make what this provider found usable: copy what the build user cannot reach, unpack the root. Repeatable."""
        ...


class Lender(Protocol):
    """A source of programs that run in a root which is not their own."""

    def lends(self, row: Toolchain) -> str:
        """The digest of the image that has them. Reads only. Raises `BuildError` ToolchainUnavailable."""
        ...

    def lend(self, row: Toolchain, digest: str) -> tuple[Mount, ...]:
        """The image unpacked, and what starts its programs where plans expect them. Repeatable. Raises as `lends`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Toolchains:
    """The toolchains of a node. The first provider that finds a row provides it."""

    providers: tuple[Provider, ...]

    def find(self, row: Toolchain) -> FoundToolchain:
        """What this node would build with. Raises `BuildError` ToolchainUnavailable of the first provider, with the
        next step of the last one that knows one of its own; where that one names the part that it lacks, its own."""
        return self._found(row)[1]

    def provide(self, row: Toolchain, *, compiles_c: bool = False) -> Provided:
        """Bind a row to this node. With `compiles_c` the first provider whose root has a C compiler goes before others.

        Raises as `find`, and `PlatformError` NodeDiskFull and kin of the effects.
        """
        provider, found = self._found(row)
        if compiles_c and not found.has_c:
            provider, found = self._with_c(row) or (provider, found)
        return provider.provide(found)

    def _with_c(self, row: Toolchain) -> tuple[Provider, FoundToolchain] | None:
        for provider in self.providers:
            with suppress(BuildError):
                found = provider.find(row)
                if found.has_c:
                    return provider, found
        return None

    def has(self, row: Toolchain) -> bool:
        """Whether a provider finds this row as soon as its base image is made."""
        return any(provider.has(row) for provider in self.providers)

    def available(self, rows: Iterable[Toolchain]) -> dict[str, str]:
        """Toolchain name → one digest over everything, for the rows this node can build."""
        available = {}
        for row in rows:
            try:
                digests = self.find(row).digests()
            except BuildError:
                continue
            lines = "".join(f"{name}={digest}\n" for name, digest in sorted(digests.items()))
            available[row.name] = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
        return available

    def _found(self, row: Toolchain) -> tuple[Provider, FoundToolchain]:
        errors = []
        for provider in self.providers:
            try:
                return provider, provider.find(row)
            except BuildError as error:
                errors.append(error)
        knows = next((error for error in reversed(errors) if error.next != error.row.hint), errors[0])
        shown = knows if knows.where else errors[0]
        raise BuildError(shown.reason, shown.message, where=shown.where, said=shown.said, next=knows.next)
