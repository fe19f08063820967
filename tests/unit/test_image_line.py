"""From a claimed build with a Dockerfile to its Job: the plan, the key, the mark, what a cluster refuses."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from builder.attempt.attempt import Attempt
from builder.attempt.canonical import write_archive
from builder.claims.calls import Unanswered
from builder.claims.requests import Close
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.contract.request import Repository
from builder.dockerfile.choose import ImageRequest
from builder.errors import BuildError, PlatformError
from builder.git.commands import Commit
from builder.images.external import Access, Login
from builder.kaniko.plan import key_of, materials_of, read_facts, write_facts
from builder.kube.job import Site, job_name
from builder.node import drive
from builder.node import image as image_line
from builder.node.close import close
from builder.node.drive import do_work, driving
from builder.node.image import Launcher
from builder.settings import JobLogin, JobResources, Settings
from builder.strategies import buildpacks, kaniko
from builder.strategies.base import Setup, prefix_of
from builder.strategies.preview import call_of, job_of
from tests.attempt_fixtures import MemoryCalls, grant_of, node_at
from tests.build_fixtures import tar_of
from tests.golden.jobs import EXECUTOR, FETCHER, RUN


@pytest.fixture(autouse=True, scope="module")
def repeated_soon() -> Iterator[None]:
    """The first call of `Calls.store_archive` is never answered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_line, "AGAIN_S", 0.001)
        yield


BUILD = "k7m2xq9d4t1zv6wh5r3p"
PINNED = "registry.example/debian@sha256:" + "b" * 64
SITE = Site(namespace="ignite-kaniko", executor=EXECUTOR, fetcher=FETCHER)
ALL = '["*"]'
BUILDER = "registry.example:5000/cnb/builder@sha256:" + "ef" * 32
KANIKO = {"kaniko": Setup(site=SITE, allowed=("*",))}
BOTH = {
    **KANIKO,
    "buildpacks": Setup(
        site=Site(namespace="ignite-buildpacks", executor=BUILDER, fetcher=FETCHER),
        run_image=RUN,
        allowed=("BP_*",),
        reads=BUILDER,
    ),
}
BUILDER_CONFIG = {
    "config": {
        "Env": ["CNB_USER_ID=1001", "CNB_GROUP_ID=1000"],
        "Labels": {"io.buildpacks.builder.metadata": '{"buildpacks": [{"id": "acme/node", "version": "1.2.0"}]}'},
    }
}
PROJECT = """
[_]
schema-version = "0.2"
[io.buildpacks]
exclude = ["draft.*"]
[[io.buildpacks.group]]
id = "acme/node"
"""
DOCKERFILE = f"FROM {PINNED} AS made\nRUN echo a \\\n  b\nFROM {PINNED}\nCOPY --from=made /a /a\n"


def tree(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return folder


# --- plan and key


def test_the_plan_has_each_instruction_with_its_stage_and_line(tmp_path: Path) -> None:
    plan = kaniko.plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest(), ALL)
    assert [(one.stage, one.line) for one in plan.instructions] == [(0, 1), (0, 2), (1, 4), (1, 5)]
    assert " ".join(plan.instructions[1].text.split()) == "RUN echo a b"
    assert plan.pinned and plan.bases == (PINNED,)


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM debian:12\n",
        f"FROM {PINNED}\nCOPY --from=busybox /a /a\n",
        f"FROM {PINNED}\nRUN --mount=type=bind,from=busybox,target=/b true\n",
        f"FROM {PINNED}\nARG OTHER={PINNED}\nCOPY --from=$OTHER /a /a\n",
        "ARG BASE=debian:12\nFROM $BASE\n",
    ],
)
def test_an_image_by_tag_makes_a_key_that_no_other_build_has(tmp_path: Path, dockerfile: str) -> None:
    plan = kaniko.plan(tree(tmp_path / "s", dockerfile), ImageRequest(), ALL)
    assert not plan.pinned
    assert len({key(plan, build_id=one) for one in ("a", "b")}) == 2


@pytest.mark.parametrize(
    ("given", "pinned"), [({}, False), ({"BASE": PINNED}, True), ({"BASE": "reg.example/a:1"}, False)]
)
def test_a_variable_of_from_counts_by_its_value(tmp_path: Path, given: dict[str, str], *, pinned: bool) -> None:
    text = "ARG BASE=debian:12\nFROM ${BASE} AS made\nFROM $BASE\nCOPY --from=made /a /a\n"
    plan = kaniko.plan(tree(tmp_path / "s", text), ImageRequest(build_args=given), ALL)
    assert plan.pinned is pinned and plan.bases == (given.get("BASE", "docker.io/library/debian:12"),)


