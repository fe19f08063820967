"""What the end-to-end tests of builds share: sources, submitting, waiting for the record, reading the log."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.local.embedded import Embedded

PATIENCE_S = 300.0
ROOT = Path(__file__).resolve().parents[1]
TERMINAL = (pb.BUILD_STATUS_SUCCEEDED, pb.BUILD_STATUS_FAILED, pb.BUILD_STATUS_CANCELLED)
Files = Mapping[str, str | bytes]

PYTHON_HANDLER = """\
def handler(payload, ctx):
    return {"payload": payload.decode(), "ctx": ctx}
"""
GO_MAIN = """\
package main

import (
	"encoding/json"

	"ignite"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		return json.Marshal(map[string]string{
			"payload": string(payload), "execution": ctx.ExecutionID,
			"function": ctx.FunctionID, "organization": ctx.OrganizationID,
		})
	})
}
"""
IDNA_HANDLER = """\
import idna

def handler(payload, ctx):
    return {"ascii": idna.encode(payload.decode()).decode(), "ctx": ctx}
"""
GO_SLUG = """\
package main

import (
	"ignite"

	"github.com/google/uuid"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		return []byte(uuid.NewSHA1(uuid.NameSpaceDNS, payload).String()), nil
	})
}
"""
GO_MOD = "module example.com/app\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n"
GO_SUM = """\
github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=
github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=
"""
PYTHON_WITH_A_WHEEL = {"handler.py": IDNA_HANDLER, "requirements.txt": "idna==3.10\n"}
DENO_PACKAGES = {
    "main.ts": (ROOT / "examples/deno-npm/main.ts").read_text(),
    "deno.json": (ROOT / "examples/deno-npm/deno.json").read_text(),
    "deno.lock": (ROOT / "examples/deno-npm/deno.lock").read_text(),
}
GO_MODULE = {"main.go": GO_SLUG, "go.mod": GO_MOD, "go.sum": GO_SUM}
CALLER = {
    "x-ignite-execution-id": "e-1",
    "x-ignite-function-id": "local/app",
    "x-ignite-organization-id": "local",
}


@dataclass
class Log:
    """A log as a reader of the stream saw it: `entries` with their SSE ids, `eof` the last frame."""

    entries: list[pb.LogEntry] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    eof: pb.LogEntry | None = None

    @property
    def text(self) -> str:
        return "\n".join(entry.line for entry in self.entries)


@dataclass(frozen=True)
class Server:
    """A running embedded server with a client; `api` calls it as a client does."""

    embedded: Embedded
    api: Api

    def submit(self, name: str, source: bytes | str, runtime: str = "", **fields: Any) -> pb.Build:
        """Text is a single file (sourceCode), bytes are an archive; too large ones go up first."""
        request = pb.CreateBuildRequest(name=name, no_cache=fields.pop("no_cache", False), **fields)
        compiled = request.code.compile
        set_runtime(compiled.runtime, runtime)
        if isinstance(source, str):
            compiled.source_code = source.encode()
        elif len(source) > self.embedded.settings.inline_bytes:
            request.source_ref.context_id = self.upload(source)
            request.code.SetInParent()
            compiled.SetInParent()
        else:
            compiled.archive = source
        answer: pb.CreateBuildResponse = self.api.call("CreateBuild", request)
        return answer.build

    def upload(self, data: bytes) -> str:
        url = self.embedded.url + "/v1/ignite/builds/contexts"
        answer = httpx.post(url, content=data, headers=self.headers, timeout=60, trust_env=False)
        answer.raise_for_status()
        return str(answer.json()["contextId"])

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.embedded.token}"}

    def get(self, build_id: str) -> pb.Build:
        found: pb.Build = self.api.call("GetBuild", pb.GetBuildRequest(build_id=build_id))
        return found

    def wait(self, build: pb.Build, *, patience_s: float = PATIENCE_S) -> pb.Build:
        """The final record."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            found = self.get(build.build_id)
            if found.status in TERMINAL:
                return found
            self.assert_alive()
            time.sleep(0.03)
        raise AssertionError(f"build {build.build_id} did not end: {self.get(build.build_id)}")

    def assert_alive(self) -> None:
        """A part that ended would let every later test wait in vain."""
        running = self.embedded
        assert running.redis.poll() is None, f"Redis ended with {running.redis.returncode}"
        assert running.worker is None or running.worker.poll() is None, running.worker_log.read_text()[-2000:]

    def build(self, name: str, source: bytes | str, runtime: str = "", **fields: Any) -> pb.Build:
        """Submit, wait, and expect success."""
        done = self.wait(self.submit(name, source, runtime, **fields))
        assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
        return done

    def wait_running(self, build: pb.Build, line: str) -> None:
        """Until the build's log has a line that holds `line`."""
        for entry in self.follow(build.build_id):
            if line in entry[1].line:
                return
            assert not entry[1].eof, f"the build ended without saying {line}"

    def follow(self, build_id: str, last_event_id: int | None = None) -> Iterator[tuple[int, pb.LogEntry]]:
        """(SSE id, entry) as they come, the eof included."""
        from google.protobuf import json_format

        url = f"{self.embedded.url}/v1/ignite/builds/{build_id}/logs/stream"
        headers = self.headers | ({"last-event-id": str(last_event_id)} if last_event_id is not None else {})
        query = {"fromStart": "true"}
        with (
            httpx.Client(timeout=60, trust_env=False) as client,
            client.stream("GET", url, params=query, headers=headers) as response,
        ):
            assert response.status_code == 200
            number = 0
            for line in response.iter_lines():
                if line.startswith("id: "):
                    number = int(line[4:])
                elif line.startswith("data: "):
                    yield number, json_format.Parse(line[6:], pb.LogEntry())

    def log(self, build_id: str, last_event_id: int | None = None) -> Log:
        """The whole log, to its eof."""
        log = Log()
        for number, entry in self.follow(build_id, last_event_id):
            if entry.eof:
                log.eof = entry
            else:
                log.entries.append(entry)
                log.ids.append(number)
        return log

    def left_processes(self) -> list[str]:
        """Living processes of the build users of this node: "pid command"."""
        first = self.embedded.settings.build_uid
        return processes_of(range(first, first + self.embedded.settings.slots + 1))

    def left_folders(self, name: str = "work") -> list[str]:
        """What lies below the node's folder of this name."""
        folder = Path(self.embedded.settings.node_dir) / name
        return [str(path) for path in folder.iterdir()] if folder.is_dir() else []

    def assert_nothing_left(self) -> None:
        """No process and no work folder now, and no spool soon: it goes once the finish was answered."""
        processes, folders = self.left_processes(), self.left_folders()
        assert not processes, processes
        assert not folders, folders
        assert until(lambda: not self.left_folders("spool"), 5), self.left_folders("spool")


