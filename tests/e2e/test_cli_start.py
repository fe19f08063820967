"""What a command loads, read off a fresh interpreter: a program that is typed fifty times a day must start at once."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import builder
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from tests.cli_fixtures import build, line, sse

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
STORE = {"sqlalchemy", "alembic", "psycopg"}
NODE = {"celery", "kombu", "billiard", "redis"}
SERVER = {"starlette", "uvicorn", "structlog"}
IMAGES = {"builder.strategies.base", "builder.kube", "builder.kaniko", "builder.buildpacks"}
"""Image mode, which is a server's alone."""
LATER = {"builder.control.finalizers", "builder.finalize", "builder.prebuilt", "builder.node.budget"}
"""What a build needs after its steps."""
PRETTY = {"rich", "pygments"}
"""What the HTTP client loads for a command line of its own, where it is installed."""
EVERYTHING = {"httpx", "google.protobuf", "msgspec", *STORE, *NODE, *SERVER}
MAIN = """
import json, sys
from builder.cli import run
code = run()
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded(home: Path, *argv: str, **variables: str) -> tuple[int, set[str]]:
    """The exit code of the program, and every module of its process."""
    environ = {"HOME": str(home), "LANG": "C.UTF-8", **variables}
    command = [sys.executable, "-c", MAIN, *argv]
    ran = subprocess.run(command, check=False, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
    code, modules = json.loads(ran.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.fixture
def server() -> Iterator[str]:
    """A build service with one build, on loopback."""
    record = build(log_lines=1)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = codec.dump(record)
            if self.path.partition("?")[0].endswith("/builds"):
                body = codec.dump(pb.ListBuildsResponse(builds=[record]))
            elif "/logs/stream" in self.path:
                body = sse([line(1, "words")])
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("argv", [(), ("-h",), ("--help",), ("help",), ("--version",)], ids=" ".join)
def test_help_and_version_load_not_even_the_parser(tmp_path: Path, argv: tuple[str, ...]) -> None:
    code, modules = loaded(tmp_path, *argv)
    assert code == 0 and not modules & {*EVERYTHING, "click", "wcwidth", "importlib.metadata"}
    assert "builder.cli.methods" in modules  # before the first dataclass of ours: it compiles no method for nothing


@pytest.mark.parametrize("argv", [("buidl", "."), ("build", "--runtme", "go"), ("logs", "--from", "x")], ids=" ".join)
def test_a_mistake_loads_the_parser_alone(tmp_path: Path, argv: tuple[str, ...]) -> None:
    code, modules = loaded(tmp_path, *argv)
    assert code == 2 and "click" in modules and not modules & EVERYTHING


def test_plan_loads_no_client_no_store_and_no_node(tmp_path: Path) -> None:
    code, modules = loaded(tmp_path, "plan", "examples/go-hello")
    assert code == 0 and not modules & {"httpx", *STORE, *NODE, *SERVER}


@pytest.mark.parametrize("argv", [("ls",), ("get", "k7m2"), ("logs", "k7m2")], ids=" ".join)
def test_a_reader_with_a_server_loads_a_client_alone(tmp_path: Path, server: str, argv: tuple[str, ...]) -> None:
    code, modules = loaded(tmp_path, *argv, f"--server={server}")
    assert code == 0 and "httpx" in modules and not modules & {*STORE, *NODE, *SERVER, *PRETTY}


def test_a_build_without_a_server_loads_the_store_and_the_line(tmp_path: Path) -> None:
    """The first one makes the store, with the tool for it. The source cannot be planned, so no step is run."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "go.mod").write_text("module example.com/app\n\ngo 9.99\n")
    (source / "main.go").write_text("package main\n\nfunc main() {}\n")
    node = {"IGNITE_BUILDER_NODE_DIR": str(tmp_path / "node")}
    first, _ = loaded(tmp_path, "build", str(source), **node)
    code, modules = loaded(tmp_path, "build", str(source), **node)
    assert first == code == REASONS["UnknownRuntimeVersion"].exit_code and {"sqlalchemy", "builder.build"} <= modules
    assert not modules & {"alembic", "packaging.requirements", "httpx", *IMAGES, *LATER, *NODE, *SERVER, *PRETTY}


def test_the_client_of_a_registry_loads_no_command_line(tmp_path: Path) -> None:
    """The program's own process: what a registry's client loads there when the first layer is about to be pushed."""
    code = (
        "import sys; from builder import cli; cli.run(); from builder.local.build import load_registry as load; load()"
    )
    show = "; import json; print(json.dumps(sorted(sys.modules)))"
    argv = [sys.executable, "-c", code + show, "--version"]
    ran = subprocess.run(argv, check=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    modules = set(json.loads(ran.stdout.splitlines()[-1]))
    assert {"httpx", "httpcore"} <= modules and not modules & PRETTY


def test_the_version_is_that_of_the_installation() -> None:
    """The program prints it without the metadata; both come from one line when the package is built."""
    assert importlib.metadata.version("ignite-builder") == builder.__version__
