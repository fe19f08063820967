"""The Deno pipeline: what it reads of a source, and what it plans."""

from __future__ import annotations

import json

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.pipelines.deno import lock as locks
from builder.pipelines.deno.planning import MOD, STUB
from builder.pipelines.deno.source import read_source
from builder.plan import Network, Plan, Sees
from builder.source.tree import DictTree
from builder.toolchains.recipe import read_recipe
from tests.planned_image import image_of

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
Files = dict[str, str]
SHA = "sha512-" + "A" * 86 + "=="


def plan(files: Files, version: str = "", **arguments: str) -> Plan:
    tree = DictTree(files)
    request = PlanRequest(version=version, build_args=arguments)
    return pipelines.plan(
        pipelines.detect(tree, "deno", sub_path=arguments.get("sub_path", "")), tree, request, CATALOG
    )


def refused(files: Files, version: str = "", **arguments: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        plan(files, version, **arguments)
    return caught.value


def entry(files: Files, **arguments: str) -> str:
    return next(choice.value for choice in plan(files, **arguments).choices if choice.name == "entry")


def stub(made: Plan) -> str:
    return next((file.content for file in made.stubs if file.path == STUB), "")


def config(made: Plan) -> dict[str, object]:
    (file,) = made.files
    found: dict[str, object] = json.loads(file.content)
    return found


@pytest.mark.parametrize(
    ("text", "specifiers"),
    [
        ("import a from 'x';\nimport * as b from \"y\"; import 'z'", ["x", "y", "z"]),
        ("export { a } from './a.ts'; export * from './b.ts'", ["./a.ts", "./b.ts"]),
        ("import {\n  a,\n  type B,\n} from 'x'", ["x"]),
        ("await import('x'); import(`y`); import('a' + b); import('z', { with: { type: 'json' } })", ["x", "z"]),
        (
            "// import 'a'\n/* import 'b' */ const c = \"import 'd'\"; const e = `import 'f' ${g('h')} `; import 'i'",
            ["i"],
        ),
        ("const a = `${`${b}`}`; import 'x'", ["x"]),
        ("const a = /['\"`]/; import 'x'; const b = 1 / 2 / 3; import 'y'", ["x", "y"]),
        ("Array.from('x'); a.import('y'); obj.from 'z'", []),
        ("new Worker(new URL('./w.ts', import.meta.url)); new URL('https://a.example/b')", ["./w.ts"]),
        ("// @deno-types=\"npm:@types/a@1\"\nimport a from 'npm:a@1'", ["npm:@types/a@1", "npm:a@1"]),
        ('/// <reference types="npm:@types/node" />', ["npm:@types/node"]),
        ("/** @jsxImportSource npm:preact */", ["npm:preact"]),
        ("import 'a\\x62c'", []),
    ],
)
def test_the_imports_of_a_file(text: str, specifiers: list[str]) -> None:
    assert [each.specifier for each in read_source(text).imports] == specifiers


def test_an_import_has_its_line() -> None:
    text = "// one\nconst a = `\n\n${b}\n`;\n/* \n */ import 'x';\n"
    assert [(each.specifier, each.line) for each in read_source(text).imports] == [("x", 7)]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (
            {"main.ts": "", "main.js": "", "deno.json": '{"tasks": {"start": "deno run other.ts"}}', "other.ts": ""},
            "main.ts",
        ),
        ({"main.js": ""}, "main.js"),
        (
            {"deno.json": '{"tasks": {"start": "deno run -A --watch=x src/app.ts --port 1"}}', "src/app.ts": ""},
            "src/app.ts",
        ),
        ({"deno.jsonc": '{"tasks": {"start": {"command": "deno serve app.ts"}}} // x', "app.ts": ""}, "app.ts"),
        ({"deno.json": '{"exports": "./mod.ts"}', "mod.ts": "", "server.ts": ""}, "mod.ts"),
        ({"deno.json": '{"exports": {".": "./lib.ts"}}', "lib.ts": ""}, "lib.ts"),
        (
            {"package.json": '{"main": "lib/a.js", "scripts": {"start": "node b.js"}}', "lib/a.js": "", "b.js": ""},
            "b.js",
        ),
        ({"package.json": '{"main": "./lib/a.js"}', "lib/a.js": ""}, "lib/a.js"),
        ({"package.json": "{}", "index.js": ""}, "index.js"),
    ],
)
def test_the_entry(files: Files, chosen: str) -> None:
    assert entry(files) == chosen


