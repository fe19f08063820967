"""What the cluster suite shares: sources over HTTP, Jobs created and attended, pushed images pulled and started."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import http.server
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from builder.buildpacks.manifest import BuildpacksBuild, Rebase
from builder.errors import PlatformError
from builder.images.registry import connect as connect_registry
from builder.images.store import pull
from builder.kaniko.ended import Instruction
from builder.kaniko.manifest import DockerfileBuild, cache_repository, manifest
from builder.kube.api import connect
from builder.kube.attend import attend
from builder.kube.ended import Ended, Patience
from builder.kube.job import PUSH_VOLUME, JobAttempt, JobLimits, JobSource, Site, push_secret
from builder.kube.logs import Cursor, Line
from builder.kube.watch import Watch
from tests.build_fixtures import Files, tar_of
from tests.cluster import images, pods
from tests.cluster.cluster import Cluster

T = TypeVar("T")
MIB = 1024 * 1024
NAMESPACE = "ignite-kaniko"
ORGANIZATION = "acme"
LIMITS = JobLimits(cpus=1, memory_bytes=512 * MIB, disk_bytes=1024 * MIB, timeout_ms=300_000)


class Sources:
    """A source store on the bridge: archives by digest, and answers that a test sets."""

    def __init__(self, address: str) -> None:
        self.archives: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures = 0
        """How many requests from now on are answered 503."""

        sources = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sources.requests.append(self.path)
                body = sources.archives.get(self.path.partition("?")[0].lstrip("/"))
                code = 200 if body is not None else 404
                if sources.failures:
                    sources.failures, code = sources.failures - 1, 503
                self.send_response(code)
                self.end_headers()
                if code == 200 and body is not None:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, files: Files, *, digest: str = "") -> JobSource:
        """The archive of these files as a Job names it; with another `digest` than its own for a wrong one."""
        archive = tar_of(files)
        digest = digest or "sha256:" + hashlib.sha256(archive).hexdigest()
        self.archives[digest] = archive
        host, port = self._server.server_address[:2]
        return JobSource(
            url=f"http://{host!s}:{port}/{digest}?signature=s3cret",
            digest=digest,
            archive_bytes=len(archive),
            unpacked_bytes=sum(len(content) + 2 * 4096 for content in files.values()),
        )


@dataclass
class Ran:
    """A Job to its end: how, with which lines of each container, and what it waited for."""

    attempt: JobAttempt
    ended: Ended
    lines: dict[str, list[str]]
    cursors: dict[str, Cursor]
    waits: list[str]

    @property
    def log(self) -> list[str]:
        return self.lines.get("kaniko", [])


@dataclass
class Jobs:
    """Makes Jobs on the cluster."""

    cluster: Cluster
    sources: Sources
    executor: str
    fetcher: str
    debian: str
    worker: Path
    watcher: Path
    """Kubeconfigs of the two accounts of deploy/kubernetes/rbac.yaml: no Job of the suite needs another right."""

    patience: Patience = field(default_factory=lambda: Patience(schedule_s=120, image_s=120))
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def site(self) -> Site:
        return Site(namespace=NAMESPACE, executor=self.executor, fetcher=self.fetcher)

    def attempt(self, number: int = 1) -> JobAttempt:
        return JobAttempt(build_id=f"b{next(self._ids):019d}", number=number, organization=ORGANIZATION)

    def build(self, name: str, **fields: Any) -> DockerfileBuild:
        """A build that pushes to the cluster's registry."""
        host = self.cluster.registry
        values: dict[str, Any] = {
            "repository": f"{host}/{ORGANIZATION}/{name}",
            "tag": "attempt-1",
            "insecure_registries": (host,),
            **fields,
        }
        return DockerfileBuild(**values)

    def cache(self) -> str:
        return cache_repository(self.cluster.registry, ORGANIZATION)

    def run(
        self,
        files: Files,
        build: DockerfileBuild,
        *,
        limits: JobLimits = LIMITS,
        source: JobSource | None = None,
        site: Site | None = None,
        change: Callable[[dict[str, Any]], None] = lambda job: None,
        during: Callable[[Watch, JobAttempt, Ran], Awaitable[None]] | None = None,
        patience: Patience | None = None,
    ) -> Ran:
        """Create the Job as a worker and attend it as a watcher; `during` runs beside, `change` edits the manifest."""
        attempt = self.attempt()
        job = manifest(site or self.site, attempt, source or self.sources.put(files), limits, build)
        change(job)
        return self.attended(job, attempt, during=during, patience=patience)

    def attended(
        self,
        job: dict[str, Any],
        attempt: JobAttempt,
        *,
        during: Callable[[Watch, JobAttempt, Ran], Awaitable[None]] | None = None,
        patience: Patience | None = None,
    ) -> Ran:
        """Create a Job, with the push credential where its pod waits for one, and attend it to its end."""
        namespace = job["metadata"]["namespace"]
        site = dataclasses.replace(self.site, namespace=namespace)
        volumes = job["spec"]["template"]["spec"]["volumes"]

        async def scenario() -> Ran:
            worker, api = await connect(str(self.worker)), await connect(str(self.watcher))
            watch = Watch(api, namespace)
            ran = Ran(attempt, Ended(), {}, {}, [])
            watching = asyncio.create_task(watch.run())
            beside: asyncio.Task[None] | None = None

            async def emit(container: str, lines: Sequence[Line], cursor: Cursor) -> None:
                ran.lines.setdefault(container, []).extend(line.text for line in lines)
                ran.cursors[container] = cursor

            try:
                await watch.ready()
                created = await worker.create("jobs", namespace, job)
                if any(volume["name"] == PUSH_VOLUME for volume in volumes):
                    hosts = {self.cluster.registry: ("robot", "s3cret")}
                    secret = push_secret(site, attempt, created["metadata"]["uid"], hosts)
                    await worker.create("secrets", namespace, secret)
                if during:
                    beside = asyncio.create_task(_all(during(watch, attempt, ran)))
                ran.ended = await asyncio.wait_for(
                    attend(
                        api,
                        watch,
                        namespace,
                        attempt.job,
                        emit,
                        patience=patience or self.patience,
                        waits=ran.waits.append,
                    ),
                    400,
                )
                if beside:
                    await asyncio.wait_for(beside, 300)
                return ran
            finally:
                watching.cancel()
                if beside:
                    beside.cancel()
                with suppress(PlatformError):
                    await worker.delete("jobs", namespace, attempt.job)
                await worker.close()
                await api.close()

        return asyncio.run(scenario())

    def pulled(
        self, build: DockerfileBuild | BuildpacksBuild | Rebase, folder: Path
    ) -> tuple[Path, dict[str, Any], str]:
        """(root, config, digest) of what a build pushed, read by our own client."""
        host, _, repository = build.repository.partition("/")
        registry = connect_registry(host, insecure=True)
        try:
            digest = registry.resolve(repository, build.tag)
            assert digest, f"{build.repository}:{build.tag} was not pushed"
            folder.mkdir(parents=True, exist_ok=True)
            config = pull(registry, repository, digest, folder)
        finally:
            registry.close()
        assert config is not None, f"{build.repository}:{build.tag} is a component"
        return folder / "root", config, digest

    def start(self, reference: str, *argv: str) -> tuple[int, str]:
        """Run an image as a pod of the cluster to its end: its exit code and output."""
        return pods.run(self.cluster, reference, *argv)

    def serving(self, reference: str) -> AbstractContextManager[str]:
        """The URL of an image that runs as a pod of the cluster, answering."""
        return pods.serving(self.cluster, reference)


@contextmanager
def jobs_of(cluster: Cluster) -> Iterator[Jobs]:
    """The cluster with the builder's manifests applied, and what a Job needs around it."""
    cluster.deploy(NAMESPACE)
    with Sources(cluster.address) as sources:
        yield Jobs(
            cluster,
            sources,
            executor=images.push_executor(cluster.registry),
            fetcher=images.push_fetcher(cluster.registry),
            debian=images.push_debian(cluster.registry),
            worker=cluster.account("worker", NAMESPACE),
            watcher=cluster.account("watcher", NAMESPACE),
        )


async def _all(work: Awaitable[T]) -> T:
    return await work


def numbered(dockerfile: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile whose instructions are one line each."""
    found: list[Instruction] = []
    for number, line in enumerate(dockerfile.splitlines(), 1):
        if line.strip():
            stage = sum(one.text.startswith("FROM") for one in found) - (not line.startswith("FROM"))
            found.append(Instruction(stage=stage, line=number, text=line))
    return tuple(found)
