"""What a node says of an artifact is checked: its form at the finish, its truth against the registry before ATTEST."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.attest.artifact import ArtifactRefused, described, reported
from builder.contract import materials
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import PlatformError
from builder.images.destination import Manifest
from builder.images.image import (
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    Image,
    ImageConfig,
    Platform,
    build_image,
    canonical,
    digest_of,
)
from builder.images.layout import Layout
from builder.services.workers import WorkerService
from builder.store import builds, logs, record
from tests.oci_fixtures import make_image
from tests.store_contract.world import World, open_world
from tests.unit import test_service
from tests.unit.test_finalize import KEY, attempt, pool
from tests.unit.test_service import Services, node_of, register

GOOD = "sha256:" + "a" * 64
services = test_service.services
NAME_MAX = materials.NAME_CHARACTERS


def success(digest: str = GOOD, *parts: tuple[str, str], **fields: Any) -> pb.BuiltArtifact:
    named = [pb.Material(name=name, digest=value) for name, value in parts]
    return pb.BuiltArtifact(digest=digest, materials=named, **fields)


# At the finish


@pytest.mark.parametrize(
    "digest", ["", "latest", "sha256:zz", GOOD + "\n", GOOD.upper(), "sha512:" + "a" * 128, GOOD[:-1], f"x@{GOOD}"]
)
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(ArtifactRefused, match="is no sha256 digest"):
        reported(success(digest))


@pytest.mark.parametrize("name", ["", "a\x1b[31mb", "a\nb", "\u202ename", "\x9b31m", "x" * (NAME_MAX + 1)])
def test_the_name_of_a_material_is_printable_and_bounded(name: str) -> None:
    with pytest.raises(ArtifactRefused, match="not printable") as refused:
        reported(success(GOOD, (name, GOOD)))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300


@pytest.mark.parametrize("digest", ["", "nonsense", "h1:x", "sha256:", "md5:" + "a" * 32, "gitCommit:" + "g" * 40])
def test_the_digest_of_a_material_has_a_form_of_ours(digest: str) -> None:
    with pytest.raises(ArtifactRefused, match="has the digest"):
        reported(success(GOOD, ("go.mod", digest)))


def test_a_list_of_materials_is_bounded() -> None:
    parts = [(f"m{number}", GOOD) for number in range(materials.MOST)]
    assert len(reported(success(GOOD, *parts)).materials) == materials.MOST
    with pytest.raises(ArtifactRefused, match="10001 materials"):
        reported(success(GOOD, *parts, ("one more", GOOD)))


def test_of_a_good_success_nothing_stays_that_the_control_side_finds_itself() -> None:
    parts = [("base", GOOD), ("pkg:golang/x@v1", "dirHash:" + "b" * 64), ("source ü", "gitCommit:" + "c" * 40)]
    sent = success(GOOD, *parts, reference=f"registry.example.com/victim/app@{GOOD}", size_bytes=1)
    assert reported(sent) == success(GOOD, *parts)


BAD: list[pb.BuiltArtifact] = [
    success(""),
    success("latest"),
    success("sha256:zz"),
    success(GOOD, ("a\x1b[31mb", GOOD)),
    success(GOOD, ("go.mod", "nonsense")),
]


NO_PAUSE = {"retry_backoff_ms": 0}


def claim(services: Services, build: str, node: str = "n", nonce: str = "x") -> int:
    request = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id=node, nonce=nonce)
    answer = services.worker.claim_build(node_of(node), request)
    assert answer.granted, answer.refused_because
    return answer.claim


def finish(services: Services, build: str, number: int, sent: pb.BuiltArtifact, node: str = "n") -> pb.FinishResponse:
    request = pb.FinishRequest(protocol=1, build_id=build, claim=number, success=sent)
    return services.worker.finish(node_of(node), request)


@pytest.mark.parametrize("sent", BAD, ids=str)
def test_a_bad_finish_ends_the_attempt_at_once_and_the_last_one_the_build(
    services: Services, sent: pb.BuiltArtifact
) -> None:
    quick = dataclasses.replace(services.parts, settings=services.parts.settings.replace(**NO_PAUSE))
    services = dataclasses.replace(services, worker=WorkerService(quick))
    register(services, "n")
    build = services.submit()
    for retries in (1, 2):
        number = claim(services, build, nonce=f"n{retries}")
        answer = finish(services, build, number, sent)
        assert (answer.status, answer.stale) == (pb.BUILD_STATUS_PENDING, False)
        assert "cannot be one" in answer.refused_because
        assert finish(services, build, number, sent) == answer, "repeated, as its answer may be lost"
        assert services.get(build).retries == retries
    answer = finish(services, build, claim(services, build, nonce="n3"), sent)
    failure = services.get(build).failure
    assert (answer.status, failure.reason, failure.error_class) == (pb.BUILD_STATUS_FAILED, "Internal", "platform")
    assert failure.message == answer.refused_because and failure.next and failure.message.isprintable()
    assert failure.phase == pb.BUILD_PHASE_PUSH


def test_a_good_finish_is_kept_without_what_the_node_made_up(services: Services) -> None:
    register(services, "n")
    build = services.submit()
    sent = success(GOOD, ("base", GOOD), reference="registry.example.com/victim/app@" + GOOD, size_bytes=1)
    answer = finish(services, build, claim(services, build), sent)
    assert (answer.status, answer.refused_because) == (pb.BUILD_STATUS_RUNNING, "")
    row = builds.by_id(services.store, build)
    assert row is not None and record.built(row) == success(GOOD, ("base", GOOD))


@pytest.mark.parametrize("sent", [success(GOOD), success("latest")], ids=["good", "bad"])
def test_a_node_finishes_nothing_of_another_ones(services: Services, sent: pb.BuiltArtifact) -> None:
    for name in ("n", "other"):
        register(services, name)
    build = services.submit()
    number = claim(services, build)
    answer = finish(services, build, number, sent, "other")
    assert (answer.stale, answer.refused_because) == (True, "")
    assert (services.get(build).status, services.get(build).retries) == (pb.BUILD_STATUS_RUNNING, 0)


# The manifest


def manifest(**parts: Any) -> Manifest:
    config = {"mediaType": CONFIG_TYPE, "digest": GOOD, "size": 7}
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": GOOD, "size": 30}
    value = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer, layer], **parts}
    body = canonical({name: part for name, part in value.items() if part is not None})
    return Manifest(media_type=MANIFEST_TYPE, body=body, digest=digest_of(body))


def test_the_size_is_what_a_puller_transfers(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    read = described(Manifest(media_type=image.media_type, body=image.manifest, digest=image.digest))
    assert (read.size_bytes, read.config_digest) == (image.size_bytes, image.config_digest)
    assert described(manifest()).size_bytes == len(manifest().body) + 67
    assert described(manifest(mediaType=None)).config_digest == GOOD, "the header has the type too"


@pytest.mark.parametrize(
    "bad",
    [
        {"mediaType": INDEX_TYPE},
        {"mediaType": 7},
        {"config": None},
        {"config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": GOOD, "size": 2}},
        {"config": {"mediaType": CONFIG_TYPE, "digest": GOOD, "size": 2**40}},
        {"layers": None},
        {"layers": {}},
        {"layers": [{"digest": GOOD, "size": 1}] * 1001},
        *({"layers": [bad]} for bad in (7, {}, {"digest": GOOD}, {"digest": GOOD, "size": -1})),
        *({"layers": [{"digest": GOOD, "size": size}]} for size in ("1", True, 1.5)),
        {"layers": [{"digest": ["x"], "size": 1}]},
    ],
    ids=str,
)
def test_a_manifest_that_is_no_images_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ArtifactRefused):
        described(manifest(**bad))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 200_000], ids=lambda body: repr(body[:4]))
def test_a_manifest_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ArtifactRefused):
        described(Manifest(media_type=MANIFEST_TYPE, body=body, digest=digest_of(body)))


# Against the registry


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


@pytest.fixture
def registry(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def work(world: World, digest: str, push: Callable[[str], None], **fields: Any) -> tuple[str, str]:
    """A build whose node pushes to the attempt's tag and reports a digest: (id, tag)."""
    build = world.submit(**fields)
    number = world.claim(build)
    row = world.row(build)
    tag = record.attempt_tag(row)
    assert builds.planned(world.store, build, number, *KEY).verdict == "GO_ON"
    push(tag)
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=number, success=success(digest)), 1000)
    return build, tag


