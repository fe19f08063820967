"""What a strategy of image mode is: from a source to a Job, and from a Job's log to what it meant. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from builder.dockerfile.choose import ImageRequest
from builder.kube.ended import Ended
from builder.kube.job import JobAttempt, JobLimits, JobSource, Site
from builder.plan import Diagnosis
from builder.settings import Settings

Materials = tuple[tuple[str, str], ...]
"""(name, digest) of what goes into an image."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which strategy builds a source, and why."""

    strategy: str
    because: str


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an operator decides about a strategy's Jobs. `reads`: the image whose config decides plans, empty for none.

    `allowed` are globs of what a source may name: of build arguments for buildpacks, of images for Kaniko.
    """

    site: Site
    run_image: str = ""
    allowed: tuple[str, ...] = ()
    reads: str = ""
    has_cache: bool = True


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """What joins the build key beside the plan."""

    organization: str
    code_hash: str
    build_args: Mapping[str, str]
    build_id: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a Job pushes. `cache_prefix` is "host[/path]" above the organization's repositories, empty without a
    cache."""

    organization: str
    repository: str
    tag: str
    build_args: Mapping[str, str]
    cache_prefix: str = ""
    insecure_registries: tuple[str, ...] = ()
    has_push_secret: bool = False


def target_of(
    registry: str,
    repository: str,
    tag: str,
    *,
    organization: str,
    build_args: Mapping[str, str],
    has_cache: bool,
    insecure: bool,
    has_push_secret: bool,
) -> Target:
    """The target of an attempt's tag. `insecure`: the registry is spoken to in plain HTTP."""
    before, found, _ = f"/{repository}".rpartition(f"/{organization}/")
    return Target(
        organization=organization,
        repository=f"{registry}/{repository}",
        tag=tag,
        build_args=build_args,
        cache_prefix=f"{registry}{before}" if found and has_cache else "",
        insecure_registries=(registry,) if insecure else (),
        has_push_secret=has_push_secret,
    )


def prefix_of(repository: str, organization: str) -> str:
    """What the repositories of an organization begin with, by one of them; no more than that where it is ambiguous."""
    before, _, _ = f"/{repository}".rpartition(f"/{organization}/")
    return f"{before}/{organization}".lstrip("/")


class StrategyPlan(Protocol):
    """What every strategy's plan has."""

    @property
    def because(self) -> str: ...

    @property
    def sub_path(self) -> str:
        """The folder of the source that it is built from, by its path from the root."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


class Reading(Protocol):
    """How one Job's log and end are read."""

    @property
    def materials(self) -> Materials: ...

    @property
    def push_is_upload(self) -> bool:
        """Whether phase PUSH begins with what `uploads` tells."""
        ...

    def shown(self, line: str) -> str:
        """A line of the Job as the build's log has it."""
        ...

    def pushes(self, container: str, line: str) -> bool:
        """Whether the image is made once this line is there, so that it is pushed now."""
        ...

    def uploads(self, container: str, line: str) -> bool:
        """Whether from this line on the tool only waits for the registry that gets the image."""
        ...

    def explaining(self, ended: Ended) -> tuple[str, ...]:
        """The containers whose logs explain this end."""
        ...

    def is_own(self, line: str) -> bool:
        """Whether the line is the tool's own, and of use for an explanation however long ago it was."""
        ...

    def digest(self, said: str) -> str:
        """The digest of the pushed image by the Job's termination message; empty where it has none."""
        ...

    def diagnose(self, ended: Ended, lines: Mapping[str, Sequence[str]]) -> Diagnosis:
        """What a person needs of a Job that ended with a failure: `lines` by container, those of `explaining`."""
        ...


class Planner(Protocol):
    """A module that plans images of sources."""

    NAME: str
    """As the record of a build has it."""
    TITLE: str
    """For people."""
    PLAN: type[Any]
    """The dataclass of its plans: a `StrategyPlan`."""

    def plan(self, root: Path, asked: ImageRequest, known: str) -> Any:
        """What would build the image; `known` is of `learn`. Raises `BuildError` for a source that cannot be built."""
        ...


class Strategy(Planner, Protocol):
    """A module that makes Jobs of sources. mypy checks those in `STRATEGIES`."""

    NEXT: str
    """What a user may do where no operator has set it up."""
    OUTPUT_LINES: int
    """How many lines of a container, beside the tool's own, explain an end."""
    IMAGES: Mapping[str, str]
    """The settings that name its images → the words that stand for them in a preview."""
    UNREAD: Mapping[str, str]
    """Words that stand in a preview for what an image's config decides → what that is."""
    NUMBERS: Mapping[int, str]
    """Numbers that no image has → the words of `UNREAD` that they become in the end."""

    def setup(self, settings: Settings) -> Setup | None:
        """What the operator set up; None for nothing. Raises `BuildError` InvalidRequest for half of it."""
        ...

    def takes(self, root: Path, asked: ImageRequest) -> str:
        """Why it builds the source below `root`; empty where it does not. Raises `BuildError` InvalidRequest."""
        ...

    def learn(self, setup: Setup, config: Mapping[str, Any]) -> str:
        """What its plans and Jobs need of the setup, as text, from the config of the image that `reads` names.

        Raises `BuildError` for an image that cannot build.
        """
        ...

    def unread(self, setup: Setup, root: Path, asked: ImageRequest) -> str:
        """As `learn`, of an image that nobody reads: with `UNREAD` and `NUMBERS`. Raises `BuildError` as `plan`."""
        ...

    def key(self, plan: Any, setup: Setup, keyed: Keyed) -> str:
        """The build key."""
        ...

    def part(self, plan: Any) -> Callable[[str], bool] | None:
        """Whether a file, by its path from the source's root, is sent to the Job; None for all of them."""
        ...

    def facts(self, plan: Any, setup: Setup, archive: str) -> str:
        """What whoever watches the Job needs, as text; `archive` is the digest of the context."""
        ...

    def manifest(
        self,
        plan: Any,
        setup: Setup,
        known: str,
        attempt: JobAttempt,
        source: JobSource,
        limits: JobLimits,
        target: Target,
    ) -> dict[str, Any]:
        """The Job."""
        ...

    def read(self, facts: str) -> Reading:
        """How the Job is read; without usable facts it explains less."""
        ...
