"""What the configs of CNB images contain: a builder image, and an app that the lifecycle exported. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from builder.buildpacks.project import FILE, WantedBuildpack
from builder.errors import BuildError
from builder.text import strangers_json

PLATFORM_API = "0.14"
"""Platform API of the Jobs. The first by which a layer of the cache is restored without the previous image."""

USER, GROUP = "CNB_USER_ID", "CNB_GROUP_ID"
APIS_LABEL = "io.buildpacks.lifecycle.apis"
BUILDER_LABEL = "io.buildpacks.builder.metadata"
APP_LABEL = "io.buildpacks.lifecycle.metadata"
BUILD_LABEL = "io.buildpacks.build.metadata"
REBASABLE_LABEL = "io.buildpacks.rebasable"
MOST_ID = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A builder image. `buildpacks` are those that its label lists, empty where it has none."""

    uid: int
    gid: int
    buildpacks: tuple[WantedBuildpack, ...] = ()


@dataclass(frozen=True, kw_only=True)
class App:
    """An exported app: the reference of its run image, the diff_id of that image's last layer and of the layer with the
    SBOM (empty for none), and the buildpacks that made it.

    `run_names` are the run image and its mirrors, one of which a later run image must have."""

    run_image: str
    top_layer: str
    run_names: tuple[str, ...] = ()
    is_rebasable: bool = True
    sbom: str = ""
    buildpacks: tuple[WantedBuildpack, ...] = ()


def read_builder(config: Mapping[str, Any]) -> Builder:
    """The builder of an image config. Raises `BuildError` InvalidRequest for an image that cannot build here."""
    inner = config.get("config") or {}
    env = dict(row.partition("=")[::2] for row in inner.get("Env") or ())
    uid, gid = (_identity(env.get(name, ""), name) for name in (USER, GROUP))
    labels = inner.get("Labels") or {}
    apis = _json(labels, APIS_LABEL).get("platform")
    supported = [*(apis.get("supported") or ()), *(apis.get("deprecated") or ())] if isinstance(apis, dict) else []
    if supported and PLATFORM_API not in supported:
        _refuse(f"its lifecycle has no Platform API {PLATFORM_API}, but {', '.join(map(str, supported))}")
    return Builder(uid=uid, gid=gid, buildpacks=_buildpacks(_json(labels, BUILDER_LABEL)))


def read_app(config: Mapping[str, Any]) -> App | None:
    """What the lifecycle wrote of an app; None for an image that it did not export."""
    labels = (config.get("config") or {}).get("Labels") or {}
    value = _json(labels, APP_LABEL)
    run_image, sbom = value.get("runImage"), value.get("sbom")
    if not isinstance(run_image, dict) or not run_image.get("topLayer"):
        return None
    stack = value.get("stack")
    before = stack.get("runImage") if isinstance(stack, dict) else None
    return App(
        run_image=str(run_image.get("reference", "")),
        top_layer=str(run_image["topLayer"]),
        run_names=tuple(dict.fromkeys((*_names(run_image), *_names(before)))),
        is_rebasable=labels.get(REBASABLE_LABEL) != "false",
        sbom=str(sbom.get("sha", "")) if isinstance(sbom, dict) else "",
        buildpacks=_buildpacks(_json(labels, BUILD_LABEL)),
    )


def _names(run_image: Any) -> tuple[str, ...]:
    """The run image of a label, and its mirrors."""
    if not isinstance(run_image, dict):
        return ()
    mirrors = run_image.get("mirrors")
    names = [run_image.get("image"), *(mirrors if isinstance(mirrors, list) else ())]
    return tuple(name for name in names if isinstance(name, str) and name)


def resolve(group: Sequence[WantedBuildpack], builder: Builder) -> tuple[WantedBuildpack, ...]:
    """The buildpacks that `project.toml` names, each with its version.

    Raises `BuildError` ManifestInvalid for one that the builder does not have, and lists those that it has.
    """
    found = []
    for one in group:
        has = [known for known in builder.buildpacks if known.id == one.id and one.version in ("", known.version)]
        if not has:
            named = f"{one.id}@{one.version}" if one.version else one.id
            known = ", ".join(f"{known.id}@{known.version}" for known in builder.buildpacks) or "none by its label"
            raise BuildError(
                "ManifestInvalid",
                f"{FILE}: the builder has no buildpack {named}",
                where=FILE,
                next=f"Name one that it has: {known}",
            )
        found.append(WantedBuildpack(id=one.id, version=has[-1].version, optional=one.optional))
    return tuple(found)


def _identity(text: str, name: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_ID:
        _refuse(f"{name} is {text[:20] or 'absent'}, and no number above 0")
    return int(text)


def _buildpacks(value: Mapping[str, Any]) -> tuple[WantedBuildpack, ...]:
    rows = value.get("buildpacks")
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return tuple(WantedBuildpack(id=str(row.get("id", "")), version=str(row.get("version", ""))) for row in found)


def _json(labels: Mapping[str, str], name: str) -> Mapping[str, Any]:
    try:
        value = strangers_json(labels.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse(words: str) -> NoReturn:
    raise BuildError(
        "InvalidRequest",
        f"the builder image cannot build: {words}",
        where="buildpacks_builder",
        next="An operator names a builder image of Cloud Native Buildpacks whose user is not root.",
    )
