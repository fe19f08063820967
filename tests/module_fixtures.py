"""A host of modules on loopback, behind TLS; and what it was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.git_fixtures import certificate, https_server


@dataclass
class ModuleHost:
    """`address` is "127.0.0.1:port"; `bundle` a CA bundle that trusts it; `asked` the paths of its requests."""

    address: str
    bundle: Path
    files: Mapping[str, str]
    asked: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"https://{self.address}"


def lock_of(origin: str, files: Mapping[str, str]) -> dict[str, object]:
    """A deno.lock with these modules, and a redirect from /mod.ts to the first."""
    first = next(iter(files))
    return {
        "version": "4",
        "redirects": {f"{origin}/mod.ts": f"{origin}{first}"},
        "remote": {f"{origin}{path}": hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()},
    }


@contextmanager
def serving(folder: Path, files: Mapping[str, str], trusted: str = "") -> Iterator[ModuleHost]:
    """The host with these files; `folder` is opened to the build user, whose steps read the bundle."""
    folder.chmod(0o755)
    pem, bundle = certificate(folder / "tls", trusted, authority=False)
    with https_server(pem, _Handler) as server:
        host = ModuleHost(address=f"127.0.0.1:{server.server_address[1]}", bundle=bundle, files=files)
        server.host = host  # type: ignore[attr-defined]
        yield host


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing goes to standard error."""

    def do_GET(self) -> None:
        host: ModuleHost = self.server.host  # type: ignore[attr-defined]
        host.asked.append(self.path)
        text = host.files.get(self.path)
        body = (text or "").encode()
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Type", "text/plain")  # what a lock does not pin decides nothing
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