def images(tmp_path: Path) -> tuple[Image, Image]:
    return make_image(tmp_path / "one", "one"), make_image(tmp_path / "two", "two")


def test_record_and_statement_say_what_the_control_side_found(world: World, registry: Layout, tmp_path: Path) -> None:
    image, _ = images(tmp_path)
    build, _ = work(world, image.digest, lambda tag: void(registry.push(image, "acme/n", tag)))
    assert attempt(pool(world, registry))
    done = record.build(world.row(build))
    assert (done.artifact_ref, done.size_bytes) == (f"oci-layout/acme/n@{image.digest}", image.size_bytes)
    (attached,) = registry.referrers("acme/n", image.digest)
    referrer = registry.get_manifest("acme/n", attached["digest"])
    assert referrer is not None
    (layer,) = json.loads(referrer.body)["layers"]
    statement = json.loads(b"".join(registry.open_blob("acme/n", layer["digest"])))
    assert [one["name"] for one in statement["subject"]] == ["oci-layout/acme/n"]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["sizeBytes"] == image.size_bytes
    assert definition["internalParameters"]["platform"] == "linux/amd64"
    sources = {one["name"]: one["annotations"]["ignite.dodil.dev/source"] for one in definition["resolvedDependencies"]}
    assert sources == {"source": "control-side", "canonical source tree": "node"}
    assert set(definition["internalParameters"]["facts"]) == {"control-side", "node"}


