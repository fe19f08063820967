"""What a rebase comes to: whether an image may stand on another run image, and what decides its Job and its key. Pure.

The lifecycle's `rebaser` decides it again in the Job (Platform specification, "rebaser"). What it would refuse is
refused here by the same labels, before there is a Job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from builder.buildpacks.image import read_app
from builder.contract.materials import BUILDPACKS
from builder.contract.request import REBASED, REBUILD
from builder.errors import BuildError
from builder.key import FORMAT, digest_of
from builder.plan import PLATFORM

HUB = "index.docker.io"


@dataclass(frozen=True, kw_only=True)
class RebasePlan:
    """An image that is put on a run image, both by digest. `unchanged`: it stands on that one already."""

    image: str
    run_image: str
    unchanged: bool


def plan_rebase(config: Mapping[str, Any], *, image: str, run_image: str) -> RebasePlan:
    """The plan for an `image` with this config. Raises `BuildError` InvalidRequest for one that cannot be rebased."""
    app = read_app(config)
    if app is None:
        _refuse(f"{image} has no label of buildpacks that names its run image")
    if not app.is_rebasable:
        _refuse(f"{image} cannot be rebased: what built it changed the layers of its run image")
    if name_of(run_image) not in {name_of(one) for one in app.run_names}:
        known, current = ", ".join(app.run_names) or "a run image without a name", run_image.partition("@")[0]
        _refuse(f"{image} stands on {known}, and this server's run image is {current}: another one, no later version")
    unchanged = _digest(app.run_image) == _digest(run_image)
    return RebasePlan(image=image, run_image=run_image, unchanged=unchanged)


def key_of(plan: RebasePlan, *, organization: str, builder: str) -> str:
    """The build key. `builder` has the lifecycle, by digest."""
    effects = {
        "strategy": "rebase",
        "image": _digest(plan.image),
        "run_image": _digest(plan.run_image),
        "builder": _digest(builder),
    }
    parts: dict[str, Any] = {
        "format": FORMAT,
        "organization": organization,
        "platform": PLATFORM,
        "image": effects,
    }
    return digest_of(parts)


def materials_of(plan: RebasePlan, *, builder: str) -> tuple[tuple[str, str], ...]:
    """(name, digest) of what the image is made of, and of what made it."""
    return (
        (BUILDPACKS, _digest(builder)),
        plan.run_image.rpartition("@")[::2],
        plan.image.rpartition("@")[::2],
    )


def name_of(reference: str) -> str:
    """Registry, repository and tag of a reference, as the lifecycle compares run images: without the digest."""
    path = reference.partition("@")[0]
    path = path if ":" in path.rpartition("/")[2] else f"{path}:latest"
    host, slash, rest = path.partition("/")
    if not slash or not (host == "localhost" or {".", ":"} & {*host}):
        host, rest = HUB, path
    if host in ("docker.io", HUB):
        host, rest = HUB, rest if "/" in rest else f"library/{rest}"
    return f"{host}/{rest}"


def _digest(reference: str) -> str:
    return reference.rpartition("@")[2]


def _refuse(message: str) -> NoReturn:
    raise BuildError("InvalidRequest", message, where=REBASED, next=REBUILD)
