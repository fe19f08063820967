"""A build node as an operator starts it with plain Celery: what it reads, what it says of itself, how it drains."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from builder import config, pipelines
from builder.broker.app import make_celery
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import RUN, run_message
from builder.local import embedded
from builder.local.embedded import end
from builder.local.machine import versions_here
from builder.store import membership, nodes
from tests import uids
from tests.build_fixtures import (
    GATED,
    GO_MAIN,
    PYTHON_HANDLER,
    TERMINAL,
    Server,
    fetch_json,
    let_go,
    processes_of,
    tar_of,
    until,
    zip_of,
)
from tests.crash_fixtures import catalog_with_scripts

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
BUILD_UID = uids.SERVER  # whose caches these are
LEASE_MS = 5000
BUILD_UIDS = range(BUILD_UID, BUILD_UID + 8)


@dataclass
class Control:
    """The control side alone; `worker` starts plain Celery against it."""

    server: Server
    folder: Path
    worker_token: str

    @contextmanager
    def worker(self, *options: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """`celery -A builder.node.celery worker` with Redis, the API's URL, the token, a folder, an id and users."""
        settings = {
            "SERVER": self.server.embedded.url,
            "TOKEN": self.worker_token,
            "REDIS_URL": self.server.embedded.control.settings.redis_url,
            "NODE_DIR": str(self.node_dir),
            "NODE_ID": "plain",
            "BUILD_UID": str(BUILD_UID),
            **more,
        }
        environ = {name: value for name, value in os.environ.items() if not name.startswith(config.PREFIX)}
        environ |= {config.PREFIX + name: value for name, value in settings.items()} | {"HOME": str(self.folder)}
        argv = [sys.executable, "-m", "celery", "-A", "builder.node.celery", "worker", "-l", "INFO", *options]
        with (self.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                argv, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            assert until(lambda: process.poll() is not None or " ready." in self.log), self.log
            assert process.poll() is None, self.log
            yield process
        finally:
            end(process, 90)

    @property
    def node_dir(self) -> Path:
        return self.folder / "node"

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")

    def node(self) -> nodes.RegisteredNode:
        """The node as the control side knows it."""
        found = nodes.all_nodes(self.server.embedded.control.store)
        unknown = nodes.RegisteredNode(
            node_id="", queues=frozenset(), toolchains=frozenset(), slots=0, drain=False, seen_ms_ago=0, running=0
        )
        return next((node for node in found if node.node_id == "plain"), unknown)

    def queued(self, name: str) -> int:
        """Hints in the Redis list of a queue."""
        with redis.Redis.from_url(self.server.embedded.control.settings.redis_url) as client:
            return int(client.llen(name))

    @property
    def scripts(self) -> dict[str, str]:
        """Settings of a worker that runs scripts of ours."""
        return {"PIPELINES": "tests.pipeline_script", "CATALOG": self.server.embedded.settings.catalog}

    def assert_nothing_left(self) -> None:
        assert until(lambda: not processes_of(BUILD_UIDS))  # a reader ends by itself
        left = [str(path) for name in ("work", "spool") for path in (self.node_dir / name).glob("*")]
        assert not left, left


Start = Callable[[], AbstractContextManager[Control]]


@pytest.fixture(scope="module")
def control(kept: Path, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """Redis and API, without a worker; package caches and build users are those of the fixture `server`."""
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-plain-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "node").mkdir()
    for name in ("bases", "toolchains", "caches"):
        (folder / "node" / name).symlink_to(kept / name)
    settings = config.load(
        {
            "data_dir": str(tmp_path_factory.mktemp("data")),
            "node_dir": str(folder / "node"),
            "registry": registry,
            "pipelines": ("tests.pipeline_script",),
            "catalog": str(catalog_with_scripts(folder / "catalog")),
            "lease_ms": LEASE_MS,
            "tick_ms": 100,
        }
    ).settings
    try:
        with embedded.start(settings, worker=False) as running:
            api = Api(running.url, running.token)
            tokens = running.control.settings.tokens
            [worker_token] = [one.token for one in tokens if "worker" in one.scopes]
            yield Control(Server(running, api), folder, worker_token)
            api.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def go_here(control: Control) -> str:
    """Go in the version of this machine."""
    version = versions_here(control.server.embedded.settings).get("go")
    return f"go@{version}" if version else "go"


def test_a_worker_is_counted_for_what_it_reads_and_runs(control: Control) -> None:
    server = control.server
    with control.worker("-Q", "compile.go", "-c", "1"):
        assert (control.node().queues, control.node().slots) == (frozenset({"compile.go"}), 1)
        waits = server.submit("waits", PYTHON_HANDLER, "python")
        unnamed = server.submit("unnamed", PYTHON_HANDLER + "# unnamed\n")
        built = server.build("plain-go", GO_MAIN, go_here(control))
        assert built.attempt == 1
        assert until(lambda: "no live node reads compile.any" in all_said(control, unnamed))
        for build, queue in ((waits, "compile.python"), (unnamed, "compile.any")):
            assert server.get(build.build_id).status == pb.BUILD_STATUS_PENDING
            assert control.queued(queue) == 0
            server.api.call("CancelBuild", pb.CancelBuildRequest(build_id=build.build_id))


def all_said(control: Control, build: pb.Build) -> str:
    """The log so far of a build that has not ended."""
    from builder.store import logs

    return "\n".join(line["l"] for line in logs.read(control.server.embedded.control.store, build.build_id, 0))


def test_without_options_it_reads_every_queue_with_the_slots_of_the_settings(control: Control) -> None:
    with control.worker(SLOTS="3"):
        assert control.node().queues == {"compile.any", *(f"compile.{name}" for name in pipelines.names())}
        assert control.node().slots == 3
    assert not control.node().queues  # it was idle, and said goodbye nevertheless


def test_a_node_that_runs_offers_what_is_fetched_to_it_until_it_is_removed(control: Control, kept: Path) -> None:
    empty = control.folder / "empty"
    empty.mkdir()
    with control.worker("-Q", "compile.python", NODE_DIR=str(empty)):
        assert "python-3.11" not in control.node().toolchains
        (empty / "bases").symlink_to(kept / "bases")
        assert until(lambda: "python-3.11" in control.node().toolchains), control.log
        (empty / "bases").unlink()
        assert until(lambda: "python-3.11" not in control.node().toolchains), control.log


def test_term_lets_a_build_end_and_leaves_nothing(control: Control) -> None:
    server = control.server
    with control.worker("-Q", "compile.any,compile.python", **control.scripts) as process:
        build = server.submit("ends", tar_of({"build.py": GATED}))
        server.wait_running(build, "running now")
        process.terminate()
        assert until(lambda: not control.node().queues), control.log
        late = server.submit("late", PYTHON_HANDLER + "# late\n", "python")
        assert process.poll() is None, "it waits for its build"
        let_go(control.node_dir)
        assert process.wait(300) == 0, control.log
        assert control.queued("compile.python") == 0, "a draining node is offered nothing"
        done = server.wait(build)
        assert (done.status, done.attempt) == (pb.BUILD_STATUS_SUCCEEDED, 1)
        assert server.get(late.build_id).status == pb.BUILD_STATUS_PENDING
        server.api.call("CancelBuild", pb.CancelBuildRequest(build_id=late.build_id))
        control.assert_nothing_left()


def test_a_build_that_outlasts_the_drain_goes_back_and_costs_no_retry(control: Control) -> None:
    server = control.server
    with control.worker("-Q", "compile.any", DRAIN_MS="0", **control.scripts) as process:
        build = server.submit("back", tar_of({"build.py": GATED + "# back\n"}))
        server.wait_running(build, "running now")
        process.terminate()
        assert process.wait(300) == 0, control.log
        assert server.get(build.build_id).status == pb.BUILD_STATUS_PENDING
        control.assert_nothing_left()
    with control.worker("-Q", "compile.any", **control.scripts):
        assert until(lambda: server.get(build.build_id).status in TERMINAL, before=lambda: let_go(control.node_dir))
        done = server.wait(build)
        assert (done.status, done.attempt, done.retries) == (pb.BUILD_STATUS_SUCCEEDED, 2, 0)


def test_a_node_that_is_told_to_drain_reads_nothing_until_it_may_again(control: Control) -> None:
    server, store = control.server, control.server.embedded.control.store

    def tell(drain: bool) -> None:
        assert membership.set_drain(store, "plain", drain)

    with control.worker("-Q", "compile.python"):
        tell(True)
        assert until(lambda: "Canceling queue compile.python" in control.log), control.log
        build = server.submit("waits", PYTHON_HANDLER + "# told to drain\n", "python")
        # The dispatcher offers a node that drains nothing, so the hint is ours.
        settings = server.embedded.control.settings
        hint = run_message(build.build_id, settings.message_key)
        make_celery(settings).send_task(RUN, kwargs=hint, queue="compile.python", retry=False)
        # A pop that was under way when the queue was cancelled takes the hint and puts it back.
        assert until(lambda: control.queued("compile.python") == 1)
        assert server.get(build.build_id).status == pb.BUILD_STATUS_PENDING
        tell(False)
        assert server.wait(build).status == pb.BUILD_STATUS_SUCCEEDED


GO_UUID = """\
package main

import (
	"ignite"

	"github.com/google/uuid"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		return []byte(uuid.NewSHA1(uuid.NameSpaceDNS, payload).String()), nil
	})
}
"""
IDNA_SHA256 = "946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
GO_MOD = "module example.com/app\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n"
GO_SUM = """\
github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=
github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=
"""
UUID_DIR_HASH = "348bda24330eb231c0f27d630212d2833ac0cf2d4782bfa136b6f9edefbde05d"  # the "h1:" above, in hex
IDNA = "import idna\n\ndef handler(payload, ctx):\n    return idna.encode(payload.decode())\n"


def test_the_statement_names_source_base_toolchain_locks_and_modules(control: Control, registry: str) -> None:
    server = control.server
    files = {"main.go": GO_UUID, "go.mod": GO_MOD, "go.sum": GO_SUM}
    python = {"handler.py": IDNA, "requirements.txt": "-r more.txt\n", "more.txt": "idna==3.10\n"}
    with control.worker("-Q", "compile.go,compile.python"):
        go = server.build("stated-go", zip_of(files), go_here(control))
        py = server.build("stated-python", zip_of(python), "python")
    named = dependencies(registry, go)
    assert set(named) == {
        "source", "canonical source tree", "base", "go", "sdk sdk", "go.mod", "go.sum",
        "pkg:golang/github.com/google/uuid@v1.6.0",
    }  # fmt: skip
    assert named["source"] == {"sha256": go.source_sha256.removeprefix("sha256:")}
    for name in ("go.mod", "go.sum"):  # as they were sent: the build itself works with a go.mod that knows the SDK
        assert named[name] == {"sha256": hashlib.sha256(files[name].encode()).hexdigest()}
    assert named["pkg:golang/github.com/google/uuid@v1.6.0"] == {"dirHash": UUID_DIR_HASH}
    named = dependencies(registry, py)
    # A node that has a root for sdists names it too, with what lies beside it there.
    assert {name for name in named if not name.startswith("apart")} == {
        "source", "canonical source tree", "base", "uv", "sdk .", "requirements.txt", "more.txt", "pkg:pypi/idna@3.10",
    }  # fmt: skip
    assert named["pkg:pypi/idna@3.10"] == {"sha256": IDNA_SHA256}
    for name in ("requirements.txt", "more.txt"):
        assert named[name] == {"sha256": hashlib.sha256(python[name].encode()).hexdigest()}


def test_a_build_argument_that_nobody_reads_ends_the_build_at_plan(control: Control) -> None:
    server = control.server
    """Where the request names no runtime; where it does, it is refused (tests/unit/test_intake.py)."""
    with control.worker("-Q", "compile.any"):
        done = server.wait(server.submit("argued", PYTHON_HANDLER, "", build_args={"DEBUG": "a-secret"}))
    failure = done.failure
    assert (done.status, failure.reason, failure.error_class) == (pb.BUILD_STATUS_FAILED, "BuildArgUnknown", "client")
    assert (failure.phase, failure.where) == (pb.BUILD_PHASE_PLAN, "buildArgs.DEBUG")
    assert "a-secret" not in failure.message + server.log(done.build_id).text


def dependencies(registry: str, build: pb.Build) -> dict[str, dict[str, str]]:
    """The resolvedDependencies of the statement that is attached to a build's artifact, by name."""
    manifests = f"{build.repository}/manifests"
    listed = f"{manifests}/{build.image_digest.replace(':', '-')}"
    index, _ = fetch_json(registry, listed, "application/vnd.oci.image.index.v1+json")
    (referrer,) = index["manifests"]
    attached, _ = fetch_json(
        registry, f"{manifests}/{referrer['digest']}", "application/vnd.oci.image.manifest.v1+json"
    )
    statement, _ = fetch_json(registry, f"{build.repository}/blobs/{attached['layers'][0]['digest']}")
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert len({part["name"] for part in found}) == len(found)
    return {part["name"]: part["digest"] for part in found}
