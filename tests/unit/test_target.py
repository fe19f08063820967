"""Where an artifact goes, and what of that place outlives a build."""

from __future__ import annotations

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
    made = SimpleNamespace(grant=grant, node=SimpleNamespace(settings=settings), check=object(), pause=object())
    return cast(Attempt, made)


def test_the_same_login_has_the_same_connections_and_tokens_and_a_use_has_its_own_waits(tmp_path: Path) -> None:
    destinations, login = Destinations(), {"registry": "reg.test", "username": "robot", "password": "one"}
    builds = [attempt(tmp_path, name, **login) for name in ("acme", "other")]
    first, second = (cast(Registry, destinations(each)) for each in builds)
    assert first.transport.client is second.transport.client
    assert first.transport._tokens is second.transport._tokens
    assert (second.transport.check, second.transport.sleep) == (builds[1].check, builds[1].pause)
    assert second.mounts and second.mounts.organization == "other", "each names its own repositories alone"


def test_another_login_or_registry_shares_nothing(tmp_path: Path) -> None:
    destinations, login = Destinations(), {"registry": "reg.test", "username": "robot", "password": "one"}
    first = cast(Registry, destinations(attempt(tmp_path, **login)))
    for change in ({"password": "two"}, {"username": "other"}, {"registry": "else.test"}, {"insecure": True}):
        other = cast(Registry, destinations(attempt(tmp_path, **{**login, **change})))
        assert other.transport.client is not first.transport.client
        assert other.transport._tokens is not first.transport._tokens


def test_without_a_registry_it_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(Destinations()(attempt(tmp_path, layout_path=str(tmp_path / "artifacts"))), Layout)
