"""A control side that the cluster reaches, with workers and watchers: for the tests of builds and for the bench."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.kube.job import job_name
from builder.local.embedded import end, private_redis
from builder.local.ports import free_port
from tests import uids
from tests.broker_fixtures import Worker, worker
from tests.build_fixtures import Files, tar_of, until
from tests.cluster_fixtures import NAMESPACE, Jobs
from tests.serve_fixtures import Serve, serving

PATIENCE_S = 300
TOKENS = (
    '{ token = "t-both", organization = "acme", scopes = ["submit", "read"] }',
    '{ token = "t-worker", scopes = ["worker"] }',
    '{ token = "t-watch", scopes = ["watch"] }',
)


@dataclass
class Service:
    """A control side that the cluster reaches, and what builds images behind it."""

    jobs: Jobs
    serve: Serve
    folder: Path
    redis_url: str
    buildpacks: dict[str, str]
    """The worker's settings of buildpacks."""

    @contextmanager
    def worker(self, name: str, **settings: str) -> Iterator[Worker]:
        """A worker of the queue `image` with the rights of deploy/kubernetes."""
        folder = self.folder / name
        given = {
            "NODE_ID": name,
            "BUILD_UID": str(uids.CLUSTER),
            "QUEUES": "image",
            "KUBECONFIG": str(self.jobs.worker),
            "KANIKO_EXECUTOR": self.jobs.executor,
            "FETCH_IMAGE": self.jobs.fetcher,
            "CPUS": "1",
            "MEMORY_BYTES": str(512 * 1024 * 1024),
            "DISK_BYTES": str(1024 * 1024 * 1024),
            **self.buildpacks,
            **settings,
        }
        with worker(folder, self.serve, self.redis_url, **given) as running:
            yield running

    @contextmanager
    def watcher(self, name: str = "watcher-1") -> Iterator[subprocess.Popen[bytes]]:
        """`ignite-builder watch`."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IGNITE_BUILDER_")}
        values = {
            "SERVER": self.serve.url,
            "TOKEN": "t-watch",
            "NODE_ID": name,
            "KUBECONFIG": str(self.jobs.watcher),
        }
        environ |= {f"IGNITE_BUILDER_{key}": value for key, value in values.items()}
        environ |= {"XDG_CONFIG_HOME": str(self.folder)}
        program = Path(sys.executable).parent / "ignite-builder"
        with (self.folder / f"{name}.log").open("ab") as out:
            process = subprocess.Popen([program, "watch"], env=environ, stdout=out, stderr=out)
        try:
            yield process
        finally:
            end(process, 30)

    def submit(self, name: str, files: Files, **fields: Any) -> str:
        archive = base64.b64encode(tar_of(files)).decode()
        return self.submit_image(name, {"fromCode": {"archive": archive, **fields.pop("from_code", {})}}, **fields)

    def submit_image(self, name: str, image: dict[str, Any], **fields: Any) -> str:
        return self.ask({"name": name, "code": {"image": image}, **fields})

    def rebase(self, build_id: str, **fields: Any) -> str:
        return self.ask({"rebase": {"buildId": build_id}, **fields})

    def ask(self, body: dict[str, Any]) -> str:
        answer = self.serve.ask("POST", "/v1/ignite/builds", "both", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["buildId"])

    def get(self, build_id: str) -> pb.Build:
        with self.serve.api("both") as api:
            build: pb.Build = api.call("GetBuild", pb.GetBuildRequest(build_id=build_id))
        return build

    def log(self, build_id: str) -> list[str]:
        with self.serve.api("both") as api:
            return [entry.line for entry in api.log(build_id) if not entry.eof]

    def until(self, build_id: str, condition: Callable[[pb.Build], bool]) -> pb.Build:
        assert until(lambda: condition(self.get(build_id)), PATIENCE_S), self.trouble(build_id)
        return self.get(build_id)

    def ended(self, build_id: str) -> pb.Build:
        return self.until(build_id, lambda build: build.status >= pb.BUILD_STATUS_SUCCEEDED)

    def succeeded(self, build_id: str) -> pb.Build:
        build = self.ended(build_id)
        assert build.status == pb.BUILD_STATUS_SUCCEEDED, self.trouble(build_id)
        return build

    def job(self, build_id: str, attempt: int = 1) -> str:
        return job_name(build_id, attempt)

    def job_names(self) -> list[str]:
        found = self.jobs.cluster.kubectl("get", "jobs", "-n", NAMESPACE, "-o", "name")
        return [line.rpartition("/")[2] for line in found.splitlines()]

    def until_sleeping(self, build_id: str) -> None:
        """Until the Job runs what sleeps, and the watcher stored that."""
        self.until(build_id, lambda build: build.stage == pb.BUILD_STAGE_JOB and "sleeping" in self.said(build_id))

    def said(self, build_id: str) -> list[str]:
        """What the build wrote so far, from its stored log."""
        found: list[str] = []
        with self.serve.api("both") as api:
            count = self.get(build_id).log_lines
            if not count:
                return found
            for entry in api.log(build_id):
                if entry.eof:
                    break
                found.append(entry.line)
                if entry.sequence >= count:
                    break
        return found

    def trouble(self, build_id: str) -> str:
        logs = [path.read_text(errors="replace")[-3000:] for path in self.folder.glob("**/*.log")]
        return "\n".join([str(self.get(build_id)), *self.said(build_id), *logs, self.serve.err.read_text()[-3000:]])


@contextmanager
def served(jobs: Jobs, folder: Path, buildpacks: dict[str, str] | None = None, **settings: str) -> Iterator[Service]:
    """A control side and its Redis in `folder`; `buildpacks` are settings of its workers, `settings` its own."""
    with ExitStack() as stack:
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        listen = f"{jobs.cluster.address}:{free_port()}"
        values = {
            "listen": listen,
            "registry": jobs.cluster.registry,
            "registry_insecure": "true",
            "tokens": f"[{', '.join(TOKENS)}]",
            "retry_backoff_ms": "100",
            **settings,
        }
        serve = stack.enter_context(serving(folder / "serve", redis_url, values, url=f"http://{listen}"))
        yield Service(jobs, serve, folder, redis_url, buildpacks or {})
