"""The runtime contract on the bare fronts: no builder, no image, only the SDK of each runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder import config
from builder.data import runtimes_dir
from builder.pipelines import catalog
from builder.toolchains import packages
from builder.toolchains.placing import file_of
from builder.toolchains.recipe import read_recipe
from tests.conformance.apps import Command, started
from tests.conformance.suite import *  # noqa: F403  (one suite for all runtimes)
from tests.kept import KEPT

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


def deno(folder: Path, into: Path, version: str = "2.7") -> Command:
    """A Deno app with the SDK beside it, by the Deno that builds take."""
    settings = config.load({"node_dir": str(KEPT)}).settings
    row = catalog.read(runtimes_dir() / "catalog.toml").find("deno", version)
    store = KEPT / "toolchains"
    packages.fetch((runtimes_dir(),), store, row, settings)
    (package,) = read_recipe((runtimes_dir(),), "deno").packages
    shutil.copytree(folder, into)
    sdk = (runtimes_dir() / "deno" / "sdk" / "mod.ts").as_uri()
    into.joinpath("deno.json").write_text(json.dumps({"imports": {"ignite": sdk}}))
    argv = (str(file_of(store, row, package)), "run", "--no-prompt", "--allow-net", "--allow-env", "main.ts")
    env = {"DENO_DIR": str(into / "cache"), "DENO_NO_UPDATE_CHECK": "1"}
    # Deno.serve: its loop takes no request once shutdown() is called, not even of a connection that it has accepted.
    return Command(argv=argv, env=env, cwd=into, loses_accepted=True)


@pytest.fixture(scope="module", params=["python", "python-async", "go", "deno", "rust", "rust-sync"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """How each runtime's conformance app is started."""
    if request.param == "deno":
        return deno(APPS / "deno", tmp_path_factory.mktemp("deno") / "app")
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
        assert app.process.wait(300) == 0


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


def of_deno(folder: Path, handler: str) -> Command:
    """A Deno app with this handler."""
    source = folder / "source"
    source.mkdir()
    source.joinpath("main.ts").write_text(f'import {{ start }} from "ignite";\n\nstart({handler});\n')
    return deno(source, folder / "app")


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [
        ("new Uint8Array([0, 255])", "application/octet-stream", b"\x00\xff"),
        ("new Uint8Array([97, 98]).buffer", "application/octet-stream", b"ab"),
        ("'grüße'", "text/plain;charset=utf-8", "grüße".encode()),
        ("({a: [1, null]})", "application/json", b'{"a":[1,null]}'),
        ("undefined", "application/json", b"null"),
        ("new Response('x', {status: 201, headers: {'content-type': 'text/x'}})", "text/x", b"x"),
        ("new Blob(['stream']).stream()", "application/octet-stream", b"stream"),
    ],
)
def test_deno_values_become_bodies(tmp_path: Path, value: str, kind: str, body: bytes) -> None:
    with started(of_deno(tmp_path, f"() => {value}")) as app:
        answer = app.ask("/")
        assert answer.status == (201 if kind == "text/x" else 200)
        assert (answer.headers["content-type"].lower(), answer.body) == (kind, body)


@pytest.mark.parametrize(
    ("handler", "error", "kind"),
    [
        ("() => { throw new RangeError('too far') }", "too far", "RangeError"),
        ("async () => { await 0; throw { toString() { throw 1 } } }", "the error has no text", "object"),
        ("() => () => 1", "the handler returned a function, which is no JSON", "TypeError"),
    ],
)
def test_whatever_a_deno_handler_throws_is_500(tmp_path: Path, handler: str, error: str, kind: str) -> None:
    with started(of_deno(tmp_path, handler), IGNITE_MAX_CONCURRENCY="1") as app:
        for _ in range(2):  # the slot is free again
            answer = app.ask("/")
            assert (answer.status, json.loads(answer.body)) == (500, {"error": error, "type": kind})


def test_a_deno_handler_may_print(tmp_path: Path) -> None:
    printing = "() => { console.log('x'.repeat(100_000)); console.error('y'); return 'printed' }"
    with started(of_deno(tmp_path, printing)) as app:
        assert [app.ask("/").body for _ in range(20)] == [b"printed"] * 20
