"""Where an artifact goes, and what of that place outlives a build."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from builder.attempt.attempt import Attempt
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.layout import Layout
from builder.images.registry import Registry
from builder.node.target import Destinations


def attempt(tmp_path: Path, organization: str = "acme", **target: Any) -> Attempt:
    grant = SimpleNamespace(destination=pb.ClaimBuildResponse().destination, organization_name=organization)
    for name, value in target.items():
        setattr(grant.destination, name, value)
    settings = SimpleNamespace(node_dir=str(tmp_path), ca_bundle="")
    return cast(Attempt, Build(grant=grant, node=SimpleNamespace(settings=settings)))


class Build(SimpleNamespace):
    """What a place needs of an attempt; it notes its waits."""

    grant: Any
    node: Any

    def __init__(self, **values: Any) -> None:
        super().__init__(waits=list[float | None](), **values)

    def check(self) -> None:
        self.waits.append(None)

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_the_same_login_has_the_same_connections_and_tokens_and_a_use_has_its_own_waits(tmp_path: Path) -> None:
    destinations, login = Destinations(), {"registry": "reg.test", "username": "robot", "password": "one"}
    builds = [attempt(tmp_path, name, **login) for name in ("acme", "other")]
    first, second = (cast(Registry, destinations(each)) for each in builds)
    assert first.transport.client is second.transport.client
    assert first.transport._tokens is second.transport._tokens
    second.transport.check()
    second.transport.sleep(0.5)
    assert [cast(Build, each).waits for each in builds] == [[], [None, 0.5]]
    assert second.mounts and second.mounts.organization == "other", "each names its own repositories alone"


def test_a_build_that_has_ended_is_kept_by_no_connection(tmp_path: Path) -> None:
    """Its grant has secrets of an organization."""
    destinations, build = Destinations(), attempt(tmp_path, registry="reg.test")
    kept, gone = cast(Registry, destinations(build)), weakref.ref(build)
    del build
    assert gone() is None
    kept.transport.check()
    kept.transport.sleep(1.0)


def test_another_login_or_registry_shares_nothing(tmp_path: Path) -> None:
    destinations, login = Destinations(), {"registry": "reg.test", "username": "robot", "password": "one"}
    first = cast(Registry, destinations(attempt(tmp_path, **login)))
    for change in ({"password": "two"}, {"username": "other"}, {"registry": "else.test"}, {"insecure": True}):
        asked: dict[str, Any] = {**login, **change}
        other = cast(Registry, destinations(attempt(tmp_path, **asked)))
        assert other.transport.client is not first.transport.client
        assert other.transport._tokens is not first.transport._tokens


def test_without_a_registry_it_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(Destinations()(attempt(tmp_path, layout_path=str(tmp_path / "artifacts"))), Layout)
