"""What a checked Dockerfile comes to where a Docker engine builds it: facts that decide the call and the key. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.globs import deciding, moby_pattern
from builder.kaniko.plan import DockerfilePlan
from builder.plan import PLATFORM

IGNORE_FILE = ".dockerignore"


@dataclass(frozen=True, kw_only=True)
class EnginePlan(DockerfilePlan):
    """A Dockerfile, and the patterns of its ignore file: an engine gets the context that its client packed by them."""

    ignored: tuple[str, ...]

    def part(self) -> Callable[[str], bool] | None:
        """Whether a file, by its path from the context's root, is sent; None for all of them.

        Dockerfile and ignore file are: the engine reads both, and takes away what the patterns name of them.
        """
        if not self.ignored:
            return None
        rules = tuple(moby_pattern(text) for text in self.ignored)
        return lambda path: path in (self.dockerfile, IGNORE_FILE) or deciding(rules, path) is None


@dataclass(frozen=True, kw_only=True)
class ContainerLimits:
    """What each container of a build may use. An engine limits neither their disk nor their time."""

    cpus: float
    memory_bytes: int


def arguments_of(
    plan: EnginePlan, *, tag: str, build_args: Mapping[str, str], limits: ContainerLimits, cpus_there: int = 0
) -> dict[str, Any]:
    """The keyword arguments of the SDK's `build`. `cpus_there`: processors of the engine, 0 where nobody asked it.

    Nothing of another build is used, and nothing of this one stays for another, so the engine's cache is off.
    """
    cpus = math.ceil(limits.cpus)
    bounded: dict[str, Any] = {"memory": limits.memory_bytes, "memswap": limits.memory_bytes}
    if not cpus_there or cpus < cpus_there:
        bounded["cpusetcpus"] = f"0-{cpus - 1}" if cpus > 1 else "0"
    return {
        "tag": tag,
        "dockerfile": plan.dockerfile,
        "buildargs": dict(sorted(build_args.items())),
        "platform": PLATFORM,
        "container_limits": bounded,
        "nocache": True,
        "pull": False,
        "rm": True,
        "forcerm": True,
    }


def tag_of(build_id: str, attempt: int) -> str:
    """The name of an attempt's image in the engine, as long as it is there."""
    return f"ignite-builder:{build_id}-{attempt}"


def materials_of(plan: EnginePlan, archive: str) -> tuple[tuple[str, str], ...]:
    """(name, digest) of what goes into the image, as far as it is named by digest."""
    pinned = [base.rpartition("@")[::2] for base in plan.bases if "@" in base]
    return (("context", archive), *pinned)
