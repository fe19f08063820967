"""Redis, by somebody who may write to it all: what lies in a queue or comes over a channel starts and ends nothing."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

from builder.contract.messages import RUN, run_message, sign
from tests.broker_fixtures import hint
from tests.build_fixtures import until
from tests.edges import probe
from tests.edges.world import HONEST, KEY, SCRIPTS, World, of_record

STRANGER = "k7m2xq9d4t1zv6wh5r"


def message(named: object, task: object = RUN, headers: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A message as Celery writes it."""
    body = base64.b64encode(json.dumps([[], named, {}]).encode()).decode()
    made = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": "one", "lang": "py", **(headers or {})},
        "properties": {"body_encoding": "base64", "delivery_tag": "one", "delivery_info": {}},
    }
    return json.dumps(made | more).encode()


def went_on(world: World, number: int) -> None:
    """A genuine hint that came behind is taken by the same processes."""
    build = f"{STRANGER}{number:02}"
    hint(world.redis_url, build, queue=SCRIPTS)
    assert until(lambda: build in world.node.said()), world.node.said()[-2000:]
    assert world.node.process.poll() is None and world.node.children() == world.children


def of_messages(world: World, number: int, *messages: bytes) -> str:
    """ "dropped" when the node dropped each of them, and took the genuine hint behind them."""
    before = world.node.said().count("message-dropped")
    for each in messages:
        world.redis.lpush(SCRIPTS, each)
    went_on(world, number)

    def count() -> int:
        return world.node.said().count("message-dropped") - before

    until(lambda: count() >= len(messages))  # another process may take one before the hint and log it after
    dropped = count()
    return "dropped" if dropped == len(messages) else f"{dropped} of {len(messages)} dropped"


@probe("dropped")
def hints_without_a_signature(world: World) -> str:
    genuine = run_message(f"{STRANGER}90", KEY)
    unsigned = {name: value for name, value in genuine.items() if name != "sig"}
    wrong: tuple[Any, ...] = ("", None, 1, [], {}, "\ud800", "0" * 64)
    made = [unsigned | {"sig": each} for each in wrong]
    return of_messages(world, 1, message(unsigned), *map(message, made))


@probe("dropped")
def hints_with_a_wrong_signature(world: World) -> str:
    """Signatures of another key, another build, another version, an empty key; with one more field."""
    genuine = run_message(f"{STRANGER}91", KEY)
    other = run_message(f"{STRANGER}92", KEY)
    version = genuine | {"v": 2}
    made = [
        run_message(f"{STRANGER}91", "another key"), genuine | {"build_id": f"{STRANGER}93"},
        genuine | {"sig": other["sig"]},
        version, genuine | {"kid": "x"}, genuine | {"priority": 9}, genuine | {"sig": sign(genuine, "")},
        genuine | {"build_id": "../../etc/passwd"}, genuine | {"build_id": [f"{STRANGER}91"]},
    ]  # fmt: skip
    return of_messages(world, 2, *map(message, made))


@probe("dropped")
def what_is_no_message(world: World) -> str:
    yaml = b"!!python/object/apply:os.system ['touch /tmp/x']"
    made = (b"", b"null", b"[]", b"1", b"{", b"\x80\x04", b"[" * 9000, b"9" * 5000, yaml, b" " * (5 * 1024 * 1024))
    return of_messages(world, 3, *made)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.path)],)


@probe("dropped, nothing was run")
def pickles(world: World) -> str:
    """In each place where Celery or kombu could unpickle."""
    path = world.folder / "touched"
    dumped = base64.b64encode(pickle.dumps([[], Touches(path), {}])).decode()
    as_pickle: dict[str, Any] = {
        "body": dumped, "content-type": "application/x-python-serialize", "content-encoding": "binary",
    }  # fmt: skip
    named: dict[str, Any] = {"body": dumped, "content-type": "application/json"}
    argument = {"__type__": "pickle", "__value__": dumped, "__reduce__": ["os.system", [f"touch {path}"]]}
    raw = pickle.dumps(Touches(path))
    verdict = of_messages(world, 4, message({}, **as_pickle), message({}, **named), message(argument), raw)
    return f"{verdict}, {'it was run' if path.exists() else 'nothing was run'}"


@probe("dropped")
def tasks_of_celery_and_of_strangers(world: World) -> str:
    genuine = run_message(f"{STRANGER}94", KEY)
    tasks = (
        "celery.map", "celery.starmap", "celery.chunks", "celery.group", "celery.chord", "celery.chain",
        "celery.chord_unlock", "celery.backend_cleanup", "celery.accumulate", "os.system", "builder.build.run_build",
        "ignite.build.run2", "", None, [RUN], {"task": RUN},
    )  # fmt: skip
    return of_messages(world, 5, *(message(genuine, task=task) for task in tasks))


