"""Builds, end to end: sources in every shape, the artifact in the registry, what it answers, caching, log, cancel."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.store import images_of
from builder.local import run
from tests.build_fixtures import (
    CALLER,
    GO_MAIN,
    GO_MODULE,
    PYTHON_HANDLER,
    PYTHON_WITH_A_WHEEL,
    Server,
    fetch_json,
    tar_gz_of,
    tar_of,
    until,
    zip_of,
)

pytestmark = pytest.mark.e2e

CTX = {"execution_id": "e-1", "function_id": "local/app", "organization_id": "local"}
SLOW_SCRIPT = """\
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
print("running now", flush=True)
time.sleep(600)
"""


def ask(server: Server, build: pb.Build, payload: str) -> httpx.Response:
    """What the artifact answers, run from the registry."""
    with run.started(server.embedded.settings, build) as running:
        return httpx.post(running.url + "/", content=payload, headers=CALLER, timeout=120, trust_env=False)


@pytest.mark.parametrize("pack", [zip_of, tar_of, tar_gz_of], ids=["zip", "tar", "tar.gz"])
def test_python_archives_of_the_same_tree_are_the_same_artifact(server: Server, pack: object) -> None:
    assert callable(pack)
    single = server.build("single", PYTHON_HANDLER, "python")
    packed = server.build("single", pack({"handler.py": PYTHON_HANDLER}), "python", no_cache=True)
    assert packed.image_digest == single.image_digest
    assert packed.code_hash == single.code_hash


def test_python_single_file_runs_with_its_context(server: Server) -> None:
    build = server.build("single", PYTHON_HANDLER, "python")
    answer = ask(server, build, "hello")
    assert answer.status_code == 200
    assert answer.json() == {"payload": "hello", "ctx": CTX}


def test_python_with_a_wheel(server: Server) -> None:
    build = server.build("wheel", tar_gz_of(PYTHON_WITH_A_WHEEL), "python")
    answer = ask(server, build, "bücher.example")
    assert answer.json() == {"ascii": "xn--bcher-kva.example", "ctx": CTX}


def test_packages_of_python_stay_whole(server: Server) -> None:
    """Their programs run, and `importlib.metadata` knows their files, modules and entry points."""
    handler = """\
import importlib.metadata as metadata, json, shutil, subprocess
def handler(payload, ctx):
    program = shutil.which("normalizer")
    return {
        "program": program,
        "said": subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()[0],
        "files": [str(one) for one in metadata.files("charset-normalizer") if one.name in ("RECORD", "normalizer")],
        "missing": [str(one) for one in metadata.files("requests") if not one.locate().exists()],
        "modules": sorted(metadata.packages_distributions()),
        "programs": [one.name for one in metadata.entry_points(group="console_scripts") if one.dist.name == "idna"],
    }
"""
    needs = "requests==2.32.3\ncharset-normalizer==3.4.0\n"
    build = server.build("whole", tar_gz_of({"handler.py": handler, "requirements.txt": needs}), "python")
    answer = ask(server, build, "").json()
    assert answer["program"] == "/app/deps/bin/normalizer" and answer["said"] == "Charset-Normalizer"
    assert sorted(answer["files"]) == ["bin/normalizer", "charset_normalizer-3.4.0.dist-info/RECORD"]
    assert answer["missing"] == []
    assert {"certifi", "charset_normalizer", "idna", "requests", "urllib3"} <= set(answer["modules"])


def test_packages_of_the_source_are_imported_and_have_metadata(server: Server) -> None:
    """The project's own `src`, a member of its workspace, and requirements for another system beside them."""
    project = """\
[project]
name = "svc"
version = "1.5"
requires-python = ">=3.11"
dependencies = ["acme-lib", "pywin32==306 ; sys_platform == 'win32'"]
[project.entry-points."acme.plugins"]
one = "svc:greet"
[build-system]
requires = ["uv_build>=0.7,<1"]
build-backend = "uv_build"
[tool.uv.sources]
acme-lib = { workspace = true }
[tool.uv.workspace]
members = ["packages/*"]
"""
    member = """\
[project]
name = "acme-lib"
version = "0.2"
dependencies = ["idna==3.10"]
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
    handler = """\
