"""What a step with private modules gets of its node, and that no other step gets it: login, hosts, git."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import indexes, sandbox
from builder.attempt import steps
from builder.attempt.attempt import Attempt
from builder.attempt.steps import StepResult
from builder.attempt.verdict import of_refused, of_step
from builder.errors import BuildError, PlatformError
from builder.git import commands
from builder.mask import mask_of
from builder.pipelines import PIPELINES
from builder.pipelines.base import PlanRequest
from builder.plan import Diagnosis, Plan, Step
from builder.sandbox import EgressRecord, Verdict
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import attempt_at
from tests.unit.test_pipelines_go_private import BOTH, planned

TOKEN = "ghp_0123456789abcdefghij"
HOST = ("git.acme.example", 443)
INDEXES = frozenset({("proxy.golang.org", 443), ("sum.golang.org", 443)})
GO = sandbox.Mount(source=Path("/usr"), dest="/opt/ignite/toolchain/go")
DONE = sandbox.Result(
    exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
)  # fmt: skip


def attempt_of(folder: Path, arguments: dict[str, str] = BOTH, host: str = "", **settings: Any) -> Attempt:
    made = attempt_at(folder, request=PlanRequest(runtime="go", build_args=arguments), settings=settings)
    login = {"modules.username": "ada", "modules.token": TOKEN, "modules.host": host, "modules.version": "3"}
    made.grant.secrets.update(login)
    for name in ("download", "fetch"):
        (made.work / name).mkdir()
    return made


def ran(
    attempt: Attempt, step: Step, patch: pytest.MonkeyPatch, *tried: EgressRecord, code: int = 0, image: bool = False
) -> tuple[sandbox.Command, sandbox.Root, sandbox.Egress | None]:
    """What the sandbox was asked to run."""
    found: list[tuple[sandbox.Command, sandbox.Root, sandbox.Egress | None]] = []

    def run(command: sandbox.Command, root: sandbox.Root, *_: object, egress: Any, **others: object) -> sandbox.Result:
        found.append((command, root, egress))
        for record in tried:
            egress.record(record)
        return replace(DONE, exit_code=code)

    patch.setattr(sandbox, "run", run)
    root = sandbox.Root(rootfs=Path("/var") if image else None, mounts=(GO,))
    toolchain = Provided(base=None, root=root, digests={}, indexes=indexes.shipped()["go"])
    steps.execute_step(attempt, toolchain, step)
    (one,) = found
    return one


def settings_of(env: dict[str, str]) -> dict[str, list[str]]:
    """Git's settings as the variables have them."""
    found: dict[str, list[str]] = {}
    for number in range(int(env["GIT_CONFIG_COUNT"])):
        found.setdefault(env[f"GIT_CONFIG_KEY_{number}"], []).append(env[f"GIT_CONFIG_VALUE_{number}"])
    return found


@pytest.mark.parametrize("image", [False, True], ids=["host", "image"])
def test_the_download_has_the_login_in_its_environment_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bool
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    attempt = attempt_of(tmp_path, ca_bundle=str(bundle))
    command, root, egress = ran(attempt, planned().steps[0], monkeypatch, image=image)
    env = dict(command.env)
    assert (env["IGNITE_GIT_USERNAME"], env["IGNITE_GIT_TOKEN"]) == ("ada", TOKEN)
    assert [name for name, value in env.items() if TOKEN in value] == ["IGNITE_GIT_TOKEN"]
    assert TOKEN not in str(command.argv) and not any(TOKEN in line.text for line in attempt.log.spool.batch(100))
    assert command.folders and set(command.stores) == {"go-modules"} and not command.caches
    assert root.rootfs is None, "no file of an image stands in the place of the machine's git"
    assert {"/usr", "/bin", "/etc/ssl/certs/ca-certificates.crt", GO.dest} <= {mount.dest for mount in root.mounts}
    assert not any(mount.writable for mount in root.mounts)
    assert egress is not None and egress.policy == sandbox.EgressPolicy(hosts=INDEXES, request_hosts=frozenset({HOST}))


