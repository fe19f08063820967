"""The kept log lines: every one once, in order, within the limit."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs
from builder.store.schema import held_lines
from tests.store_contract.world import World, line


def test_finish_waits_for_every_line_and_its_terminal_status_stands(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    assert world.fail_work(build, claim, count=1).outcome == "incomplete"
    logs.append(world.store, build, claim, 0, [line("x")])
    assert world.fail_work(build, claim, count=1).outcome == "done"
    repeated = world.fail_work(build, claim, count=1)
    assert repeated.row is not None and repeated.row["status"] == "FAILED"
    assert len(world.reports(build)) == len({report["sequence"] for report in world.reports(build)})


def test_a_batch_sent_twice_is_kept_once_and_a_gap_is_sent_again(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    lines = [line(str(n)) for n in range(5)]
    for first, part in ((0, lines[:3]), (0, lines[:3]), (2, lines[2:]), (9, lines[:1])):
        stale, kept, _ = logs.append(world.store, build, claim, first, part)
        assert not stale and kept in (3, 5)
    assert [one["l"] for one in logs.read(world.store, build, 0) if one["o"] == "STDOUT"] == list("01234")


@pytest.mark.parametrize("reason", ["", "CompileFailed", "RegistryUnavailable", "cancel"])
def test_the_last_lines_are_kept_with_the_outcome_and_once(world: World, reason: str) -> None:
    """Some of them may be kept already: the answer to their batch was lost."""
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line(str(n)) for n in range(3)])
    if reason == "cancel":
        builds.cancel(world.store, "acme", build)
    for _ in range(3):
        done = finish_with(world, build, claim, [line(str(n)) for n in range(2, 5)], first=2, count=5, reason=reason)
        assert done.outcome == "done"
    every = logs.read(world.store, build, 0)
    assert [one["l"] for one in every if one["o"] == "STDOUT"] == list("01234")
    row = world.row(build)
    assert [one["s"] for one in every] == list(range(1, row["log_lines"] + 1))
    assert "".join(one["o"][:2] for one in every).rstrip("SY") == "ST" * 5, "the control side's words come last"
    assert (row["claim_lines"], row["status"] in ("RUNNING", "PENDING")) == (5, reason in ("", "RegistryUnavailable"))


@pytest.mark.parametrize(("first", "count"), [(3, 4), (4, 5), (2, 5), (0, 9)])
def test_of_a_finish_that_is_short_of_lines_none_is_kept(world: World, first: int, count: int) -> None:
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line("0"), line("1")])
    before = world.row(build)
    done = finish_with(world, build, claim, [line("x")], first=first, count=count)
    assert (done.outcome, done.row) == ("incomplete", before)
    assert world.row(build) == before and len(logs.read(world.store, build, 0)) == 2


def test_a_stale_owner_keeps_no_last_line(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    builds.hand_back(world.store, build, claim, "drain")
    before = world.row(build), logs.read(world.store, build, 0)
    assert finish_with(world, build, claim, [line("x")]).outcome == "stale"
    world.claim(build, "another")
    assert finish_with(world, build, claim, [line("x")]).outcome == "stale"
    assert finish_with(world, build, claim + 2, [line("x")], node="other").outcome == "stale"
    assert logs.read(world.store, build, 0) == before[1] and world.row(build)["claim_lines"] == 0


@pytest.mark.parametrize("reason", ["", "CompileFailed", "RegistryUnavailable"])
def test_last_lines_beyond_the_limit_end_the_log_as_a_batch_does(world: World, reason: str) -> None:
    lines = [{**line(f"{n:03}" + "x" * 97), "o": "STDERR"} for n in range(400)]
    kept = []
    for at_once in (False, True):
        build = world.submit(log_limit=10_000)
        claim = world.claim(build)
        logs.append(world.store, build, claim, 0, lines[:200])
        if not at_once:
            logs.append(world.store, build, claim, 200, lines[200:])
        last = lines[200:] if at_once else []
        assert finish_with(world, build, claim, last, first=200, count=400, reason=reason).outcome == "done"
        row, every = world.row(build), logs.read(world.store, build, 0)
        assert [one["s"] for one in every] == list(range(1, row["log_lines"] + 1))
        counters = {name: row[name] for name in ("log_lines", "log_bytes", "held_bytes", "log_cut", "claim_lines")}
        kept.append(([one["l"] for one in every], counters))
    assert kept[0] == kept[1] and kept[0][1]["log_cut"]


PLAN = ("key", "code", "go")


@pytest.mark.parametrize("ends", ["", "cancel", "reuse", "attach"])
def test_lines_of_a_plan_are_kept_with_its_verdict_and_once(world: World, ends: str) -> None:
    """Some of them may be kept already. A verdict that ends the claim has them as well, before the words about it."""
    if ends in ("reuse", "attach"):
        other = world.submit()
        claim = world.claim(other)
        builds.planned(world.store, other, claim, *PLAN)
        if ends == "reuse":
            world.succeed_work(other, claim)
            world.finalize(other)
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line(str(n)) for n in range(3)])
    if ends == "cancel":
        builds.cancel(world.store, "acme", build)
    lines = [line(str(n)) for n in range(2, 5)]
    verdicts = [
        builds.planned(world.store, build, claim, *PLAN, log_count=5, first_index=2, lines=lines).verdict
        for _ in range(3)
    ]
    first = {"": "GO_ON", "cancel": "STALE", "reuse": "REUSE", "attach": "ATTACHED"}[ends]
    assert verdicts == [first, *["GO_ON" if first == "GO_ON" else "STALE"] * 2]
    every, row = logs.read(world.store, build, 0), world.row(build)
    assert [one["l"] for one in every if one["o"] == "STDOUT"] == list("01234")
    assert [one["s"] for one in every] == list(range(1, row["log_lines"] + 1))
    assert "".join(one["o"][:2] for one in every).rstrip("SY") == "ST" * 5, "the control side's words come last"
    assert row["claim_lines"] == 5


@pytest.mark.parametrize(("first", "count"), [(3, 4), (4, 5), (2, 5), (0, 9), (0, 3)])
def test_a_plan_that_is_short_of_lines_has_no_verdict(world: World, first: int, count: int) -> None:
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line("0"), line("1")])
    before = world.row(build)
    lines = [line("x")] if count != 3 else []
    found = builds.planned(world.store, build, claim, *PLAN, log_count=count, first_index=first, lines=lines)
    assert (found.verdict, found.kept) == ("INCOMPLETE", 2)
    assert world.row(build) == before and len(logs.read(world.store, build, 0)) == 2


def test_a_stale_plan_keeps_no_line(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    for late, node in ((claim + 1, ""), (claim, "other"), (claim - 1, "")):
        found = builds.planned(world.store, build, late, *PLAN, (), node, log_count=1, lines=[line("x")])
        assert found.verdict == "STALE"
    assert logs.read(world.store, build, 0) == [] and world.row(build)["claim_lines"] == 0


def test_lines_of_a_plan_beyond_the_limit_are_held_as_those_of_a_batch(world: World) -> None:
    lines = [line(f"{n:03}" + "x" * 97) for n in range(400)]
    kept = []
    for at_once in (False, True):
        build = world.submit(log_limit=10_000)
        claim = world.claim(build)
        if not at_once:
            logs.append(world.store, build, claim, 0, lines)
        last = lines if at_once else []
        found = builds.planned(world.store, build, claim, build, "code", "go", log_count=400, lines=last)
        assert found.verdict == "GO_ON"
        row = world.row(build)
        counters = {name: row[name] for name in ("log_lines", "log_bytes", "held_bytes", "log_cut", "claim_lines")}
        kept.append(([one["l"] for one in logs.read(world.store, build, 0)], counters))
    assert kept[0] == kept[1] and kept[0][1]["log_cut"]


def finish_with(
    world: World,
    build: str,
    claim: int,
    lines: list[logs.Line],
    *,
    first: int = 0,
    count: int = 0,
    reason: str = "",
    node: str = "",
) -> builds.Finished:
    """A finish with the last lines of its claim."""
    request = pb.FinishRequest(build_id=build, claim=claim, first_index=first, log_count=count)
    if reason and reason != "cancel":
        request.failure.reason, request.failure.message = reason, "m"
    else:
        request.success.digest = "sha256:" + "a" * 64
    return builds.finish(world.store, request, 1000, node, lines=lines)


def test_a_text_is_kept_as_it_is(world: World) -> None:
    build = world.submit()
    texts = ["\ta\tb", "\u00fc\u4e2d\U0001f600", "", "'; drop table builds; --", "%s {} \\"]
    logs.append(world.store, build, world.claim(build), 0, [line(text) for text in texts])
    assert [one["l"] for one in logs.read(world.store, build, 0)] == texts


def test_no_control_of_a_terminal_enters_whoever_sends_it(world: World) -> None:
    """Neither in a line of a node, also one that is held back at the limit, nor in one of the control side."""
    build = world.submit(log_limit=4000)
    claim = world.claim(build)
    hostile = "\x00a\x1b[31mb\x9b1mc\x1b]52;c;eA==\x07d\u202ee"
    assert not logs.append(world.store, build, claim, 0, [line(hostile) for _ in range(200)])[0]
    world.fail_work(build, claim, count=200, reason="RegistryUnavailable", message=hostile)
    builds.cancel(world.store, "acme", build)
    kept = [one["l"] for one in logs.read(world.store, build, 0)]
    assert sum(text == r"\x00abcd\u202ee" for text in kept) > 20
    assert any(text != r"\x00abcd\u202ee" and r"\x00abcd\u202ee" in text for text in kept), "the message of a failure"
    assert all(text.isprintable() for text in kept)


def test_a_read_begins_after_the_sequence_it_names(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    for first in range(0, 30, 3):
        logs.append(world.store, build, claim, first, [line(str(first + n)) for n in range(3)])
    for after in range(32):
        assert [one["s"] for one in logs.read(world.store, build, after)] == list(range(after + 1, 31))
    assert [one["s"] for one in logs.read(world.store, build, 4, limit=1)] == [5, 6]


def fill(world: World, build: str, attempts: int, batches: int, text: str = "x" * 90) -> None:
    """Attempts that each send `batches` of ten numbered lines and are handed back; the last one fails."""
    for attempt in range(attempts):
        claim = world.claim(build, str(attempt))
        for batch in range(batches):
            lines = [line(f"{attempt}.{batch * 10 + n} {text}") for n in range(10)]
            stale, kept, _ = logs.append(world.store, build, claim, batch * 10, lines)
            assert not stale and kept == batch * 10 + 10
        if attempt < attempts - 1:
            builds.hand_back(world.store, build, claim, "drain")
        else:
            assert world.fail_work(build, claim, count=batches * 10).outcome == "done"


def test_the_log_is_bounded_across_attempts(world: World) -> None:
    limit = 100_000
    build = world.submit(log_limit=limit)
    fill(world, build, attempts=4, batches=60)  # 240,000 bytes
    lines = logs.read(world.store, build, 0, 100_000)
    total = sum(len(one["l"]) for one in lines)
    assert 0.9 * limit < total <= limit + 200, "the marker and the last word come on top"
    assert [one["s"] for one in lines] == list(range(1, len(lines) + 1))
    assert world.row(build)["log_lines"] == len(lines)
    marker, end = [index for index, one in enumerate(lines) if one["o"] == "SYSTEM"]
    assert "reached its limit of 100000 bytes" in lines[marker]["l"]
    assert lines[end]["l"] == "FAILED CompileFailed" and end == len(lines) - 1
    head, tail = lines[:marker], lines[marker + 1 : -1]
    assert [one["l"].split()[0] for one in head[:600]] == [f"0.{n}" for n in range(600)]
    assert 0.85 * limit < sum(len(one["l"]) for one in head) <= 0.9 * limit
    assert [one["l"].split()[0] for one in tail] == [f"3.{n}" for n in range(600 - len(tail), 600)]
    assert len(tail) > 40


def test_empty_lines_are_bounded_too(world: World) -> None:
    build = world.submit(log_limit=64_000)
    fill_with = [line("")] * 500
    claim = world.claim(build)
    for first in range(0, 5_000, 500):
        logs.append(world.store, build, claim, first, fill_with)
    assert world.fail_work(build, claim, count=5_000).outcome == "done"
    assert 900 <= world.row(build)["log_lines"] <= 1_010


def test_by_default_a_log_takes_up_ten_megabytes(world: World) -> None:
    build = world.submit()
    for attempt in range(2):
        claim = world.claim(build, str(attempt))
        for first in range(0, 500, 50):
            logs.append(world.store, build, claim, first, [line("x" * 16_000)] * 50)
        builds.hand_back(world.store, build, claim, "drain")
    builds.cancel(world.store, "acme", build)
    total = sum(len(one["l"]) for one in logs.read(world.store, build, 0, 100_000))
    assert 9.5 * 1024 * 1024 < total <= 10 * 1024 * 1024 + 200


def test_lines_held_back_but_not_left_out_need_no_marker(world: World) -> None:
    build = world.submit(log_limit=100_000)
    fill(world, build, attempts=1, batches=10, text="x" * 950)  # 95,490 bytes: past nine tenths, within the limit
    lines = logs.read(world.store, build, 0)
    assert [one["l"].split()[0] for one in lines[:-1]] == [f"0.{n}" for n in range(100)]
    assert [one["l"] for one in lines if one["o"] == "SYSTEM"] == ["FAILED CompileFailed"]


def test_the_last_line_stays_even_if_it_alone_is_over_the_limit(world: World) -> None:
    build = world.submit(log_limit=1000)
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line("y" * 300) for _ in range(9)] + [line("z" * 5000)])
    logs.append(world.store, build, claim, 10, [line("w" * 5000)])
    world.fail_work(build, claim, count=11)
    kept = [one["l"][0] for one in logs.read(world.store, build, 0) if one["o"] == "STDOUT"]
    assert kept == ["y", "y", "y", "w"]


def test_the_control_sides_lines_keep_their_place_beyond_the_limit(world: World) -> None:
    build = world.submit(log_limit=20_000)
    for attempt in range(2):
        claim = world.claim(build, str(attempt))
        logs.append(world.store, build, claim, 0, [line(f"{attempt} {'x' * 1000}") for _ in range(30)])
        world.fail_work(build, claim, "RegistryUnavailable", count=30)
        world.at[0] += 60_000
    claim = world.claim(build, "last")
    logs.append(world.store, build, claim, 0, [line("the last attempt")])
    world.fail_work(build, claim, "CompileFailed", count=1)
    lines = logs.read(world.store, build, 0)
    texts = [one["l"] for one in lines][-3:]
    assert "trying again" in texts[0] and texts[1:] == ["the last attempt", "FAILED CompileFailed"]
    assert len([one for one in lines if "reached its limit" in one["l"]]) == 1


def test_nothing_is_held_once_a_build_has_ended(world: World) -> None:
    for end in ("fail", "cancel"):
        build = world.submit(log_limit=5_000)
        claim = world.claim(build)
        logs.append(world.store, build, claim, 0, [line("x" * 100)] * 100)
        if end == "cancel":
            builds.hand_back(world.store, build, claim, "drain")
            builds.cancel(world.store, "acme", build)
        else:
            world.fail_work(build, claim, count=100)
        with world.store.transaction() as tx:
            held = tx.execute(select(func.count()).select_from(held_lines).where(held_lines.c.build_id == build))
            assert held.scalar_one() == 0
