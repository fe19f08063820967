"""The embedded servers of the end-to-end tests, and one project of the corpus after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import config
from builder.bases.make import build_base
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import runtimes_dir
from builder.images.store import images_of
from builder.pipelines import catalog
from builder.toolchains.fetch import fetch as fetch_toolchain
from tests import component_programs, two_nodes
from tests.build_fixtures import Files, Server, tar_gz_of, zip_of
from tests.corpus.projects import COMPONENTS, Project, build, fetch, projects, source
from tests.e2e.conftest import Start, kept, registry, start

__all__ = ["kept", "registry", "start"]


@pytest.fixture(scope="session", autouse=True)
def toolchains(kept: Path) -> Iterator[None]:
    """What the nodes need beside the defaults: another Python, images in which sdists and components are built, and the
    linker of components."""
    for name in sorted({name for project in projects() for name in project.bases}):
        build_base(images_of(kept), name, runtimes_dir() / "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", component_programs.on_path(component_programs.linker()))
        row = catalog.read(runtimes_dir() / "catalog.toml").find("rust", COMPONENTS, "wasm")
        fetch_toolchain(config.load({"node_dir": str(kept)}).settings, row)
        yield


@pytest.fixture(scope="session")
def server(start: Start, toolchains: None) -> Iterator[Server]:
    """A node with all cores, and the package caches of earlier sessions."""
    with two_nodes.one_node(start) as running:
        yield running


@pytest.fixture(scope="session")
def elsewhere(start: Start, toolchains: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another node: empty caches, and another of everything that must not travel into an artifact."""
    with two_nodes.other_node(start, two_nodes.make_locales(tmp_path_factory.mktemp("locales"))) as running:
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
    return build(server, project.name, sent)
