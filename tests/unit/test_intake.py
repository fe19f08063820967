"""What is refused before a build exists, and which columns a request that is taken has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.credentials import secrets_of
from builder.data import catalog_file
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.services import intake, secrets
from builder.services.errors import CallRefused
from builder.services.labels import label_filter
from builder.services.parts import Parts
from builder.settings import Settings
from builder.store import builds, record
from builder.store.engine import Store, open_store
from builder.stores.folder import FolderStore

DOCS = Path(__file__).resolve().parents[2] / "docs"
LOADED = ("go", "python")
NOT_LOADED = tuple(name for name in common.Runtime.DESCRIPTOR.fields_by_name if name not in LOADED)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/builder.db")
    yield opened
    opened.engine.dispose()


def take(
    store: Store, tmp_path: Path, runtime: str, runtimes: Iterable[str] = LOADED, version: str = ""
) -> dict[str, Any]:
    request = asked()
    if runtime:
        value = getattr(request.code.compile.runtime, runtime)
        value.SetInParent()
        setattr(value, "toolchain_version" if hasattr(value, "toolchain_version") else "version", version)
    return columns(store, tmp_path, request, runtimes=runtimes)


def asked(**fields: Any) -> pb.CreateBuildRequest:
    """A request that is taken, but for what `fields` make of it."""
    request = pb.CreateBuildRequest(name="app", **fields)
    if request.WhichOneof("source") is None:
        request.code.compile.source_code = b"text\n"
    return request


def columns(
    store: Store,
    tmp_path: Path,
    request: pb.CreateBuildRequest,
    settings: Settings | None = None,
    runtimes: Iterable[str] = LOADED,
) -> dict[str, Any]:
    known, sources = catalog.read(catalog_file("")), FolderStore(tmp_path / "sources")
    arguments = {name: ("GREETING",) if name == "go" else () for name in runtimes}
    parts = Parts(
        settings=settings or Settings(data_dir=str(tmp_path)),
        store=store,
        sources=sources,
        catalog=known,
        runtimes=arguments,
        wake=lambda: None,
        changed=lambda build_id: None,
        stale=lambda call: None,
        dropped=lambda messages: None,
    )
    return intake.take(request, "acme", parts)


def refusal(store: Store, tmp_path: Path, request: pb.CreateBuildRequest, **more: Any) -> tuple[str, str]:
    """(reason, where)"""
    with pytest.raises(BuildError) as refused:
        columns(store, tmp_path, request, **more)
    return refused.value.reason, refused.value.where


@pytest.mark.parametrize("runtime", NOT_LOADED)
def test_a_runtime_without_a_pipeline_is_unimplemented_and_says_what_there_is(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    with pytest.raises(CallRefused) as refused:
        take(store, tmp_path, runtime, version="0.0")
    assert refused.value.code == "UNIMPLEMENTED"
    assert refused.value.message == f"{runtime} is not built yet; there is {', '.join(LOADED)} (docs/api.md)"
    assert not list((tmp_path / "sources").rglob("*"))


def test_a_loaded_pipeline_makes_its_runtime_buildable(store: Store, tmp_path: Path) -> None:
    for runtime in (*NOT_LOADED, *LOADED, ""):
        assert take(store, tmp_path, runtime, (*LOADED, *NOT_LOADED))


def test_an_unknown_version_of_a_loaded_runtime_is_the_clients_mistake(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="UnknownRuntimeVersion"):
        take(store, tmp_path, "go", version="0.1")


def test_every_runtime_of_the_wire_has_a_pipeline() -> None:
    assert set(pipelines.names()) >= set(common.Runtime.DESCRIPTOR.fields_by_name), "others are found by detect alone"


# Tags


def test_a_build_has_a_bounded_number_of_tags(store: Store, tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(33)]
    assert json.loads(columns(store, tmp_path, asked(tags=names[:32]))["tags"]) == names[:32]
    assert refusal(store, tmp_path, asked(tags=names)) == ("InvalidRequest", "tags")


@pytest.mark.parametrize("tag", ["sha256-" + "0f" * 32, "build-abc-1", "", "-a", "a/b", "a" * 129])
def test_a_tag_that_is_none_or_has_a_meaning_of_its_own_is_refused(store: Store, tmp_path: Path, tag: str) -> None:
    assert refusal(store, tmp_path, asked(tags=["v1", tag])) == ("InvalidRequest", "tags[1]")


@pytest.mark.parametrize("tag", ["sha256-" + "0f" * 31, "sha256", "builds", "a" * 128])
def test_a_tag_that_only_looks_alike_is_taken(store: Store, tmp_path: Path, tag: str) -> None:
    assert json.loads(columns(store, tmp_path, asked(tags=[tag, tag]))["tags"]) == [tag, tag]


# What nobody would look at


ARCHIVE = b"PK\x03\x04"
TWICE = common.CodeSource(compile=common.CompileSource(source_code=b"x\n", build_args={"GOFLAGS": "-x"}))
PREBUILT = common.CodeSource(image=common.ImageSource(prebuilt=common.PrebuiltImage(image_ref="debian:12")))
IGNORED = {
    "dockerfile": asked(dockerfile="Dockerfile"),
    "buildpacks": asked(buildpacks=True),
    "buildpacks beside a context": asked(context_id="c", buildpacks=True),
    "buildpacks of a prebuilt image": asked(code=PREBUILT, buildpacks=True),
    "buildArgs": asked(code=TWICE, build_args={"GOFLAGS": "-x"}),
    "sourceRef": asked(context_id="c", source_ref=common.SourceRef(context_id="c")),
    "repository": asked(repository="acme/a", output_repository="acme/b"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_a_build_would_not_look_at_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    assert refusal(store, tmp_path, IGNORED[name]) == ("InvalidRequest", name.partition(" ")[0])
    assert not list((tmp_path / "sources").rglob("*"))


@pytest.mark.parametrize("source", [{"zipped_code": ARCHIVE}, {"context_id": "c"}])
def test_a_dockerfile_beside_a_context_is_image_mode(store: Store, tmp_path: Path, source: dict[str, Any]) -> None:
    assert refusal(store, tmp_path, asked(dockerfile="Dockerfile", **source)) == ("InvalidRequest", "dockerfile")
    assert not list((tmp_path / "sources").rglob("*"))


def test_an_uploaded_context_waits_in_the_queue_of_images(store: Store, tmp_path: Path) -> None:
    request = pb.CreateBuildRequest(name="app", tags=["v1"])
    request.code.image.from_code.CopyFrom(common.ImageFromCode(archive=ARCHIVE, build_args={"TOKEN": "s"}))
    found = columns(store, tmp_path, request)
    assert (found["queue"], found["runtime"], found["toolchain"]) == ("image", "", "")
    assert (found["repository"], found["tags"], found["source_size"]) == ("acme/app", '["v1"]', len(ARCHIVE))
    assert "archive" not in json.loads(found["request"])["code"]["image"]["fromCode"]
    assert builds.submit(store, found).row["status"] == "PENDING"
    request.code.image.from_code.archive = b""
    assert refusal(store, tmp_path, request) == ("SourceEmpty", "code.image.fromCode.archive")
    request.source_ref.sha256 = "0" * 64
    assert refusal(store, tmp_path, request) == ("SourceNotFound", "sourceRef.sha256")


FORGE = "https://forge.example.com/app.git"


def from_git(**fields: Any) -> pb.CreateBuildRequest:
    request = pb.CreateBuildRequest(name="app")
    request.code.image.from_git.CopyFrom(common.ImageFromGit(**{"url": FORGE, **fields}))
    return request


def test_a_repository_waits_in_the_queue_of_images_without_a_source(store: Store, tmp_path: Path) -> None:
    request = from_git(reference="v1", sub_path="app", dockerfile_path="Containerfile", build_args={"TOKEN": "s"})
    found = columns(store, tmp_path, request)
    assert (found["queue"], found["runtime"], found["repository"]) == ("image", "", "acme/app")
    assert (found["source_sha256"], found["source_size"]) == ("", 0)
    assert not list((tmp_path / "sources").rglob("*"))
    row = builds.submit(store, found).row
    assert record.request(row) == request
    made = record.build(row)
    assert made.code_kind == common.CODE_KIND_GIT_IMAGE and dict(made.build_args) == {"TOKEN": "***"}


@pytest.mark.parametrize(
    ("fields", "reason", "where"),
    [
        ({"url": ""}, "GitUrlRefused", "url"),
        ({"url": "ext::sh -c id"}, "GitUrlRefused", "url"),
        ({"url": "https://ada:token@forge.example.com/app.git"}, "GitUrlRefused", "url"),
        ({"reference": "-x"}, "InvalidRequest", "reference"),
        ({"sub_path": "../x"}, "InvalidRequest", "subPath"),
        ({"dockerfile_path": "/etc/passwd"}, "InvalidRequest", "dockerfilePath"),
        ({"build_args": {"A B": "x"}}, "InvalidRequest", "buildArgs"),
        ({"build_args": {"A": "x\0"}}, "InvalidRequest", "buildArgs.A"),
        ({"secret_ref": "nobody"}, "SecretNotFound", "secretRef"),
        ({"secret_ref": "login"}, "SecretWrongType", "secretRef"),
    ],
)
def test_what_a_repository_cannot_be_is_refused_by_its_field(
    store: Store, tmp_path: Path, fields: dict[str, Any], reason: str, where: str
) -> None:
    settings = Settings(data_dir=str(tmp_path))
    login = pb.NamedSecret(name="login", registry=pb.RegistryLogin(username="ada", password="x"))
    secrets.save(secrets_of(settings, store), "acme", pb.SaveBuildSecretsRequest(named=[login]))
    found = refusal(store, tmp_path, from_git(**fields), settings=settings)
    assert found == (reason, f"code.image.fromGit.{where}")


def test_a_repository_stands_beside_no_upload_and_names_each_thing_once(store: Store, tmp_path: Path) -> None:
    beside = from_git()
    beside.source_ref.sha256 = "0" * 64
    twice = from_git(dockerfile_path="a")
    twice.dockerfile = "b"
    arguments = from_git(build_args={"A": "1"})
    arguments.build_args["A"] = "2"
    packs = from_git(dockerfile_path="a")
    packs.buildpacks = True
    refused = ((beside, "sourceRef"), (twice, "dockerfile"), (arguments, "buildArgs"), (packs, "buildpacks"))
    for request, where in refused:
        assert refusal(store, tmp_path, request) == ("InvalidRequest", where)


def test_an_image_without_its_source_names_those_there_are(store: Store, tmp_path: Path) -> None:
    request = pb.CreateBuildRequest(name="app")
    request.code.image.SetInParent()
    assert refusal(store, tmp_path, request) == ("InvalidRequest", "code.image")


@pytest.mark.parametrize("configured", ["", "reg.test:5000"])
def test_a_registry_that_is_not_the_servers_is_refused(store: Store, tmp_path: Path, configured: str) -> None:
    settings = Settings(registry=configured)
    for named in ("elsewhere.test", "reg.test", "docker.io"):
        found = refusal(store, tmp_path, asked(registry=named), settings=settings)
        assert found == ("RepositoryForbidden", "registry")
    assert columns(store, tmp_path, asked(registry=configured), settings)["repository"] == "acme/app"


@pytest.mark.parametrize("where", ["contextId", "sourceRef.contextId", "sourceRef.sha256"])
def test_an_unknown_upload_is_named_by_its_field(store: Store, tmp_path: Path, where: str) -> None:
    request = asked(context_id="ctx-nobody-has")
    if where != "contextId":
        named = {"sha256": "0" * 64} if where.endswith("sha256") else {"context_id": "ctx-nobody-has"}
        request = asked(source_ref=common.SourceRef(**named), code=common.CodeSource(compile=common.CompileSource()))
    assert refusal(store, tmp_path, request) == ("SourceNotFound", where)


# Build arguments and repositories


def test_an_argument_that_the_named_runtime_does_not_read_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    for beside in (True, False):
        request = asked(build_args={"GREETNG": "secret"}) if beside else asked()
        request.code.compile.runtime.go.SetInParent()
        if not beside:
            request.code.compile.build_args["GREETNG"] = "secret"
        with pytest.raises(BuildError) as refused:
            columns(store, tmp_path, request)
        assert (refused.value.reason, refused.value.where) == ("BuildArgUnknown", "buildArgs.GREETNG")
        assert refused.value.message == 'go has no build argument "GREETNG"; it takes GREETING, start_check'
    assert not list((tmp_path / "sources").rglob("*"))


def test_a_known_argument_passes_and_without_a_runtime_the_node_judges(store: Store, tmp_path: Path) -> None:
    known = asked(build_args={"GREETING": "x"})
    known.code.compile.runtime.go.SetInParent()
    assert columns(store, tmp_path, known)["runtime"] == "go"
    assert columns(store, tmp_path, asked(build_args={"ANY": "x"}))["runtime"] == ""


@pytest.mark.parametrize("part", ["blobs", "uploads", "manifests", "tags", "referrers", "_catalog"])
@pytest.mark.parametrize("shape", ["acme/{}", "acme/a/{}", "acme/{}/a"])
def test_a_word_that_registries_route_by_is_no_part_of_a_repository(
    store: Store, tmp_path: Path, part: str, shape: str
) -> None:
    with pytest.raises(BuildError) as refused:
        columns(store, tmp_path, asked(output_repository=shape.format(part)))
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "repository")
    assert f'"{part}"' in refused.value.message and "outputRepository" in refused.value.next


def test_a_repository_of_any_length_is_judged_by_its_length_first(store: Store, tmp_path: Path) -> None:
    """An expression over three million parts takes the process a second of each call."""
    request = asked(output_repository="acme/" + "a." * 3_000_000 + "!")
    with pytest.raises(BuildError) as refused:
        columns(store, tmp_path, request)
    assert refused.value.reason == "InvalidRequest" and "more than" in refused.value.message
    assert len(refused.value.message) < 300


def test_such_a_name_needs_a_repository_of_its_own(store: Store, tmp_path: Path) -> None:
    request = asked()
    request.name = "uploads"
    assert refusal(store, tmp_path, request) == ("InvalidRequest", "name")
    request.output_repository = "acme/uploads-app"
    assert columns(store, tmp_path, request)["repository"] == "acme/uploads-app"


# Columns


def test_the_size_of_a_log_is_the_settings(store: Store, tmp_path: Path) -> None:
    made = columns(store, tmp_path, asked(), Settings(log_bytes=64 * 1024))
    assert builds.submit(store, made).row["log_limit"] == 64 * 1024


def test_a_request_beside_its_source_is_small_and_nothing_of_a_larger_one_is_stored(
    store: Store, tmp_path: Path
) -> None:
    def asking(size: int, source: bytes) -> pb.CreateBuildRequest:
        return pb.CreateBuildRequest(name="app", zipped_code=source, build_args={"A": "x" * size})

    assert columns(store, tmp_path, asking(60_000, b"x" * 200_000))["source_size"] == 200_000
    before = sorted((tmp_path / "sources").rglob("*"))
    with pytest.raises(BuildError, match=r"InvalidRequest: the request has 7\d{4} bytes beside its source") as refused:
        columns(store, tmp_path, asking(70_000, b"y" * 200_000))
    assert (refused.value.where, sorted((tmp_path / "sources").rglob("*"))) == ("body", before)


# Labels


def test_labels_are_kept_as_they_are_and_change_what_a_key_stands_for(store: Store, tmp_path: Path) -> None:
    values = {"a": "", "deploy.id/x-1": "\u00fc=\U0001f600" + "x" * 249, "k" * 63: "v"}
    made = columns(store, tmp_path, asked(labels=values))
    assert json.loads(made["request"])["labels"] == values
    assert made["request_hash"] != columns(store, tmp_path, asked())["request_hash"]
    assert columns(store, tmp_path, asked(labels={str(n): "v" for n in range(16)}))


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ({str(n): "v" for n in range(17)}, "labels"),
        ({"k" * 64: "v"}, f"labels.{'k' * 64}"),
        ({"": "v"}, "labels."),
        ({"a=b": "v"}, "labels.a=b"),
        ({"-a": "v"}, "labels.-a"),
        ({"\u00fc": "v"}, "labels.\u00fc"),
        ({"a": "\u00fc" * 128 + "x"}, "labels.a"),
        ({"a": "b\x00"}, "labels.a"),
        ({"a": "\x1b[31m"}, "labels.a"),
        ({"a": "\u202e"}, "labels.a"),
    ],
)
def test_labels_that_nothing_could_keep_or_show_are_refused(
    store: Store, tmp_path: Path, labels: dict[str, str], where: str
) -> None:
    assert refusal(store, tmp_path, asked(labels=labels)) == ("InvalidRequest", where)


def test_a_filter_by_labels_is_of_pairs() -> None:
    assert label_filter(["a=b=c", "d=", "a=b=c"]) == {"a": "b=c", "d": ""}
    for texts in (["a"], ["=b"], ["a=b", "a=c"], ["a=\n"], [f"k{n}=v" for n in range(17)]):
        with pytest.raises(BuildError) as refused:
            label_filter(texts)
        assert (refused.value.reason, refused.value.where[:5]) == ("InvalidRequest", "label")
