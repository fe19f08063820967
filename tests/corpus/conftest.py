"""The embedded servers of the end-to-end tests, and one project of the corpus after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.bases.make import build_base
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import runtimes_dir
from builder.images.store import images_of
from tests.build_fixtures import Files, Server, tar_gz_of, zip_of
from tests.corpus.projects import Project, build, fetch, projects, source
from tests.e2e.conftest import Start, kept, registry, server, start

__all__ = ["kept", "registry", "server", "start"]


@pytest.fixture(scope="session", autouse=True)
def bases(kept: Path) -> None:
    """The images that rows need beside those of the defaults: another Python, one in which sdists are built."""
    for name in sorted({name for project in projects() for name in project.bases}):
        build_base(images_of(kept), name, runtimes_dir() / "python")


@pytest.fixture(scope="session")
def elsewhere(start: Start) -> Iterator[Server]:
    """Another node: empty caches, other folders, users, umask, time zone and number of slots."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", "Asia/Tokyo")
            umask = os.umask(0o077)
            try:
                running = stack.enter_context(start(slots=1))
            finally:
                os.umask(umask)
        yield running


@pytest.fixture(scope="session", params=projects(), ids=lambda project: project.name)
def project(request: pytest.FixtureRequest) -> Project:
    """A row of projects.toml."""
    found: Project = request.param
    return found


@pytest.fixture(scope="session")
def archive(project: Project, kept: Path) -> bytes:
    """Its archive, as the registry gives it."""
    folder = kept / "corpus"
    folder.mkdir(exist_ok=True)
    return fetch(project, folder)


@pytest.fixture(scope="session")
def sent(project: Project, archive: bytes) -> bytes:
    """Its source, packed as its users would."""
    pack = zip_of if project.runtime == "go" else tar_gz_of
    found: Files = source(project, archive)
    return pack(found)


@pytest.fixture(scope="session")
def built(project: Project, sent: bytes, server: Server) -> pb.Build:
    """Its build; the runtime is left to detection."""
    return build(server, project, sent)
