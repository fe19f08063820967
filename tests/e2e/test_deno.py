"""Deno on real parts: every version of the catalog, what a started app may do, locks, packages with scripts."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from builder import config
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.data import runtimes_dir
from builder.local import run
from builder.pipelines import catalog
from builder.toolchains import packages
from tests import module_fixtures, uids
from tests.build_fixtures import CALLER, DENO_PACKAGES, Files, Server, tar_gz_of

pytestmark = pytest.mark.e2e
ROWS = [row.toolchain for row in catalog.read(runtimes_dir() / "catalog.toml").rows if row.toolchain.runtime == "deno"]
RELEASES = {
    row.toolchain.version: row.release
    for row in catalog.read(runtimes_dir() / "catalog.toml").rows
    if row.toolchain.runtime == "deno"
}
TRIES = """\
import { start } from "ignite";

const tries: Record<string, () => unknown> = {
  run: () => new Deno.Command("/opt/deno/bin/deno", { args: ["--version"] }).outputSync(),
  ffi: () => Deno.dlopen("/lib/x86_64-linux-gnu/libc.so.6", {}),
  sys: () => Deno.loadavg(),
  "read outside": () => Deno.readTextFileSync("/etc/passwd"),
  "write outside": () => Deno.writeTextFileSync("/app/x", ""),
  "write the front": () => Deno.writeTextFileSync("/opt/ignite/sdk/deno/sdk/mod.ts", ""),
  import: () => import("https://example" + ".com/x.ts"),
  "import an npm package": () => import("npm:" + "left-pad"),
  version: () => Deno.version.deno,
  env: () => Deno.env.get("PORT"),
  read: () => Deno.readTextFileSync("/app/main.ts").length > 0,
  write: () => Deno.writeTextFileSync("/tmp/x", "x"),
  "sys of node": () => Deno.hostname(),
  "addresses": () => Deno.networkInterfaces().length,
};

start(async (_, ctx) => {
  try {
    return { done: await tries[decodeURIComponent(ctx.path.slice(1))]() ?? "" };
  } catch (error) {
    return { error: (error as Error).name, message: (error as Error).message };
  }
});
"""


@pytest.fixture(scope="module")
def versions(kept: Path, start: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    """A server whose node has every version."""
    settings = config.load({"node_dir": str(kept)}).settings
    for row in ROWS:
        packages.fetch((runtimes_dir(),), kept / "toolchains", row, settings)
    with start(own_caches=False, build_uid=uids.SERVER) as running:
        yield running


def submit(server: Server, name: str, files: Files, version: str = "", **arguments: str) -> pb.Build:
    """Build it with a version of Deno."""
    request = pb.CreateBuildRequest(name=name)
    request.code.compile.runtime.deno.CopyFrom(common.DenoRuntime(version=version))
    request.code.compile.archive = tar_gz_of(files)
    request.code.compile.build_args.update(arguments)
    answer: pb.CreateBuildResponse = server.api.call("CreateBuild", request)
    return server.wait(answer.build)


@pytest.fixture(scope="module", params=[row.version for row in ROWS])
def app(versions: Server, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(version, URL) of the running app that tries what it is asked to."""
    build = submit(versions, "tries", {"main.ts": TRIES}, request.param)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
    with run.started(versions.embedded.settings, build) as running:
        yield request.param, running.url


def tried(url: str, what: str) -> dict[str, object]:
    answer = httpx.post(f"{url}/{what}", headers=CALLER, timeout=120, trust_env=False)
    found: dict[str, object] = json.loads(answer.text)
    return found


def test_the_artifact_reports_its_own_version(app: tuple[str, str]) -> None:
    version, url = app
    assert tried(url, "version") == {"done": RELEASES[version]}


@pytest.mark.parametrize("what", ["run", "ffi", "sys", "read outside", "write outside", "write the front"])
def test_what_an_app_may_not_do_is_denied(app: tuple[str, str], what: str) -> None:
    assert tried(app[1], what)["error"] == "NotCapable"


@pytest.mark.parametrize("what", ["import", "import an npm package"])
def test_an_app_fetches_no_code(app: tuple[str, str], what: str) -> None:
    assert "error" in tried(app[1], what)


@pytest.mark.parametrize("what", ["env", "read", "write", "sys of node", "addresses"])
def test_what_an_app_may_do_is_allowed(app: tuple[str, str], what: str) -> None:
    assert "done" in tried(app[1], what)


def test_a_permission_that_was_asked_for_is_given(versions: Server) -> None:
    build = submit(versions, "tries", {"main.ts": TRIES}, allow="run,sys")
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
    with run.started(versions.embedded.settings, build) as running:
        assert "done" in tried(running.url, "run")
        assert "done" in tried(running.url, "sys")
        assert tried(running.url, "ffi")["error"] == "NotCapable"