def key(plan: Any, **changed: Any) -> str:
    parts = {"organization": "o", "code_hash": "sha256:0", "build_args": {"A": "1"}, "executor": EXECUTOR}
    return key_of(plan, **{**parts, "build_id": "a", **changed})


def test_the_key_is_what_decides_the_image(tmp_path: Path) -> None:
    plan = kaniko.plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest(), ALL)
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
    plan = kaniko.plan(tree(tmp_path / "s", DOCKERFILE), ImageRequest(), ALL)
    materials = materials_of(plan, executor=EXECUTOR, archive="sha256:1")
    found = read_facts(write_facts(plan, materials))
    assert (found.dockerfile, found.instructions, found.materials) == ("Dockerfile", plan.instructions, materials)
    assert (PINNED.partition("@")[0], "sha256:" + "b" * 64) in materials
    long = kaniko.plan(tree(tmp_path / "l", f"FROM {PINNED}\n" + "RUN echo x\n" * 9000), ImageRequest(), ALL)
    text = write_facts(long, materials)
    assert len(text) <= 64 * 1024 and read_facts(text).instructions == ()
    with pytest.raises(ValueError):
        read_facts("{}")
    row = '{"dockerfile": "D", "materials": [], "instructions": [[Infinity, 1, "x"]]}'
    for hostile in ("[" * 60_000, "[]", "null", "1", row, row.replace("Infinity", "1" * 5000)):
        with pytest.raises(ValueError):
            read_facts(hostile)


@pytest.mark.parametrize(
    ("lines", "where", "words"),
    [
        (f"FROM {PINNED}\n", "", ""),
        (f"FROM {PINNED} AS made\nFROM made\nCOPY --from=made /a /a\nFROM scratch\nCOPY --from=0 /a /a\n", "", ""),
        ("ARG V=3\nFROM alpine:$V\n", "", ""),
        ("FROM debian:12\n", "Dockerfile:1:6", "debian:12 is none"),
        ("ARG BASE=debian\nFROM $BASE\n", "Dockerfile:2:6", "$BASE is none"),
        (f"FROM {PINNED}\nCOPY --from=busybox /a /a\n", "Dockerfile:2:13", "busybox is none"),
        (f"FROM {PINNED}\nRUN --mount=type=bind,from=busybox,target=/b true\n", "Dockerfile:2:28", "busybox is none"),
        (f"FROM {PINNED} AS a\nONBUILD COPY --from=busybox /a /a\nFROM a\n", "Dockerfile:2:21", "busybox is none"),
        ("FROM registry.example.evil/debian\n", "Dockerfile:1:6", "is none"),
    ],
)
def test_an_operators_list_of_images_counts(tmp_path: Path, lines: str, where: str, words: str) -> None:
    known = kaniko.learn(Setup(site=SITE, allowed=("registry.example/*", "docker.io/library/alpine:*")), {})
    source = tree(tmp_path / "s", lines)
    if not where:
        assert kaniko.plan(source, ImageRequest(), known).dockerfile == "Dockerfile"
        return
    with pytest.raises(BuildError) as refused:
        kaniko.plan(source, ImageRequest(), known)
    error = refused.value
    assert (error.reason, error.where) == ("DockerfileInvalid", where)
    assert words in error.message and "registry.example/*" in error.next


OWN = "Registry.example:5000"
MIRROR = "registry.example:5000/team/"