def test_an_entry_may_be_named_and_must_be_there() -> None:
    files = {"main.ts": "", "other.ts": ""}
    assert entry(files, entry="./other.ts") == "other.ts"
    error = refused(files, entry="../x.ts")
    assert (error.reason, error.where) == ("EntryPointMissing", "buildArgs.entry")
    assert refused({"deno.json": "{}", "lib/a.ts": ""}).message.endswith("there is lib/a.ts")


def test_a_source_of_another_runtime_with_scripts_beside_it_is_not_deno() -> None:
    for other in ("handler.py", "main.py", "requirements.txt"):
        assert pipelines.detect(DictTree({other: "", "main.js": "", "package.json": "{}"})).runtime == "python"
    assert pipelines.detect(DictTree({"go.mod": "module x", "main.js": ""})).runtime == "go"


@pytest.mark.parametrize(
    ("text", "runtime"),
    [
        ('import { start } from "ignite";\nstart(() => 1);\n', "deno"),
        ("Deno.serve(() => new Response());\n", "deno"),
        ("export default { fetch() {} }\n", "deno"),
        ("import json\nfrom os import path\n\ndef handler(payload, ctx):\n    return 'import \"x\"'\n", "python"),
        ('package main\n\nimport "fmt"\n', "go"),
    ],
)
def test_a_single_file_is_recognized(text: str, runtime: str) -> None:
    name = {"deno": "main.ts", "python": "handler.py", "go": "main.go"}[runtime]
    assert pipelines.single_file_name(None, text.encode()) == name


def test_what_the_fetch_step_sees_are_the_packages_and_nothing_else() -> None:
    made = plan(
        {
            "main.ts": "import { a } from './lib/a.ts'; import 'zod'; import h from '@/h.ts'; const secret = 1;",
            "lib/a.ts": "export { a } from 'npm:@scope/pkg@^1.2/sub/path.js';",
            "src/h.ts": "import 'hono/jwt'; import 'node:fs'; export default 1",
            "unreached.ts": "import 'npm:never'",
            "deno.json": '{"imports": {"zod": "npm:zod@^3", "hono": "npm:hono@4", "@/": "./src/", "u": "npm:u"}}',
            "package.json": json.dumps(
                {"dependencies": {"ms": "~2.1", "any": "*", "o": "npm:r@1"}, "devDependencies": {"t": "1"}}
            ),
        }
    )
    assert sorted(stub(made).split()[1::2]) == [
        '"npm:@scope/pkg@^1.2";',
        '"npm:any";',
        '"npm:hono@4";',
        '"npm:ms@~2.1";',
        '"npm:r@1";',
        '"npm:t@1";',
        '"npm:zod@^3";',
    ]
    assert [step.name for step in made.steps] == ["lock packages", "download packages", "unpack packages", "check"]
    assert [step.network for step in made.steps] == [Network.INDEX, Network.INDEX, Network.NONE, Network.NONE]
    assert [step.sees for step in made.steps] == [Sees.STUBS] * 3 + [Sees.ALL]
    assert any("deno.lock is absent" in warning for warning in made.warnings)


def test_with_a_lock_nothing_is_resolved_and_the_lock_is_frozen() -> None:
    lock = json.dumps({"version": "5", "specifiers": {"npm:ms@2": "2.1.3"}, "npm": {"ms@2.1.3": {"integrity": SHA}}})
    made = plan({"main.ts": "import 'npm:ms@2'", "deno.lock": lock})
    assert [step.name for step in made.steps] == ["download packages", "unpack packages", "check"]
    assert made.steps[-1].argv[-1] == "frozen"
    assert not stub(made)
    assert [copy.source for copy in made.copies] == ["deno.lock"]
    assert made.materials == ("deno.lock",)


def test_without_packages_there_is_one_step() -> None:
    assert [step.name for step in plan({"main.ts": "import 'node:fs'"}).steps] == ["check"]


