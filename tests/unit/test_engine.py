"""Dockerfiles by a Docker engine: what builds a source and why, the call, the engine's words, its archive, the line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.claims.outcome import Outcome
from builder.claims.requests import Close
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dockerfile.choose import ImageRequest, Strategy, placed
from builder.engine import api
from builder.engine.ended import Transcript, diagnose, exit_code, instruction
from builder.engine.plan import ContainerLimits, arguments_of, materials_of, tag_of
from builder.errors import BuildError, PlatformError
from builder.images.archive import read_archive
from builder.images.layout import Layout
from builder.kaniko.ended import Instruction
from builder.kaniko.plan import key_of
from builder.node.child import image_line_of
from builder.node.close import close
from builder.node.drive import do_work, driving
from builder.node.engine import EngineBuilder
from builder.node.image import Launcher
from builder.settings import Settings, validated
from builder.strategies import STRATEGIES, by_name, kaniko, planner
from builder.strategies import engine as strategy
from tests.attempt_fixtures import node_at
from tests.build_fixtures import tar_of
from tests.cli_fixtures import run
from tests.golden.jobs import EXECUTOR, FETCHER
from tests.unit.test_image_line import BUILD, JobCalls
from tests.unit.test_image_line import grant as granted

HOST = "unix:///run/docker.sock"
PINNED = "registry.example/debian@sha256:" + "b" * 64
ALL = '["*"]'
MIB = 1024 * 1024
DOCKERFILE = f"ARG V=1\nFROM {PINNED} AS made\nRUN make \\\n  all\nFROM scratch\nCOPY --from=made /a /a\n"
ROWS = (
    Instruction(stage=0, line=2, text=f"FROM {PINNED} AS made"),
    Instruction(stage=0, line=3, text="RUN make   all"),
    Instruction(stage=1, line=5, text="FROM scratch"),
    Instruction(stage=1, line=6, text="COPY --from=made /a /a"),
)


def tree(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# --- what builds it, and why


@pytest.mark.parametrize(
    ("asked", "cluster", "host", "found", "words"),
    [
        ("kaniko", True, "", "kaniko", "Dockerfile at the root"),
        ("kaniko", True, HOST, "kaniko", "Dockerfile at the root"),
        ("buildpacks", True, HOST, "buildpacks", "Dockerfile at the root"),
        ("kaniko", False, HOST, "docker", "Dockerfile at the root; no cluster is configured, and docker_host is"),
    ],
)
def test_a_cluster_goes_before_an_engine(asked: Strategy, *, cluster: bool, host: str, found: str, words: str) -> None:
    assert placed(asked, "Dockerfile at the root", cluster=cluster, docker_host=host, where="x") == (found, words)


@pytest.mark.parametrize(
    ("asked", "host", "message", "steps"),
    [
        ("kaniko", "", "by a Docker engine", ("--server=URL", "IGNITE_BUILDER_DOCKER_HOST", "--image REF")),
        ("buildpacks", "", "buildpacks run in a cluster", ("--server=URL", "--runtime", "--image REF")),
        ("buildpacks", HOST, "a Docker engine builds Dockerfiles alone", ("--server=URL",)),
    ],
)
def test_without_both_each_way_out_is_named(asked: Strategy, host: str, message: str, steps: Sequence[str]) -> None:
    with pytest.raises(BuildError) as refused:
        placed(asked, "because", cluster=False, docker_host=host, where="Dockerfile")
    assert (refused.value.reason, refused.value.where) == ("ToolchainUnavailable", "Dockerfile")
    assert message in refused.value.message
    assert all(step in refused.value.next for step in steps)
    assert ("DOCKER_HOST" in refused.value.next) == (asked == "kaniko")


def test_a_worker_takes_the_engine_where_it_has_no_cluster() -> None:
    line = image_line_of(Settings(docker_host=HOST, organization="acme", dockerfile_from_allowed=("a/*",)))
    assert isinstance(line, EngineBuilder)
    assert (line.host, line.organization, line.allowed) == (HOST, "acme", ("a/*",))
    both = Settings(docker_host=HOST, kaniko_executor=EXECUTOR, fetch_image=FETCHER)
    assert isinstance(image_line_of(both), Launcher)
    with pytest.raises(BuildError, match="kaniko_executor"):
        image_line_of(Settings())


def test_an_engine_makes_the_node_read_the_queue_of_images() -> None:
    assert "image" in Settings(docker_host=HOST).queue_list(("go",))
    assert "image" not in Settings().queue_list(("go",))
    assert Settings(docker_host=HOST, queues=("compile.go",)).queue_list(("go",)) == ("compile.go",)


@pytest.mark.parametrize("host", [HOST, "tcp://127.0.0.1:2375", "tcp://engine.corp:2375", ""])
def test_a_socket_and_a_port_are_engines(host: str) -> None:
    assert validated({"docker_host": host}).docker_host == host


@pytest.mark.parametrize(
    "host", ["docker.sock", "unix://docker.sock", "tcp://host", "http://h:1", "ssh://h", "tcp://u:p@h:1", "tcp://-h:1"]
)
def test_anything_else_is_none(host: str) -> None:
    with pytest.raises(ValueError, match=r"docker_host: it takes unix:///PATH"):
        validated({"docker_host": host})


def test_its_plans_are_no_jobs() -> None:
    assert by_name("docker") is None and "docker" not in [one.NAME for one in STRATEGIES]
    assert planner("docker") is strategy and planner("kaniko") is kaniko


def test_plan_shows_the_call_and_why(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", Dockerfile="FROM debian:12\nCOPY src /x\n", src__a="x")
    settings = Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node"), docker_host=HOST)
    ran = run("plan", str(source), "--build-arg", "B=2", "--json", settings=settings)
    found = json.loads(ran.out)
    assert ran.code == 0 and "job" not in found
    assert found["image"]["strategy"] == "docker"
    assert found["image"]["because"] == "Dockerfile at the root; no cluster is configured, and docker_host is"
    assert found["engine"]["host"] == HOST and found["engine"]["build"]["buildargs"] == {"B": "2"}
    text = run("plan", str(source), settings=settings).out
    assert "by the Docker engine of docker_host" in text and text.splitlines()[-1].startswith("next     ignite-builder")
    by_server = run("plan", str(source), "--json", settings=settings.replace(server="http://127.0.0.1:1"))
    assert json.loads(by_server.out)["image"]["strategy"] == "kaniko"


def test_build_without_an_engine_or_server_names_both(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", Dockerfile="FROM debian:12\n")
    settings = Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node"))
    ran = run("build", str(source), settings=settings)
    words = " ".join(ran.err.split())
    assert (ran.code, ran.out) == (75, "") and "ToolchainUnavailable" in words
    assert "IGNITE_BUILDER_DOCKER_HOST=unix:///var/run/docker.sock" in words and "--server=URL" in words


def test_build_with_an_engine_still_needs_a_cluster_for_buildpacks(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", index_dot_html="x")
    settings = Settings(data_dir=str(tmp_path / "d"), node_dir=str(tmp_path / "n"), docker_host=HOST)
    ran = run("build", str(source), "--buildpacks", settings=settings)
    assert ran.code == 75 and "a Docker engine builds Dockerfiles alone" in " ".join(ran.err.split())


# --- the call


def test_the_call_of_a_plan(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", app__Web="FROM scratch\nCOPY a /\n", app__a="1", other="2")
    asked = ImageRequest(dockerfile="Web", sub_path="app", build_args={"Z": "1", "A": "x --network=host"})
    plan = strategy.plan(source, asked, ALL)
    limits = ContainerLimits(cpus=1.5, memory_bytes=512 * MIB)
    made = arguments_of(plan, tag=tag_of(BUILD, 2), build_args=asked.build_args, limits=limits, cpus_there=8)
    assert made == {
        "tag": f"ignite-builder:{BUILD}-2",
        "dockerfile": "Web",
        "buildargs": {"A": "x --network=host", "Z": "1"},
        "platform": "linux/amd64",
        "container_limits": {"memory": 512 * MIB, "memswap": 512 * MIB, "cpusetcpus": "0-1"},
        "nocache": True,
        "pull": False,
        "rm": True,
        "forcerm": True,
    }
    assert plan.part() is None and materials_of(plan, "sha256:1") == (("context", "sha256:1"),)


@pytest.mark.parametrize(
    ("cpus", "there", "found"), [(0.5, 4, "0"), (1, 4, "0"), (2, 4, "0-1"), (4, 4, None), (8, 4, None), (8, 0, "0-7")]
)
def test_processors_are_those_that_the_engine_has(tmp_path: Path, cpus: float, there: int, found: str | None) -> None:
    plan = strategy.plan(tree(tmp_path / "s", Dockerfile="FROM scratch\nCOPY Dockerfile /\n"), ImageRequest(), ALL)
    made = arguments_of(
        plan, tag="t", build_args={}, limits=ContainerLimits(cpus=cpus, memory_bytes=MIB), cpus_there=there
    )
    assert made["container_limits"].get("cpusetcpus") == found


def test_an_engine_gets_what_its_own_client_would_send(tmp_path: Path) -> None:
    rules = "*\n!src\nsrc/*.log\n!src/kept.log\n"
    files = {"src__a_dot_c": "1", "src__b_dot_log": "2", "src__kept_dot_log": "3", "notes": "4"}
    source = tree(tmp_path / "s", Dockerfile="FROM scratch\nCOPY src /\n", _dot_dockerignore=rules, **files)
    part = strategy.plan(source, ImageRequest(), ALL).part()
    assert part is not None
    sent = [
        one for one in ("Dockerfile", ".dockerignore", "notes", "src/a.c", "src/b.log", "src/kept.log") if part(one)
    ]
    assert sent == ["Dockerfile", ".dockerignore", "src/a.c", "src/kept.log"]


def test_a_key_of_the_engine_is_none_of_kaniko(tmp_path: Path) -> None:
    plan = strategy.plan(tree(tmp_path / "s", Dockerfile=f"FROM {PINNED}\n"), ImageRequest(), ALL)
    facts: dict[str, Any] = {"organization": "o", "code_hash": "sha256:0", "build_args": {}, "executor": ""}
    assert plan.pinned
    assert key_of(plan, **facts, build_id="a") != key_of(plan, **facts, build_id="a", strategy="docker")
    assert key_of(plan, **facts, build_id="a", strategy="docker") == key_of(
        plan, **facts, build_id="b", strategy="docker"
    )
    assert materials_of(plan, "sha256:1")[1] == (PINNED.partition("@")[0], "sha256:" + "b" * 64)


# --- its words


def told(*lines: str, error: str = "") -> Transcript:
    seen = Transcript()
    for line in lines:
        seen.heard(line)
    seen.error = error
    return seen


RAN = ("Step 1/5 : ARG V=1", f"Step 2/5 : FROM {PINNED} AS made", " ---> 0123456789ab", "Step 3/5 : RUN make   all")


def test_steps_count_the_arguments_before_the_first_from() -> None:
    assert instruction(told(RAN[0]), ROWS) is None
    assert instruction(told(*RAN[:2]), ROWS) == ROWS[0]
    assert instruction(told(*RAN), ROWS) == ROWS[1]
    assert instruction(told("Step 9/5 : RUN x"), ROWS) is None and instruction(told(), ROWS) is None


def test_what_a_build_makes_is_known_by_its_lines() -> None:
    seen = told(
        *RAN,
        " ---> Running in aaaaaaaaaaaa",
        "out",
        "Removing intermediate container aaaaaaaaaaaa",
        " ---> bbbbbbbbbbbb",
    )
    assert (seen.images, seen.containers, list(seen.lines)) == (["bbbbbbbbbbbb"], ["aaaaaaaaaaaa"], ["out"])
    nothing = ("STDOUT", "")
    assert seen.message({"aux": {"ID": "sha256:1"}}) == nothing and seen.image == "sha256:1"
    assert seen.message({"stream": "x\n"}) == ("STDOUT", "x\n")
    assert seen.message({"stream": "\x1b[91mx\n\x1b[0m"}) == ("STDERR", "x\n")
    pulling = {"status": "Pulling from library/debian", "id": "12"}
    assert seen.message(pulling) == ("STDOUT", "12: Pulling from library/debian\n")
    assert seen.message({"status": "Downloading", "progressDetail": {"current": 1}, "id": "a"}) == nothing
    assert seen.message({"error": "no", "errorDetail": {"message": "no"}}) == nothing and seen.error == "no"
    assert seen.message({"aux": 1}) == nothing == seen.message({})


@pytest.mark.parametrize(
    ("lines", "error", "reason", "where", "message"),
    [
        (
            (*RAN, " ---> Running in aaaaaaaaaaaa", "cc: fatal error", "make: *** [all] Error 1"),
            "The command '/bin/sh -c make   all' returned a non-zero code: 2",
            "StepFailed",
            "Dockerfile:3",
            "RUN ended with exit code 2",
        ),
        (
            (*RAN, "Step 4/5 : FROM scratch", " ---> ", "Step 5/5 : COPY --from=made /a /a"),
            "COPY failed: stat a: file does not exist",
            "StepFailed",
            "Dockerfile:6",
            "a is not in made",
        ),
        (
            RAN,
            "COPY failed: file not found in build context or excluded by .dockerignore: stat absent: file does not "
            "exist",
            "StepFailed",
            "Dockerfile:3",
            "absent is not in the source",
        ),
        (
            RAN,
            "COPY failed: stat /var/lib/docker/tmp/docker-builder12345/absent: no such file or directory",
            "StepFailed",
            "Dockerfile:3",
            "absent is not in the source",
        ),
        (
            RAN,
            "failed to create shim: OCI runtime create failed: container_linux.go:380: starting container process "
            "caused: "
            'exec: "/bin/sh": stat /bin/sh: no such file or directory: unknown',
            "StepFailed",
            "Dockerfile:3",
            'RUN could not start: exec: "/bin/sh": stat /bin/sh: no such file or directory',
        ),
        (
            RAN[:2],
            "manifest for registry.example/debian:nosuch not found: manifest unknown: manifest unknown",
            "StepFailed",
            "Dockerfile:2",
            f"there is no image {PINNED}",
        ),
        (
            RAN[:2],
            "pull access denied for nosuch, repository does not exist or may require 'docker login': denied: requested "
            "access to the resource is denied",
            "StepFailed",
            "Dockerfile:2",
            f"image {PINNED} may not be pulled",
        ),
        (
            RAN[:2],
            'Get "https://registry.example/v2/": dial tcp: lookup registry.example: no such host',
            "StepFailed",
            "Dockerfile:2",
            f"the registry of image {PINNED} has no address",
        ),
        (
            RAN[:2],
            'Get "https://registry.example/v2/": dial tcp 10.0.0.1:443: connect: connection refused',
            "RegistryUnavailable",
            "Dockerfile:2",
            f"the registry of image {PINNED} does not answer",
        ),
        (
            RAN[:2],
            "no matching manifest for linux/amd64 in the manifest list entries",
            "StepFailed",
            "Dockerfile:2",
            f"image {PINNED} is not there for linux/amd64",
        ),
        (
            RAN,
            "Error processing tar file(exit status 1): write /usr/lib/x: no space left on device",
            "NodeDiskFull",
            "Dockerfile:3",
            "the disk of the Docker engine is full",
        ),
        (
            (),
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/",
            "StepFailed",
            "Dockerfile",
            "the build needs BuildKit, and the engine's own builder is asked here",
        ),
        (
            (),
            "dockerfile parse error line 7: unknown instruction: RUM",
            "StepFailed",
            "Dockerfile:7",
            "unknown instruc",
        ),
        (RAN, "something of its own", "StepFailed", "Dockerfile:3", "something of its own"),
        (RAN, "", "StepFailed", "Dockerfile:3", "the engine gave no reason"),
    ],
)
def test_what_a_failure_means(lines: Sequence[str], error: str, reason: str, where: str, message: str) -> None:
    found = diagnose(told(*lines, error=error), ROWS, "Dockerfile")
    assert (found.reason, found.where) == (reason, where)
    assert found.message.startswith(message)
    assert found.said[0] == (lines[-2] if "make: ***" in "".join(lines) else error)


@pytest.mark.parametrize(
    ("stage", "error", "reason"),
    [
        ("mdae", "pull access denied for mdae, repository does not exist", "StepFailed"),
        ("mdae", "Get https://registry-1.docker.io/v2/: dial tcp: i/o timeout", "StepFailed"),
        ("maker", "Get https://registry-1.docker.io/v2/: dial tcp: i/o timeout", "RegistryUnavailable"),
    ],
)
def test_a_mistyped_stage_is_named_whatever_the_registry_answers(stage: str, error: str, reason: str) -> None:
    rows = (*ROWS[:3], Instruction(stage=1, line=6, text=f"COPY --from={stage} /a /a"))
    seen = told(*RAN, "Step 4/5 : FROM scratch", f"Step 5/5 : COPY --from={stage} /a /a", error=error)
    found = diagnose(seen, rows, "Dockerfile", mistyped=[(stage, "made")])
    assert (found.reason, found.where) == (reason, "Dockerfile:6")
    assert '"made" meant?' in found.message


def test_a_program_that_was_ended_for_memory_is_told_from_one_that_was_killed() -> None:
    seen = told(*RAN, "half done", error="The command '/bin/sh -c make   all' returned a non-zero code: 137")
    assert exit_code(seen.error) == 137 and exit_code("no code") == 0
    assert diagnose(seen, ROWS, "Dockerfile").reason == "StepFailed"
    found = diagnose(seen, ROWS, "Dockerfile", out_of_memory=64 * MIB)
    assert (found.reason, found.where, found.said) == ("OutOfMemory", "Dockerfile:3", ("half done",))
    assert str(64 * MIB) in found.message


# --- its archive


def tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def saved(
    *layers: bytes, named: Sequence[str] | None = None, pressed: bool = False, links: Mapping[str, str] | None = None
) -> bytes:
    """What `docker save` writes of an image with these layers; `links` are of a layer to another's file."""
    diff_ids = list(named) if named is not None else [digest(one) for one in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"]}, "rootfs": {"diff_ids": diff_ids}}
    data = json.dumps(config).encode()
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    row = {"Config": f"{digest(data)[7:]}.json", "RepoTags": ["ignite-builder:x"], "Layers": names}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, body in zip(names, layers, strict=True):
            entry = tarfile.TarInfo(name)
            if link := (links or {}).get(name):
                entry.type, entry.linkname = tarfile.SYMTYPE, link
                made.addfile(entry)
                continue
            kept = gzip.compress(body) if pressed else body
            entry.size = len(kept)
            made.addfile(entry, io.BytesIO(kept))
        for name, body in ((str(row["Config"]), data), ("manifest.json", json.dumps([row]).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            made.addfile(entry, io.BytesIO(body))
    return out.getvalue()


A, B = tar({"a": b"1" * 3000}), tar({"b": b"2"})


def read(folder: Path, data: bytes, limit: int = MIB) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.tar").write_bytes(data)
    return read_archive(folder / "image.tar", folder, limit=limit)


@pytest.mark.parametrize("pressed", [False, True])
def test_an_archive_becomes_an_image_with_the_very_same_layers(tmp_path: Path, *, pressed: bool) -> None:
    image = read(tmp_path, saved(A, B, pressed=pressed))
    assert [one.diff_id for one in image.layers] == [digest(A), digest(B)]
    assert [gzip.decompress(one.path.read_bytes()) for one in image.layers] == [A, B]
    manifest = json.loads(image.manifest)
    assert manifest["config"]["digest"] == digest(image.config) == image.config_digest
    assert [one["digest"] for one in manifest["layers"]] == [digest(one.path.read_bytes()) for one in image.layers]
    assert json.loads(image.config)["config"]["Cmd"] == ["/a"], "the engine's own config, byte for byte"


def test_equal_layers_are_one_blob_and_may_be_links(tmp_path: Path) -> None:
    image = read(tmp_path, saved(A, B, A, links={"2/layer.tar": "../0/layer.tar"}))
    assert [one.diff_id for one in image.layers] == [digest(A), digest(B), digest(A)]
    assert image.layers[0].path == image.layers[2].path


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no tar", "cannot be read"),
        (tar({"manifest.json": b"[]"}), "cannot be read"),
        (tar({"manifest.json": b'[{"Config": "x", "Layers": []}]'}), "cannot be read"),
        (saved(A, named=[digest(B)]), "in the place of"),
        (saved(A, named=[]), "has 1 layers, its config 0"),
        (saved(A, links={"0/layer.tar": "/etc/hostname"}), "cannot be read"),
    ],
)
def test_what_is_no_archive_is_the_platforms(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(PlatformError, match="Internal") as refused:
        read(tmp_path, data)
    assert words in refused.value.message


def test_layers_count_by_what_they_are_unpacked(tmp_path: Path) -> None:
    read(tmp_path / "a", saved(A, B), limit=len(A) + len(B))
    with pytest.raises(BuildError) as refused:
        read(tmp_path / "b", saved(A, B), limit=len(A) + len(B) - 1)
    assert refused.value.reason == "ArtifactTooLarge"


# --- the connection


class Blocking:
    """A client whose stream says one thing and then nothing, until its connection is shut down."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Callable[..., None]]] = {"response": []}
        self.shut, self.closed = threading.Event(), threading.Event()
        self.raw = SimpleNamespace(shutdown=self.shut.set)

    def close(self) -> None:
        self.closed.set()

    def build(self, **_: object) -> Iterator[dict[str, str]]:
        for hook in self.hooks["response"]:
            hook(self)

        def stream() -> Iterator[dict[str, str]]:
            yield {"stream": "Step 1/2 : FROM scratch\n"}
            assert self.shut.wait(120)

        return stream()


def test_a_silent_build_ends_with_its_connection_when_the_attempt_must() -> None:
    client, heard = Blocking(), list[Mapping[str, Any]]()

    def check() -> None:
        if heard:
            raise BuildError("Cancelled", "stopped")

    engine = api.Engine(client, HOST)
    with pytest.raises(BuildError, match="Cancelled"):
        for message in engine.build(io.BytesIO(), {}, check):
            heard.append(message)
    assert heard == [{"stream": "Step 1/2 : FROM scratch\n"}]
    assert client.shut.is_set() and client.closed.wait(120)


class Stocked:
    """A client of an engine with images: id → (tags, digests, in use)."""

    def __init__(self, images: dict[str, tuple[list[str], list[str], bool]]) -> None:
        self.hooks: dict[str, list[Any]] = {"response": []}
        self.images_here, self.removed = images, list[str]()

    def inspect_container(self, one: str) -> None:
        raise _answer(404)

    def inspect_image(self, one: str) -> dict[str, Any]:
        found = next((name for name in self.images_here if name.removeprefix("sha256:").startswith(one)), "")
        if not found:
            raise _answer(404)
        tags, digests, _ = self.images_here[found]
        return {"Id": found, "RepoTags": tags, "RepoDigests": digests}

    def remove_image(self, name: str, *, noprune: bool) -> None:
        assert noprune, "nothing else goes with it"
        if name in self.images_here and self.images_here[name][2]:
            raise _answer(409)
        self.removed.append(name)


def _answer(status: int) -> Any:
    from docker.errors import APIError

    response = SimpleNamespace(status_code=status, url="/", reason="no")
    return APIError("no", response=response, explanation="no")


def test_only_what_the_build_made_is_taken_away() -> None:
    client = Stocked(
        {
            "sha256:aaaa": ([], [], False),
            "sha256:bbbb": ([], [], False),
            "sha256:cccc": (["mine:1"], [], False),
            "sha256:dddd": ([], ["debian@sha256:1"], False),
            "sha256:eeee": ([], [], True),
            "sha256:ffff": ([], [], False),
        }
    )
    made = ("aaaa", "cccc", "dddd", "eeee", "ffff", "0000", "aaaa")
    left = api.Engine(client, HOST).take_away("ignite-builder:x", made, frozenset({"sha256:ffff"}), ("c1",))
    assert client.removed == ["ignite-builder:x", "sha256:aaaa"]
    assert left == ("image eeee: no",)


def test_an_engine_that_is_away_names_the_setting_and_the_systems_words() -> None:
    deep = RuntimeError("Error while fetching server API version")
    deep.__context__ = ConnectionError("aborted")
    deep.__context__.__context__ = FileNotFoundError(2, "No such file or directory")
    error = api.unreachable(HOST, deep)
    assert (error.reason, error.where) == ("ToolchainUnavailable", "docker_host")
    assert error.message == f"the Docker engine at {HOST} does not answer: No such file or directory"
    assert "docker_host" in error.next and not error.retried


# --- the line


class Fake:
    """An engine that answers as it is told."""

    def __init__(self, *messages: Mapping[str, Any], archive: bytes = b"", refuses: int = 0) -> None:
        self.messages, self.archive, self.refuses = messages, archive, refuses
        self.asked: dict[str, Any] = {}
        self.context: list[str] = []
        self.taken: list[tuple[str, tuple[str, ...]]] = []
        self.closed = 0

    def cpus(self) -> int:
        return 2

    def images(self) -> frozenset[str]:
        return frozenset()

    def build(self, context: Any, arguments: Mapping[str, Any], check: Callable[[], None]) -> Iterator[Any]:
        self.asked = dict(arguments)
        with tarfile.open(fileobj=context) as packed:
            self.context = packed.getnames()
        if self.refuses:
            raise api.EngineRefused("it has no time", self.refuses)
        yield from self.messages

    def export(self, image: str, out: Path, limit: int, check: Callable[[], None]) -> None:
        assert image == self.asked["tag"]
        out.write_bytes(self.archive)

    def was_out_of_memory(self, containers: Sequence[str], since: float) -> bool:
        return containers == ("cccccccccccc",)

    def take_away(
        self, tag: str, made: Sequence[str], before: frozenset[str], containers: Sequence[str]
    ) -> tuple[str, ...]:
        self.taken.append((tag, tuple(made)))
        return ("image 1: in use",)

    def close(self) -> None:
        self.closed += 1


def built(
    folder: Path,
    files: dict[str, str],
    engine: Fake,
    *,
    organization: str = "o",
    buildpacks: bool = False,
    **image: Any,
) -> tuple[Outcome, Close, JobCalls]:
    calls = JobCalls(tar_of(files))
    grant = granted(calls.source, by_buildpacks=buildpacks, **image)
    store = Layout(folder / "artifacts")
    node = node_at(folder, calls, settings={"node_id": "n", "docker_host": HOST}, destination=lambda attempt: store)
    line = EngineBuilder(host=HOST, organization=organization, connect=lambda host: engine)
    with driving(node, grant) as attempt:
        outcome = do_work(attempt, line.run)
        how = close(attempt, outcome)
    return outcome, how, calls


STEPS: list[Mapping[str, Any]] = [
    {"stream": "Step 1/2 : FROM scratch"},
    {"stream": "\n"},
    {"stream": " ---> \n"},
    {"stream": "no newline"},
    {"stream": "Step 2/2 : COPY a /\n"},
    {"stream": " ---> dddddddddddd\n"},
    {"aux": {"ID": "sha256:" + "d" * 64}},
    {"stream": "Successfully built dddddddddddd\n"},
]
SOURCE = {
    "x": "y",
    "app/Dockerfile": "FROM scratch\nCOPY a /\n",
    "app/a": "1",
    "app/b": "2",
    "app/.dockerignore": "b\n",
}


def test_an_engine_is_not_asked_for_an_image_of_another_organization(tmp_path: Path) -> None:
    engine = Fake(*STEPS)
    outcome, _, _ = built(tmp_path, {"Dockerfile": "FROM registry.example:5000/team/p/app\n"}, engine)
    assert outcome.failure is not None and not engine.asked
    assert (outcome.failure.reason, outcome.failure.where) == ("RepositoryForbidden", "Dockerfile:1:6")


def test_an_image_of_the_engine_is_pushed_by_the_node_and_the_engine_is_as_before(tmp_path: Path) -> None:
    engine = Fake(*STEPS, archive=saved(A))
    outcome, how, calls = built(tmp_path, SOURCE, engine, sub_path="app", build_args={"WHO": "us"})
    assert how is Close.FINISH and outcome.artifact is not None, outcome
    assert engine.context == [".dockerignore", "Dockerfile", "a"]
    assert engine.asked["buildargs"] == {"WHO": "us"} and engine.asked["tag"] == f"ignite-builder:{BUILD}-1"
    store = Layout(tmp_path / "artifacts")
    manifest = store.get_manifest("team/o/app", "build-x-1")
    assert manifest is not None and manifest.digest == outcome.artifact.digest
    assert [name for name, _ in outcome.artifact.materials] == ["context"]
    assert engine.taken == [(engine.asked["tag"], ("dddddddddddd", "sha256:" + "d" * 64))] and engine.closed == 1
    log = calls.kept[BUILD]
    because = "an image by the Docker engine, because Dockerfile in app; no cluster is configured, and docker_host is"
    assert because in log and "Step 2/2 : COPY a /" in log and "no newline" in log
    assert "warning: the Docker engine still has image 1: in use" in log
    (finished,) = calls.finished
    assert [one.phase for one in finished.phases] == [
        pb.BUILD_PHASE_FETCH_SOURCE,
        pb.BUILD_PHASE_DETECT,
        pb.BUILD_PHASE_PLAN,
        pb.BUILD_PHASE_BUILD,
        pb.BUILD_PHASE_PACKAGE,
        pb.BUILD_PHASE_PUSH,
    ]


FAILS = {"Dockerfile": "FROM debian:12\nRUN true\nRUN exit 3\n"}
FAILED: list[Mapping[str, Any]] = [
    {"stream": "Step 1/3 : FROM debian:12\n"},
    {"stream": "Step 2/3 : RUN true\n"},
    {"stream": "Step 3/3 : RUN exit 3\n"},
    {"stream": " ---> Running in cccccccccccc\n"},
    {"stream": "\x1b[91mit \x1b[0m"},
    {"stream": "\x1b[91mbroke\x1b[0m"},
]


@pytest.mark.parametrize(
    ("error", "reason", "where", "said", "code"),
    [
        ("The command '/bin/sh -c exit 3' returned a non-zero code: 3", "StepFailed", "Dockerfile:3", "it broke", 3),
        ("The command '/bin/sh -c x' returned a non-zero code: 137", "OutOfMemory", "Dockerfile:3", "it broke", 137),
        ("write /x: no space left on device", "NodeDiskFull", "Dockerfile:3", "write /x: no space left on device", 0),
    ],
)
def test_a_failed_step_has_its_line_and_the_programs_own_words(
    tmp_path: Path, error: str, reason: str, where: str, said: str, code: int
) -> None:
    engine = Fake(*FAILED, {"error": error})
    outcome, how, _ = built(tmp_path, FAILS, engine)
    failure = outcome.failure
    assert failure is not None and how is Close.FINISH
    assert (failure.reason, failure.where, failure.said[0], failure.exit_code) == (reason, where, said, code)
    assert failure.phase == "BUILD" and len(engine.taken) == engine.closed == 1
    assert isinstance(failure, PlatformError) == (reason == "NodeDiskFull")


@pytest.mark.parametrize(("status", "reason"), [(500, "ToolchainUnavailable"), (400, "StepFailed")])
def test_an_answer_in_the_place_of_a_build(tmp_path: Path, status: int, reason: str) -> None:
    outcome, _, _ = built(tmp_path, FAILS, Fake(refuses=status))
    assert outcome.failure is not None and outcome.failure.reason == reason
    assert "it has no time" in outcome.failure.message and outcome.failure.phase == "BUILD"


def test_an_engine_builds_for_its_own_organization_alone(tmp_path: Path) -> None:
    engine = Fake(*STEPS, archive=saved(A))
    outcome, _, _ = built(tmp_path, SOURCE, engine, organization="acme", sub_path="app")
    assert outcome.failure is not None and outcome.failure.reason == "ToolchainUnavailable"
    assert "for the organization acme alone; this build is of o" in outcome.failure.message
    assert not engine.asked


@pytest.mark.parametrize(("files", "asked"), [({"main.js": "1"}, False), (FAILS, True)])
def test_an_engine_has_no_buildpacks(tmp_path: Path, files: dict[str, str], *, asked: bool) -> None:
    engine = Fake()
    outcome, _, _ = built(tmp_path, files, engine, buildpacks=asked)
    assert outcome.failure is not None and outcome.failure.reason == "ToolchainUnavailable"
    assert "buildpacks run in a cluster" in outcome.failure.message and not engine.asked


def test_an_engine_rebases_nothing(tmp_path: Path) -> None:
    calls = JobCalls(tar_of(FAILS))
    asked = granted(calls.source)
    asked.request.Clear()
    asked.request.rebase.build_id = "k7m2xq9d4t1zv6wh5r3q"
    engine = Fake()
    line = EngineBuilder(host=HOST, organization="o", connect=lambda host: engine)
    with driving(node_at(tmp_path, calls, settings={"node_id": "n"}), asked) as attempt:
        outcome = do_work(attempt, line.run)
        close(attempt, outcome)
    assert outcome.failure is not None and outcome.failure.reason == "InvalidRequest"
    assert "is rebased by Cloud Native Buildpacks" in outcome.failure.message and not engine.asked
