"""A rebase from its request to its end: what may be named, the plan and its key, the Job, what the store answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from sqlalchemy import delete, update

from builder.attest.provenance import Built, statement
from builder.buildpacks.manifest import REBASE
from builder.buildpacks.rebase import key_of, materials_of, name_of, plan_rebase
from builder.claims.requests import Close
from builder.cli.commands.build import _again
from builder.cli.requests import BuildOptions, rebase_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.contract.request import REBUILD
from builder.errors import BuildError, PlatformError
from builder.images.external import Access, Login
from builder.kube.ended import Ended
from builder.kube.job import job_name
from builder.node.close import close
from builder.node.drive import do_work, driving
from builder.node.image import Launcher
from builder.services.auth import Caller
from builder.services.errors import CallRefused
from builder.settings import Settings
from builder.store import builds, record
from builder.strategies import buildpacks
from builder.strategies.base import Setup
from builder.strategies.preview import rebase_job_of
from tests.attempt_fixtures import grant_of, node_at
from tests.cli_fixtures import run as run_cli
from tests.golden import jobs
from tests.unit.test_image_line import BOTH, BUILD, BUILDER, BUILDER_CONFIG, KANIKO, Fake, JobCalls
from tests.unit.test_service import ACME, OTHER, Services, node_of, services  # noqa: F401
from tests.unit.test_watcher import run, watching
from tests.watcher_fixtures import Board, MemoryCluster, OneJob, Record

RUN = jobs.RUN
NAME = RUN.partition("@")[0]
OLD_RUN = f"{NAME}@sha256:" + "aa" * 32
DIGEST = "sha256:" + "12" * 32
IMAGE = f"registry.example:5000/team/o/app@{DIGEST}"
CODE = "sha256:" + "c0" * 32


def config_of(reference: str = OLD_RUN, labels: Mapping[str, str] | None = None, **run_image: Any) -> dict[str, Any]:
    """The config of an app that the lifecycle put on the run image `reference`."""
    row = {"topLayer": "sha256:" + "1" * 64, "reference": reference, "image": NAME, **run_image}
    lifecycle = json.dumps({"runImage": row})
    return {"config": {"Labels": {"io.buildpacks.lifecycle.metadata": lifecycle, **(labels or {})}}}


# --- the plan and its key


def test_an_app_is_put_on_a_later_version_of_its_run_image() -> None:
    plan = plan_rebase(config_of(), image=IMAGE, run_image=RUN)
    assert (plan.image, plan.run_image, plan.unchanged) == (IMAGE, RUN, False)
    assert plan_rebase(config_of(RUN), image=IMAGE, run_image=RUN).unchanged
    mirrored = config_of(image="other.example/run", mirrors=[NAME])
    assert not plan_rebase(mirrored, image=IMAGE, run_image=RUN).unchanged
    stack = {"config": {"Labels": {"io.buildpacks.lifecycle.metadata": json.dumps(
        {"runImage": {"topLayer": "sha256:1"}, "stack": {"runImage": {"image": NAME}}}
    )}}}  # fmt: skip
    assert not plan_rebase(stack, image=IMAGE, run_image=RUN).unchanged


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "has no label of buildpacks"),
        (config_of(labels={"io.buildpacks.rebasable": "false"}), "cannot be rebased"),
        (config_of(image="registry.example/other"), "stands on registry.example/other, and this server's run image is"),
        (config_of(image=f"{NAME}:jammy"), "stands on"),
        (config_of(image=""), "a run image without a name"),
        (config_of(image=7, mirrors="x"), "a run image without a name"),
    ],
)
def test_what_cannot_be_rebased_is_refused_with_the_next_step(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError) as refused:
        plan_rebase(config, image=IMAGE, run_image=RUN)
    error = refused.value
    assert (error.reason, error.where, error.next) == ("InvalidRequest", "rebase.buildId", REBUILD)
    assert words in error.message


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("r.example:5000/a/run@sha256:1", "r.example:5000/a/run:latest"),
        ("r.example/run:1@sha256:1", "r.example/run:1"),
        ("localhost/run", "localhost/run:latest"),
        ("cnbs/run:noble", "index.docker.io/cnbs/run:noble"),
        ("docker.io/debian", "index.docker.io/library/debian:latest"),
        ("debian:12", "index.docker.io/library/debian:12"),
    ],
)
def test_a_run_image_has_the_name_that_the_lifecycle_compares(reference: str, name: str) -> None:
    assert name_of(reference) == name


def test_the_key_is_image_and_run_image_and_what_rebases() -> None:
    plan = plan_rebase(config_of(), image=IMAGE, run_image=RUN)
    moved = plan_rebase(config_of(), image=f"elsewhere.example/app@{DIGEST}", run_image=RUN)
    same = key_of(plan, organization="o", builder=BUILDER)
    assert key_of(moved, organization="o", builder=BUILDER) == same, "names decide nothing"
    others = [
        key_of(plan, organization="p", builder=BUILDER),
        key_of(plan, organization="o", builder=BUILDER[:-1] + "0"),
        key_of(plan_rebase(config_of(), image=IMAGE[:-1] + "0", run_image=RUN), organization="o", builder=BUILDER),
        key_of(plan_rebase(config_of(), image=IMAGE, run_image=RUN[:-1] + "0"), organization="o", builder=BUILDER),
    ]
    assert len({same, *others}) == 5
    named = dict(materials_of(plan, builder=BUILDER))
    assert named == {
        "buildpacks": BUILDER.partition("@")[2],
        NAME: RUN.partition("@")[2],
        IMAGE.partition("@")[0]: DIGEST,
    }


# --- the line of a worker


class RebaseCalls(JobCalls):
    """A control side that answers an unchanged image as the store does."""

    def __init__(self, **more: Any) -> None:
        super().__init__(b"", **more)
        self.asked: list[pb.PlannedRequest] = []

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        self.asked.append(request)
        if request.unchanged:
            return pb.PlannedResponse(verdict=pb.PLANNED_REUSE)
        return super().planned(request)


def rebase(
    folder: Path,
    calls: RebaseCalls,
    cluster: Fake,
    *,
    config: Mapping[str, Any] | BuildError | None = None,
    setups: Mapping[str, Setup] = BOTH,
    commit: str = "",
) -> tuple[Any, Close]:
    def read(image: str, access: Access, login: Login | None) -> Mapping[str, Any]:
        assert login == Login(username="robot", password="pass")
        assert access.private == access.insecure == ("registry.example:5000",)
        if image == BUILDER:
            return BUILDER_CONFIG
        assert image == IMAGE
        if isinstance(config, BuildError):
            raise config
        return config_of() if config is None else config

    made = grant_of(BUILD)
    made.request.rebase.build_id = "origin"
    made.rebased.CopyFrom(pb.RebasedImage(build_id="origin", digest=DIGEST, code_hash=CODE))
    if commit:
        made.rebased.provenance.commit_sha = commit
    made.destination.registry, made.destination.repository = "registry.example:5000", "team/o/app"
    made.destination.tag, made.destination.insecure = "build-x-1", True
    launcher = Launcher(setups=setups, cluster=cluster, login=("robot", "pass"), read_config=read)
    with driving(node_at(folder, calls, settings={"node_id": "n"}), made) as attempt:
        outcome = do_work(attempt, launcher.run)
        how = close(attempt, outcome)
    return outcome, how


def test_a_rebase_is_one_container_without_a_source(tmp_path: Path) -> None:
    calls = RebaseCalls()
    cluster = Fake(calls.order)
    outcome, how = rebase(tmp_path, calls, cluster, commit="a" * 40)
    assert how is Close.LAUNCHED, outcome
    assert calls.order == ["launching", "create", "launched"], "no archive"
    (asked,) = calls.asked
    plan = plan_rebase(config_of(), image=IMAGE, run_image=RUN)
    assert asked.key == key_of(plan, organization="o", builder=BUILDER)
    assert (asked.code_hash, asked.provenance.commit_sha, asked.unchanged) == (CODE, "a" * 40, False)
    (job,) = cluster.created
    assert job["metadata"] | {"labels": {}} == {
        "name": job_name(BUILD, 1), "namespace": "ignite-buildpacks", "labels": {},
    }  # fmt: skip
    pod = job["spec"]["template"]["spec"]
    assert pod["initContainers"] == [] and [one["name"] for one in pod["volumes"]] == ["push"]
    (container,) = pod["containers"]
    assert (container["name"], container["command"]) == (REBASE, ["/cnb/lifecycle/rebaser"])
    assert container["args"] == [
        f"-previous-image={IMAGE}",
        f"-run-image={RUN}",
        "-report=/dev/termination-log",
        "-uid=1001",
        "-gid=1000",
        "-insecure-registry=registry.example:5000",
        "registry.example:5000/team/o/app:build-x-1",
    ]
    assert calls.marked is not None and calls.launched_with is not None
    assert calls.marked.job.strategy == "buildpacks"
    assert buildpacks.read(calls.marked.job.facts).materials == materials_of(plan, builder=BUILDER)
    assert [phase.phase for phase in calls.launched_with.phases] == [
        pb.BUILD_PHASE_FETCH_SOURCE,
        pb.BUILD_PHASE_DETECT,
        pb.BUILD_PHASE_PLAN,
    ]


def test_an_image_that_is_on_the_run_image_costs_no_job(tmp_path: Path) -> None:
    calls = RebaseCalls()
    outcome, how = rebase(tmp_path, calls, Fake(calls.order), config=config_of(RUN))
    assert (how, calls.order) == (Close.RELEASED, []), outcome
    assert [one.unchanged for one in calls.asked] == [True]


@pytest.mark.parametrize(
    ("config", "reason", "words"),
    [
        (BuildError("ImageNotFound", "there is no image x"), "ImageNotFound", "the image of origin is gone"),
        (BuildError("ImageForbidden", "refused to robot"), "RegistryRefused", "refused to robot"),
        (BuildError("ImageContractViolated", "no list of layers"), "InvalidRequest", "no list of layers"),
        (PlatformError("RegistryUnavailable", "it is away"), "RegistryUnavailable", "it is away"),
        ({}, "InvalidRequest", "has no label of buildpacks"),
    ],
)
def test_an_image_that_cannot_be_had_or_rebased_costs_no_job(
    tmp_path: Path, config: Mapping[str, Any] | BuildError, reason: str, words: str
) -> None:
    calls = RebaseCalls()
    outcome, how = rebase(tmp_path, calls, Fake(calls.order), config=config)
    assert (outcome.failure.reason, how, calls.order, calls.asked) == (reason, Close.FINISH, [], [])
    assert words in outcome.failure.message
    is_ours = isinstance(outcome.failure, PlatformError)
    assert is_ours == reason.startswith("Registry") and (is_ours or outcome.failure.next == REBUILD)


def test_a_worker_without_buildpacks_refuses_with_what_to_do(tmp_path: Path) -> None:
    calls = RebaseCalls()
    outcome, _ = rebase(tmp_path, calls, Fake(calls.order), setups=KANIKO)
    assert (outcome.failure.reason, calls.order) == ("InvalidRequest", [])
    assert "buildpacks_run_image" in outcome.failure.next


# --- the control side


def made(
    services: Services,  # noqa: F811
    caller: Caller = ACME,
    materials: tuple[str, ...] = ("buildpacks", "context"),
    **columns: Any,
) -> str:
    """A build of a context that succeeded, with these materials."""
    request = pb.CreateBuildRequest(name="app", tags=["v1"], output_repository=f"{caller.organization}/shop/app")
    request.code.image.from_code.archive = b"PK\3\4zip"
    build = services.build.create_build(caller, request).build_id
    rows = [pb.Material(name=name, digest="sha256:" + "0" * 64) for name in materials]
    artifact = pb.BuiltArtifact(digest=DIGEST, reference=f"r.example/shop/app@{DIGEST}", materials=rows)
    kept = {"artifact": json_format.MessageToJson(artifact), "code_hash": CODE, "status": "SUCCEEDED", **columns}
    with services.store.transaction() as tx:
        tx.execute(update(builds.builds).where(builds.builds.c.build_id == build).values(**kept))
    return build


def ask(services: Services, build_id: str, caller: Caller = ACME, **fields: Any) -> pb.Build:  # noqa: F811
    request = pb.CreateBuildRequest(rebase=pb.RebaseSource(build_id=build_id), **fields)
    return services.build.create_build(caller, request).build


def refused(services: Services, build_id: str, caller: Caller = ACME, **fields: Any) -> BuildError:  # noqa: F811
    with pytest.raises(BuildError) as found:
        ask(services, build_id, caller, **fields)
    return found.value


def test_a_record_has_the_code_name_and_tags_of_its_build(services: Services) -> None:  # noqa: F811
    origin = made(services)
    build = ask(services, origin[:10], labels={"a": "b"})
    assert (build.name, build.repository, list(build.tags)) == ("app", "acme/shop/app", ["v1"])
    assert (build.code_hash, build.status, build.source_sha256) == (CODE, pb.BUILD_STATUS_PENDING, "")
    assert (build.code_kind, build.deployment_mode) == (
        common.CODE_KIND_UPLOAD_IMAGE,
        common.DEPLOYMENT_MODE_IMAGE,
    )
    row = builds.by_id(services.store, build.build_id)
    assert row is not None and row["queue"] == "image"
    assert record.request(row).rebase.build_id == origin, "by its whole id"
    assert record.start_mode(row, "require") == "off"
    other = ask(services, origin, name="other", tags=["v2", "latest"], repository="acme/shop/app")
    assert (other.name, list(other.tags)) == ("other", ["v2", "latest"])


def test_a_rebase_of_a_commits_image_is_of_that_commit(services: Services) -> None:  # noqa: F811
    origin = made(services, provenance=json.dumps({"commitSha": "a" * 40}))
    build = ask(services, origin)
    assert (build.provenance.commit_sha, build.code_kind) == ("a" * 40, common.CODE_KIND_GIT_IMAGE)


def test_the_same_request_twice_is_one_build(services: Services) -> None:  # noqa: F811
    origin = made(services)
    first = ask(services, origin, idempotency_key="k")
    assert ask(services, origin[:8], idempotency_key="k").build_id == first.build_id
    assert refused(services, made(services), idempotency_key="k").reason == "AlreadyExists"


def test_a_build_of_others_is_as_unknown_as_one_that_never_was(services: Services) -> None:  # noqa: F811
    theirs = made(services, OTHER)
    never = "z" * 20
    found = [refused(services, one) for one in (theirs, never, "", "x")]
    assert all(isinstance(one, CallRefused) and one.code == "NOT_FOUND" for one in found)
    assert found[0].message.replace(theirs, never) == found[1].message


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": "RUNNING"}, "is RUNNING; a rebase takes the image of a build that has succeeded"),
        ({"status": "FAILED"}, "is FAILED"),
        ({"materials": ("kaniko", "context")}, "was not made by buildpacks"),
        ({"materials": ("kaniko", "context", "buildpacks")}, "was not made by buildpacks"),
        ({"request": '{"name": "app", "code": {"compile": {}}}'}, "was not made by buildpacks"),
        ({"request": '{"name": "app", "code": {"image": {"prebuilt": {}}}}', "materials": ()}, "was not made by"),
    ],
)
def test_a_build_without_such_an_image_is_refused(
    services: Services,  # noqa: F811
    columns: dict[str, Any],
    words: str,
) -> None:
    error = refused(services, made(services, **columns))
    assert (error.reason, error.where) == ("InvalidRequest", "rebase.buildId") and error.next
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"build_args": {"A": "1"}}, "buildArgs"),
        ({"dockerfile": "Dockerfile"}, "dockerfile"),
        ({"buildpacks": True}, "buildpacks"),
        ({"source_ref": common.SourceRef(context_id="c")}, "sourceRef"),
        ({"repository": "acme/other"}, "repository"),
        ({"output_repository": "acme/other"}, "outputRepository"),
        ({"name": "no name"}, "name"),
        ({"tags": ["build-x"]}, "tags[0]"),
        ({"timeout_secs": 100_000}, "timeoutSecs"),
    ],
)
def test_what_a_rebase_would_not_look_at_is_refused(
    services: Services,  # noqa: F811
    fields: dict[str, Any],
    where: str,
) -> None:
    error = refused(services, made(services), **fields)
    assert (error.reason, error.where) == ("InvalidRequest", where)


def claimed(services: Services, build_id: str) -> pb.ClaimBuildResponse:  # noqa: F811
    node = node_of("n")
    services.worker.register_node(node, pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"]))
    return services.worker.claim_build(
        node, pb.ClaimBuildRequest(protocol=1, build_id=build_id, node_id="n", nonce=build_id)
    )


def planned(services: Services, grant: pb.ClaimBuildResponse, *, unchanged: bool) -> int:  # noqa: F811
    request = pb.PlannedRequest(
        protocol=1,
        build_id=grant.build_id,
        claim=grant.claim,
        key=f"k-{grant.build_id}",
        code_hash=CODE,
        unchanged=unchanged,
    )
    return services.worker.planned(node_of("n"), request).verdict


def test_a_worker_learns_the_image_and_an_unchanged_one_is_the_answer(services: Services) -> None:  # noqa: F811
    origin = made(services, provenance=json.dumps({"commitSha": "a" * 40}))
    build = ask(services, origin, no_cache=True)
    grant = claimed(services, build.build_id)
    assert grant.granted and not grant.source.sha256
    wanted = pb.RebasedImage(build_id=origin, digest=DIGEST, code_hash=CODE)
    wanted.provenance.commit_sha = "a" * 40
    assert grant.rebased == wanted
    assert grant.destination.repository == "acme/shop/app"
    assert planned(services, grant, unchanged=True) == pb.PLANNED_REUSE
    found = services.get(build.build_id)
    assert (found.stage, found.from_cache_of) == (pb.BUILD_STAGE_FINALIZE, origin)
    row = builds.by_id(services.store, build.build_id)
    assert row is not None and record.built(row).digest == DIGEST


def test_no_other_build_gets_an_artifact_by_that_word(services: Services) -> None:  # noqa: F811
    made(services)
    request = pb.CreateBuildRequest(name="app", output_repository="acme/shop/app")
    request.code.image.from_code.archive = b"PK\3\4other"
    plain = services.build.create_build(ACME, request).build_id
    assert planned(services, claimed(services, plain), unchanged=True) == pb.PLANNED_GO_ON
    gone = made(services)
    grant = claimed(services, ask(services, gone).build_id)
    _delete(services, gone)
    assert planned(services, grant, unchanged=True) == pb.PLANNED_GO_ON


def test_a_build_that_is_deleted_before_the_claim_ends_the_rebase(services: Services) -> None:  # noqa: F811
    origin = made(services)
    build = ask(services, origin)
    _delete(services, origin)
    assert not claimed(services, build.build_id).granted
    failure = services.get(build.build_id).failure
    assert (failure.reason, failure.error_class, failure.next) == ("ImageNotFound", "client", REBUILD)
    assert origin in failure.message


def _delete(services: Services, build_id: str) -> None:  # noqa: F811
    with services.store.transaction() as tx:
        tx.execute(delete(builds.builds).where(builds.builds.c.build_id == build_id))


def test_the_statement_names_what_was_rebased_and_no_source() -> None:
    plan = plan_rebase(config_of(), image=IMAGE, run_image=RUN)
    built = Built(
        build_id="b",
        attempt=1,
        organization="o",
        repository="r.example/team/o/app",
        digest=DIGEST,
        size_bytes=1,
        source_sha256="",
        code_hash=CODE,
        request={"rebase": {"buildId": "origin"}},
        materials=materials_of(plan, builder=BUILDER),
        builder_id="x",
        started_at_ms=0,
        finished_at_ms=1,
    )
    found = json.loads(statement(built))["predicate"]["buildDefinition"]
    assert found["externalParameters"] == {"rebase": {"buildId": "origin"}}
    names = [row["name"] for row in found["resolvedDependencies"]]
    assert names == ["canonical source tree", "buildpacks", NAME, IMAGE.partition("@")[0]]


# --- the watcher


FACTS = buildpacks.rebase_facts(plan_rebase(config_of(), image=IMAGE, run_image=RUN), BOTH["buildpacks"])


def watched(*lines: str, end: Ended) -> tuple[pb.FinishRequest, Record]:
    """What a watcher finishes a rebase with whose container wrote these lines."""
    one = Record("b1", strategy="buildpacks", facts=FACTS)

    async def scenario() -> None:
        board, cluster = Board(one), MemoryCluster({one.job: (job := OneJob(*lines, container=REBASE))})
        job.end(end)
        async with watching(board, cluster):
            await board.until(lambda: one.finished is not None)

    run(scenario())
    assert one.finished is not None
    return one.finished, one


def test_the_report_of_a_rebase_is_the_artifact() -> None:
    lines = ("Saving registry.example:5000/team/o/app:build-x-1...", "*** Images (sha256:dddd):")
    finished, one = watched(*lines, end=Ended(said=f'[image]\ndigest = "{DIGEST}"\n'))
    assert finished.success.digest == DIGEST
    assert {row.name for row in finished.success.materials} == {"buildpacks", NAME, IMAGE.partition("@")[0]}
    assert [phase.phase for phase in finished.phases] == [pb.BUILD_PHASE_BUILD, pb.BUILD_PHASE_PUSH]
    assert one.lines[:2] == list(lines)


@pytest.mark.parametrize(
    ("final", "reason", "step"),
    [
        ("set app image: failed to access image to rebase", "ImageNotFound", REBUILD),
        (
            "set app image: failed to access image to rebase: GET https://r/v2: MANIFEST_UNKNOWN",
            "ImageNotFound",
            REBUILD,
        ),
        ("set app image: failed to access image to rebase: dial tcp: connection refused", "RegistryUnavailable", ""),
        ("access run image", "ExecutorImageUnavailable", ""),
        (
            f"rebase: rebase app image: new base image '{RUN}' not found in existing run image metadata: {{}}; "
            "please provide -force to override",
            "StepFailed",
            REBUILD,
        ),
        ("rebase: stack not defined on app image", "StepFailed", REBUILD),
    ],
)
def test_the_end_of_a_rebase_has_its_reason_and_next_step(final: str, reason: str, step: str) -> None:
    end = Ended(reason="StepFailed", message="rebase ended with 72", container=REBASE, exit_code=72)
    finished, _ = watched("a line", f"ERROR: failed to {final}", end=end)
    assert finished.failure.reason == reason
    assert finished.failure.next == step or not step
    assert any(final in line for line in finished.failure.said)


# --- the command line


def test_the_command_asks_for_a_rebase_by_its_build_alone() -> None:
    settings = Settings(server="http://127.0.0.1:1")
    request = rebase_request(BuildOptions(path="", rebase="k7m2", tags=["v2"]), settings)
    assert (request.rebase.build_id, request.name, list(request.tags)) == ("k7m2", "", ["v2"])
    assert request.idempotency_key and _again(BuildOptions(path="", rebase="k7m2")) == "--rebase k7m2"


def test_plan_shows_the_job_of_a_rebase() -> None:
    ran = run_cli("plan", "--rebase", "k7m2", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and found["rebase"] == "k7m2" and found["job"] == rebase_job_of(Settings())
    args = found["job"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "-previous-image=REGISTRY/REPOSITORY@IMAGE_DIGEST" in args and "-run-image=RUN_IMAGE" in args
    assert {"REGISTRY", "REPOSITORY", "IMAGE_DIGEST", "RUN_IMAGE", "BUILDER_IMAGE", "BUILDER_UID"} <= {
        *found["placeholders"]
    }
    ran = run_cli("plan", "--rebase", "k7m2")
    shown = ran.out[ran.out.index("\n{\n") : ran.out.rindex("\n}\n") + 3]
    assert json.loads(shown) == found["job"] and ran.out.rstrip().endswith("build --rebase k7m2")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("build", "--rebase", "k7m2"), 75, "an image is rebased by a cluster behind a server"),
        (("build", ".", "--rebase", "k7m2"), 2, "PATH and --rebase exclude each other"),
        (("build", "--rebase", "k7m2", "--git", "https://e.com/a"), 2, "--git and --rebase exclude each other"),
        (("build", "--rebase", "k7m2", "--build-arg", "A=1"), 2, "the build argument A is of no use with --rebase"),
        (("build", "--rebase", "k7m2", "--secret", "x"), 2, "--secret is of no use with --rebase"),
        (("build", "--rebase", "k7m2", "--repository", "x"), 2, "--repository is of no use with --rebase"),
        (("plan", ".", "--rebase", "k7m2"), 2, "PATH and --rebase exclude each other"),
        (("plan", "--rebase", "k7m2", "--runtime", "go"), 2, "--runtime is of no use with --rebase"),
        (("plan", "--rebase", "k7m2", "--dockerfile", "D"), 2, "--dockerfile is of no use with --rebase"),
        (("plan", "--rebase", "k7m2", "--files", "x"), 2, "the build argument files is of no use with --rebase"),
    ],
)
def test_what_makes_no_rebase_is_refused_before_a_server_is_asked(
    tmp_path: Path, argv: tuple[str, ...], code: int, words: str
) -> None:
    here = Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node"))
    ran = run_cli(*argv, settings=here if code == 75 else None)
    assert ran.code == code and words in " ".join(ran.err.split()), ran.err
