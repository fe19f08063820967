"""Links that a step left where the node looks or writes next: nothing outside of the work folder is read or written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder.attempt import apart, downloads, git, results, steps
from builder.attempt.attempt import Attempt
from builder.attempt.desk import LFS_HEAD, Desk
from builder.attempt.inside import folder_in, write_in
from builder.errors import BuildError, PlatformError
from builder.pipelines.catalog import Catalog
from builder.plan import Access, Built, CacheLink, CopyFile, Fetched, Plan, Sees, Step, WantedFile, WriteFile
from builder.sandbox.remove import remove_in
from builder.source import below
from tests.attempt_fixtures import attempt_at

RESULT = Step(name="x", argv=("x",), sees=Sees.STUBS, runs_source=False, cwd="/work/fetch", result="/work/out/target")
KINDS = ("absolute", "relative", "dangling", "circle")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that no build may read or change; looked at when the test has ended."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").write_text("secret")
    (folder / "deep/file").write_text("secret")
    before = looked_at(folder)
    yield folder
    assert looked_at(folder) == before


def looked_at(folder: Path) -> list[tuple[str, int, int, bytes]]:
    return sorted(
        (str(path), info.st_mode, info.st_nlink, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
        if (info := path.lstat())
    )


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    made = attempt_at(tmp_path)
    for name in (*steps.FOLDERS, "src"):
        (made.work / name).mkdir(parents=True)
    monkeypatch.setattr(downloads, "shared", lambda attempt, name: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    return made


def plant(kind: str, place: Path, outside: Path) -> None:
    """A link at `place`, of one of the kinds."""
    place.parent.mkdir(parents=True, exist_ok=True)
    target = {
        "absolute": str(outside),
        "relative": os.path.relpath(outside, place.parent),
        "dangling": str(outside / "nothing"),
        "circle": place.name,
    }[kind]
    place.symlink_to(target)


def named_by(attempt: Attempt, found: Fetched) -> Callable[[], object]:
    """`named`, where the stubs name this."""
    reading = SimpleNamespace(fetched=lambda plan: found)

    class Here:
        def __enter__(self) -> Any:
            return reading

        def __exit__(self, *_: object) -> None:
            pass

    attempt.__dict__["reading"] = Here
    return lambda: downloads.named(attempt, cast(Plan, None))


def in_the_way(do: Callable[[], object], reason: str = "StepFailed") -> None:
    with pytest.raises(BuildError) as caught:
        do()
    assert caught.value.reason == reason, caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_stubs_name_is_written_through_no_folder_that_is_a_link(
    attempt: Attempt, outside: Path, kind: str
) -> None:
    plant(kind, attempt.work / "fetch/a", outside)
    for path in ("a/new", "a/file", "a/deep/new"):
        in_the_way(named_by(attempt, Fetched(wanted=(), files=(WriteFile(path=path, content="ours"),))))
        in_the_way(named_by(attempt, Fetched(wanted=(), links=(CacheLink(path=path, cache="c", target="t"),))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_at_the_place_of_a_file_of_ours_makes_room(attempt: Attempt, outside: Path, kind: str) -> None:
    for name in ("file", "link"):
        plant(kind, attempt.work / "fetch" / name, outside / "file")
    os.link(outside / "file", attempt.work / "fetch/twin")
    write_in(attempt, "fetch/twin", "ours")
    named_by(
        attempt,
        Fetched(
            wanted=(),
            files=(WriteFile(path="file", content="ours"),),
            links=(CacheLink(path="link", cache="c", target="t"),),
        ),
    )()
    assert not (attempt.work / "fetch/file").is_symlink() and (attempt.work / "fetch/file").read_text() == "ours"
    assert os.readlink(attempt.work / "fetch/link") == "/cache/c/t"


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_no_file_behind_a_link(attempt: Attempt, outside: Path, kind: str) -> None:
    plant(kind, attempt.work / "fetch/a", outside)
    plant(kind, attempt.work / "fetch/b", outside / "file")
    (attempt.work / "fetch/c").write_text("x")
    assert [downloads.is_there(attempt, path) for path in ("a/file", "a/deep/file", "b", "c")] == [False] * 3 + [True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["fetch", "out", "download"])
def test_a_folder_of_the_work_that_became_a_link_is_entered_by_nothing(
    attempt: Attempt, outside: Path, kind: str, at: str
) -> None:
    (attempt.work / at).rmdir()
    plant(kind, attempt.work / at, outside)
    assert not downloads.is_there(attempt, "file")
    place = outside.parent / "cache" / "result"
    if at == "out":
        results.store(attempt, RESULT, place)
        assert not place.exists()
        place.mkdir()
        in_the_way(lambda: results.lay(attempt, RESULT, place))
    elif at == "fetch":
        in_the_way(lambda: write_in(attempt, "fetch/file", "ours"))
    else:
        in_the_way(lambda: steps._make_download(attempt, "deep"))
        in_the_way(lambda: downloads._drop(attempt, "deep"))


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_source_become_output_through_no_link(attempt: Attempt, outside: Path, kind: str) -> None:
    (attempt.source / "a").write_text("a")
    plan = cast(Plan, SimpleNamespace(placed=(CopyFile(path="app/file", source="a"),)))
    plant(kind, attempt.work / "out/app", outside)
    steps.place(attempt, plan)
    assert (attempt.work / "out/app/file").read_text() == "a"
    (attempt.work / "out").rename(attempt.work / "moved")
    plant(kind, attempt.work / "out", outside)
    in_the_way(lambda: steps.place(attempt, plan))


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_leaves_through_no_link(attempt: Attempt, outside: Path, kind: str) -> None:
    step = SimpleNamespace(caches=(SimpleNamespace(name="c", access=Access.DOWNLOAD),))
    plant(kind, attempt.work / "download/c", outside)
    in_the_way(lambda: steps._make_download(attempt, "c"))
    named_by(attempt, Fetched(wanted=(WantedFile(cache="c", source="file", path="file", digest="sha256:0"),)))
    in_the_way(lambda: downloads.keep(attempt, cast(Plan, None), cast(Step, step)))
    downloads._drop(attempt, "c")
    assert not os.path.lexists(attempt.work / "download/c")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_result_has_links_as_their_text_and_nothing_behind_them(
    attempt: Attempt, outside: Path, kind: str
) -> None:
    target, place = attempt.work / "out/target", outside.parent / "cache/result"
    for name in ("folder", "deep/link"):
        plant(kind, target / name, outside)
    (target / "deep/a").write_text("a")
    os.link(target / "deep/a", target / "deep/b")
    results.store(attempt, RESULT, place)
    for _ in range(2):
        assert results.lay(attempt, RESULT, place)
        for name in ("folder", "deep/link"):
            assert os.readlink(place / name) == os.readlink(target / name)
        assert (target / "deep/a").samefile(target / "deep/b") and not (target / "deep/a").samefile(place / "deep/a")
        plant(kind, target / "deep/late", outside)


def test_a_folder_that_becomes_a_link_while_it_is_copied_is_not_followed(
    attempt: Attempt, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of a step without a sandbox may live on."""
    target, place = attempt.work / "out/target", outside.parent / "cache/result"
    (target / "deep").mkdir(parents=True)
    (target / "deep/file").write_text("x")
    real, swapped = os.stat, list[str]()

    def look(path: Any, **how: Any) -> os.stat_result:
        info = real(path, **how)
        if path == "deep" and how.get("dir_fd") is not None and not swapped:
            swapped.append(path)
            (target / "deep").rename(target / "moved")
            (target / "deep").symlink_to(outside)
        return info

    monkeypatch.setattr(os, "stat", look)
    with pytest.raises(OSError, match="Not a directory"):
        results.store(attempt, RESULT, place)
    assert swapped and os.listdir(place.parent) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_apart_is_taken_through_no_link(attempt: Attempt, outside: Path, kind: str) -> None:
    one, store = Built(name="w", of=(), files=(), words=(), ending="file"), outside.parent / "cache"
    work = attempt.work.with_suffix(".apart")
    plant(kind, work / "out", outside)
    apart._take(attempt, work, one, store, "key")
    (work / "out").unlink()
    plant(kind, work / "out/file", outside / "file")
    apart._take(attempt, work, one, store, "key")
    assert os.listdir(store) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_plans_files_are_written_through_no_link_of_the_source(attempt: Attempt, outside: Path, kind: str) -> None:
    def prepared(path: str) -> None:
        plan = SimpleNamespace(files=(WriteFile(path=path, content="ours"),), stubs=(), copies=())
        steps.prepare(attempt, cast(Plan, plan))

    plant(kind, attempt.source / "a", outside)
    plant(kind, attempt.source / "b/c", outside)
    plant(kind, attempt.source / "file", outside / "file")
    for path in ("a/new", "a/deep/new", "b/c/file"):
        in_the_way(partial(prepared, path), "ManifestInvalid")
    prepared("file")
    assert not (attempt.source / "file").is_symlink() and (attempt.source / "file").read_text() == "ours"


