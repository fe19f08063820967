"""The one way out, with real package clients; what is refused; and an app served from an empty network."""

from __future__ import annotations

import http.client
import http.server
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder import indexes, sandbox
from builder.config import load
from builder.sandbox import proxy
from tests.sandbox_fixtures import PYTHON, UID, Ran, alive, limits, run, until, work_folder

pytestmark = pytest.mark.e2e

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
GET = """
import sys, urllib.request, urllib.error
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            print(answer.status, answer.read(200).decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode())
    except OSError as error:
        print("failed", error)
"""
DIRECT = """
import socket, sys
for host, port in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 443), ("pypi.org", 443)):
    try:
        socket.create_connection((host, port), timeout=2)
        print("reached", host)
    except OSError:
        pass
"""


@pytest.fixture
def work() -> Iterator[Path]:
    with work_folder() as folder:
        yield folder


class Index(http.server.BaseHTTPRequestHandler):
    """Stands for a private package index: plain HTTP on a loopback address."""

    def do_GET(self) -> None:
        body = f"index of {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def http_server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def allowed(*hosts: tuple[str, int], upstream: str = "") -> sandbox.Egress:
    return sandbox.Egress(sandbox.EgressPolicy(hosts=frozenset(hosts)), upstream_proxy=upstream)


def verdicts(egress: sandbox.Egress) -> list[tuple[str, str]]:
    return [(record.host, record.verdict.value) for record in egress.records]


def test_a_private_index_is_reached_and_recorded(work: Path) -> None:
    with http_server() as port:
        egress = allowed(("127.0.0.1", port))
        ran = run(work, PYTHON, "-c", GET, f"http://127.0.0.1:{port}/simple/?q=1", egress=egress)
    assert ran.text() == "200 index of /simple/?q=1"
    (record,) = egress.records
    assert record.verdict is sandbox.Verdict.ALLOWED
    assert record.bytes_in > 0
    assert record.bytes_out > 0


def test_other_hosts_are_refused_with_words(work: Path) -> None:
    with http_server() as port:
        egress = allowed(("index.example", 443))
        urls = (f"http://127.0.0.1:{port}/", "http://169.254.169.254/latest/", "https://example.com/")
        ran = run(work, PYTHON, "-c", GET, *urls, egress=egress)
    first, second, third = [line for line in ran.text().splitlines() if line]
    assert first.startswith("403 ignite egress: 127.0.0.1:")
    assert "not a configured package index" in first
    assert second.startswith("403")
    assert "403" in third
    assert {verdict for _, verdict in verdicts(egress)} == {"refused"}
    assert "example.com:443 was refused" in ran.text("SYSTEM")
    assert egress.unreachable() == frozenset()


