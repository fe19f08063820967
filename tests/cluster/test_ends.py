"""Every end of a Job on a real cluster has its own reason, with what a person needs."""

from __future__ import annotations

import asyncio
import dataclasses
import http.server
import json
import threading

import pytest

from builder.kaniko.ended import diagnose
from builder.kube.ended import Patience
from builder.kube.job import JobAttempt
from builder.kube.watch import Watch
from tests.cluster_fixtures import LIMITS, MIB, NAMESPACE, Jobs, Ran, numbered

IMPATIENT = Patience(schedule_s=20)
"""For a Job that no node takes: what it waits for is looked at before that."""

SMALL = dataclasses.replace(LIMITS, cpus=0.25)
"""For a Job whose time begins at its creation: it has its place beside pods that have not gone yet."""

SLEEPS = "RUN echo sleeping && sleep 600\n"


async def until_line(ran: Ran, text: str) -> None:
    while not any(line == text for line in ran.log):
        await asyncio.sleep(0.05)


def dockerfile(jobs: Jobs, *lines: str) -> str:
    return "\n".join((f"FROM {jobs.debian}", *lines, ""))


def test_an_exit_code_in_run_has_the_line_and_the_programs_words(jobs: Jobs) -> None:
    text = dockerfile(jobs, "RUN echo fine", "", "RUN echo fine", "RUN sleep 1; echo 'no such thing' >&2; exit 3")
    ran = jobs.run({"Dockerfile": text}, jobs.build("exit"))
    assert ran.ended.reason == "StepFailed", (ran.ended, ran.log)
    found = diagnose(ran.ended, ran.log, numbered(text))
    assert (found.reason, found.where) == ("StepFailed", "Dockerfile:5"), (found, ran.log)
    assert found.message == "RUN ended with exit code 3"
    assert found.said == ("no such thing",)


def test_memory_has_its_limit_and_the_line(jobs: Jobs) -> None:
    text = dockerfile(jobs, "RUN head -c 900M /dev/zero | tail")
    limits = dataclasses.replace(LIMITS, memory_bytes=192 * MIB)
    ran = jobs.run({"Dockerfile": text}, jobs.build("memory"), limits=limits)
    assert (ran.ended.reason, ran.ended.limit) == ("OutOfMemory", 192 * MIB), (ran.ended, ran.log)
    assert diagnose(ran.ended, ran.log, numbered(text)).where == "Dockerfile:2"


def test_an_executor_that_cannot_be_pulled(jobs: Jobs) -> None:
    site = dataclasses.replace(jobs.site, executor=jobs.executor[:-8] + "00000000")
    ran = jobs.run(
        {"Dockerfile": dockerfile(jobs)}, jobs.build("pull"), site=site, patience=Patience(schedule_s=300, image_s=8)
    )
    assert (ran.ended.reason, ran.ended.container) == ("ExecutorImageUnavailable", "kaniko"), ran.ended
    assert "not found" in ran.ended.said


def test_no_node_takes_it_and_the_scheduler_says_why(jobs: Jobs) -> None:
    site = dataclasses.replace(jobs.site, node_selector=(("pool", "elsewhere"),))
    ran = jobs.run({"Dockerfile": dockerfile(jobs)}, jobs.build("nowhere"), site=site, patience=IMPATIENT)
    assert ran.ended.reason == "Unschedulable", ran.ended
    assert "node affinity/selector" in ran.ended.message
    assert ran.waits, "what it waits for is in the log before it fails"


def test_a_quota_refuses_the_pod_and_says_which(jobs: Jobs) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": NAMESPACE},
        "spec": {"hard": {"pods": "0"}},
    }
    jobs.cluster.kubectl("create", "-f", "-", stdin=json.dumps(quota))
    try:
        ran = jobs.run({"Dockerfile": dockerfile(jobs)}, jobs.build("quota"), patience=IMPATIENT)
    finally:
        jobs.cluster.kubectl("delete", "resourcequota", "none", "-n", NAMESPACE)
    assert ran.ended.reason == "Unschedulable", ran.ended
    assert "exceeded quota: none" in ran.ended.message