def void(value: object) -> None:
    return


def elsewhere(registry: Layout, one: Image, two: Image, tag: str) -> str:
    registry.push(one, "acme/n", tag)
    return registry.push(two, "victim/app", "v1").digest


def not_the_tags(registry: Layout, one: Image, two: Image, tag: str) -> str:
    registry.push(one, "acme/n", tag)
    return registry.push(two, "acme/n", "v1").digest


def untagged(registry: Layout, one: Image, two: Image, tag: str) -> str:
    return registry.push(one, "acme/n", None).digest


def nothing(registry: Layout, one: Image, two: Image, tag: str) -> str:
    return GOOD


def statement_of_another(registry: Layout, one: Image, two: Image, tag: str) -> str:
    registry.push(one, "acme/n", None)
    referrer = registry.attach("acme/n", one.digest, "x/y", b"{}", "x/y", {}).digest
    registry.put_tag("acme/n", referrer, tag)
    return referrer


def other_platform(registry: Layout, one: Image, two: Image, tag: str) -> str:
    image = build_image(None, one.layers, ImageConfig(entrypoint=("/x",)), Platform(architecture="arm64"))
    return registry.push(image, "acme/n", tag).digest


def without_its_config(registry: Layout, one: Image, two: Image, tag: str) -> str:
    digest = registry.push(one, "acme/n", tag).digest
    registry.blob_path(one.config_digest).unlink()
    return digest


def with_a_large_config(registry: Layout, one: Image, two: Image, tag: str) -> str:
    value = json.loads(one.manifest)
    value["config"]["size"] = len(one.config) - 1
    body = canonical(value)
    return registry.push(dataclasses.replace(one, manifest=body, digest=digest_of(body)), "acme/n", tag).digest


