"""The probes of tests/probes/ inside what runs code while a runtime builds: what they get in each is nothing.

Rust's `build.rs` and procedural macros, the backend of a Python sdist, the lifecycle script of an npm package. Steps
have no common interpreter, so the probes bring theirs: that of the Python base, started by the root's dynamic linker.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.store import images_of
from tests.build_fixtures import Files, Server, tar_gz_of
from tests.e2e.conftest import Start
from tests.probe_fixtures import GIVEN, NAMES, OF_THE_IMAGE, SCRIPT, Host, services, settings_of_the_worker

pytestmark = pytest.mark.e2e

HOOKS = ("build.rs", "procedural macro", "npm script", "sdist backend")
VARIABLES = (
    *GIVEN, "PYTHONHOME", "PYTHONHASHSEED",
    # of the step that builds an sdist
    "PYTHONPATH", "WHEELS",
    # cargo's, of the package and of itself
    "CARGO", "CARGO_*", "RUSTC", "RUSTDOC", "RUSTC_*", "RUSTUP_*", "LD_LIBRARY_PATH", "TARGET", "HOST", "OUT_DIR",
    "NUM_JOBS", "OPT_LEVEL", "PROFILE", "DEBUG", "SSL_CERT_DIR", "SSL_CERT_FILE", "RUST_VERSION",
    # npm's and deno's
    "npm_*", "NPM_*", "INIT_CWD", "DENO_*", "OLDPWD", "SHLVL", "_",
)  # fmt: skip
PYTHON = (
    "/lib64/ld-linux-x86-64.so.2 --library-path {home}/so {home}/python3.11 -B {home}/contained.py {home}/facts.json"
)
SHARED = ("libexpat.so.1", "libffi.so.8", "libz.so.1")
CARGO = '[package]\nname = "{}"\nversion = "0.1.0"\nedition = "2021"\n'
LOCK = """\
version = 4

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "probing",
]

