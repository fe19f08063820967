"""`https:` imports of a Deno project: which are planned, by which lock, and what is said where one is not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, deno
from builder.pipelines.base import PlanRequest
from builder.pipelines.deno.remote import host_of
from builder.plan import Network, Output, Plan, Sees, Step
from builder.sandbox import Egress
from builder.source.tree import DictTree
from builder.toolchains.recipe import read_recipe

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
MOD, ADD = "https://deno.land/x/mod.ts", "https://code.example:8443/add.ts"
ONE, OTHER = "1" * 64, "2" * 64
LISTED = ("Deno.land", "code.example:8443")
Files = dict[str, str]


def lock(**tables: object) -> str:
    return json.dumps({"version": "5", **tables})


FILES = {
    "main.ts": f'import "{MOD}";\n',
    "deno.lock": lock(remote={MOD: ONE, ADD: OTHER}, redirects={"https://deno.land/mod": MOD}),
}


def plan(files: Files, listed: tuple[str, ...] = LISTED, **arguments: str) -> Plan:
    tree = DictTree(files)
    request = PlanRequest(build_args=arguments, import_hosts=listed)
    found = pipelines.detect(tree, "deno", sub_path=arguments.get("sub_path", ""))
    return pipelines.plan(found, tree, request, CATALOG)


def refused(files: Files, listed: tuple[str, ...] = LISTED) -> BuildError:
    with pytest.raises(BuildError) as caught:
        plan(files, listed)
    return caught.value


def stubs(made: Plan, files: Files) -> DictTree:
    """What a step with a network sees."""
    return DictTree({file.path: file.content for file in made.stubs} | {c.path: files[c.source] for c in made.copies})


def started(made: Plan) -> tuple[str, ...]:
    assert isinstance(made.output, Output)
    return made.output.entrypoint


def wanted(made: Plan, files: Files) -> list[tuple[str, str, str, str]]:
    found = deno.fetched(made, stubs(made, files))
    assert found is not None
    return [(one.cache, one.package, one.digest, one.index) for one in found.wanted]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Deno.land/x", "deno.land:443"),
        ("https://deno.land./x", "deno.land:443"),
        ("https://code.example:8443/a?b=c#d", "code.example:8443"),
        ("https://deno.land", "deno.land:443"),
        ("http://deno.land/x", ""),
        ("https://user@deno.land/x", ""),
        ("https://deno.land\\@code.example/x", ""),
        ("https://deno.land:99999/x", ""),
        ("https:///x", ""),
        ("https://deno.land/a b", ""),
        ("npm:x", ""),
    ],
)
def test_the_host_of_a_module(url: str, host: str) -> None:
    assert host_of(url) == host


def test_what_the_lock_pins_of_listed_hosts_is_fetched_without_the_source() -> None:
    made = plan(FILES)
    assert [step.name for step in made.steps] == ["download modules", "lay modules", "check"]
    assert [step.network for step in made.steps] == [Network.INDEX, Network.NONE, Network.NONE]
    assert [step.sees for step in made.steps] == [Sees.STUBS, Sees.STUBS, Sees.ALL]
    assert not any(step.runs_source for step in made.steps)
    assert wanted(made, FILES) == [
        ("modules", MOD, f"sha256:{ONE}", "https"),
        ("modules", ADD, f"sha256:{OTHER}", "https"),
    ]
    assert made.steps[-1].argv[-3:] == ("install", "frozen", "imports=code.example:8443,deno.land:443")
    assert "--allow-import=code.example:8443,deno.land:443" in started(made)
    assert json.loads(made.files[0].content)["vendor"] is True
    assert not made.warnings


def test_the_list_names_each_module_by_its_url() -> None:
    made = plan(FILES)
    found = deno.fetched(made, stubs(made, FILES))
    assert found is not None
    (listed,) = found.files
    assert [(one["url"], one["path"]) for one in json.loads(listed.content)] == [(MOD, ONE), (ADD, OTHER)]


VENDORED = {"deno.json": '{"vendor": true}', "vendor/deno.land/x/mod.ts": ""}


def test_a_source_that_brings_its_modules_needs_no_listed_host_and_no_network() -> None:
    made = plan({**FILES, **VENDORED}, ())
    (check,) = made.steps
    assert check.argv[-3:] == ("install", "frozen", "imports=*")
    assert "--allow-import" in started(made)
    assert json.loads(made.files[0].content)["vendor"] is True
    unlocked = {"main.ts": FILES["main.ts"], **VENDORED}
    assert plan(unlocked, ()).steps[-1].argv[-2:] == ("main.ts", "imports=*")


@pytest.mark.parametrize("left_out", VENDORED)
def test_a_folder_of_that_name_is_not_enough(left_out: str) -> None:
    files = {**FILES, **VENDORED}
    del files[left_out]
    assert '"vendor": true' in refused(files, ()).next


def test_of_a_host_that_is_not_listed_nothing_is_fetched() -> None:
    made = plan(FILES, ("deno.land",))
    assert wanted(made, FILES) == [("modules", MOD, f"sha256:{ONE}", "https")]
    assert made.steps[-1].argv[-1] == "imports=deno.land:443"
    assert made.warnings == ("deno.lock pins modules of code.example:8443, not in import_hosts: they are not fetched",)


def test_an_app_without_such_imports_may_import_nothing() -> None:
    made = plan({"main.ts": "Deno.serve(() => new Response())", "deno.lock": FILES["deno.lock"]})
    assert [step.name for step in made.steps] == ["check"]
    assert not any("allow-import" in word for word in started(made))
    assert "vendor" not in json.loads(made.files[0].content)
    assert not made.warnings


@pytest.mark.parametrize(
    "files",
    [
        {"main.ts": f'\nimport "{MOD}"'},
        {"main.ts": "\nimport 'std/mod.ts'", "deno.json": '{"imports": {"std/": "https://deno.land/x/"}}'},
        {"main.ts": "import './a.ts'", "a.ts": f"\nexport * from '{MOD}'"},
    ],
)
def test_a_host_that_is_not_listed_is_refused_by_line_host_and_setting(files: Files) -> None:
    error = refused({**files, "deno.lock": FILES["deno.lock"]}, ("code.example",))
    assert (error.reason, error.where) == ("DependencyNotFound", "a.ts:2" if "a.ts" in files else "main.ts:2")
    assert MOD in error.message and "no code from deno.land" in error.message
    assert "list deno.land in import_hosts" in error.next


def test_a_port_is_a_host_of_its_own() -> None:
    error = refused({"main.ts": f'import "{ADD}"', "deno.lock": FILES["deno.lock"]}, ("code.example",))
    assert "list code.example:8443 in import_hosts" in error.next


def test_the_module_of_jsx_needs_a_listed_host_too() -> None:
    config = json.dumps({"compilerOptions": {"jsx": "react-jsx", "jsxImportSource": "https://esm.example/react"}})
    error = refused({"main.ts": "", "deno.json": config})
    assert (error.reason, error.where) == ("DependencyNotFound", "deno.json:1")


@pytest.mark.parametrize("config", ["{}", '{"lock": false}'])
def test_without_a_lock_no_module_is_fetched(config: str) -> None:
    files = {"main.ts": FILES["main.ts"], "deno.json": config}
    if "false" in config:
        files["deno.lock"] = FILES["deno.lock"]
    error = refused(files)
    assert (error.reason, error.where) == ("LockOutdated", "main.ts:1")
    assert MOD in error.message and "deno install --entrypoint main.ts" in error.next


def test_plain_http_is_refused_whatever_is_listed() -> None:
    error = refused({"main.ts": "import 'http://deno.land/x.ts'", "deno.lock": FILES["deno.lock"]})
    assert (error.reason, error.where) == ("DependencyNotFound", "main.ts:1")
    assert "https: alone" in error.message


def test_packages_that_modules_alone_import_are_fetched_too() -> None:
    sha = "sha512-" + "A" * 86 + "=="
    text = lock(remote={MOD: ONE}, npm={"ms@2.1.3": {"integrity": sha}})
    files = {"main.ts": FILES["main.ts"], "deno.lock": text}
    made = plan(files)
    names = [step.name for step in made.steps]
    assert names == ["download modules", "download packages", "unpack packages", "lay modules", "check"]
    assert [(cache, package) for cache, package, _, _ in wanted(made, files)] == [
        ("npm", "pkg:npm/ms@2.1.3"),
        ("modules", MOD),
    ]


def test_the_same_bytes_at_two_places_are_fetched_once() -> None:
    files = {"main.ts": FILES["main.ts"], "deno.lock": lock(remote={MOD: ONE, ADD: ONE})}
    assert wanted(plan(files), files) == [("modules", MOD, f"sha256:{ONE}", "https")]


@pytest.mark.parametrize("digest", ["abc", "../" + "1" * 61, "A" * 64, 5, None])
def test_a_lock_with_another_pin_than_a_sha256_is_refused(digest: object) -> None:
    files = {"main.ts": FILES["main.ts"], "deno.lock": lock(remote={MOD: digest})}
    with pytest.raises(BuildError) as caught:
        wanted(plan(files), files)
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "deno.lock")


def test_what_is_fetched_is_a_part_of_the_key() -> None:
    assert plan(FILES).effects() != plan(FILES, ("deno.land",)).effects()


def test_a_workspace_above_the_folder_has_the_modules_too() -> None:
    files = {
        "deno.json": '{"workspace": ["./api"]}',
        "api/deno.json": "{}",
        "api/main.ts": FILES["main.ts"],
        "api/deno.lock": FILES["deno.lock"],
    }
    made = plan(files, sub_path="api")
    assert [json.loads(file.content)["vendor"] for file in made.files] == [True, True]
    assert wanted(made, files)[0][1] == MOD


def test_listed_hosts_are_open_to_the_step_that_lacks_a_module_and_to_no_other() -> None:
    client = read_recipe((runtimes_dir(),), "deno").indexes
    for indexes, more in ((client, False), (client.with_others({"https"}), True)):
        egress = Egress.for_indexes(indexes, {}, import_hosts=LISTED)
        assert ("registry.npmjs.org", 443) in egress.policy.hosts
        assert (("deno.land", 443) in egress.policy.hosts) is more
        assert (("code.example", 8443) in egress.policy.hosts) is more
        assert ("code.example", 443) not in egress.policy.hosts


CHECK = Step(name="check", argv=("deno", "check.ts", "install", "frozen", "imports=deno.land:443"))


@pytest.mark.parametrize(
    ("line", "reason", "words", "step"),
    [
        (
            f'error: Specifier not found in cache: "{MOD}", --cached-only is specified.',
            "LockOutdated",
            f"{MOD} is imported, but deno.lock does not pin it",
            "commit deno.lock",
        ),
        (
            f'error: Specifier not found in cache: "{ADD}", --cached-only is specified.',
            "DependencyNotFound",
            f"{ADD} is imported; this builder fetches no code from code.example:8443",
            "list code.example:8443 in import_hosts",
        ),
        (
            'error: Requires import access to "code.example:8443", run again with the --allow-import flag',
            "DependencyNotFound",
            "this builder fetches no code from code.example:8443",
            "list code.example:8443 in import_hosts",
        ),
    ],
)
def test_a_module_that_was_not_fetched_is_named_where_it_is_imported(
    line: str, reason: str, words: str, step: str
) -> None:
    found = deno.diagnose(CHECK, 1, [line, "    at file:///work/out/app/main.ts:3:7"])
    assert (found.reason, found.where) == (reason, "main.ts:3:7")
    assert words in found.message and step in found.next


def test_a_module_that_vendor_lacks_is_named() -> None:
    check = replace(CHECK, argv=("deno", "check.ts", "imports=*"))
    for line in (f"error: Import '{MOD}' failed.", f'error: Specifier not found in cache: "{MOD}", --cached-only is'):
        found = deno.diagnose(check, 1, [line, "    at file:///work/out/app/main.ts:1:8"])
        assert (found.reason, found.where) == ("DependencyNotFound", "main.ts:1:8")
        assert f"{MOD} is imported, but vendor/ does not have it" in found.message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"error: {MOD} is not to be had: HTTP 404 Not Found", "DependencyNotFound"),
        (f"error: Integrity check failed for package: {MOD} has sha256-AA==, not sha256-BB==", "LockOutdated"),
        (f"error: error sending request for {MOD}: TypeError", "PackageIndexUnavailable"),
    ],
)
def test_what_a_host_answers_has_a_reason(line: str, reason: str) -> None:
    found = deno.diagnose(replace(CHECK, name="download modules"), 1, [line])
    assert found.reason == reason
    assert any(MOD in said for said in found.said)


def test_what_a_package_without_types_leaves_untyped_is_told_how_to_get_them() -> None:
    """Such a program runs by hand: `deno run` checks no types."""
    line = "TS7006 [ERROR]: Parameter 'req' implicitly has an 'any' type."
    found = deno.diagnose(CHECK, 1, [line, "    at file:///work/out/app/main.ts:5:15", "Found 4 errors."])
    assert (found.reason, found.where) == ("CompileFailed", "main.ts:5:15  (first of 4)")
    assert '// @ts-types="npm:@types/NAME" above its import' in found.next
