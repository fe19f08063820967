"""A Dockerfile of the source, built by a Docker engine (`builder/engine/`): a plan as Kaniko's, and no Job."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from builder.dockerfile.choose import ImageRequest, ignored
from builder.engine.plan import EnginePlan
from builder.kaniko.plan import DockerfilePlan
from builder.source.tree import DirTree
from builder.strategies import kaniko

NAME = "docker"
TITLE = "the Docker engine"
PLAN = EnginePlan


def plan(root: Path, asked: ImageRequest, known: str) -> EnginePlan:
    """See `Planner.plan`; `known` is of `kaniko.learn`, for the same list of images counts."""
    made = kaniko.plan(root, asked, known)
    rules, _ = ignored(DirTree(root / made.sub_path), made.dockerfile)
    same = {each.name: getattr(made, each.name) for each in fields(DockerfilePlan)}
    return EnginePlan(**same, ignored=tuple(rule.text for rule in rules))