def test_an_index_that_does_not_answer_is_told_apart(work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    egress = allowed(("127.0.0.1", port), ("no-such-host.invalid", 443))
    urls = (f"http://127.0.0.1:{port}/", "https://no-such-host.invalid/")
    ran = run(work, PYTHON, "-c", GET, *urls, egress=egress)
    assert ran.text().startswith("502")
    assert egress.unreachable() == {"127.0.0.1", "no-such-host.invalid"}
    assert egress.refused() == frozenset()


def test_a_step_that_ignores_the_proxy_reaches_nothing(work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        egress = allowed(("127.0.0.1", port), ("pypi.org", 443))
        assert run(work, PYTHON, "-c", DIRECT, str(port), egress=egress).text() == ""
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert egress.records == []


def test_a_step_without_egress_has_no_proxy(work: Path) -> None:
    script = "import os; print([name for name in os.environ if 'proxy' in name.lower()])"
    assert run(work, PYTHON, "-c", script).text() == "[]"
    script = "import socket; socket.create_connection(('127.0.0.1', 3128))"
    assert "ConnectionRefusedError" in run(work, PYTHON, "-c", script).text("STDERR")


@contextmanager
def upstream_proxy() -> Iterator[tuple[int, list[bytes]]]:
    """A CONNECT proxy of the operator's: notes each line of a request's head, then carries bytes."""
    asked: list[bytes] = []

    def serve(client: socket.socket) -> None:
        with client:
            head = client.recv(4096)
            asked.extend(line for line in head.split(b"\r\n") if line)
            host, port = head.split(b" ")[1].split(b":")
            if host == b"closed.example":
                client.sendall(b"HTTP/1.1 503 no\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", int(port))) as server:
                client.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
                proxy.relay(client, server, [0, 0])

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_operators_own_proxy_is_gone_through(work: Path) -> None:
    with http_server() as port, upstream_proxy() as (through, asked):
        egress = allowed(("index.example", port), ("closed.example", 80), upstream=f"http://127.0.0.1:{through}")
        urls = (f"http://index.example:{port}/x", "http://closed.example/")
        ran = run(work, PYTHON, "-c", GET, *urls, egress=egress)
    assert ran.text().splitlines()[0] == "200 index of /x"
    assert f"CONNECT index.example:{port} HTTP/1.1".encode() in asked
    assert egress.unreachable() == {"closed.example"}


def test_the_operators_proxy_is_logged_in_to_from_outside(work: Path) -> None:
    with http_server() as port, upstream_proxy() as (through, asked):
        egress = allowed(("index.example", port), upstream=f"http://ignite:p%40ss@127.0.0.1:{through}")
        script = GET + "\nimport os\nprint(sorted(os.environ.items()))"
        ran = run(work, PYTHON, "-c", script, f"http://index.example:{port}/x", egress=egress)
    assert ran.text().splitlines()[0] == "200 index of /x"
    assert b"Proxy-Authorization: Basic aWduaXRlOnBAc3M=" in asked
    assert "ignite" not in ran.text() + ran.text("STDERR")


# --- real clients of real registries, through whatever this machine's own clients use


def fetching(
    runtime: str, work: Path, mounts: tuple[sandbox.Mount, ...], argv: tuple[str, ...], env: dict[str, str]
) -> Ran:
    settings = load().settings
    egress = sandbox.Egress.for_indexes(
        indexes.shipped()[runtime],
        settings.index_env,
        upstream_proxy=settings.upstream_proxy,
        no_proxy=settings.no_proxy,
    )
    bundle = Path(settings.ca_bundle or BUNDLE).resolve()
    root = sandbox.host_root()
    root = sandbox.Root(mounts=(*root.mounts, *mounts, sandbox.Mount(source=bundle, dest=BUNDLE)))
    base = {"HOME": "/work", "SSL_CERT_FILE": BUNDLE, **settings.index_env}
    ran = run(work, *argv, env=base | env, root=root, egress=egress, pids=512, disk=1 << 30, memory=1 << 30)
    if egress.unreachable():
        pytest.skip(f"no package index: {sorted(egress.unreachable())}")
    return ran


def reachable(path: Path, into: Path) -> Path:
    """A copy the build user can enter."""
    copy = into / path.name
    shutil.copytree(path, copy, symlinks=True) if path.is_dir() else shutil.copy2(path, copy)
    return copy


def test_uv_installs_a_package(work: Path) -> None:
    uv = shutil.which("uv", path=str(Path(".venv/bin").resolve())) or shutil.which("uv")
    if not uv:
        pytest.skip("uv is not installed")
    mount = sandbox.Mount(source=reachable(Path(uv).resolve(), work.parent), dest="/opt/ignite/uv")
    argv = ("/opt/ignite/uv", "pip", "install", "--target", "/work/out", "--python", PYTHON, "idna==3.10")
    ran = fetching("python", work, (mount,), argv, {"UV_CACHE_DIR": "/work/cache", "UV_PYTHON_DOWNLOADS": "never"})
    assert ran.result.exit_code == 0, ran.lines
    assert (work / "out/idna/__init__.py").is_file()


def test_go_downloads_a_module_and_without_the_proxy_nothing(work: Path) -> None:
    go = shutil.which("go")
    if not go:
        pytest.skip("go is not installed")
    found = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, check=True).stdout
    mount = sandbox.Mount(source=Path(found.strip()).resolve(), dest="/opt/ignite/go")
    (work / "go.mod").write_text("module example.com/x\n\ngo 1.21\n\nrequire golang.org/x/text v0.14.0\n")
    env = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOPATH": "/work/gopath", "GOCACHE": "/work/cache"}
    argv = ("/opt/ignite/go/bin/go", "mod", "download", "-x", "golang.org/x/text")
    ignoring = ("/usr/bin/env", "-u", "HTTPS_PROXY", "-u", "https_proxy", "-u", "HTTP_PROXY", "-u", "http_proxy")
    failed = fetching("go", work, (mount,), (*ignoring, *argv), env)
    assert failed.result.exit_code != 0
    assert not (work / "gopath/pkg/mod/golang.org").exists()
    ran = fetching("go", work, (mount,), argv, env)
    assert ran.result.exit_code == 0, ran.lines
    assert (work / "gopath/pkg/mod/golang.org/x/text@v0.14.0/go.mod").is_file()


