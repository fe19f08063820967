"""Prebuilt images without a registry: hostile references, guarded addresses, the config, transitions, the vault."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.credentials import Secrets
from builder.errors import BuildError, PlatformError
from builder.images.external import Access, check_config, resolve
from builder.images.guard import Deadline, Guarded, guarded_client
from builder.images.reference import Reference, is_own, parse
from builder.local.run import place_of
from builder.services import secrets as service
from builder.settings import Settings
from builder.store import builds, schema, secrets
from builder.store.transitions import EXTERNAL
from builder.vault import Unreadable, Vault
from tests.store_contract.world import LEASE, World, open_world

DIGEST = "sha256:" + "0123456789abcdef" * 4

# References


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("alpine", "docker.io", "library/alpine", "latest", ""),
        ("alpine:3", "docker.io", "library/alpine", "3", ""),
        ("acme/app", "docker.io", "acme/app", "latest", ""),
        ("docker.io/acme/app:1", "docker.io", "acme/app", "1", ""),
        ("index.docker.io/alpine", "docker.io", "library/alpine", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5000/app:1", "localhost:5000", "app", "1", ""),
        ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000", "a/b/c", "1", ""),
        ("[::1]:5000/app:1", "[::1]:5000", "app", "1", ""),
        ("[0:0::1]/app:1", "[::1]", "app", "1", ""),
        ("Registry.Example.com/app", "registry.example.com", "app", "latest", ""),
        (f"r.example.com/app@{DIGEST}", "r.example.com", "app", "", DIGEST),
        (f"r.example.com:443/a-b__c.d/app:v1@{DIGEST}", "r.example.com:443", "a-b__c.d/app", "v1", DIGEST),
    ],
)
def test_a_reference_is_read_as_the_distribution_project_does(
    text: str, host: str, repository: str, tag: str, digest: str
) -> None:
    assert parse(text) == Reference(host=host, repository=repository, tag=tag, digest=digest)


HOSTILE = [
    "",
    " ",
    "r.example.com/app:1\n",
    "r.example.com/app:1\0",
    "r.example.com/a pp",
    "https://r.example.com/app",
    "file:///etc/passwd",
    "oci:/etc/passwd",
    "docker-archive:/etc/shadow",
    "user:password@r.example.com/app",
    "r.example.com/../../etc/passwd",
    "r.example.com/a//b",
    "r.example.com//app",
    "/app",
    "r.example.com/",
    "r.example.com/App",
    "r.example.com/app:",
    "r.example.com/app:-x",
    "r.example.com/app@",
    "r.example.com/app@sha256:0",
    "r.example.com/app@sha512:" + "0" * 128,
    f"r.example.com/app@{DIGEST}@{DIGEST}",
    "r.example.com/app?x=1",
    "r.example.com/app#x",
    "r.example.com/app%2fx",
    "r.example.com/$(id)",
    "`id`.example.com/app",
    "--help",
    "-oProxyCommand=id.example.com/app",
    "r.example.com:0/app",
    "r.example.com:65536/app",
    "r.example.com:x/app",
    "2130706433.0/app",
    "127.1/app",
    "0x7f.0.0.1/app",
    "0177.0.0.1/app",
    "[::1/app",
    "[fe80::1%25eth0]/app",
    "r..example.com/app",
    "-r.example.com/app",
    "r_e.example.com/app",
    "r\u0435gistry.example.com/app",
    "r.example.com/\u202eapp",
    "r.example.com/\x1b[2Japp",
    "a" * 64 + ".example.com/app",
    "r.example.com/" + "a" * 600,
    "r.example.com/" + "a-" * 200 + "!",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_reference_is_refused_before_anything_is_asked(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        parse(text)
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "imageRef")
    assert refused.value.message.isprintable() and len(refused.value.message) < 300


def test_in_our_own_registry_an_organization_sees_what_is_below_its_prefix() -> None:
    assert is_own(parse("r.example.com/acme/app"), "r.example.com", "acme")
    assert not is_own(parse("r.example.com/other/app"), "elsewhere.example.com", "acme")
    assert not is_own(parse("r.example.com/other/app"), "", "acme")
    for repository in ("other/app", "acme", "acmes/app"):
        with pytest.raises(BuildError, match="RepositoryForbidden"):
            is_own(parse(f"r.example.com/{repository}"), "r.example.com", "acme")


@pytest.mark.parametrize(
    ("registry", "named"),
    [
        ("r.example.com", "r.example.com:443"),
        ("r.example.com", "R.example.com:80"),
        ("r.example.com:443", "r.example.com"),
        ("[::1]:80", "[0::1]"),
    ],
)
def test_another_spelling_of_our_own_registry_opens_nothing_there(registry: str, named: str) -> None:
    with pytest.raises(BuildError, match="in another way"):
        is_own(parse(f"{named}/other/app"), registry, "acme")
    assert not is_own(parse("r.example.com:5000/other/app"), registry, "acme")
    assert is_own(parse(f"{registry}/acme/app"), registry.upper(), "acme")


# Addresses


def guarded(*addresses: str, private: tuple[str, ...] = (), plain: tuple[str, ...] = ()) -> tuple[Guarded, list[str]]:
    """A guard over a transport that only notes the URLs it is asked for; one more address for each further look."""
    asked: list[str] = []
    found = iter(addresses)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url} {request.headers['host']} {request.extensions['sni_hostname']}")
        return httpx.Response(200)

    def resolve(host: str, port: int) -> tuple[str, ...]:
        return (next(found),)

    return Guarded(httpx.MockTransport(answer), private=private, plain=plain, resolve=resolve), asked


PRIVATE = (
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "::1", "fe80::1", "fd00::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_a_private_address_is_refused_without_naming_the_address(address: str) -> None:
    guard, asked = guarded(address)
    with httpx.Client(transport=guard) as client, pytest.raises(BuildError) as refused:
        client.get("https://r.example.com/v2/")
    assert refused.value.reason == "ImageHostRefused"
    assert address not in refused.value.message and not asked


def test_the_address_that_was_judged_is_the_one_that_is_connected_to() -> None:
    guard, asked = guarded("93.184.216.34", "10.0.0.1")
    with httpx.Client(transport=guard) as client:
        client.get("https://r.example.com/v2/")
        with pytest.raises(BuildError, match="ImageHostRefused"):  # the name leads elsewhere the next time
            client.get("https://r.example.com/v2/")
    assert asked == ["https://93.184.216.34/v2/ r.example.com r.example.com"]


def test_a_redirect_leads_to_no_private_address() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"location": "https://169.254.169.254/latest/meta-data"})

    guard = Guarded(httpx.MockTransport(answer), resolve=lambda host, port: ("93.184.216.34",))
    with httpx.Client(transport=guard, follow_redirects=True) as client, pytest.raises(BuildError) as refused:
        client.get("https://r.example.com/v2/")
    assert refused.value.reason == "ImageHostRefused"


def test_a_connection_is_that_of_one_name() -> None:
    """A pool knows connections by address: a kept one was verified for another name."""
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["connection"])
        return httpx.Response(200)

    guard = Guarded(httpx.MockTransport(answer), resolve=lambda host, port: ("93.184.216.34",))
    with httpx.Client(transport=guard) as client:
        client.get("https://a.example.com/v2/")
        client.get("https://b.example.com/v2/")
    assert sent == ["close", "close"]


class Stream:
    """As httpcore gives a connection to whoever traces it."""

    def __init__(self, one: socket.socket) -> None:
        self._one = one

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._one


def test_a_registry_that_trickles_is_cut_off() -> None:
    deadline = Deadline(3600)

    def answer(request: httpx.Request) -> httpx.Response:
        trace = request.extensions["trace"]
        trace("connection.connect_tcp.complete", {"return_value": Stream(here)})
        with pytest.raises(TimeoutError):
            here.recv(1)  # nothing has ended it yet
        there.send(b"H")
        assert here.recv(1) == b"H"
        deadline.end()
        assert here.recv(1) == b""
        trace("connection.connect_tcp.complete", {"return_value": Stream(late)})
        assert late.recv(1) == b""
        raise httpx.ReadError("the connection is at its end")

    here, there = socket.socketpair()
    late, other = socket.socketpair()
    guard = Guarded(httpx.MockTransport(answer), resolve=lambda host, port: ("93.184.216.34",), deadline=deadline)
    with here, there, late, other, httpx.Client(transport=guard) as client:
        for one in (here, late):
            one.settimeout(0.01)
        with pytest.raises(httpx.ReadError):
            client.get("https://r.example.com/v2/")
        with pytest.raises(httpx.ReadTimeout):
            client.get("https://r.example.com/v2/")
    deadline.stop()


def test_whatever_an_answer_makes_a_library_raise_ends_the_build_alone() -> None:
    """A name that the resolver's codec refuses, for one: without an end the build would be tried for ever."""

    def odd(host: str, port: int) -> tuple[str, ...]:
        raise UnicodeError("label empty or too long")

    with pytest.raises(PlatformError, match=r"RegistryUnavailable.*cannot be read \(UnicodeError\)"):
        resolve(parse("r.example.com/app"), "linux/amd64", Access(resolve=odd), None, 1)


