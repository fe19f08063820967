"""Push to a real registry and into a layout folder; skopeo and umoci, which are not ours, must accept both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from httpcore._sync import http11

from builder.errors import PlatformError
from builder.images.destination import Destination, fallback_tag
from builder.images.image import ImageConfig, build_image
from builder.images.layer import write_layer
from builder.images.layout import Layout
from builder.images.mounts import Mounts
from builder.images.registry import connect
from builder.local.ports import free_port
from tests.build_fixtures import closed_port, until
from tests.oci_fixtures import make_image, make_layer, make_tree

pytestmark = pytest.mark.e2e

# bcrypt of the password below, at the lowest cost
HTPASSWD = "robot:$2b$04$KJx2HxFPTdy0XzcwLRg7X.RX7ZdQA8nDBg7pgJ2avXW685V/ghFDu\n"
PASSWORD = "correct horse"


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=120):
        return True
    return False


@contextmanager
def docker_registry(folder: Path, *, htpasswd: str = "") -> Iterator[str]:
    """A private docker-registry; yields host:port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = [
        "version: 0.1",
        "log: {level: error, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}",
        f"http: {{addr: '127.0.0.1:{port}'}}",
    ]
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    (folder / "config.yml").write_text("\n".join(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        assert until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def destinations(host: str, folder: Path) -> list[tuple[Destination, str, tuple[str, ...]]]:
    layout = Layout(folder / "layout")
    return [
        (connect(host), f"docker://{host}/org/app:v1", ("--tls-verify=false",)),
        (layout, f"oci:{layout.root}:org/app:v1", ()),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["registry", "layout"])
def test_others_can_read_what_we_push(tmp_path: Path, host: str, which: int) -> None:
    tree = make_tree(tmp_path / "t", {"bin/app": "#!/bin/true", "data/ümlaut": "x", "n" * 120: "y"}, ("bin/app",))
    (tree / "link").symlink_to("bin/app")
    layers = (write_layer([(tree, "/app")], tmp_path / "l1", created_by="one"), make_layer(tmp_path, "two", {"z": "z"}))
    image = build_image(None, layers, ImageConfig(entrypoint=("/app/bin/app",), env=(("A", "b"),), workdir="/app"))
    to, reference, flags = destinations(host, tmp_path)[which]
    to.push(image, "org/app", "v1")

    inspected = json.loads(run("skopeo", "inspect", *flags, reference))
    assert inspected["Digest"] == image.digest
    assert inspected["Layers"] == [layer.digest for layer in layers]
    raw = subprocess.run(["skopeo", "inspect", "--raw", *flags, reference], capture_output=True, check=True).stdout
    assert raw == image.manifest
    config = json.loads(run("skopeo", "inspect", "--config", *flags, reference))
    assert config["config"]["Entrypoint"] == ["/app/bin/app"] and config["config"]["User"] == "65532:65532"

    copy_flags = ("--src-tls-verify=false",) if which == 0 else ()
    run("skopeo", "copy", "-q", "--preserve-digests", *copy_flags, reference, f"oci:{tmp_path}/copy:tag")
    run("umoci", "unpack", "--image", f"{tmp_path}/copy:tag", f"{tmp_path}/bundle")
    root = tmp_path / "bundle" / "rootfs" / "app"
    assert (root / "data" / "ümlaut").read_text() == "x" and (root / ("n" * 120)).read_text() == "y"
    assert os.readlink(root / "link") == "bin/app" and (root / "z").read_text() == "z"
    assert os.access(root / "bin/app", os.X_OK)
    run("umoci", "stat", "--image", f"{tmp_path}/copy:tag")


@pytest.mark.parametrize("which", [0, 1], ids=["registry", "layout"])
def test_a_second_push_uploads_nothing(tmp_path: Path, host: str, which: int) -> None:
    to, _, _ = destinations(host, tmp_path)[which]
    image = make_image(tmp_path / "w", f"twice {which}")
    first = to.push(image, "org/twice", "v1")
    assert (first.uploaded_blobs, first.existing_blobs) == (3, 0)
    again = to.push(image, "org/twice", "v2")
    assert (again.uploaded_blobs, again.uploaded_bytes, again.existing_blobs) == (0, 0, 3)
    assert first.digest == again.digest == to.resolve("org/twice", "v2")
    for layer in image.layers:
        assert b"".join(to.open_blob("org/twice", layer.digest)) == layer.path.read_bytes()


def test_only_the_changed_layer_is_sent(tmp_path: Path, host: str) -> None:
    to = connect(host)
    dependencies = make_layer(tmp_path, "dependencies", {f"d{n}": os.urandom(10_000) for n in range(20)})
    config = ImageConfig(entrypoint=("/app/x",))
    to.push(build_image(None, (dependencies, make_layer(tmp_path, "one", {"x": "1"})), config), "org/change", None)
    changed = make_layer(tmp_path, "two", {"x": "2"})
    image = build_image(None, (dependencies, changed), config)
    assert to.push(image, "org/change", None).uploaded_bytes == changed.size + len(image.config)


def test_base_layers_are_mounted(tmp_path: Path, host: str) -> None:
    image = make_image(tmp_path, "mounted", layers=1)
    based = replace(image, layers=tuple(replace(layer, base="go") for layer in image.layers))
    mounts = Mounts(folder=tmp_path / "pushed", host=host, organization="org")
    assert connect(host, mounts=mounts).push(based, "org/first", None).uploaded_blobs == 2
    pushed = connect(host, mounts=mounts).push(based, "org/mounting", None)
    assert pushed.uploaded_bytes == len(image.config)
    assert connect(host).resolve("org/mounting", image.digest) == image.digest


@pytest.mark.parametrize("which", [0, 1], ids=["registry", "layout"])
def test_attached_once_and_found_by_others(tmp_path: Path, host: str, which: int) -> None:
    to, _, _ = destinations(host, tmp_path)[which]
    image = make_image(tmp_path / "w", f"attach {which}")
    to.push(image, "org/attach", None)
    arguments = ("org/attach", image.digest, "application/vnd.in-toto+json")

    def attach(payload: bytes) -> str:
        made = to.attach(*arguments, payload, "application/vnd.in-toto+json", {"predicate": "x"})
        made.confirm()
        return made.digest

    first = attach(b'{"a":1}')
    assert attach(b'{"a":1}') == first
    other = attach(b'{"a":2}')
    listed = to.referrers("org/attach", image.digest)
    assert {entry["digest"] for entry in listed} == {first, other} and len(listed) == 2
    if which == 0:
        tag = f"docker://{host}/org/attach:{fallback_tag(image.digest)}"
        index = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", tag))
        assert {entry["digest"] for entry in index["manifests"]} == {first, other}
        assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    manifest = to.get_manifest("org/attach", first)
    assert manifest is not None
    payload = json.loads(manifest.body)["layers"][0]["digest"]
    assert b"".join(to.open_blob("org/attach", payload)) == b'{"a":1}'


def test_many_attachers_at_once_lose_nothing(tmp_path: Path, host: str) -> None:
    image = make_image(tmp_path, "race")
    connect(host).push(image, "org/race", None)

    def work(number: int) -> None:
        text = f"statement {number}".encode()
        connect(host).attach("org/race", image.digest, "application/x", text, "text/plain", {}).confirm()

    def race(number: int) -> None:
        with suppress(PlatformError):  # docker-registry reads links that another request has half written
            work(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Without compare-and-set a writer may still be overwritten after it looked; attaching again repairs it.
    for number in range(3):
        work(number)
    assert len(connect(host).referrers("org/race", image.digest)) == 3


def test_a_tag_moves_and_a_missing_digest_is_named(tmp_path: Path, host: str) -> None:
    to = connect(host)
    one, two = make_image(tmp_path / "1", "tag one"), make_image(tmp_path / "2", "tag two")
    to.push(one, "org/tags", "latest")
    to.push(two, "org/tags", None)
    to.put_tag("org/tags", two.digest, "latest")
    assert to.resolve("org/tags", "latest") == two.digest
    with pytest.raises(PlatformError, match="no manifest"):
        to.put_tag("org/tags", "sha256:" + "0" * 64, "latest")
    assert to.resolve("org/nowhere", "latest") is None


def test_passwords_open_and_close(tmp_path: Path) -> None:
    with docker_registry(tmp_path / "r", htpasswd=HTPASSWD) as address:
        image = make_image(tmp_path / "w", "auth")
        connect(address, username="robot", password=PASSWORD).push(image, "org/app", "v1")
        for wrong in (connect(address), connect(address, username="robot", password="wrong-secret")):
            with pytest.raises(PlatformError, match="401") as caught:
                wrong.push(image, "org/app", "v2")
            assert caught.value.reason == "RegistryRefused" and not caught.value.retried
            assert "wrong-secret" not in str(caught.value)
        where = f"docker://{address}/org/app:v1"
        run("skopeo", "inspect", "--tls-verify=false", "--creds", f"robot:{PASSWORD}", where)


def test_nobody_there_is_said_with_host_and_attempts() -> None:
    with closed_port() as port:
        address = f"127.0.0.1:{port}"
        to = connect(address)
        to.transport.sleep = lambda seconds: None
        with pytest.raises(PlatformError) as caught:
            to.resolve("org/app", "v1")
    assert caught.value.reason == "RegistryUnavailable"
    assert address in caught.value.message and "could not be reached; gave up after 6 attempts" in caught.value.message


@dataclass
class Cutter:
    """A TCP relay that resets one connection after some bytes; `cut_at` counts bytes of both directions."""

    target: tuple[str, int]
    cut_at: int
    server: socket.socket = field(init=False)
    passed: int = 0
    cuts: int = 0
    counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self.target) as far:
            back = threading.Thread(target=self._relay, args=(far, near), daemon=True)
            back.start()
            self._relay(near, far)
            back.join()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                with self.counting:
                    self.passed += len(data)
                    if cuts := self.passed >= self.cut_at and not self.cuts:
                        self.cuts += 1
                if cuts:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_connection_may_break_anywhere(tmp_path: Path, host: str) -> None:
    """One whole push, attach and read for each place at which the connection is cut."""
    name, _, port = host.partition(":")
    target = (name, int(port))

    def whole(via: str, round_: int) -> None:
        folder = tmp_path / f"round{round_}"
        folder.mkdir()
        layer = make_layer(folder, "l", {"x": os.urandom(20_000)})
        image = build_image(None, (layer,), ImageConfig(entrypoint=("/app/x",)))
        to = connect(via)
        to.transport.sleep = lambda seconds: time.sleep(0.01)
        repository = f"org/cut{round_}"
        to.push(image, repository, "v1")
        to.attach(repository, image.digest, "application/x", b"statement", "text/plain", {})
        assert b"".join(to.open_blob(repository, layer.digest)) == layer.path.read_bytes()
        straight = connect(host)
        assert straight.resolve(repository, "v1") == image.digest
        assert len(straight.referrers(repository, image.digest)) == 1
        straight.close()
        to.close()

    uncut = Cutter(target, 10**12)
    whole(uncut.host, 0)
    assert uncut.passed > 40_000
    for round_ in range(1, 25):
        cutter = Cutter(target, round_ * uncut.passed // 25)
        whole(cutter.host, round_)
        assert cutter.cuts == 1
        cutter.server.close()
    uncut.server.close()
    # The relay's threads end with their connections.
    for _ in range(100):
        if not any("_serve" in thread.name or "_relay" in thread.name for thread in threading.enumerate()):
            break
        time.sleep(0.05)


def test_a_connection_is_used_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer's builds may come half a minute apart, and a handshake costs more than a request."""
    met, skipped = list[tuple[str, int]](), [0.0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            met.append(self.client_address)
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    clock = type("Clock", (), {"monotonic": staticmethod(lambda: time.monotonic() + skipped[0])})
    monkeypatch.setattr(http11, "time", clock)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        target = connect(f"127.0.0.1:{server.server_address[1]}")
        for _ in range(4):
            assert target.get_manifest("org/app", "latest") is None
            skipped[0] += 30
        assert len(set(met)) == 1
        skipped[0] += 60  # an idle one ends before a load balancer ends it
        assert target.get_manifest("org/app", "latest") is None
        assert len(set(met)) == 2
        target.close()
        server.shutdown()
        thread.join()
