"""A git host on loopback: git's own http-backend behind TLS, with a login for one repository; and what it was asked."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from builder.sandbox import proxy

BACKEND = "/usr/lib/git-core/git-http-backend"
USERNAME, TOKEN = "ada", "ghp_0123456789abcdefghij"
NAME = "git.acme.example"
"""What the certificate names beside the address, for clients that reach the host by `leading_to`."""
CLEAN = {
    "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C",
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
    "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
}  # fmt: skip


@dataclass
class Host:
    """`address` is "127.0.0.1:port"; `bundle` a CA bundle that trusts it; `root` the folder of bare repositories.

    `asked` are the paths of its requests, `moved` path → where it redirects to, `pages` path → its answer to
    `?go-get=1`.
    """

    address: str
    bundle: Path
    root: Path
    asked: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"https://{self.address}/{name}.git"


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *words], env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(work: Path, files: Mapping[str, str | bytes], message: str = "m") -> str:
    """Write the files and commit them; the SHA."""
    if not (work / ".git").exists():
        work.mkdir(parents=True, exist_ok=True)
        git(work, "init", "-q", "-b", "main")
    for name, content in files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    git(work, "add", "-A", "-f")
    git(work, "commit", "-q", "--allow-empty", "-m", message)
    return git(work, "rev-parse", "HEAD")


def link(work: Path, folder: str, sha: str) -> str:
    """Commit a submodule's commit at a folder; the SHA."""
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{sha},{folder}")
    git(work, "commit", "-q", "-m", "link")
    return git(work, "rev-parse", "HEAD")


def publish(host: Host, work: Path, name: str) -> None:
    """Make a bare copy that the host serves."""
    git(work, "clone", "-q", "--bare", "--no-hardlinks", ".", str(host.root / f"{name}.git"))
    git(host.root / f"{name}.git", "config", "http.uploadpack", "true")


def certificate(folder: Path, others: str, *, authority: bool = True) -> tuple[Path, Path]:
    """(certificate with its key, bundle that trusts it beside what the machine trusts).

    `authority`: it may sign others, which some clients refuse of a server.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "git host of a test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "server.pem").write_bytes(public + secret)
    bundle = folder / "bundle.pem"
    bundle.write_bytes(public + (Path(others).read_bytes() if others else b""))
    bundle.chmod(0o644)
    return folder / "server.pem", bundle


@contextmanager
def https_server(pem: Path, handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A server on a free port of loopback with this certificate and key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(folder: Path, trusted: str = "") -> Iterator[Host]:
    """The host; repositories whose name begins with "private" take the login."""
    pem, bundle = certificate(folder / "tls", trusted)
    root = folder / "repositories"
    root.mkdir(parents=True)
    with https_server(pem, _Handler) as server:
        host = Host(address=f"127.0.0.1:{server.server_address[1]}", bundle=bundle, root=root)
        server.host = host  # type: ignore[attr-defined]
        yield host


@contextmanager
def leading_to(host: Host) -> Iterator[str]:
    """The URL of an operator's proxy that leads each CONNECT to the host, whatever name it has."""
    port = int(host.address.rpartition(":")[2])

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:  # either side may go
            client.recv(4096)
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
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing goes to standard error."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length", "0"))))

    def _answer(self, body: bytes) -> None:
        host: Host = self.server.host  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        host.asked.append(self.path)
        for start, there in host.moved.items():
            if path.startswith(start):
                self._send(301, [("Location", there + self.path.removeprefix(start))], b"")
                return
        if path.startswith("/private") and not self._is_known():
            self._send(401, [("WWW-Authenticate", 'Basic realm="test"')], b"")
            return
        if query == "go-get=1" and path in host.pages:
            self._send(200, [("Content-Type", "text/html")], host.pages[path].encode())
            return
        environ = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(host.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""), "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        done = subprocess.run([BACKEND], input=body, env=environ, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self._send(status, [(name, value) for name, value in fields if name != "Status"], content)

    def _is_known(self) -> bool:
        wanted = base64.b64encode(f"{USERNAME}:{TOKEN}".encode()).decode()
        return self.headers.get("authorization", "") == f"Basic {wanted}"

    def _send(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
