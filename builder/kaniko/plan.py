"""What a checked Dockerfile comes to: facts that decide the Job, the key and the words of a failure. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.kaniko.ended import Instruction
from builder.key import FORMAT, digest_of
from builder.plan import PLATFORM

MOST_FACTS = 60_000
"""Bytes of the JSON that travels with a Job."""


@dataclass(frozen=True, kw_only=True)
class DockerfilePlan:
    """A Dockerfile that a build may be started for. `dockerfile` is relative to `sub_path`, that to the source's root.

    `pinned`: every image that it names is named by digest, so the same source gives the same layers before any `RUN`.
    `mistyped`: (image that it names, the stage that may be meant).
    """

    because: str
    dockerfile: str
    sub_path: str
    bases: tuple[str, ...]
    pinned: bool
    warnings: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    mistyped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What whoever watches a Job needs to explain its end and to name what went into the image."""

    dockerfile: str
    instructions: tuple[Instruction, ...]
    materials: tuple[tuple[str, str], ...]
    mistyped: tuple[tuple[str, str], ...] = ()


def key_of(
    plan: DockerfilePlan,
    *,
    organization: str,
    code_hash: str,
    build_args: Mapping[str, str],
    executor: str,
    build_id: str,
    strategy: str = "kaniko",
) -> str:
    """The build key. A build on an image by tag is answered by no other: the tag may name another image by now."""
    effects = {
        "strategy": strategy,
        "dockerfile": plan.dockerfile,
        "sub_path": plan.sub_path,
        "build_args": dict(build_args),
        "executor": executor.rpartition("@")[2],
    }
    parts: dict[str, Any] = {
        "format": FORMAT,
        "organization": organization,
        "code_hash": code_hash,
        "platform": PLATFORM,
        "image": effects,
    }
    return digest_of(parts if plan.pinned else {**parts, "build_id": build_id})


def materials_of(plan: DockerfilePlan, *, executor: str, archive: str) -> tuple[tuple[str, str], ...]:
    """(name, digest) of what goes into the image, as far as it is known before the build."""
    pinned = [base.rpartition("@")[::2] for base in plan.bases if "@" in base]
    return (("kaniko", executor.rpartition("@")[2]), ("context", archive), *(pinned))


def write_facts(plan: DockerfilePlan, materials: Sequence[tuple[str, str]]) -> str:
    """As JSON. Of a Dockerfile that is too long for it the lines of failures are not known."""
    rows = [[one.stage, one.line, one.text] for one in plan.instructions]
    whole = {"dockerfile": plan.dockerfile, "instructions": rows, "materials": [list(row) for row in materials]}
    text = json.dumps({**whole, "mistyped": [list(row) for row in plan.mistyped]})
    return text if len(text) <= MOST_FACTS else json.dumps({**whole, "instructions": []})


def read_facts(text: str) -> Facts:
    """What `write_facts` wrote. Raises `ValueError` for anything else."""
    try:
        value = json.loads(text)
        rows = [(int(stage), int(line), str(words)) for stage, line, words in value["instructions"]]
        return Facts(
            dockerfile=str(value["dockerfile"]),
            instructions=tuple(Instruction(stage=stage, line=line, text=words) for stage, line, words in rows),
            materials=tuple((str(name), str(digest)) for name, digest in value["materials"]),
            mistyped=tuple((str(image), str(stage)) for image, stage in value.get("mistyped", ())),
        )
    except (TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"these are no facts of a Job: {error!r}") from None
