"""Calls of an owner in one process with its store: which trouble of the store passes, and which ends the command."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from builder.claims.calls import Unanswered
from builder.cli.stop import refused_by_machine, refused_call
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import PlatformError
from builder.local.build import Owner
from builder.local.calls import PATIENCE_S, ServiceCalls
from builder.local.client import LocalClient
from builder.services.errors import status_of
from tests.attempt_fixtures import Clock


def trouble(name: str) -> OperationalError:
    cause = sqlite3.OperationalError("words")
    cause.sqlite_errorname = name
    return OperationalError("UPDATE", {}, cause)


class Service:
    """Raises what `raises` has for a call, and answers any other."""

    def __init__(self) -> None:
        self.raises: dict[str, Exception] = {}

    def heartbeat(self, caller: object, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        self._meet("heartbeat")
        return pb.HeartbeatResponse()

    def append_log(self, caller: object, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        self._meet("append_log")
        return pb.AppendLogResponse()

    def _meet(self, name: str) -> None:
        if name in self.raises:
            raise self.raises[name]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def calls(service: Service, clock: Clock) -> ServiceCalls:
    return ServiceCalls(cast(Any, service), now=clock)


FULL = trouble("SQLITE_FULL")
LOCKED = trouble("SQLITE_BUSY_SNAPSHOT")


def append(calls: ServiceCalls) -> None:
    calls.append_log(pb.AppendLogRequest())


def test_a_full_disk_is_waited_for_a_moment_whatever_else_still_fits(
    calls: ServiceCalls, service: Service, clock: Clock
) -> None:
    service.raises["append_log"] = FULL
    for seconds in (0.0, PATIENCE_S - 0.1):
        clock.seconds = seconds
        with pytest.raises(Unanswered):
            append(calls)
        calls.heartbeat(pb.HeartbeatRequest())
        assert calls.gone is None
    clock.seconds = PATIENCE_S
    with pytest.raises(OperationalError):
        append(calls)
    assert calls.gone is FULL


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY", "SQLITE_CANTOPEN"])
def test_a_disk_that_has_room_again_is_no_trouble(
    calls: ServiceCalls, service: Service, clock: Clock, name: str
) -> None:
    for seconds in (0.0, PATIENCE_S + 1):
        service.raises["append_log"] = trouble(name)
        clock.seconds = seconds
        with pytest.raises(Unanswered):
            append(calls)
        del service.raises["append_log"]
        append(calls)
    assert calls.gone is None


def test_a_lock_is_waited_for_however_long_it_takes(calls: ServiceCalls, service: Service, clock: Clock) -> None:
    service.raises["append_log"] = LOCKED
    for seconds in (0.0, PATIENCE_S, 100 * PATIENCE_S):
        clock.seconds = seconds
        with pytest.raises(Unanswered):
            append(calls)
    assert calls.gone is None


def test_an_owner_whose_store_is_gone_waits_for_nothing() -> None:
    owner = SimpleNamespace(_calls=SimpleNamespace(gone=FULL), here=SimpleNamespace(store=None, changes=None))
    with pytest.raises(OperationalError):
        Owner.build(cast(Any, owner), "b")


@pytest.mark.parametrize("error", [FULL, LOCKED])
def test_a_store_in_this_process_is_no_server_that_is_lost(error: Exception) -> None:
    """What the command line makes of it is tests/unit/test_cli_unwritable.py's."""
    client = SimpleNamespace(_as_error=AssertionError)
    with pytest.raises(OperationalError), LocalClient._calls(cast(Any, client)):
        raise error


def test_what_the_machine_refuses_has_the_platforms_code() -> None:
    for reason, code in (("SourceStoreUnavailable", 75), ("RegistryRefused", 75)):
        status = status_of(PlatformError(reason, "words"))
        stop = refused_call(status.code, status.message, dict(status.detail))
        assert stop.exit_code != code
        assert refused_by_machine(stop).exit_code == code
    assert refused_by_machine(refused_call("NOT_FOUND", "words", {})).exit_code == 5
