"""Image builds of Dockerfiles and by buildpacks through a real server, worker and watcher on a real cluster."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.buildpacks.image import read_app
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.kube.job import job_name
from builder.local.embedded import end, free_port, private_redis
from tests import git_fixtures as hosts
from tests.broker_fixtures import Worker, worker
from tests.build_fixtures import Files, tar_of, until
from tests.cluster import images
from tests.cluster.test_buildpacks import config_of, layers_of
from tests.cluster_fixtures import NAMESPACE, Jobs
from tests.git_fixtures import TOKEN, USERNAME, Host
from tests.serve_fixtures import Serve, serving

PATIENCE_S = 240
SLEEPS = "RUN echo sleeping && sleep 600\n"
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


@pytest.fixture(scope="module")
def service(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with ExitStack() as stack:
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        listen = f"{jobs.cluster.address}:{free_port()}"
        settings = {
            "listen": listen,
            "registry": jobs.cluster.registry,
            "registry_insecure": "true",
            "tokens": f"[{', '.join(TOKENS)}]",
            "lease_ms": "3000",
            "heartbeat_ms": "500",
            "retry_backoff_ms": "100",
        }
        serve = stack.enter_context(serving(folder / "serve", redis_url, settings, url=f"http://{listen}"))
        host = jobs.cluster.registry
        buildpacks = {
            "BUILDPACKS_BUILDER": images.push_builder(host),
            "BUILDPACKS_RUN_IMAGE": images.push_run(host, "one\n"),
        }
        yield Service(jobs, serve, folder, redis_url, buildpacks)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A git host behind TLS, in a folder that build users may enter: git reads the CA bundle as one of them."""
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-git-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        with hosts.serving(folder, load({}).settings.ca_bundle) as served:
            yield served
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def both(service: Service, host: Host) -> Iterator[Service]:
    """With a worker and a watcher that stay. The worker knows the git host, and build users may enter its folder."""
    git = {
        "GIT_HOSTS": host.address,
        "CA_BUNDLE": str(host.bundle),
        "NODE_DIR": str(host.root.parent / "node"),
    }
    with service.worker("image-1", **git), service.watcher():
        yield service


def dockerfile(service: Service, *lines: str) -> str:
    return "\n".join((f"FROM {service.jobs.debian}", *lines, ""))


# Before `both`: each has the only worker and the only watcher.


def test_a_watcher_that_is_killed_leaves_its_job_to_the_next(service: Service) -> None:
    text = dockerfile(service, "RUN i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; sleep 0.05; done")
    with service.worker("image-2"), ExitStack() as stack:
        first = stack.enter_context(service.watcher("watcher-a"))
        build_id = service.submit("adopted", {"Dockerfile": text})
        build = service.until(build_id, lambda build: "line 20" in service.said(build_id))
        assert (build.stage, build.watcher) == (pb.BUILD_STAGE_JOB, "watcher-a")
        first.send_signal(signal.SIGKILL)
        first.wait()
        stack.enter_context(service.watcher("watcher-b"))
        build = service.succeeded(build_id)
    assert build.attempt == 1
    numbered = [line for line in service.log(build_id) if line.startswith("line ")]
    assert numbered == [f"line {number}" for number in range(1, 301)]


@pytest.mark.parametrize("label", ["marked", "created"])
def test_a_worker_that_is_killed_around_the_creation_of_its_job(service: Service, label: str) -> None:
    """After the mark the Job may be there, and a watcher adopts it, or not: then the next attempt has another."""
    text = dockerfile(service, "RUN echo built > /srv/built")
    with service.worker(f"image-{label}", CRASH_AT=label), service.watcher(f"watcher-{label}"):
        build_id = service.submit(f"killed-{label}", {"Dockerfile": text})
        build = service.succeeded(build_id)
    assert build.attempt == (2 if label == "marked" else 1)


