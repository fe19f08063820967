"""A server behind TLS with an authority of its own: trusted through ca_bundle alone, and named where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from builder.config import load
from tests.git_fixtures import certificate, https_server
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e


class Empty(BaseHTTPRequestHandler):
    """Answers each call with an empty message."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL, bundle that trusts it)."""
    pem, bundle = certificate(tmp_path / "tls", load({}).settings.ca_bundle)
    with https_server(pem, Empty) as made:
        made.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever does not trust it hangs up
        yield f"https://localhost:{made.server_port}", bundle


def test_the_setting_is_what_a_client_trusts_it_by(server: tuple[str, Path], tmp_path: Path) -> None:
    url, bundle = server
    ran = Program(tmp_path / "home", {"server": url, "token": "t", "ca_bundle": str(bundle)}).run("ls")
    assert ran.code == 0, ran


def test_who_does_not_trust_it_is_told_what_to_set(server: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = server
    settings = {"server": url, "token": "t", "node_dir": str(tmp_path / "node"), "unsandboxed": "true"}
    for command, code in (("ls", 9), ("worker", 75)):
        ran = Program(tmp_path / "home", settings).run(command)
        assert ran.code == code and "CERTIFICATE_VERIFY_FAILED" in ran.err and "ca_bundle" in ran.err, ran


def test_a_bundle_without_certificates_is_a_wrong_setting(server: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "empty.pem").write_text("")
    settings = {"server": url, "token": "t", "node_dir": str(tmp_path / "node"), "unsandboxed": "true"}
    for command in ("ls", "worker"):
        ran = Program(tmp_path / "home", {**settings, "ca_bundle": str(tmp_path / "empty.pem")}).run(command)
        assert ran.code == 75 and "holds no certificates" in ran.err, ran
        assert "bug of ours" not in ran.err and "no ignite-builder serve" not in ran.err, ran