def test_scripts_of_packages_run_only_where_one_is_named_and_then_see_no_cache() -> None:
    files = {"main.ts": "import 'npm:sharp@0.33'"}
    assert not any(step.runs_source or "scripts=" in " ".join(step.argv) for step in plan(files).steps)
    *others, last = plan(files, allow_scripts="sharp, npm:@x/y").steps
    assert (last.argv[-1], last.runs_source, last.caches, last.network) == (
        "scripts=npm:sharp,npm:@x/y",
        True,
        (),
        Network.NONE,
    )
    assert not any(step.runs_source for step in others)
    assert refused(files, allow_scripts="a b;c").where == "buildArgs.allow_scripts"


def test_permissions_are_the_listed_ones_and_those_that_are_asked_for() -> None:
    allowed = [word for word in image_of(plan({"main.ts": ""})).entrypoint if word.startswith("--allow")]
    assert allowed == [
        "--allow-env",
        "--allow-net",
        "--allow-read=/app,/opt/ignite,/tmp",
        "--allow-sys=cpus,gid,homedir,hostname,networkInterfaces,osRelease,systemMemoryInfo,uid",
        "--allow-write=/tmp",
    ]
    more = [word for word in image_of(plan({"main.ts": ""}, allow="ffi,read")).entrypoint if word.startswith("--allow")]
    assert "--allow-ffi" in more and "--allow-read" in more and "--allow-read=/app,/opt/ignite,/tmp" not in more
    assert refused({"main.ts": ""}, allow="all").where == "buildArgs.allow"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("import { start } from 'ignite'; start(() => 1)", "/app/main.ts"),
        ("Deno.serve(() => new Response())", "/app/main.ts"),
        ("export default { fetch: () => new Response() }", "/opt/ignite/sdk/deno/sdk/serve.ts /app/main.ts"),
        ("import express from 'npm:express'; export default 1; express().listen(1)", "/app/main.ts"),
    ],
)
def test_who_serves(text: str, last: str) -> None:
    assert " ".join(image_of(plan({"main.ts": text})).entrypoint).endswith(f" {last}")


def test_a_start_command_overrules() -> None:
    made = image_of(plan({"main.ts": ""}, start='["/opt/deno/bin/deno", "run", "x.ts"]'))
    assert made.entrypoint[1:] == ("run", "x.ts")
    made = image_of(plan({"main.ts": ""}, start='["deno", "run", "x.ts", "--port=$PORT"]'))
    assert made.entrypoint[made.launcher - 2 :] == ("/ignite/start.js", "--", "deno", "run", "x.ts", "--port=$PORT")
    assert made.program == "deno" and "/ignite" in [layer.dest for layer in made.layers]


def test_the_configuration_keeps_what_decides_the_program_and_no_more() -> None:
    made = config(
        plan(
            {
                "main.ts": "",
                "deno.jsonc": """{
          // "a comment": 1
          "imports": {"a": "./a.ts", /* b */ "c": "x//y",},
          "compilerOptions": {"strict": false}, "unstable": ["kv"], "tasks": {"start": "rm"}, "allowScripts": true,
          "permissions": {"default": {"all": true}}, "lock": false, "nodeModulesDir": "none", "vendor": true,
        }""",
            }
        )
    )
    assert made == {
        "imports": {"ignite": MOD, "a": "./a.ts", "c": "x//y"},
        "compilerOptions": {"strict": False},
        "unstable": ["kv"],
        "nodeModulesDir": "auto",
    }


@pytest.mark.parametrize(
    ("package", "own", "expected"),
    [
        ('{"main": "main.js"}', "", ["detect-cjs"]),
        ("{}", "", None),
        ('{"type": "module"}', "", None),
        ('{"type": "commonjs"}', '{"unstable": ["kv"]}', ["kv"]),
        ('{"name": "x"}', '{"unstable": ["detect-cjs", "kv"]}', ["kv", "detect-cjs"]),
    ],
)
def test_a_script_of_a_package_without_a_type_may_be_commonjs_as_node_takes_it(
    package: str, own: str, expected: list[str] | None
) -> None:
    made = config(plan({"main.js": "", "package.json": package, **({"deno.json": own} if own else {})}))
    assert made.get("unstable") == expected


def test_an_import_map_of_its_own_is_taken_in() -> None:
    made = config(
        plan(
            {"main.ts": "", "deno.json": '{"importMap": "./map.json"}', "map.json": '{"imports": {"ignite": "./x.ts"}}'}
        )
    )
    assert made["imports"] == {"ignite": "./x.ts"}
    assert refused({"main.ts": "", "deno.json": '{"importMap": "no.json"}'}).where == "deno.json:1"


