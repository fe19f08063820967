"""A client loads a CA bundle with its first request over TLS, and never for plain HTTP."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from types import SimpleNamespace

import certifi
import httpx
import pytest

import builder
from builder import tls
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb


class Loaded(Exception):
    """The bundle was asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bundles that were loaded; loading one ends the request."""
    found: list[str] = []

    def load(ca_bundle: str) -> ssl.SSLContext:
        found.append(ca_bundle)
        raise Loaded

    monkeypatch.setattr(tls, "context", load)
    return found


def test_a_bundle_is_loaded_with_the_first_request_over_tls(asked: list[str]) -> None:
    with tls.new_client(ca_bundle="/a/bundle", timeout=httpx.Timeout(1)) as client:
        assert asked == []
        with pytest.raises(Loaded):
            client.get("https://example.com/")
    assert asked == ["/a/bundle"]


def test_the_api_is_trusted_by_the_same_bundle(asked: list[str]) -> None:
    plain, safe = (Api(f"{scheme}://ignite.test", "t", ca_bundle="/a/bundle") for scheme in ("http", "https"))
    assert plain._http and asked == []
    plain.close()
    with pytest.raises(Loaded):
        safe.call("GetBuild", pb.GetBuildRequest(build_id="k7m2"))
    assert asked == ["/a/bundle"]


def test_a_client_of_plain_http_trusts_nobody(asked: list[str]) -> None:
    assert tls.plain_transport() and asked == []
    trusts = tls.trusts_nobody()
    assert trusts.verify_mode is ssl.CERT_REQUIRED and trusts.check_hostname and not trusts.get_ca_certs()


@pytest.mark.parametrize("place", ["absent", "empty", "gone"])
def test_an_image_without_certificates_trusts_whom_the_library_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    """Where openssl is installed without ca-certificates, there is a place for them and nothing in it."""
    folder, file = tmp_path / "certs", tmp_path / "cert.pem"
    if place == "empty":
        folder.mkdir()
        (folder / "README").write_text("put certificates here")
        file.touch()
    paths = (None, None) if place == "absent" else (str(file), str(folder))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(cafile=paths[0], capath=paths[1]))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert len(tls.context.__wrapped__("").get_ca_certs()) > 50


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_machine_with_certificates_is_asked_for_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    folder, file = tmp_path / "certs", tmp_path / "cert.pem"
    folder.mkdir()
    certificate = certifi.contents().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    (file if place == "file" else folder / "0123abcd.0").write_text(certificate)
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert len(tls.context.__wrapped__("").get_ca_certs()) == (1 if place == "file" else 0), "a folder is read by need"


def test_one_context_serves_all_clients_of_a_bundle() -> None:
    assert tls.context("") is tls.context("")


def test_no_other_module_makes_a_context() -> None:
    """So whom an operator trusts is trusted by all of it."""
    folder = Path(builder.__file__).parent
    makes = re.compile(r"create_(default|ssl|urllib3)_context|SSLContext\(|_unverified_context")
    makers = {str(path.relative_to(folder)) for path in folder.rglob("*.py") if makes.search(path.read_text())}
    assert makers == {"tls.py"}