def set_runtime(runtime: common.Runtime, text: str) -> None:
    """ "python", "python@3.12", "go@1.26"; nothing: leave it to detection."""
    name, _, version = text.partition("@")
    if not name:
        return
    value = getattr(runtime, name)
    value.SetInParent()
    if version:
        setattr(value, "toolchain_version" if name in ("go", "rust") else "version", version)


def processes_of(uids: range) -> list[str]:
    """Living processes (zombies apart) whose real uid is one of these."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, StopIteration):
            if name.isdigit():
                values = status_of(int(name))
                if values["State"][0] != "Z" and int(values["Uid"][0]) in uids:
                    found.append(f"{name} {values['Name'][0]}")
    return found


def processes_below(pid: int) -> list[int]:
    """A process and all living ones that came from it."""
    parents = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and (values := status_of(int(name)))["State"][0] != "Z":
                parents[int(name)] = int(values["PPid"][0])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def status_of(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status: the words of each row by its name."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def until(condition: Any, seconds: float) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def zip_of(files: Files) -> bytes:
    """A ZIP archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tar_of(files: Files, mode: str = "w") -> bytes:
    """A tar archive; with mode "w:gz" compressed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_gz_of(files: Files) -> bytes:
    """A gzipped tar archive."""
    return tar_of(files, "w:gz")


def fetch_json(host: str, path: str, accept: str = "*/*") -> tuple[dict[str, Any], str]:
    """(JSON, Docker-Content-Digest) of a registry's URL."""
    answer = httpx.get(f"http://{host}/v2/{path}", headers={"accept": accept}, timeout=10, trust_env=False)
    answer.raise_for_status()
    return json.loads(answer.content), answer.headers.get("docker-content-digest", "")
