"""The service objects over a store, without HTTP: records as they are shown, lists, ids, what a node must say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import update

from builder import pipelines
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.checks import MOST_LINES
from builder.services.errors import CallRefused, QuotaExceeded
from builder.services.parts import Parts, find_build
from builder.services.workers import WorkerService
from builder.settings import Settings
from builder.store import builds, logs
from builder.store.engine import Store, open_store
from builder.stores.folder import FolderStore

ACME = Caller(organization="acme", scopes=frozenset({"submit", "read"}))
OTHER = Caller(organization="other", scopes=frozenset({"submit", "read"}))
NODE = Caller(organization="", scopes=frozenset({"worker"}))


class OfClaim(TypedDict):
    """The fields that every call of the owner of a claim has."""

    protocol: int
    build_id: str
    claim: int


def of_claim(build_id: str, claim: int) -> OfClaim:
    return {"protocol": 1, "build_id": build_id, "claim": claim}


@dataclass(frozen=True)
class Services:
    build: BuildService
    worker: WorkerService
    store: Store
    parts: Parts
    wakes: list[str]
    stale: list[str]
    dropped: list[int]

    def submit(self, name: str = "app", caller: Caller = ACME, **fields: Any) -> str:
        request = pb.CreateBuildRequest(name=name, **fields)
        compiled = request.code.compile
        compiled.source_code = b"x = 1\n"
        if not compiled.HasField("runtime"):
            compiled.runtime.python.SetInParent()
        return self.build.create_build(caller, request).build_id

    def rename(self, build_id: str, to: str) -> str:
        """Give a build the id that a test needs."""
        with self.store.transaction() as tx:
            tx.execute(update(builds.builds).where(builds.builds.c.build_id == build_id).values(build_id=to))
        return to

    def get(self, build_id: str, caller: Caller = ACME) -> pb.Build:
        return self.build.get_build(caller, pb.GetBuildRequest(build_id=build_id))

    def names(self, caller: Caller = ACME, **fields: Any) -> list[str]:
        return [one.name for one in self.build.list_builds(caller, pb.ListBuildsRequest(**fields)).builds]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    store = open_store(f"sqlite:///{tmp_path}/builder.db")
    wakes: list[str] = []
    stale: list[str] = []
    dropped: list[int] = []
    parts = Parts(
        settings=Settings(),
        store=store,
        sources=FolderStore(tmp_path / "sources"),
        catalog=catalog.read(catalog_file("")),
        runtimes=pipelines.arguments(),
        wake=lambda: wakes.append("wake"),
        changed=lambda build_id: None,
        stale=stale.append,
        dropped=dropped.append,
    )
    yield Services(BuildService(parts), WorkerService(parts), store, parts, wakes, stale, dropped)
    store.engine.dispose()


# Lists


def test_a_list_is_of_one_status_and_name_when_they_are_given(services: Services) -> None:
    for name in ("a", "b", "a"):
        services.submit(name)
    services.build.cancel_build(ACME, pb.CancelBuildRequest(build_id=services.submit("a")))
    services.submit("a", OTHER)
    assert services.names() == ["a", "a", "b", "a"]
    assert services.names(name="b") == ["b"]
    assert services.names(name="A") == []
    assert services.names(status=pb.BUILD_STATUS_CANCELLED) == ["a"]
    assert services.names(status=pb.BUILD_STATUS_PENDING, name="a") == ["a", "a"]
    assert services.names(status=pb.BUILD_STATUS_RUNNING) == []


def test_labels_come_back_everywhere_and_filter_lists(services: Services) -> None:
    one = services.submit("a", labels={"deploy": "d-1", "app": "x"})
    services.submit("b", labels={"deploy": "d-2", "app": "x"})
    services.submit("c")
    services.submit("d", OTHER, labels={"app": "x"})
    assert services.get(one).labels == {"deploy": "d-1", "app": "x"}
    assert services.names(label=["app=x"]) == ["b", "a"]
    assert services.names(label=["app=x", "deploy=d-1"]) == ["a"] and services.names(label=["app=y"]) == []
    services.build.cancel_build(ACME, pb.CancelBuildRequest(build_id=one))
    feed = services.build.list_build_reports(ACME, pb.ListBuildReportsRequest())
    labelled = [(report.name, report.sequence, dict(report.labels)) for report in feed.reports]
    a, b = {"deploy": "d-1", "app": "x"}, {"deploy": "d-2", "app": "x"}
    assert labelled == [("a", 1, a), ("b", 1, b), ("c", 1, {}), ("a", 2, a)]


def test_the_feed_of_reports_goes_on_at_its_cursor_and_is_the_callers_own(services: Services) -> None:
    def page(caller: Caller = ACME, **fields: Any) -> pb.ListBuildReportsResponse:
        return services.build.list_build_reports(caller, pb.ListBuildReportsRequest(**fields))

    assert page().next_cursor == "0" and not page().reports
    mine = [services.submit() for _ in range(3)]
    theirs = services.submit("app", OTHER)
    first = page(limit=2)
    rest = page(cursor=first.next_cursor)
    assert [one.build_id for one in (*first.reports, *rest.reports)] == mine
    assert page(cursor=rest.next_cursor) == pb.ListBuildReportsResponse(next_cursor=rest.next_cursor)
    assert [one.build_id for one in page(OTHER).reports] == [theirs]
    with pytest.raises(CallRefused):
        page(organization_name="other")
    with pytest.raises(CallRefused):
        page(Caller(organization="acme", scopes=frozenset({"submit"})))
    with pytest.raises(codec.Malformed):
        page(cursor="x")


def test_pages_of_a_filtered_list_hold_each_build_once(services: Services) -> None:
    mine = [services.submit("a") for _ in range(5) if services.submit("b")]
    found, cursor = [], ""
    for _ in range(3):
        page = services.build.list_builds(ACME, pb.ListBuildsRequest(name="a", limit=2, cursor=cursor))
        found += [one.build_id for one in page.builds]
        cursor = page.next_cursor
    assert (found, cursor) == (mine[::-1], "")


NO_NUMBERS = ("\u00b2", "\u0663", "9" * 19, "9" * 5000, "-1", "1 ", "1\n", "x")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_that_a_store_compares_is_refused(services: Services, text: str) -> None:
    with pytest.raises(codec.Malformed) as refused:
        services.build.list_builds(ACME, pb.ListBuildsRequest(cursor=text))
    assert refused.value.where == "cursor"
    with pytest.raises(codec.Malformed):
        codec.number(text, "claim")


def test_the_largest_number_is_compared(services: Services) -> None:
    services.submit()
    assert services.names(cursor="9" * 18) == ["app"]


# Quotas


def test_an_organization_has_so_many_builds_queued_and_is_told_when_to_ask_again(services: Services) -> None:
    at = [100.0]
    settings = services.parts.settings.replace(**{"queued_builds": 3})
    limited = BuildService(dataclasses.replace(services.parts, settings=settings), lambda: at[0])

    def submit(caller: Caller = ACME, **fields: Any) -> str:
        request = pb.CreateBuildRequest(name="app", zipped_code=b"PK\x03\x04", **fields)
        return limited.create_build(caller, request).build_id

    first = submit(idempotency_key="k")
    services.submit()  # of the runtime python: another lane
    submit()
    with pytest.raises(QuotaExceeded) as refused:
        submit()
    assert refused.value.retry_after_s == 30
    assert submit(idempotency_key="k") == first, "a build that exists is answered, whatever is queued"
    submit(OTHER)
    limited.check_room(OTHER)
    services.build.cancel_build(ACME, pb.CancelBuildRequest(build_id=first))
    at[0] += 10
    with pytest.raises(QuotaExceeded) as early:
        limited.check_room(ACME)
    assert early.value.retry_after_s == 20
    at[0] += 20
    limited.check_room(ACME)
    submit()


# Ids


CALLS = ("get_build", "cancel_build", "find_build")


def call(services: Services, name: str, build_id: str, caller: Caller = ACME) -> object:
    if name == "find_build":
        return find_build(services.parts, caller, build_id)
    request = pb.GetBuildRequest(build_id=build_id)
    return getattr(services.build, name)(
        caller, request if name == "get_build" else pb.CancelBuildRequest(build_id=build_id)
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_start_of_several_ids_is_answered_with_them(services: Services, name: str) -> None:
    mine = [services.rename(services.submit(), f"abcd{letter}" + "0" * 15) for letter in "cba"]
    services.rename(services.submit(caller=OTHER), "abcdd" + "0" * 15)
    with pytest.raises(BuildError) as refused:
        call(services, name, "abcd")
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "buildId")
    assert refused.value.message == f'several builds start with "abcd": {", ".join(mine[::-1])}'
    assert call(services, name, "abcda")
    assert call(services, name, "abcd", OTHER)
    for unknown in ("abce", "abc", "", "abcd0", "%" * 4):
        with pytest.raises(CallRefused) as none:
            call(services, name, unknown)
        assert none.value.code == "NOT_FOUND"


def test_only_the_first_of_many_are_named(services: Services) -> None:
    for letter in "abcdefghj":
        services.rename(services.submit(), f"abcd{letter}" + "0" * 15)
    with pytest.raises(BuildError) as refused:
        services.get("abcd")
    assert refused.value.message.count("abcd") == 1 + 8
    assert refused.value.message.endswith(" and more")


# Records


def test_a_queued_build_says_how_many_are_before_it(services: Services) -> None:
    first, second, third = (services.submit() for _ in range(3))
    elsewhere = services.submit(caller=OTHER)
    urgent = services.submit(priority=5)
    assert [services.get(one).queue_position for one in (urgent, first, second, third)] == [2, 2, 3, 4]
    assert services.get(elsewhere, OTHER).queue_position == 4
    services.build.cancel_build(ACME, pb.CancelBuildRequest(build_id=first))
    assert [services.get(one).queue_position for one in (urgent, first, second)] == [2, 0, 2]


def test_arguments_are_shown_without_their_values_wherever_they_were_given(services: Services) -> None:
    request = pb.CreateBuildRequest(name="app")
    request.code.compile.source_code = b"x = 1\n"
    request.code.compile.build_args["TOKEN"] = "hunter2"
    inside = services.build.create_build(ACME, request).build
    request = pb.CreateBuildRequest(name="app", zipped_code=b"PK\x03\x04", build_args={"TOKEN": "hunter2"})
    outside = services.get(services.build.create_build(ACME, request).build_id)
    assert dict(inside.build_args) == dict(outside.build_args) == {"TOKEN": "***"}


def test_a_record_has_the_version_that_was_asked_for(services: Services) -> None:
    request = pb.CreateBuildRequest(name="app")
    request.code.compile.source_code = b"x = 1\n"
    request.code.compile.runtime.python.version = "3.11"
    answered = services.build.create_build(ACME, request).build
    assert (answered.runtime_version, services.get(answered.build_id).runtime_version) == ("3.11", "3.11")
    assert services.get(services.submit()).runtime_version == ""


# Nodes


@pytest.mark.parametrize("missing", ["nodeId", "nonce"])
def test_a_claim_without_a_node_or_a_nonce_is_refused(services: Services, missing: str) -> None:
    build = services.submit()
    known = pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["compile.python"])
    services.worker.register_node(NODE, known)
    body = {"protocol": 1, "nodeId": "n", "nonce": "x", "buildId": build} | {missing: ""}
    with pytest.raises(BuildError) as refused:
        services.worker.claim_build(NODE, codec.parse(pb.ClaimBuildRequest, json.dumps(body).encode()))
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", missing)
    assert services.get(build).status == pb.BUILD_STATUS_PENDING


def test_a_node_without_an_id_is_refused(services: Services) -> None:
    with pytest.raises(BuildError, match="InvalidRequest: nodeId"):
        services.worker.register_node(NODE, pb.RegisterNodeRequest(protocol=1))


def node_of(name: str) -> Caller:
    return Caller(organization="", scopes=frozenset({"worker"}), node=name)


def register(services: Services, name: str, **fields: Any) -> pb.RegisterNodeResponse:
    request = pb.RegisterNodeRequest(protocol=1, node_id=name, queues=["compile.python"], **fields)
    return services.worker.register_node(node_of(name), request)


def test_a_node_that_never_registered_is_told_to(services: Services) -> None:
    request = pb.ClaimBuildRequest(protocol=1, build_id=services.submit(), node_id="n", nonce="x")
    with pytest.raises(CallRefused, match="register the node first") as refused:
        services.worker.claim_build(NODE, request)
    assert refused.value.code == "FAILED_PRECONDITION"


SOURCE = b"x = 1\n"
"""What `Services.submit` sends."""


def claimed_twice(services: Services, worker: WorkerService) -> list[pb.ClaimBuildResponse]:
    """The answer to a claim, and to its repetition."""
    register(services, "n")
    request = pb.ClaimBuildRequest(protocol=1, build_id=services.submit(), node_id="n", nonce="x")
    return [worker.claim_build(node_of("n"), request) for _ in range(2)]


def test_a_small_source_travels_with_its_claim_however_often_that_is_repeated(services: Services) -> None:
    worker = WorkerService(services.parts, with_claim_bytes=len(SOURCE))
    for answer in claimed_twice(services, worker):
        assert answer.granted and answer.source.content == SOURCE
        assert answer.source.sha256 == "sha256:" + hashlib.sha256(SOURCE).hexdigest()
        assert not answer.request.code.compile.source_code


@pytest.mark.parametrize("most", [0, len(SOURCE) - 1])
def test_a_larger_source_is_fetched(services: Services, most: int) -> None:
    for answer in claimed_twice(services, WorkerService(services.parts, with_claim_bytes=most)):
        assert answer.granted and not answer.source.content and answer.source.size_bytes == len(SOURCE)


def test_a_source_that_cannot_be_read_fails_no_claim(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "_path", lambda *_: Path("/nowhere"))
    monkeypatch.setattr(FolderStore, "_publish", lambda *_: None)
    answer = claimed_twice(services, services.worker)[1]
    assert answer.granted and not answer.source.content
    with pytest.raises(BuildError, match="SourceNotFound"):
        services.worker.source(node_of("n"), answer.build_id, answer.claim)


def test_the_last_lines_of_a_finish_are_bounded_and_cleaned_as_those_of_a_batch(services: Services) -> None:
    build = services.submit()
    register(services, "n")
    granted = services.worker.claim_build(
        node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    )
    assert granted.takes_last_lines
    common = of_claim(build, granted.claim)
    hostile = pb.LogEntry(line="a\x1b[31mb" + "x" * 200_000, timestamp_ms=2**62, phase=pb.BUILD_PHASE_BUILD, sequence=9)
    services.worker.append_log(node_of("n"), pb.AppendLogRequest(**common, lines=[hostile]))
    finish = pb.FinishRequest(
        **common, first_index=1, lines=[hostile], log_count=2, failure=pb.Failure(reason="CompileFailed", message="m")
    )
    for other in ("other", "n", "n"):
        stale = services.worker.finish(node_of(other), finish).stale
        assert stale == (other == "other") and len(finish.lines) == 1, "a request may be sent again"
    first, second, *ends = logs.read(services.store, build, 0)
    assert {**first, "s": 2} == second and second["l"].startswith("abx") and len(second["l"]) <= 128 * 1024
    assert [one["l"] for one in ends] == ["FAILED CompileFailed"]
    assert services.get(build).log_lines == 3


def test_the_lines_of_a_plan_are_cleaned_and_those_that_lack_are_asked_for(services: Services) -> None:
    build = services.submit()
    register(services, "n")
    granted = services.worker.claim_build(
        node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    )
    assert granted.takes_planned_lines
    common = of_claim(build, granted.claim)
    hostile = pb.LogEntry(line="a\x1b[31mb", timestamp_ms=2**62, phase=pb.BUILD_PHASE_PLAN, sequence=9)
    gap = pb.PlannedRequest(**common, key="k", first_index=1, log_count=2, lines=[hostile])
    assert services.worker.planned(node_of("n"), gap) == pb.PlannedResponse(log_incomplete=True)
    whole = pb.PlannedRequest(**common, key="k", log_count=2, lines=[hostile, hostile])
    assert services.worker.planned(node_of("other"), whole).verdict == pb.PLANNED_STALE
    for _ in range(2):
        assert services.worker.planned(node_of("n"), whole).verdict == pb.PLANNED_GO_ON
    assert [one["l"] for one in logs.read(services.store, build, 0)] == ["ab", "ab"]
    assert services.get(build).log_lines == 2


def test_a_call_has_no_more_lines_than_an_owner_sends_at_once(services: Services) -> None:
    build = services.submit()
    register(services, "n")
    asked = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    common = of_claim(build, services.worker.claim_build(node_of("n"), asked).claim)
    lines = [pb.LogEntry()] * (MOST_LINES + 1)
    with pytest.raises(BuildError, match="InvalidRequest: lines takes up to 20000"):
        services.worker.append_log(node_of("n"), pb.AppendLogRequest(**common, lines=lines))
    with pytest.raises(BuildError, match="InvalidRequest: lines takes up to 20000"):
        services.worker.planned(node_of("n"), pb.PlannedRequest(**common, key="k", lines=lines))
    failure = pb.Failure(reason="CompileFailed", message="m")
    with pytest.raises(BuildError, match="InvalidRequest: lines takes up to 20000"):
        services.worker.finish(node_of("n"), pb.FinishRequest(**common, failure=failure, lines=lines))
    answer = services.worker.append_log(node_of("n"), pb.AppendLogRequest(**common, lines=lines[1:]))
    assert answer.kept_until_index == MOST_LINES


def test_a_node_writes_nothing_for_another_ones_claim(services: Services) -> None:
    """The claim is right: only the node that the token names is not."""
    build = services.submit()
    for name in ("n", "other"):
        register(services, name)
    claimed = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    claim = services.worker.claim_build(node_of("n"), claimed).claim
    before, common = services.get(build), of_claim(build, claim)
    failure = pb.Failure(reason="CompileFailed", message="m")
    worker, other, services.wakes[:] = services.worker, node_of("other"), []
    assert worker.heartbeat(other, pb.HeartbeatRequest(**common)).stale
    assert worker.planned(other, pb.PlannedRequest(**common, key="k")).verdict == pb.PLANNED_STALE
    assert worker.append_log(other, pb.AppendLogRequest(**common, lines=[pb.LogEntry(line="x")])).stale
    assert worker.finish(other, pb.FinishRequest(**common, failure=failure)).stale
    assert worker.hand_back(other, pb.HandBackRequest(**common, reason="drain")).stale
    with pytest.raises(CallRefused, match="owns no such build"):
        worker.source(other, build, claim)
    assert (services.stale, services.wakes) == (["heartbeat", "planned", "log", "finish", "hand_back"], [])
    assert services.get(build) == before
    assert not worker.heartbeat(node_of("n"), pb.HeartbeatRequest(**common)).stale
    assert not worker.finish(node_of("n"), pb.FinishRequest(**common, failure=failure)).stale
    assert services.get(build).status == pb.BUILD_STATUS_FAILED


def test_a_repository_of_image_mode_is_claimed_with_its_secret_for_its_host_alone(
    services: Services, tmp_path: Path
) -> None:
    parts = dataclasses.replace(services.parts, settings=Settings(data_dir=str(tmp_path)))
    build_service, worker = BuildService(parts), WorkerService(parts)
    named = [
        pb.NamedSecret(name="forge", git_token=pb.GitToken(username="ada", token="t0ken")),
        pb.NamedSecret(name="other", host="git.example.com", git_token=pb.GitToken(token="t0ken")),
    ]
    build_service.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=named))
    worker.register_node(node_of("n"), pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"], slots=1))
    answers = {}
    for secret in ("forge", "other", ""):
        asked = pb.CreateBuildRequest(name="app")
        asked.code.image.from_git.url, asked.code.image.from_git.secret_ref = "https://forge.example.com/a.git", secret
        build = build_service.create_build(ACME, asked).build_id
        answer = worker.claim_build(
            node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce=build)
        )
        answers[secret] = dict(answer.secrets)
        assert answer.granted == (secret != "other"), answer
        failure = services.get(build).failure
        assert "t0ken" not in str(services.get(build)) and not answer.source.sha256
        wanted = ("InvalidRequest", "code.image.fromGit.secretRef") if secret == "other" else ("", "")
        assert (failure.reason, failure.where) == wanted
    assert answers == {"forge": {"git.username": "ada", "git.token": "t0ken"}, "other": {}, "": {}}


BOTH = {"private": "git.acme.example/acme", "private_secret": "ci"}
SECRETS = (
    pb.NamedSecret(name="ci", git_token=pb.GitToken(username="ada", token="t0ken")),
    pb.NamedSecret(name="here", host="git.acme.example", git_token=pb.GitToken(token="t0ken")),
    pb.NamedSecret(name="other", host="git.example.com", git_token=pb.GitToken(token="t0ken")),
    pb.NamedSecret(name="login", registry=pb.RegistryLogin(username="ada", password="x")),
)


def of_modules(services: Services, tmp_path: Path) -> Services:
    """With secrets, and a node."""
    parts = dataclasses.replace(services.parts, settings=Settings(data_dir=str(tmp_path)))
    made = dataclasses.replace(services, build=BuildService(parts), worker=WorkerService(parts), parts=parts)
    made.build.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=SECRETS))
    made.worker.register_node(node_of("n"), pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["compile.go"]))
    return made


def of_go(arguments: dict[str, str], runtime: str = "go") -> pb.CreateBuildRequest:
    request = pb.CreateBuildRequest(name="app")
    request.code.compile.source_code = b"package main\n"
    request.code.compile.build_args.update(arguments)
    if runtime:
        getattr(request.code.compile.runtime, runtime).SetInParent()
    return request


@pytest.mark.parametrize("runtime", ["go", ""])
@pytest.mark.parametrize(
    ("arguments", "reason", "where"),
    [
        ({"private": "git.acme.example"}, "InvalidRequest", "private_secret"),
        ({"private_secret": "ci"}, "InvalidRequest", "private"),
        ({**BOTH, "private": "*.acme.example"}, "InvalidRequest", "private"),
        ({**BOTH, "private": "ssh://git.acme.example/x"}, "InvalidRequest", "private"),
        ({**BOTH, "private_secret": "nobody"}, "SecretNotFound", "private_secret"),
        ({**BOTH, "private_secret": "login"}, "SecretWrongType", "private_secret"),
        ({**BOTH, "private_secret": "other"}, "InvalidRequest", "private_secret"),
    ],
)
def test_private_modules_are_judged_at_the_submit(
    services: Services, tmp_path: Path, arguments: dict[str, str], reason: str, where: str, runtime: str
) -> None:
    made = of_modules(services, tmp_path)
    with pytest.raises(BuildError) as refused:
        made.build.create_build(ACME, of_go(arguments, runtime))
    assert (refused.value.reason, refused.value.where) == (reason, f"buildArgs.{where}")
    assert made.names() == []


def test_the_claim_has_the_login_of_private_modules_in_its_latest_version(services: Services, tmp_path: Path) -> None:
    made = of_modules(services, tmp_path)
    build = made.build.create_build(ACME, of_go(BOTH)).build_id
    for name in ("ci", "here"):  # a new value before the claim is a new version
        token = pb.NamedSecret(name=name, host="git.acme.example", git_token=pb.GitToken(token="t0ken-2"))
        made.build.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=[token]))
    answer = made.worker.claim_build(
        node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    )
    assert dict(answer.secrets) == {
        "modules.username": "", "modules.token": "t0ken-2", "modules.host": "git.acme.example", "modules.version": "2",
    }  # fmt: skip
    assert "t0ken" not in str(made.get(build))


def test_a_secret_that_is_of_no_use_to_private_modules_by_now_ends_the_claim(
    services: Services, tmp_path: Path
) -> None:
    made = of_modules(services, tmp_path)
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    moved = pb.NamedSecret(name="ci", host="git.example.com", git_token=pb.GitToken(token="t0ken"))
    other = pb.NamedSecret(name="ci", host="git.acme.example", git_ssh_key=pb.GitSshKey(private_key=key))
    for secret, reason, message in ((moved, "InvalidRequest", "only for"), (other, "SecretWrongType", "take a token")):
        made.build.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=SECRETS))
        build = made.build.create_build(ACME, of_go(BOTH)).build_id
        made.build.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=[secret]))
        answer = made.worker.claim_build(
            node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce=build)
        )
        assert not answer.granted and not answer.secrets
        failure = made.get(build).failure
        assert (failure.reason, failure.where) == (reason, "buildArgs.private_secret")
        assert message in failure.message


def test_arguments_of_a_dockerfile_are_no_private_modules(services: Services, tmp_path: Path) -> None:
    made = of_modules(services, tmp_path)
    made.worker.register_node(node_of("n"), pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"], slots=1))
    request = pb.CreateBuildRequest(name="app")
    request.code.image.from_git.url = "https://forge.example.com/a.git"
    request.code.image.from_git.build_args.update({"private": "yes", "private_secret": "ci"})
    build = made.build.create_build(ACME, request).build_id
    answer = made.worker.claim_build(
        node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    )
    assert answer.granted and not answer.secrets


def test_a_claim_brings_a_key_for_ssh_and_a_token_for_https(services: Services, tmp_path: Path) -> None:
    parts = dataclasses.replace(services.parts, settings=Settings(data_dir=str(tmp_path)))
    build_service, worker = BuildService(parts), WorkerService(parts)
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    named = [
        pb.NamedSecret(name="token", git_token=pb.GitToken(token="t0ken")),
        pb.NamedSecret(name="key", host="forge.example.com:2222", git_ssh_key=pb.GitSshKey(private_key=key)),
    ]
    build_service.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=named))
    worker.register_node(node_of("n"), pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["image"], slots=1))
    over_ssh, of_key = "ssh://git@forge.example.com:2222/a.git", {"git.private_key": key, "git.known_hosts": ""}
    for url, secret, wanted, reason in (
        (over_ssh, "key", of_key, ""),
        (over_ssh, "token", {}, "SecretWrongType"),
        ("git@forge.example.com:a.git", "key", {}, "InvalidRequest"),  # the secret is for another port
        ("https://forge.example.com:2222/a.git", "key", {}, "SecretWrongType"),
    ):
        asked = pb.CreateBuildRequest(name="app")
        asked.code.image.from_git.url, asked.code.image.from_git.secret_ref = url, secret
        build = build_service.create_build(ACME, asked).build_id
        answer = worker.claim_build(
            node_of("n"), pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce=build)
        )
        assert (dict(answer.secrets), services.get(build).failure.reason) == (wanted, reason), url
        assert "PRIVATE KEY" not in str(services.get(build))


@pytest.mark.parametrize(
    ("lose", "status", "reason"),
    [("secret", pb.BUILD_STATUS_FAILED, "SecretNotFound"), ("key", pb.BUILD_STATUS_PENDING, "")],
)
def test_a_secret_that_cannot_be_opened_ends_the_claim_and_its_follower_sees_it(
    services: Services, tmp_path: Path, lose: str, status: int, reason: str
) -> None:
    """Deleted since the submit, it is the user's fault; a lost key is the platform's, and the build is tried again."""
    seen: list[int] = []
    parts = dataclasses.replace(
        services.parts,
        settings=Settings(data_dir=str(tmp_path)),
        changed=lambda build_id: seen.append(services.get(build_id).status),
    )
    secret = pb.NamedSecret(name="forge", git_token=pb.GitToken(token="t0ken"))
    build_service, worker = BuildService(parts), WorkerService(parts)
    build_service.save_build_secrets(ACME, pb.SaveBuildSecretsRequest(named=[secret]))
    asked = pb.CreateBuildRequest(name="app")
    asked.git_source.url, asked.git_source.secret_ref = "https://forge.example.com/app.git", "forge"
    asked.git_source.runtime.python.SetInParent()
    build = build_service.create_build(ACME, asked).build_id
    register(services, "n")
    if lose == "secret":
        build_service.delete_build_secret(ACME, pb.DeleteBuildSecretRequest(name="forge"))
    else:
        parts.secrets.vault.path.unlink()
    claimed = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    answer = worker.claim_build(node_of("n"), claimed)
    assert not answer.granted and "it ended" in answer.refused_because and "t0ken" not in str(answer)
    assert services.get(build).status == status and services.get(build).failure.reason == reason
    assert seen[-1] == status


def test_a_node_has_no_more_slots_than_a_machine(services: Services) -> None:
    register(services, "n", slots=4096)
    with pytest.raises(BuildError, match="InvalidRequest: slots takes up to 4096"):
        register(services, "n", slots=4097)


def test_what_a_node_dates_is_within_the_calendar(services: Services) -> None:
    """A record or log with another time could not be shown, nor a statement about it be written."""
    build = services.submit()
    register(services, "n")
    claimed = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    common = of_claim(build, services.worker.claim_build(node_of("n"), claimed).claim)
    times = (2**63 - 1, -(2**63), 5)
    lines = [pb.LogEntry(line="x", timestamp_ms=at) for at in times]
    services.worker.append_log(node_of("n"), pb.AppendLogRequest(**common, lines=lines))
    assert [line["t"] for line in logs.read(services.store, build, 0)] == [253_402_300_799_999, 0, 5]
    phase = pb.PhaseRecord(phase=pb.BUILD_PHASE_PLAN, started_at_ms=-1, ended_at_ms=2**63 - 1)
    failure = pb.Failure(reason="CompileFailed", message="m")
    services.worker.finish(node_of("n"), pb.FinishRequest(**common, failure=failure, phases=[phase]))
    [found] = [one for one in services.get(build).phases if one.phase == pb.BUILD_PHASE_PLAN]
    assert (found.started_at_ms, found.ended_at_ms) == (0, 253_402_300_799_999)


def test_what_a_node_dropped_is_counted_though_nothing_else_changed(services: Services) -> None:
    for count in (0, 3, 2):
        register(services, "n", slots=1, dropped_messages=count)
    assert (services.dropped, len(services.wakes)) == ([0, 3, 2], 1)


def test_the_dispatcher_is_woken_by_a_node_that_can_something_else_and_by_no_repetition(services: Services) -> None:
    request = pb.RegisterNodeRequest(protocol=1, node_id="node", queues=["compile.go"], slots=2)
    for changed in ({}, {"slots": 3}, {"queues": ["compile.any"]}, {"toolchains": {"go-1.26": "d"}}):
        request.MergeFrom(pb.RegisterNodeRequest(**changed))
        before = len(services.wakes)
        for _ in range(3):
            services.worker.register_node(NODE, request)
        assert len(services.wakes) == before + 1
    other = pb.RegisterNodeRequest(protocol=1, node_id="other", slots=1)
    before = len(services.wakes)
    services.worker.register_node(NODE, other)
    assert len(services.wakes) == before + 1