@probe("SUCCEEDED after one attempt")
def headers_of_celery_on_a_genuine_hint(world: World) -> str:
    """Each would make Celery wait, drop the hint, kill its owner or start something behind it."""
    build = world.script("headers", HONEST + "import time\nfor _ in range(20): time.sleep(0.01)\n", who="evil")
    again: dict[str, Any] = {"task": RUN, "args": [], "kwargs": {}, "options": {}, "subtask_type": None}
    headers = {
        "timelimit": [0.001, 0.001], "eta": "2099-01-01T00:00:00+00:00", "expires": "2001-01-01T00:00:00+00:00",
        "retries": 99, "group": "g", "stamps": {"x": [1]}, "chain": [again], "errbacks": [again],
    }  # fmt: skip
    for _ in range(3):
        world.redis.lpush(SCRIPTS, message(run_message(build, KEY), headers=headers))
    found = world.ended(build, "evil")
    went_on(world, 6)
    return f"{of_record(found)} after {'one attempt' if found['attempt'] == 1 else found['attempt']}"


@probe("one claim")
def a_hint_again_and_again(world: World) -> str:
    """Replayed while its build runs and after it has ended."""
    build = world.script("replayed", HONEST, who="evil")
    for _ in range(20):
        world.redis.lpush(SCRIPTS, message(run_message(build, KEY)))
    found = world.ended(build, "evil")
    for _ in range(20):
        world.redis.lpush(SCRIPTS, message(run_message(build, KEY)))
    went_on(world, 7)
    assert world.get(build, "evil") == found
    as_honest = all(found[name] == world.honest[name] for name in ("claim", "attempt"))
    return "one claim" if as_honest else f"claim {found['claim']}, attempt {found['attempt']}"


@probe("PENDING")
def a_hint_in_another_queue(world: World) -> str:
    """The node that reads it cannot build it."""
    build = world.submit("evil")
    world.redis.lpush(SCRIPTS, message(run_message(build, KEY)))
    went_on(world, 8)
    return of_record(world.get(build, "evil"))


@probe("SUCCEEDED")
def bindings_that_lead_elsewhere(world: World) -> str:
    """kombu's table of bindings: entries that it cannot read, and ones that send a queue's hints to another list."""
    separator = "\x06\x16"
    for exchange in (SCRIPTS, "compile.any", "celery"):
        entries = ("garbage", separator, separator.join((SCRIPTS, "", "elsewhere")), b"\xff")
        world.redis.sadd(f"_kombu.binding.{exchange}", *entries)
    found = world.ended(world.script("bound", HONEST, who="evil"), "evil")
    assert world.redis.exists("elsewhere") == 0 and world.ask("GET", "/readyz").status_code == 200
    return of_record(found)


@probe("nothing is ended")
def commands_of_remote_control(world: World) -> str:
    """Shutdown, revoke, rate limits and pools, in every channel and list where Celery could read them."""
    commands = ("shutdown", "revoke", "pool_shrink", "pool_restart", "cancel_consumer", "time_limit", "rate_limit")
    for command in commands:
        asked = {"method": command, "arguments": {"queue": SCRIPTS, "n": 2, "task_id": "one"}, "destination": None}
        text = message({}, body=base64.b64encode(json.dumps(asked).encode()).decode(), headers={})
        for channel in ("/0.celery.pidbox", "/0.celeryev", "/0.celeryev/worker.heartbeat", "celery.pidbox"):
            world.redis.publish(channel, text)
    went_on(world, 9)
    return "nothing is ended"


@probe("SUCCEEDED")
def cancels_that_nobody_asked_for(world: World) -> str:
    """The channel only makes an owner ask the API."""
    build = world.script("uncancelled", HONEST + "import time\nfor _ in range(30): time.sleep(0.01)\n", who="evil")
    while of_record(world.get(build, "evil")) in ("PENDING", "RUNNING"):
        world.redis.publish("ignite:cancel", build)
    return of_record(world.get(build, "evil"))


@probe("goes on")
def rubbish_on_the_channels(world: World) -> str:
    texts = (
        b"",
        b"\xff" * 64,
        b" " * (5 * 1024 * 1024),
        b"\x80\x04.",
        b"x " * 100_000,
        json.dumps({"a": [1]}).encode(),
    )
    for channel in ("ignite:cancel", "ignite:changed"):
        for text in texts:
            world.redis.publish(channel, text)
    went_on(world, 10)
    return "goes on" if world.ask("GET", "/readyz").status_code == 200 else "not ready"


@probe("SUCCEEDED")
def hints_that_are_deleted(world: World) -> str:
    """The store offers again what Redis lost."""
    build = world.script("deleted", HONEST, who="evil")
    world.redis.delete(SCRIPTS)
    return of_record(world.ended(build, "evil"))