@pytest.mark.parametrize(
    ("lines", "given", "where"),
    [
        (f"FROM {MIRROR}o/app:1\nCOPY --from={MIRROR}o/tools/x:1 /a /a\n", {}, ""),
        ("FROM debian:12\nCOPY --from=registry.example/team/p/app /a /a\n", {}, ""),
        (
            f"FROM debian AS made\nFROM {MIRROR}o/app\nRUN --mount=from=made,target=/b true\nCOPY --from=0 /a /a\n",
            {},
            "",
        ),
        (f"FROM scratch\nCOPY --from={MIRROR}p/app:1 /a /a\n", {}, "2:13"),
        (f"FROM {MIRROR}p/app:1\n", {}, "1:6"),
        (f"FROM {MIRROR}other/app\n", {}, "1:6"),
        (f"FROM {MIRROR}app\n", {}, "1:6"),
        (f"FROM {MIRROR.upper().replace('/TEAM/', '/team/')}p/app@sha256:{'b' * 64}\n", {}, "1:6"),
        (f"FROM debian\nRUN --mount=type=bind,from={MIRROR}p/app,target=/b true\n", {}, "2:28"),
        (f"FROM debian AS a\nONBUILD COPY --from={MIRROR}p/app /a /a\nFROM a\n", {}, "2:21"),
        (f"FROM debian AS a\nONBUILD RUN --mount=from={MIRROR}p/app,target=/b true\nFROM a\n", {}, "2:26"),
        (f"ARG BASE={MIRROR}p/app\nFROM debian\nFROM ${{BASE}}\n", {}, "3:6"),
        (f"ARG BASE={MIRROR}p/app\nFROM $BASE\n", {"BASE": "debian"}, ""),
        ("ARG BASE=debian\nFROM $BASE\n", {"BASE": f"{MIRROR}p/app"}, "2:6"),
        ("ARG WHO=p\nFROM registry.example:5000/team/$WHO/app\n", {"WHO": "o"}, ""),
        ("ARG WHO=o\nFROM registry.example:5000/team/$WHO/app\n", {"WHO": "p"}, "2:6"),
        ("FROM debian\nARG WHO=o\nCOPY --from=registry.example:5000/team/$WHO/app /a /a\n", {}, "3:13"),
        ("ARG BASE=xdebian\nFROM ${BASE#x}\n", {}, "2:6"),
        # What Kaniko makes of it, and BuildKit does not.
        ("FROM ${BASE:-debian}\n", {"BASE": f"{MIRROR}p/app"}, "1:6"),
        ("FROM ${BASE:-debian}\n", {"BASE": f"{MIRROR}p/app=1"}, "1:6"),
        ("FROM ${TARGETOS:-debian}\n", {"TARGETOS": f"{MIRROR}p/app"}, "1:6"),
        (f"ARG BASE={MIRROR}p/app\nFROM ${{BASE:-debian}}\n", {"BASE": ""}, "2:6"),
        (f"ARG A={MIRROR}p/app\nARG B=$A\nFROM $B\n", {"A": "debian"}, "3:6"),
        (f"ARG A='$Z'\nARG B=${{A:+debian}}\nFROM ${{B:-{MIRROR}p/app}}\n", {}, "3:6"),
        (f"ARG A=x{MIRROR}p/app\nARG B=${{A#x}}\nFROM ${{B:-debian}}\n", {}, "3:6"),
    ],
)
def test_an_image_of_another_organization_in_the_servers_registry_is_refused_whatever_the_list_allows(
    tmp_path: Path, lines: str, given: dict[str, str], where: str
) -> None:
    source = tree(tmp_path / "s", lines)
    asked = ImageRequest(build_args=given, registry=OWN, prefix="team/o")
    assert kaniko.plan(source, replace(asked, registry=""), ALL), "without a registry each may be anybody's"
    if not where:
        assert kaniko.plan(source, asked, ALL).dockerfile == "Dockerfile"
        return
    with pytest.raises(BuildError) as refused:
        kaniko.plan(source, asked, ALL)
    error = refused.value
    assert error.where == f"Dockerfile:{where}" and error.said and error.next
    is_open = "only the build knows" in error.message
    assert error.reason == ("DockerfileInvalid" if is_open else "RepositoryForbidden")
    assert is_open or 'outside of your prefix "team/o/"' in error.message
    with pytest.raises(BuildError) as listed:
        kaniko.plan(source, replace(asked, registry=""), json.dumps(["docker.io/*", f"{MIRROR}o/*"]))
    assert listed.value.where == error.where, "an operator's list sees the same images"


def test_another_spelling_of_the_servers_registry_is_refused_with_its_line(tmp_path: Path) -> None:
    asked = ImageRequest(registry="registry.example", prefix="o")
    with pytest.raises(BuildError, match="written in another way") as refused:
        kaniko.plan(tree(tmp_path / "s", "FROM registry.example:443/p/app\n"), asked, ALL)
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "Dockerfile:1:6")


@pytest.mark.parametrize(
    ("repository", "prefix"),
    [("o/app", "o"), ("team/o/app", "team/o"), ("o/o/app", "o/o"), ("team/o/x/o/app", "team/o/x/o"), ("p/app", "o")],
)
def test_a_prefix_by_a_repository_opens_no_other_organizations(repository: str, prefix: str) -> None:
    """An organization may be named as what stands before all of them."""
    assert prefix_of(repository, "o") == prefix


# --- the line


