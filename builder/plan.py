"""The plan: what a build would run and why. Frozen data; imports nothing that can touch the world.

Shapes only. `builder/pipelines` makes plans, `builder/sandbox` runs steps, `builder/images` packages the output.
Inside the sandbox every plan sees the same paths: the source at `/work/src` (writable copy), stubs at `/work/fetch`,
results below `/work/out`, a scratch home at `/work/home`, caches at `/cache/<name>`, toolchains below `/opt/ignite`.

One rule holds for every plan, and the shapes refuse what breaks it: no code of the source runs where there is a network
or a shared writable cache.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError, ErrorClass

BUILT = "built.json"
"""The stub that names what steps of `Sees.APART` made: {name: {"path": below /cache/built, "digest": "sha256:…"}}."""

PLATFORM = "linux/amd64"
"""The one platform that artifacts are built for (OCI image-spec: os/architecture)."""


class Network(enum.StrEnum):
    """What a step may reach. `INDEX`: the operator's package indexes through the egress proxy, nothing else."""

    NONE = "none"
    INDEX = "index"


class Sees(enum.StrEnum):
    """What of the build a step sees. `STUBS`: the plan's stubs at `/work/fetch`, and no other file of the source.

    `APART`: nothing. The step runs once for each `Built` of `Fetched`, each time in a work folder of its own that is
    dropped afterwards; what it makes is taken by the node into a cache that no step writes.
    """

    STUBS = "stubs"
    APART = "apart"
    ALL = "all"


class Access(enum.StrEnum):
    """How a step mounts a cache of its organization.

    `READ`: read-only. `WRITE`: writable. `OVERLAY`: writable, and what is written ends with the step; it begins with
    what the cache has where the node can mount an overlay, else with nothing.
    `DOWNLOAD`: read-only, and beside it a private folder `/work/download/<name>`, empty at first. The node verifies
    what the step leaves there against the digests of `Fetched`, copies that into the shared cache, and drops the rest.
    """

    DOWNLOAD = "download"
    OVERLAY = "overlay"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder `/cache/<name>` that an organization's builds on one node share, and how a step mounts it."""

    name: str
    access: Access


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A runtime was recognized, and why (a sentence fragment: "go.mod at the root")."""

    runtime: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One decision, for people: what was chosen (`value`) and why, with file and line where there is one."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """A row of `runtimes/catalog.toml`: what compiles, and on which base image the result runs.

    `name` is how nodes advertise it ("go-1.26"); `base` names the base image ("go", "python-3.11"), or is empty where
    artifacts have none.
    """

    runtime: str
    version: str
    target: str
    name: str
    base: str


@dataclass(frozen=True, kw_only=True)
class WriteFile:
    """A file that the plan writes: into the working copy before the first step, or as a stub. `path` is relative."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class CopyFile:
    """The bytes of a file of the source as it was sent, at a place of its own."""

    path: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Private:
    """Git hosts that a step of downloads reaches over https, and the login that it alone has.

    `secret` and `version` name the login, whose value is in no plan. 0: no claim has opened the secret.
    """

    hosts: tuple[str, ...]
    secret: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process in the sandbox. `argv` is never a shell string; `env` is the whole environment beside the defaults.

    A step that declares nothing runs code of the source. `runs_source = False` is a promise about `argv`: the tool
    neither builds, imports nor executes anything that it reads below `/work`.
    Raises ValueError where code of the source would meet a network, a login or a shared writable cache.
    """

    name: str
    argv: tuple[str, ...]
    network: Network = Network.NONE
    sees: Sees = Sees.ALL
    runs_source: bool = True
    caches: tuple[Cache, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/work/src"
    result: str = ""
    """A folder below `/work/out` that the node stores when the step ends well, write-once, under the digest of all that
    the step reads: stubs, verified downloads, toolchain, `argv`, `env`. A later build with the same digest gets a copy
    of it and does not run the step. A step with a result sees stubs and no network, and writes no cache; it may run
    code that a lock pins by hash, which is not the source's."""
    shown: bool = False
    """Whether a later build sees the stored result, read-only, where else it gets a copy: a folder below `/work/fetch`,
    which steps read and none has to write. A step that makes a result of its own gets a copy all the same."""
    when: str = ""
    """A file below `/work/fetch`: the step is left out where a step before it made none. Empty: it always runs."""
    memo: str = ""
    """A digest of all that its output depends on beside `argv`, `env`, the toolchain and verified downloads. Its output
    is its lines and nothing else, so a node that stored them runs it no more. Empty: it always runs."""
    private: Private | None = None
    """Hosts and login of private modules; None for a step that reaches indexes alone."""

    def __post_init__(self) -> None:
        if self.network is not Network.NONE and self.sees is not Sees.STUBS:
            raise ValueError(f"step {self.name} has a network and sees the source")
        if self.sees is Sees.STUBS and (self.runs_source or self.cwd.startswith("/work/src")):
            raise ValueError(f"step {self.name} sees stubs: it runs no code of the source and starts elsewhere")
        if self.private and self.network is not Network.INDEX:
            raise ValueError(f"step {self.name} has a login and no network")
        if self.sees is Sees.APART and not self.runs_source:
            raise ValueError(f"step {self.name} runs code of downloads, which is nobody's to promise anything about")
        if self.runs_source and any(cache.access not in (Access.READ, Access.OVERLAY) for cache in self.caches):
            raise ValueError(f"step {self.name} runs code of the source and writes a cache")
        if self.result and (
            self.sees is not Sees.STUBS
            or self.network is not Network.NONE
            or any(cache.access is not Access.READ for cache in self.caches)
            or not self.result.startswith("/work/fetch/" if self.shown else "/work/out/")
        ):
            raise ValueError(f"step {self.name} has a result that more than its stubs decides")
        if self.shown and not self.result:
            raise ValueError(f"step {self.name} shows a result that it has not")
        if self.memo and (self.runs_source or self.network is not Network.NONE):
            raise ValueError(f"step {self.name} depends on more than a memo can name")


