"""How a context becomes an image: Kaniko where there is a Dockerfile, Cloud Native Buildpacks where there is none or
they are asked for. Without a cluster a Docker engine takes the place of Kaniko."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from builder.dockerfile.allowed import ALL, is_pinned, require_allowed, require_own
from builder.dockerfile.check import check
from builder.dockerfile.context import Context
from builder.dockerfile.instructions import Dockerfile
from builder.dockerfile.paths import DEFAULT, check_path
from builder.errors import BuildError, ErrorClass
from builder.globs import MobyPattern, moby_patterns
from builder.source.below import is_folder
from builder.source.tree import DirTree
from builder.text import visible

NAMED = 8
Strategy = Literal["kaniko", "buildpacks", "docker"]


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What a request asks for. An empty `dockerfile`: the one at the root, if there is one, unless `buildpacks` are
    asked for.

    `registry` is the server's, empty for none; `prefix` is what the repositories of the build's organization begin with
    there."""

    dockerfile: str = ""
    sub_path: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    buildpacks: bool = False
    registry: str = ""
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """What would build the image, and why. `bases`: the images of its FROM; `pinned`: all that it names are named by
    digest. `mistyped`: (image, the stage that may be meant)."""

    strategy: Strategy
    because: str
    dockerfile: str = ""
    sub_path: str = ""
    bases: tuple[str, ...] = ()
    pinned: bool = False
    warnings: tuple[str, ...] = ()
    mistyped: tuple[tuple[str, str], ...] = ()


def plan_image(root: Path, asked: ImageRequest) -> ImagePlan:
    """The plan for an unpacked context, as `read_image` makes it."""
    return read_image(root, asked)[0]


def choose(root: Path, asked: ImageRequest) -> ImagePlan:
    """What builds an unpacked context, and why; its Dockerfile is not read.

    Raises `BuildError` InvalidRequest for a Dockerfile or folder that is not there.
    """
    return _choose(root, asked)[0]


def read_image(root: Path, asked: ImageRequest, allowed: Sequence[str] = (ALL,)) -> tuple[ImagePlan, Dockerfile | None]:
    """The plan for an unpacked context, and its Dockerfile as it was read. Nothing of it is run. `allowed`: patterns of
    images that it may name.

    Raises `BuildError` InvalidRequest for a Dockerfile or folder that is not there, DockerfileInvalid,
    RepositoryForbidden.
    """
    plan, paths = _choose(root, asked)
    if not plan.dockerfile:
        return plan, None
    tree = DirTree(root / plan.sub_path)
    rules, rules_name = ignored(tree, plan.dockerfile)
    found = check(
        tree.read_text(plan.dockerfile).encode("utf-8", "surrogateescape"),
        Context(paths=paths, ignored=rules, ignore_file=rules_name),
        asked.build_args,
        plan.dockerfile,
    )
    _without_heredocs(found.dockerfile)
    require_own(found, asked.registry, asked.prefix)
    require_allowed(found, allowed)
    made = replace(plan, bases=found.bases, pinned=is_pinned(found), warnings=found.warnings, mistyped=found.mistyped)
    return made, found.dockerfile


def _choose(root: Path, asked: ImageRequest) -> tuple[ImagePlan, list[str]]:
    """The plan without what only the Dockerfile has, and the paths of the context."""
    sub_path = check_path(asked.sub_path, "subPath")
    named = check_path(asked.dockerfile, "dockerfilePath")
    paths = listed(root)
    if sub_path:
        if sub_path not in paths:
            raise BuildError(
                "InvalidRequest", f'"{visible(sub_path, limit=120)}" is not in the source', where="subPath"
            )
        if not is_folder(root, sub_path):
            message = f'"{visible(sub_path, limit=120)}" is no folder of the source'
            raise BuildError("InvalidRequest", message, where="subPath", next="Name a folder, and no link to one.")
        paths = [path.removeprefix(sub_path + "/") for path in paths if path.startswith(sub_path + "/")]
    tree = DirTree(root / sub_path)
    place = f"in {visible(sub_path, limit=120)}" if sub_path else "at the root"
    if asked.buildpacks:
        return ImagePlan(strategy="buildpacks", because="buildpacks are asked for", sub_path=sub_path), paths
    if named and not tree.has(named):
        raise _absent(named, paths)
    if not named and not tree.has(DEFAULT):
        return ImagePlan(strategy="buildpacks", because=f"no {DEFAULT} {place}", sub_path=sub_path), paths
    because = f"{named} is named" if named else f"{DEFAULT} {place}"
    return ImagePlan(strategy="kaniko", because=because, dockerfile=named or DEFAULT, sub_path=sub_path), paths