def test_without_tls_only_what_an_operator_lists_is_asked() -> None:
    guard, asked = guarded("93.184.216.34")
    with httpx.Client(transport=guard) as client, pytest.raises(BuildError, match="without TLS"):
        client.get("http://r.example.com/v2/")
    guard, asked = guarded("10.0.0.1", private=("r.example.com:80",), plain=("r.example.com:80",))
    with httpx.Client(transport=guard) as client:
        client.get("http://r.example.com/v2/")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("entry", "open_"),
    [("*", True), ("10.0.0.1", True), ("10.0.0.1:5000", True), ("10.0.0.1:5001", False), ("10.0.0.2", False)],
)
def test_of_the_operators_list_only_the_registrys_own_entry_counts(entry: str, open_: bool) -> None:
    client = guarded_client(
        "10.0.0.1:5000", private=(entry,), insecure=False, ca_bundle="", timeout_s=1, resolve=lambda h, p: ()
    )
    guard = client._transport
    assert isinstance(guard, Guarded)
    assert guard._private == (("10.0.0.1:5000",) if open_ else ())
    client.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such name"), BuildError),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), httpx.ConnectError),
        (OSError("resolver"), httpx.ConnectError),
    ],
)
def test_a_name_that_does_not_exist_is_no_outage(error: OSError, expected: type[Exception]) -> None:
    def resolve(host: str, port: int) -> tuple[str, ...]:
        raise error

    guard = Guarded(httpx.MockTransport(lambda request: httpx.Response(200)), resolve=resolve)
    with httpx.Client(transport=guard) as client, pytest.raises(expected) as raised:
        client.get("https://nowhere.example.com/v2/")
    assert getattr(raised.value, "reason", "ImageHostUnknown") == "ImageHostUnknown"


