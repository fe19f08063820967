"""Packages of JSR on real parts: each version of Deno, and an index that is not honest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
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
from tests.module_fixtures import ModuleHost

pytestmark = pytest.mark.e2e
ROWS = [row.toolchain for row in catalog.read(runtimes_dir() / "catalog.toml").rows if row.toolchain.runtime == "deno"]
ZOD = json.loads(str(DENO_PACKAGES["deno.lock"]))
WORDS = module_fixtures.package_of_jsr(
    "@acme/words", "1.0.2", {"/mod.ts": 'export const word: string = "Hello";\n', "/README.md": "words\n"}
)
GREET = module_fixtures.package_of_jsr(
    "@acme/greet",
    "0.3.1",
    {
        "/mod.ts": """\
import { word } from "jsr:@acme/words@^1.0.1";
import { z } from "npm:zod@3.25.76";
import { end } from "./lib/end.ts";
export const greet = (name: string): string => z.string().parse(`${word}, ${name}${end}`);
""",
        "/lib/end.ts": 'import data from "./end.json" with { type: "json" };\nexport const end: string = data.end;\n',
        "/lib/end.json": '{"end": "!"}\n',
    },
)
HONEST = {**WORDS, **GREET}
END, METADATA = "/@acme/greet/0.3.1/lib/end.ts", "/@acme/greet/0.3.1_meta.json"


@pytest.fixture(scope="module")
def host() -> Iterator[ModuleHost]:
    trusted = config.load({}).settings.ca_bundle
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="ignite-builder-jsr-") as folder,
        module_fixtures.serving(Path(folder), dict(HONEST), trusted) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def server(kept: Path, host: ModuleHost, start: Callable[..., AbstractContextManager[Server]]) -> Iterator[Server]:
    """A server whose node has every version, and whose packages of JSR come from the host."""
    settings = config.load({"node_dir": str(kept)}).settings
    for row in ROWS:
        packages.fetch((runtimes_dir(),), kept / "toolchains", row, settings)
    index = {**settings.index_env, "JSR_URL": host.origin}
    with start(own_caches=True, build_uid=uids.SERVER, index_env=index, ca_bundle=str(host.bundle), slots=1) as running:
        yield running


def app(served: dict[str, str] = HONEST, word: str = "greet") -> dict[str, str | bytes]:
    """An app that answers what a package of JSR says, by a bare name of the import map."""
    lock = {
        "version": "4",
        "specifiers": {
            "jsr:@acme/greet@0.3": "0.3.1",
            "jsr:@acme/words@^1.0.1": "1.0.2",
            "npm:zod@3.25.76": "3.25.76",
        },
        "jsr": module_fixtures.pinned_of_jsr(served, greet=["jsr:@acme/words", "npm:zod"]),
        "npm": {key: row for key, row in ZOD["npm"].items() if key.startswith("zod@")},
        "workspace": {"dependencies": ["jsr:@acme/greet@0.3"]},
    }
    return {
        "main.ts": f"""\