def test_the_deadline(jobs: Jobs) -> None:
    limits = dataclasses.replace(SMALL, timeout_ms=8_000)
    ran = jobs.run({"Dockerfile": dockerfile(jobs, SLEEPS)}, jobs.build("late"), limits=limits)
    assert (ran.ended.reason, ran.ended.limit) == ("Timeout", 8_000), (ran.ended, ran.log)


@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_a_pod_that_is_taken_away_is_not_the_users_fault(jobs: Jobs, how: str) -> None:
    async def take(watch: Watch, attempt: JobAttempt, ran: Ran) -> None:
        await until_line(ran, "sleeping")
        (pod,) = watch.look(attempt.job)[1]
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        argv = {  # the second as a drained node does
            "deleted": ("delete", "pod", name, "-n", NAMESPACE, "--wait=false"),
            "evicted": ("create", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", "-f", "-"),
        }
        await asyncio.to_thread(jobs.cluster.kubectl, *argv[how], stdin=json.dumps(eviction))

    ran = jobs.run({"Dockerfile": dockerfile(jobs, SLEEPS)}, jobs.build(how), during=take)
    assert ran.ended.reason == "Evicted", (ran.ended, ran.log)


def test_a_registry_that_answers_503_is_not_the_users_fault(jobs: Jobs) -> None:
    class Failing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((jobs.cluster.address, 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"{jobs.cluster.address}:{server.server_port}"
        build = jobs.build(
            "failing", repository=f"{host}/acme/failing", insecure_registries=(host, jobs.cluster.registry)
        )
        text = dockerfile(jobs, "RUN true")
        ran = jobs.run({"Dockerfile": text}, build)
        server.shutdown()
    found = diagnose(ran.ended, ran.log, numbered(text))
    assert found.reason == "RegistryUnavailable", (ran.ended, ran.log)


def test_a_deleted_job_has_vanished(jobs: Jobs) -> None:
    async def delete(watch: Watch, attempt: JobAttempt, ran: Ran) -> None:
        await until_line(ran, "sleeping")
        argv = ("delete", "job", attempt.job, "-n", NAMESPACE, "--wait=false")
        await asyncio.to_thread(jobs.cluster.kubectl, *argv)

    ran = jobs.run({"Dockerfile": dockerfile(jobs, SLEEPS)}, jobs.build("vanished"), during=delete)
    assert ran.ended.reason == "JobVanished", (ran.ended, ran.log)


def test_a_full_disk_quota(jobs: Jobs) -> None:
    limits = dataclasses.replace(LIMITS, disk_bytes=48 * MIB)
    text = dockerfile(jobs, "RUN head -c 200M /dev/urandom > /srv/big && sleep 100")
    ran = jobs.run({"Dockerfile": text}, jobs.build("disk"), limits=limits)
    assert (ran.ended.reason, ran.ended.limit) == ("DiskQuotaExceeded", 48 * MIB), (ran.ended, ran.log)


@pytest.mark.parametrize("wrong", ["digest", "absent", "size"])
def test_a_source_that_is_not_the_one_named_reaches_no_executor(jobs: Jobs, wrong: str) -> None:
    source = jobs.sources.put({"Dockerfile": dockerfile(jobs, "RUN echo never")})
    if wrong == "digest":
        source = jobs.sources.put({"Dockerfile": "FROM scratch\n"}, digest=source.digest)
    elif wrong == "absent":
        source = dataclasses.replace(source, url=source.url.replace("sha256:", "sha256:0"))
    else:
        source = dataclasses.replace(source, archive_bytes=source.archive_bytes - 1)
    ran = jobs.run({}, jobs.build(f"source-{wrong}"), source=source)
    assert (ran.ended.reason, ran.ended.container) == ("SourceStoreUnavailable", "fetch"), (ran.ended, ran.lines)
    assert ran.log == [], "Kaniko did not start"
    assert "s3cret" not in ran.ended.message