class JobCalls(MemoryCalls):
    """Serves one source and stores an archive; `launched` answers as the store does."""

    def __init__(self, source: bytes, *, cancel: bool = False, status: str = "RUNNING") -> None:
        super().__init__()
        self.source, self.cancel, self.status = source, cancel, status
        self.order: list[str] = []
        self.archived: list[str] = []
        self.keys: list[str] = []
        self.marked: pb.LaunchingRequest | None = None
        self.launched_with: pb.LaunchedRequest | None = None
        self.away, self.lives_s = 1, 0
        self.provenance: pb.SourceProvenance | None = None

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        yield self.source

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        self.keys.append(request.key)
        self.provenance = request.provenance if request.HasField("provenance") else None
        return super().planned(request)

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == sha256
        with tarfile.open(archive) as packed:
            self.archived = packed.getnames()
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
        self.keeps = 0
        self.on_failure: Callable[[], None] = lambda: None

    def create(self, job: Mapping[str, Any], secret_of: Callable[[str], Mapping[str, Any]] | None = None) -> str:
        if self.failures:
            self.failures -= 1
            self.on_failure()
            raise PlatformError(self.reason, "the cluster has no time")
        self.order.append("create")
        self.created.append(job)
        if secret_of:
            self.secrets.append(secret_of("uid-1"))
        return "uid-1"

    def delete(self, namespace: str, name: str, uid: str = "") -> None:
        self.order.append("delete")
        if self.keeps:
            self.keeps -= 1
            raise PlatformError("ClusterUnavailable", "the cluster has no time")
        self.deleted.append(name)


def grant(source: bytes, *, by_buildpacks: bool = False, **image: Any) -> pb.ClaimBuildResponse:
    made = grant_of(BUILD)
    made.request.buildpacks = by_buildpacks
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
    folder: Path,
    calls: JobCalls,
    cluster: Fake,
    *,
    login: tuple[str, str] | None = None,
    logins: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    setups: Mapping[str, Setup] = KANIKO,
    config: Mapping[str, Any] | BuildError = BUILDER_CONFIG,
    begin: Callable[[Attempt], None] = lambda attempt: None,
    resources: tuple[JobResources, ...] = (),
    **image: Any,
) -> tuple[Any, Close]:
    def read(image: str, access: Access, login: Login | None) -> Mapping[str, Any]:
        user, password = launcher.logins.get("o") or launcher.login or ("", "")
        assert image == BUILDER and login == (Login(username=user, password=password) if user else None)
        assert access.private == access.insecure == ("registry.example:5000",)
        if isinstance(config, BuildError):
            raise config
        return config

    launcher = Launcher(setups=setups, cluster=cluster, login=login, logins=logins, read_config=read)
    node = node_at(folder, calls, settings={"node_id": "n", "job_resources": resources})
    with driving(node, grant(calls.source, **image)) as attempt:
        begin(attempt)
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


@pytest.mark.parametrize("repository", ["team/p/app", "o/app", "team/other/app"])
def test_a_dockerfile_on_an_image_of_another_organization_makes_no_job(tmp_path: Path, repository: str) -> None:
    calls = JobCalls(tar_of({"Dockerfile": f"FROM scratch\nCOPY --from=registry.example:5000/{repository} /a /a\n"}))
    cluster = Fake(calls.order)
    outcome, how = launch(tmp_path, calls, cluster, login=("robot", "pass"))
    assert (outcome.failure.reason, outcome.failure.where) == ("RepositoryForbidden", "Dockerfile:2:13")
    assert how is Close.FINISH and not cluster.created and "archive" not in calls.order


def test_a_dockerfile_on_an_image_of_its_own_organization_makes_a_job(tmp_path: Path) -> None:
    calls = JobCalls(tar_of({"Dockerfile": "FROM registry.example:5000/team/o/base\n"}))
    _, how = launch(tmp_path, calls, Fake(calls.order))
    assert how is Close.LAUNCHED


def test_plan_refuses_what_a_worker_would_where_it_knows_the_registry(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "FROM registry.example/p/app\n")
    settings = Settings(registry="registry.example", organization="o")

    def packed(folder: str, part: Callable[[str], bool] | None) -> tuple[str, int, int]:
        return "sha256:" + "0" * 64, 1, 1

    with pytest.raises(BuildError, match="RepositoryForbidden"):
        job_of(settings, source, ImageRequest(), "app", packed)
    with pytest.raises(BuildError, match="RepositoryForbidden"):
        call_of(settings.replace(docker_host="unix:///x"), source, ImageRequest())
    assert job_of(settings.replace(server="https://api.test"), source, ImageRequest(), "app", packed)


