"""What a worker makes of a message: an envelope of its own around the arguments, or nothing."""

from __future__ import annotations

import base64
import json

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from builder.broker.app import add_run_task, make_celery
from builder.broker.transport import MOST_BYTES, Channel, arguments, envelope
from builder.contract.messages import RUN, run_message
from builder.settings import Settings

HINT = run_message("k7m2xq9d4t1zv6wh5r3p", "key")


def message(body: object, **headers: object) -> bytes:
    text = base64.b64encode(json.dumps(body).encode()).decode()
    return json.dumps({"body": text, "headers": {"task": RUN, **headers}, "properties": {"x": 1}}).encode()


def test_of_a_message_only_the_arguments_are_left() -> None:
    asked = {"timelimit": [1, 1], "eta": "2099", "expires": "2001", "retries": 7, "id": ["x"], "stamps": {}}
    made = json.loads(envelope(message([[1], HINT, {"chain": [1], "chord": 1}], **asked), "compile.go"))
    assert json.loads(base64.b64decode(made["body"])) == [[], HINT, {}]
    assert not set(made["headers"]) & {"timelimit", "eta", "expires", "stamps"}
    assert (made["headers"]["task"], made["headers"]["retries"], "x" in made["properties"]) == (RUN, 0, False)
    assert made["properties"]["delivery_info"] == {"exchange": "compile.go", "routing_key": "compile.go"}
    assert made["headers"]["id"] == made["properties"]["delivery_tag"] != "x"


def test_a_message_that_is_too_long_is_not_parsed() -> None:
    long = message([[], {"x": "y" * MOST_BYTES}, {}])
    assert arguments(long)
    with pytest.raises(ValueError, match=f"{len(long)} bytes, limit {MOST_BYTES}"):
        envelope(long, "q")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(message))
def test_whatever_it_is_it_is_read_or_refused(item: bytes) -> None:
    try:
        made = json.loads(envelope(item, "q"))
    except ValueError:
        return
    [args, named, embedded] = json.loads(base64.b64decode(made["body"]))
    assert (args, embedded) == ([], {}) and isinstance(named, dict)


def test_a_worker_has_one_task_and_none_of_celerys() -> None:
    app = make_celery(Settings())
    add_run_task(app, lambda body: None)
    assert set(app.tasks) == {RUN}


def test_one_client_sends_all_messages_of_a_pool() -> None:
    channel = object.__new__(Channel)
    channel.closed, channel._fanout_queues, channel._pool = True, {}, redis.ConnectionPool()
    channel.Client = channel._get_client()
    first = channel._create_client()
    assert channel._create_client() is first
    channel._pool = redis.ConnectionPool()  # after a disconnect
    assert channel._create_client() is not first
