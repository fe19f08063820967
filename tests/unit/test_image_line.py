"""From a claimed build with a Dockerfile to its Job: the plan, the key, the mark, what a cluster refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.attempt.image import dockerfile_plan
from builder.claims.calls import Unanswered
from builder.claims.requests import Close
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dockerfile.choose import ImageRequest
from builder.errors import BuildError, PlatformError
from builder.kaniko.plan import key_of, materials_of, read_facts, write_facts
from builder.kube.job import Site, job_name
from builder.node.drive import close, do_work, driving
from builder.node.image import Launcher
from tests.attempt_fixtures import MemoryCalls, grant_of, node_at
from tests.build_fixtures import tar_of
from tests.golden.jobs import EXECUTOR, FETCHER

BUILD = "k7m2xq9d4t1zv6wh5r3p"
PINNED = "registry.example/debian@sha256:" + "b" * 64
SITE = Site(namespace="ignite-kaniko", executor=EXECUTOR, fetcher=FETCHER)
DOCKERFILE = f"FROM {PINNED} AS made\nRUN echo a \\\n  b\nFROM {PINNED}\nCOPY --from=made /a /a\n"


def tree(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return folder


# --- plan and key


def test_the_plan_has_each_instruction_with_its_stage_and_line(tmp_path: Path) -> None:
    plan = dockerfile_plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest())
    assert [(one.stage, one.line) for one in plan.instructions] == [(0, 1), (0, 2), (1, 4), (1, 5)]
    assert " ".join(plan.instructions[1].text.split()) == "RUN echo a b"
    assert plan.pinned and plan.bases == (PINNED,)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM debian:12\n",
        f"FROM {PINNED}\nCOPY --from=busybox /a /a\n",
        f"FROM {PINNED}\nRUN --mount=type=bind,from=busybox,target=/b true\n",
        f"ARG BASE={PINNED}\nFROM $BASE\n",
    ],
)
def test_an_image_by_tag_makes_a_key_that_no_other_build_has(tmp_path: Path, dockerfile: str) -> None:
    plan = dockerfile_plan(tree(tmp_path / "s", dockerfile), ImageRequest())
    assert not plan.pinned
    assert len({key(plan, build_id=one) for one in ("a", "b")}) == 2


def key(plan: Any, **changed: Any) -> str:
    parts = {"organization": "o", "code_hash": "sha256:0", "build_args": {"A": "1"}, "executor": EXECUTOR}
    return key_of(plan, **{**parts, "build_id": "a", **changed})


def test_the_key_is_what_decides_the_image(tmp_path: Path) -> None:
    plan = dockerfile_plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest())
    same = key(plan)
    assert key(plan, build_id="b") == same
    others = [
        key(plan, organization="p"),
        key(plan, code_hash="sha256:1"),
        key(plan, build_args={"A": "2"}),
        key(plan, executor=EXECUTOR[:-1] + "0"),
    ]
    assert len({same, *others}) == 5


def test_facts_travel_whole_or_without_the_lines(tmp_path: Path) -> None:
    plan = dockerfile_plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest())
    materials = materials_of(plan, executor=EXECUTOR, archive="sha256:1")
    found = read_facts(write_facts(plan, materials))
    assert (found.dockerfile, found.instructions, found.materials) == ("Dockerfile", plan.instructions, materials)
    assert (PINNED.partition("@")[0], "sha256:" + "b" * 64) in materials
    long = dockerfile_plan(tree(tmp_path / "l", f"FROM {PINNED}\n" + "RUN echo x\n" * 9000), ImageRequest())
    text = write_facts(long, materials)
    assert len(text) <= 64 * 1024 and read_facts(text).instructions == ()
    with pytest.raises(ValueError):
        read_facts("{}")
    row = '{"dockerfile": "D", "materials": [], "instructions": [[Infinity, 1, "x"]]}'
    for hostile in ("[" * 60_000, "[]", "null", "1", row, row.replace("Infinity", "1" * 5000)):
        with pytest.raises(ValueError):
            read_facts(hostile)


def test_a_source_without_a_dockerfile_is_the_requests_fault(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(BuildError) as refused:
        dockerfile_plan(tmp_path / "s", ImageRequest())
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "dockerfilePath")


# --- the line


class JobCalls(MemoryCalls):
    """Serves one source and stores an archive; `launched` answers as the store does."""

    def __init__(self, source: bytes, *, cancel: bool = False, status: str = "RUNNING") -> None:
        super().__init__()
        self.source, self.cancel, self.status = source, cancel, status
        self.order: list[str] = []
        self.marked: pb.LaunchingRequest | None = None
        self.launched_with: pb.LaunchedRequest | None = None
        self.away, self.lives_s = 1, 0

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        yield self.source

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == sha256
        if self.away:
            self.away -= 1
            raise Unanswered("away")
        self.order.append("archive")
        self.lives_s = lives_s
        return pb.StoredArchive(sha256=f"sha256:{sha256}", size_bytes=1, url="http://store/x?signature=s3cret")

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        self.order.append("launching")
        self.marked = request
        return pb.LaunchingResponse(cancel=self.cancel)

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        kept = len(self.kept.get(request.build_id, []))
        if kept < request.log_count:
            return pb.LaunchedResponse(log_incomplete=True, kept_until_index=kept)
        self.order.append("launched")
        self.launched_with = request
        return pb.LaunchedResponse(status=pb.BuildStatus.Value(f"BUILD_STATUS_{self.status}"))


class Fake:
    """A cluster that fails so often first."""

    def __init__(self, order: list[str], failures: int = 0, reason: str = "ClusterUnavailable") -> None:
        self.order, self.failures, self.reason = order, failures, reason
        self.created: list[Mapping[str, Any]] = []
        self.secrets: list[Mapping[str, Any]] = []
        self.deleted: list[str] = []

    def create(self, job: Mapping[str, Any], secret_of: Callable[[str], Mapping[str, Any]] | None = None) -> str:
        if self.failures:
            self.failures -= 1
            raise PlatformError(self.reason, "the cluster has no time")
        self.order.append("create")
        self.created.append(job)
        if secret_of:
            self.secrets.append(secret_of("uid-1"))
        return "uid-1"

    def delete(self, namespace: str, name: str, uid: str = "") -> None:
        self.deleted.append(name)


def grant(source: bytes, **image: Any) -> pb.ClaimBuildResponse:
    made = grant_of(BUILD)
    for name, value in image.items():
        if isinstance(value, dict):
            getattr(made.request.code.image.from_code, name).update(value)
        else:
            setattr(made.request.code.image.from_code, name, value)
    made.request.code.image.from_code.SetInParent()
    made.source.sha256 = "sha256:" + hashlib.sha256(source).hexdigest()
    made.destination.registry, made.destination.repository = "registry.example:5000", "team/o/app"
    made.destination.tag, made.destination.insecure = "build-x-1", True
    return made


def launch(
    folder: Path, calls: JobCalls, cluster: Fake, *, login: tuple[str, str] | None = None, **image: Any
) -> tuple[Any, Close]:
    launcher = Launcher(site=SITE, cluster=cluster, login=login)
    node = node_at(folder, calls, settings={"node_id": "n"})
    with driving(node, grant(calls.source, **image)) as attempt:
        outcome = do_work(attempt, launcher.run)
        how = close(attempt, outcome)
        if outcome.job is not None and how is Close.ABANDONED:
            launcher.abandon(outcome.job)
    return outcome, how


SOURCE = tar_of({"Dockerfile": DOCKERFILE, "a": "a"})


def test_archive_mark_job_and_hand_over_in_this_order(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order, failures=1)
    outcome, how = launch(tmp_path, calls, cluster, build_args={"WHO": "us"}, login=("robot", "pass"))
    assert how is Close.LAUNCHED, outcome
    assert calls.order == ["archive", "launching", "create", "launched"]
    assert calls.marked is not None and calls.launched_with is not None
    assert calls.marked.job.name == job_name(BUILD, 1)
    assert read_facts(calls.marked.job.facts).dockerfile == "Dockerfile"
    assert calls.launched_with.log_count == len(calls.kept[BUILD])
    assert [phase.phase for phase in calls.launched_with.phases] == [
        pb.BUILD_PHASE_FETCH_SOURCE,
        pb.BUILD_PHASE_DETECT,
        pb.BUILD_PHASE_PLAN,
    ]
    pod = cluster.created[0]["spec"]["template"]["spec"]
    flags = pod["containers"][0]["args"]
    assert "--destination=registry.example:5000/team/o/app:build-x-1" in flags
    assert "--build-arg=WHO=us" in flags and "--insecure-registry=registry.example:5000" in flags
    assert "--cache-repo=registry.example:5000/team/o/cache/kaniko/linux-amd64" in flags
    assert pod["initContainers"][0]["env"] == [{"name": "SOURCE_URL", "value": "http://store/x?signature=s3cret"}]
    assert [secret["metadata"]["name"] for secret in cluster.secrets] == [job_name(BUILD, 1)]
    assert not any("s3cret" in line or "pass" in line for line in calls.kept[BUILD])
    assert "s3cret" not in calls.marked.job.facts
    assert 120 <= calls.lives_s <= 60 + 120, "as long as the Job may take, and no hour"


def test_the_servers_login_reaches_no_job(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order)
    launch(tmp_path, calls, cluster)
    assert not cluster.secrets
    assert [one["name"] for one in cluster.created[0]["spec"]["template"]["spec"]["volumes"]] == ["source"]


def test_a_cancel_at_the_mark_creates_nothing(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE, cancel=True)
    cluster = Fake(calls.order)
    outcome, how = launch(tmp_path, calls, cluster)
    assert (outcome.failure.reason, how, cluster.created) == ("Cancelled", Close.FINISH, [])


def test_a_cancel_at_the_hand_over_deletes_the_job(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE, status="CANCELLED")
    cluster = Fake(calls.order)
    _, how = launch(tmp_path, calls, cluster)
    assert (how, cluster.deleted) == (Close.ABANDONED, [job_name(BUILD, 1)])


def test_a_quota_of_the_cluster_is_the_platforms_and_not_waited_for(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    outcome, how = launch(tmp_path, calls, Fake(calls.order, failures=1, reason="Unschedulable"))
    assert (outcome.failure.reason, how) == ("Unschedulable", Close.FINISH)
    assert "create" not in calls.order


def test_a_dockerfile_that_cannot_be_built_costs_no_job(tmp_path: Path) -> None:
    calls = JobCalls(tar_of({"Dockerfile": f"FROM {PINNED}\nCOPY absent /\n"}))
    outcome, how = launch(tmp_path, calls, Fake(calls.order))
    assert (outcome.failure.reason, outcome.failure.where) == ("DockerfileInvalid", "Dockerfile:2:6")
    assert how is Close.FINISH and calls.order == []