def test_git_runs_with_our_settings_alone_and_a_helper_for_these_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, _, _ = ran(attempt_of(tmp_path), planned().steps[0], monkeypatch)
    env = dict(command.env)
    found = settings_of(env)
    for setting in commands.SETTINGS:
        name, _, value = setting.partition("=")
        assert value in found[name], setting
    assert found["protocol.allow"] == ["never"] and found["core.hooksPath"] == ["/dev/null"]
    assert found["credential.helper"] == [""], "what a file of the machine names is dropped"
    helpers = [name for name in found if name.startswith("credential.") and name != "credential.helper"]
    assert helpers == ["credential.https://git.acme.example.helper"]
    wanted = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ALLOW_PROTOCOL": "https",
              "GIT_TERMINAL_PROMPT": "0", "GIT_PROTOCOL_FROM_USER": "0", "HOME": "/work/home"}  # fmt: skip
    assert wanted.items() <= env.items()
    assert not {"GIT_ASKPASS", "GIT_INDEX_FILE", "SSH_AUTH_SOCK"} & env.keys()


def test_what_the_operator_has_of_private_modules_stays_behind_the_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: tuple[tuple[dict[str, str], str, str], ...] = (
        ({}, "", ""),
        ({"GOPRIVATE": "corp.example"}, "corp.example", "corp.example"),
        ({"GOPRIVATE": "corp.example", "GONOPROXY": "none"}, "none", "corp.example"),
        ({"GONOSUMDB": "corp.example", "GOINSECURE": "*"}, "", "corp.example"),
    )
    for number, (index_env, proxy, sums) in enumerate(rows):
        folder = tmp_path / str(number)
        folder.mkdir()
        command, _, _ = ran(attempt_of(folder, index_env=index_env), planned().steps[0], monkeypatch)
        env = dict(command.env)
        assert env["GONOPROXY"] == f"git.acme.example/acme,{proxy}"
        assert env["GONOSUMDB"] == f"git.acme.example/acme,{sums}"
        assert (env["GOPRIVATE"], env["GOINSECURE"]) == ("git.acme.example/acme", "")
        assert env["GOPROXY"].endswith(",https://proxy.golang.org")


def test_no_step_after_the_download_has_login_hosts_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = attempt_of(tmp_path)
    for step in planned().steps[1:]:
        command, root, egress = ran(attempt, step, monkeypatch)
        assert egress is None and root.mounts == (GO,)
        assert TOKEN not in str(command) and not any("GIT" in name for name in command.env)
    plain = planned(private="-", private_secret="-").steps[0]
    command, root, egress = ran(attempt, plain, monkeypatch)
    assert TOKEN not in str(command) and not any("GIT" in name for name in command.env)
    assert egress is not None and egress.policy == sandbox.EgressPolicy(hosts=INDEXES)


