"""Dockerfiles without a server, by a real Docker engine: built, pushed to a real registry, and nothing stays behind."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from builder.images.place import destination
from builder.images.store import images_of
from tests import uids
from tests.build_fixtures import until
from tests.engine_fixtures import BASE, client, load, running_engine
from tests.program_fixtures import Program, ended

pytestmark = pytest.mark.e2e

PYTHON = "/usr/bin/python3.11"
DOCKERFILE = f"""\
ARG BASE={BASE}
FROM $BASE AS made
ARG WHO
RUN ["{PYTHON}", "-c", "import os; open('/made', 'w').write(os.environ['WHO']); print('said by RUN')"]
FROM scratch
COPY --from=made /made /made
COPY src /src
USER 65532:65532
CMD ["/src/app"]
"""


@pytest.fixture(scope="module")
def engine(kept: Path) -> Iterator[str]:
    """An engine that has a base image of our own recipe."""
    base = images_of(kept).get("python-3.11")
    assert base is not None
    with running_engine() as host:
        load(host, base)
        yield host


@pytest.fixture
def program(engine: str, registry: str) -> Iterator[Program]:
    """The program in a home of its own, with this engine and this registry."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-engine-home-", dir="/var/tmp") as folder:
        home, node = Path(folder) / "home", Path(folder) / "node"
        for each in (Path(folder), home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        settings = {
            "node_dir": str(node),
            "build_uid": str(uids.LOCAL),
            "docker_host": engine,
            "registry": registry,
            "stop_grace_ms": "2000",
        }
        yield Program(home, settings)


def tree(folder: Path, dockerfile: str, **files: str) -> str:
    (folder / "src").mkdir()
    (folder / "src/app").write_text("app")
    (folder / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)
    return str(folder)


def state(host: str) -> tuple[set[str], list[str]]:
    """(ids of all images, ids of all containers) of an engine."""
    with closing(client(host)) as asked:
        return {one["Id"] for one in asked.images(all=True)}, [one["Id"] for one in asked.containers(all=True)]


def log_of(program: Program) -> list[str]:
    ran = program.run("logs", "--raw")
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


def test_a_dockerfile_is_built_and_pushed_and_the_engine_is_as_it_was(
    program: Program, engine: str, registry: str, tmp_path: Path
) -> None:
    source = tree(tmp_path, DOCKERFILE, _dot_dockerignore="secret.txt\n", secret_dot_txt="no")
    before = state(engine)
    ran = program.run("build", source, "--name", "by-engine", "--build-arg", "WHO=us", "--json")
    assert ran.code == 0, ran.err
    host, _, rest = next(one for one in ran.record.image_refs if "@" in one).partition("/")
    repository, _, digest = rest.partition("@")
    assert (host, repository) == (registry, "local/by-engine")
    found = destination(registry, "", insecure=True)
    manifest = found.get_manifest(repository, digest)
    assert manifest is not None and found.resolve(repository, "latest") == digest
    config: dict[str, Any] = json.loads(
        b"".join(found.open_blob(repository, json.loads(manifest.body)["config"]["digest"]))
    )
    assert config["config"]["User"] == "65532:65532" and config["config"]["Cmd"] == ["/src/app"]
    assert len(config["rootfs"]["diff_ids"]) == 2
    log = log_of(program)
    assert "said by RUN" in log and any("no cluster is configured, and docker_host is" in line for line in log)
    assert state(engine) == before


def test_a_failed_run_names_its_line_and_an_absent_image_its_name(
    program: Program, engine: str, tmp_path: Path
) -> None:
    before = state(engine)
    failing = 'import sys; print("it broke", file=sys.stderr); sys.exit(3)'
    dockerfile = f'FROM {BASE}\nRUN ["{PYTHON}", "-c", ""]\n\nRUN [{json.dumps(PYTHON)}, "-c", {json.dumps(failing)}]\n'
    (tmp_path / "a").mkdir()
    ran = program.run("build", tree(tmp_path / "a", dockerfile), "--json")
    failure = ran.record.failure
    assert (ran.code, failure.reason, failure.where) == (1, "StepFailed", "Dockerfile:4"), ran.err
    assert list(failure.said) == ["it broke"] and failure.exit_code == 3
    assert state(engine) == before
    away = dict(program.settings) | {"docker_host": f"{engine}.none"}
    ran = Program(program.home, away).run("build", str(tmp_path / "a"))
    words = " ".join(ran.err.split())
    assert ran.code == 75 and "No such file or directory" in words and "correct docker_host" in words


def test_a_cancelled_build_leaves_no_container(program: Program, engine: str, tmp_path: Path) -> None:
    before = state(engine)
    waits = "import time; print('waits now', flush=True); time.sleep(3600)"
    source = tree(tmp_path, f'FROM {BASE}\nRUN [{json.dumps(PYTHON)}, "-c", {json.dumps(waits)}]\n')
    with program.started("build", source) as process:
        assert process.stderr is not None
        seen = []
        while b"waits now" not in (line := process.stderr.readline()) or b"RUN" in line:
            seen.append(line)
            assert line, b"".join(seen)
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    assert ran.code == 130, ran.err
    assert until(lambda: state(engine) == before)