NO_BUILDER = (
    "Name a server that has a cluster (--server=URL), let a runtime build the source (--runtime NAME), or build and "
    "push the image elsewhere and take it from there: ignite-builder build --image REF"
)
NO_ENGINE = (
    "Name a Docker engine of this machine, IGNITE_BUILDER_DOCKER_HOST=unix:///var/run/docker.sock. Or: " + NO_BUILDER
)


def placed(strategy: Strategy, because: str, *, cluster: bool, docker_host: str, where: str) -> tuple[Strategy, str]:
    """(what builds the image here, why): with a `cluster` what the source asks for, without one the engine of the
    setting `docker_host`, which takes Dockerfiles alone.

    Raises `BuildError` ToolchainUnavailable where nothing builds it; `where` is what asked for it.
    """
    if cluster:
        return strategy, because
    if strategy == "buildpacks":
        message = "buildpacks run in a cluster behind a server, and none is configured"
        message += "; a Docker engine builds Dockerfiles alone" if docker_host else ""
        raise BuildError("ToolchainUnavailable", message, where=where, next=NO_BUILDER)
    if not docker_host:
        message = "a Dockerfile is built by a cluster behind a server or by a Docker engine, and none is configured"
        raise BuildError("ToolchainUnavailable", message, where=where, next=NO_ENGINE)
    return "docker", f"{because}; no cluster is configured, and docker_host is"


def listed(root: Path) -> list[str]:
    """Files, links and folders below a folder, relative, sorted. No link is followed."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else below + "/"
        found += [prefix + name for name in (*folders, *names)]
    return sorted(found)


def _without_heredocs(dockerfile: Dockerfile) -> None:
    """Refuse what Kaniko and an engine's own builder make another image of than BuildKit: of `RUN <<EOF` they run the
    first line alone, which does nothing and succeeds. Raises `BuildError` DockerfileInvalid."""
    for each in (one for stage in dockerfile.stages for one in stage.instructions):
        if not each.heredocs:
            continue
        name = (each.trigger or each).name
        effect, step = _HEREDOC_RUN if name == "run" else _HEREDOC_FILE
        message = f"{name.upper()} has the heredoc {visible(each.heredocs[0].name, limit=40)}; {effect}"
        raise dockerfile.document.error(message, each, "<<", step)


_HEREDOC_RUN = (
    "neither Kaniko nor an engine's own builder knows it: nothing of it would run, without an error",
    "Join the commands with && and a backslash at the end of each line, or COPY them as a script and RUN that.",
)
_HEREDOC_FILE = (
    "neither Kaniko nor an engine's own builder knows it: nothing would be written",
    "Put the text into a file of the source, and COPY that.",
)


def ignored(tree: DirTree, dockerfile: str) -> tuple[tuple[MobyPattern, ...], str]:
    """The rules for this Dockerfile: its own file beside it, else the context's."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        if tree.has(name):
            try:
                return moby_patterns(tree.read_text(name).encode("utf-8", "surrogateescape")), name
            except ValueError as error:
                message = f"{name}: {visible(str(error), limit=200)}"
                raise BuildError("DockerfileInvalid", message, where=name, next=f"Correct {name}.") from None
    return (), ""


def _absent(named: str, paths: list[str]) -> BuildError:
    there = [path for path in paths if _looks_like_one(posixpath.basename(path))]
    there.sort(key=lambda path: (path.count("/"), path))
    shown = ", ".join(visible(path, limit=80) for path in there[:NAMED]) + (" and more" if len(there) > NAMED else "")
    message = f'there is no Dockerfile "{visible(named, limit=120)}" in the context; ' + (
        f"there is {shown}" if there else "there is none at all"
    )
    step = "Name one of these." if there else "Add it, or leave --dockerfile out: a runtime may build the source."
    return BuildError("InvalidRequest", message, where="dockerfilePath", next=step, error_class=ErrorClass.CLIENT)


def _looks_like_one(name: str) -> bool:
    lower = name.lower()
    if lower.endswith(".dockerignore"):
        return False
    return lower in ("dockerfile", "containerfile") or lower.startswith("dockerfile.") or lower.endswith(".dockerfile")
