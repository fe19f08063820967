"""The line of image mode on a build node: fetch → unpack → check → plan → archive → mark → Job.

Nothing of the source runs here. What the Job does is the business of whoever watches it (`builder/watcher/`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from builder.attempt.attempt import Attempt
from builder.attempt.canonical import Archive, context_hash, write_archive
from builder.attempt.fetch import open_source, reading_source
from builder.attempt.log import wall_ms
from builder.attempt.planned import report_key
from builder.attempt.verdict import of_fault
from builder.claims.calls import Backoff, Refused, Unanswered
from builder.claims.outcome import Outcome, Verdict
from builder.claims.requests import launching_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import REBASED, built_image, is_rebase
from builder.dockerfile.choose import ImageRequest
from builder.errors import BuildError, ErrorClass, PlatformError
from builder.images.external import Access, Login, read_config
from builder.images.reference import parse
from builder.kube import job as jobs
from builder.kube.job import push_secret
from builder.kube.site import limits_of, site_of
from builder.logs import logger
from builder.node import rebase
from builder.node.cluster import cluster_of
from builder.plan import PLATFORM, Toolchain
from builder.settings import Settings
from builder.source import limits
from builder.strategies import STRATEGIES, buildpacks, by_name
from builder.strategies.base import Choice, Keyed, Setup, Strategy, Target, prefix_of, target_of

log = logger("worker")

T = TypeVar("T")
URL_S, URL_MARGIN_S = 3600, 120
"""How long the URL of an archive lives at most, and beyond the time of its build: a Job may wait for a node before it
fetches, and is of no use once its time is over."""
AGAIN_S = 0.2
REBASE_NEXT = "An operator sets buildpacks up with buildpacks_builder and buildpacks_run_image."
CREATES = 8
"""Tries to create a Job in a cluster that does not answer."""
WITHDRAWS = 4
"""Tries to delete a Job whose creation failed; then a watcher's sweep does."""


class Cluster(Protocol):
    """Where Jobs run. Each method raises `PlatformError`."""

    def create(self, job: Mapping[str, Any], secret_of: Callable[[str], Mapping[str, Any]] | None = None) -> str: ...

    def delete(self, namespace: str, name: str, uid: str = "") -> None: ...


ReadConfig = Callable[[str, Access, Login | None], Mapping[str, Any]]
"""(image by digest, how registries are reached, a login of its registry) → its config. Raises `BuildError`."""


def _read_config(image: str, access: Access, login: Login | None) -> Mapping[str, Any]:
    return read_config(parse(image), PLATFORM, access, login)