[[package]]
name = "probing"
version = "0.1.0"
"""
PROBED = """\
fn probed(mark: &str) {
    let words = "COMMAND".split(' ').collect::<Vec<_>>();
    let done = std::process::Command::new(words[0]).args(&words[1..]).env("PYTHONHOME", "FOLDER").output().unwrap();
    let flags = std::env::var("CARGO_MAKEFLAGS").unwrap();
    let jobs = flags.split("--jobserver-fds=").nth(1).unwrap().split(' ').next().unwrap();
    let jobs = r#"{"probe": "jobserver", "got": "JOBS"}"#.replace("JOBS", jobs);
    for line in String::from_utf8_lossy(&done.stdout).lines().chain([jobs.as_str()]) {
        println!("MARK{mark}{line}");
        eprintln!("{mark}{line}");
    }
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
"""
MACRO = """
#[proc_macro]
pub fn run(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    probed("@procedural macro ");
    "()".parse().unwrap()
}
"""
BACKEND = """
import os, runpy, sys, zipfile

def build_wheel(out, settings=None, metadata=None):
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        sys.argv = ["contained.py", "facts.json"]
        runpy.run_path("contained.py", run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    with zipfile.ZipFile(os.path.join(out, "probing-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("probing.py", "")
        wheel.writestr("probing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: probing\\nVersion: 1.0\\n")
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("probing-1.0.dist-info/WHEEL", tags)
        wheel.writestr("probing-1.0.dist-info/RECORD", "probing.py,,\\n")
    return "probing-1.0-py3-none-any.whl"
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n'


@dataclass
class Registry:
    """A package registry on a loopback port: path → bytes. One serves npm's tarballs and Python's pages alike."""

    files: dict[str, bytes] = field(default_factory=dict)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator[str]:
        registry = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = registry.files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("content-type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@dataclass(frozen=True)
class World:
    """A running service, the host around it, and what the probes are given."""

    server: Server
    registry: Registry
    host: Host
    facts: str
    python: Files


@pytest.fixture(scope="module")
def world(start: Start) -> Iterator[World]:
    registry = Registry()
    with ExitStack() as stack:
        url = stack.enter_context(registry.running())
        index = {"UV_DEFAULT_INDEX": f"{url}/simple", "NPM_CONFIG_REGISTRY": url}
        server = stack.enter_context(start(index_env=index, slots=1))
        host = Host(stack)
        node = Path(server.embedded.settings.node_dir)
        other = node / "work" / "another"  # no name of a claim: the node would remove it
        other.mkdir(parents=True)
        (other / "secret").write_text(host.secret)
        own = {"services": services(server), "variables": settings_of_the_worker(server)}
        facts = host.facts | own | {"work": f"{node}/", "given": VARIABLES, "other_file": str(other / "secret")}
        yield World(server, registry, host, json.dumps(facts), interpreter(server))
        assert host.heard() == []
        (other / "secret").unlink()
        other.rmdir()
        server.assert_nothing_left()


def interpreter(server: Server) -> Files:
    """CPython of the base with what the probes import, below `py/`."""
    images = images_of(server.embedded.settings.node_dir)
    base = images.get("python-3.11")
    assert base is not None
    usr = images.rootfs(base.digest) / "usr"
    library = usr / "lib/python3.11"
    packages = ("collections", "ctypes", "encodings", "importlib", "json", "lib-dynload", "re")
    found = [*library.glob("*.py"), *(path for name in packages for path in (library / name).rglob("*.*"))]
    files: dict[str, str | bytes] = {
        f"py/lib/python3.11/{path.relative_to(library).as_posix()}": path.read_bytes()
        for path in found
        if path.is_file() and path.suffix in (".py", ".so")
    }
    files |= {f"py/so/{name}": (usr / "lib/x86_64-linux-gnu" / name).read_bytes() for name in SHARED}
    return files | {"py/python3.11": (usr / "bin/python3.11").read_bytes(), "py/contained.py": SCRIPT.read_bytes()}


def rust(world: World) -> Files:
    """A package whose build script probes, and a procedural macro of the source that does."""
    probed = PROBED.replace("COMMAND", PYTHON.format(home="/work/src/py")).replace("FOLDER", "/work/src/py")
    return {
        **world.python,
        "py/facts.json": world.facts,
        "Cargo.toml": CARGO.format("app") + '\n[dependencies]\nprobing = { path = "probing" }\n',
        "Cargo.lock": LOCK,
        "build.rs": probed.replace("MARK", "cargo:warning=") + 'fn main() {\n    probed("@build.rs ");\n}\n',
        "src/main.rs": "fn main() {\n    probing::run!();\n}\n",
        "probing/Cargo.toml": CARGO.format("probing") + "\n[lib]\nproc-macro = true\n",
        "probing/src/lib.rs": probed.replace("MARK", "") + MACRO,
    }


def deno(world: World) -> Files:
    """A program with an npm package of ours, pinned by the lock. Deno shows what a script prints where it fails."""
    home = "$PWD/py"
    script = f"PYTHONHOME={home} {PYTHON.format(home=home)} && exit 3"
    files: Files = {
        **world.python,
        "py/facts.json": world.facts,
        "package.json": json.dumps({"name": "probing", "version": "1.0.0", "scripts": {"postinstall": script}}),
        "index.js": "export default 1;\n",
    }
    tarball = tar_gz_of({f"package/{name}": content for name, content in files.items()})
    world.registry.files["/probing/-/probing-1.0.0.tgz"] = tarball
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    entry = {"integrity": integrity, "scripts": True, "tarball": ""}
    lock = {"version": "5", "specifiers": {"npm:probing@1.0.0": "1.0.0"}, "npm": {"probing@1.0.0": entry}}
    return {
        "main.ts": 'import one from "npm:probing@1.0.0";\nDeno.serve(() => new Response(String(one)));\n',
        "deno.lock": json.dumps(lock),
    }


def python(world: World) -> Files:
    """A handler that requires a package, of which the index has an sdist alone."""
    files = {"back.py": BACKEND, "pyproject.toml": PYPROJECT, "contained.py": SCRIPT.read_text()}
    files["facts.json"] = world.facts
    files["PKG-INFO"] = "Metadata-Version: 2.2\nName: probing\nVersion: 1.0\n"
    sdist = tar_gz_of({f"probing-1.0/{name}": content for name, content in files.items()})
    name = "probing-1.0.tar.gz"
    world.registry.files[f"/files/{name}"] = sdist
    page = f'<a href="/files/{name}#sha256={hashlib.sha256(sdist).hexdigest()}">{name}</a>'
    world.registry.files["/simple/probing/"] = page.encode()
    return {"handler.py": "def handler(payload, ctx):\n    return 1\n", "requirements.txt": "probing==1.0\n"}


@pytest.fixture(scope="module")
def got(world: World) -> dict[str, dict[str, str]]:
    """Hook → probe → what it got."""
    found: dict[str, dict[str, str]] = {}
    for source, fields in ((rust, {}), (python, {}), (deno, {"build_args": {"allow_scripts": "probing"}})):
        name = source.__name__
        done = world.server.wait(world.server.submit(f"probe-{name}", tar_gz_of(source(world)), name, **fields))
        log = world.server.log(done.build_id)
        if source is deno:
            assert done.failure.exit_code and "postinstall" in log.text, log.text[-3000:]
        else:
            assert done.status == pb.BUILD_STATUS_SUCCEEDED, (done.failure, log.text[-3000:])
        for entry in log.entries:
            before, brace, after = entry.line.partition('{"probe"')
            if brace:
                hook = {"python": "sdist backend", "deno": "npm script"}.get(name) or before.rpartition("@")[2].strip()
                answer = json.loads(brace + after)
                found.setdefault(hook, {})[answer["probe"]] = answer["got"]
    return found


@pytest.mark.parametrize("hook", HOOKS)
def test_code_that_runs_at_build_time_gets_nothing(hook: str, got: dict[str, dict[str, str]]) -> None:
    assert set(got) == set(HOOKS)
    found = dict(got[hook])
    # cargo hands the pipe of its own job server to all that it starts.
    jobs = [fd for fd in found.pop("jobserver", "").split(",") if fd]
    assert bool(jobs) == (hook in ("build.rs", "procedural macro"))
    inherited = [each for each in found["inherited_descriptors"].split(",") if each]
    pipes = {each.partition("=")[2] for each in inherited if each.partition("=")[0] in jobs}
    assert len(pipes) <= 1 and all(pipe.startswith("pipe:") for pipe in pipes)
    others = [each for each in inherited if each.partition("=")[0] not in jobs]
    # Deno leaves a temporary file of the step's own folder open.
    others = [each for each in others if not (hook == "npm script" and "=/work/tmp/" in each)]
    found["inherited_descriptors"] = ",".join(others)
    assert set(found) == set(NAMES), "every probe ran"
    assert {name: what for name, what in found.items() if what and name not in OF_THE_IMAGE} == {}
