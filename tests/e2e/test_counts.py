"""What a build costs in transactions, round trips to Redis and calls of the API: thirty at once, counted."""

from __future__ import annotations

import queue
from contextlib import ExitStack
from typing import Any

import pytest

from bench import p4
from tests.e2e.conftest import Start
from tests.postgres_fixtures import private_postgres

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_build_costs_few_transactions_round_trips_and_calls(start: Start, database: str) -> None:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    with ExitStack() as stack:
        flags: dict[str, Any] = {"report_url": stack.enter_context(p4.receiver(ended)), "tick_ms": 1000, "slots": 2}
        if database == "postgresql":
            folder = stack.enter_context(private_postgres())
            flags["store_url"] = f"postgresql://postgres@/postgres?host={folder}"
        server = stack.enter_context(start(own_caches=False, **flags))
        found, idle = p4.a_build(server.embedded, server.api, ended)
    print(f"{database}: a build {found}, idle a second {idle}")
    assert all(found[name] <= most for name, most in p4.MOST.items()), f"a build {found}, at most {p4.MOST}"
    assert found["transactions"] >= 6 and found["round trips"] >= 1 and found["calls"] >= 3, (
        f"counted too little: {found}"
    )
