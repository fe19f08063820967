"""A run of the retention loop over a real store, folder and OCI layout: what goes, what stays, who is not disturbed."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from builder import config
from builder.control.retention import Retention
from builder.errors import BuildError, PlatformError
from builder.images.destination import fallback_tag
from builder.images.image import Image
from builder.images.layout import Layout
from builder.logs import event_log
from builder.store import builds, nodes
from builder.store.schema import builds as builds_table
from builder.stores.folder import FolderStore
from tests.oci_fixtures import make_image
from tests.store_contract.retaining import DAY, built, delete, due_attempts, failed, is_there, register, swept
from tests.store_contract.world import World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


class Control:
    """The loop over the world's store, with what it said."""

    def __init__(self, world: World, folder: Path, **settings: Any) -> None:
        self.world = world
        self.deleted: dict[str, int] = {}
        self.left = 0
        self.seconds = 0.0
        self.said = io.StringIO()
        self.sources, self.layout = FolderStore(folder / "sources"), Layout(folder / "artifacts")
        self.folder = folder
        self.loop = Retention(
            settings=config.load(settings).settings,
            store=world.store,
            sources=self.sources,
            destination=self.layout,
            log=event_log(self.said),
            deleted=self._deleted,
            left=self._left,
            monotonic=lambda: self.seconds,
            jitter=lambda: 0.5,
        )

    def _deleted(self, what: str, count: int) -> None:
        self.deleted[what] = self.deleted.get(what, 0) + count

    def _left(self, count: int) -> None:
        self.left += count

    def age(self, days: float) -> None:
        """Time passes, for the store and for what lies on the disk."""
        self.world.at[0] += int(days * DAY)
        for path in (*self.folder.rglob("*"),):
            if path.is_file():
                at = path.stat().st_mtime - days * 86_400
                os.utime(path, (at, at))

    def push(self, build: str, image: Image, *tags: str) -> None:
        """What a node and a finalizer leave in the layout: the attempt's tag, an attestation, user tags."""
        repository = self.world.row(build)["repository"]
        self.layout.push(image, repository, f"build-{build}-1")
        self.layout.attach(repository, image.digest, "application/x", build.encode(), "text/plain", {})
        for tag in tags:
            self.layout.put_tag(repository, image.digest, tag)
        with self.world.store.transaction() as tx:
            mine = builds_table.c.build_id == build
            tx.execute(update(builds_table).where(mine).values(artifact=f'{{"digest": "{image.digest}"}}'))


@pytest.fixture
def control(world: World, tmp_path: Path) -> Control:
    return Control(world, tmp_path)


def readable(layout: Layout, repository: str, reference: str) -> bool:
    """Whether an image is there whole."""
    manifest = layout.get_manifest(repository, reference)
    if manifest is None:
        return False
    import json

    value = json.loads(manifest.body)
    for part in (value["config"], *value["layers"]):
        assert b"".join(layout.open_blob(repository, part["digest"]))
    return True


def test_the_first_run_is_a_while_after_the_start_and_the_next_a_period_later(control: Control) -> None:
    runs: list[float] = []
    control.loop.run = lambda: runs.append(control.seconds)  # type: ignore[method-assign]
    for _ in range(9000):
        control.loop.step()
        control.seconds += 1
    assert runs == [150, 3750, 7350]


def test_two_tags_on_one_manifest_survive_every_run_and_the_attempts_tag_goes(control: Control, tmp_path: Path) -> None:
    build = built(control.world)
    image = make_image(tmp_path / "w")
    control.push(build, image, "latest", "v1")
    control.loop.run()
    assert control.layout.resolve("acme/n", f"build-{build}-1") == image.digest, "a day has not passed"
    control.age(1)
    for _ in range(3):
        control.loop.run()
        control.age(100)
    assert control.layout.resolve("acme/n", f"build-{build}-1") is None
    assert control.deleted["attempt-tags"] == 1
    for tag in ("latest", "v1"):
        assert readable(control.layout, "acme/n", tag)
    (attached,) = control.layout.referrers("acme/n", image.digest)
    assert control.layout.resolve("acme/n", attached["digest"]) == attached["digest"]


def test_a_cached_digest_keeps_a_tag_of_ours_and_its_bytes_until_its_entry_expires(
    control: Control, tmp_path: Path
) -> None:
    first, second = built(control.world, key="key"), built(control.world)
    old, new = make_image(tmp_path / "1", "old"), make_image(tmp_path / "2", "new")
    control.push(first, old)
    control.push(second, new, "latest")
    control.age(29)
    control.loop.run()
    assert control.layout.resolve("acme/n", f"build-{first}-1") == old.digest
    assert control.layout.resolve("acme/n", f"build-{second}-1") is None
    control.age(2)
    control.loop.run()
    control.loop.run()
    assert control.layout.resolve("acme/n", f"build-{first}-1") is None
    assert readable(control.layout, "acme/n", old.digest), "its record is 31 days old and still names it"
    control.age(60)
    control.loop.run()
    assert not is_there(control.world, first)
    assert control.layout.resolve("acme/n", old.digest) is None
    assert control.layout.resolve("acme/n", fallback_tag(old.digest)) is None
    assert readable(control.layout, "acme/n", "latest")
    held = {path.name for path in (control.layout.root / "blobs/sha256").iterdir()}
    assert old.digest.removeprefix("sha256:") not in held
    assert len(control.layout.names()) == 4, "latest, its manifest, its attestation and where that is listed"


