"""The line over real files: its two halves entered apart, and the base that PLAN bound under PACKAGE."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from builder import pipelines, sandbox
from builder.attempt.attempt import Attempt
from builder.attempt.desk import PlanAnswer
from builder.attempt.package import package
from builder.attempt.planned import Bound
from builder.attempt.reader import Reading
from builder.attempt.running import finish_build
from builder.attempt.uses import unused
from builder.build import plan_build, run_build
from builder.claims.outcome import Verdict
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import run_message
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.images.destination import Pushed
from builder.images.image import Image, ImageConfig, build_image
from builder.images.layout import Layout
from builder.images.store import images_of
from builder.node.drive import no_listener
from builder.node.worker import WorkerProcess
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.plan import CopyFile, Detection, LayerSource, Network, Output, Sees, Step
from builder.settings import Settings
from builder.toolchains.host import HostProvider
from builder.toolchains.provider import Toolchains
from tests.attempt_fixtures import MemoryCalls, attempt_at, grant_of
from tests.oci_fixtures import make_layer, make_tree
from tests.planned_image import image_of

SOURCE = b"package main\n\nfunc main() {}\n"


class OneSource(MemoryCalls):
    """An API whose one source is SOURCE; it answers a key with `verdict`."""

    def __init__(self, verdict: pb.PlannedVerdict.ValueType = pb.PLANNED_GO_ON) -> None:
        super().__init__()
        self.verdict = verdict
        self.keys: list[str] = []

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        yield SOURCE

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        self.keys.append(request.key)
        return pb.PlannedResponse(verdict=self.verdict)


def make_base(folder: Path, text: str) -> str:
    """The base "go" of this node, made anew from one file; its digest."""
    layer = make_layer(folder / f"base-{text}", "base", {"etc/release": text}, "/")
    image = build_image(None, (layer,), ImageConfig(entrypoint=(), env=(("PATH", "/usr/bin"),)))
    Layout(folder / "bases/layout").push(image, "bases/go", "current")
    shutil.rmtree(folder / f"base-{text}")
    return image.digest


def attempt_in(folder: Path, calls: OneSource) -> Attempt:
    """An attempt on a node whose Go needs a base and no program."""
    make_tree(folder / "runtimes", {"go/toolchain.toml": 'rootfs = ""\n'})
    attempt = attempt_at(
        folder,
        calls,
        request=PlanRequest(runtime="go", single_file=True),
        known=pipelines.PIPELINES,
        catalog=catalog.read(runtimes_dir() / "catalog.toml"),
        toolchains=Toolchains(
            providers=(
                HostProvider(
                    folders=(folder / "runtimes",),
                    copies=folder / "toolchains",
                    images=images_of(folder),
                    which=lambda name: None,
                ),
            )
        ),
        destination=lambda attempt: Layout(folder / "artifacts"),
    )
    attempt.grant.source.sha256 = "sha256:" + hashlib.sha256(SOURCE).hexdigest()
    attempt.grant.destination.CopyFrom(pb.Destination(repository="o/app", tag="build-b-1"))
    return attempt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base-old", "base-new"):
        (tmp_path / name).mkdir()
    return tmp_path


def planned(attempt: Attempt) -> Bound:
    """The first half, and work whose only result is a file."""
    found = plan_build(attempt)
    assert found.verdict is Verdict.GO_ON
    make_tree(attempt.work / "out", {"app": "#!/bin/sh\n"}, ("app",))
    return found.bound


def layers_of(folder: Path, digest: str) -> tuple[dict[str, str], list[str]]:
    manifest = Layout(folder / "artifacts").get_manifest("o/app", digest)
    assert manifest is not None
    value = json.loads(manifest.body)
    return value["annotations"], [layer["digest"] for layer in value["layers"]]


def test_a_base_that_is_made_anew_after_plan_does_not_slip_in(folder: Path) -> None:
    old = make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    new = make_base(folder, "new")
    base = bound.toolchain.base
    assert base is not None and new != old == base.digest
    artifact = finish_build(attempt, bound)
    annotations, layers = layers_of(folder, artifact.digest)
    assert annotations["org.opencontainers.image.base.digest"] == old
    assert layers[0] == base.layers[0].digest
    assert len(layers) == 1 + len(image_of(bound.plan).layers)
    assert dict(artifact.materials)["base"] == old


def test_a_base_that_is_removed_after_plan_makes_no_image_without_one(folder: Path) -> None:
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    shutil.rmtree(folder / "bases")
    with pytest.raises(BuildError, match=r"base image go .* was removed") as caught:
        package(attempt, bound)
    assert caught.value.reason == "ToolchainUnavailable"
    assert "bases build go" in caught.value.next
    assert not (folder / "artifacts").exists()


def test_an_image_without_a_base_is_a_fault_of_ours(folder: Path) -> None:
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    with pytest.raises(BuildError, match="has no base image to build on") as caught:
        package(attempt, replace(bound, toolchain=replace(bound.toolchain, base=None)))
    assert caught.value.reason == "Internal"


def test_a_node_without_the_base_ends_at_plan(folder: Path) -> None:
    calls = OneSource()
    failure = run_build(attempt_in(folder, calls)).failure
    assert failure is not None
    assert (failure.reason, failure.phase, calls.keys) == ("ToolchainUnavailable", "PLAN", [])


@pytest.mark.parametrize("verdict", [Verdict.REUSE, Verdict.ATTACHED, Verdict.STALE])
def test_a_verdict_ends_the_line_before_a_step(folder: Path, verdict: Verdict) -> None:
    make_base(folder, "old")
    calls = OneSource(verdict.value)
    attempt = attempt_in(folder, calls)
    outcome = run_build(attempt)
    assert (outcome.verdict, outcome.artifact, outcome.failure, len(calls.keys)) == (verdict, None, None, 1)
    assert [pb.BuildPhase.Name(phase.phase) for phase in attempt.log.phases] == [
        "BUILD_PHASE_FETCH_SOURCE",
        "BUILD_PHASE_DETECT",
        "BUILD_PHASE_PLAN",
    ]


def test_a_fault_of_the_builder_is_its_own_and_named_in_the_operators_log_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a path of the host")

    monkeypatch.setattr("builder.build.bind", broken)
    outcome = run_build(attempt_in(folder, OneSource()))
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.error_class) == ("Internal", "platform")
    assert "a path of the host" not in outcome.failure.message
    assert "a path of the host" in outcome.unexpected


def test_a_stop_ends_the_line_at_the_next_phase(folder: Path) -> None:
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    attempt.lease.cancelled = True
    with pytest.raises(BuildError, match="stopped before PACKAGE"):
        finish_build(attempt, bound)


def names_up_to(function: str) -> list[str]:
    """The functions of the builder from `function` (left out) to the caller of the caller."""
    names = [frame.function for frame in inspect.stack()[2:]]
    return [name for name in names[: names.index(function)] if name not in ("__enter__", "__exit__")]


def test_from_the_line_to_the_sandbox_and_to_the_push_there_is_nothing_between(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value travels down, and no call climbs back up: a reader follows the line from one page."""
    ways: dict[str, list[str]] = {}
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())

    def run(command: sandbox.Command, *_: object, **__: object) -> sandbox.Result:
        ways["sandbox"] = names_up_to("run_build")
        make_tree(command.work / "out", {"app": "#!/bin/sh\n"}, ("app",))
        return sandbox.Result(
            exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
        )

    class Watched(Layout):
        def push(self, image: Image, repository: str, tag: str | None) -> Pushed:
            ways["push"] = names_up_to("run_build")
            return super().push(image, repository, tag)

    monkeypatch.setattr(sandbox, "run", run)
    attempt.node = replace(attempt.node, destination=lambda _: Watched(folder / "artifacts"))
    outcome = run_build(attempt)
    assert outcome.artifact is not None, outcome.failure
    assert ways == {"sandbox": ["execute_step", "run_step"], "push": ["push", "finish_build"]}
    assert [pb.BuildPhase.Name(phase.phase).removeprefix("BUILD_PHASE_") for phase in attempt.log.phases] == [
        "FETCH_SOURCE", "DETECT", "PLAN", "BUILD", "PACKAGE", "PUSH",
    ]  # fmt: skip