# The config against the container contract


def config_of(**config: Any) -> bytes:
    found = {"Entrypoint": ["/app"], "User": "65532:65532", **config}
    return json.dumps({"os": "linux", "architecture": "amd64", "config": found}).encode()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"User": ""}, "as root"),
        ({"User": None}, "as root"),
        ({"User": "0"}, "user 0"),
        ({"User": "00:1"}, "user 00"),
        ({"User": "www-data"}, "a name"),
        ({"User": "1;id"}, "a name"),
        ({"User": "4294967295"}, "user 4294967295"),
        ({"User": 5}, "as root"),
        ({"Entrypoint": [], "Cmd": None}, "neither ENTRYPOINT nor CMD"),
        ({"Entrypoint": [""]}, "neither ENTRYPOINT nor CMD"),
        ({"Entrypoint": "sh"}, "no list of words"),
        ({"Cmd": [1]}, "no list of words"),
        ({"Env": "A=1"}, "no list of words"),
        ({"Env": [1]}, "no list of words"),
        ({"Env": ["=1"]}, "without a name"),
        ({"WorkingDir": 5}, "no absolute path"),
        ({"WorkingDir": "app\x1b"}, "no absolute path"),
        ({"ExposedPorts": {"53/udp": {}}}, "no TCP port"),
        ({"ExposedPorts": {"0/tcp": {}}}, "no port"),
        ({"ExposedPorts": {"65536": {}}}, "no port"),
        ({"ExposedPorts": {"90-80/tcp": {}}}, "no port"),
        ({"ExposedPorts": {"\x1b[2J": {}}}, "no port"),
        ({"ExposedPorts": ["80"]}, "no object"),
    ],
)
def test_a_config_that_the_platform_cannot_run_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words) as refused:
        check_config(config_of(**config), "linux/amd64", "r/app:1")
    assert refused.value.reason == "ImageContractViolated" and refused.value.message.isprintable()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b'{"config": 5}', b"\xff"])
