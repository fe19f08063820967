"""The runtime contract on the bare fronts: no builder, no image, only the SDK of each runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.apps import Command, started
from tests.conformance.suite import *  # noqa: F403  (one suite for all runtimes)

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "conformance"
FRONT = ROOT / "runtimes" / "python" / "front"
SDK = ROOT / "runtimes" / "go" / "sdk"
CRATES = ROOT / "runtimes" / "rust" / "sdk"
COMPILED = Path("/var/tmp/ignite-builder-tests/cargo")
"""What cargo compiles for the tests of this file; it knows itself what is still good."""


def python(folder: Path) -> Command:
    """The Python front over a folder with a handler.py."""
    env = {"PYTHONPATH": f"{folder}:{FRONT}", "PYTHONUNBUFFERED": "1"}
    return Command(argv=(sys.executable, "-B", str(FRONT / "serve.py")), env=env, cwd=folder)


def go_build(folder: Path, out: Path) -> None:
    """Compile a folder of Go files with the SDK beside it."""
    work = out.with_name("src")
    shutil.copytree(folder, work)
    work.joinpath("go.mod").write_text(f"module app\n\ngo 1.21\n\nrequire ignite v0.0.0\n\nreplace ignite => {SDK}\n")
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    subprocess.run(("go", "build", "-o", str(out), "."), cwd=work, env=env, check=True)


def cargo(*argv: str, cwd: Path) -> None:
    """Run cargo on versions that the SDK's own lock pins."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(COMPILED), "CARGO_TERM_COLOR": "never"}
    done = subprocess.run(("cargo", *argv), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def cargo_build(folder: Path, out: Path) -> None:
    """Compile the package of a folder with the SDK beside it."""
    work = out.with_name("src")
    shutil.copytree(folder, work)
    needs = "serde_json = '1'\ntokio = { version = '1', features = ['full'] }\n"
    work.joinpath("Cargo.toml").write_text(
        f"[package]\nname = '{folder.name}'\nedition = '2021'\n\n[workspace]\n\n"
        f"[dependencies]\nignite.path = '{CRATES}/ignite'\n{needs}"
    )
    shutil.copy(CRATES / "Cargo.lock", work)
    cargo("build", cwd=work)
    shutil.copy(COMPILED / "debug" / folder.name, out)


@pytest.fixture(scope="module", params=["python", "python-async", "go", "rust", "rust-sync"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """How each runtime's conformance app is started."""
    if request.param.startswith("python"):
        return python(APPS / request.param)
    if request.param.startswith("rust"):
        out = tmp_path_factory.mktemp(request.param) / "app"
        cargo_build(APPS / request.param, out)
        return Command(argv=(str(out),), env={}, cwd=out.parent)
    out = tmp_path_factory.mktemp("go") / "app"
    go_build(APPS / "go", out)
    return Command(argv=(str(out),), env={}, cwd=out.parent)


def handler_of(folder: Path, text: str, **others: str) -> Command:
    """A Python app with this handler.py and other modules."""
    folder.joinpath("handler.py").write_text(text)
    for name, content in others.items():
        folder.joinpath(f"{name}.py").write_text(content)
    return python(folder)


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        ("b'\\x00\\xff'", "application/octet-stream", b"\x00\xff"),
        ("bytearray(b'ab')", "application/octet-stream", b"ab"),
        ("'grüße'", "text/plain; charset=utf-8", "grüße".encode()),
        ("{'a': [1, None]}", "application/json", b'{"a": [1, null]}'),
        ("None", "application/json", b"null"),
        ("12.5", "application/json", b"12.5"),
    ],
)
def test_python_values_become_bodies(tmp_path: Path, value: str, kind: str, body: bytes) -> None:
    with started(handler_of(tmp_path, f"def handler(payload, ctx):\n    return {value}\n")) as app:
        answer = app.ask("/")
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, kind, body)


def test_a_python_value_that_is_no_json_is_an_error_of_the_handler(tmp_path: Path) -> None:
    with started(handler_of(tmp_path, "def handler(payload, ctx):\n    return {1j}\n")) as app:
        answer = app.ask("/")
        assert answer.status == 500 and b"TypeError" in answer.body


def test_a_python_raise_tells_type_and_the_users_part_of_the_traceback(tmp_path: Path) -> None:
    text = "def deeper():\n    raise KeyError('lost')\n\ndef handler(payload, ctx):\n    deeper()\n"
    with started(handler_of(tmp_path, text)) as app:
        found = json.loads(app.ask("/").body)
        assert sorted(found) == ["error", "traceback", "type"]
        assert (found["error"], found["type"]) == ("'lost'", "KeyError")
        assert "deeper" in found["traceback"] and "serve.py" not in found["traceback"]


@pytest.mark.parametrize("folder", ["python", "python-async"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [("/stop-iteration", "StopIteration"), ("/cancelled", "CancelledError"), ("/not-an-exception", "NotAnException")],
)
def test_whatever_a_python_handler_raises_is_500_and_leaves_its_slot(folder: str, path: str, kind: str) -> None:
    with started(python(APPS / folder), IGNITE_MAX_CONCURRENCY="1") as app:
        answer = app.ask(path)
        assert answer.status == 500
        assert kind in json.loads(answer.body)["traceback"]
        assert app.ask("/echo", b"still here").body == b"still here"
        app.term()
        assert app.process.wait(5) == 0


def test_a_python_error_that_cannot_be_said_is_500(tmp_path: Path) -> None:
    silent = "class E(Exception):\n    def __str__(self):\n        raise KeyError\n"
    with started(handler_of(tmp_path, silent + "\ndef handler(payload, ctx):\n    raise E\n")) as app:
        answer = app.ask("/")
        assert (answer.status, json.loads(answer.body)["type"]) == (500, "E")


def test_python_modules_named_like_the_standard_librarys_do_not_break_the_front(tmp_path: Path) -> None:
    others = {name: "OURS = True\n" for name in ("json", "asyncio", "serve", "signal", "traceback")}
    text = "import serve\n\ndef handler(payload, ctx):\n    return str(serve.OURS)\n"
    with started(handler_of(tmp_path, text, **others)) as app:
        assert app.ask("/").body == b"True"


def test_a_python_handler_that_cannot_be_imported_never_becomes_ready(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="ended with 1 before it was ready"),
        started(handler_of(tmp_path, "import no_such_module\n")),
    ):
        pass


def test_the_go_sdks_own_tests_pass() -> None:
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-count=1"}
    done = subprocess.run(("go", "test", "./..."), cwd=SDK, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no test files" not in done.stdout
    vetted = subprocess.run(("go", "vet", "./..."), cwd=SDK, env=env, capture_output=True, text=True, check=False)
    assert vetted.returncode == 0, vetted.stderr


def test_the_rust_sdks_own_tests_pass() -> None:
    cargo("test", "--quiet", "--locked", "--package", "ignite", "--package", "ignite-macros", cwd=CRATES)
    cargo("fmt", "--check", cwd=CRATES)