def test_plan_shows_the_login_of_an_organization_as_a_worker_mounts_it(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", "FROM scratch\n")
    settings = Settings(registry="registry.example", organization="o")
    logins = tuple(JobLogin(organization=name, username=user, password=word) for name, (user, word) in LOGINS.items())

    def volumes(settings: Settings) -> list[str]:
        made = job_of(settings, source, ImageRequest(), "app", lambda folder, part: ("sha256:" + "0" * 64, 1, 1))
        return [one["name"] for one in made["spec"]["template"]["spec"]["volumes"]]

    assert volumes(settings) == ["source"]
    with_login = volumes(settings.replace(job_registry_logins=logins))
    assert with_login == volumes(settings.replace(job_registry_username="robot")) != ["source"]


def test_the_servers_login_reaches_no_job(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order)
    launch(tmp_path, calls, cluster)
    assert not cluster.secrets
    assert [one["name"] for one in cluster.created[0]["spec"]["template"]["spec"]["volumes"]] == ["source"]


@pytest.mark.parametrize("by_buildpacks", [False, True])
def test_a_job_has_the_resources_of_its_organization_and_ends_when_they_say(
    tmp_path: Path, *, by_buildpacks: bool
) -> None:
    rows = (JobResources(organization="p", cpus=7.0), JobResources(organization="o", cpus=0.5, timeout_ms=30_000))
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order)
    outcome, how = launch(tmp_path, calls, cluster, resources=rows, setups=BOTH, by_buildpacks=by_buildpacks)
    assert how is Close.LAUNCHED, outcome
    spec = cluster.created[0]["spec"]
    assert spec["activeDeadlineSeconds"] == 30
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "500m"
    assert calls.marked is not None and calls.marked.job.deadline_at_ms <= time.time() * 1000 + 30_000


LOGINS = {"o": ("o's", "pass of o"), "p": ("p's", "pass of p")}


@pytest.mark.parametrize("by_buildpacks", [False, True])
def test_a_job_has_the_login_of_its_organization_and_no_other(tmp_path: Path, *, by_buildpacks: bool) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order)
    outcome, how = launch(
        tmp_path, calls, cluster, login=("robot", "pass"), logins=LOGINS, setups=BOTH, by_buildpacks=by_buildpacks
    )
    assert how is Close.LAUNCHED, outcome
    (secret,) = cluster.secrets
    config = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    auth = base64.b64encode(b"o's:pass of o").decode()
    assert config == {"auths": {"registry.example:5000": {"auth": auth}}}


def test_an_organization_without_a_login_of_its_own_is_refused_where_others_have_one(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order)
    outcome, how = launch(tmp_path, calls, cluster, login=("robot", "pass"), logins={"p": LOGINS["p"]})
    failure = outcome.failure
    assert (failure.reason, failure.where) == ("ToolchainUnavailable", "job_registry_logins")
    assert "o has none on this node" in failure.message and "a row for o to job_registry_logins" in failure.next
    assert how is Close.FINISH and not calls.order and not cluster.created


@pytest.mark.parametrize(
    ("login", "logins", "warned"),
    [(("robot", "pass"), {}, ["p", "q"]), (None, {}, []), (("robot", "pass"), {**LOGINS, "q": ("q", "q")}, [])],
)
def test_one_login_for_several_organizations_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    login: tuple[str, str] | None,
    logins: Mapping[str, tuple[str, str]],
    warned: list[str],
) -> None:
    said: list[str] = []

    class Said:
        def warning(self, message: str, *, organization: str, **more: str) -> None:
            assert "job_registry_logins" in more["next"] and "pass" not in f"{message} {more}"
            said.append(organization)

    monkeypatch.setattr("builder.node.image.log", Said())
    launcher = Launcher(setups=KANIKO, cluster=Fake([]), login=login, logins=logins)
    for number, organization in enumerate(("o", "o", "p", "p", "q", "o")):
        calls = JobCalls(SOURCE)
        asked = grant(calls.source)
        asked.organization_name = organization
        asked.destination.repository = f"team/{organization}/app"
        with driving(node_at(tmp_path / str(number), calls, settings={"node_id": "n"}), asked) as attempt:
            outcome = do_work(attempt, launcher.run)
            assert outcome.job is not None and close(attempt, outcome) is Close.LAUNCHED
    assert said == warned


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
    cluster = Fake(calls.order, failures=1, reason="Unschedulable")
    outcome, how = launch(tmp_path, calls, cluster)
    assert (outcome.failure.reason, how) == ("Unschedulable", Close.FINISH)
    assert "create" not in calls.order
    assert cluster.deleted == [job_name(BUILD, 1)], "it may be the credential that was refused, and the Job is there"


def stopping(cluster: Fake, flag: str) -> Callable[[Attempt], None]:
    """The attempt is told so once a creation has failed, whose answer may have been lost."""

    def begin(attempt: Attempt) -> None:
        def stop() -> None:
            with attempt.log.spool.changed:
                setattr(attempt.lease, flag, True)
                attempt.log.spool.changed.notify_all()

        cluster.on_failure = stop

    return begin


@pytest.mark.parametrize(("flag", "end"), [("cancelled", Close.FINISH), ("drained", Close.HAND_BACK)])
def test_who_stops_between_two_tries_leaves_no_job(tmp_path: Path, flag: str, end: Close) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order, failures=1)
    cluster.keeps = 1
    _, how = launch(tmp_path, calls, cluster, begin=stopping(cluster, flag))
    assert (how, cluster.deleted) == (end, [job_name(BUILD, 1)])
    assert calls.order == ["archive", "launching", "delete", "delete"]


