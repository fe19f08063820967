"""Every example, built by the real service, run and called; every broken one fails with the reason it is there for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
from tests.build_fixtures import CALLER, Server, tar_gz_of
from tests.golden.update import EXAMPLES, examples, files_of

pytestmark = pytest.mark.e2e
KEYS = {"send", "answer", "method", "path", "status"}


def expectation(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "expect.toml").read_text())


def programs() -> list[Path]:
    """The examples that are built as they are; those with a target of their own are in test_components.py."""
    return [folder for folder in examples() if "target" not in expectation(folder)]


def broken() -> list[Path]:
    return sorted(path.parent for path in EXAMPLES.glob("broken/*/expect.toml"))


@pytest.mark.parametrize("folder", programs(), ids=lambda path: path.name)
def test_an_example_answers_as_it_says(server: Server, folder: Path) -> None:
    expect = expectation(folder)
    assert set(expect) <= KEYS
    build = server.build(folder.name, tar_gz_of(files_of(folder)))
    assert build.runtime == folder.name.partition("-")[0]
    with run.started(server.embedded.settings, build) as running:
        answer = httpx.request(
            expect.get("method", "POST"),
            running.url + expect.get("path", "/"),
            content=expect["send"],
            headers=CALLER | {"x-ignite-execution-id": "demo-1"},
            timeout=120,
            trust_env=False,
        )
    assert (answer.status_code, answer.text) == (expect.get("status", 200), expect["answer"])


@pytest.mark.parametrize("folder", broken(), ids=lambda path: path.name)
def test_a_broken_example_fails_for_its_reason(server: Server, folder: Path) -> None:
    expect = expectation(folder)
    assert set(expect) <= {"reason", "class", "where"}
    build = server.wait(server.submit(folder.name, tar_gz_of(files_of(folder))))
    assert build.status == pb.BUILD_STATUS_FAILED
    assert build.failure.reason == expect["reason"], build.failure
    assert build.failure.error_class == expect.get("class", "user_code")
    assert build.failure.where == expect.get("where", build.failure.where)
    assert build.failure.next
    assert build.attempt == 1
