"""What is refused before a build exists: runtimes that no pipeline is loaded for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import pipelines
from builder.api import intake
from builder.api.auth import CallRefused
from builder.config import Settings
from builder.data import catalog_file
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.proto.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.proto.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.source.store import FolderStore
from builder.store.engine import Store, open_store

DOCS = Path(__file__).resolve().parents[2] / "docs"
LOADED = pipelines.names()
NOT_LOADED = tuple(name for name in common.Runtime.DESCRIPTOR.fields_by_name if name not in LOADED)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/builder.db")
    yield opened
    opened.engine.dispose()


def take(store: Store, tmp_path: Path, runtime: str, runtimes: tuple[str, ...] = LOADED, version: str = "") -> object:
    request = pb.CreateBuildRequest(name="app")
    request.code.compile.source_code = b"text\n"
    if runtime:
        value = getattr(request.code.compile.runtime, runtime)
        value.SetInParent()
        setattr(value, "toolchain_version" if hasattr(value, "toolchain_version") else "version", version)
    known = catalog.read(catalog_file(""))
    return intake.take(request, "acme", Settings(), known, store, FolderStore(tmp_path / "sources"), runtimes)


@pytest.mark.parametrize("runtime", NOT_LOADED)
def test_a_runtime_without_a_pipeline_is_unimplemented_and_says_what_there_is(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    with pytest.raises(CallRefused) as refused:
        take(store, tmp_path, runtime, version="0.0")
    assert (refused.value.code, refused.value.http) == ("UNIMPLEMENTED", 501)
    assert refused.value.message == f"{runtime} is not built yet; there is {', '.join(LOADED)} (docs/api.md)"
    assert not list((tmp_path / "sources").rglob("*"))


def test_a_loaded_pipeline_makes_its_runtime_buildable(store: Store, tmp_path: Path) -> None:
    for runtime in (*NOT_LOADED, *LOADED, ""):
        assert take(store, tmp_path, runtime, (*LOADED, *NOT_LOADED))


def test_an_unknown_version_of_a_loaded_runtime_is_the_clients_mistake(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="UnknownRuntimeVersion"):
        take(store, tmp_path, "go", version="0.1")


def test_the_page_lists_the_runtimes_that_are_not_built() -> None:
    section = (DOCS / "api.md").read_text().partition("## What answers UNIMPLEMENTED for now")[2].partition("## ")[0]
    row = next(line for line in section.splitlines() if "a runtime that no pipeline is loaded for" in line)
    assert tuple(re.findall(r"`(\w+)`", row.partition(":")[0])) == NOT_LOADED
