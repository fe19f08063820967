"""The kept log lines: every one once, in order, within the limit."""

from __future__ import annotations

from sqlalchemy import func, select

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
