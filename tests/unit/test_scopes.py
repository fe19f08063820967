"""Each call needs its scope, and no other one will do. The table is this test's own, written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from builder import pipelines
from builder.contract import routes
from builder.data import catalog_file
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.errors import CallRefused
from builder.services.nodes import OperateService
from builder.services.parts import Parts
from builder.services.workers import WorkerService
from builder.settings import Settings
from builder.store.engine import open_store
from builder.stores.folder import FolderStore

NEEDED: dict[str, str | tuple[str, ...]] = {
    "create_build": "submit",
    "get_build": "read",
    "list_builds": "read",
    "list_build_reports": "read",
    "cancel_build": "submit",
    "save_build_secrets": "submit",
    "list_build_secrets": "read",
    "delete_build_secret": "submit",
    "register_node": "worker",
    "claim_build": "worker",
    "heartbeat": "worker",
    "planned": "worker",
    "append_log": ("worker", "watch"),
    "finish": ("worker", "watch"),
    "hand_back": ("worker", "watch"),
    "launching": "worker",
    "launched": "worker",
    "adopt_job": "watch",
    "caught_up": "watch",
    "beat_jobs": "watch",
    "current_jobs": "watch",
    "list_nodes": "operate",
    "drain_node": "operate",
    "forget_node": "operate",
}
SCOPES = ("submit", "read", "worker", "watch", "operate")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[SimpleNamespace]:
    store = open_store(f"sqlite:///{tmp_path}/builder.db")
    parts = Parts(
        settings=Settings(),
        store=store,
        sources=FolderStore(tmp_path / "sources"),
        catalog=catalog.read(catalog_file("")),
        runtimes=pipelines.arguments(),
        wake=lambda: None,
        changed=lambda build_id: None,
        stale=lambda call: None,
        dropped=lambda count: None,
    )
    yield SimpleNamespace(build=BuildService(parts), worker=WorkerService(parts), operate=OperateService(parts))
    store.engine.dispose()


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _method(services: SimpleNamespace, name: str) -> Any:
    return next((getattr(each, name) for each in vars(services).values() if hasattr(each, name)), None)


def implemented(services: SimpleNamespace) -> dict[str, Callable[..., object]]:
    """RPC in snake case → its method."""
    names = (snake(method.name) for service in routes.services() for method in service.methods)
    found = {name: _method(services, name) for name in names}
    return {name: method for name, method in found.items() if method is not None}


def test_the_table_lists_every_call_that_is_implemented(services: SimpleNamespace) -> None:
    assert set(implemented(services)) == set(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
def test_a_call_needs_its_scope_and_no_other_one_will_do(services: SimpleNamespace, name: str) -> None:
    (method,) = (each for each in (m for s in routes.services() for m in s.methods) if snake(each.name) == name)
    request: Any = GetMessageClass(method.input_type)()
    if "protocol" in method.input_type.fields_by_name:
        request.protocol = 1
    for scope in SCOPES:
        caller = Caller(organization="acme", scopes=frozenset({scope}))
        refused = ""
        try:
            implemented(services)[name](caller, request)
        except CallRefused as error:
            refused = error.code
        except BuildError:  # the empty request is refused for what it lacks, so the scope was enough
            pass
        needed = NEEDED[name]
        will_do = scope == needed if isinstance(needed, str) else scope in needed
        assert (refused == "PERMISSION_DENIED") != will_do, (scope, refused)