def test_what_a_push_is_sending_is_never_collected(control: Control, tmp_path: Path) -> None:
    old, image = make_image(tmp_path / "1", "old"), make_image(tmp_path / "2", "shared")
    control.layout.push(old, "acme/n", None)
    control.layout.push(image, "acme/n", None)
    control.age(2)
    # A push that finds its blobs there, and has not written its line yet.
    for layer in image.layers:
        assert not control.layout._take(layer.path, layer.digest)
    control.loop.run()
    assert control.layout.resolve("acme/n", image.digest) is None
    for layer in image.layers:
        assert control.layout.blob_path(layer.digest).exists()
    for layer in old.layers:
        if layer.digest not in {one.digest for one in image.layers}:
            assert not control.layout.blob_path(layer.digest).exists()
    control.layout.push(image, "acme/n", "again")
    assert readable(control.layout, "acme/n", "again")


@pytest.mark.slow
def test_pushes_and_collections_at_once_lose_no_image(control: Control, tmp_path: Path) -> None:
    images = [make_image(tmp_path / str(n), f"text {n}") for n in range(4)]
    stop, errors = threading.Event(), []

    def push() -> None:
        try:
            for n in range(40):
                image = images[n % 4]
                control.layout.push(image, "acme/n", f"t{n % 4}")
                assert readable(control.layout, "acme/n", f"t{n % 4}")
                control.layout.untag("acme/n", f"t{n % 4}")
        except BaseException as error:
            errors.append(error)
        finally:
            stop.set()

    def collect() -> None:
        while not stop.is_set():
            control.layout.collect((), 1.0)  # a second is an age that no step of a push takes

    threads = [threading.Thread(target=each) for each in (push, collect, collect)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_manifest_that_cannot_be_read_keeps_every_blob(control: Control, tmp_path: Path) -> None:
    image, other = make_image(tmp_path / "1"), make_image(tmp_path / "2", "other")
    control.layout.push(image, "acme/n", "v1")
    control.layout.push(other, "acme/n", None)
    control.layout.blob_path(image.digest).write_bytes(b"{}")
    control.age(2)
    with pytest.raises(PlatformError):
        control.layout.collect((), 0)
    for layer in (*image.layers, *other.layers):
        assert control.layout.blob_path(layer.digest).exists()


def test_a_source_stays_while_a_record_or_an_upload_names_it(control: Control) -> None:
    named, uploaded, gone = (control.sources.put([text], 99).sha256 for text in (b"named", b"uploaded", b"gone"))
    failed(control.world)
    build = failed(control.world)
    with control.world.store.transaction() as tx:
        mine = builds_table.c.build_id == build
        tx.execute(update(builds_table).where(mine).values(source_sha256=named))
    nodes.add_context(control.world.store, "c", "acme", uploaded, 8)
    control.loop.run()
    assert control.deleted == {}, "all of them are young"
    control.age(0.9)
    nodes.add_context(control.world.store, "d", "acme", uploaded, 8)
    control.age(0.2)
    control.loop.run()
    for digest in (named, uploaded):
        control.sources.open(digest).close()
    with pytest.raises(BuildError):
        control.sources.open(gone)
    control.age(7)
    control.world.submit()
    for _ in range(2):
        control.loop.run()
    for digest in (named, uploaded):
        with pytest.raises(BuildError):
            control.sources.open(digest)
    assert control.deleted["sources"] == 3 and control.deleted["uploads"] == 2


def test_a_source_that_a_submit_is_about_to_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    digest = store.put([b"x"], 9).sha256
    path = tmp_path / "sha256" / digest[:2] / digest
    os.utime(path, (1, 1))
    assert list(store.list(10)) == [digest]
    store.put([b"x"], 9)  # the same bytes once more are young
    assert list(store.list(10)) == [] and not store.delete(digest, 10)
    os.utime(path, (1, 1))
    store.renew(digest)
    assert not store.delete(digest, 10)
    # Renewed after it was looked at, a moment before it is moved away.
    os.utime(path, (1, 1))
    rename = Path.rename
    calls: list[Path] = []

    def late(self: Path, target: Path) -> Path:
        if not calls:
            store.renew(digest)
        calls.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert not store.delete(digest, 10) and len(calls) == 2
    store.open(digest).close()
    monkeypatch.undo()
    os.utime(path, (1, 1))
    assert store.delete(digest, 10) and not store.delete(digest, 10)
    with pytest.raises(BuildError, match="SourceNotFound"):
        store.renew(digest)
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == []


def test_what_a_broken_put_left_goes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / ".partial-old").write_bytes(b"x")
    os.utime(tmp_path / ".partial-old", (1, 1))
    (tmp_path / ".partial-young").write_bytes(b"x")
    assert store.delete_unfinished(3600) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".partial-young"]


