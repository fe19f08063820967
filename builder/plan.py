"""The plan: what a build would run and why. Frozen data; imports nothing that can touch the world.

Shapes only. `builder/pipelines` makes plans, `builder/sandbox` runs steps, `builder/images` packages the output.
Inside the sandbox every plan sees the same paths: the source at `/work/src` (writable copy), results below `/work/out`,
a scratch home at `/work/home`, caches at `/cache/<name>`, toolchains below `/opt/ignite`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from typing import Any

PLATFORM = "linux/amd64"
"""The one platform that artifacts are built for (OCI image-spec: os/architecture)."""


class Network(enum.StrEnum):
    """What a step may reach. `INDEX`: the operator's package indexes through the egress proxy, nothing else."""

    NONE = "none"
    INDEX = "index"


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

    `name` is how nodes advertise it ("go-1.26"); `base` names the base image ("go", "python-3.11").
    """

    runtime: str
    version: str
    target: str
    name: str
    base: str


@dataclass(frozen=True, kw_only=True)
class WriteFile:
    """A file the plan puts into the working copy before the first step; `path` is relative to the source root."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process in the sandbox. `argv` is never a shell string; `env` is the whole environment beside the defaults.

    `caches` are directories `/cache/<name>` kept per organization between builds.
    """

    name: str
    argv: tuple[str, ...]
    network: Network = Network.NONE
    caches: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/work/src"


@dataclass(frozen=True, kw_only=True)
class LayerSource:
    """One layer of the output: the tree below `source` inside the sandbox is placed at `dest` in the image."""

    source: str
    dest: str
    created_by: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """The artifact: layers above the base, lowest first, and the image config."""

    layers: tuple[LayerSource, ...]
    entrypoint: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "65532:65532"
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that would happen, and why. Pure: the same tree and request give the same plan."""

    detection: Detection
    toolchain: Toolchain
    choices: tuple[Choice, ...]
    steps: tuple[Step, ...]
    output: Output
    files: tuple[WriteFile, ...] = ()
    warnings: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()
    """Lock files (paths in the working copy) that name what was built in, read for the provenance."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values, stable in order, for `plan --json` and the golden files."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return value

    def effects(self) -> dict[str, Any]:
        """The part of `to_json` that decides the artifact's bytes: no names of steps, reasons, summaries, warnings."""
        whole = self.to_json()
        return {
            "toolchain": whole["toolchain"],
            "files": whole["files"],
            "steps": [{name: value for name, value in step.items() if name != "name"} for step in whole["steps"]],
            "output": {name: value for name, value in whole["output"].items() if name != "summary"},
        }


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a failed step's output means: a reason of `builder/errors.py` and what a person needs.

    `where` is "file:line:col  detail"; `said` the tool's own first diagnostic, at most 6 lines; `next` what to do.
    """

    reason: str
    message: str
    where: str = ""
    said: tuple[str, ...] = ()
    next: str = ""
