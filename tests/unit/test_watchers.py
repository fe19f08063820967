"""The calls around stage JOB at the services: worker, watcher, client and record."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.errors import BuildError, PlatformError
from builder.services import masks
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.errors import CallRefused, status_of
from builder.services.masks import UNOPENED_S
from builder.services.workers import WorkerService
from builder.settings import Settings
from builder.store import builds, logs
from tests.unit.test_service import ACME, Services, node_of, of_claim, services  # noqa: F401

WATCHER = Caller(organization="", scopes=frozenset({"watch"}), node="w")


def launch(services: Services, **more: Any) -> tuple[str, pb.Job]:  # noqa: F811
    """An image build whose Job is created, and the Job."""
    request = pb.CreateBuildRequest(name="app")
    request.code.image.from_code.CopyFrom(common.ImageFromCode(archive=b"PK\3\4zip", build_args={"A": "secret"}))
    build = services.build.create_build(ACME, request).build_id
    worker, node = services.worker, node_of("n")
    worker.register_node(node, pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"]))
    claimed = worker.claim_build(node, pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x"))
    assert claimed.granted and claimed.request.code.image.from_code.build_args["A"] == "secret"
    values = {"strategy": "kaniko", "name": f"ignite-{build}-1", "namespace": "builds", "facts": "{}", **more}
    job = pb.Job(**values)
    mine = of_claim(build, claimed.claim)
    marked = worker.launching(node, pb.LaunchingRequest(**mine, job=job))
    assert not marked.stale and not marked.cancel and services.get(build).job == f"builds/{job.name}"
    assert worker.launched(node, pb.LaunchedRequest(**mine)).status == pb.BUILD_STATUS_RUNNING
    return build, job


def adopt(services: Services, nonce: str = "1") -> pb.AdoptJobResponse:  # noqa: F811
    return services.worker.adopt_job(WATCHER, pb.AdoptJobRequest(protocol=1, watcher="w", nonce=nonce))


def test_a_job_from_its_mark_to_its_end(services: Services) -> None:  # noqa: F811
    build, job = launch(services)
    record = services.get(build)
    assert (record.stage, record.watcher, record.build_args["A"]) == (pb.BUILD_STAGE_JOB, "", "***")
    got = adopt(services)
    assert (got.build_id, got.job, got.seen, got.cancel, got.attempt) == (build, job, True, False, 1)
    assert (got.destination.repository, got.destination.tag) == ("acme/app", f"build-{build}-1")
    assert not got.destination.username and not got.destination.password
    assert services.get(build).watcher == "w"
    worker, mine = services.worker, of_claim(build, got.claim)
    cursors = {"kaniko": pb.LogCursor(since=5, lines=1, newest_ns=6_000_000_001)}
    lines = [pb.LogEntry(line="x", phase=pb.BUILD_PHASE_BUILD, stream=pb.LOG_STREAM_STDOUT)]
    sent = worker.append_log(WATCHER, pb.AppendLogRequest(**mine, lines=lines, cursors=cursors))
    assert (sent.stale, sent.kept_until_index) == (False, 1)
    assert adopt(services).cursors["kaniko"] == cursors["kaniko"]
    assert not adopt(services, "2").adopted
    assert not worker.caught_up(WATCHER, pb.CaughtUpRequest(**mine)).stale
    assert not adopt(services, "2").adopted
    services.build.cancel_build(ACME, pb.CancelBuildRequest(build_id=build))
    beats = [pb.JobBeat(build_id=build, claim=got.claim), pb.JobBeat(build_id=build, claim=1)]
    answered = worker.beat_jobs(WATCHER, pb.BeatJobsRequest(protocol=1, watcher="w", beats=beats))
    assert [(one.cancel, one.stale) for one in answered.beats] == [(True, False), (False, True)]
    asked = [pb.JobAttempt(build_id=build, attempt=number) for number in (1, 2)]
    assert list(worker.current_jobs(WATCHER, pb.CurrentJobsRequest(protocol=1, jobs=asked)).jobs) == asked[:1]
    failure = pb.Failure(reason="Cancelled", message="m")
    done = worker.finish(WATCHER, pb.FinishRequest(**mine, failure=failure, log_count=1))
    assert done.status == pb.BUILD_STATUS_CANCELLED
    assert not worker.current_jobs(WATCHER, pb.CurrentJobsRequest(protocol=1, jobs=asked)).jobs
    record = services.get(build)
    assert (record.stage, record.job, record.watcher) == (pb.BUILD_STAGE_UNSPECIFIED, "", "")


def test_a_watcher_and_a_node_do_not_write_for_each_other(services: Services) -> None:  # noqa: F811
    build, _ = launch(services)
    got = adopt(services)
    mine = of_claim(build, got.claim)
    node, before = node_of("n"), services.get(build)
    assert services.worker.hand_back(node, pb.HandBackRequest(**mine, reason="drain")).stale
    assert services.worker.append_log(node, pb.AppendLogRequest(**mine, lines=[pb.LogEntry(line="x")])).stale
    assert services.worker.launched(node, pb.LaunchedRequest(**mine)).stale
    with pytest.raises(CallRefused, match="lacks the scope watch"):
        services.worker.adopt_job(node, pb.AdoptJobRequest(protocol=1, watcher="n", nonce="x"))
    with pytest.raises(CallRefused, match='for the watcher "w"'):
        services.worker.adopt_job(WATCHER, pb.AdoptJobRequest(protocol=1, watcher="other", nonce="x"))
    with pytest.raises(CallRefused, match="lacks the scope worker"):
        services.worker.claim_build(WATCHER, pb.ClaimBuildRequest(protocol=1, node_id="w", nonce="x", build_id=build))
    assert services.get(build) == before


def test_a_scope_writes_in_its_stage_alone_whatever_the_token_is_named(services: Services) -> None:  # noqa: F811
    """A machine may have a node and a watcher of one name; a token without a name is for every name."""
    working = services.submit()
    node = node_of("w")
    services.worker.register_node(
        node, pb.RegisterNodeRequest(protocol=1, node_id="w", queues=["compile.python"], toolchains={"python-3.11": ""})
    )
    claimed = services.worker.claim_build(
        node, pb.ClaimBuildRequest(protocol=1, build_id=working, node_id="w", nonce="x")
    )
    watched, _ = launch(services)
    adopted = adopt(services)
    nameless = [Caller(organization="", scopes=frozenset({scope})) for scope in ("worker", "watch")]
    for build, claim, others in (
        (watched, adopted.claim, (node, nameless[0])),
        (working, claimed.claim, (WATCHER, nameless[1])),
    ):
        mine, before = of_claim(build, claim), services.get(build)
        for other in others:
            worker = services.worker
            assert worker.append_log(other, pb.AppendLogRequest(**mine, lines=[pb.LogEntry(line="x")])).stale
            assert worker.finish(other, pb.FinishRequest(**mine, failure=pb.Failure(reason="Timeout"))).stale
            assert worker.hand_back(other, pb.HandBackRequest(**mine, reason="lost")).stale
        assert services.get(build) == before


def test_the_phases_of_a_claim_are_few(services: Services) -> None:  # noqa: F811
    build, _ = launch(services)
    mine = of_claim(build, adopt(services).claim)
    phases = [pb.PhaseRecord(phase=pb.BUILD_PHASE_BUILD)] * 101
    with pytest.raises(BuildError, match="phases takes up to 100"):
        services.worker.finish(WATCHER, pb.FinishRequest(**mine, phases=phases, failure=pb.Failure(reason="Timeout")))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": "x"}, "job.name"),
        ({"name": "ignite-{build}-2"}, "job.name"),
        ({"name": "A-{build}-1"}, "job.name"),
        ({"namespace": "a/b"}, "job.namespace"),
        ({"strategy": ""}, "job.strategy"),
        ({"facts": "x" * (64 * 1024 + 1)}, "job.facts"),
    ],
)
def test_what_cannot_be_the_job_of_an_attempt_is_refused(
    services: Services,  # noqa: F811
    fields: dict[str, str],
    where: str,
) -> None:
    build = services.submit()
    worker, node = services.worker, node_of("n")
    worker.register_node(
        node, pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["compile.python"], toolchains={"python-3.11": ""})
    )
    claimed = worker.claim_build(node, pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x"))
    job = pb.Job(strategy="kaniko", name=f"ignite-{build}-1", namespace="builds")
    for name, text in fields.items():
        setattr(job, name, text.replace("{build}", build))
    mine = of_claim(build, claimed.claim)
    with pytest.raises(BuildError) as refused:
        worker.launching(node, pb.LaunchingRequest(**mine, job=job))
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", where)
    with pytest.raises(CallRefused, match="mark the attempt"):
        worker.launched(node, pb.LaunchedRequest(**mine))


def test_a_job_prints_no_secret_that_its_build_names(
    services: Services,  # noqa: F811
    tmp_path: Path,
) -> None:
    """No Job gets one; a source may repeat it."""
    parts = dataclasses.replace(services.parts, settings=Settings(data_dir=str(tmp_path)))
    token = "ghp_0123456789abcdef"
    secret = pb.NamedSecret(name="forge", git_token=pb.GitToken(username="x-access-token", token=token))
    BuildService(parts).save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=[secret]))
    asked = pb.CreateBuildRequest(name="app")
    asked.code.image.from_git.url, asked.code.image.from_git.secret_ref = "https://forge.example.com/a.git", "forge"
    worker, node = WorkerService(parts), node_of("n")
    worker.register_node(node, pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"], slots=1))
    build = BuildService(parts).create_build(ACME, asked).build_id
    claim = worker.claim_build(node, pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="a")).claim
    mine = of_claim(build, claim)
    worker.launching(
        node, pb.LaunchingRequest(**mine, job=pb.Job(strategy="kaniko", name=f"b-{build}-1", namespace="n"))
    )
    worker.launched(node, pb.LaunchedRequest(**mine))
    mine = of_claim(build, worker.adopt_job(WATCHER, pb.AdoptJobRequest(protocol=1, watcher="w", nonce="1")).claim)
    encoded = base64.b64encode(token.encode()).decode()
    texts = [f"x-access-token:{token}", encoded[:16], encoded[16:], "after"]
    lines = [pb.LogEntry(line=text, phase=pb.BUILD_PHASE_BUILD, stream=pb.LOG_STREAM_STDOUT) for text in texts]
    for calls, first, last in ((parts, 0, 2), (dataclasses.replace(parts), 2, 4)):  # of two control processes
        cursors = {"kaniko": pb.LogCursor(lines=last)}
        batch = pb.AppendLogRequest(**mine, first_index=first, lines=lines[first:last], cursors=cursors)
        assert not WorkerService(calls).append_log(WATCHER, batch).stale
    stored = [line["l"] for line in logs.read(parts.store, build, 0)]
    assert stored == ["x-access-token:***", "***", "***", "after"]
    failure = pb.Failure(reason="StepFailed", message=f"RUN echo {token}", said=[encoded[:16], encoded[16:]])
    worker.finish(WATCHER, pb.FinishRequest(**mine, failure=failure, log_count=len(texts)))
    ended = services.get(build)
    assert (ended.failure.message, list(ended.failure.said)) == ("RUN echo ***", ["***", "***"])


def test_cursors_are_bounded(services: Services) -> None:  # noqa: F811
    build, _ = launch(services)
    got = adopt(services)
    mine, lines = of_claim(build, got.claim), [pb.LogEntry(line="x")]
    for names in (["A"], [f"c{number}" for number in range(65)]):
        cursors = {name: pb.LogCursor(since=1) for name in names}
        with pytest.raises(BuildError, match="cursors"):
            services.worker.append_log(WATCHER, pb.AppendLogRequest(**mine, lines=lines, cursors=cursors))
    worker, at = services.worker, {"c": pb.LogCursor(since=-5, lines=-1, newest_ns=-1)}
    assert not worker.append_log(WATCHER, pb.AppendLogRequest(**mine, lines=lines, cursors=at)).stale
    assert adopt(services).cursors["c"] == pb.LogCursor()


TOKEN = "ghp_0123456789abcdef"
WITHHELD = "(withheld: a secret of this build cannot be opened)"


class Watched:
    """A build that is watched, and names a secret: what opening it raises, or gives, and the worker's clock are the
    test's."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
        self.build, _ = launch(services)
        self.worker, self.store = services.worker, services.parts.store
        self.mine: dict[str, Any] = {"protocol": 1, "build_id": self.build, "claim": adopt(services).claim}
        self.opened: BuildError | dict[str, str] = PlatformError("Internal", "it cannot be opened")
        self.now_s = 1000.0
        self._before = len(logs.read(self.store, self.build, 0))
        monkeypatch.setattr(masks, "secrets_of", self._secrets_of)
        monkeypatch.setattr(self.worker.masks, "_now", lambda: self.now_s)

    def _secrets_of(self, row: object, parts: object) -> dict[str, str]:
        if isinstance(self.opened, BuildError):
            raise self.opened
        return self.opened

    def append(self, *texts: str, index: int = 0) -> bool:
        """Send lines of the Job from this index on; whether they are stored."""
        lines = [pb.LogEntry(line=text, phase=pb.BUILD_PHASE_BUILD, stream=pb.LOG_STREAM_STDOUT) for text in texts]
        cursors = {"kaniko": pb.LogCursor(since=5, lines=index + len(texts))}
        request = pb.AppendLogRequest(**self.mine, first_index=index, lines=lines, cursors=cursors)
        return not self.worker.append_log(WATCHER, request).stale

    def finish(self, failure: pb.Failure, count: int) -> None:
        """Report the end of the Job."""
        self.worker.finish(WATCHER, pb.FinishRequest(**self.mine, log_count=count, failure=failure))

    @property
    def kept(self) -> list[str]:
        """The lines that are stored since it is watched."""
        return [line["l"] for line in logs.read(self.store, self.build, 0)][self._before :]


