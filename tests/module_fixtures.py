"""A host of modules or of packages of JSR on loopback, behind TLS; and what it was asked."""

from __future__ import annotations

import hashlib
import json
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
    moved: dict[str, str] = field(default_factory=dict)
    """Path → the location that it answers instead."""

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


def package_of_jsr(name: str, version: str, files: Mapping[str, str]) -> dict[str, str]:
    """What a registry of JSR has of a version: its metadata, and its files, of which /mod.ts is what it exports."""
    manifest = {
        path: {"size": len(text.encode()), "checksum": f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"}
        for path, text in files.items()
    }
    metadata = json.dumps({"manifest": manifest, "exports": {".": "./mod.ts"}, "moduleGraph2": {}})
    at = f"/{name}/{version}"
    return {f"{at}_meta.json": metadata, **{f"{at}{path}": text for path, text in files.items()}}


def pinned_of_jsr(served: Mapping[str, str], **dependencies: list[str]) -> dict[str, object]:
    """The table `jsr` of a lock: each version by the SHA-256 of its metadata, with its dependencies by last name."""
    found: dict[str, object] = {}
    for path, text in sorted(served.items()):
        if path.endswith("_meta.json"):
            name, _, version = path.removesuffix("_meta.json")[1:].rpartition("/")
            row: dict[str, object] = {"integrity": hashlib.sha256(text.encode()).hexdigest()}
            if more := dependencies.get(name.rpartition("/")[2]):
                row["dependencies"] = more
            found[f"{name}@{version}"] = row
    return found


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
        if location := host.moved.get(self.path):
            self.send_response(302)
            self.send_header("Location", location)
        else:
            self.send_response(404 if text is None else 200)
        self.send_header("Content-Type", "text/plain")  # what a lock does not pin decides nothing
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
