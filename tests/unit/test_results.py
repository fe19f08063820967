"""The stored result of a step: by all that decides it, a copy for each build, and nothing that leads elsewhere."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder import sandbox
from builder.attempt import package as packaging
from builder.attempt import results, running
from builder.attempt.attempt import Attempt
from builder.attempt.planned import Bound
from builder.attempt.steps import StepResult
from builder.errors import BuildError, PlatformError
from builder.images.layer import Layer
from builder.node import budget
from builder.plan import Access, Cache, Fetched, LayerSource, Network, Plan, Sees, Step, WantedFile, WriteFile
from builder.source import below
from builder.toolchains.provider import Provided
from tests.attempt_fixtures import attempt_at
from tests.unit.test_downloads import plans

WANTED = WantedFile(cache="crates", source="a", path="0/a", digest="sha256:0")


def bound_to(plan: Plan, digest: str = "sha256:1") -> Bound:
    """A plan that was bound to a toolchain of this digest; nothing else of it counts here."""
    return cast(Bound, SimpleNamespace(plan=plan, toolchain=SimpleNamespace(digests={"rustc": digest})))


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    made = attempt_at(tmp_path)
    (made.work / "out").mkdir(parents=True)
    (made.source).mkdir(exist_ok=True)
    (made.source / "Cargo.lock").write_text("")
    monkeypatch.setattr(results, "named", lambda *_: Fetched(wanted=(WANTED,)))
    return made


def rust() -> tuple[Plan, Step]:
    plan = plans()["rust-deps"]
    (step,) = [step for step in plan.steps if step.result and not step.shown]
    return plan, step


def made(attempt: Attempt) -> Path:
    """What a step leaves: files, a folder, links, twins."""
    target = attempt.work / "out/target"
    (target / "deps").mkdir(parents=True)
    (target / "deps/a.rlib").write_bytes(b"a")
    os.utime(target / "deps/a.rlib", ns=(5_000_000_123, 5_000_000_123))
    os.link(target / "deps/a.rlib", target / "a.rlib")
    (target / "run").write_bytes(b"b")
    (target / "run").chmod(0o6755)
    (target / "outside").symlink_to("/etc")
    os.mkfifo(target / "fifo")
    return target


def test_a_result_is_laid_as_it_was_and_what_happens_to_the_copy_stays_there(attempt: Attempt) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    assert not results.lay(attempt, step, place)
    target = made(attempt)
    results.store(attempt, step, place)
    for _ in range(2):
        sandbox.remove_tree(target)
        assert results.lay(attempt, step, place)
        copy = target / "deps/a.rlib"
        assert copy.read_bytes() == b"a" and copy.stat().st_mtime_ns == 5_000_000_123
        assert copy.samefile(target / "a.rlib")
        assert (target / "run").stat().st_mode & 0o7777 == 0o755
        assert os.readlink(target / "outside") == "/etc" and not (target / "fifo").exists()
        copy.write_bytes(b"spoilt")


def unpacked() -> tuple[Plan, Step]:
    plan = plans()["rust-deps"]
    (step,) = [step for step in plan.steps if step.shown]
    return plan, step


def vendored(attempt: Attempt) -> Path:
    """Crates as a step unpacks them."""
    (attempt.work / "fetch").mkdir()
    crate = attempt.work / "fetch/vendor/itoa-1.0.0"
    crate.mkdir(parents=True)
    (crate / "Cargo.toml").write_text("[package]\n")
    return crate


def test_a_result_that_no_step_writes_is_shown_and_not_copied(attempt: Attempt) -> None:
    plan, step = unpacked()
    place = results.place_of(attempt, bound_to(plan), step)
    crate = vendored(attempt)
    results.store(attempt, step, place)
    sandbox.remove_tree(crate.parent)
    assert results.lay(attempt, step, place)
    assert attempt.shown == {"/work/fetch/vendor": place} and not crate.exists()


def test_a_step_that_makes_a_result_gets_copies_of_what_is_shown(attempt: Attempt) -> None:
    """Code of crates may write beside its own files; it is not to depend on what the node has stored."""
    plan, step = unpacked()
    place = results.place_of(attempt, bound_to(plan), step)
    crate = vendored(attempt)
    results.store(attempt, step, place)
    sandbox.remove_tree(crate.parent)
    results.lay(attempt, step, place)
    results.copy_shown(attempt)
    assert not attempt.shown and (crate / "Cargo.toml").read_text() == "[package]\n"


def shown(attempt: Attempt) -> tuple[Plan, Path, Path]:
    """A stored result that later steps see: the plan, its place, the crate in the work folder."""
    plan, step = unpacked()
    place = results.place_of(attempt, bound_to(plan), step)
    crate = vendored(attempt)
    results.store(attempt, step, place)
    sandbox.remove_tree(crate.parent)
    assert place is not None and results.lay(attempt, step, place)
    return plan, place, crate


def test_what_is_shown_can_be_read_whatever_the_umask_of_the_worker(attempt: Attempt) -> None:
    before = os.umask(0o077)
    try:
        _, place, _ = shown(attempt)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (place, *place.rglob("*")) if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()} == {0o644}


def test_a_step_that_may_not_write_what_is_shown_runs_once_more_over_a_copy(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _, crate = shown(attempt)
    last = plan.steps[-1]
    assert last.sees is Sees.ALL and not last.result
    ended = [
        StepResult(exit_code=101, tail=("error: failed to write x.rs: Read-only file system (os error 30)",)),
        StepResult(exit_code=0, tail=("done",)),
    ]
    seen = list[bool]()

    def execute(*_: object) -> StepResult:
        seen.append(crate.exists())
        return ended[len(seen) - 1]

    monkeypatch.setattr(running, "execute_step", execute)
    monkeypatch.setattr(running, "recall", lambda *_: None)
    monkeypatch.setattr(running, "record", lambda *_: None)
    bound = cast(
        Bound, SimpleNamespace(plan=plan, toolchain=SimpleNamespace(digests={}, indexes=SimpleNamespace(others=())))
    )
    assert running.run_step(attempt, bound, last, ())[0] == ("done",)
    assert seen == [False, True] and not attempt.shown


@pytest.mark.parametrize(
    "result",
    [
        StepResult(exit_code=0, tail=("Read-only file system",)),
        StepResult(exit_code=101, tail=("error[E0308]: mismatched types",)),
        StepResult(exit_code=137, tail=("Read-only file system",), reason="Timeout"),
    ],
)
def test_another_end_of_a_step_is_its_own(attempt: Attempt, result: StepResult) -> None:
    shown(attempt)
    assert not results.blames_shown(attempt, result)


def test_caches_that_another_build_put_aside_are_no_fault_of_this_one(attempt: Attempt) -> None:
    _, place, _ = shown(attempt)
    sandbox.remove_tree(place)
    for use in (results.require_shown, results.copy_shown):
        with pytest.raises(PlatformError) as caught:
            use(attempt)
        assert caught.value.reason == "CacheUnavailable"


def test_without_a_sandbox_nothing_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = attempt_at(tmp_path, settings={"unsandboxed": True})
    made.source.mkdir(exist_ok=True)
    (made.source / "Cargo.lock").write_text("")
    monkeypatch.setattr(results, "named", lambda *_: Fetched(wanted=(WANTED,)))
    plan, step = unpacked()
    place = results.place_of(made, bound_to(plan), step)
    crate = vendored(made)
    results.store(made, step, place)
    sandbox.remove_tree(crate.parent)
    assert results.lay(made, step, place)
    assert not made.shown and (crate / "Cargo.toml").exists()


def test_a_result_is_written_once(attempt: Attempt) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    target = made(attempt)
    results.store(attempt, step, place)
    (target / "run").write_bytes(b"later")
    results.store(attempt, step, place)
    assert place is not None and (place / "run").read_bytes() == b"b"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_the_place_names_all_that_decides_the_result(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, step = rust()
    places = {results.place_of(attempt, bound_to(plan), step), results.place_of(attempt, bound_to(plan), step)}
    assert len(places) == 1
    places.add(results.place_of(attempt, bound_to(plan, "sha256:2"), step))
    for change in ({"argv": (*step.argv, "-x")}, {"env": ()}):
        places.add(results.place_of(attempt, bound_to(plan), dataclasses.replace(step, **change)))
    stubs = (*plan.stubs[:-1], dataclasses.replace(plan.stubs[-1], content="other"))
    places.add(results.place_of(attempt, bound_to(dataclasses.replace(plan, stubs=stubs)), step))
    other = dataclasses.replace(WANTED, digest="sha256:9")
    monkeypatch.setattr(results, "named", lambda *_: Fetched(wanted=(other,)))
    places.add(results.place_of(attempt, bound_to(plan), step))
    listed = WriteFile(path="crates.txt", content="other")  # what a later step reads of the lock
    monkeypatch.setattr(results, "named", lambda *_: Fetched(wanted=(other,), files=(listed,)))
    places.add(results.place_of(attempt, bound_to(plan), step))
    (attempt.source / "Cargo.lock").write_text("# other\n")
    places.add(results.place_of(attempt, bound_to(plan), step))
    assert len(places) == 8 and None not in places


def test_a_result_that_is_a_link_is_not_stored(attempt: Attempt, tmp_path: Path) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    (tmp_path / "elsewhere").mkdir()
    (attempt.work / "out/target").symlink_to(tmp_path / "elsewhere")
    results.store(attempt, step, place)
    assert place is not None and not place.exists()


def test_a_result_with_holes_does_not_fill_the_disk_of_the_node(attempt: Attempt) -> None:
    """A crate's code makes files of terabytes that take no block: the limit of the step sees none of them."""
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    with (made(attempt) / "hole").open("wb") as out:
        out.truncate(attempt.node.settings.disk_bytes)
    results.store(attempt, step, place)
    assert place is not None and not list(place.parent.iterdir())