def test_a_config_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(BuildError):
        check_config(body, "linux/amd64", "r/app:1")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"Entrypoint": None, "Cmd": ["x"]},
        {"User": "1000"},
        {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}},
        {"Env": None, "WorkingDir": None},
        {"Env": ["A=1", "B"], "WorkingDir": ""},
    ],
)
def test_a_config_that_the_platform_runs_passes(config: dict[str, Any]) -> None:
    assert check_config(config_of(**config), "linux/amd64", "r/app:1") == ()


def test_another_platform_has_a_reason_of_its_own() -> None:
    with pytest.raises(BuildError, match="ImagePlatformMismatch"):
        check_config(config_of().replace(b"amd64", b"arm64"), "linux/amd64", "r/app:1")


# The store


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


def external(world: World, organization: str = "acme", repository: str = "r.example.com/a") -> str:
    return world.submit(
        organization, queue=EXTERNAL, toolchain="", runtime="", repository=repository, tags="[]", source_sha256=""
    )


def test_a_prebuilt_image_is_taken_by_a_finalizer_and_by_no_node(world: World) -> None:
    build = external(world)
    world.register("greedy", queue=EXTERNAL, toolchain="")
    refused = builds.claim(world.store, build, "greedy", "n", LEASE)
    assert (refused.row, refused.refused) == (None, "this node cannot build it")
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None and (row["build_id"], row["status"], row["stage"]) == (build, "RUNNING", "FINALIZE")
    assert (row["attempt"], row["report_sequence"]) == (1, 2)
    assert [event.action for event in world.events if event.build_id == build] == ["submit", "resolve"]
    assert builds.adopt_finalize(world.store, LEASE) is None


def test_organizations_take_turns_and_a_repository_has_one_finalizer(world: World) -> None:
    first, second = external(world, "acme", "r/a"), external(world, "acme", "r/a")
    third, other = external(world, "acme", "r/b"), external(world, "zoo", "r/a")
    adopted = builds.adopt_due(world.store, LEASE, 10)
    assert [row["build_id"] for row in adopted.rows] == [first, third]
    assert adopted.left
    assert builds.unresolved(world.store, first, adopted.rows[0]["claim"], gone("ImageNotFound"), 10) is not None
    assert [row["build_id"] for row in builds.adopt_due(world.store, LEASE, 10).rows] == [other]
    assert world.row(second)["status"] == "PENDING"


def test_prebuilt_images_leave_finalizers_to_what_was_built(world: World) -> None:
    builds_of = [external(world, "acme", f"r/{name}") for name in "abc"]
    adopted = builds.adopt_due(world.store, LEASE, 10, outside=2)
    assert [row["build_id"] for row in adopted.rows] == builds_of[:2] and adopted.left
    assert builds.adopt_due(world.store, LEASE, 10, outside=0) == builds.AdoptedBuilds(left=True)
    row = adopted.rows[0]
    builds.release_finalize(world.store, row["build_id"], row["claim"])  # due again, as one that is finalized
    world.at[0] += 60_000
    assert builds.adopt_due(world.store, LEASE, 10, outside=0, look=False) == builds.AdoptedBuilds(left=True)
    again = builds.adopt_due(world.store, LEASE, 10, outside=1)
    assert [row["build_id"] for row in again.rows] == builds_of[:1]


def gone(reason: str) -> pb.Failure:
    return pb.Failure(reason=reason, message="m")


def test_a_registry_that_is_down_is_tried_again_and_an_image_that_is_not_there_is_not(world: World) -> None:
    build = external(world)
    for retries in range(3):
        row = builds.adopt_finalize(world.store, LEASE)
        assert row is not None and row["retries"] == retries
        after = builds.unresolved(world.store, build, row["claim"], gone("RegistryUnavailable"), 1000)
        assert after is not None and after["status"] == ("PENDING" if retries < 2 else "FAILED")
        assert builds.adopt_finalize(world.store, LEASE) is None  # its time has not come
        world.at[0] += 60_000
    build = external(world)
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None
    after = builds.unresolved(world.store, build, row["claim"], gone("ImageNotFound"), 1000)
    assert after is not None and after["status"] == "FAILED"
    assert builds.unresolved(world.store, build, row["claim"], gone("ImageNotFound"), 1000) is None


