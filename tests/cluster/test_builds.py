"""Image builds of Dockerfiles and by buildpacks through a real server, worker and watcher on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from builder.buildpacks.image import read_app
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import git_fixtures as hosts
from tests import ssh_fixtures
from tests.build_fixtures import until
from tests.cluster import images, pods
from tests.cluster.service import PATIENCE_S, Service, served
from tests.cluster.test_buildpacks import config_of, layers_of
from tests.cluster_fixtures import NAMESPACE, Jobs
from tests.git_fixtures import TOKEN, USERNAME, Host

SLEEPS = "RUN echo sleeping && sleep 600\n"


@pytest.fixture(scope="module")
def service(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    host = jobs.cluster.registry
    buildpacks = {
        "BUILDPACKS_BUILDER": images.push_builder(host),
        "BUILDPACKS_RUN_IMAGE": images.push_run(host, "one\n"),
    }
    folder = tmp_path_factory.mktemp("service")
    with served(jobs, folder, buildpacks, lease_ms="8000", heartbeat_ms="1000") as service:
        yield service


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
    mark = uuid.uuid4().hex
    waits = "[ $i -ne 150 ] || while [ ! -e /tmp/go-on ]; do sleep 0.1; done"
    loop = f"i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; {waits}; done"
    text = dockerfile(service, f"RUN : {mark}; {loop}")
    with service.worker("image-2"), ExitStack() as stack:
        first = stack.enter_context(service.watcher("watcher-a"))
        build_id = service.submit("adopted", {"Dockerfile": text})
        build = service.until(build_id, lambda build: "line 20" in service.said(build_id))
        assert (build.stage, build.watcher) == (pb.BUILD_STAGE_JOB, "watcher-a")
        first.send_signal(signal.SIGKILL)
        first.wait()
        stack.enter_context(service.watcher("watcher-b"))
        service.until(build_id, lambda build: build.watcher == "watcher-b")
        (root, *_) = pods.roots_of(mark)
        (root / "tmp/go-on").touch()
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
        assert httpx.get(url, trust_env=False, timeout=120).text == files["index.html"]
    assert done.returncode == 0 and done.stdout.strip() == reference, (done.stdout, done.stderr)
    assert f"same key as {moved.build_id}" in done.stderr, "the answer of the cache"
    assert (again.from_cache_of, again.image_digest) == (moved.build_id, moved.image_digest), "a rebase of a rebase"


def test_a_tag_of_a_repository_over_ssh_is_built_by_its_commit(service: Service, folder: Path, tmp_path: Path) -> None:
    """In the sandbox, as a node fetches: without one ssh wants the build user in /etc/passwd."""
    work = tmp_path / "work"
    serves = dockerfile(service, "WORKDIR /srv", "COPY hello.txt .", 'ENTRYPOINT ["serve"]')
    tagged = hosts.commit(work, {"Dockerfile": serves, "hello.txt": "over ssh\n"})
    hosts.git(work, "tag", "-a", "v1", "-m", "first")
    hosts.commit(work, {"hello.txt": "later\n"})
    with ssh_fixtures.serving(folder) as host, service.watcher("watcher-ssh"):
        hosts.git(work, "clone", "-q", "--bare", "--no-hardlinks", ".", str(host.root / "app.git"))
        with service.serve.api("both") as api:
            save = pb.SaveBuildSecretsRequest()
            for name, key in (("deploy-key", host.key), ("wrong-key", host.other_key)):
                save.named.add(name=name, git_ssh_key=pb.GitSshKey(private_key=key, known_hosts=host.known))
            api.call("SaveBuildSecrets", save)
        git = {"GIT_HOSTS": host.address, "UNSANDBOXED": "false", "NODE_DIR": str(folder / "ssh-node")}
        with service.worker("image-ssh", **git):
            source = {"url": host.url("app"), "reference": "v1", "secretRef": "deploy-key"}
            build = service.succeeded(service.submit_image("over-ssh", {"fromGit": source}))
            source |= {"reference": tagged, "secretRef": "wrong-key"}
            refused = service.ended(service.submit_image("over-ssh", {"fromGit": source}))
    assert build.provenance.commit_sha == tagged
    (reference, *_) = build.image_refs
    with service.jobs.serving(reference) as url:
        assert httpx.get(f"{url}/hello.txt", trust_env=False, timeout=120).text == "over ssh\n"
    assert refused.failure.reason == "GitAuthFailed", refused.failure
    said = service.trouble(build.build_id) + service.trouble(refused.build_id)
    assert not any(line in said for line in host.key.splitlines()[1:-1])


# With a worker and a watcher that stay


def test_a_dockerfile_with_run_is_built_pulled_started_and_called(both: Service) -> None:
    files = {
        "Dockerfile": dockerfile(
            both,
            "ARG WHO=nobody",
            "COPY hello.txt /srv/hello.txt",
            'RUN echo "built for $WHO" > /srv/built',
            "USER 1000",
            "WORKDIR /srv",
            'ENTRYPOINT ["serve"]',
        ),
        "hello.txt": "hello\n",
    }
    arguments = {"from_code": {"buildArgs": {"WHO": "us"}}, "tags": ["v1"]}
    build_id = both.submit("hello", files, **arguments)
    build = both.succeeded(build_id)
    assert build.stage == pb.BUILD_STAGE_UNSPECIFIED and build.job == ""
    (reference, *_) = build.image_refs
    with both.jobs.serving(reference) as url:
        pages = [httpx.get(f"{url}/{name}", trust_env=False, timeout=120).text for name in ("hello.txt", "built")]
    assert pages == ["hello\n", "built for us\n"]
    lines = both.log(build_id)
    assert any("RUN echo" in line for line in lines) and not any(line.startswith("{") for line in lines)
    assert {pb.BUILD_PHASE_FETCH_SOURCE, pb.BUILD_PHASE_BUILD} <= {phase.phase for phase in build.phases}
    again = both.succeeded(both.submit("hello", files, **arguments))
    assert again.image_digest == build.image_digest
    assert len([name for name in both.job_names() if again.build_id in name]) == 0, "the answer of the cache"


def test_a_failed_run_has_its_line_and_no_second_attempt(both: Service) -> None:
    build = both.ended(
        both.submit("fails", {"Dockerfile": dockerfile(both, "RUN sleep 1; echo 'no such thing' >&2; exit 3")})
    )
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
        assert httpx.get(url, trust_env=False, timeout=120).text == files["site/index.html"]
        assert httpx.get(f"{url}/greeting.txt", trust_env=False, timeout=120).text == "hello"
        assert httpx.get(f"{url}/draft.html", trust_env=False, timeout=120).status_code == 404, (
            "project.toml excludes it"
        )
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


def test_a_cancel_while_the_cluster_is_away_leaves_nothing_that_counts(both: Service) -> None:
    """Its pod goes on without an API server and pushes, behind the end of the build; then its Job is deleted."""
    cluster, mark = both.jobs.cluster, uuid.uuid4().hex
    waits = f"RUN : {mark}; echo sleeping; while [ ! -e /tmp/go-on ]; do sleep 0.1; done"
    build_id = both.submit("away", {"Dockerfile": dockerfile(both, waits)}, tags=["v1"])
    both.until_sleeping(build_id)
    (root, *_) = pods.roots_of(mark)

    def pushed() -> list[str]:
        url = f"http://{cluster.registry}/v2/acme/away/tags/list"
        return httpx.get(url, trust_env=False, timeout=120).json().get("tags") or []

    cluster.end_process("apiserver")
    try:
        with both.serve.api("both") as api:
            api.call("CancelBuild", pb.CancelBuildRequest(build_id=build_id))
        waiting = both.until(build_id, lambda _: any("cannot be deleted" in line for line in both.said(build_id)))
        assert waiting.status == pb.BUILD_STATUS_RUNNING and not pushed()
        # Its time is over: a test that waited for that would have to know how long the build takes until here.
        with sqlite3.connect(both.serve.data / "builder.db", timeout=120) as store:
            store.execute("update builds set timeout_ms = 1 where build_id = ?", (build_id,))
        ended = both.ended(build_id)
        assert (ended.status, ended.failure.reason) == (pb.BUILD_STATUS_CANCELLED, "Cancelled"), ended
        assert "its Job was not seen to end" in ended.failure.message
        (root / "tmp/go-on").touch()
        assert until(lambda: bool(pushed()), PATIENCE_S), "the push of a Job that nobody stops"
    finally:
        cluster.start_api_server()
    assert until(lambda: both.job(build_id) not in both.job_names(), PATIENCE_S), both.trouble(build_id)
    after = both.get(build_id)
    assert (after.status, after.attempt, after.image_digest) == (pb.BUILD_STATUS_CANCELLED, 1, "")
    assert len(pushed()) == 1 and "v1" not in pushed(), "the tag of the attempt alone"
    assert any("may still run" in line for line in both.log(build_id))
    assert [name for name in both.job_names() if build_id in name] == []


def test_a_deleted_job_has_vanished_and_the_next_attempt_has_another(both: Service) -> None:
    first = both.job("*")  # a pod's host name begins with its Job's
    text = f"RUN case $(cat /proc/sys/kernel/hostname) in {first}-*) echo sleeping; sleep 600;; esac"
    build_id = both.submit("vanished", {"Dockerfile": dockerfile(both, text)})
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
            "app/Dockerfile": dockerfile(
                both, "WORKDIR /srv", "COPY . app", "RUN ls -A app > built", 'ENTRYPOINT ["serve"]'
            ),
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
    with both.jobs.serving(reference) as url:
        assert httpx.get(f"{url}/built", trust_env=False, timeout=120).text == "Dockerfile\nhello.txt\n"
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
    third = hosts.commit(work, {"app/hello.txt": "hello again\n"})
    hosts.git(work, "push", "-q", str(host.root / "private.git"), "main")
    by_sha = both.succeeded(both.submit_image("commit", {"fromGit": {**source, "reference": third}}))
    assert (by_sha.provenance.commit_sha, by_sha.from_cache_of) == (third, "")
    with both.jobs.serving(by_sha.image_refs[0]) as url:
        assert httpx.get(f"{url}/app/hello.txt", trust_env=False, timeout=120).text == "hello again\n"
    refused = both.ended(both.submit_image("commit", {"fromGit": {**source, "secretRef": ""}}))
    assert (refused.failure.reason, refused.failure.where) == ("GitAuthFailed", "code.image.fromGit.url")
    assert TOKEN not in "\n".join((both.trouble(build.build_id), both.trouble(again.build_id), done.stderr))