def test_a_plan_opens_no_host_that_the_request_does_not_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made where the source was read: its word counts for nothing here."""
    forged = planned(private="git.acme.example,evil.example").steps[0]
    assert forged.private and forged.private.hosts == ("evil.example", "git.acme.example")
    command, _, egress = ran(attempt_of(tmp_path), forged, monkeypatch)
    assert egress is not None and egress.policy.request_hosts == {HOST}
    assert not any("evil" in name for name in settings_of(dict(command.env)))
    (tmp_path / "none").mkdir()
    command, _, egress = ran(attempt_of(tmp_path / "none", {}), forged, monkeypatch)
    assert egress is not None and not egress.policy.request_hosts
    assert not any(name.startswith("credential.https") for name in settings_of(dict(command.env)))


def test_a_secret_for_one_host_is_for_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"private": "git.acme.example,github.com/acme", "private_secret": "ci"}
    attempt = attempt_of(tmp_path, both, host="github.com")
    command, _, egress = ran(attempt, planned(private=both["private"]).steps[0], monkeypatch)
    helpers = [name for name in settings_of(dict(command.env)) if name.startswith("credential.https")]
    assert helpers == ["credential.https://github.com.helper"]
    assert egress is not None and egress.policy.request_hosts == {HOST, ("github.com", 443)}


def test_a_host_of_a_private_network_is_open_where_the_operator_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempt_of(tmp_path, git_hosts=("git.acme.example",))
    _, _, egress = ran(attempt, planned().steps[0], monkeypatch)
    assert egress is not None and egress.policy == sandbox.EgressPolicy(hosts=INDEXES | {HOST})


def connection(host: str, verdict: Verdict) -> EgressRecord:
    return EgressRecord(host=host, port=443, bytes_in=0, bytes_out=0, verdict=verdict)


@pytest.mark.parametrize(
    ("host", "reason"), [("git.acme.example", "GitUnavailable"), ("proxy.golang.org", "PackageIndexUnavailable")]
)
def test_a_host_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, reason: str
) -> None:
    with pytest.raises(PlatformError, match=f"step download modules: {host} could not be reached") as caught:
        ran(attempt_of(tmp_path), planned().steps[0], monkeypatch, connection(host, Verdict.UNREACHABLE), code=1)
    assert caught.value.reason == reason


def test_a_host_whose_address_is_not_public_is_the_requests_to_correct(tmp_path: Path) -> None:
    attempt, (step, *_) = attempt_of(tmp_path), planned().steps
    result = StepResult(exit_code=1, tail=("fatal: unable to access",), refused=("git.acme.example:443",))
    found = of_step(attempt, step, result)
    assert found and (found.reason, found.where) == ("GitUrlRefused", "buildArgs.private"), found
    assert "git_hosts" in found.next and "git.acme.example:443 is not a public host" in found.message
    port = replace(result, refused=("git.acme.example:8443",))
    assert of_step(attempt, step, port) is None, "no list of the operator opens a port that no request can name"
    led = _refused(attempt, planned(), port)
    assert "git.acme.example:8443 was refused" in led.message and "at port 443" in led.next
    elsewhere = replace(result, refused=("storage.example:443",))
    assert of_step(attempt, step, elsewhere) is None
    led = _refused(attempt, planned(), elsewhere)
    assert (led.reason, led.where) == ("ManifestInvalid", "buildArgs.private")
    assert "storage.example:443 was refused" in led.message and led.next.endswith("private=...,storage.example")


def test_a_refused_host_is_looked_for_in_the_manifests_of_the_builds_runtime(tmp_path: Path) -> None:
    attempt, plan = attempt_of(tmp_path), planned()
    attempt.node = replace(attempt.node, known=PIPELINES)
    attempt.source.mkdir(exist_ok=True)
    (attempt.source / "requirements.txt").write_text("x @ https://files.example/x.whl\n")
    result = StepResult(exit_code=1, tail=(), refused=("files.example:443",))
    assert _refused(attempt, plan, result).where == "buildArgs.private", "a manifest of another runtime is none"
    (attempt.source / "go.mod").write_text("module m\n\nrequire files.example/x v1.0.0\n")
    assert _refused(attempt, replace(plan, materials=()), result).where.startswith("go.mod")


def _refused(attempt: Attempt, plan: Plan, result: StepResult) -> BuildError:
    attempt.source.mkdir(exist_ok=True)
    found = of_refused(attempt, plan, result, Diagnosis(reason="StepFailed", message="m"))
    assert found
    return found


def test_the_login_of_private_modules_is_hidden_and_its_words_are_not() -> None:
    mask = mask_of({"modules.token": TOKEN, "modules.host": "git.acme.example", "modules.version": "12345678"})
    assert mask.text(f"{TOKEN} git.acme.example 12345678") == "*** git.acme.example 12345678"