class OneBuild(OneSource):
    """An API that grants any claim: a build of SOURCE by the pipeline of Go."""

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        grant = grant_of(request.build_id)
        grant.source.sha256 = "sha256:" + hashlib.sha256(SOURCE).hexdigest()
        grant.destination.CopyFrom(pb.Destination(repository="o/app", tag="build-b-1"))
        grant.request.code.compile.source_code = b""
        grant.request.code.compile.runtime.go.SetInParent()
        return grant


def test_from_the_body_of_the_task_to_a_process_and_to_a_push_there_are_six_calls_at_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call is that of the launcher, which starts the process, and that of the registry."""
    make_base(folder, "old")
    calls = OneBuild()
    process = WorkerProcess(Settings(node_dir=str(folder)))
    process.registration.learn_key("key")
    ways: dict[str, list[str]] = {}

    class Watched(Layout):
        def push(self, image: Image, repository: str, tag: str | None) -> Pushed:
            ways["push"] = names_up_to("handle")
            return super().push(image, repository, tag)

    def launcher(*_: object, **__: object) -> NoReturn:
        ways["process"] = names_up_to("handle")
        raise BuildError("SandboxUnavailable", "the test starts none")

    def run(command: sandbox.Command, *_: object, **__: object) -> sandbox.Result:
        make_tree(command.work / "out", {"app": "#!/bin/sh\n"}, ("app",))
        return sandbox.Result(
            exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
        )

    node = replace(attempt_in(folder, calls).node, destination=lambda _: Watched(folder / "artifacts"), uid=1)
    monkeypatch.setattr(node.readers, "start", lambda: None, raising=False)
    monkeypatch.setattr(process.child, "_node", node)
    monkeypatch.setattr(process.child, "_cancels", SimpleNamespace(listening=no_listener))
    monkeypatch.setattr(sandbox, "in_sandbox", launcher)
    process.child.handle(run_message("b" * 20, "key"))
    monkeypatch.setattr(sandbox, "run", run)
    process.child.handle(run_message("b" * 20, "key"))
    assert [request.WhichOneof("outcome") for request in calls.finished] == ["failure", "success"], calls.finished
    process_calls, push_calls = ([*reversed(ways[name]), name] for name in ("process", "push"))
    assert process_calls == ["do_work", "run_build", "run_step", "execute_step", "run", "process"]
    assert push_calls == ["do_work", "run_build", "finish_build", "push", "push"]


@pytest.mark.parametrize("name", ["layer-0.tar.gz", "source"])
def test_what_a_step_leaves_under_a_name_of_ours_is_in_nobodys_way(folder: Path, name: str) -> None:
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    (attempt.work / name / "x").mkdir(parents=True)
    finish_build(attempt, bound)
    assert list((attempt.work / name).iterdir()) == [attempt.work / name / "x"]
    assert (attempt.private / "layer-0.tar.gz").is_file()


def test_files_of_the_output_are_seen_by_no_step_of_stubs_and_lead_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step with a network or a stored result runs before; a link that it left is not written through."""
    make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    outside = folder / "outside"
    outside.mkdir()
    blind = Step(
        name="fetch", argv=("x",), network=Network.INDEX, sees=Sees.STUBS, runs_source=False, cwd="/work/fetch"
    )
    seen: list[tuple[str, bool, bool]] = []

    def plan(self: Reading, detection: Detection, request: PlanRequest) -> PlanAnswer:
        found = reading_plan(self, detection, request)
        made = found.plan
        placed = (CopyFile(path="app/page.html", source="main.go"),)
        return replace(found, plan=replace(made, steps=(blind, *made.steps), placed=placed))

    def run(command: sandbox.Command, *_: object, **__: object) -> sandbox.Result:
        out = command.work / "out"
        here = out / "app/page.html"
        seen.append(("blind" if command.folders else "seeing", here.is_file(), (out / "app").is_symlink()))
        if command.folders:
            (out / "app").symlink_to(outside)
        return sandbox.Result(
            exit_code=0, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0
        )

    reading_plan = Reading.plan
    monkeypatch.setattr(Reading, "plan", plan)
    monkeypatch.setattr(sandbox, "run", run)
    run_build(attempt)
    assert seen == [("blind", False, False), ("seeing", True, False)]
    assert not list(outside.iterdir())


def test_the_budget_removes_neither_the_base_of_the_start_check_nor_a_stored_layer(folder: Path) -> None:
    digest = make_base(folder, "old")
    attempt = attempt_in(folder, OneSource())
    bound = planned(attempt)
    program = folder / "program"
    program.write_bytes(b"#!/bin/sh\n")
    root = sandbox.Root(mounts=(sandbox.Mount(source=program, dest="/opt/run"),))
    toolchain = replace(bound.toolchain, root=root, files={"/opt/run": "sha256:1"})
    output = bound.plan.output
    assert isinstance(output, Output)
    runtime = LayerSource(source="/opt/run", dest="/opt/run", created_by="runtime")
    plan = replace(bound.plan, output=replace(output, layers=(*output.layers, runtime)))
    package(attempt, replace(bound, toolchain=toolchain, plan=plan))
    (layer,) = (attempt.node.folder / "toolchains").glob("layer-*")
    for unit in (f"roots/{digest[7:]}", f"toolchains/{layer.name}"):
        with unused(attempt.node.folder, unit) as free:
            assert not free
    attempt.leave()
    with unused(attempt.node.folder, f"toolchains/{layer.name}") as free:
        assert free