def test_a_folder_of_the_source_is_built_in_its_place() -> None:
    made = plan({"api/main.ts": "import '../lib.ts'", "lib.ts": ""}, sub_path="api")
    assert made.files[0].path == "api/deno.json"
    image = image_of(made)
    assert (image.workdir, image.entrypoint[-1]) == ("/app/api", "/app/api/main.ts")


@pytest.mark.parametrize(
    ("files", "reason", "where", "words"),
    [
        ({"main.ts": "\nimport 'jsr:@std/path@1'"}, "LockOutdated", "main.ts:2", "no deno.lock pins what it is"),
        (
            {"main.ts": "import 'https://deno.land/x/a.ts'"},
            "DependencyNotFound",
            "main.ts:1",
            "https://deno.land/x/a.ts",
        ),
        (
            {"main.ts": "import 'a'", "deno.json": '{"imports": {"a": "jsr:@a/b"}}', "deno.lock": '{"version": "4"}'},
            "LockOutdated",
            "main.ts:1",
            "deno.lock does not pin it",
        ),
        ({"main.ts": "import 'npm:a@1\"b'"}, "ManifestInvalid", "main.ts:1", "no npm package"),
        (
            {"main.ts": "", "package.json": '{\n"dependencies": {\n"a": "git+https://x/y"}}'},
            "ManifestInvalid",
            "package.json:3",
            "git+https",
        ),
        (
            {"main.ts": "", "package.json": '{"dependencies": {"a": "file:../b"}}'},
            "ManifestInvalid",
            "package.json:1",
            "file:",
        ),
        ({"main.ts": "", "package.json": '{"dependencies": {"a": 1}}'}, "ManifestInvalid", "package.json:1", "a is 1"),
        ({"main.ts": "", "deno.json": '{"a": 1,\n b}'}, "ManifestInvalid", "deno.json:2:2", "no JSON"),
        ({"main.ts": "", "deno.json": "[]"}, "ManifestInvalid", "deno.json", "no JSON object"),
        ({"main.ts": "", "deno.json": '{"lock": "other.lock"}'}, "ManifestInvalid", "deno.json:1", "other.lock"),
        ({"main.ts": "", "deno.lock": '{"version": "3"}'}, "LockOutdated", "deno.lock:1", "the format 3"),
        ({"main.ts": "", "deno.json": r'{"name": "\ud800"}'}, "ManifestInvalid", "deno.json", "no character"),
        ({"main.ts": "", "deno.lock": "<<<<"}, "ManifestInvalid", "deno.lock:1:1", "no JSON"),
    ],
)
def test_what_cannot_be_built_is_refused_where_it_stands(files: Files, reason: str, where: str, words: str) -> None:
    error = refused(files)
    assert (error.reason, error.where) == (reason, where)
    assert words in error.message
    assert error.next


def test_a_lock_of_a_newer_deno_is_refused() -> None:
    error = refused({"main.ts": "", "deno.lock": '{"version": "5"}'}, version="2.0")
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "deno.lock:1")
    assert "Deno 2.3 and newer do" in error.message


@pytest.mark.parametrize(
    ("files", "version", "where"),
    [
        ({}, "2.7", "the catalog's default"),
        ({".deno-version": "v2.0.6\n"}, "2.0", ".deno-version:1"),
        ({".tool-versions": "nodejs 20\ndeno 2.9.1\n"}, "2.9", ".tool-versions:2"),
        ({"mise.toml": '[tools]\ndeno = "2"\n'}, "2.7", "mise.toml:2"),
        ({".deno-version": "latest"}, "2.7", "the catalog's default"),
    ],
)
def test_pins(files: Files, version: str, where: str) -> None:
    made = plan({"main.ts": "", **files})
    assert made.toolchain.version == version
    assert next(choice.why for choice in made.choices if choice.name == "version") == where