@dataclass(frozen=True, kw_only=True)
class LayerSource:
    """One layer of the output: the tree below `source` inside the sandbox is placed at `dest` in the image."""

    source: str
    dest: str
    created_by: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """The artifact: layers above the base, lowest first, and the image config. Raises ValueError where no word of the
    entry point is left for the program."""

    layers: tuple[LayerSource, ...]
    entrypoint: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "65532:65532"
    summary: str = ""
    launcher: int = 0
    """How many words of the entry point are a launcher of ours, which becomes the program that the others name."""

    def __post_init__(self) -> None:
        if not 0 <= self.launcher < len(self.entrypoint):
            raise ValueError(f"an entry point of {len(self.entrypoint)} words has no program behind {self.launcher}")

    @property
    def program(self) -> str:
        """What runs in the end."""
        return self.entrypoint[self.launcher]


@dataclass(frozen=True, kw_only=True)
class ComponentOutput:
    """The artifact: the WebAssembly component at `component` inside the sandbox. It stands on no base image."""

    component: str
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that would happen, and why. Pure: the same tree and request give the same plan."""

    detection: Detection
    toolchain: Toolchain
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    output: Output | ComponentOutput
    files: tuple[WriteFile, ...] = ()
    stubs: tuple[WriteFile, ...] = ()
    """Files of ours below `/work/fetch`, all that a step with a network sees."""
    copies: tuple[CopyFile, ...] = ()
    """Stubs that are files of the source: a lock that its own tool reads."""
    placed: tuple[CopyFile, ...] = ()
    """Files of the source below `/work/out`, there before the first step that sees the source: a part of the output."""
    warnings: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()
    """Lock files (paths in the working copy) that name what was built in, read for the provenance."""

    def __post_init__(self) -> None:
        """Raises ValueError for a step of stubs behind one of the source, which may have changed all that it sees."""
        sees = [step.sees for step in self.steps]
        if Sees.STUBS in sees[sees.index(Sees.ALL) if Sees.ALL in sees else len(sees) :]:
            raise ValueError("a step of stubs stands behind a step that sees the source")

    @property
    def compiles_c(self) -> bool:
        """Whether a step names a C compiler (`CC`), which not every toolchain of its row has."""
        return any(name == "CC" for step in self.steps for name, _ in step.env)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values, stable in order, for `plan --json` and the golden files."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for step in value["steps"]:
            if step["private"] is None:  # an absent login adds nothing to the key
                del step["private"]
            if not step["shown"]:
                del step["shown"]
        if not value["output"].get("launcher"):
            value["output"].pop("launcher", None)
        return value

    def effects(self) -> dict[str, Any]:
        """The part of `to_json` that decides the artifact's bytes: no names of steps, reasons, summaries, warnings."""
        whole = self.to_json()
        return {
            "toolchain": whole["toolchain"],
            "files": whole["files"],
            "stubs": whole["stubs"],
            "copies": whole["copies"],
            "placed": whole["placed"],
            "steps": [
                {name: value for name, value in step.items() if name not in ("name", "memo", "result", "shown")}
                for step in whole["steps"]
            ],
            "output": {name: value for name, value in whole["output"].items() if name not in ("launcher", "summary")},
        }


