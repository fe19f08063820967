"""Prebuilt images: real registries, a served control side, a build without a server; secrets that no file repeats."""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder import config
from builder.client.api import Api, ApiError
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.errors import BuildError
from builder.images.external import Access, resolve
from builder.images.image import (
    CONFIG_TYPE,
    INDEX_TYPE,
    Image,
    ImageConfig,
    Platform,
    build_image,
    canonical,
    descriptor,
    digest_of,
)  # fmt: skip
from builder.images.reference import parse
from builder.images.registry import connect
from builder.local import embedded
from tests.build_fixtures import Server, closed_port
from tests.e2e.test_oci_registry import HTPASSWD, PASSWORD, docker_registry
from tests.oci_fixtures import make_layer
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e

ARM = Platform(architecture="arm64")
ENTRY = ("/app/file0",)
IMAGES = {
    "good": ImageConfig(entrypoint=ENTRY),
    "root": ImageConfig(entrypoint=ENTRY, user=""),
    "zero": ImageConfig(entrypoint=ENTRY, user="0:0"),
    "named": ImageConfig(entrypoint=ENTRY, user="www-data"),
    "idle": ImageConfig(entrypoint=()),
    "ports": ImageConfig(entrypoint=ENTRY, ports=(8080, 9090)),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    layer = make_layer(tmp_path_factory.mktemp("layers"), "layer", {"file0": "hello"})
    made = {name: build_image(None, (layer,), each) for name, each in IMAGES.items()}
    made["arm"] = build_image(None, (layer,), IMAGES["good"], ARM)
    helm = "application/vnd.cncf.helm.config.v1+json"
    described = {**descriptor(CONFIG_TYPE, made["good"].config), "mediaType": helm}
    chart = canonical({**json.loads(made["good"].manifest), "config": described})
    made["chart"] = replace(made["good"], manifest=chart, digest=digest_of(chart))
    yield made


@pytest.fixture(scope="module")
def public(images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for no login, with all images and an index of two platforms."""
    with docker_registry(tmp_path_factory.mktemp("public")) as host:
        registry = connect(host)
        for name, image in images.items():
            registry.push(image, f"acme/{name}", "1")
        registry.push(images["arm"], "acme/both", None)
        registry.push(images["good"], "acme/both", None)
        entries = [
            {"mediaType": images[name].media_type, "digest": images[name].digest, "size": len(images[name].manifest),
             "platform": {"os": "linux", "architecture": architecture}}
            for name, architecture in (("arm", "arm64"), ("good", "amd64"))
        ]  # fmt: skip
        for repository, listed in (("acme/both", entries), ("acme/arm", entries[:1])):
            body = canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed})
            url = f"http://{host}/v2/{repository}/manifests/multi"
            assert put(url, body) == 201
        registry.close()
        yield host


@pytest.fixture(scope="module")
def private(images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("private"), htpasswd=HTPASSWD) as host:
        registry = connect(host, username="robot", password=PASSWORD)
        registry.push(images["good"], "acme/secret", "1")
        registry.close()
        yield host


def put(url: str, body: bytes) -> int:
    """The status of an index that is put past the API."""
    return httpx.put(url, content=body, headers={"content-type": INDEX_TYPE}, timeout=120, trust_env=False).status_code


def tags_of(host: str) -> list[str]:
    answer = httpx.get(f"http://{host}/v2/acme/good/tags/list", timeout=120, trust_env=False)
    return sorted(answer.json()["tags"])


@contextmanager
def counting() -> Iterator[tuple[str, list[int]]]:
    """A listener that counts who connects; "host:port" and the count."""
    met = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return
                met[0] += 1

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", met
        listener.shutdown(socket.SHUT_RDWR)


def test_a_registry_that_sends_a_byte_now_and_then_is_cut_off() -> None:
    """Each byte comes before the timeout of a read; the deadline is that of the whole look."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, cut = f"127.0.0.1:{listener.getsockname()[1]}", threading.Event()

        def trickle() -> None:
            with suppress(OSError), listener.accept()[0] as one:
                one.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not cut.wait(0.05):
                    one.sendall(b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(BuildError, match=r"RegistryUnavailable.*did not finish its answers within 0.5 s"):
                resolve(parse(f"{host}/app"), "linux/amd64", Access(private=(host,), whole_s=0.5), None, 1)
        finally:
            cut.set()
            thread.join()


@pytest.fixture(scope="module")
def closed() -> Iterator[str]:
    """Where nobody listens."""
    with closed_port() as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def server(public: str, private: str, closed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A control side without a node."""
    values = {
        "data_dir": str(tmp_path_factory.mktemp("data")),
        "node_dir": str(tmp_path_factory.mktemp("node")),
        "private_registries": (public, private, closed),
        "retry_backoff_ms": 20,
        "tick_ms": 50,
    }
    with embedded.start(config.load(values).settings, worker=False) as running:
        api = Api(running.url, running.token)
        try:
            yield Server(running, api)
        finally:
            api.close()


def asked(reference: str, secret: str = "") -> pb.CreateBuildRequest:
    request = pb.CreateBuildRequest(name="app")
    request.code.image.prebuilt.image_ref = reference
    request.code.image.prebuilt.registry_secret_ref = secret
    return request


def done(server: Server, reference: str, secret: str = "") -> pb.Build:
    return server.wait(server.api.call("CreateBuild", asked(reference, secret)).build)


def save(server: Server, **named: Any) -> pb.SaveBuildSecretsResponse:
    answer: pb.SaveBuildSecretsResponse = server.api.call(
        "SaveBuildSecrets", pb.SaveBuildSecretsRequest(named=[pb.NamedSecret(**named)])
    )
    return answer


def test_a_tag_a_digest_and_an_index_are_resolved_and_nothing_is_written(
    server: Server, public: str, images: dict[str, Image]
) -> None:
    digest = images["good"].digest
    before = tags_of(public)
    for reference in (f"{public}/acme/good:1", f"{public}/acme/good@{digest}", f"{public}/acme/both:multi"):
        build = done(server, reference)
        assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
        name = reference.partition("@")[0]
        repository = name.rpartition(":")[0] if name != f"{public}/acme/good" else name
        tagged = [name] if "@" not in reference else []
        assert list(build.image_refs) == [f"{repository}@{digest}", *tagged]
        assert (build.image_digest, build.artifact_ref, build.source_sha256) == (digest, "", "")
        assert build.code_kind == common.CODE_KIND_PREBUILT
        assert build.deployment_mode == common.DEPLOYMENT_MODE_IMAGE
        assert build.size_bytes == images["good"].size_bytes
        statement = json.loads(build.statement)
        assert statement["subject"] == [{"name": repository, "digest": {"sha256": digest[7:]}}]
        assert statement["predicate"]["buildDefinition"]["externalParameters"] == {"imageRef": reference}
        assert digest in server.log(build.build_id).text
    assert tags_of(public) == before


ROWS = [
    ("{public}/acme/absent:1", "ImageNotFound", "client"),
    ("{public}/acme/good:2", "ImageNotFound", "client"),
    ("{public}/acme/good@sha256:" + "0" * 64, "ImageNotFound", "client"),
    ("{public}/acme/arm:1", "ImagePlatformMismatch", "client"),
    ("{public}/acme/arm:multi", "ImagePlatformMismatch", "client"),
    ("{public}/acme/root:1", "ImageContractViolated", "client"),
    ("{public}/acme/zero:1", "ImageContractViolated", "client"),
    ("{public}/acme/named:1", "ImageContractViolated", "client"),
    ("{public}/acme/idle:1", "ImageContractViolated", "client"),
    ("{public}/acme/chart:1", "ImageContractViolated", "client"),
    ("{private}/acme/secret:1", "ImageForbidden", "client"),
    ("{closed}/acme/app:1", "RegistryUnavailable", "platform"),
    ("localhost:{closed_port}/acme/app:1", "ImageHostRefused", "client"),
]


def test_each_trouble_has_its_reason(server: Server, public: str, private: str, closed: str) -> None:
    names = {"public": public, "private": private, "closed": closed, "closed_port": closed.rpartition(":")[2]}
    builds = {
        reference: server.api.call("CreateBuild", asked(reference.format(**names))).build for reference, _, _ in ROWS
    }
    for reference, reason, whose in ROWS:
        failure = (build := server.wait(builds[reference])).failure
        assert (reference, failure.reason, failure.error_class) == (reference, reason, whose), failure
        assert failure.next and failure.phase == pb.BUILD_PHASE_ATTEST
        assert build.retries == (2 if whose == "platform" else 0)


def test_several_ports_are_a_warning(server: Server, public: str) -> None:
    build = done(server, f"{public}/acme/ports:1")
    assert build.status == pb.BUILD_STATUS_SUCCEEDED
    assert "warning: " in server.log(build.build_id).text


def test_a_private_address_that_no_operator_lists_is_never_connected_to(server: Server) -> None:
    with counting() as (host, met):
        port = host.rpartition(":")[2]
        for name in (host, f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}", f"0.0.0.0:{port}", f"[::1]:{port}"):
            assert done(server, f"{name}/acme/app:1").failure.reason == "ImageHostRefused", name
        assert met == [0]
        socket.create_connection(("127.0.0.1", int(port))).close()


def test_a_private_image_takes_its_secret_and_no_file_repeats_it(
    server: Server, private: str, images: dict[str, Image], tmp_path: Path
) -> None:
    saved = save(server, name="hub", host=private, registry=pb.RegistryLogin(username="robot", password=PASSWORD))
    assert [(one.name, one.type, one.version) for one in saved.secrets] == [("hub", pb.SECRET_TYPE_REGISTRY, 1)]
    build = done(server, f"{private}/acme/secret:1", "hub")
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
    assert build.image_digest == images["good"].digest

    save(server, name="old", registry=pb.RegistryLogin(username="robot", password="no longer valid"))
    assert done(server, f"{private}/acme/secret:1", "old").failure.reason == "ImageForbidden"
    save(server, name="other", host="registry.example.com", registry=pb.RegistryLogin(username="a", password="a-b-c"))
    assert done(server, f"{private}/acme/secret:1", "other").failure.reason == "InvalidRequest"

    save(server, name="token", git_token=pb.GitToken(token="ghp_abcdefgh"))
    for name, reason in (("token", "SecretWrongType"), ("none", "SecretNotFound")):
        with pytest.raises(ApiError) as refused:
            done(server, f"{private}/acme/secret:1", name)
        assert refused.value.detail["reason"] == reason

    listed = server.api.call("ListBuildSecrets", pb.ListBuildSecretsRequest())
    assert [one.name for one in listed.secrets] == ["hub", "old", "other", "token"]
    values = (PASSWORD, "no longer valid", "a-b-c", "ghp_abcdefgh")
    assert_nowhere(Path(server.embedded.settings.data_dir), values)
    assert not any(value in str(listed) for value in values)

    server.api.call("DeleteBuildSecret", pb.DeleteBuildSecretRequest(name="hub"))
    with pytest.raises(ApiError):
        done(server, f"{private}/acme/secret:1", "hub")


def assert_nowhere(folder: Path, values: tuple[str, ...]) -> None:
    """No file below a folder has one of the values, in a form that is easily read. The database is dumped, too."""
    with sqlite3.connect(folder / "builder.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        text = "\n".join(database.iterdump()).encode()
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"builder.db", "secrets.key"} <= {path.name for path in files}
    assert os.stat(folder / "secrets.key").st_mode & 0o777 == 0o600
    for value in values:
        raw = value.encode()
        forms = {raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode(), urllib.parse.quote(value).encode()}
        for content in (text, *(path.read_bytes() for path in files)):
            assert not [form for form in forms if form in content]


def test_without_a_server_the_command_does_the_same(
    public: str, private: str, images: dict[str, Image], tmp_path: Path
) -> None:
    program = Program(tmp_path, {"node_dir": str(tmp_path / "node"), "retry_backoff_ms": "20"})
    ran = program.run("build", "--image", f"{public}/acme/root:1")
    assert (ran.code, ran.out) == (2, "") and "ImageContractViolated" in ran.err
    stored = program.run("secret", "set", "hub", "--type", "registry", "--username", "robot", stdin=PASSWORD.encode())
    assert stored.code == 0, stored.err
    ran = program.run("build", "--image", f"{private}/acme/secret:1", "--secret", "hub")
    assert (ran.code, ran.out) == (0, f"{private}/acme/secret@{images['good'].digest}\n"), ran.err
    ran = program.run("secret", "ls")
    assert ran.out.split()[5:8] == ["hub", "registry", "any"] and PASSWORD not in ran.out + ran.err
    assert program.run("secret", "rm", "hub").code == 0
    assert_nowhere(tmp_path / ".local/share/ignite-builder", (PASSWORD,))