def test_the_job_of_a_lost_claim_is_its_adopters(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order, failures=1)
    _, how = launch(tmp_path, calls, cluster, begin=stopping(cluster, "lost"))
    assert (how, calls.order) == (Close.LOST, ["archive", "launching"])


def test_a_claim_that_was_not_heard_of_for_a_lease_withdraws_nothing(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    cluster = Fake(calls.order, failures=1, reason="Unschedulable")

    def begin(attempt: Attempt) -> None:
        def late() -> None:
            attempt.lease.heard_at -= attempt.lease.lease_s

        cluster.on_failure = late

    launch(tmp_path, calls, cluster, begin=begin)
    assert "delete" not in calls.order


def test_a_job_goes_on_whatever_is_left_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = JobCalls(SOURCE)

    def full(root: Path) -> bool:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(drive, "remove_tree", full)
    _, how = launch(tmp_path, calls, cluster := Fake(calls.order))
    assert (how, cluster.deleted) == (Close.LAUNCHED, [])


def test_a_dockerfile_that_cannot_be_built_costs_no_job(tmp_path: Path) -> None:
    calls = JobCalls(tar_of({"Dockerfile": f"FROM {PINNED}\nCOPY absent /\n"}))
    outcome, how = launch(tmp_path, calls, Fake(calls.order))
    assert (outcome.failure.reason, outcome.failure.where) == ("DockerfileInvalid", "Dockerfile:2:6")
    assert how is Close.FINISH and calls.order == []


# --- of a repository


FORGE = "https://forge.example.com/app.git"
TOKEN = "ghp_0123456789abcdefghij"


def launch_commit(
    folder: Path, calls: JobCalls, cluster: Fake, monkeypatch: pytest.MonkeyPatch, sha: str, **fields: Any
) -> tuple[Any, Close]:
    """The line for a repository whose commit `sha` has the tree `calls.source`; git itself is in the e2e tests."""
    asked: list[Repository] = []

    def fetch(attempt: Attempt, repository: Repository) -> Commit:
        asked.append(repository)
        attempt.blob.write_bytes(calls.source)
        return Commit(sha=sha, time_ms=1_767_323_045_000, author="Ada <ada@example.com>", branch="main")

    monkeypatch.setattr("builder.attempt.git.fetch_commit", fetch)
    made = grant(b"")
    made.request.code.image.from_git.CopyFrom(common.ImageFromGit(url=FORGE, secret_ref="forge", **fields))
    made.source.Clear()
    made.secrets.update({"git.username": "ada", "git.token": TOKEN})
    launcher = Launcher(setups=BOTH, cluster=cluster, login=("robot", "pass"), read_config=lambda *_: BUILDER_CONFIG)
    with driving(node_at(folder, calls, settings={"node_id": "n"}), made) as attempt:
        outcome = do_work(attempt, launcher.run)
        how = close(attempt, outcome)
    assert [(one.url, one.secret, one.at) for one in asked] == [(FORGE, "forge", "code.image.fromGit")]
    return outcome, how


def test_a_commit_is_launched_and_recorded_and_no_job_has_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = JobCalls(tar_of({"app/Build": DOCKERFILE, "app/a": "a"}))
    cluster = Fake(calls.order)
    asked = {"sub_path": "app", "dockerfile_path": "Build", "build_args": {"WHO": "us"}}
    outcome, how = launch_commit(tmp_path, calls, cluster, monkeypatch, "a" * 40, **asked)
    assert how is Close.LAUNCHED, outcome
    assert calls.order == ["archive", "launching", "create", "launched"]
    assert calls.archived == ["app", "app/Build", "app/a"]
    assert calls.provenance == pb.SourceProvenance(
        commit_sha="a" * 40, author="Ada <ada@example.com>", branch="main", source_timestamp_ms=1_767_323_045_000
    )
    assert calls.marked is not None and cluster.secrets
    flags = cluster.created[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--build-arg=WHO=us", "--dockerfile=/kaniko/buildcontext/app/Build"} <= {*flags}
    everything = json.dumps([cluster.created, cluster.secrets]) + str(calls.marked) + "\n".join(calls.kept[BUILD])
    assert TOKEN not in everything and FORGE not in json.dumps(cluster.created)


def test_another_commit_with_the_same_tree_has_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for name, sha, content in (("a", "a", "1"), ("b", "b", "1"), ("c", "c", "2")):
        calls = JobCalls(tar_of({"main.js": content}))
        launch_commit(tmp_path / name, calls, Fake(calls.order), monkeypatch, sha * 40)
        assert calls.marked is not None and calls.marked.job.strategy == "buildpacks"
        keys += calls.keys
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, ""])
def test_a_commit_that_changes_another_folder_has_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dockerfile: str
) -> None:
    """And its Job sees nothing of that folder, in which a change would go unnoticed."""
    app = {"app/Dockerfile": dockerfile, "app/a": "a"} if dockerfile else {"app/a": "a"}
    trees = (app, {**app, "app2/x": "1"}, {**app, "other/x": "2", "y": "3"}, {**app, "app/b": "b"})
    keys = []
    for number, files in enumerate(trees):
        calls = JobCalls(tar_of(files))
        launch_commit(tmp_path / str(number), calls, Fake(calls.order), monkeypatch, "a" * 40, sub_path="app")
        assert {name.partition("/")[0] for name in calls.archived} == {"app"}
        keys += calls.keys
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_pointers_of_lfs_become_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    calls = JobCalls(tar_of({"Dockerfile": DOCKERFILE, **{f"a{number}": pointer for number in range(6)}}))
    outcome, how = launch_commit(tmp_path, calls, Fake(calls.order), monkeypatch, "a" * 40)
    assert outcome.failure is not None
    assert (outcome.failure.reason, how, calls.order) == ("LfsUnavailable", Close.FINISH, [])
    assert outcome.failure.message == "a0, a1, a2, a3 and 2 more are pointers of Git LFS, whose files are not fetched"
    assert outcome.failure.where == "a0" and "Commit the files themselves" in outcome.failure.next