import importlib.metadata as metadata
import svc
def handler(payload, ctx):
    (plugin,) = metadata.entry_points(group="acme.plugins")
    return [svc.VERSION, metadata.version("acme-lib"), plugin.load()(payload.decode())]
"""
    files: dict[str, str | bytes] = {
        "handler.py": handler,
        "pyproject.toml": b"\xef\xbb\xbf" + project.encode(),
        "src/svc/__init__.py": (
            "import importlib.metadata\nfrom acme_lib import encode\nVERSION = importlib.metadata.version('svc')\n"
            "def greet(text): return encode(text)\n"
        ),
        "packages/lib/pyproject.toml": member,
        "packages/lib/src/acme_lib/__init__.py": "import idna\ndef encode(text): return idna.encode(text).decode()\n",
    }
    build = server.build("workspace", tar_gz_of(files), "python")
    assert ask(server, build, "bücher").json() == ["1.5", "0.2", "xn--bcher-kva"]


def test_requirements_for_another_system_install_nothing(server: Server) -> None:
    files = {"handler.py": PYTHON_HANDLER, "requirements.txt": "pywin32==306 ; sys_platform == 'win32'\n"}
    build = server.build("othersystem", tar_gz_of(files), "python")
    assert ask(server, build, "hello").json() == {"payload": "hello", "ctx": CTX}


def test_go_single_file_with_the_sdk(server: Server) -> None:
    build = server.build("gosingle", GO_MAIN, "go")
    answer = ask(server, build, "hello")
    expected = {"payload": "hello", "execution": "e-1", "function": "local/app", "organization": "local"}
    assert answer.json() == expected


def test_go_module_with_a_dependency_detected_from_a_zip(server: Server) -> None:
    build = server.build("gomodule", zip_of(GO_MODULE))
    assert build.runtime == "go"
    assert ask(server, build, "example.com").text == "cfbff0d1-9375-5685-968c-48ce8b15ae17"


def test_the_registry_holds_artifact_tags_and_statement(server: Server, registry: str) -> None:
    build = server.build("stated", PYTHON_HANDLER, "python", tags=["v1", "stable"])
    repository, digest = build.repository, build.image_digest
    manifest = "application/vnd.oci.image.manifest.v1+json"
    for reference in ("v1", "stable", digest):
        assert fetch_json(registry, f"{repository}/manifests/{reference}", manifest)[1] == digest
    listed = f"{repository}/manifests/{digest.replace(':', '-')}"
    index, _ = fetch_json(registry, listed, "application/vnd.oci.image.index.v1+json")
    (referrer,) = index["manifests"]
    attached, _ = fetch_json(registry, f"{repository}/manifests/{referrer['digest']}", manifest)
    assert attached["subject"]["digest"] == digest
    statement, _ = fetch_json(registry, f"{repository}/blobs/{attached['layers'][0]['digest']}")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [subject["digest"] for subject in statement["subject"]] == [{"sha256": digest.removeprefix("sha256:")}]
    named = {part["name"]: part["digest"] for part in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert named["source"] == {"sha256": build.source_sha256.removeprefix("sha256:")}


def test_a_new_repository_of_an_organization_takes_the_base_from_an_earlier_one(server: Server) -> None:
    server.build("mountedfrom", PYTHON_HANDLER + "# earlier\n", "python")
    later = server.build("mountedto", PYTHON_HANDLER + "# later\n", "python")
    images = images_of(server.embedded.settings.node_dir)
    base = images.get("python-3.11")
    assert base is not None and len(base.layers) == 1
    assert " 1 were there" in server.log(later.build_id).text


def test_skopeo_reads_the_artifact(server: Server, registry: str) -> None:
    build = server.build("skopeo", PYTHON_HANDLER, "python")
    argv = ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/{build.repository}:latest"]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)
    assert found["Digest"] == build.image_digest
    assert (found["Os"], found["Architecture"]) == ("linux", "amd64")
    argv = ["skopeo", "inspect", "--config", *argv[2:]]
    config = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=120).stdout)
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Entrypoint"] == ["/usr/bin/python3.11", "-B", "/ignite/serve.py"]


def test_an_identical_build_is_answered_from_the_cache(server: Server) -> None:
    source = PYTHON_HANDLER + "# cached\n"
    first = server.build("cached", source, "python")
    assert "step 1 of" in server.log(first.build_id).text
    again = server.build("cached", source, "python")
    assert again.from_cache_of == first.build_id
    assert again.image_digest == first.image_digest
    assert "step 1 of" not in server.log(again.build_id).text
    names = [pb.BuildPhase.Name(phase.phase).removeprefix("BUILD_PHASE_") for phase in again.phases]
    assert names == ["QUEUED", "FETCH_SOURCE", "DETECT", "PLAN", "ATTEST", "FINALIZE"]


def test_two_identical_builds_in_flight_are_one(scripts: Server) -> None:
    script = "import time\nprint('running now', flush=True)\ntime.sleep(2)\nopen('/work/out/server.py', 'w').close()\n"
    source = tar_of({"build.py": script})
    first = scripts.submit("twins", source)
    scripts.wait_running(first, "running now")
    second = scripts.submit("twins", source)
    done, attached = scripts.wait(first), scripts.wait(second)
    assert done.status == attached.status == pb.BUILD_STATUS_SUCCEEDED
    assert attached.image_digest == done.image_digest
    assert first.build_id in (attached.attached_to, attached.from_cache_of)
    assert "running now" not in scripts.log(second.build_id).text


def test_a_cancelled_build_leaves_nothing(scripts: Server) -> None:
    build = scripts.submit("cancelled", tar_of({"build.py": SLOW_SCRIPT}))
    scripts.wait_running(build, "running now")
    assert until(lambda: len(scripts.left_processes()) >= 3)
    scripts.api.call("CancelBuild", pb.CancelBuildRequest(build_id=build.build_id))
    done = scripts.wait(build)
    assert done.status == pb.BUILD_STATUS_CANCELLED
    assert done.failure.reason == "Cancelled"
    assert until(lambda: not scripts.left_processes() and not scripts.left_folders())


def test_the_log_is_dense_and_resumes(scripts: Server) -> None:
    script = "for number in range(3000):\n    print('line', number)\nopen('/work/out/server.py', 'w').close()\n"
    build = scripts.submit("talks", tar_of({"build.py": script}))
    live = scripts.log(build.build_id)
    record = scripts.wait(build)
    assert record.status == pb.BUILD_STATUS_SUCCEEDED
    assert live.ids == [entry.sequence for entry in live.entries] == list(range(1, record.log_lines + 1))
    said = [entry.line for entry in live.entries if entry.stream == pb.LOG_STREAM_STDOUT]
    assert said == [f"line {number}" for number in range(3000)]
    assert live.eof is not None and live.eof.status == pb.BUILD_STATUS_SUCCEEDED
    rest = scripts.log(build.build_id, last_event_id=1234)
    assert rest.ids == list(range(1235, record.log_lines + 1))
    assert rest.entries == live.entries[1234:]


def test_a_third_pipeline_builds_and_runs(scripts: Server) -> None:
    program = (
        "import http.server, os\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'made by a script')\n"
        "http.server.HTTPServer(('0.0.0.0', int(os.environ['PORT'])), Answer).serve_forever()\n"
    )
    script = f"with open('/work/out/server.py', 'w') as file:\n    file.write({program!r})\n"
    build = scripts.build("third", zip_of({"build.py": script}))
    assert build.runtime == "script"
    with run.started(scripts.embedded.settings, build) as running:
        assert httpx.get(running.url + "/", timeout=120, trust_env=False).text == "made by a script"
