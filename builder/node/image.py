"""The line of image mode on a build node: fetch → unpack → check → plan → archive → mark → Job.

Nothing of the source runs here. What the Job does is the business of whoever watches it (`builder/watcher/`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from builder.attempt.attempt import Attempt
from builder.attempt.canonical import Archive, write_archive
from builder.attempt.fetch import open_source, reading_source
from builder.attempt.log import wall_ms
from builder.attempt.planned import report_key
from builder.attempt.verdict import of_error
from builder.claims.calls import Backoff, Refused, Unanswered
from builder.claims.outcome import Outcome, Verdict
from builder.claims.requests import launching_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dockerfile.choose import ImageRequest
from builder.errors import BuildError, PlatformError
from builder.kaniko.manifest import DockerfileBuild, cache_repository, manifest
from builder.kaniko.plan import DockerfilePlan, key_of, materials_of, write_facts
from builder.kube import job as jobs
from builder.kube.job import Site, push_secret
from builder.kube.site import site_of
from builder.logs import logger
from builder.node.cluster import cluster_of
from builder.plan import Toolchain
from builder.settings import Settings
from builder.source import limits

log = logger("worker")

T = TypeVar("T")
URL_S, URL_MARGIN_S = 3600, 120
"""How long the URL of an archive lives at most, and beyond the time of its build: a Job may wait for a node before it
fetches, and is of no use once its time is over."""
AGAIN_S = 0.2
NO_TOOLCHAIN = Toolchain(name="kaniko", runtime="", version="", target="", base="")
CREATES = 8
"""Tries to create a Job in a cluster that does not answer."""


class Cluster(Protocol):
    """Where Jobs run. Each method raises `PlatformError`."""

    def create(self, job: Mapping[str, Any], secret_of: Callable[[str], Mapping[str, Any]] | None = None) -> str: ...

    def delete(self, namespace: str, name: str, uid: str = "") -> None: ...


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Makes a Job of a claimed build. `login`: what Jobs push with, (user, password) or nothing."""

    site: Site
    cluster: Cluster
    login: tuple[str, str] | None = None
    use_cache: bool = True

    def run(self, attempt: Attempt) -> Outcome:
        """Turn one claimed build into one Job, or another outcome. Does not raise."""
        try:
            return self._launch(attempt)
        except BuildError as error:
            return Outcome(failure=error)
        except Exception as error:  # a fault of the builder or of its node, never the user's
            if known := of_error(attempt, error):
                known.phase = attempt.log.phase_name
                return Outcome(failure=known, unexpected=repr(error))
            message = f"{type(error).__name__} in the builder; the worker's own log has the trace"
            return Outcome(failure=BuildError("Internal", message), unexpected=repr(error))

    def abandon(self, job: pb.Job) -> None:
        """Delete the Job of a build that was cancelled meanwhile. What is left is swept."""
        try:
            self.cluster.delete(job.namespace, job.name)
        except PlatformError as error:
            log.warning("a Job was not deleted", action="job-left", job=job.name, error=str(error))

    def _launch(self, attempt: Attempt) -> Outcome:
        attempt.node.label("after-claim")
        asked = attempt.grant.request.code.image.from_code
        arguments = dict(asked.build_args or attempt.grant.request.build_args)
        with reading_source(attempt) as reading:
            with attempt.phase("FETCH_SOURCE"):
                source = open_source(attempt, reading)
                attempt.log.system(source.summary)
            with attempt.phase("DETECT"):
                dockerfile = asked.dockerfile_path or attempt.grant.request.dockerfile
                plan = reading.image(ImageRequest(dockerfile=dockerfile, sub_path=asked.sub_path, build_args=arguments))
                attempt.log.system(f"an image by Kaniko, because {plan.because}")
                for warning in (*source.warnings, *plan.warnings):
                    attempt.log.system(f"warning: {warning}")
        with attempt.phase("PLAN"):
            key = key_of(
                plan,
                organization=attempt.grant.organization_name,
                code_hash=source.code_hash,
                build_args=arguments,
                executor=self.site.executor,
                build_id=attempt.grant.build_id,
            )
            warnings = (*source.warnings, *plan.warnings)
            verdict = report_key(attempt, key, source.code_hash, NO_TOOLCHAIN, warnings)
        if verdict is not Verdict.GO_ON:
            return Outcome(verdict=verdict)
        attempt.log.phase_name = "BUILD"
        return Outcome(job=self._create(attempt, plan, arguments))

    def _create(self, attempt: Attempt, plan: DockerfilePlan, arguments: Mapping[str, str]) -> pb.Job:
        """Store the archive, mark the attempt, create the Job. Raises `BuildError`."""
        target = attempt.grant.destination
        if not target.registry:
            message = "a Job pushes to a registry, and this server has none"
            raise BuildError("ToolchainUnavailable", message, next="An operator sets registry on the control side.")
        archive = write_archive(
            attempt.source, attempt.private / "archive.tar", limit=limits.Limits().archive, check=attempt.check
        )
        stored = self._stored(attempt, archive)
        left_ms = int(attempt.time_limit.left_ms(attempt.now()))
        named = jobs.Attempt(
            build_id=attempt.grant.build_id,
            number=attempt.grant.attempt,
            organization=attempt.grant.organization_name,
        )
        made = manifest(
            self.site,
            named,
            jobs.Source(
                url=stored.url,
                digest=stored.sha256,
                archive_bytes=archive.size,
                unpacked_bytes=archive.unpacked,
            ),
            limits_of(attempt.node.settings, left_ms),
            self._build(attempt, plan, arguments),
        )
        job = pb.Job(
            strategy="kaniko",
            name=named.job,
            namespace=self.site.namespace,
            deadline_at_ms=wall_ms() + left_ms,
            facts=write_facts(plan, materials_of(plan, executor=self.site.executor, archive=stored.sha256)),
        )
        attempt.node.label("before-mark")
        marked = _insist(attempt, lambda: attempt.node.calls.launching(launching_request(attempt.lease, job)))
        if marked.stale:
            attempt.lose()
        if marked.stale or marked.cancel:
            raise BuildError("Cancelled", "stopped before its Job was created")
        attempt.node.label("marked")
        login = self.login
        secret = (lambda uid: push_secret(self.site, named, uid, {target.registry: login})) if login else None
        self._persistently(attempt, made, secret)
        attempt.node.label("created")
        attempt.log.system(f"Job {job.namespace}/{job.name} builds it, with {self.site.executor}")
        return job

    def _build(self, attempt: Attempt, plan: DockerfilePlan, arguments: Mapping[str, str]) -> DockerfileBuild:
        target, organization = attempt.grant.destination, attempt.grant.organization_name
        cache = ""
        if self.use_cache and not attempt.grant.request.no_cache:
            before, found, _ = f"/{target.repository}".partition(f"/{organization}/")
            cache = cache_repository(f"{target.registry}{before}", organization) if found else ""
        return DockerfileBuild(
            repository=f"{target.registry}/{target.repository}",
            tag=target.tag,
            dockerfile=plan.dockerfile,
            sub_path=plan.sub_path,
            build_args=tuple(sorted(arguments.items())),
            cache_repository=cache,
            insecure_registries=(target.registry,) if target.insecure else (),
            has_push_secret=self.login is not None,
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


def limits_of(settings: Settings, left_ms: int) -> jobs.Limits:
    """What a Job may use."""
    return jobs.Limits(
        cpus=settings.cpus, memory_bytes=settings.memory_bytes, disk_bytes=settings.disk_bytes, timeout_ms=left_ms
    )


def launcher_of(settings: Settings) -> Launcher:
    """The launcher of a worker that serves the queue `image`. Raises `BuildError` InvalidRequest as `site_of`."""
    login = (settings.job_registry_username, settings.job_registry_password)
    return Launcher(
        site=site_of(settings),
        cluster=cluster_of(settings),
        login=login if settings.job_registry_username else None,
        use_cache=settings.kaniko_cache,
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