# --- without a Dockerfile


@pytest.mark.parametrize("by_buildpacks", [False, True])
def test_what_plan_shows_is_what_a_worker_creates(tmp_path: Path, *, by_buildpacks: bool) -> None:
    """But for what it cannot know: words stand there."""
    files = {"Dockerfile": DOCKERFILE, "a": "a", "draft.js": "2", "project.toml": PROJECT}
    calls = JobCalls(tar_of(files))
    cluster = Fake(calls.order)
    arguments = {"BP_WHO": "us"}
    launch(
        tmp_path,
        calls,
        cluster,
        setups=BOTH,
        login=("robot", "pass"),
        by_buildpacks=by_buildpacks,
        build_args=arguments,
    )
    source = tmp_path / "seen"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)

    def packed(folder: str, part: Callable[[str], bool] | None) -> tuple[str, int, int]:
        made = write_archive(source, tmp_path / "seen.tar", limit=1 << 20, folder=folder, part=part)
        return f"sha256:{made.sha256}", made.size, made.unpacked

    settings = Settings(
        registry="registry.example:5000",
        registry_insecure=True,
        repository_prefix="team",
        organization="o",
        job_registry_username="robot",
        kaniko_executor=EXECUTOR,
        fetch_image=FETCHER,
        buildpacks_builder=BUILDER,
        buildpacks_run_image=RUN,
    )
    asked = ImageRequest(buildpacks=by_buildpacks, build_args=arguments)
    made = job_of(settings, source, asked, "app", packed)
    known = {
        '"SOURCE_URL"}': '"http://store/x?signature=s3cret"}',
        "build-BUILD-1": "build-x-1",
        "BUILDER_VERSION": "1.2.0",
        "BUILD": BUILD,
    }
    text = json.dumps(made)
    for numbered in ('"runAsUser": ', '"runAsGroup": ', '"fsGroup": '):
        text = text.replace(f'{numbered}"BUILDER_UID"', f"{numbered}1001").replace(
            f'{numbered}"BUILDER_GID"', f"{numbered}1000"
        )
    text = text.replace("BUILDER_UID", "1001").replace("BUILDER_GID", "1000")
    for word, value in known.items():
        text = text.replace(word, value)
    (created,) = json.loads(json.dumps(cluster.created))
    expected = json.loads(text)
    expected["spec"]["activeDeadlineSeconds"] = created["spec"]["activeDeadlineSeconds"]
    assert created == expected