@pytest.mark.parametrize("sends_config", [False, True], ids=["", "with a config that is sound"])
@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (elsewhere, "reported was"),
        (not_the_tags, "reported was"),
        (untagged, "has no tag build-"),
        (nothing, "has no tag build-"),
        (statement_of_another, "names no image config"),
        (other_platform, 'is for "linux/arm64"'),
        (without_its_config, "has no config"),
        (with_a_large_config, "larger than the manifest says"),
    ],
)
def test_an_artifact_that_is_not_the_tags_ends_the_attempt_and_the_next_one_builds(
    world: World,
    registry: Layout,
    tmp_path: Path,
    attack: Callable[[Layout, Image, Image, str], str],
    says: str,
    sends_config: bool,
) -> None:
    one, two = images(tmp_path)
    build = world.submit()
    number = world.claim(build)
    assert builds.planned(world.store, build, number, *KEY).verdict == "GO_ON"
    digest = attack(registry, one, two, f"build-{build}-1")
    artifact = success(digest, config=one.config if sends_config else b"")
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=number, success=artifact), 1000)
    ours = pool(world, registry)
    assert attempt(ours)
    row = world.row(build)
    assert (row["status"], row["retries"], row["failures"], row["artifact"]) == ("PENDING", 1, 0, "")
    assert not registry.resolve("acme/n", "latest"), "nothing was published"
    log = "\n".join(entry["l"] for entry in lines(world, build))
    assert "Internal: node node reported" in log and says in log
    world.at[0] += 60_000
    number = world.claim(build, "again")
    assert builds.planned(world.store, build, number, *KEY).verdict == "GO_ON", "nothing of it is in the cache"
    registry = Layout(tmp_path / "sound")
    registry.push(one, "acme/n", f"build-{build}-2")
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=number, success=success(one.digest)), 1000)
    assert attempt(pool(world, registry))
    assert (world.row(build)["status"], registry.resolve("acme/n", "latest")) == ("SUCCEEDED", one.digest)


@pytest.mark.parametrize("sent", ["sound", "another", "none"])
def test_a_config_that_the_node_sends_counts_by_its_digest(
    world: World, registry: Layout, tmp_path: Path, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = images(tmp_path)
    build = world.submit()
    number = world.claim(build)
    assert builds.planned(world.store, build, number, *KEY).verdict == "GO_ON"
    registry.push(one, "acme/n", f"build-{build}-1")
    artifact = reported(success(one.digest, config={"sound": one.config, "another": two.config, "none": b""}[sent]))
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=number, success=artifact), 1000)
    read: list[str] = []
    real = Layout.open_blob

    def noted(self: Layout, name: str, digest: str) -> Any:
        read.append(digest)
        return real(self, name, digest)

    monkeypatch.setattr(Layout, "open_blob", noted)
    assert attempt(pool(world, registry))
    row = world.row(build)
    assert row["status"] == "SUCCEEDED" and "config" not in json.loads(row["artifact"])
    assert read == ([] if sent == "sound" else [one.config_digest])


def test_a_config_that_is_too_long_is_left_to_be_read() -> None:
    assert reported(success(config=b"x" * materials.CONFIG_BYTES)).config
    assert not reported(success(config=b"x" * (materials.CONFIG_BYTES + 1))).config


def lines(world: World, build: str) -> list[Any]:
    return list(logs.read(world.store, build, 0, 100))


def test_a_node_that_goes_on_so_ends_the_build_as_internal(world: World, registry: Layout, tmp_path: Path) -> None:
    build = world.submit()
    for number in range(3):
        claimed = world.claim(build, f"n{number}")
        builds.finish(world.store, pb.FinishRequest(build_id=build, claim=claimed, success=success()), 1000)
        assert attempt(pool(world, registry))
        world.at[0] += 60_000
    failure = record.build(world.row(build)).failure
    assert (world.row(build)["status"], failure.reason, failure.error_class) == ("FAILED", "Internal", "platform")
    assert failure.phase == pb.BUILD_PHASE_ATTEST and "has no tag" in failure.message and failure.next