@dataclass(frozen=True, kw_only=True)
class ImagePlanned:
    """A source with its strategy, what the operator set up of it, what that taught it, and the plan."""

    strategy: Strategy
    setup: Setup
    known: str
    plan: Any


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Makes a Job of a claimed build. `setups` by the name of the strategy, those that the operator set up.

    `login`: what Jobs push with, (user, password) or nothing; `logins` by organization stand in its place.
    """

    setups: Mapping[str, Setup]
    cluster: Cluster
    login: tuple[str, str] | None = None
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ca_bundle: str = ""
    read_config: ReadConfig = _read_config
    _known: dict[str, str] = field(default_factory=dict)
    """What strategies learned of images that are named by digest."""
    _organizations: set[str] = field(default_factory=set)
    """Whose Jobs pushed with the one login."""

    def run(self, attempt: Attempt) -> Outcome:
        """Turn one claimed build into one Job, or another outcome. Does not raise."""
        try:
            return self._launch(attempt)
        except BuildError as error:
            return Outcome(failure=error)
        except Exception as error:
            return of_fault(attempt, error)

    def abandon(self, job: pb.Job) -> bool:
        """Delete the Job of a build that was cancelled meanwhile. What is left (False) is swept."""
        try:
            self.cluster.delete(job.namespace, job.name)
            return True
        except PlatformError as error:
            log.warning("a Job was not deleted", action="job-left", job=job.name, error=str(error))
            return False

    def _withdraw(self, attempt: Attempt, job: pb.Job) -> None:
        """Delete the Job that may be there although its creation failed: the build ends, or goes on in another one. A
        claim that is lost has left it to whoever adopts the marked attempt."""
        backoff, changed = Backoff(0.5, 8.0), attempt.log.spool.changed
        for left in reversed(range(WITHDRAWS)):
            if not attempt.lease.holds(attempt.now()) or self.abandon(job) or not left:
                return
            with changed:
                changed.wait_for(lambda: attempt.lease.lost, backoff.pause_s())

    def _launch(self, attempt: Attempt) -> Outcome:
        attempt.node.label("after-claim")
        self._note_shared(attempt.grant.organization_name, self._job_login(attempt))
        if is_rebase(attempt.grant.request):
            return self._rebase(attempt)
        asked, _ = built_image(attempt.grant.request)
        arguments = dict(asked.build_args or attempt.grant.request.build_args)
        request = ImageRequest(
            dockerfile=asked.dockerfile_path or attempt.grant.request.dockerfile,
            sub_path=asked.sub_path,
            build_args=arguments,
            buildpacks=attempt.grant.request.buildpacks,
            registry=attempt.grant.destination.registry,
            prefix=prefix_of(attempt.grant.destination.repository, attempt.grant.organization_name),
        )
        with reading_source(attempt) as reading:
            with attempt.phase("FETCH_SOURCE"):
                source = open_source(attempt, reading)
                attempt.log.system(source.summary)
            with attempt.phase("DETECT"):
                strategy, setup = self._set_up(reading.strategy(request))
                known = self._learned(attempt, strategy, setup)
                plan = reading.image(strategy, request, known)
                attempt.log.system(f"an image by {strategy.TITLE}, because {plan.because}")
                warnings = (*source.warnings, *plan.warnings)
                for warning in warnings:
                    attempt.log.system(f"warning: {warning}")
        with attempt.phase("PLAN"):
            keyed = Keyed(
                organization=attempt.grant.organization_name,
                code_hash=context_hash(attempt.source / plan.sub_path) if plan.sub_path else source.code_hash,
                build_args=arguments,
                build_id=attempt.grant.build_id,
            )
            toolchain = Toolchain(name=strategy.NAME, runtime="", version="", target="", base="")
            key = strategy.key(plan, setup, keyed)
            verdict = report_key(attempt, key, source.code_hash, toolchain, warnings, source.provenance)
        if verdict is not Verdict.GO_ON:
            return Outcome(verdict=verdict)
        attempt.log.phase_name = "BUILD"
        planned = ImagePlanned(strategy=strategy, setup=setup, known=known, plan=plan)
        return Outcome(job=self._create(attempt, planned, arguments))

    def _rebase(self, attempt: Attempt) -> Outcome:
        """A Job that puts the image of a build on the current run image, or the answer that it is there already."""
        if (setup := self.setups.get(buildpacks.NAME)) is None:
            message = f"an image is rebased by {buildpacks.TITLE}, and this server has none"
            raise BuildError("InvalidRequest", message, where=REBASED, next=REBASE_NEXT)
        _check_registry(attempt)
        made, verdict = rebase.plan(attempt, setup, lambda image: self._read(attempt, image))
        if verdict is not Verdict.GO_ON:
            return Outcome(verdict=verdict)
        attempt.log.phase_name = "BUILD"
        known = self._learned(attempt, buildpacks, setup)
        named, allowed = self._named(attempt), self._allowed(attempt)
        job = buildpacks.rebase_job(made, setup, known, named, allowed, self._target(attempt, {}))
        facts = buildpacks.rebase_facts(made, setup)
        return Outcome(job=self._start(attempt, buildpacks, setup, job, facts, allowed.timeout_ms))

    def _job_login(self, attempt: Attempt) -> tuple[str, str] | None:
        """What a Job of this build pushes with. Raises `BuildError` ToolchainUnavailable for an organization that has
        no row where others have: none of their logins is for it."""
        if not self.logins:
            return self.login
        organization = attempt.grant.organization_name
        if (found := self.logins.get(organization)) is None:
            message = f"a Job pushes with the login of its organization, and {organization} has none on this node"
            step = f"An operator adds a row for {organization} to job_registry_logins of the workers and watchers."
            raise BuildError("ToolchainUnavailable", message, where="job_registry_logins", next=step)
        return found

    def _note_shared(self, organization: str, login: tuple[str, str] | None) -> None:
        """One warning for each organization after the first that has the same login: code of its builds can read it."""
        if login is None or self.logins or organization in self._organizations:
            return
        self._organizations.add(organization)
        if len(self._organizations) > 1:
            message = "Jobs of several organizations have one login, and each may push over the others' images with it"
            step = "set job_registry_logins, a login for each"
            log.warning(message, action="login-shared", organization=organization, next=step)

    def _set_up(self, choice: Choice) -> tuple[Strategy, Setup]:
        """The strategy of a choice, and its setup. Raises `BuildError` InvalidRequest where the operator has none."""
        strategy = by_name(choice.strategy)
        assert strategy is not None
        if (setup := self.setups.get(choice.strategy)) is None:
            message = f"{choice.because}, and this server has no {strategy.TITLE}"
            raise BuildError(
                "InvalidRequest",
                message,
                where="dockerfilePath",
                next=strategy.NEXT,
                error_class=ErrorClass.CLIENT,
            )
        return strategy, setup

    def _learned(self, attempt: Attempt, strategy: Strategy, setup: Setup) -> str:
        """What the strategy needs of the operator's image. Raises `PlatformError` ExecutorImageUnavailable,
        RegistryUnavailable."""
        name = f"{strategy.NAME} {setup.reads}"
        if name in self._known:
            return self._known[name]
        try:
            known = strategy.learn(setup, self._read(attempt, setup.reads) if setup.reads else {})
        except PlatformError:
            raise
        except BuildError as error:  # the image is the operator's: no request makes it another one
            message = f"{setup.reads} cannot build: {error.message}"
            raise PlatformError("ExecutorImageUnavailable", message) from error
        self._known[name] = known
        return known

    def _read(self, attempt: Attempt, image: str) -> Mapping[str, Any]:
        """The config of an image, with the login of Jobs where it is in the registry that they push to."""
        host, target = parse(image).api_host, attempt.grant.destination
        is_target = host == target.registry
        access = Access(
            private=(host,),
            insecure=(host,) if is_target and target.insecure else (),
            ca_bundle=self.ca_bundle,
        )
        found = self._job_login(attempt) if is_target else None
        login = Login(username=found[0], password=found[1]) if found else None
        return self.read_config(image, access, login)

    def _create(self, attempt: Attempt, planned: ImagePlanned, arguments: Mapping[str, str]) -> pb.Job:
        """Store the archive, mark the attempt, create the Job. Raises `BuildError`."""
        strategy, setup, plan = planned.strategy, planned.setup, planned.plan
        _check_registry(attempt)
        archive = write_archive(
            attempt.source,
            attempt.private / "archive.tar",
            limit=limits.ArchiveLimits().archive,
            check=attempt.check,
            folder=plan.sub_path,
            part=strategy.part(plan),
        )
        stored = self._stored(attempt, archive)
        allowed = self._allowed(attempt)
        made = strategy.manifest(
            plan,
            setup,
            planned.known,
            self._named(attempt),
            jobs.JobSource(
                url=stored.url,
                digest=stored.sha256,
                archive_bytes=archive.size,
                unpacked_bytes=archive.unpacked,
            ),
            allowed,
            self._target(attempt, arguments),
        )
        facts = strategy.facts(plan, setup, stored.sha256)
        return self._start(attempt, strategy, setup, made, facts, allowed.timeout_ms)

    def _allowed(self, attempt: Attempt) -> jobs.JobLimits:
        """What the Job may use."""
        left_ms = int(attempt.time_limit.left_ms(attempt.now()))
        return limits_of(attempt.node.settings, attempt.grant.organization_name, left_ms)

    def _named(self, attempt: Attempt) -> jobs.JobAttempt:
        return jobs.JobAttempt(
            build_id=attempt.grant.build_id,
            number=attempt.grant.attempt,
            organization=attempt.grant.organization_name,
        )

    def _start(
        self,
        attempt: Attempt,
        strategy: Strategy,
        setup: Setup,
        made: Mapping[str, Any],
        facts: str,
        left_ms: int,
    ) -> pb.Job:
        """Mark the attempt, create the Job `made`. Raises `BuildError`."""
        site, named, registry = setup.site, self._named(attempt), attempt.grant.destination.registry
        job = pb.Job(
            strategy=strategy.NAME,
            name=named.job,
            namespace=site.namespace,
            deadline_at_ms=wall_ms() + left_ms,
            facts=facts,
        )
        attempt.node.label("before-mark")
        marked = _insist(attempt, lambda: attempt.node.calls.launching(launching_request(attempt.lease, job)))
        if marked.stale:
            attempt.lose()
        if marked.stale or marked.cancel:
            raise BuildError("Cancelled", "stopped before its Job was created")
        attempt.node.label("marked")
        login = self._job_login(attempt)
        secret = (lambda uid: push_secret(site, named, uid, {registry: login})) if login else None
        try:
            self._persistently(attempt, made, secret)
            attempt.node.label("created")
            attempt.log.system(f"Job {job.namespace}/{job.name} builds it, with {site.executor}")
        except Exception:
            self._withdraw(attempt, job)
            raise
        return job

    def _target(self, attempt: Attempt, arguments: Mapping[str, str]) -> Target:
        target = attempt.grant.destination
        return target_of(
            target.registry,
            target.repository,
            target.tag,
            organization=attempt.grant.organization_name,
            build_args=arguments,
            has_cache=not attempt.grant.request.no_cache,
            insecure=target.insecure,
            has_push_secret=self._job_login(attempt) is not None,
        )

    def _stored(self, attempt: Attempt, archive: Archive) -> pb.StoredArchive:
        calls, lease = attempt.node.calls, attempt.lease
        left_s = math.ceil(attempt.time_limit.left_ms(attempt.now()) / 1000)
        lives_s = max(1, min(URL_S, left_s + URL_MARGIN_S))
        try:
            return _insist(
                attempt,
                lambda: calls.store_archive(lease.build_id, lease.claim, archive.path, archive.sha256, lives_s),
            )
        except Refused as error:
            raise PlatformError("SourceStoreUnavailable", f"the context could not be stored: {error}") from error

    def _persistently(
        self, attempt: Attempt, made: Mapping[str, Any], secret: Callable[[str], Mapping[str, Any]] | None
    ) -> None:
        """Create the Job, once however often it is tried. A cluster that stumbles is waited for."""
        backoff = Backoff(0.5, 8.0)
        for left in reversed(range(CREATES)):
            try:
                self.cluster.create(made, secret)
                return
            except PlatformError as error:
                if not left or error.reason != "ClusterUnavailable":
                    raise
                attempt.log.system(f"{error.message}; trying again")
                attempt.pause(backoff.pause_s())


def has_cluster(settings: Settings) -> bool:
    """Whether an operator set up a strategy whose Jobs run in a cluster."""
    return bool(settings.kaniko_executor or settings.buildpacks_builder)


def _check_registry(attempt: Attempt) -> None:
    """Raises `BuildError` ToolchainUnavailable where artifacts go to a folder of the control side."""
    if not attempt.grant.destination.registry:
        message = "a Job pushes to a registry, and this server has none"
        raise BuildError("ToolchainUnavailable", message, next="An operator sets registry on the control side.")


def launcher_of(settings: Settings) -> Launcher:
    """The launcher of a worker that serves the queue `image`. Raises `BuildError` InvalidRequest as `site_of`, where no
    strategy is set up, or one by half."""
    setups = {one.NAME: found for one in STRATEGIES if (found := one.setup(settings)) is not None}
    if not setups:
        site_of(settings)
    login = (settings.job_registry_username, settings.job_registry_password)
    return Launcher(
        setups=setups,
        cluster=cluster_of(settings),
        login=login if settings.job_registry_username else None,
        logins={one.organization: (one.username, one.password) for one in settings.job_registry_logins},
        ca_bundle=settings.ca_bundle,
    )


def _insist(attempt: Attempt, call: Callable[[], T]) -> T:
    """Repeat a call until it is answered. All of it is a wait for the control side. Raises as `Attempt.check`."""
    with attempt.waiting():
        while True:
            attempt.check()
            try:
                return call()
            except Unanswered:
                attempt.pause(AGAIN_S)
