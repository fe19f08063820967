"""Nothing grows for ever, and nothing goes that something still needs."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import func, insert, select, update

from builder.store import builds, logs, membership, nodes, outbox, retention
from builder.store.schema import builds as builds_table
from builder.store.schema import cache, contexts, held_lines, log_chunks, reports, revoked, tags
from tests.store_contract.world import World, line, race

DAY = 86_400_000
SHA = "ab" * 32


def rows_in(world: World, table: Any) -> int:
    with world.store.transaction() as tx:
        return int(tx.execute(select(func.count()).select_from(table)).scalar_one())


def built(world: World, key: str = "", tag: str = "latest", **more: Any) -> str:
    """A build that has SUCCEEDED, with its tag, and a cache entry where it has a key."""
    build = world.submit(**more)
    claim = world.claim(build)
    if key:
        assert builds.planned(world.store, build, claim, key, "code", "go").verdict == "GO_ON"
    logs.append(world.store, build, claim, 0, [line("built")])
    world.succeed_work(build, claim)
    row = builds.adopt_finalize(world.store, 30_000)
    assert row is not None and builds.publish(world.store, build, row["claim"], [tag], "sha256:" + "a" * 64)
    assert builds.succeed(world.store, build, row["claim"], ())
    return build


def due_attempts(world: World, days: float = 0) -> list[retention.Attempts]:
    """What a run finds to delete, in pages of two."""
    every = []
    for state in (retention.NOT_SWEPT, retention.BUT_THE_LAST):
        at: retention.Cursor | None = retention.START
        while at is not None:
            found, at = retention.ended_attempts(world.store, int(days * DAY), state, at, limit=2)
            every += found
    return every


def swept(world: World) -> None:
    """Every tag that may go has gone."""
    for found in due_attempts(world):
        retention.attempts_swept(world.store, found)


def failed(world: World) -> str:
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line("no")])
    world.fail_work(build, claim, count=1)
    return build


def delete(world: World, status: str, days: float, *, tagged_stay: bool = True, limit: int = 50) -> int:
    """All batches of a run."""
    at: retention.Cursor | None = retention.START
    count = 0
    while at is not None:
        done = retention.delete_builds(
            world.store, status, int(days * DAY), tagged_stay=tagged_stay, at=at, limit=limit
        )
        count, at = count + done.deleted, done.at
    return count


def register(world: World, name: str, *, slots: int = 1, token: str = "") -> bool:
    """Whether the node shall drain."""
    return nodes.register(world.store, name, ["compile.go"], {"go-1.26": ""}, slots, 60_000, token).drain


def is_there(world: World, build: str) -> bool:
    return builds.by_id(world.store, build) is not None


def test_an_ended_build_goes_with_its_log_and_reports_when_it_is_old_enough(world: World) -> None:
    old, waits = failed(world), world.submit()
    world.at[0] += 7 * DAY - 1
    swept(world)
    assert delete(world, "FAILED", 7) == 0
    world.at[0] += 1
    young = failed(world)
    swept(world)
    assert (delete(world, "SUCCEEDED", 7), delete(world, "CANCELLED", 7), delete(world, "FAILED", 7)) == (0, 0, 1)
    assert [is_there(world, build) for build in (old, waits, young)] == [False, True, True]
    assert not world.reports(old) and world.reports(young)
    with world.store.transaction() as tx:
        assert not tx.execute(select(log_chunks.c.build_id).where(log_chunks.c.build_id == old)).all()


def test_held_lines_go_too(world: World) -> None:
    old = failed(world)
    with world.store.transaction() as tx:
        tx.execute(insert(held_lines).values(build_id=old, number=0, bytes=1, lines="[]"))
    world.submit()
    world.at[0] += DAY
    swept(world)
    assert delete(world, "FAILED", 1) == 1
    assert rows_in(world, held_lines) == 0


def test_what_a_current_tag_names_stays_until_the_tag_moves_on(world: World) -> None:
    first = built(world)
    world.at[0] += 100 * DAY
    swept(world)
    assert delete(world, "SUCCEEDED", 90) == 0
    second = built(world)
    assert delete(world, "SUCCEEDED", 90) == 1
    assert not is_there(world, first) and is_there(world, second)


def test_without_that_setting_the_tag_keeps_its_row_and_numbers_are_never_given_again(world: World) -> None:
    tagged = [built(world), built(world, tag="v2")]
    world.at[0] += 100 * DAY
    swept(world)
    newest = world.row(tagged[1])["number"]
    assert delete(world, "SUCCEEDED", 90, tagged_stay=False) == 1
    assert not is_there(world, tagged[0])
    assert rows_in(world, tags) == 2
    # SQLite gives the largest number + 1: a build that came out below would never get its tag.
    again = built(world)
    assert world.row(again)["number"] > newest


def test_what_a_cache_entry_names_stays_until_it_has_answered_nothing_for_long(world: World) -> None:
    first = built(world, key="key")
    built(world)  # takes the tag
    world.at[0] += 100 * DAY
    swept(world)
    assert delete(world, "SUCCEEDED", 90) == 0
    hit = world.submit()
    assert builds.planned(world.store, hit, world.claim(hit), "key", "code", "go").verdict == "REUSE"
    world.finalize(hit)
    world.at[0] += 30 * DAY - 1
    assert retention.delete_cache(world.store, 30 * DAY).deleted == 0
    world.at[0] += 1
    assert retention.delete_cache(world.store, 30 * DAY).deleted == 1
    assert delete(world, "SUCCEEDED", 90) == 0, "its last tag was kept for the entry and has to go first"
    swept(world)
    assert delete(world, "SUCCEEDED", 90) == 1 and not is_there(world, first)


def test_a_run_in_small_batches_passes_over_what_stays_and_reaches_the_end(world: World) -> None:
    kept = [built(world, tag=f"v{n}") for n in range(3)]
    old = [built(world) for _ in range(4)]
    world.at[0] += 100 * DAY
    swept(world)
    assert delete(world, "SUCCEEDED", 90, limit=2) == 3
    assert [is_there(world, build) for build in (*kept, *old)] == [True] * 3 + [False] * 3 + [True]


def test_a_batch_is_bounded_by_the_logs_it_deletes(world: World) -> None:
    old = [failed(world) for _ in range(3)]
    world.submit()
    with world.store.transaction() as tx:
        tx.execute(update(builds_table).values(log_bytes=retention.BATCH_BYTES))
    world.at[0] += DAY
    swept(world)
    done = retention.delete_builds(world.store, "FAILED", DAY, tagged_stay=True)
    assert done.deleted == 1 and done.at is not None
    assert delete(world, "FAILED", 1) == 2
    assert not any(is_there(world, build) for build in old)


def test_attempts_are_swept_once_and_the_cached_one_keeps_its_last_tag(world: World) -> None:
    plain, cached, running = built(world), built(world, key="key"), world.submit()
    world.claim(running)
    assert due_attempts(world, 1) == []
    world.at[0] += DAY
    found = {one.build_id: one for one in due_attempts(world, 1)}
    assert found[plain].tags == (f"build-{plain}-1",) and not found[plain].cached
    assert found[cached].tags == () and found[cached].cached
    assert set(found) == {plain, cached}
    swept(world)
    assert due_attempts(world, 1) == []
    world.at[0] += 30 * DAY
    assert retention.delete_cache(world.store, 30 * DAY).deleted == 1
    assert [one.tags for one in due_attempts(world, 1)] == [(f"build-{cached}-1",)]


def test_earlier_attempts_of_a_cached_build_have_tags_that_go(world: World) -> None:
    build = world.submit()
    for _ in range(2):
        claim = world.claim(build)
        builds.hand_back(world.store, build, claim, "drain")
    claim = world.claim(build)
    builds.planned(world.store, build, claim, "key", "code", "go")
    world.succeed_work(build, claim)
    world.finalize(build)
    (found,) = due_attempts(world)
    assert found.tags == (f"build-{build}-1", f"build-{build}-2")


def test_a_cache_entry_that_is_written_anew_frees_the_tag_of_the_build_it_named(world: World) -> None:
    first = built(world, key="key")
    swept(world)
    second = built(world, key="key", no_cache=True)
    found = {one.build_id: one.tags for one in due_attempts(world)}
    assert found == {first: (f"build-{first}-1",), second: ()}


def test_an_entry_that_goes_while_its_tags_are_looked_at_leaves_the_build_due(world: World) -> None:
    build = built(world, key="key")
    (found,) = due_attempts(world)
    world.at[0] += DAY
    retention.delete_cache(world.store, DAY)
    retention.attempts_swept(world.store, found)
    assert [one.tags for one in due_attempts(world)] == [(f"build-{build}-1",)]


def test_sweeping_and_expiring_at_once_lose_no_tag(world: World) -> None:
    names = {built(world, key=f"key{n}") for n in range(8)}
    world.at[0] += DAY
    found = due_attempts(world)
    sweeps = [lambda one=one: retention.attempts_swept(world.store, one) for one in found]
    race(*sweeps, lambda: retention.delete_cache(world.store, DAY))
    while retention.delete_cache(world.store, DAY).deleted:
        pass
    assert {one.tags for one in due_attempts(world)} == {(f"build-{name}-1",) for name in names}


def test_a_submit_that_repeats_its_key_while_its_build_goes_answers_it_or_builds_anew(world: World) -> None:
    old = failed(world)
    with world.store.transaction() as tx:
        tx.execute(update(builds_table).where(builds_table.c.build_id == old).values(idempotency_key="k"))
    world.submit()
    world.at[0] += DAY
    swept(world)
    again: list[str] = []

    def repeat() -> None:
        again.append(world.submit(idempotency_key="k"))

    race(repeat, lambda: delete(world, "FAILED", 1))
    with world.store.transaction() as tx:
        query = select(builds_table.c.build_id).where(builds_table.c.idempotency_key == "k")
        left = tx.execute(query).scalars().all()
    assert left in ([old], again, [])  # [] when it was answered with the old one, which went afterwards


def test_delivered_reports_go_and_undelivered_ones_stay_with_their_build(world: World) -> None:
    build = failed(world)
    first, *others = outbox.due(world.store, 10)
    outbox.delivered(world.store, [first["id"]])
    world.at[0] += 7 * DAY - 1
    assert retention.delete_reports(world.store, 7 * DAY).deleted == 0
    world.at[0] += 1
    assert retention.delete_reports(world.store, 7 * DAY, limit=1) == retention.Batch(deleted=1, at=retention.START)
    assert retention.delete_reports(world.store, 7 * DAY).deleted == 0
    assert [report["id"] for report in world.reports(build)] == [report["id"] for report in others]
    assert rows_in(world, reports) == len(others)


def test_an_upload_goes_when_no_build_of_its_organization_names_its_source(world: World) -> None:
    nodes.add_context(world.store, "used", "acme", SHA, 1)
    nodes.add_context(world.store, "of-another", "other", SHA, 1)
    nodes.add_context(world.store, "unused", "acme", "cd" * 32, 1)
    world.submit(source_sha256=SHA)
    world.at[0] += DAY
    nodes.add_context(world.store, "young", "acme", "ef" * 32, 1)
    first = retention.delete_uploads(world.store, DAY, limit=1)
    assert first.at is not None
    assert first.deleted + retention.delete_uploads(world.store, DAY, first.at).deleted == 2
    with world.store.transaction() as tx:
        assert set(tx.execute(select(contexts.c.context_id)).scalars()) == {"used", "young"}


def test_a_source_is_named_by_a_build_or_an_upload(world: World) -> None:
    by_build, by_upload, by_none = SHA, "cd" * 32, "ef" * 32
    world.submit(source_sha256=by_build)
    nodes.add_context(world.store, "c", "acme", by_upload, 1)
    assert retention.unnamed_sources(world.store, [by_build, by_upload, by_none]) == {by_none}


def test_every_artifact_of_a_build_or_an_entry_is_named(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    digest = "sha256:" + "a" * 64
    for n in range(5):
        built(world, key=f"key{n}", organization=f"o{n}")
    failed(world)
    found = list(retention.named_artifacts(world.store))
    assert sorted(found) == sorted([(f"o{n}/n", digest) for n in range(5)] * 2)


def test_a_node_that_was_not_seen_for_long_goes_and_may_come_back(world: World) -> None:
    register(world, "old")
    world.at[0] += 7 * DAY
    register(world, "new")
    assert set(retention.delete_nodes(world.store, 7 * DAY)) == {"old", "node"}
    assert [node.node_id for node in nodes.all_nodes(world.store)] == ["new"]
    assert not membership.is_revoked(world.store, "old", "t")


def test_an_answer_and_an_expiry_at_once(world: World) -> None:
    built(world, key="key")
    world.at[0] += 30 * DAY
    hit = world.submit()
    claim = world.claim(hit)
    plan = lambda: builds.planned(world.store, hit, claim, "key", "code", "go").verdict  # noqa: E731
    verdict, _ = race(plan, lambda: retention.delete_cache(world.store, 30 * DAY))
    assert verdict in ("REUSE", "GO_ON")
    if verdict == "REUSE" and rows_in(world, cache):
        with world.store.transaction() as tx:
            assert tx.execute(select(cache.c.used_at)).scalar() == world.at[0]


# Nodes that an operator drains and forgets


def known(world: World, node: str = "n") -> Any:
    return next((one for one in nodes.all_nodes(world.store) if one.node_id == node), None)


def test_drain_stays_when_the_node_registers_again_and_is_lifted_by_undo(world: World) -> None:
    register(world, "n")
    assert membership.set_drain(world.store, "n", True)
    assert register(world, "n", slots=2)
    assert known(world).drain
    assert membership.set_drain(world.store, "n", False)
    assert not register(world, "n", slots=2)
    assert not membership.set_drain(world.store, "nobody", True)


def test_only_a_node_that_is_empty_and_drained_or_unseen_is_forgotten(world: World) -> None:
    def forget() -> str:
        return membership.forget(world.store, "node", ["t1"], 30_000)

    assert membership.forget(world.store, "nobody", ["t1"], 30_000) == membership.UNKNOWN
    assert forget() == membership.AT_WORK
    build = world.submit()
    world.claim(build)
    membership.set_drain(world.store, "node", True)
    assert forget() == membership.BUSY
    builds.hand_back(world.store, build, world.row(build)["claim"], "drain")
    assert forget() == membership.FORGOTTEN
    assert known(world, "node") is None and rows_in(world, revoked) == 1
    register(world, "node")
    world.at[0] += 30_000
    assert forget() == membership.FORGOTTEN, "unseen for a lease"


def test_a_forgotten_node_does_not_register_with_a_token_it_had_and_does_with_a_new_one(world: World) -> None:
    register(world, "n", token="t1")
    membership.set_drain(world.store, "n", True)
    assert membership.forget(world.store, "n", ["t1", "t2"], 30_000) == membership.FORGOTTEN
    for token in ("t1", "t2"):
        assert membership.is_revoked(world.store, "n", token)
        try:
            register(world, "n", token=token)
        except membership.Forgotten:
            pass
        else:
            raise AssertionError("a revoked token registered its node")
    assert known(world) is None
    register(world, "other", token="t1")
    assert not register(world, "n", token="t3")
    assert known(world) is not None


def test_a_registration_beside_a_forget_leaves_no_node_behind(world: World) -> None:
    for n in range(10):
        name = f"n{n}"
        register(world, name, token="t")
        membership.set_drain(world.store, name, True)
        stop = threading.Event()

        def come_back(name: str = name, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                try:
                    register(world, name, token="t")
                except membership.Forgotten:
                    return

        def forget(name: str = name, stop: threading.Event = stop) -> None:
            assert membership.forget(world.store, name, ["t"], 30_000) == membership.FORGOTTEN

        race(come_back, forget)
        assert known(world, name) is None


def test_revocations_stay_while_the_settings_list_the_token(world: World) -> None:
    register(world, "n")
    membership.set_drain(world.store, "n", True)
    membership.forget(world.store, "n", ["listed", "gone"], 30_000)
    assert retention.delete_revoked(world.store, DAY, ["listed"]) == 0
    world.at[0] += DAY
    assert retention.delete_revoked(world.store, DAY, ["listed"]) == 1
    assert membership.is_revoked(world.store, "n", "listed") and not membership.is_revoked(world.store, "n", "gone")