@pytest.fixture
def watched(services: Services, monkeypatch: pytest.MonkeyPatch) -> Watched:  # noqa: F811
    return Watched(services, monkeypatch)


def test_lines_that_come_with_a_finish_hide_the_secret_too(watched: Watched) -> None:
    """No watcher of ours sends any."""
    watched.opened = {"git.token": TOKEN}
    failure, lines = pb.Failure(reason="StepFailed", message="m"), [pb.LogEntry(line=f"x {TOKEN}")]
    watched.worker.finish(WATCHER, pb.FinishRequest(**watched.mine, log_count=1, lines=lines, failure=failure))
    assert watched.kept[0] == "x ***"


def test_a_secret_that_is_deleted_meanwhile_withholds_what_follows(watched: Watched) -> None:
    """Its value is in the Job all the same, and nothing is left to compare with."""
    watched.opened = BuildError("SecretNotFound", "no such secret")
    watched.append("ghp_1")
    assert watched.kept == [WITHHELD]


@pytest.mark.parametrize("kind", [PlatformError, BuildError])
def test_lines_wait_while_a_secret_cannot_be_opened(watched: Watched, kind: type[BuildError]) -> None:
    """`BuildError`: so says the vault of a key file that is not there."""
    watched.opened = kind("Internal", "it cannot be opened")
    failed = pb.Failure(reason="DockerBuildFailed", message="m")
    for call in (lambda: watched.append(TOKEN), lambda: watched.finish(failed, 2)):
        with pytest.raises(BuildError) as held:
            call()
        assert status_of(held.value).http == 503, "a watcher repeats its call"
    assert watched.kept == []
    watched.now_s += UNOPENED_S - 1
    with pytest.raises(BuildError):
        watched.append(TOKEN)
    watched.opened = {"git.token": TOKEN}
    assert watched.append(TOKEN)
    watched.opened = kind("Internal", "it cannot be opened")
    assert watched.append(TOKEN, index=1), "the second one is answered by what is at hand"
    assert watched.kept == ["***", "***"]


def test_a_build_whose_secret_stays_shut_ends_for_its_own_reason_without_its_words(watched: Watched) -> None:
    with pytest.raises(PlatformError):
        watched.append("ghp_1", "")
    watched.now_s += UNOPENED_S
    assert watched.append("ghp_1", "")
    assert watched.kept == [WITHHELD, ""]
    watched.finish(pb.Failure(reason="StepFailed", message="ghp_1", said=["ghp_1"]), 2)
    row = builds.by_id(watched.store, watched.build)
    assert row is not None and row["status"] == "FAILED"
    assert "StepFailed" in str(row["failure"]) and "withheld" in str(row["failure"]) and "ghp_1" not in str(row)