def test_a_stale_lock_is_refused_with_the_command(versions: Server) -> None:
    files = {**DENO_PACKAGES, "main.ts": 'import ms from "npm:ms@2";\nexport default () => new Response(ms(1));\n'}
    build = submit(versions, "stale", files)
    failure = build.failure
    assert (failure.reason, failure.error_class) == ("LockOutdated", "user_code"), failure
    assert "deno install" in failure.next


def test_a_lock_with_another_digest_than_the_registry_has_is_refused(versions: Server) -> None:
    lock = json.loads(str(DENO_PACKAGES["deno.lock"]))
    lock["npm"]["zod@3.25.76"]["integrity"] = "sha512-" + base64.b64encode(bytes(64)).decode()
    build = submit(versions, "swapped", {**DENO_PACKAGES, "deno.lock": json.dumps(lock)})
    assert (build.failure.reason, build.failure.where) == ("LockOutdated", "deno.lock"), build.failure
    assert any("zod-3.25.76.tgz has sha512-" in line for line in build.failure.said)


def test_a_package_json_project_runs_and_its_packages_scripts_do_not(versions: Server) -> None:
    files = {
        "package.json": json.dumps(
            {"type": "module", "scripts": {"start": "node server.js"}, "dependencies": {"express": "4.21.2"}}
        ),
        "server.js": "import express from 'express';\nimport { readFileSync } from 'node:fs';\n"
        "const app = express();\n"
        "app.get('/', (_, res) => res.json(JSON.parse(readFileSync('package.json', 'utf8')).dependencies));\n"
        "app.listen(Number(process.env.PORT), '0.0.0.0');\n",
    }
    build = submit(versions, "express", files)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
    with run.started(versions.embedded.settings, build) as running:
        answer = httpx.get(running.url, timeout=120, trust_env=False)
    assert answer.json() == {"express": "4.21.2"}


MODULES = {
    "/v1/mod.ts": """\
import { word } from "./words";
export const greet = (name: string): string => `${word}, ${name}`;
""",
    "/v1/words": 'export const word = "Hello";\n',  # no ending: JavaScript
}
VENDORED = {
    "/v1/mod.ts": 'export { greet } from "./greet.js";\n',
    "/v1/greet.js": "export const greet = (name) => `Bye, ${name}`;\n",
}


def greeting(origin: str, modules: Mapping[str, str]) -> dict[str, str | bytes]:
    """An app that answers what a module of the origin says."""
    return {
        "main.ts": f"""\
import {{ start }} from "ignite";
import {{ greet }} from "{origin}/mod.ts";
start(() => greet("Ada"));
""",
        "deno.lock": json.dumps(module_fixtures.lock_of(origin, modules)),
    }


def greeted(server: Server, files: Files, version: str = "") -> str:
    build = submit(server, "modules", files, version)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, build.failure
    with run.started(server.embedded.settings, build) as running:
        return httpx.post(running.url, headers=CALLER, timeout=120, trust_env=False).text


def test_modules_of_a_listed_host_are_fetched_by_the_lock_and_are_there_when_the_app_starts(
    start: Callable[..., AbstractContextManager[Server]],
    versions: Server,
) -> None:
    trusted = config.load({}).settings.ca_bundle
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ignite-builder-modules-") as folder,
        module_fixtures.serving(Path(folder), MODULES, trusted) as host,
        start(import_hosts=(host.address,), ca_bundle=str(host.bundle), slots=1) as server,
    ):
        files = greeting(host.origin, MODULES)
        assert [greeted(server, files, row.version) for row in ROWS] == ["Hello, Ada"] * len(ROWS)
        assert sorted(host.asked) == sorted(MODULES), "each once, and no redirect of the lock"
        lock = module_fixtures.lock_of(host.origin, MODULES)
        lock["remote"] = {f"{host.origin}/v1/words": "0" * 64}
        failure = submit(server, "modules", {**files, "deno.lock": json.dumps(lock)}).failure
        assert (failure.reason, failure.where) == ("LockOutdated", "deno.lock"), failure
        assert any(f"{host.origin}/v1/words has sha256-" in line for line in failure.said)
        origin = "https://code.example"  # not listed: the source brings its modules
        brought = {f"vendor/code.example{path}": text for path, text in VENDORED.items()}
        files = {**greeting(origin, VENDORED), **brought, "deno.json": '{"vendor": true}'}
        assert greeted(server, files) == "Bye, Ada"