def test_an_image_by_buildpacks_moves_to_the_next_run_image_without_a_build(service: Service, tmp_path: Path) -> None:
    host = service.jobs.cluster.registry
    newer = images.push_run(host, "two\n")
    files = {"index.html": "<h1>a page</h1>\n"}
    with service.watcher("watcher-rebase"):
        with service.worker("image-old"):
            build = service.succeeded(service.submit("moved", files, tags=["v1"]))
            same = service.succeeded(service.rebase(build.build_id))
        assert (same.from_cache_of, same.image_digest) == (build.build_id, build.image_digest)
        assert not any(line.startswith("Job ") for line in service.log(same.build_id))
        with service.worker("image-new", BUILDPACKS_RUN_IMAGE=newer):
            moved = service.succeeded(service.rebase(build.build_id[:8]))
            done = command(service, tmp_path, "build", "--rebase", build.build_id, "--tag", "v2")
            again = service.succeeded(service.rebase(moved.build_id))
    assert (moved.name, list(moved.tags), moved.code_hash) == ("moved", ["v1"], build.code_hash)
    assert moved.image_digest != build.image_digest and pb.BUILD_PHASE_PUSH in [one.phase for one in moved.phases]
    (reference, *_), (before, *_) = moved.image_refs, build.image_refs
    old, new = layers_of(host, before), layers_of(host, reference)
    base_of_old, base_of_new = layers_of(host, service.buildpacks["BUILDPACKS_RUN_IMAGE"]), layers_of(host, newer)
    assert old[: len(base_of_old)] == base_of_old != base_of_new == new[: len(base_of_new)]
    assert old[len(base_of_old) :] == new[len(base_of_new) :], "each layer of the app is the very same"
    app, of_old = (read_app(config_of(host, one)) for one in (reference, before))
    assert app and of_old and (app.run_image, app.buildpacks, app.sbom) == (newer, of_old.buildpacks, of_old.sbom)
    with service.jobs.serving(reference) as url:
        assert httpx.get(url, trust_env=False).text == files["index.html"]
    assert done.returncode == 0 and done.stdout.strip() == reference, (done.stdout, done.stderr)
    assert f"same key as {moved.build_id}" in done.stderr, "the answer of the cache"
    assert (again.from_cache_of, again.image_digest) == (moved.build_id, moved.image_digest), "a rebase of a rebase"


# With a worker and a watcher that stay


def test_a_dockerfile_with_run_is_built_pulled_and_started(both: Service) -> None:
    files = {
        "Dockerfile": dockerfile(
            both,
            "ARG WHO=nobody",
            "COPY hello.txt /srv/hello.txt",
            'RUN echo "built for $WHO" > /srv/built',
            "USER 1000",
            'ENTRYPOINT ["/bin/cat", "/srv/hello.txt", "/srv/built"]',
        ),
        "hello.txt": "hello\n",
    }
    arguments = {"from_code": {"buildArgs": {"WHO": "us"}}, "tags": ["v1"]}
    build_id = both.submit("hello", files, **arguments)
    build = both.succeeded(build_id)
    assert build.stage == pb.BUILD_STAGE_UNSPECIFIED and build.job == ""
    (reference, *_) = build.image_refs
    assert both.jobs.start(reference) == (0, "hello\nbuilt for us\n")
    lines = both.log(build_id)
    assert any("RUN echo" in line for line in lines) and not any(line.startswith("{") for line in lines)
    assert {pb.BUILD_PHASE_FETCH_SOURCE, pb.BUILD_PHASE_BUILD} <= {phase.phase for phase in build.phases}
    again = both.succeeded(both.submit("hello", files, **arguments))
    assert again.image_digest == build.image_digest
    assert len([name for name in both.job_names() if again.build_id in name]) == 0, "the answer of the cache"


def test_a_failed_run_has_its_line_and_no_second_attempt(both: Service) -> None:
    build = both.ended(both.submit("fails", {"Dockerfile": dockerfile(both, "RUN echo 'no such thing' >&2; exit 3")}))
    failure = build.failure
    assert (failure.reason, failure.where, failure.exit_code) == ("StepFailed", "Dockerfile:2", 3), failure
    assert list(failure.said) == ["no such thing"] and build.attempt == 1


def test_a_dockerfile_that_cannot_be_is_refused_by_the_worker(both: Service) -> None:
    build = both.ended(both.submit("wrong", {"Dockerfile": dockerfile(both, "COPY absent /")}))
    assert (build.failure.reason, build.failure.where) == ("DockerfileInvalid", "Dockerfile:2:6"), build.failure


def test_an_app_without_a_dockerfile_is_built_by_buildpacks_started_and_called(both: Service) -> None:
    files = {"site/index.html": "<h1>a page</h1>\n", "site/draft.html": "not yet", "other/x": "x"}
    files["site/project.toml"] = '[build]\nexclude = ["draft.*"]\n'
    arguments = {"from_code": {"subPath": "site", "buildArgs": {"BP_GREETING": "hello"}}, "tags": ["v1"]}
    build = both.succeeded(both.submit("page", files, **arguments))
    (reference, *_) = build.image_refs
    with both.jobs.serving(reference) as url:
        assert httpx.get(url, trust_env=False).text == files["site/index.html"]
        assert httpx.get(f"{url}/greeting.txt", trust_env=False).text == "hello"
        assert httpx.get(f"{url}/draft.html", trust_env=False).status_code == 404, "project.toml excludes it"
    lines = both.log(build.build_id)
    assert "an image by Cloud Native Buildpacks, because no Dockerfile in site" in lines
    assert pb.BUILD_PHASE_PUSH in [phase.phase for phase in build.phases]
    again = both.succeeded(both.submit("page", files, **arguments))
    assert again.image_digest == build.image_digest
    assert not any(line.startswith("Job ") for line in both.log(again.build_id)), "the answer of the cache"