@dataclass(frozen=True, kw_only=True)
class WantedFile:
    """One file that a fetch step downloads, by the digest that a lock or the index names.

    `source` is its path in the step's private folder, where a part `*` stands for the one folder that is there; `path`
    the one in the shared cache `cache`. `path` has the digest, so that what one build asks for never takes the place of
    what another means. `digest` is "sha256:<hex>" or "sha512:<hex>" of the bytes, or "h1:<base64>" as go.sum has it.
    """

    cache: str
    source: str
    path: str
    digest: str
    package: str = ""
    """Package URL, for the provenance."""
    optional: bool = False
    """A lock names it, but a build may do without: kept when it was fetched."""
    index: str = ""
    """The other kind of index that it comes from (`Indexes.others`); empty: one of the client's own."""


@dataclass(frozen=True, kw_only=True)
class CacheLink:
    """A link at `path` below `/work/fetch` to the file `target` of a shared cache."""

    path: str
    cache: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Built:
    """One file that a step of `Sees.APART` makes of verified downloads, by code that came with them.

    `words` join the step's own; `files` are all that it finds at `/work/fetch`; `of` names the digests of what it is
    made of, which with the step and the toolchain decide its place in the cache `built`. It leaves one file whose name
    ends with `ending` in `/work/out`.
    """

    name: str
    words: tuple[str, ...]
    of: tuple[str, ...]
    ending: str
    files: tuple[WriteFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What the stubs ask for, once they name it exactly, and the files that the later steps of stubs read."""

    wanted: tuple[WantedFile, ...]
    built: tuple[Built, ...] = ()
    """What is made of downloads; the node writes `BUILT` with what came of it."""
    files: tuple[WriteFile, ...] = ()
    links: tuple[CacheLink, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a failed step's output means: a reason of `builder/errors.py` and what a person needs.

    `where` is "file:line:col  detail"; `said` the tool's own first diagnostic, at most 6 lines; `next` what to do.
    `error_class` is whose fault it is where that is not what the reason says.
    """

    reason: str
    message: str
    where: str = ""
    said: tuple[str, ...] = ()
    next: str = ""
    error_class: ErrorClass | None = None

    def failure(self, *, exit_code: int = 0, limit: int = 0, peak: int = 0) -> BuildError:
        """The failure of the build that it explains; `exit_code` is the tool's, a limit in bytes."""
        return BuildError(
            self.reason,
            self.message,
            where=self.where,
            said=self.said,
            next=self.next,
            exit_code=exit_code,
            limit=limit,
            peak=peak,
            error_class=self.error_class,
        )
