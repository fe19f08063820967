"""Typical mistakes of people who build images, through a real server: what they get to read of each is golden.

`WRITE_GOLDEN=1 make test-cluster` writes `mistakes.json` again; the diff is the review.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import git_fixtures as hosts
from tests.cluster import images
from tests.cluster.service import Service, served
from tests.cluster_fixtures import Jobs
from tests.git_fixtures import TOKEN, USERNAME, Host

FILE = Path(__file__).with_name("mistakes.json")
ROW = {"sub_path": "subPath", "dockerfile_path": "dockerfilePath"}

DOCKERFILES: dict[str, dict[str, Any]] = {
    "a base that is not there": {"Dockerfile": "FROM {registry}/acme/absent:1\nRUN true\n"},
    "COPY of what is not there": {"Dockerfile": "FROM {debian}\nCOPY requirments.txt /app/\n", "requirements.txt": "x"},
    "COPY from a stage that comes later": {
        "Dockerfile": "FROM {debian}\nCOPY --from=2 /etc/passwd /x\nFROM {debian} AS build\nRUN true\n"
    },
    # On a busy machine the words of a program that fails at once may stand among the lines of the one before it.
    "a RUN that exits with 3": {
        "Dockerfile": "FROM {debian}\nRUN echo fine\nRUN sleep 1; echo 'no such thing' >&2; exit 3\n"
    },
    "a program that the base lacks": {"Dockerfile": "FROM {debian}\nRUN curl https://example.com\n"},
    "a user that the base lacks": {"Dockerfile": "FROM {debian}\nUSER ghost\nRUN true\n"},
    "an unknown instruction": {"Dockerfile": "FROM {debian}\nRUNN true\n"},
    "no FROM": {"Dockerfile": "RUN true\n"},
    "a Dockerfile that is elsewhere": {"docker/Dockerfile": "FROM {debian}\n", "dockerfile_path": "Dockerfile.prod"},
    "a base of an argument without a value": {"Dockerfile": "ARG BASE\nFROM $BASE\nRUN true\n"},
    "a folder that is not in the source": {"Dockerfile": "FROM {debian}\n", "sub_path": "server"},
}
BUILDPACKS: dict[str, dict[str, Any]] = {
    "no buildpack takes it": {"readme": "x"},
    "a buildpack that fails": {"index.html": "x", "fails": ""},
    "a project.toml that is no TOML": {"index.html": "x", "project.toml": "[build\n"},
    "a buildpack that the builder lacks": {
        "index.html": "x",
        "project.toml": '[_]\nschema-version = "0.2"\n[[io.buildpacks.group]]\nid = "acme/node"\n',
    },
}
GIT: dict[str, dict[str, str]] = {
    "a private repository without a secret": {},
    "a secret that is no longer valid": {"secretRef": "old"},
    "a branch that is not there": {"secretRef": "forge", "reference": "mian"},
    "a commit that is not there": {"secretRef": "forge", "reference": "0123456789abcdef0123456789abcdef01234567"},
    "a folder that is not in the repository": {"secretRef": "forge", "subPath": "api"},
    "a repository that is not there": {"secretRef": "forge", "url": "private-absent"},
    "a Dockerfile that is not in the repository": {"secretRef": "forge", "dockerfilePath": "Dockerfile.prod"},
}


@pytest.fixture(scope="module")
def service(jobs: Jobs, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    registry = jobs.cluster.registry
    buildpacks = {
        "BUILDPACKS_BUILDER": images.push_builder(registry),
        "BUILDPACKS_RUN_IMAGE": images.push_run(registry, "one\n"),
    }
    git = {"GIT_HOSTS": host.address, "CA_BUNDLE": str(host.bundle), "NODE_DIR": str(host.root.parent / "node")}
    with (
        served(jobs, tmp_path_factory.mktemp("service"), buildpacks) as service,
        service.worker("image-1", **git, CPUS="0.25"),
        service.watcher(),
    ):
        yield service


@pytest.fixture(scope="module")
def found(service: Service, host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each ended with. All are submitted at once."""
    work = tmp_path_factory.mktemp("git") / "work"
    hosts.commit(work, {"app/readme": "x"})
    hosts.publish(host, work, "private-mistakes")
    with service.serve.api("both") as api:
        named = [
            pb.NamedSecret(name=name, git_token=pb.GitToken(username=USERNAME, token=token))
            for name, token in (("forge", TOKEN), ("old", "no-longer-valid"))
        ]
        api.call("SaveBuildSecrets", pb.SaveBuildSecretsRequest(named=named))
    asked: dict[str, str] = {}
    for name, row in (DOCKERFILES | BUILDPACKS).items():
        fields = {ROW[key]: value for key, value in row.items() if key in ROW}
        files = {
            path: text.format(registry=service.jobs.cluster.registry, debian=service.jobs.debian)
            for path, text in row.items()
            if path not in ROW
        }
        asked[name] = service.submit("mistake", files, from_code=fields)
    for name, given in GIT.items():
        source = {**given, "url": host.url(given.get("url", "private-mistakes"))}
        asked[name] = service.submit_image("mistake", {"fromGit": source})
    return {name: _read(service, host, service.ended(build_id)) for name, build_id in asked.items()}


def _read(service: Service, host: Host, build: pb.Build) -> dict[str, Any]:
    """What a person reads of a failure, without what is new in each session."""
    failure = build.failure
    row = {"reason": failure.reason, "class": failure.error_class, "message": failure.message, "where": failure.where,
           "said": list(failure.said), "next": failure.next}  # fmt: skip
    text = json.dumps(row)
    for new, name in ((service.jobs.debian, "DEBIAN"), (service.jobs.cluster.registry, "REGISTRY"),
                      (host.address, "FORGE"), (build.build_id, "BUILD")):  # fmt: skip
        text = text.replace(new, name)
    return dict(json.loads(re.sub(r"sha256:[0-9a-f]{64}", "DIGEST", text)))


def test_there_are_twenty() -> None:
    assert len(DOCKERFILES | BUILDPACKS | GIT) >= 20


def test_each_is_golden(found: dict[str, dict[str, Any]]) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        FILE.write_text(text, encoding="utf-8")
    assert text == FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DOCKERFILES | BUILDPACKS | GIT)
def test_each_is_the_users_with_a_place_and_a_next_step(found: dict[str, dict[str, Any]], name: str) -> None:
    row = found[name]
    assert row["class"] in ("client", "user_code"), row
    assert row["message"] and row["next"] and (row["where"] or name in BUILDPACKS), row
    assert TOKEN not in json.dumps(row)