def test_a_source_that_no_buildpack_takes_names_those_that_were_tried(both: Service) -> None:
    build = both.ended(both.submit("none", {"readme": "x"}))
    assert build.failure.reason == "NoBuildpack", both.trouble(build.build_id)
    assert "ignite/static@1.2.0 (does not match)" in build.failure.message and build.attempt == 1


def test_a_cancel_deletes_the_job(both: Service) -> None:
    build_id = both.submit("cancelled", {"Dockerfile": dockerfile(both, SLEEPS)})
    both.until_sleeping(build_id)
    with both.serve.api("both") as api:
        api.call("CancelBuild", pb.CancelBuildRequest(build_id=build_id))
    assert both.ended(build_id).status == pb.BUILD_STATUS_CANCELLED
    assert until(lambda: both.job(build_id) not in both.job_names())


def test_a_deleted_job_has_vanished_and_the_next_attempt_has_another(both: Service) -> None:
    text = dockerfile(both, "RUN echo sleeping && sleep 20")
    build_id = both.submit("vanished", {"Dockerfile": text})
    both.until_sleeping(build_id)
    both.jobs.cluster.kubectl("delete", "job", both.job(build_id), "-n", NAMESPACE, "--wait=false")
    build = both.succeeded(build_id)
    assert build.attempt == 2
    assert any("JobVanished" in line for line in both.log(build_id))


def command(both: Service, home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`ignite-builder` as a user of the server runs it."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("IGNITE_BUILDER_")}
    environ |= {"IGNITE_BUILDER_SERVER": both.serve.url, "IGNITE_BUILDER_TOKEN": "t-both"}
    environ |= {"XDG_CONFIG_HOME": str(home)}
    program = Path(sys.executable).parent / "ignite-builder"
    return subprocess.run([program, *argv], env=environ, capture_output=True, text=True, check=False)


def test_the_command_builds_a_folder_with_a_dockerfile(both: Service, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Dockerfile").write_text(dockerfile(both, "RUN echo cli > /srv/cli"))
    done = command(both, tmp_path, "build", str(tmp_path / "app"))
    assert done.returncode == 0, done.stderr
    assert both.jobs.start(done.stdout.strip(), "/bin/cat", "/srv/cli") == (0, "cli\n")


def test_a_commit_of_a_private_repository_is_built_and_its_tree_is_answered_from_the_cache(
    both: Service, host: Host, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    first = hosts.commit(
        work,
        {
            "app/Dockerfile": dockerfile(both, "COPY . /srv/app", "RUN ls -A /srv/app > /srv/built"),
            "app/hello.txt": "hello\n",
            "readme": "x",
        },
    )
    hosts.git(work, "tag", "v1")
    second = hosts.commit(work, {}, "another commit with the same files")
    hosts.publish(host, work, "private")
    with both.serve.api("both") as api:
        secret = pb.NamedSecret(name="forge", git_token=pb.GitToken(username=USERNAME, token=TOKEN))
        api.call("SaveBuildSecrets", pb.SaveBuildSecretsRequest(named=[secret]))
    source = {"url": host.url("private"), "reference": "v1", "subPath": "app", "secretRef": "forge"}
    build = both.succeeded(both.submit_image("commit", {"fromGit": source}))
    assert (build.provenance.commit_sha, build.provenance.author) == (first, "Ada <ada@example.com>")
    (reference, *_) = build.image_refs
    assert both.jobs.start(reference, "/bin/cat", "/srv/built") == (0, "Dockerfile\nhello.txt\n")
    named = f"{host.url('private')}#main:app"
    options = ("--dockerfile", "Dockerfile", "--secret", "forge", "--name", "commit", "--json")
    done = command(both, tmp_path, "build", "--git", named, *options)
    assert done.returncode == 0, done.stderr
    again = both.get(json.loads(done.stdout)["buildId"])
    assert (again.image_digest, again.from_cache_of) == (build.image_digest, build.build_id)
    assert (again.provenance.commit_sha, again.provenance.branch) == (second, "main")
    lines = both.log(build.build_id)
    assert f"v1 of {host.url('private')} is the commit {first}" in lines
    assert any(line.startswith("Job ") for line in lines)
    assert not any(line.startswith("Job ") for line in both.log(again.build_id)), "the answer of the cache"
    refused = both.ended(both.submit_image("commit", {"fromGit": {**source, "secretRef": ""}}))
    assert (refused.failure.reason, refused.failure.where) == ("GitAuthFailed", "code.image.fromGit.url")
    assert TOKEN not in "\n".join((both.trouble(build.build_id), both.trouble(again.build_id), done.stderr))
