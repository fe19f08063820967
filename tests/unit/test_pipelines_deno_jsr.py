"""Packages of JSR in a Deno project: what is planned, by which lock and metadata, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, deno
from builder.pipelines.base import PlanRequest
from builder.pipelines.deno import jsr
from builder.plan import Fetched, Network, Output, Plan, Sees
from builder.sandbox import Egress
from builder.source.tree import DictTree
from builder.toolchains.recipe import read_recipe
from tests.module_fixtures import package_of_jsr, pinned_of_jsr

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
SERVED = package_of_jsr("@acme/words", "1.0.2", {"/mod.ts": "export {};\n", "/a b/ü?#%2e.ts": "1\n"})
METADATA = SERVED["/@acme/words/1.0.2_meta.json"]
SHA = hashlib.sha256(METADATA.encode()).hexdigest()
MAIN = 'import "jsr:@acme/words@1";\n'


def lock(**tables: object) -> str:
    return json.dumps({"version": "5", "jsr": pinned_of_jsr(SERVED), **tables})


FILES = {"main.ts": MAIN, "deno.lock": lock()}


def plan(files: Mapping[str, str], listed: tuple[str, ...] = ()) -> Plan:
    tree = DictTree(files)
    return pipelines.plan(pipelines.detect(tree, "deno"), tree, PlanRequest(import_hosts=listed), CATALOG)


def refused(files: Mapping[str, str]) -> BuildError:
    with pytest.raises(BuildError) as caught:
        plan(files)
    return caught.value


def fetched(made: Plan, files: Mapping[str, str], more: Mapping[str, str]) -> Fetched:
    """What is fetched with these files beside the stubs."""
    copies = {copy.path: files[copy.source] for copy in made.copies}
    found = deno.fetched(made, DictTree({file.path: file.content for file in made.stubs} | copies | dict(more)))
    assert found is not None
    return found


def test_metadata_comes_before_files_and_neither_step_sees_the_source() -> None:
    made = plan(FILES)
    assert [step.name for step in made.steps] == [
        "download modules and metadata of JSR",
        "read metadata of JSR",
        "download modules",
        "lay modules",
        "check",
    ]
    assert [step.network for step in made.steps] == [Network.INDEX, Network.NONE, Network.INDEX] + 2 * [Network.NONE]
    assert [step.sees for step in made.steps] == [Sees.STUBS] * 4 + [Sees.ALL]
    assert not any(step.runs_source for step in made.steps)
    assert made.steps[-1].argv[-3:] == ("install", "frozen", "imports=jsr.io:443")
    assert json.loads(made.files[0].content)["vendor"] is True
    assert isinstance(made.output, Output)
    assert "--allow-import=jsr.io:443" in made.output.entrypoint


def test_the_lock_names_the_metadata_and_that_names_the_files() -> None:
    made = plan(FILES)
    first = fetched(made, FILES, {})
    url = "https://jsr.io/@acme/words/1.0.2_meta.json"
    assert [(one.package, one.digest, one.index) for one in first.wanted] == [(url, f"sha256:{SHA}", "jsr")]
    second = fetched(made, FILES, {f"jsr/{SHA}.json": METADATA})
    digests = [
        hashlib.sha256(SERVED[f"/@acme/words/1.0.2{path}"].encode()).hexdigest()
        for path in ("/mod.ts", "/a b/ü?#%2e.ts")
    ]
    assert [one.digest for one in second.wanted] == [f"sha256:{one}" for one in (SHA, *digests)]
    listed = json.loads(second.files[0].content)
    assert [one["url"].removeprefix("https://jsr.io/@acme/words/") for one in listed] == [
        "1.0.2_meta.json",
        "1.0.2/mod.ts",
        "1.0.2/a%20b/%C3%BC%3F%23%252e.ts",
        "meta.json",
    ]
    assert json.loads(listed[-1]["text"])["versions"] == {"1.0.2": {}}


def test_metadata_of_other_bytes_names_no_file() -> None:
    with pytest.raises(BuildError) as caught:
        fetched(plan(FILES), FILES, {f"jsr/{SHA}.json": METADATA + " "})
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "@acme/words@1.0.2")


@pytest.mark.parametrize(
    "path", ["/../x", "/a/../x", "/a/..", "/./x", "//x", "x", "", "/", "/a/", "/a\\b", "/a\0", "/a\nb", "/" + "a" * 256]
)
def test_a_path_that_is_none_of_a_package_is_refused(path: str) -> None:
    assert _of({path: {"checksum": "sha256-" + "1" * 64}}) == "ManifestInvalid"


@pytest.mark.parametrize(
    "row", [{}, {"checksum": "1" * 64}, {"checksum": "sha256-" + "A" * 64}, {"checksum": 5}, 5, None]
)
def test_a_file_without_a_sha256_is_refused(row: object) -> None:
    assert _of({"/mod.ts": row}) == "ManifestInvalid"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"manifest": []}', "[" * 100_000])
def test_metadata_that_is_none_ends_with_a_reason(text: str) -> None:
    assert _of(text) in ("ManifestInvalid", "")


@given(st.text(max_size=60))
def test_whatever_a_path_is_its_url_stays_below_the_release(path: str) -> None:
    try:
        found = list(_files(json.dumps({"manifest": {path: {"checksum": "sha256-" + "1" * 64}}})))
    except BuildError as error:
        assert error.reason == "ManifestInvalid"
        return
    (url,) = [file.url for file in found]
    assert url.startswith("https://jsr.io/@acme/words/1.0.2/")
    parts = url.removeprefix("https://jsr.io/").split("/")
    assert not {"", ".", ".."} & set(parts) and url.isascii() and not set("?#\\ ") & set(url)


def _files(text: str) -> list[jsr.File]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    release = jsr.Release(name="@acme/words", version="1.0.2", digest=digest)
    return list(jsr.files(DictTree({f"jsr/{digest}.json": text}), release))


def _of(manifest: object) -> str:
    """The reason that metadata is refused for; empty where it is not."""
    text = manifest if isinstance(manifest, str) else json.dumps({"manifest": manifest})
    try:
        _files(text)
    except BuildError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("count", [100, 20_000])
def test_many_files_are_read_in_one_pass(count: int) -> None:
    found = _files(json.dumps({"manifest": {f"/{n}.ts": {"checksum": "sha256-" + "1" * 64} for n in range(count)}}))
    assert len(found) == count


def test_more_files_than_a_build_may_have_are_refused() -> None:
    text = json.dumps({"manifest": {f"/{n}.ts": {"checksum": "sha256-" + "1" * 64} for n in range(20_000)}})
    digest = hashlib.sha256(text.encode()).hexdigest()
    files = {"main.ts": MAIN, "deno.lock": lock(jsr={"@acme/words@1.0.2": {"integrity": digest}})}
    with pytest.raises(BuildError) as caught:
        fetched(plan(files), files, {f"jsr/{digest}.json": text})
    assert "more than 20000 modules" in caught.value.message


@pytest.mark.parametrize(
    "key", ["acme/words@1.0.2", "@acme/words", "@acme/words@../x", "@acme/../words@1.0.0", "@a/b@1.0/..", "@a/b@1%2f"]
)
def test_a_key_of_the_lock_that_is_no_release_is_refused(key: str) -> None:
    rows = {"@acme/words@1.0.2": {"integrity": SHA}, key: {"integrity": SHA}}
    files = {"main.ts": MAIN, "deno.lock": lock(jsr=rows)}
    with pytest.raises(BuildError) as caught:
        fetched(plan(files), files, {})
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "deno.lock")


@pytest.mark.parametrize("digest", ["abc", "../" + "1" * 61, "A" * 64, 5, None])
def test_a_release_that_is_pinned_by_no_sha256_is_refused(digest: object) -> None:
    files = {"main.ts": MAIN, "deno.lock": lock(jsr={"@acme/words@1.0.2": {"integrity": digest}})}
    with pytest.raises(BuildError) as caught:
        fetched(plan(files), files, {})
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "deno.lock")


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({"main.ts": MAIN}, "LockOutdated", "no deno.lock pins what it is"),
        ({"main.ts": MAIN, "deno.lock": lock(jsr={})}, "LockOutdated", "deno.lock does not pin it"),
        ({"main.ts": 'import "jsr:@acme/other"', "deno.lock": lock()}, "LockOutdated", "deno.lock does not pin it"),
        ({"main.ts": 'import "jsr:words"', "deno.lock": lock()}, "ManifestInvalid", "no package of JSR"),
    ],
)
def test_an_import_that_no_lock_pins_is_refused_where_it_stands(files: dict[str, str], reason: str, words: str) -> None:
    error = refused(files)
    assert (error.reason, error.where) == (reason, "main.ts:1")
    assert words in error.message and error.next


def test_a_bare_name_and_a_subpath_lead_to_packages_of_jsr() -> None:
    files = {
        **FILES,
        "main.ts": 'import "words/sub"',
        "deno.json": '{"imports": {"words": "jsr:@acme/words@^1"}}',
    }
    assert "packages of JSR" in next(one.value for one in plan(files).choices if one.name == "dependencies")


def test_an_app_that_imports_none_fetches_none() -> None:
    assert [step.name for step in plan({**FILES, "main.ts": "Deno.serve(() => new Response())"}).steps] == ["check"]


def test_modules_at_the_registry_are_no_listed_host_by_that() -> None:
    url = "https://jsr.io/@acme/words/1.0.2/mod.ts"
    files = {**FILES, "deno.lock": lock(remote={url: "1" * 64})}
    made = plan(files)
    assert [one.package for one in fetched(made, files, {}).wanted] == ["https://jsr.io/@acme/words/1.0.2_meta.json"]
    assert made.warnings == ("deno.lock pins modules of jsr.io, not in import_hosts: they are not fetched",)


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, ("jsr.io", 443)),
        ({"JSR_URL": "https://jsr.example:8443"}, ("jsr.example", 8443)),
        ({"NPM_CONFIG_REGISTRY": "https://npm.example"}, None),
    ],
)
def test_the_registry_is_open_to_the_step_that_lacks_a_file_of_it(
    settings: dict[str, str], host: tuple[str, int] | None
) -> None:
    client = read_recipe((runtimes_dir(),), "deno").indexes
    known = {("jsr.io", 443), ("jsr.example", 8443)}
    assert not Egress.for_indexes(client, settings).policy.hosts & known
    assert Egress.for_indexes(client.with_others({"jsr"}), settings).policy.hosts & known == ({host} if host else set())