# --- serving


APP = """
import http.server, os, socket, sys
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            socket.create_connection(("127.0.0.1", int(self.path[1:])), timeout=2)
            out = b"reached the host"
        except OSError:
            out = b"alone"
        self.send_response(200)
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
"""


def asked(address: tuple[str, int], path: str) -> str:
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def test_an_app_is_served_from_an_empty_network(work: Path) -> None:
    marker = secrets.token_hex(8)
    with socket.create_server(("127.0.0.1", 0)) as host:
        command = sandbox.Command(argv=(PYTHON, "-c", APP, marker), work=work)
        serving = sandbox.serve(command, sandbox.host_root(), limits(), uid=UID, gid=UID, port=8080, grace_ms=200)
        try:
            path = f"/{host.getsockname()[1]}"
            assert until(lambda: asked(serving.address, path) != "")
            assert asked(serving.address, path) == "alone"
            assert serving.running()
        finally:
            serving.stop()
            result = serving.wait()
    assert result.reason == "Cancelled"
    assert alive(marker) == []
    with pytest.raises(OSError):
        socket.create_connection(serving.address, timeout=1)


def test_an_app_that_ends_by_itself_says_how(work: Path) -> None:
    command = sandbox.Command(argv=("/bin/sh", "-c", "exit 9"), work=work)
    serving = sandbox.serve(command, sandbox.host_root(), limits(), uid=UID, gid=UID, port=8080)
    assert serving.wait().exit_code == 9


# --- a worker that is not root


UNPRIVILEGED = """
import sys, threading
from pathlib import Path
from builder import sandbox
work, port, code = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
egress = sandbox.Egress(sandbox.EgressPolicy(hosts=frozenset({("127.0.0.1", port)})))
result = sandbox.run(
    sandbox.Command(argv=("/usr/bin/python3", "-c", code, f"http://127.0.0.1:{port}/", "http://10.0.0.1/"), work=work),
    sandbox.host_root(),
    sandbox.Limits(memory=1 << 29, cpus=1, pids=64, disk=1 << 26, wall_ms=120_000),
    uid=0, gid=0, egress=egress, on_line=lambda stream, line: print(line.decode()), cancelled=lambda: False,
    use_cgroups=False,
)
print(result.exit_code, result.reason)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="everything here already runs unprivileged")
def test_a_worker_that_is_not_root(work: Path) -> None:
    """Joining the namespace then needs a process of its own, through the user namespace that owns it."""
    package = work.parent / "package"
    shutil.copytree(Path(sandbox.__file__).parent, package / "builder" / "sandbox")
    for name in ("__init__.py", "errors.py", "indexes.py", "data.py"):
        shutil.copy(Path(sandbox.__file__).parents[1] / name, package / "builder" / name)
    with http_server() as port:
        done = subprocess.run(
            [PYTHON, "-c", UNPRIVILEGED, str(work), str(port), GET],
            env={"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
            user=UID,
            group=UID,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0] == "200 index of /"
    assert lines[1].startswith("403")
    assert lines[-1] == "0 None"