def test_a_file_of_the_plan_leaves_its_twin_alone(attempt: Attempt) -> None:
    (attempt.source / "a").write_text("theirs")
    os.link(attempt.source / "a", attempt.source / "b")
    steps.prepare(
        attempt,
        cast(Plan, SimpleNamespace(files=(WriteFile(path="a", content="ours"),), stubs=(), copies=())),
    )
    assert (attempt.source / "b").read_text() == "theirs"


@pytest.mark.parametrize("kind", KINDS)
def test_pointers_of_lfs_are_looked_for_through_no_link_that_leads_out(
    attempt: Attempt, outside: Path, kind: str
) -> None:
    (outside.parent / "pointer").write_bytes(LFS_HEAD)
    (attempt.source / "real").write_bytes(LFS_HEAD + b"v1\n")
    (attempt.source / "large").write_bytes(LFS_HEAD + bytes(2000))
    (attempt.source / "inner").symlink_to("large")
    plant(kind, attempt.source / "file", outside.parent / "pointer")
    plant(kind, attempt.source / "folder", outside)
    desk = Desk((), cast(Catalog, None), lambda path: None, None, attempt.source, attempt.work / "fetch")
    assert desk.lfs_pointers().paths == ("real",)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_git_is_taken_through_no_link(attempt: Attempt, outside: Path, kind: str) -> None:
    plant(kind, attempt.work / "git/source.tar", outside / "file")
    with pytest.raises(PlatformError, match="git packed no archive"):
        git._take(attempt, "gitSource")
    (attempt.work / "git/source.tar").unlink()
    os.mkfifo(attempt.work / "git/source.tar")
    with pytest.raises(PlatformError, match="git packed no archive"):
        git._take(attempt, "gitSource")


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_is_removed_by_the_folder_that_is_open(tmp_path: Path, outside: Path, kind: str) -> None:
    plant(kind, tmp_path / "work/a", outside)
    plant(kind, tmp_path / "work/b/c", outside)
    with below.folder(tmp_path / "work") as folder:
        assert remove_in(folder, "a") and remove_in(folder, "b") and remove_in(folder, "none")
    assert os.listdir(tmp_path / "work") == []


def test_a_path_of_a_folder_that_leads_out_by_its_text_is_refused(attempt: Attempt, outside: Path) -> None:
    def enter(path: str) -> None:
        with folder_in(attempt, path):
            pass

    for path in ("../outside", "fetch/../../outside"):
        in_the_way(partial(enter, path))


def test_a_work_folder_that_is_gone_is_no_steps_doing(attempt: Attempt) -> None:
    attempt.work.rename(attempt.work.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError), folder_in(attempt, "out"):
        pass
    with pytest.raises(FileNotFoundError):
        write_in(attempt, "fetch/x", "x")


@pytest.mark.parametrize(("uid", "raised"), [(0, PermissionError), (1000, BuildError)])
def test_a_mode_stops_no_node_of_root(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch, uid: int, raised: type[Exception]
) -> None:
    def refuses(folder: int, name: str, data: bytes) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(below, "write_file", refuses)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(raised):
        write_in(attempt, "fetch/x", "x")