def test_a_lost_finalizer_of_a_prebuilt_image_counts_and_a_cancel_ends_it(world: World) -> None:
    build = external(world)
    for failures in range(3):
        row = builds.adopt_finalize(world.store, LEASE)
        assert row is not None and row["failures"] == failures
        world.at[0] += LEASE + 1
    assert builds.adopt_finalize(world.store, LEASE) is None
    assert "WorkerLost" in world.row(build)["failure"]
    build = external(world)
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None
    cancelled = builds.cancel(world.store, "acme", build)
    assert cancelled is not None and cancelled["status"] == "CANCELLED"
    assert builds.publish(world.store, build, row["claim"], artifact="{}") is None


# run


@pytest.mark.parametrize("registry", ["", "ours.example.com"])
def test_a_prebuilt_image_is_run_from_where_it_is(registry: str) -> None:
    build = pb.Build(code_kind=common.CODE_KIND_PREBUILT, image_digest=DIGEST, repository="docker.io/library/app")
    build.image_refs.append(f"docker.io/library/app@{DIGEST}")
    assert place_of(Settings(registry=registry), build) == ("registry-1.docker.io", "library/app")
    compiled = pb.Build(image_digest=DIGEST, repository="acme/app")
    compiled.artifact_ref = f"theirs.example.com/acme/app@{DIGEST}"
    assert place_of(Settings(registry=registry), compiled) == (registry or "theirs.example.com", "acme/app")


# The vault


IDENTITY = "acme\nhub\nREGISTRY\n\n1"


def test_a_sealed_value_opens_only_as_what_it_was_stored_as(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "key")
    sealed = vault.seal(IDENTITY, b"value")
    assert vault.open(IDENTITY, sealed) == b"value"
    assert vault.seal(IDENTITY, b"value") != sealed
    for other in ("zoo\nhub\nREGISTRY\n\n1", "acme\nhub\nREGISTRY\n\n2", ""):
        with pytest.raises(Unreadable):
            vault.open(other, sealed)
    key_name = sealed.partition(":")[0]
    for broken in (sealed[:-4] + "AAA=", "0" * 12 + sealed[12:], sealed[:-1], f"{key_name}:", f"{key_name}:AAAA", "x"):
        with pytest.raises(Unreadable):
            vault.open(IDENTITY, broken)