@pytest.mark.parametrize("code_hash", ["nonsense", "sha256:\x1b[31m", GOOD.upper()])
def test_a_code_hash_that_is_none_gets_no_statement(
    world: World, registry: Layout, tmp_path: Path, code_hash: str
) -> None:
    image, _ = images(tmp_path)
    build = world.submit()
    number = world.claim(build)
    assert builds.planned(world.store, build, number, "key", code_hash, "go").verdict == "GO_ON"
    registry.push(image, "acme/n", f"build-{build}-1")
    builds.finish(world.store, pb.FinishRequest(build_id=build, claim=number, success=success(image.digest)), 1000)
    assert attempt(pool(world, registry))
    assert world.row(build)["status"] == "PENDING" and not registry.referrers("acme/n", image.digest)
    assert any("the code hash is no sha256 digest" in one["l"] for one in lines(world, build))


def test_trouble_at_the_first_look_is_asked_again_later(
    world: World, registry: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = images(tmp_path)
    build, _ = work(world, image.digest, lambda tag: void(registry.push(image, "acme/n", tag)))

    def away(self: Layout, repository: str, reference: str) -> Manifest | None:
        raise PlatformError("RegistryUnavailable", "no answer")

    with monkeypatch.context() as patched:
        patched.setattr(Layout, "get_manifest", away)
        assert attempt(pool(world, registry))
    row = world.row(build)
    assert (row["status"], row["retries"], row["finalize_tries"]) == ("RUNNING", 0, 1)
    world.at[0] += 60_000
    assert attempt(pool(world, registry))
    assert world.row(build)["status"] == "SUCCEEDED"


def test_behind_the_mark_an_attempts_tag_may_be_gone(world: World, registry: Layout, tmp_path: Path) -> None:
    image, _ = images(tmp_path)
    build, tag = work(world, image.digest, lambda tag: void(registry.push(image, "acme/n", tag)))
    row = builds.adopt_finalize(world.store, 30_000)
    assert row is not None and builds.publish(world.store, build, row["claim"])
    registry.untag("acme/n", tag)
    world.at[0] += 60_000
    assert attempt(pool(world, registry))
    assert world.row(build)["status"] == "SUCCEEDED"


def test_what_the_cache_answers_needs_no_tag_of_its_own(world: World, registry: Layout, tmp_path: Path) -> None:
    image, _ = images(tmp_path)
    work(world, image.digest, lambda tag: void(registry.push(image, "acme/n", tag)))
    assert attempt(pool(world, registry))
    again = world.submit()
    assert builds.planned(world.store, again, world.claim(again), *KEY).verdict == "REUSE"
    assert attempt(pool(world, registry))
    done = record.build(world.row(again))
    assert (done.artifact_ref, done.size_bytes) == (f"oci-layout/acme/n@{image.digest}", image.size_bytes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": pb.START_STATUS_UNSPECIFIED}, "status 0"),
        ({"status": 99}, "status 99"),
        ({"status": pb.START_STATUS_EXITED, "message": "\x1b[31m"}, "printable"),
        ({"status": pb.START_STATUS_EXITED, "message": "x" * (materials.START_CHARACTERS + 1)}, "too long"),
        ({"status": pb.START_STATUS_LISTENS, "cold_start_ms": -1}, "-1 ms"),
        ({"status": pb.START_STATUS_LISTENS, "memory_bytes": 1 << 60}, "bytes"),
    ],
)
def test_a_start_check_that_cannot_be_one_is_refused(fields: dict[str, Any], words: str) -> None:
    message = success(GOOD)
    message.start_check.CopyFrom(pb.StartCheck(**fields))
    with pytest.raises(ArtifactRefused, match=words):
        reported(message)


def test_what_was_seen_of_the_start_is_kept() -> None:
    message = success(GOOD)
    message.start_check.CopyFrom(pb.StartCheck(status=pb.START_STATUS_LISTENS, cold_start_ms=9, memory_bytes=1 << 20))
    assert reported(message).start_check == message.start_check
