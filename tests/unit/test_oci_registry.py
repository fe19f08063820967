"""The registry protocol against a small registry in memory: order, retries, authorization, what is never said.

The real registry is in tests/e2e/test_oci_registry.py; here every single request can be made to fail.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from builder.direct import DirectClient
from builder.errors import BuildError, PlatformError
from builder.images.destination import EMPTY, Destination, fallback_tag
from builder.images.image import digest_of
from builder.images.mounts import Mounts
from builder.images.registry import ATTACH_ROUNDS, Registry
from builder.images.transport import CHALLENGE, MAX_TOKEN_BYTES, NOTICE_S, Credentials, Patience, Transport, is_loopback
from tests.growth import assert_linear
from tests.oci_fixtures import make_image

Fault = Callable[[httpx.Request], httpx.Response | None]
SECRET = "s3cret-passw0rd"


@dataclass
class Memory:
    """A registry in memory. It refuses a manifest whose blobs are missing, as real ones do."""

    referrers_api: bool = False
    deletes: str = "tag"
    token: str = ""
    basic: str = ""
    fault: Fault = lambda request: None
    after: Fault = lambda request: None
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    manifests: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    uploads: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(f"{request.method} {request.url.path}")
        body = request.read()
        answer = self.fault(request)
        if answer is None:
            answer = self.challenge(request) or self.serve(request, body)
            answer = self.after(request) or answer
        if isinstance(answer.stream, httpx.ByteStream):  # as a real transport gives it: not read yet
            content = httpx.ByteStream(b"".join(answer.stream))
            return httpx.Response(answer.status_code, headers=answer.headers, stream=content)
        return answer

    def challenge(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.path == "/token":
            if self.basic and request.headers.get("authorization") != self.basic:
                return httpx.Response(401, json={"errors": [{"code": "UNAUTHORIZED", "message": SECRET}]})
            return httpx.Response(200, json={"token": self.token})
        given = request.headers.get("authorization", "")
        if self.token and given != f"Bearer {self.token}":
            scope = 'scope="repository:org/app:pull,push"'
            header = f'Bearer realm="https://auth.test/token",service="reg",{scope}'
            return httpx.Response(401, headers={"WWW-Authenticate": header})
        if self.basic and not self.token and given != self.basic:
            return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return None

    def serve(self, request: httpx.Request, body: bytes) -> httpx.Response:
        found = re.fullmatch(r"/v2/(.+)/(blobs|manifests|referrers|uploads)/(.*)", request.url.path)
        assert found, request.url
        repository, kind, name = found.groups()
        repository = repository.removesuffix("/blobs")
        blobs, manifests = self.blobs.setdefault(repository, {}), self.manifests.setdefault(repository, {})
        if kind == "uploads":
            return self.upload(request, repository, name, body)
        if kind == "referrers":
            return self.list_referrers(name, manifests)
        if kind == "blobs":
            if name not in blobs:
                return httpx.Response(404, json={"errors": [{"code": "BLOB_UNKNOWN"}]})
            start = int(request.headers.get("range", "bytes=0-")[6:-1])
            content = b"" if request.method == "HEAD" else blobs[name][start:]
            return httpx.Response(206 if start else 200, content=content)
        if request.method == "PUT":
            return self.put_manifest(request, name, body, blobs, manifests)
        if request.method == "DELETE":
            return self.delete_manifest(name, manifests)
        if name not in manifests:
            return httpx.Response(404)
        media_type, data = manifests[name]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
        return httpx.Response(200, headers=headers, content=b"" if request.method == "HEAD" else data)

    def upload(self, request: httpx.Request, repository: str, name: str, body: bytes) -> httpx.Response:
        if request.method == "POST":
            mount, source = request.url.params.get("mount", ""), request.url.params.get("from", "")
            if mount and mount in self.blobs.get(source, {}):
                self.blobs[repository][mount] = self.blobs[source][mount]
                return httpx.Response(201)
            self.uploads += 1
            where = f"/v2/{repository}/blobs/uploads/{self.uploads}?_state=a%3Db%2Bc"
            return httpx.Response(202, headers={"Location": where})
        digest = request.url.params["digest"]
        assert request.url.params["_state"] == "a=b+c", "the address of the upload was changed"
        assert request.headers["content-length"] == str(len(body))
        assert digest_of(body) == digest
        self.blobs[repository][digest] = body
        return httpx.Response(201)

    def put_manifest(
        self,
        request: httpx.Request,
        name: str,
        body: bytes,
        blobs: dict[str, bytes],
        manifests: dict[str, tuple[str, bytes]],
    ) -> httpx.Response:
        value = json.loads(body)
        parts = [value["config"], *value["layers"]] if "config" in value else []
        if any(part["digest"] not in blobs for part in parts):
            return httpx.Response(400, json={"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]})
        if not name.startswith("sha256:"):
            assert "config" not in value or digest_of(body) in manifests, "the tag came before the digest"
        manifests[name] = manifests[digest_of(body)] = (request.headers["content-type"], body)
        subject = value.get("subject", {}).get("digest") if self.referrers_api else None
        return httpx.Response(201, headers={"OCI-Subject": subject} if subject else {})

    def delete_manifest(self, name: str, manifests: dict[str, tuple[str, bytes]]) -> httpx.Response:
        """`deletes` is tag (as the specification says), manifest (of a tag, with all its tags), a digest alone as
        docker-registry 2.8 does, or the status of the refusal."""
        if self.deletes.isdigit():
            return httpx.Response(int(self.deletes))
        is_tag = not name.startswith("sha256:")
        if name not in manifests or (is_tag and self.deletes == "digest"):
            return httpx.Response(404)
        if is_tag and self.deletes == "tag":
            del manifests[name]
            return httpx.Response(202)
        for same in [one for one, value in manifests.items() if value == manifests[name]][::-1]:
            del manifests[same]
        return httpx.Response(202)

    def list_referrers(self, digest: str, manifests: dict[str, tuple[str, bytes]]) -> httpx.Response:
        if not self.referrers_api:
            return httpx.Response(404)
        found = []
        for media_type, body in {data: (kind, data) for kind, data in manifests.values()}.values():
            value = json.loads(body)
            if value.get("subject", {}).get("digest") == digest:
                entry = {"mediaType": media_type, "digest": digest_of(body), "size": len(body)}
                found.append({**entry, "artifactType": value["artifactType"], "annotations": value["annotations"]})
        return httpx.Response(200, json={"schemaVersion": 2, "manifests": found})


def registry(
    memory: Memory,
    *,
    credentials: Credentials | None = None,
    slept: list[float] | None = None,
    mounts: Mounts | None = None,
    host: str = "reg.test",
    check: Callable[[], None] = lambda: None,
) -> Registry:
    transport = Transport(
        host=host,
        client=DirectClient(httpx.MockTransport(memory), timeout=httpx.Timeout(5)),
        credentials=credentials,
        patience=Patience(attempts=4),
        sleep=(slept if slept is not None else []).append,
        now=lambda: 1_700_000_000.0,
        check=check,
    )
    return Registry(transport=transport, mounts=mounts)


def mounts_of(folder: Path, organization: str) -> Mounts:
    return Mounts(folder=folder / "pushed", host="reg.test", organization=organization)


def attach(to: Destination, digest: str, text: str = "statement") -> str:
    made = to.attach("org/app", digest, "application/vnd.in-toto+json", text.encode(), "text/plain", {"k": "v"})
    made.confirm()
    return made.digest


def test_push_sends_blobs_then_the_digest_then_the_tag(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    pushed = registry(memory).push(image, "org/app", "v1")
    assert pushed.reference == f"reg.test/org/app@{image.digest}"
    assert (pushed.uploaded_blobs, pushed.existing_blobs) == (3, 0)
    assert pushed.uploaded_bytes == sum(map(len, memory.blobs["org/app"].values()))
    assert memory.seen[-2:] == [f"PUT /v2/org/app/manifests/{image.digest}", "PUT /v2/org/app/manifests/v1"]


def test_the_config_is_sent_beside_the_layers(tmp_path: Path) -> None:
    image, asked = make_image(tmp_path), threading.Event()
    config, beside = image.config_digest, list[bool]()

    def fault(request: httpx.Request) -> None:
        if request.method == "HEAD" and not request.url.path.endswith(config):
            asked.set()
        if request.method == "PUT" and request.url.params.get("digest") == config:
            beside.append(asked.wait(120))

    assert registry(Memory(fault=fault)).push(image, "org/app", "v1").uploaded_blobs == 3
    assert beside == [True]


def test_a_login_and_its_tokens_serve_the_next_push(tmp_path: Path) -> None:
    """What is to be sent is then asked for at once, the config beside the layers, and no token is fetched."""
    memory, image, checked = Memory(token="t0k3n"), make_image(tmp_path), list[str]()
    first = registry(memory, credentials=Credentials(username="robot", password="secret"))
    first.push(image, "org/app", "v1")
    memory.seen.clear()
    again = first.again(None, lambda: checked.append("second"), lambda seconds: None)
    assert again.push(make_image(tmp_path / "other", "other"), "org/app", "v2").uploaded_blobs == 3
    assert checked and not [line for line in memory.seen if "token" in line]
    assert sorted(line.split()[0] for line in memory.seen) == ["HEAD"] * 3 + ["POST"] * 3 + ["PUT"] * 5


def test_a_registry_that_goes_from_tokens_to_basic_is_followed(tmp_path: Path) -> None:
    credentials = Credentials(username="robot", password=SECRET)
    memory, image = Memory(token="t0k3n"), make_image(tmp_path)
    first = registry(memory, credentials=credentials)
    first.push(image, "org/app", "v1")
    memory.token, memory.basic = "", credentials.basic()
    again = first.again(None, lambda: None, lambda seconds: None)
    assert again.push(make_image(tmp_path / "other", "other"), "org/app", "v2").uploaded_blobs == 3


def test_a_refusal_is_asked_anew_with_the_next_use(tmp_path: Path) -> None:
    memory, image = Memory(token="narrow"), make_image(tmp_path)
    memory.after = lambda request: (
        httpx.Response(403) if request.headers.get("authorization") == "Bearer narrow" else None
    )
    first = registry(memory, credentials=Credentials(username="robot", password=SECRET))
    with pytest.raises(PlatformError, match="refused with 403"):
        first.push(image, "org/app", "v1")
    memory.token = "wide"
    memory.fault = lambda request: httpx.Response(403) if "narrow" in request.headers.get("authorization", "") else None
    assert first.again(None, lambda: None, lambda seconds: None).push(image, "org/app", "v1").uploaded_blobs == 3


def test_a_second_push_is_heads_and_two_manifests(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    registry(memory).push(image, "org/app", "v1")
    memory.seen.clear()
    again = registry(memory).push(image, "org/app", "v1")
    assert (again.uploaded_blobs, again.uploaded_bytes, again.existing_blobs) == (0, 0, 3)
    assert [line.split()[0] for line in memory.seen] == ["HEAD"] * 3 + ["PUT"] * 2


def test_a_base_layer_is_mounted_where_it_is_and_sent_where_it_is_not(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path, layers=1)
    based = replace(image, layers=(replace(image.layers[0], base="go"),))
    known = mounts_of(tmp_path, "org")
    assert registry(memory, mounts=known).push(based, "org/first", None).uploaded_blobs == 2
    pushed = registry(memory, mounts=known).push(based, "org/app", "v1")
    assert (pushed.uploaded_blobs, pushed.uploaded_bytes) == (1, len(image.config))

    def no_mount(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(403) if "mount" in request.url.params else None

    memory.fault = no_mount
    assert registry(memory, mounts=known).push(based, "org/late", None).uploaded_blobs == 2
    memory.fault = lambda request: None
    assert known.source(based.layers[0].digest) == "org/late", "what was sent last is the better source"


def test_a_token_service_that_refuses_the_other_repository_costs_an_upload(tmp_path: Path) -> None:
    memory, image = Memory(token="t0ken"), make_image(tmp_path, layers=1)
    based = replace(image, layers=(replace(image.layers[0], base="go"),))
    known = mounts_of(tmp_path, "org")
    registry(memory, mounts=known).push(based, "org/first", None)

    def one_repository(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(403) if len(request.url.params.get_list("scope")) > 1 else None

    memory.fault = one_repository
    assert registry(memory, mounts=known).push(based, "org/second", None).uploaded_blobs == 2
    assert memory.seen.count("GET /token") == 3, "one for each repository, and the one that was refused"


def test_a_source_that_is_gone_costs_an_upload_once(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path, layers=1)
    based = replace(image, layers=(replace(image.layers[0], base="go"),))
    known = mounts_of(tmp_path, "org")
    registry(memory, mounts=known).push(based, "org/first", None)
    memory.blobs["org/first"].clear()
    assert registry(memory, mounts=known).push(based, "org/second", None).uploaded_blobs == 2
    assert registry(memory, mounts=known).push(based, "org/third", None).uploaded_blobs == 1


def test_a_repository_of_another_organization_or_registry_is_never_named(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path, layers=1)
    based = replace(image, layers=(replace(image.layers[0], base="go"),))
    registry(memory, mounts=mounts_of(tmp_path, "org")).push(based, "org/app", None)

    def named(request: httpx.Request) -> httpx.Response | None:
        assert "from" not in request.url.params
        return None

    memory.fault = named
    assert registry(memory, mounts=mounts_of(tmp_path, "other")).push(based, "other/app", None).uploaded_blobs == 2
    elsewhere = replace(mounts_of(tmp_path, "org"), host="elsewhere.test")
    assert registry(memory, mounts=elsewhere).push(based, "org/new", None).uploaded_blobs == 2
    plain = registry(memory, mounts=mounts_of(tmp_path, "org")).push(image, "org/plain", None)
    assert plain.uploaded_blobs == 2, "only a base's layers are noted"


def test_a_note_that_is_no_repository_or_cannot_be_kept_is_no_trouble(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path, layers=1)
    based = replace(image, layers=(replace(image.layers[0], base="go"),))
    known = mounts_of(tmp_path, "org")
    known.remember(based.layers[0].digest, "../../etc?x=1")
    assert known.source(based.layers[0].digest) == ""
    (tmp_path / "file").write_text("")
    nowhere = replace(known, folder=tmp_path / "file" / "pushed")
    assert registry(memory, mounts=nowhere).push(based, "org/app", None).uploaded_blobs == 2


def broken(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError(f"reset {SECRET}", request=request)


FAULTS: dict[str, Callable[[httpx.Request], httpx.Response]] = {
    "429": lambda request: httpx.Response(429),
    "503": lambda request: httpx.Response(503, text=SECRET),
    "500": lambda request: httpx.Response(500),
    "reset": broken,
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_any_single_request_may_fail_in_any_way(tmp_path: Path, kind: str, when: str) -> None:
    """`after`: the registry did it and the answer was lost."""
    image = make_image(tmp_path)
    clean = Memory()
    client = registry(clean)
    client.push(image, "org/app", "v1")
    attach(client, image.digest)
    client.put_tag("org/app", image.digest, "v2")
    for broken_one in range(len(clean.seen)):
        count = iter(range(10**6))

        def fault(request: httpx.Request, count: Iterator[int] = count, one: int = broken_one) -> httpx.Response | None:
            return FAULTS[kind](request) if next(count) == one else None

        memory = Memory(fault=fault) if when == "before" else Memory(after=fault)
        client = registry(memory)
        assert client.push(image, "org/app", "v1").digest == image.digest
        attach(client, image.digest)
        client.put_tag("org/app", image.digest, "v2")
        assert client.resolve("org/app", "v1") == client.resolve("org/app", "v2") == image.digest
        assert len(client.referrers("org/app", image.digest)) == 1
        assert set(memory.blobs["org/app"]) == set(clean.blobs["org/app"])


@pytest.mark.parametrize("kind", FAULTS)
def test_giving_up_names_host_status_and_attempts_and_no_secret(tmp_path: Path, kind: str) -> None:
    slept: list[float] = []
    memory = Memory(fault=FAULTS[kind])
    with pytest.raises(PlatformError) as caught:
        registry(memory, slept=slept).push(make_image(tmp_path), "org/app", "v1")
    error = caught.value
    assert error.reason == "RegistryUnavailable" and error.retried
    assert "reg.test" in error.message and "4 attempts" in error.message
    assert ("broke the connection" if kind == "reset" else kind) in error.message
    assert SECRET not in str(error) and error.__cause__ is None
    assert slept == [0.2, 0.4, 0.8] and len(memory.seen) == 4


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("3", 3.0),
        ("Tue, 14 Nov 2023 22:13:25 GMT", 5.0),
        ("soon", 0.2),
        ("-1", 0.2),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 0.2),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0.2),
    ],
)
def test_retry_after_is_heard(value: str, pause: float) -> None:
    slept: list[float] = []
    answers = iter([httpx.Response(429, headers={"Retry-After": value})])
    memory = Memory(fault=lambda request: next(answers, None))
    assert registry(memory, slept=slept).resolve("org/app", "v1") is None
    assert slept == [pause]


def test_a_wish_beyond_patience_is_handed_on_at_once() -> None:
    memory = Memory(fault=lambda request: httpx.Response(503, headers={"Retry-After": "600"}))
    with pytest.raises(PlatformError) as caught:
        registry(memory).resolve("org/app", "v1")
    assert caught.value.retry_after_ms == 600_000 and "1 attempt" in caught.value.message
    assert len(memory.seen) == 1


def test_a_build_that_must_stop_tries_no_more() -> None:
    stopped: list[bool] = []

    def check() -> None:
        if stopped:
            raise BuildError("Cancelled", "stopped")

    def busy(request: httpx.Request) -> httpx.Response:
        stopped.append(True)
        return httpx.Response(503)

    memory = Memory(fault=busy)
    with pytest.raises(BuildError, match="Cancelled"):
        registry(memory, check=check).resolve("org/app", "v1")
    with pytest.raises(BuildError, match="Cancelled"):
        list(registry(memory, check=check).open_blob("org/app", "sha256:" + "0" * 64))
    assert len(memory.seen) == 1


def test_an_upload_stops_between_its_chunks(tmp_path: Path) -> None:
    image, memory = make_image(tmp_path, layers=1), Memory()
    memory.blobs["org/app"] = {image.config_digest: image.config}

    def check() -> None:
        if memory.uploads:  # the layer's address is known: next come its bytes
            raise BuildError("Timeout", "over")

    with pytest.raises(BuildError, match="Timeout"):
        registry(memory, check=check).push(image, "org/app", "v1")
    assert [line.split()[0] for line in memory.seen] == ["HEAD", "HEAD", "POST"]
    assert set(memory.blobs["org/app"]) == {image.config_digest}


def test_a_layer_that_waits_for_its_next_try_hears_that_another_one_failed(tmp_path: Path) -> None:
    """Its wait would be eleven days; whoever wakes it does so after a piece."""
    image, waits = make_image(tmp_path), threading.Event()
    busy, refused = (layer.digest for layer in image.layers)
    slept: list[float] = []

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method == "HEAD" and request.url.path.endswith(busy):
            return httpx.Response(503, headers={"Retry-After": "999999"})
        if request.method == "HEAD" and request.url.path.endswith(refused):
            assert waits.wait(120)
            return httpx.Response(403)
        return None

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        waits.set()
        threading.Event().wait(0.001)

    memory = Memory(fault=fault)
    to = registry(memory)
    to = replace(to, transport=replace(to.transport, patience=Patience(longest_ms=10**10), sleep=sleep))
    with pytest.raises(PlatformError, match="RegistryRefused"):
        to.push(image, "org/app", "v1")
    assert max(slept) <= NOTICE_S and memory.seen.count(f"HEAD /v2/org/app/blobs/{busy}") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 501])
def test_a_no_is_not_repeated(tmp_path: Path, status: int) -> None:
    answer = httpx.Response(status, json={"errors": [{"code": "DENIED", "message": SECRET}]})
    memory = Memory(
        fault=lambda request: httpx.Response(status, json=answer.json()) if request.method == "PUT" else None
    )
    client = registry(memory, credentials=Credentials(username="robot", password=SECRET))
    with pytest.raises(PlatformError) as caught:
        client.push(make_image(tmp_path), "org/app", "v1")
    assert str(status) in caught.value.message and "DENIED" in caught.value.message
    is_about_us = status in (401, 403)
    assert caught.value.reason == ("RegistryRefused" if is_about_us else "RegistryUnavailable")
    assert caught.value.retried != is_about_us
    assert not is_about_us or ("user robot" in caught.value.message and "registry_password" in caught.value.next)
    assert SECRET not in str(caught.value)
    assert not memory.manifests.get("org/app"), "what fails on the way leaves no tag"


def test_a_redirect_loop_is_the_registrys_fault() -> None:
    where = {"Location": "https://reg.test/v2/org/app/manifests/v1?signature=" + SECRET}
    memory = Memory(fault=lambda request: httpx.Response(307, headers=where))
    with pytest.raises(PlatformError, match=r"RegistryUnavailable.*redirected again and again") as caught:
        registry(memory).resolve("org/app", "v1")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_a_token_that_cannot_be_decoded_is_the_registrys_fault() -> None:
    memory = Memory(token="one")

    def damaged(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/token":
            return None
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))

    memory.fault = damaged
    with pytest.raises(PlatformError, match=r"RegistryUnavailable.*token service auth.test gave no token"):
        registry(memory).resolve("org/app", "v1")


def test_a_token_service_is_read_up_to_a_limit() -> None:
    memory, read = Memory(token="one"), list[int]()

    def endless(request: httpx.Request) -> httpx.Response | None:
        def chunks() -> Iterator[bytes]:
            for number in range(1000):
                read.append(number)
                yield b" " * MAX_TOKEN_BYTES

        return httpx.Response(200, content=chunks()) if request.url.path == "/token" else None

    memory.fault = endless
    with pytest.raises(PlatformError, match=r"RegistryUnavailable.*token service auth.test answered with more than"):
        registry(memory).resolve("org/app", "v1")
    assert len(read) < 10


@pytest.mark.parametrize("realm", ["https://[", "https://auth.test:x/", "https://" + "[" * 50])
def test_a_token_service_that_is_no_address_is_the_registrys_fault(realm: str) -> None:
    header = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    memory = Memory(fault=lambda request: httpx.Response(401, headers=header))
    with pytest.raises(PlatformError, match=r"RegistryUnavailable.*no address"):
        registry(memory).resolve("org/app", "v1")


def test_a_challenge_is_read_in_one_pass() -> None:
    def spent(size: int) -> float:
        began = time.process_time()
        assert CHALLENGE.findall("a" * size + ' realm="https://x",service="y"') == [
            ("realm", "https://x"),
            ("service", "y"),
        ]
        return time.process_time() - began

    # Where each letter begins a search of its own, the large one takes many seconds.
    assert_linear(lambda: spent(15_000), lambda: spent(60_000), 0.05)


def test_an_upload_session_that_is_lost_is_begun_again(tmp_path: Path) -> None:
    puts = iter([httpx.Response(404)])
    memory = Memory(
        fault=lambda request: next(puts, None) if "uploads" in str(request.url) and request.method == "PUT" else None
    )
    assert registry(memory).push(make_image(tmp_path), "org/app", "v1").uploaded_blobs == 3


def test_a_token_is_fetched_once_for_a_scope_and_renewed(tmp_path: Path) -> None:
    credentials = Credentials(username="robot", password=SECRET)
    memory = Memory(token="one", basic=credentials.basic())
    client, image = registry(memory, credentials=credentials), make_image(tmp_path)
    client.push(image, "org/app", "v1")
    assert memory.seen.count("GET /token") == 1
    memory.token = "two"
    client.push(image, "org/app", "v2")
    assert memory.seen.count("GET /token") == 2
    assert SECRET not in repr(client) and "two" not in repr(client)
    with pytest.raises(PlatformError, match="401") as caught:
        registry(memory, credentials=Credentials(username="robot", password="wrong-one")).resolve("org/app", "v1")
    assert caught.value.reason == "RegistryRefused" and "token service" in caught.value.message
    assert "wrong-one" not in str(caught.value) and SECRET not in str(caught.value)


def test_a_token_service_without_tls_gets_no_password() -> None:
    header = {"WWW-Authenticate": 'Bearer realm="http://evil.test/token",service="reg"'}
    memory = Memory(fault=lambda request: httpx.Response(401, headers=header))
    with pytest.raises(PlatformError, match="not https"):
        registry(memory, credentials=Credentials(username="robot", password=SECRET)).resolve("org/app", "v1")
    assert memory.seen == ["HEAD /v2/org/app/manifests/v1"]


def test_basic_is_sent_only_when_asked_for_and_only_to_the_registry(tmp_path: Path) -> None:
    credentials = Credentials(username="robot", password=SECRET)
    elsewhere: list[httpx.Request] = []
    image = make_image(tmp_path)
    memory = Memory(basic=credentials.basic())

    def redirect(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "storage.test":
            elsewhere.append(request)
            return httpx.Response(200, content=image.config)
        if request.method == "GET" and "/blobs/" in request.url.path and "authorization" in request.headers:
            return httpx.Response(307, headers={"Location": "https://storage.test/x?signature=" + SECRET})
        return None

    memory.fault = redirect
    client = registry(memory, credentials=credentials)
    client.push(image, "org/app", "v1")
    assert b"".join(client.open_blob("org/app", image.config_digest)) == image.config
    assert elsewhere and not any("authorization" in request.headers for request in elsewhere)
    assert base64.b64decode(credentials.basic()[6:]).decode() == f"robot:{SECRET}"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("challenge", ['Bearer realm="https://evil.test/token",service="reg"', 'Basic realm="x"'])
def test_whoever_a_redirect_leads_to_gets_no_login(method: str, challenge: str) -> None:
    """It may ask for one as the registry does, and name a token service of its own."""
    asked: list[httpx.Request] = []

    def evil(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.host == "reg.test":
            return httpx.Response(307, headers={"Location": "https://evil.test/x"})
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    client = registry(Memory(fault=evil), credentials=Credentials(username="robot", password=SECRET))
    with pytest.raises(PlatformError) as caught:
        client.resolve("org/app", "v1") if method == "HEAD" else client.get_manifest("org/app", "v1")
    assert caught.value.reason == "RegistryRefused"
    assert [(request.method, request.url.host) for request in asked] == [(method, "reg.test"), (method, "evil.test")]
    assert not any("authorization" in request.headers for request in asked)
    with pytest.raises(PlatformError):
        client.resolve("org/app", "v2")
    assert not any("authorization" in request.headers for request in asked), "nor is one sent later"


@pytest.mark.parametrize("host", ["reg.test", "Reg.Test", "reg.test:443"])
def test_a_registry_is_itself_however_its_host_is_written(host: str) -> None:
    credentials = Credentials(username="robot", password=SECRET)
    memory = Memory(basic=credentials.basic(), token="t0ken")
    assert registry(memory, credentials=credentials, host=host).resolve("org/app", "v1") is None
    assert memory.seen.count("GET /token") == 1


def test_the_next_page_is_found_however_the_host_is_written() -> None:
    pages = iter(["sha256:" + digit * 64 for digit in "ab"])

    def page(request: httpx.Request) -> httpx.Response:
        listed = {"manifests": [{"digest": next(pages)}]}
        more = not request.url.query
        return httpx.Response(
            200, json=listed, headers={"Link": f'<{request.url.path}?n=1>; rel="next"'} if more else {}
        )

    found = registry(Memory(fault=page), host="Reg.Test:443").referrers("org/app", "sha256:" + "0" * 64)
    assert [entry["digest"][7] for entry in found] == ["a", "b"]


def test_a_list_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.images.registry.MOST_PAGES", 10)
    link = {"Link": '<?again=1>; rel="next"'}
    memory = Memory(fault=lambda request: httpx.Response(200, json={"manifests": []}, headers=link))
    with pytest.raises(PlatformError, match="more than 10 pages"):
        registry(memory).referrers("org/app", "sha256:" + "0" * 64)
    assert len(memory.seen) == 10


def test_an_address_that_is_none_is_the_registrys_fault(tmp_path: Path) -> None:
    bad = "http://[::"
    page = httpx.Response(200, json={"manifests": []}, headers={"Link": f'<{bad}>; rel="next"'})
    with pytest.raises(PlatformError, match="GET led to an address that is none"):
        registry(Memory(fault=lambda request: page)).referrers("org/app", "sha256:" + "0" * 64)
    upload = httpx.Response(202, headers={"Location": bad})
    memory = Memory(fault=lambda request: upload if request.method == "POST" else None)
    with pytest.raises(PlatformError, match="POST led to an address that is none") as caught:
        registry(memory).push(make_image(tmp_path), "org/app", "v1")
    assert caught.value.reason == "RegistryUnavailable"


def test_a_redirect_within_the_registry_gets_its_login() -> None:
    credentials = Credentials(username="robot", password=SECRET)
    memory = Memory(basic=credentials.basic())

    def moved(request: httpx.Request) -> httpx.Response | None:
        old = request.url.path.startswith("/v2/org/app/")
        return httpx.Response(307, headers={"Location": "/v2/org/new/manifests/v1"}) if old else None

    memory.fault = moved
    assert registry(memory, credentials=credentials).resolve("org/app", "v1") is None
    assert memory.seen == ["HEAD /v2/org/app/manifests/v1", "HEAD /v2/org/new/manifests/v1"] * 2


def test_an_upload_elsewhere_gets_no_authorization(tmp_path: Path) -> None:
    credentials = Credentials(username="robot", password=SECRET)
    memory, foreign = Memory(basic=credentials.basic()), []

    def elsewhere(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "storage.test":
            foreign.append(request)
            memory.blobs["org/app"][request.url.params["digest"]] = request.read()
            return httpx.Response(201)
        if request.method == "POST" and "authorization" in request.headers:
            return httpx.Response(202, headers={"Location": "https://storage.test/put?sig=1"})
        return None

    memory.fault = elsewhere
    registry(memory, credentials=credentials).push(make_image(tmp_path), "org/app", "v1")
    assert len(foreign) == 3 and not any("authorization" in request.headers for request in foreign)


@pytest.mark.parametrize("api", [False, True])
def test_attaching_is_idempotent_with_and_without_the_referrers_api(tmp_path: Path, api: bool) -> None:
    memory, image = Memory(referrers_api=api), make_image(tmp_path)
    client = registry(memory)
    client.push(image, "org/app", None)
    first, second, other = (
        attach(client, image.digest),
        attach(client, image.digest),
        attach(client, image.digest, "o"),
    )
    assert first == second != other
    assert [entry["digest"] for entry in client.referrers("org/app", image.digest)] == sorted([first, other])
    assert (fallback_tag(image.digest) in memory.manifests["org/app"]) is not api


def test_nothing_is_attached_where_what_is_required_does_not_hold(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    to = registry(memory)
    to.push(image, "org/app", "v1")
    before = dict(memory.manifests["org/app"])

    def require() -> None:
        raise LookupError("another platform")

    with pytest.raises(LookupError, match="another platform"):
        to.attach("org/app", image.digest, "application/x", b"{}", "text/plain", {}, require)
    assert memory.manifests["org/app"] == before


@pytest.mark.parametrize("collected", [False, True], ids=["", "collected since"])
def test_the_config_of_statements_is_sent_once_to_a_repository(tmp_path: Path, collected: bool) -> None:
    memory, image = Memory(), make_image(tmp_path)
    to = registry(memory)
    to.push(image, "org/app", "v1")
    attach(to, image.digest, "first")
    empty = digest_of(EMPTY)
    if collected:
        del memory.blobs["org/app"][empty]
    memory.seen.clear()
    second = attach(to, image.digest, "second")
    asked = [line for line in memory.seen if empty in line]
    assert asked == ([f"HEAD /v2/org/app/blobs/{empty}"] if collected else [])
    assert empty in memory.blobs["org/app"] and second in memory.manifests["org/app"]
    to.push(image, "org/other", "v1")
    to.attach("org/other", image.digest, "application/x", b"{1}", "text/plain", {})
    assert empty in memory.blobs["org/other"]


@pytest.mark.parametrize("lost", [False, True], ids=["", "its session was lost"])
def test_a_statement_goes_into_the_upload_that_was_begun(tmp_path: Path, lost: bool) -> None:
    memory, image = Memory(), make_image(tmp_path)
    to = registry(memory)
    to.push(image, "org/app", "v1")
    memory.seen.clear()
    upload = to.open_upload("org/app")
    left = iter([httpx.Response(404)] if lost else [])

    def fault(request: httpx.Request) -> httpx.Response | None:
        return next(left, None) if request.method == "PUT" and str(request.url).startswith(upload) else None

    memory.fault = fault
    attached = to.attach("org/app", image.digest, "application/x", b"statement", "text/plain", {}, upload=upload)
    attached.confirm()
    begun = sum(line.startswith("POST /v2/org/app/blobs/uploads/") for line in memory.seen)
    assert begun == 2 + lost, "one for the statement, one for the empty config"
    assert b"statement" in memory.blobs["org/app"].values()
    assert [entry["digest"] for entry in to.referrers("org/app", image.digest)] == [attached.digest]


def test_the_fallback_index_is_read_beside_the_manifest_once_it_is_known_to_be_needed(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    to = registry(memory)
    to.push(image, "org/app", "v1")
    index = f"/v2/org/app/manifests/{fallback_tag(image.digest)}"
    attach(to, image.digest, "first")
    memory.seen.clear()
    attach(to, image.digest, "second")
    assert len(to.referrers("org/app", image.digest)) == 2
    asked = [line.split()[0] for line in memory.seen if line.endswith(index)]
    assert asked[:3] == ["GET", "PUT", "GET"]


def test_an_index_that_another_writer_replaced_is_written_again(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    client = registry(memory)
    client.push(image, "org/app", None)
    attach(client, image.digest, "first")
    tag = fallback_tag(image.digest)
    old, lost = memory.manifests["org/app"][tag], iter([True])

    def overwrite(request: httpx.Request) -> None:
        if request.method == "PUT" and request.url.path.endswith(tag) and next(lost, False):
            memory.manifests["org/app"][tag] = old

    memory.after = overwrite
    attach(client, image.digest, "second")
    assert len(client.referrers("org/app", image.digest)) == 2


def test_an_index_that_another_writer_replaces_for_ever_is_given_up(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    client = registry(memory)
    client.push(image, "org/app", None)
    attach(client, image.digest, "first")
    tag = fallback_tag(image.digest)
    old = memory.manifests["org/app"][tag]

    def overwrite(request: httpx.Request) -> None:
        if request.method == "PUT" and request.url.path.endswith(tag):
            memory.manifests["org/app"][tag] = old

    memory.after = overwrite
    memory.seen.clear()
    with pytest.raises(PlatformError, match="overwritten by somebody else"):
        attach(client, image.digest, "second")
    assert sum(line.startswith("PUT") and line.endswith(tag) for line in memory.seen) == ATTACH_ROUNDS + 1


def test_a_blob_is_taken_up_where_the_connection_broke(tmp_path: Path) -> None:
    image = make_image(tmp_path, layers=1)
    memory = Memory()
    client = registry(memory)
    client.push(image, "org/app", None)
    layer = image.layers[0]
    data = layer.path.read_bytes()
    ranges: list[str] = []

    class Half(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield data[:50]
            raise httpx.ReadError("reset")

    def half(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and "/blobs/" in request.url.path:
            ranges.append(request.headers.get("range", ""))
            if len(ranges) == 1:
                return httpx.Response(200, stream=Half())
        return None

    memory.fault = half
    assert b"".join(client.open_blob("org/app", layer.digest)) == data
    assert ranges == ["", "bytes=50-"]


def test_other_bytes_than_the_digest_says_are_noticed(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path, layers=1)
    client = registry(memory)
    client.push(image, "org/app", "v1")
    memory.blobs["org/app"][image.layers[0].digest] = b"other"
    memory.manifests["org/app"][image.digest] = ("x", b"{}")
    with pytest.raises(PlatformError, match="not what the digest says"):
        b"".join(client.open_blob("org/app", image.layers[0].digest))
    with pytest.raises(PlatformError, match="when asked for"):
        client.get_manifest("org/app", image.digest)


def test_a_manifest_without_end_is_not_read_to_it() -> None:
    memory = Memory(fault=lambda request: httpx.Response(200, content=b"x" * (9 * 1024 * 1024)))
    with pytest.raises(PlatformError, match="more than"):
        registry(memory).get_manifest("org/app", "v1")


@pytest.mark.parametrize(
    ("host", "plain"),
    [("127.0.0.1:5000", True), ("localhost", True), ("[::1]:5000", True), ("127.9.9.9", True), ("reg.test", False),
     ("10.0.0.1:5000", False), ("localhost.evil.test", False), ("127.0.0.1.evil.test", False)],
)  # fmt: skip
def test_plain_http_is_for_this_machine(host: str, plain: bool) -> None:
    assert is_loopback(host) is plain
    transport = Transport(host=host, client=DirectClient(httpx.MockTransport(Memory()), timeout=httpx.Timeout(5)))
    assert transport.base.startswith("http://" if plain else "https://")
    transport.insecure = True
    assert transport.base.startswith("http://")


def test_a_name_that_is_none_never_becomes_a_request() -> None:
    memory = Memory()
    for repository, reference in (("../x", "v1"), ("org/app", "v1/../../x"), ("org/app?x=", "v1"), ("org/app", "a#b")):
        with pytest.raises(BuildError) as caught:
            registry(memory).resolve(repository, reference)
        assert caught.value.reason == "InvalidRequest"
    assert memory.seen == []


@pytest.mark.parametrize(
    ("deletes", "works", "left"),
    [
        ("tag", True, "a manifest"),
        ("manifest", False, ""),
        ("digest", False, ""),
        ("405", False, "all"),
        ("400", False, "all"),
        ("403", False, "all"),
        ("401", False, "all"),
    ],
)
def test_whether_a_single_tag_can_be_deleted_is_tried_out_on_a_manifest_of_ours(
    tmp_path: Path, deletes: str, works: bool, left: str
) -> None:
    memory, image = Memory(deletes=deletes), make_image(tmp_path)
    registry(memory).push(image, "org/app", "v1")
    before = dict(memory.manifests["org/app"])
    assert registry(memory).can_untag("org/app") is works
    after = memory.manifests["org/app"]
    assert {name: after[name] for name in before} == before, "what was there is as it was"
    extra = sorted(name for name in after if name not in before)
    ours = ["build-untag-1", "build-untag-2"] if left == "all" else []
    assert [name for name in extra if not name.startswith("sha256:")] == ours
    assert len(extra) - len(ours) == (1 if left else 0)
    asked = [line for line in memory.seen if line.startswith("DELETE")]
    assert not [line for line in asked if image.digest in line or line.endswith("/v1")]


def test_a_tag_is_deleted_by_its_name_and_the_others_of_its_manifest_stay(tmp_path: Path) -> None:
    memory, image = Memory(), make_image(tmp_path)
    to = registry(memory)
    to.push(image, "org/app", "v1")
    to.put_tag("org/app", image.digest, "build-x-1")
    for _ in range(2):
        to.untag("org/app", "build-x-1")
    assert to.resolve("org/app", "build-x-1") is None
    assert to.resolve("org/app", "v1") == image.digest == to.resolve("org/app", image.digest)
    assert {line for line in memory.seen if line.startswith("DELETE")} == {"DELETE /v2/org/app/manifests/build-x-1"}
    memory.deletes = "405"
    with pytest.raises(PlatformError, match="DELETE tag"):
        to.untag("org/app", "v1")
    with pytest.raises(BuildError, match="is no tag"):
        to.untag("org/app", image.digest)


def test_an_outage_while_that_is_tried_out_is_no_answer() -> None:
    def away(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(503) if request.method == "DELETE" else None

    with pytest.raises(PlatformError, match="503"):
        registry(Memory(fault=away)).can_untag("org/app")