class Keeps(Layout):
    """A destination that deletes no single tag, as docker-registry 2.8."""

    def can_untag(self, repository: str) -> bool:
        return False

    def untag(self, repository: str, tag: str) -> None:
        raise AssertionError("asked although it cannot")


def test_where_no_tag_can_be_deleted_it_stays_is_counted_once_and_holds_up_no_record(
    control: Control, tmp_path: Path
) -> None:
    build = failed(control.world)
    control.world.submit()
    control.loop.destination = Keeps(tmp_path / "artifacts")
    control.age(7)
    for _ in range(2):
        control.loop.run()
    assert control.left == 1 and "attempt-tags" not in control.deleted
    assert not is_there(control.world, build)


class Fails(Layout):
    """A registry that does not delete the tags of some repositories."""

    def untag(self, repository: str, tag: str) -> None:
        if repository.startswith("bad"):
            raise PlatformError("RegistryUnavailable", "no") if repository == "bad/n" else ValueError("odd")
        super().untag(repository, tag)


def test_repositories_in_lasting_trouble_hold_up_no_other(control: Control, tmp_path: Path) -> None:
    """A run ends at three of them, and the next passes over these."""
    bad = [built(control.world, organization=f"bad{number}") for number in range(6) for _ in range(2)]
    built(control.world, organization="good")
    control.world.submit()
    control.loop.destination = Fails(tmp_path / "artifacts")
    control.age(100)
    for _ in range(2):
        with pytest.raises(ValueError, match="odd"):
            control.loop.run()
        assert "attempt-tags" not in control.deleted
    control.loop.run()
    assert control.deleted["attempt-tags"] == 1
    assert {one.build_id for one in due_attempts(control.world)} == set(bad)
    control.loop.destination = control.layout
    control.loop.run()
    assert not due_attempts(control.world), "they have their turn again"


def test_a_repository_in_trouble_holds_up_no_other_and_its_builds_wait(control: Control, tmp_path: Path) -> None:
    bad = [built(control.world, organization="bad") for _ in range(4)]
    good = built(control.world, organization="good")
    control.world.submit()
    control.loop.destination = Fails(tmp_path / "artifacts")
    control.age(100)
    control.loop.run()
    assert control.deleted["attempt-tags"] == 1 and "untag-failed" in control.said.getvalue()
    assert {one.build_id for one in due_attempts(control.world)} == set(bad)
    assert all(is_there(control.world, build) for build in (*bad, good))
    control.loop.destination = control.layout
    control.loop.run()
    assert [is_there(control.world, one) for one in bad] == [False] * 3 + [True], "latest names the last"


def test_a_part_in_trouble_lets_the_others_have_their_turn(control: Control, tmp_path: Path) -> None:
    old = failed(control.world)
    control.world.submit()
    swept(control.world)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "sha256").symlink_to("sha256")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "index.json").write_text("no")
    control.age(7)
    with pytest.raises(PlatformError):
        control.loop.run()
    assert not is_there(control.world, old)
    assert "retention-failed" in control.said.getvalue()


def test_a_part_that_fails_oddly_lets_the_others_have_their_turn(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = failed(control.world)
    control.world.submit()

    def full() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(control.loop, "_attempt_tags", full)
    swept(control.world)
    control.age(7)
    with pytest.raises(OSError, match="no space left"):
        control.loop.run()
    assert not is_there(control.world, old)


def test_a_run_ends_after_its_batch_when_the_process_stops(control: Control) -> None:
    failed(control.world)
    control.world.submit()
    control.age(7)
    control.loop.stop()
    control.loop.run()
    assert control.deleted == {} and delete(control.world, "FAILED", 7) == 0
    assert builds.page(control.world.store, "acme", 10, None)


def test_revocations_of_tokens_that_are_listed_stay(world: World, tmp_path: Path) -> None:
    from builder.settings import Token
    from builder.store import membership

    tokens = (Token(token="t", scopes=("worker",), node="n"),)
    control = Control(world, tmp_path, tokens=tokens)
    register(world, "n")
    membership.set_drain(world.store, "n", True)
    listed, gone = (hashlib.sha256(text).hexdigest() for text in (b"t", b"u"))
    membership.forget(world.store, "n", [listed, gone], 1)
    control.age(8)
    control.loop.run()
    assert control.deleted["revocations"] == 1
    assert membership.is_revoked(world.store, "n", listed)