import {{ start }} from "ignite";
import {{ greet }} from "{word}";
start(() => greet("Ada"));
""",
        "deno.json": json.dumps({"imports": {"greet": "jsr:@acme/greet@0.3"}}),
        "deno.lock": json.dumps(lock),
    }


def submit(server: Server, files: Files, version: str = "") -> pb.Build:
    request = pb.CreateBuildRequest(name="jsr")
    request.code.compile.runtime.deno.CopyFrom(common.DenoRuntime(version=version))
    request.code.compile.archive = tar_gz_of(files)
    answer: pb.CreateBuildResponse = server.api.call("CreateBuild", request)
    return server.wait(answer.build)


@pytest.fixture
def asks(host: ModuleHost) -> Iterator[ModuleHost]:
    """The host, whose answers a test changes."""
    host.asked.clear()
    yield host
    host.files = dict(HONEST)
    host.moved.clear()


def changed(version: str) -> dict[str, str]:
    """Another version of the package, of which no cache has a file."""
    files = {
        "/mod.ts": f'export {{ end }} from "./end.ts";\nexport const greet = String;\n// {version}\n',
        "/end.ts": f'export const end = "{version}";\n',
    }
    return module_fixtures.package_of_jsr("@acme/greet", version, files)


def other(served: dict[str, str], version: str) -> dict[str, str | bytes]:
    """An app with that version alone."""
    lock = {
        "version": "4",
        "specifiers": {"jsr:@acme/greet@0.3": version},
        "jsr": module_fixtures.pinned_of_jsr(served),
        "workspace": {"dependencies": ["jsr:@acme/greet@0.3"]},
    }
    return {**app(), "deno.lock": json.dumps(lock)}


def test_packages_are_fetched_by_the_lock_once_and_are_there_when_the_app_starts(
    server: Server, asks: ModuleHost
) -> None:
    for row in ROWS:
        for word in ("greet", "jsr:@acme/greet@0.3"):
            build = submit(server, app(word=word), row.version)
            assert build.status == pb.BUILD_STATUS_SUCCEEDED, (row.version, build.failure)
            with run.started(server.embedded.settings, build) as running:
                answer = httpx.post(running.url, headers=CALLER, timeout=120, trust_env=False)
            assert answer.text == "Hello, Ada!", row.version
    assert sorted(asks.asked) == sorted(HONEST), "each once, and no list of versions"


def test_a_file_that_is_not_what_the_metadata_pins_is_refused(server: Server, asks: ModuleHost) -> None:
    served = changed("0.3.2")
    asks.files = {**served, "/@acme/greet/0.3.2/end.ts": "export const end = 2;\n"}
    failure = submit(server, other(served, "0.3.2")).failure
    assert failure.reason == "LockOutdated", failure
    assert any("/@acme/greet/0.3.2/end.ts has sha256-" in line for line in failure.said)


def test_metadata_that_is_not_what_the_lock_pins_is_refused(server: Server, asks: ModuleHost) -> None:
    served = changed("0.3.3")
    asks.files = {**served, "/@acme/greet/0.3.3_meta.json": served["/@acme/greet/0.3.3_meta.json"] + " "}
    failure = submit(server, other(served, "0.3.3")).failure
    assert (failure.reason, failure.where) == ("LockOutdated", "deno.lock"), failure
    assert any("/@acme/greet/0.3.3_meta.json has sha256-" in line for line in failure.said)
    assert not any(path.endswith(".ts") for path in asks.asked), "no file of metadata that is not the lock's"


@pytest.mark.parametrize("path", ["/../x.ts", "/a/../../x.ts", "/./x.ts", "//x.ts", "x.ts", "/a\\x.ts"])
def test_metadata_whose_paths_lead_out_is_refused(server: Server, asks: ModuleHost, path: str) -> None:
    asks.files = module_fixtures.package_of_jsr("@acme/greet", "0.3.4", {"/mod.ts": "", path: "x"})
    failure = submit(server, other(dict(asks.files), "0.3.4")).failure
    assert failure.reason == "ManifestInvalid", failure
    assert "which is no file of a package" in failure.message
    assert not any(asked.endswith(".ts") for asked in asks.asked)


def test_a_package_of_too_many_files_is_refused(server: Server, asks: ModuleHost) -> None:
    asks.files = module_fixtures.package_of_jsr("@acme/greet", "0.3.5", {f"/{n}.ts": "" for n in range(20_001)})
    failure = submit(server, other(dict(asks.files), "0.3.5")).failure
    assert failure.reason == "ManifestInvalid", failure
    assert "more than 20000 modules" in failure.message


def test_a_redirect_to_another_host_is_not_followed(server: Server, asks: ModuleHost, tmp_path: Path) -> None:
    served = changed("0.3.6")
    asks.files = dict(served)
    with module_fixtures.serving(tmp_path, dict(served)) as elsewhere:
        asks.moved["/@acme/greet/0.3.6/end.ts"] = f"{elsewhere.origin}/@acme/greet/0.3.6/end.ts"
        failure = submit(server, other(served, "0.3.6")).failure
        assert (failure.reason, elsewhere.asked) == ("ManifestInvalid", []), failure
    assert elsewhere.address in failure.message


def test_an_import_that_the_lock_does_not_pin_is_refused_with_the_command(server: Server, asks: ModuleHost) -> None:
    failure = submit(server, {**app(), "deno.lock": '{"version": "4"}'}).failure
    assert (failure.reason, failure.where) == ("LockOutdated", "main.ts:2"), failure
    assert "deno install --entrypoint main.ts" in failure.next
    assert asks.asked == []
    stale = other(HONEST, "0.3.1")
    lock = json.loads(str(stale["deno.lock"]))
    lock["jsr"] = {key: row for key, row in lock["jsr"].items() if key.startswith("@acme/greet@")}
    failure = submit(server, {**stale, "deno.lock": json.dumps(lock)}).failure
    assert failure.reason == "LockOutdated", failure
    assert "deno install" in failure.next