def test_a_pin_of_another_patch_is_a_warning_and_one_that_is_not_there_is_refused() -> None:
    assert plan({"main.ts": "", ".deno-version": "2.0.1"}).warnings == (
        ".deno-version:1 names Deno 2.0.1; this builder has 2.0.6",
    )
    assert plan({"main.ts": "", ".deno-version": "2.0.1"}, "2.9").toolchain.version == "2.9"
    for pin in ("1.46.3", "2.99", "canary"):
        error = refused({"main.ts": "", ".deno-version": pin})
        assert (error.reason, error.where) == ("UnknownRuntimeVersion", ".deno-version:1")
        assert "it has 2.0, 2.7, 2.9" in error.message


def test_the_catalog_and_the_recipe_name_the_same_releases() -> None:
    (package,) = read_recipe((runtimes_dir(),), "deno").packages
    rows = {row.toolchain.version: row.release for row in CATALOG.rows if row.toolchain.runtime == "deno"}
    assert rows == {version: release for version, (release, _) in package.releases.items()}


def test_what_a_lock_pins_is_wanted_by_its_digest() -> None:
    pinned = {
        "@scope/Name@1.0.0_peer@2.0.0": {"integrity": SHA},
        "@scope/Name@1.0.0_peer@3.0.0": {"integrity": SHA},
        "far@1.0.0-rc.1": {"integrity": SHA, "os": ["darwin"], "cpu": ["arm64"]},
        "near@1.0.0": {"integrity": SHA, "os": ["!win32"], "cpu": ["x64"]},
    }
    found = locks.fetched(DictTree({"deno.lock": json.dumps({"version": "5", "npm": pinned})}), "deno.lock")
    assert found is not None
    hexes = "00" * 64
    assert [(one.digest, one.package) for one in found.wanted] == [
        (f"sha512:{hexes}", "pkg:npm/%40scope/Name@1.0.0"),
        (f"sha512:{hexes}", "pkg:npm/near@1.0.0"),
    ]
    assert all(hexes[:64] in one.path and one.path == one.source for one in found.wanted)
    (listed,) = found.files
    entries = {entry["name"]: entry for entry in json.loads(listed.content)}
    assert entries["far"]["path"] == "" and entries["far"]["os"] == ["darwin"]
    assert entries["@scope/Name"]["url"] == "@scope/Name/-/Name-1.0.0.tgz"
    assert entries["@scope/Name"]["folder"].startswith("_")


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("../../x@1.0.0", {"integrity": SHA}),
        ("a/../b@1.0.0", {"integrity": SHA}),
        ("a@1.0.0/../../x", {"integrity": SHA}),
        ("a@latest", {"integrity": SHA}),
        ("a\0b@1.0.0", {"integrity": SHA}),
        ("a@1.0.0", {"integrity": "sha1-AAAA"}),
        ("a@1.0.0", {"integrity": "sha512-AAAA"}),
        ("a@1.0.0", {}),
        ("a@1.0.0", 5),
    ],
)
def test_a_lock_with_what_is_no_package_is_refused(key: str, entry: object) -> None:
    text = json.dumps({"version": "5", "npm": {key: entry}})
    with pytest.raises(BuildError) as caught:
        locks.fetched(DictTree({"deno.lock": text}), "deno.lock")
    assert (caught.value.reason, caught.value.where) == ("ManifestInvalid", "deno.lock")


def test_a_configuration_above_the_folder_lets_no_script_run() -> None:
    """Deno takes it for the root of the workspace; there it would allow what nobody asked the build for."""
    above = {"workspace": ["./a/b"], "allowScripts": ["npm:evil"], "tasks": {"x": "y"}, "imports": {"k": "./k.ts"}}
    files = {
        "a/b/main.ts": 'import "npm:evil@1"',
        "a/b/deno.json": "{}",
        "deno.json": json.dumps(above),
        "a/deno.jsonc": "{}",
    }
    made = plan(files, sub_path="a/b")
    written = {file.path: json.loads(file.content) for file in made.files}
    assert sorted(written) == ["a/b/deno.json", "a/deno.jsonc", "deno.json"]
    assert written["deno.json"] == {
        "workspace": ["./a/b"], "imports": {"k": "./k.ts"}, "nodeModulesDir": "auto",
    }  # fmt: skip


def test_a_script_is_no_option_of_deno() -> None:
    name = "--allow-scripts=npm:evil.ts"
    files = {"deno.json": json.dumps({"exports": f"./{name}"}), name: "Deno.serve(() => new Response())"}
    (step,) = plan(files).steps
    assert f"./{name}" in step.argv and name not in step.argv