def test_a_result_that_is_too_deep_for_a_path_is_not_stored_in_part(attempt: Attempt) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    folder = os.open(made(attempt), os.O_RDONLY)
    for _ in range(40):
        os.mkdir("n" * 200, dir_fd=folder)
        inner = os.open("n" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    results.store(attempt, step, place)
    assert place is not None and not list(place.parent.iterdir())
    sandbox.remove_tree(attempt.work / "out/target")


def test_a_result_that_cannot_be_read_is_not_stored(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is not root may not read a file of mode 0200, as whoever owns it."""
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    (made(attempt) / "run").chmod(0o200)
    opened = below.regular_file

    def refused(folder: int, name: str) -> int:
        if not os.stat(name, dir_fd=folder).st_mode & 0o400:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(folder, name)

    monkeypatch.setattr(below, "regular_file", refused)
    results.store(attempt, step, place)
    assert place is not None and not list(place.parent.iterdir())
    said = [line.text for line in attempt.log.spool.batch(1000)]
    assert f"warning: the result of {step.name} is not stored: it cannot be read: Permission denied" in said


def test_a_result_that_the_disk_takes_no_copy_of_is_not_stored_and_the_build_goes_on(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    made(attempt)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "sendfile", full)
    results.store(attempt, step, place)
    assert place is not None and not place.exists() and not any(place.parent.iterdir())
    said = [line.text for line in attempt.log.spool.batch(1000)]
    assert f"warning: the result of {step.name} is not stored: No space left on device" in said


def test_results_belong_to_the_nodes_disk_budget_and_stay_while_a_build_uses_them(attempt: Attempt) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    (made(attempt) / "large").write_bytes(os.urandom(1 << 20))
    results.store(attempt, step, place)
    settings = attempt.node.settings.replace(**{"node_disk_bytes": 1 << 19})
    assert budget.within_budget(settings) == () and place is not None and place.is_dir()
    attempt.leave()
    other = place.with_name("0" * 64)
    other.mkdir()
    (other / "large").write_bytes(os.urandom(1 << 20))
    assert budget.within_budget(settings.replace(**{"node_disk_bytes": 3 << 19})) == (
        f"caches/{attempt.grant.organization_name}/results/{place.name}",
    )
    assert not place.exists() and other.is_dir(), "each goes by itself"


def test_a_result_that_a_killed_build_left_half_is_removed_once_it_is_old(attempt: Attempt) -> None:
    plan, step = rust()
    place = results.place_of(attempt, bound_to(plan), step)
    assert place is not None
    old, young = place.with_name(f"{results.PARTIAL}old"), place.with_name(f"{results.PARTIAL}young")
    for path in (old, young):
        (path / "result").mkdir(parents=True)
    os.utime(old, (1, 1))
    budget.within_budget(attempt.node.settings.replace(**{"node_disk_bytes": 1 << 40}))
    assert not old.exists() and young.is_dir()


def test_a_step_without_a_result_has_no_place(attempt: Attempt) -> None:
    plan, _ = rust()
    step = Step(name="x", argv=("true",))
    assert results.place_of(attempt, bound_to(plan), step) is None
    results.store(attempt, step, None)
    assert not results.lay(attempt, step, None)


@pytest.mark.parametrize(
    "change",
    [
        {"sees": Sees.ALL, "cwd": "/work/src"},
        {"network": Network.INDEX},
        {"caches": (Cache(name="x", access=Access.WRITE),)},
        {"caches": (Cache(name="x", access=Access.DOWNLOAD),)},
        {"result": "/work/src/target"},
        {"result": "/work/fetch/target"},
        {"shown": True},
    ],
    ids=str,
)
def test_a_result_that_more_than_stubs_decides_cannot_be_planned(change: dict[str, Any]) -> None:
    _, step = rust()
    with pytest.raises(ValueError, match="has a result that more than its stubs decides"):
        dataclasses.replace(step, **change)


def test_a_step_without_a_result_shows_none() -> None:
    with pytest.raises(ValueError, match="shows a result that it has not"):
        Step(name="x", argv=("x",), shown=True)


# The layer of a stored result


SOURCE = LayerSource(source="/work/fetch/vendor", dest="/app/vendor", created_by="vendor")


def layer_of(attempt: Attempt, source: LayerSource = SOURCE, limit: int = 1 << 20) -> Layer:
    toolchain = cast(Provided, SimpleNamespace(files={}, root=SimpleNamespace(mounts=())))
    return packaging._layer(attempt, toolchain, 0, source, limit)


def test_the_layer_of_a_stored_result_is_made_once(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    _, place, _ = shown(attempt)
    first = layer_of(attempt)
    assert first.path.parent.parent == place.parent and first.path.stat().st_size == first.size
    elsewhere = layer_of(attempt, dataclasses.replace(SOURCE, dest="/elsewhere"))
    assert elsewhere.digest != first.digest
    monkeypatch.setattr(packaging, "write_layer", lambda *_, **__: pytest.fail("made again"))
    again = layer_of(attempt)
    assert (again.digest, again.diff_id, again.size, again.path) == (
        first.digest,
        first.diff_id,
        first.size,
        first.path,
    )


def test_the_layer_of_a_stored_result_is_that_of_the_folder_itself(attempt: Attempt) -> None:
    shown(attempt)
    stored = layer_of(attempt)
    results.copy_shown(attempt)
    assert not attempt.shown and layer_of(attempt).digest == stored.digest


def test_the_layer_of_a_stored_result_counts_towards_the_limit_of_the_artifact(attempt: Attempt) -> None:
    shown(attempt)
    layer_of(attempt)
    with pytest.raises(BuildError) as caught:
        layer_of(attempt, limit=1024)
    assert caught.value.reason == "ArtifactTooLarge" and "of vendor" in caught.value.message


def test_a_stored_result_that_is_gone_at_its_packaging_is_no_fault_of_the_user(attempt: Attempt) -> None:
    sandbox.remove_tree(shown(attempt)[1])
    with pytest.raises(PlatformError) as caught:
        layer_of(attempt)
    assert caught.value.reason == "CacheUnavailable"


def test_a_stored_layer_is_a_part_of_the_budget_and_stays_while_a_build_uses_it(attempt: Attempt) -> None:
    _, place, _ = shown(attempt)
    layer = layer_of(attempt)
    settings = attempt.node.settings.replace(**{"node_disk_bytes": 1})
    budget.within_budget(settings)
    assert layer.path.is_file() and place.is_dir()
    attempt.leave()
    budget.within_budget(settings)
    assert not layer.path.exists() and not place.exists()