def test_a_source_without_a_dockerfile_goes_to_buildpacks(tmp_path: Path) -> None:
    calls = JobCalls(tar_of({"app/project.toml": PROJECT, "app/main.js": "1", "app/draft.js": "2", "other/x": "3"}))
    cluster = Fake(calls.order)
    asked: dict[str, Any] = {"sub_path": "app", "build_args": {"BP_MODE": "fast"}}
    outcome, how = launch(tmp_path, calls, cluster, setups=BOTH, login=("robot", "pass"), **asked)
    assert how is Close.LAUNCHED, outcome
    assert calls.marked is not None
    assert (calls.marked.job.strategy, calls.marked.job.namespace) == ("buildpacks", "ignite-buildpacks")
    assert calls.archived == ["app", "app/main.js", "app/project.toml"], "what project.toml excludes stays here"
    pod = cluster.created[0]["spec"]["template"]["spec"]
    flags = {one["name"]: one["args"] for one in (*pod["initContainers"], *pod["containers"])}
    assert pod["securityContext"]["runAsUser"] == 1001 and pod["securityContext"]["fsGroup"] == 1000
    assert "registry.example:5000/team/o/app:build-x-1" in flags["export"]
    assert f"-run-image={RUN}" in flags["analyze"]
    assert any(
        flag.startswith("-cache-image=registry.example:5000/team/o/cache/buildpacks/") for flag in flags["export"]
    )
    annotations = cluster.created[0]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["ignite.dodil.dev/argument-0"] == "fast"
    assert 'id = "acme/node"\nversion = "1.2.0"' in annotations["ignite.dodil.dev/order"]
    assert cluster.secrets[0]["metadata"]["namespace"] == "ignite-buildpacks"
    assert "an image by Cloud Native Buildpacks, because no Dockerfile in app" in calls.kept[BUILD]
    found = buildpacks.read(calls.marked.job.facts)
    assert found.run_image == RUN
    assert dict(found.materials).keys() == {"buildpacks", RUN.partition("@")[0], "context"}


def test_a_dockerfile_goes_before_buildpacks(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    launch(tmp_path, calls, Fake(calls.order), setups=BOTH)
    assert calls.marked is not None and calls.marked.job.strategy == "kaniko"


def test_buildpacks_that_are_asked_for_go_before_a_dockerfile(tmp_path: Path) -> None:
    calls = JobCalls(SOURCE)
    _, how = launch(tmp_path, calls, Fake(calls.order), setups=BOTH, by_buildpacks=True)
    assert how is Close.LAUNCHED
    assert calls.marked is not None and calls.marked.job.strategy == "buildpacks"
    assert "an image by Cloud Native Buildpacks, because buildpacks are asked for" in calls.kept[BUILD]
    assert calls.archived == ["Dockerfile", "a"], "a file like any other"


@pytest.mark.parametrize(
    ("setups", "source", "words", "step"),
    [
        (KANIKO, {"main.js": "1"}, "no Dockerfile at the root", "buildpacks_builder"),
        ({"buildpacks": BOTH["buildpacks"]}, {"Dockerfile": DOCKERFILE, "a": "a"}, "Dockerfile at the root", "kaniko"),
    ],
)
def test_a_strategy_that_is_not_set_up_is_refused_with_what_to_do(
    tmp_path: Path, setups: Mapping[str, Setup], source: dict[str, str], words: str, step: str
) -> None:
    calls = JobCalls(tar_of(source))
    outcome, how = launch(tmp_path, calls, Fake(calls.order), setups=setups)
    assert (outcome.failure.reason, outcome.failure.where) == ("InvalidRequest", "dockerfilePath")
    assert words in outcome.failure.message and step in outcome.failure.next
    assert how is Close.FINISH and calls.order == []


@pytest.mark.parametrize(
    ("config", "reason", "words"),
    [
        ({"config": {"Env": ["CNB_USER_ID=0"]}}, "ExecutorImageUnavailable", BUILDER),
        (BuildError("ImageNotFound", "there is none"), "ExecutorImageUnavailable", "there is none"),
        (PlatformError("RegistryUnavailable", "it is away"), "RegistryUnavailable", "it is away"),
    ],
)
def test_a_builder_image_that_cannot_be_used_is_not_the_users(
    tmp_path: Path, config: Mapping[str, Any] | BuildError, reason: str, words: str
) -> None:
    calls = JobCalls(tar_of({"main.js": "1"}))
    outcome, _ = launch(tmp_path, calls, Fake(calls.order), setups=BOTH, config=config)
    assert isinstance(outcome.failure, PlatformError) and outcome.failure.reason == reason
    assert words in outcome.failure.message and calls.order == []


def test_a_build_argument_that_is_not_allowed_is_the_requests_fault(tmp_path: Path) -> None:
    calls = JobCalls(tar_of({"main.js": "1"}))
    outcome, _ = launch(tmp_path, calls, Fake(calls.order), setups=BOTH, build_args={"LD_PRELOAD": "x"})
    assert outcome.failure.reason == "BuildArgUnknown" and calls.order == []


def test_the_same_source_has_the_same_key(tmp_path: Path) -> None:
    keys = []
    for name, source in (("a", {"main.js": "1"}), ("b", {"main.js": "1"}), ("c", {"main.js": "2"})):
        calls = JobCalls(tar_of(source))
        launch(tmp_path / name, calls, Fake(calls.order), setups=BOTH)
        keys += calls.keys
    assert keys[0] == keys[1] != keys[2]


def test_facts_that_are_none_still_read_a_job() -> None:
    assert buildpacks.read("no facts").materials == ()
    assert json.loads(buildpacks.learn(BOTH["buildpacks"], BUILDER_CONFIG))["builder"]["uid"] == 1001