def test_a_new_first_key_encrypts_and_the_old_one_still_opens(tmp_path: Path) -> None:
    path = tmp_path / "key"
    sealed = Vault(path).seal(IDENTITY, b"value")
    Vault(tmp_path / "other").seal(IDENTITY, b"")
    path.write_bytes((tmp_path / "other").read_bytes() + path.read_bytes())
    assert Vault(path).open(IDENTITY, sealed) == b"value"
    assert Vault(path).seal(IDENTITY, b"").partition(":")[0] != sealed.partition(":")[0]


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"", 0o600), (b"c2hvcnQ=\n", 0o600), (b"no base64!\n", 0o600), (b"A" * 43 + b"=\n", 0o640)],
)
def test_a_key_file_that_cannot_be_used_says_what_to_do(tmp_path: Path, content: bytes, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(BuildError, match="key file") as refused:
        Vault(path).seal(IDENTITY, b"value")
    assert "secrets_key_file" in refused.value.next


# Secrets


@pytest.fixture
def kept(world: World, tmp_path: Path) -> Secrets:
    return Secrets(store=world.store, vault=Vault(tmp_path / "key"))


def test_a_lost_key_file_is_not_made_anew_beside_secrets_of_the_old_one(kept: Secrets) -> None:
    value = {"value": "v"}
    kept.save("acme", "a", secrets.BUILD, "", value)
    kept.vault.path.unlink()
    with pytest.raises(BuildError, match="it is not there") as refused:
        kept.save("zoo", "b", secrets.BUILD, "", value)
    assert "backup" in refused.value.next and not kept.vault.path.exists()
    kept.remove("acme", "a")
    assert kept.save("zoo", "b", secrets.BUILD, "", value)["version"] == 1


@pytest.mark.parametrize(
    "named",
    [
        pb.NamedSecret(name="", value="x"),
        pb.NamedSecret(name="a/b", value="x"),
        pb.NamedSecret(name="a\n", value="x"),
        pb.NamedSecret(name="x" * 64, value="x"),
        pb.NamedSecret(name="a"),
        pb.NamedSecret(name="a", value=""),
        pb.NamedSecret(name="a", value="x" * 70_000),
        pb.NamedSecret(name="a", value="x", host="r.example.com"),
        pb.NamedSecret(name="a", registry=pb.RegistryLogin(username="u")),
        pb.NamedSecret(name="a", registry=pb.RegistryLogin(password="p")),
        pb.NamedSecret(name="a", registry=pb.RegistryLogin(username="u:v", password="p")),
        pb.NamedSecret(name="a", registry=pb.RegistryLogin(username="u", password="p\r\nHost: x")),
        pb.NamedSecret(name="a", registry=pb.RegistryLogin(username="u", password="p"), host="https://r"),
        pb.NamedSecret(name="a", git_token=pb.GitToken(username="u")),
        pb.NamedSecret(name="a", git_token=pb.GitToken(token="t\n")),
        pb.NamedSecret(name="a", git_token=pb.GitToken(token="t" * 8193)),
    ],
    ids=range(16),
)
def test_what_can_be_no_secret_is_refused_without_its_value(kept: Secrets, named: pb.NamedSecret) -> None:
    with pytest.raises(BuildError) as refused:
        service.save(kept, "acme", pb.SaveBuildSecretsRequest(named=[pb.NamedSecret(name="good", value="v"), named]))
    assert refused.value.reason == "InvalidRequest"
    assert kept.listed("acme") == []  # all of a call or nothing


def test_a_new_value_is_a_new_version_and_the_old_row_put_back_does_not_open(kept: Secrets, world: World) -> None:
    login = [pb.NamedSecret(name="hub", registry=pb.RegistryLogin(username="u", password=each)) for each in "pq"]
    service.save(kept, "acme", pb.SaveBuildSecretsRequest(named=login[:1]))
    old = secrets.find(world.store, "acme", "hub")
    answer = service.save(kept, "acme", pb.SaveBuildSecretsRequest(named=login[1:]))
    assert old is not None and answer.secrets[0].version == 2
    assert kept.registry("acme", "hub", "ref").password == "q"
    with world.store.transaction() as tx:
        tx.execute(schema.secrets.update().values(sealed=old["sealed"]))
    with pytest.raises(BuildError, match="cannot be opened"):
        kept.registry("acme", "hub", "ref")


def test_a_secret_of_another_type_or_organization_is_refused_by_name(kept: Secrets) -> None:
    token = pb.NamedSecret(name="ci", git_token=pb.GitToken(token="t"))
    service.save(kept, "acme", pb.SaveBuildSecretsRequest(named=[token], secrets={"plain": "v"}))
    for call, reason in (
        (lambda: kept.registry("acme", "ci", "ref"), "SecretWrongType"),
        (lambda: kept.git("acme", "plain", "ref"), "SecretWrongType"),
        (lambda: kept.git("zoo", "ci", "ref"), "SecretNotFound"),
        (lambda: kept.remove("zoo", "ci"), "SecretNotFound"),
    ):
        refuses(call, reason)
    assert kept.git("acme", "ci", "ref").token == "t"


def refuses(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(BuildError) as refused:
        call()
    assert refused.value.reason == reason


def test_no_repr_has_a_value(kept: Secrets) -> None:
    login = pb.NamedSecret(name="hub", registry=pb.RegistryLogin(username="u", password="hunter2"))
    token = pb.NamedSecret(name="ci", git_token=pb.GitToken(token="hunter2"))
    service.save(kept, "acme", pb.SaveBuildSecretsRequest(named=[login, token]))
    assert "hunter2" not in repr(kept.registry("acme", "hub", "ref")) + repr(kept.git("acme", "ci", "ref"))
