"""Plans of Rust sources: packages, workspaces, single files, what is added and refused; what cargo printed.

The recordings in tests/golden/said/rust-* are of cargo 1.95.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import REASONS, BuildError
from builder.pipelines import catalog, rust
from builder.pipelines.base import PlanRequest
from builder.pipelines.rust.inputs import INJECTED, SDK
from builder.pipelines.rust.lock import LIST, read_lock
from builder.pipelines.rust.manifest import to_toml
from builder.pipelines.rust.pins import CRATES
from builder.pipelines.rust.source import handler_line, has_main, named
from builder.pipelines.rust.steps import CARGO
from builder.plan import Access, Network, Output, Plan, Sees, Step
from builder.sandbox import app
from builder.source.tree import DictTree
from builder.toolchains.recipe import read_recipe
from tests.planned_image import image_of

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
SAID = Path(__file__).resolve().parents[1] / "golden" / "said"
HANDLER = (
    "use ignite::{Context, Request};\n\n#[ignite::main]\nfn handler(r: Request, c: Context) -> ignite::Result<()> {}\n"
)
MAIN = "fn main() {}\n"
PACKAGE = '[package]\nname = "my-app"\nversion = "0.1.0"\nedition = "2021"\n'
LOCK = """\
version = 4

[[package]]
name = "itoa"
version = "1.0.15"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "4a5f13b858c8d314ee3e8f639011f7ccefe71f97f96e50151fb991f267928e2c"

[[package]]
name = "my-app"
version = "0.1.0"
dependencies = ["itoa"]
"""
WITH_ITOA = PACKAGE + '\n[dependencies]\nitoa = "1"\n'


def planned(source: dict[str, str], /, version: str = "", target: str = "", **arguments: str) -> Plan:
    tree = DictTree(source)
    found = pipelines.detect(tree, "rust", sub_path=arguments.get("sub_path", ""))
    request = PlanRequest(version=version, target=target, build_args=arguments)
    return pipelines.plan(found, tree, request, CATALOG)


def refused(source: dict[str, str], /, **request: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(source, **request)
    return caught.value


def choice(plan: Plan, name: str) -> tuple[str, str]:
    (found,) = [one for one in plan.choices if one.name == name]
    return found.value, found.why


def written(plan: Plan, path: str) -> str:
    (found,) = [file.content for file in plan.files if file.path == path]
    return found


def stub(plan: Plan, path: str) -> dict[str, Any]:
    (found,) = [file.content for file in plan.stubs if file.path == path]
    return tomllib.loads(found)


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_a_single_file_with_a_handler_gets_a_manifest_and_what_it_names() -> None:
    plan = planned({"main.rs": HANDLER + "use serde_json::json;\n"})
    assert choice(plan, "entry") == ("main.rs", "#[ignite::main] at main.rs:3")
    assert choice(plan, "added") == ("ignite, serde_json", "absent in Cargo.toml")
    manifest = tomllib.loads(written(plan, "Cargo.toml"))
    assert manifest["dependencies"] == {"ignite": {"path": f"{SDK}/ignite"}, "serde_json": {"version": "1"}}
    assert manifest["bin"] == [{"name": "app", "path": "main.rs"}]
    assert names(plan) == ["download crates of the SDK", "unpack crates", "compile crates", "compile"]
    assert plan.steps[-1].runs_source and plan.steps[-1].network is Network.NONE and not plan.steps[-1].caches


def test_a_single_file_without_a_crate_is_compiled_at_once() -> None:
    plan = planned({"main.rs": MAIN})
    assert names(plan) == ["compile"]
    assert not plan.stubs


def test_a_single_library_file_needs_a_handler() -> None:
    assert choice(planned({"lib.rs": HANDLER}), "entry")[0] == "lib.rs"
    error = refused({"lib.rs": "pub fn f() {}\n"})
    assert (error.reason, error.where) == ("EntryPointMissing", "lib.rs")
    assert "#[ignite::main]" in error.next


def test_a_library_with_a_handler_gets_a_program_that_calls_it() -> None:
    plan = planned({"Cargo.toml": PACKAGE, "src/lib.rs": HANDLER})
    assert written(plan, ".ignite/main.rs") == "fn main() {\n    my_app::main()\n}\n"
    manifest = tomllib.loads(written(plan, "Cargo.toml"))
    assert manifest["bin"] == [{"name": "ignite-app", "path": ".ignite/main.rs"}]
    assert written(plan, "Cargo.toml").startswith(PACKAGE)
    assert image_of(plan).layers[0].source.endswith("/release/ignite-app")


def test_a_library_for_c_is_compiled_as_a_program() -> None:
    plan = planned({"Cargo.toml": PACKAGE + '\n[lib]\ncrate-type = ["cdylib"]\n', "src/lib.rs": HANDLER})
    assert tomllib.loads(written(plan, "Cargo.toml"))["bin"] == [{"name": "ignite-app", "path": "src/lib.rs"}]


def test_what_a_manifest_has_is_not_added() -> None:
    manifest = PACKAGE + '\n[dependencies]\nserde_json = { version = "1.0.100" }\n'
    plan = planned({"Cargo.toml": manifest, "src/lib.rs": HANDLER + "use serde_json::Value;\nuse tokio::sync;\n"})
    assert choice(plan, "added")[0] == "ignite, tokio"
    own = tomllib.loads(written(plan, "Cargo.toml"))["dependencies"]
    assert own["serde_json"] == {"version": "1.0.100"}


def test_a_server_of_its_own_gets_nothing_added() -> None:
    plan = planned({"Cargo.toml": WITH_ITOA, "src/main.rs": "use itoa::Buffer;\n" + MAIN, "Cargo.lock": LOCK})
    assert names(plan) == ["download crates", "unpack crates", "compile crates", "compile"]
    assert all("--locked" in step.argv for step in plan.steps if step.argv[0] == CARGO)
    assert not plan.files


@pytest.mark.parametrize(
    "files",
    [
        {"Cargo.toml": PACKAGE + '[dependencies]\nrocket = "0.5.1"\n'},
        {"Cargo.toml": PACKAGE.replace("my-app", "rocket") + '[dependencies]\nrocket = "0.5.1"\n'},
        {"Cargo.toml": PACKAGE + '[dependencies]\nweb = { version = "0.5", package = "rocket", optional = true }\n'},
        {"Cargo.toml": PACKAGE + "[target.'cfg(unix)'.dependencies]\nrocket = \"0.5\"\n"},
        {
            "Cargo.toml": PACKAGE + "[dependencies]\nweb.workspace = true\n[workspace]\n"
            '[workspace.dependencies]\nweb = { version = "0.5", package = "rocket" }\n',
        },
        {
            "Cargo.toml": PACKAGE + '[dependencies]\nroutes = { path = "routes" }\n',
            "routes/Cargo.toml": PACKAGE.replace("my-app", "routes") + '[dependencies]\nrocket = "0.5"\n',
            "routes/src/lib.rs": "",
        },
        {
            "Cargo.toml": PACKAGE + "[dependencies]\nroutes.workspace = true\n[workspace]\n"
            '[workspace.dependencies]\nroutes = { path = "routes" }\n',
            "routes/Cargo.toml": PACKAGE.replace("my-app", "routes") + '[dependencies]\nrocket = "0.5"\n',
            "routes/src/lib.rs": "",
        },
    ],
    ids=[
        "plain",
        "of its own name",
        "renamed",
        "of a target",
        "of the workspace",
        "behind a path",
        "path of workspace",
    ],
)
def test_rocket_gets_its_port_by_the_name_that_it_reads(files: dict[str, str]) -> None:
    plan = planned({**files, "src/main.rs": MAIN})
    launcher = plan.steps[-2]
    assert names(plan)[-3:] == ["compile crates", "compile launcher", "compile"]
    assert (launcher.sees, launcher.network, launcher.runs_source) == (Sees.STUBS, Network.NONE, False)
    assert launcher.argv[-3:] == ("--out-dir", "/work/out/ignite", "/work/fetch/start.rs")
    assert launcher.result == "/work/out/ignite"
    (source,) = [one.content for one in plan.stubs if one.path == "start.rs"]
    assert 'var_os("PORT")' in source
    image = image_of(plan)
    assert image.entrypoint == ("/ignite/start", "ROCKET_PORT=$PORT", "--", "/app/app")
    assert image.env == (("ROCKET_ADDRESS", "0.0.0.0"),)
    assert image.layers[0].source == "/work/out/ignite" and image.layers[0].dest == "/ignite"
    assert choice(plan, "port") == ("ROCKET_PORT=$PORT", "it depends on rocket")


def test_a_start_command_of_rocket_is_started_with_its_port() -> None:
    source = {"Cargo.toml": PACKAGE + '[dependencies]\nrocket = "0.5"\n', "src/main.rs": MAIN}
    plan = planned(source, start='["./app", "serve"]')
    image = image_of(plan)
    assert image.entrypoint == ("/ignite/start", "ROCKET_PORT=$PORT", "--", "/app/app", "serve")
    assert image.program == "/app/app" and plan.to_json()["output"]["launcher"] == 3
    assert "launcher" not in plan.effects()["output"], "the words say it all"


@pytest.mark.parametrize("word", ["$PORT", "a${PORT}b", "${NAME:-x y}", "${NAME-}", "$_x"])
def test_a_start_command_with_variables_has_a_launcher(word: str) -> None:
    plan = planned({"Cargo.toml": PACKAGE, "src/main.rs": MAIN}, start=json.dumps(["./app", word]))
    image = image_of(plan)
    assert image.entrypoint == ("/ignite/start", "--", "/app/app", word)
    assert image.program == "/app/app" and image.env == ()
    assert names(plan)[-2:] == ["compile launcher", "compile"] and "start.rs" in [one.path for one in plan.stubs]
    assert image.layers[0].dest == "/ignite"


@pytest.mark.parametrize("word", ["serve", "$", "$1", "${}", "a$", "$(x)", "${NAME:?x}", "$-", "${NAME"])
def test_a_start_command_without_a_variable_starts_as_it_is(word: str) -> None:
    plan = planned({"Cargo.toml": PACKAGE, "src/main.rs": MAIN}, start=json.dumps(["./app", word]))
    image = image_of(plan)
    assert image.entrypoint == ("/app/app", word) and "compile launcher" not in names(plan)


def test_what_the_launcher_cannot_start_counts_as_absent() -> None:
    plan = planned({"Cargo.toml": PACKAGE + '[dependencies]\nrocket = "0.5"\n', "src/main.rs": MAIN})
    (source,) = [one.content for one in plan.stubs if one.path == "start.rs"]
    (line,) = re.findall(r'eprintln!\("(ignite: .*)\{\}: \{error\}"', source)
    assert app.is_absent(127, (f"{line}/app/app: No such file or directory",))
    assert not app.is_absent(1, (f"{line}/app/app: No such file or directory",)) and "exit(127)" in source


@pytest.mark.parametrize("launcher", [-1, 1])
def test_an_entry_point_has_a_program(launcher: int) -> None:
    with pytest.raises(ValueError, match="has no program"):
        Output(layers=(), entrypoint=("/app/app",), launcher=launcher)


@pytest.mark.parametrize(
    "files",
    [
        {"Cargo.toml": PACKAGE + '[dev-dependencies]\nrocket = "0.5"\n', "src/main.rs": MAIN},
        {"Cargo.toml": PACKAGE + '[build-dependencies]\nrocket = "0.5"\n', "src/main.rs": MAIN},
        {"Cargo.toml": PACKAGE + '[dependencies]\nrocket_dyn = "0.5"\n', "src/main.rs": MAIN},
        {"Cargo.toml": PACKAGE + '[dependencies]\nrocket = "0.5"\n', "src/lib.rs": HANDLER},
        {
            "Cargo.toml": PACKAGE + '[workspace]\nmembers = ["other"]\n',
            "src/main.rs": MAIN,
            "other/Cargo.toml": PACKAGE.replace("my-app", "other") + '[dependencies]\nrocket = "0.5"\n',
            "other/src/lib.rs": "",
        },
    ],
    ids=["for tests", "for the build", "another crate", "beside a handler", "of another member"],
)
def test_what_does_not_serve_by_rocket_starts_as_it_is(files: dict[str, str]) -> None:
    plan = planned(files)
    image = image_of(plan)
    assert (image.entrypoint, image.env, len(image.layers)) == (("/app/app",), (), 1)
    assert "compile launcher" not in names(plan)
    assert all(one.path != "start.rs" for one in plan.stubs)


@pytest.mark.parametrize("target", ["native", "wasm"])
def test_what_compiles_is_told_the_release_of_the_toolchain_or_else_of_the_catalog(target: str) -> None:
    plan = planned({"Cargo.toml": WITH_ITOA, "src/lib.rs": HANDLER, "Cargo.lock": LOCK}, target=target)
    told = {step.name: dict(step.env).get("RUST_VERSION") for step in plan.steps}
    asked = "${RUST_VERSION:-" + plan.toolchain.version + "}"
    assert {name: value for name, value in told.items() if value} == {"compile crates": asked, "compile": asked}


def test_a_plan_reads_no_source_that_it_does_not_start() -> None:
    """One file too large anywhere, vendored or made by a build, would refuse a source that cargo compiles."""
    read: list[str] = []

    class Watched(DictTree):
        def read_text(self, path: str, limit: int = 0) -> str:
            read.append(path)
            return super().read_text(path, limit or 1 << 20)

    tree = Watched({"Cargo.toml": PACKAGE, "src/main.rs": MAIN, "src/of.rs": "", "vendor/a/src/lib.rs": ""})
    pipelines.plan(pipelines.detect(tree, "rust"), tree, PlanRequest(), CATALOG)
    assert read and not {"src/of.rs", "vendor/a/src/lib.rs"} & set(read)


def test_the_marker_of_a_distribution_names_its_release() -> None:
    program = next(one for one in read_recipe((runtimes_dir(),), "rust").programs if one.command == "rustc")
    marker = (
        '[pkg.cargo]\nversion = "0.96.0 (f2d3ce0bd 2026-03-21)"\n\n[pkg.rustc]\nversion = "{} (59807616e 2026-04-14)"\n'
    )
    ((name, pattern),) = program.env
    found = pattern.search(marker.format("1.95.2"))
    assert name == "RUST_VERSION" and found and found[1] == "1.95.2"
    assert not pattern.search(marker.format("1.95.2-nightly"))


def test_a_dependency_of_itself_is_looked_at_once() -> None:
    files = {
        "Cargo.toml": PACKAGE + '[dependencies]\none = { path = "one" }\n',
        "src/main.rs": MAIN,
        "one/Cargo.toml": PACKAGE.replace("my-app", "one") + '[dependencies]\nmy-app = { path = ".." }\n',
        "one/src/lib.rs": "",
    }
    assert "compile launcher" not in names(planned(files))


def test_a_lock_is_checked_before_it_grows() -> None:
    plan = planned({"Cargo.toml": WITH_ITOA, "src/lib.rs": HANDLER, "Cargo.lock": LOCK})
    assert names(plan) == [
        "download crates", "download crates of the SDK", "unpack crates", "check lock", "compile crates", "compile",
    ]  # fmt: skip
    check = plan.steps[3]
    assert check.cwd == "/work/fetch/sent" and "--locked" in check.argv and check.network is Network.NONE
    assert "ignite" not in stub(plan, "sent/Cargo.toml")["dependencies"]
    assert "ignite" in stub(plan, "app/Cargo.toml")["dependencies"]
    assert "--locked" not in plan.steps[-1].argv


def test_without_a_lock_the_newest_crates_are_taken_with_a_warning() -> None:
    plan = planned({"Cargo.toml": WITH_ITOA, "src/lib.rs": HANDLER})
    assert names(plan) == ["resolve crates", "unpack crates", "compile crates", "compile"]
    assert "Cargo.lock is absent" in plan.warnings[0]


@pytest.mark.parametrize("files", [{"src/lib.rs": HANDLER}, {"src/main.rs": MAIN}], ids=["handler", "server"])
def test_no_step_with_a_network_or_a_result_sees_a_line_of_the_source(files: dict[str, str]) -> None:
    secret = {"build.rs": "fn main() { /* mine */ }\n", ".cargo/config.toml": '[env]\nMINE = "x"\n'}
    plan = planned({"Cargo.toml": WITH_ITOA, "Cargo.lock": LOCK, **files, **secret})
    for step in plan.steps[:-1]:
        assert step.sees is Sees.STUBS and not step.runs_source
        assert all(cache.access is not Access.WRITE for cache in step.caches)
    assert {copy.source for copy in plan.copies} == {"Cargo.lock"}
    text = "".join(file.content for file in plan.stubs)
    assert "mine" not in text and "handler" not in text
    assert [step.name for step in plan.steps if step.result] == ["unpack crates", "compile crates"]


def test_a_stub_has_the_dependencies_and_none_of_the_targets() -> None:
    manifest = (
        PACKAGE
        + 'description = "secret"\nbuild = "tools/build.rs"\n[features]\ntls = []\n[dependencies]\nitoa = "1"\n'
        + '[target."cfg(unix)".dependencies]\nlibc = "0.2"\n[build-dependencies]\ncc = "1"\n'
        + '[dev-dependencies]\nrand = "1"\n'
        + '[profile.release]\nlto = true\n[lints.rust]\nunsafe_code = "deny"\n[[bench]]\nname = "b"\n'
    )
    files = {"Cargo.toml": manifest, "src/main.rs": MAIN, "tools/build.rs": "fn main() {}"}
    made = stub(planned(files), "app/Cargo.toml")
    assert made["package"]["build"] == "ignite-stub-build.rs"
    assert "description" not in made["package"]
    assert made["target"] == {"cfg(unix)": {"dependencies": {"libc": "0.2"}}}
    assert made["profile"] == {"release": {"lto": True}}
    assert made["features"] == {"tls": []} and made["build-dependencies"] == {"cc": "1"}
    assert "lints" not in made and "bench" not in made
    assert made["bin"] == [{"name": "my-app", "path": "ignite-stub-main.rs"}]


def test_no_file_of_a_stub_has_the_name_that_a_source_gives_it() -> None:
    """cargo would take the source's own target for the stub's, which is compiled already."""
    plan = planned({"Cargo.toml": WITH_ITOA, "src/main.rs": MAIN, "build.rs": MAIN, "src/lib.rs": ""})
    found = {file.path for file in plan.stubs if file.path.endswith(".rs")}
    assert found == {f"app/ignite-stub-{name}.rs" for name in ("build", "lib", "main")}


WORKSPACE = {
    "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\nresolver = "2"\n\n[workspace.package]\nversion = "1.2.3"\n',
    "crates/api/Cargo.toml": '[package]\nname = "api"\nversion.workspace = true\n\n'
    '[dependencies]\ncore = { path = "../core" }\n',
    "crates/api/src/main.rs": MAIN,
    "crates/core/Cargo.toml": '[package]\nname = "core"\nversion.workspace = true\n',
    "crates/core/src/lib.rs": "",
}


def test_several_members_are_an_error_that_lists_them() -> None:
    error = refused({**WORKSPACE, "crates/core/src/main.rs": MAIN})
    assert (error.reason, error.where) == ("EntryPointMissing", "Cargo.toml")
    assert "api, core" in error.message and "entry=" in error.next


@pytest.mark.parametrize("arguments", [{"entry": "api"}, {"entry": "crates/api"}, {"sub_path": "crates/api"}], ids=str)
def test_a_member_is_named_by_name_or_folder(arguments: dict[str, str]) -> None:
    plan = planned(WORKSPACE, **arguments)
    assert choice(plan, "entry") == ("crates/api/src/main.rs", "the only program")
    assert plan.steps[-1].cwd == "/work/src/crates/api"
    assert stub(plan, "app/Cargo.toml") if plan.stubs else True


def test_default_members_name_the_one_to_build() -> None:
    files = {
        **WORKSPACE,
        "Cargo.toml": WORKSPACE["Cargo.toml"].replace("resolver", 'default-members = ["crates/api"]\nresolver'),
    }
    assert choice(planned(files), "entry")[0] == "crates/api/src/main.rs"


@pytest.mark.parametrize(
    ("shared", "taken", "downloads"),
    [
        ('itoa = "1"', "itoa.workspace = true", True),
        ('itoa = { version = "1" }', "itoa = { workspace = true, optional = true }", True),
        ('core = { path = "core" }', "core.workspace = true", False),
        ('itoa = "1"\ncore = { path = "core" }', "core.workspace = true", False),
    ],
    ids=["a crate", "a crate by a table", "a path", "a crate that no member takes"],
)
def test_a_crate_of_a_workspace_that_is_no_package_is_downloaded(shared: str, taken: str, downloads: bool) -> None:
    member = '[package]\nname = "{}"\nversion = "0.1.0"\n'
    files = {
        "Cargo.toml": f'[workspace]\nmembers = ["api", "core"]\n[workspace.dependencies]\n{shared}\n',
        "api/Cargo.toml": member.format("api") + f"[dependencies]\n{taken}\n",
        "api/src/main.rs": MAIN,
        "core/Cargo.toml": member.format("core"),
        "core/src/lib.rs": "",
    }
    fetching = ["resolve crates", "unpack crates", "compile crates"] if downloads else []
    assert names(planned(files)) == [*fetching, "compile"]


def test_a_workspace_member_has_the_lock_and_the_profile_of_the_root() -> None:
    root = WORKSPACE["Cargo.toml"] + "\n[profile.release]\npanic = 'abort'\n"
    files = {**WORKSPACE, "Cargo.toml": root, "Cargo.lock": LOCK, "crates/api/src/main.rs": HANDLER}
    plan = planned(files, entry="api")
    assert [(copy.path, copy.source) for copy in plan.copies] == [
        ("app/Cargo.lock", "Cargo.lock"), ("sent/Cargo.lock", "Cargo.lock"),
    ]  # fmt: skip
    assert stub(plan, "app/Cargo.toml")["workspace"] == {
        "members": ["crates/*"], "resolver": "2", "package": {"version": "1.2.3"},
    }  # fmt: skip
    assert ("CARGO_PROFILE_RELEASE_PANIC", "unwind") in plan.steps[-1].env


@pytest.mark.parametrize(
    ("files", "reason", "where", "message"),
    [
        ({"Cargo.toml": PACKAGE}, "EntryPointMissing", "Cargo.toml", "neither src/main.rs nor src/lib.rs"),
        ({"Cargo.toml": PACKAGE, "src/lib.rs": ""}, "EntryPointMissing", "src/lib.rs", "no #[ignite::main]"),
        (
            {"Cargo.toml": PACKAGE, "src/bin/a.rs": MAIN, "src/bin/b.rs": MAIN},
            "EntryPointMissing",
            "Cargo.toml",
            "several programs: a (src/bin/a.rs), b (src/bin/b.rs)",
        ),
        (
            {
                "Cargo.toml": PACKAGE + '[dependencies]\nfoo = { git = "https://github.com/x/foo" }\n',
                "src/main.rs": MAIN,
            },
            "ManifestInvalid",
            "Cargo.toml:6  dependencies.foo",
            "foo is taken from git (https://github.com/x/foo)",
        ),
        (
            {"Cargo.toml": PACKAGE + '[patch.crates-io]\nfoo = { git = "ssh://x/foo" }\n', "src/main.rs": MAIN},
            "ManifestInvalid",
            "Cargo.toml:6  patch.crates-io.foo",
            "from git",
        ),
        (
            {
                "Cargo.toml": PACKAGE + '[dependencies]\nfoo = { version = "1", registry = "corp" }\n',
                "src/main.rs": MAIN,
            },
            "ManifestInvalid",
            "Cargo.toml:6  dependencies.foo",
            "the registry corp",
        ),
        (
            {"Cargo.toml": PACKAGE + '[dependencies]\nfoo = { path = "../foo" }\n', "src/main.rs": MAIN},
            "ManifestInvalid",
            "Cargo.toml  dependencies.foo",
            "outside of the source",
        ),
        (
            {"Cargo.toml": PACKAGE + '[dependencies]\nfoo = { path = "foo" }\n', "src/main.rs": MAIN},
            "ManifestInvalid",
            "Cargo.toml  dependencies.foo",
            "no Cargo.toml in what was sent",
        ),
        (
            {"Cargo.toml": '[workspace]\nmembers = ["gone"]\n'},
            "ManifestInvalid",
            "Cargo.toml  workspace.members",
            "the member gone has no Cargo.toml",
        ),
        ({"Cargo.toml": "[package\n", "src/main.rs": MAIN}, "ManifestInvalid", "Cargo.toml:1:9", "no TOML"),
        *(
            (
                {"Cargo.toml": PACKAGE + f'workspace = "{folder}"\n', "src/main.rs": MAIN},
                "ManifestInvalid",
                "Cargo.toml  package.workspace",
                message,
            )
            for folder, message in (("../..", "outside of"), ("/etc", "outside of"), ("gone", "no Cargo.toml in what"))
        ),
        *(
            (
                {"Cargo.toml": PACKAGE + f'[[bin]]\nname = "{name}"\npath = "src/x.rs"\n', "src/x.rs": MAIN},
                "ManifestInvalid",
                "Cargo.toml  src/x.rs",
                "no name of a program",
            )
            for name in ("--config=x", "../../../app/app", r"a\u0000b", ".")
        ),
        (
            {"Cargo.toml": PACKAGE, "src/bin/--help.rs": MAIN},
            "ManifestInvalid",
            "Cargo.toml  src/bin/--help.rs",
            "no name of a program",
        ),
        *(
            ({"Cargo.toml": text + "0x" + "f" * 5000, "src/main.rs": MAIN}, "ManifestInvalid", "Cargo.toml", "64 bits")
            for text in (PACKAGE + "[features]\na = ", "[package]\nname = ")
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_place(
    files: dict[str, str], reason: str, where: str, message: str
) -> None:
    error = refused(files)
    assert (error.reason, error.where) == (reason, where)
    assert message in error.message and error.next


def test_a_git_crate_of_a_lock_is_refused_by_name() -> None:
    lock = '[[package]]\nname = "foo"\nversion = "0.1.0"\nsource = "git+https://github.com/x/foo#abc"\n'
    with pytest.raises(BuildError, match="foo is taken from git") as caught:
        read_lock(DictTree({"Cargo.lock": lock}), "Cargo.lock")
    assert (caught.value.where, caught.value.error_class) == ("Cargo.lock:2  foo 0.1.0", "client")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[build]\nrustc-wrapper = "./evil"\n', "build.rustc-wrapper"),
        ('[build]\nrustc = "./evil"\n', "build.rustc"),
        ('[target.x86_64-unknown-linux-gnu]\nlinker = "./evil"\n', "target.x86_64-unknown-linux-gnu.linker"),
        ('[target.x86_64-unknown-linux-gnu]\nrunner = "./evil"\n', "target.x86_64-unknown-linux-gnu.runner"),
        ('[source.crates-io]\nreplace-with = "mine"\n', "source"),
        ('[registries.mine]\nindex = "https://mine.example/"\n', "registries"),
        ('[registry]\ndefault = "mine"\n', "registry"),
        ('[patch.crates-io]\nfoo = { path = "/etc" }\n', "patch"),
        ('paths = ["/etc"]\n', "paths"),
        ('include = "/work/home/x.toml"\n', "include"),
        ('[unstable]\nbuild-std = ["std"]\n', "unstable"),
        ('[env]\nRUSTC_WRAPPER = "./evil"\n', "env.RUSTC_WRAPPER"),
        ('[env]\nLD_PRELOAD = "./evil.so"\n', "env.LD_PRELOAD"),
        ('[env]\nCARGO_HOME = "/cache"\n', "env.CARGO_HOME"),
        ('[env]\nHTTPS_PROXY = "x"\n', "env.HTTPS_PROXY"),
        ('[build]\nrustflags = ["-C", "linker=./evil"]\n', "rustflags -C linker=./evil"),
        ('[build]\nrustflags = "-Clink-arg=-Wl,x"\n', "rustflags -C link-arg=-Wl,x"),
        ('[target.x86_64-unknown-linux-gnu]\nrustflags = ["-L", "/tmp"]\n', "rustflags -L /tmp"),
        ('[build]\nrustflags = ["--codegen=linker=x"]\n', "rustflags -C linker=x"),
        ('[build]\nrustflags = ["--sysroot", "x"]\n', "rustflags --sysroot x"),
        ('[build]\nrustflags = ["@args"]\n', "rustflags @a rgs"),
        ('[env]\nCOMPILER_PATH = "x"\n', "env.COMPILER_PATH"),
        ('[build]\nrustflags = ["--cfg", "x\\u001f-Clinker=x"]\n', r"rustflags 'x\x1f-Clinker=x'"),
    ],
)
def test_a_key_of_cargos_own_settings_that_starts_or_directs_something_is_refused(text: str, key: str) -> None:
    for path in (".cargo/config.toml", ".cargo/config"):
        error = refused({"Cargo.toml": PACKAGE, "src/main.rs": MAIN, path: text})
        assert (error.reason, error.where) == ("ManifestInvalid", f"{path}  {key}")


def test_what_changes_only_the_code_is_taken_and_the_file_is_written_anew() -> None:
    text = (
        '[build]\nrustflags = ["--cfg", "tokio_unstable", "-Ctarget-cpu=x86-64-v2", "-Dwarnings"]\n'
        'target-dir = "/cache"\n[alias]\nx = "run"\n[net]\ngit-fetch-with-cli = true\n'
        '[env]\nGREETING = "hi"\n[profile.release]\nlto = "thin"\n'
    )
    plan = planned({"Cargo.toml": PACKAGE, "src/main.rs": MAIN, ".cargo/config.toml": text})
    assert tomllib.loads(written(plan, ".cargo/config.toml")) == {
        "env": {"GREETING": "hi"}, "profile": {"release": {"lto": "thin"}},
    }  # fmt: skip
    flags = dict(plan.steps[-1].env)["CARGO_ENCODED_RUSTFLAGS"]
    assert flags.split("\x1f") == ["-Ctarget-feature=+crt-static", "--cfg", "tokio_unstable", "-Ctarget-cpu=x86-64-v2"]


@pytest.mark.parametrize(
    ("files", "version", "why"),
    [
        ({}, "1.95", "the catalog's default"),
        (
            {"rust-toolchain.toml": '[toolchain]\nchannel = "1.82.0"\n'},
            "1.82",
            "rust-toolchain.toml  toolchain.channel",
        ),
        ({"rust-toolchain": "1.93\n"}, "1.93", "rust-toolchain asks for 1.93"),
        ({"rust-toolchain": '[toolchain]\nchannel = "stable"\n'}, "1.95", "asks for stable"),
        ({".tool-versions": "nodejs 20\nrust 1.82.0\n"}, "1.82", ".tool-versions:2"),
        ({"mise.toml": '[tools]\nrust = "1.93"\n'}, "1.93", "mise.toml:2"),
    ],
)
def test_a_file_pins_the_version(files: dict[str, str], version: str, why: str) -> None:
    found = choice(planned({"Cargo.toml": PACKAGE, "src/main.rs": MAIN, **files}), "version")
    assert found[0] == version and why in found[1]


def test_the_request_beats_the_file_and_rust_version_is_a_minimum() -> None:
    files = {"Cargo.toml": PACKAGE + 'rust-version = "1.90"\n', "src/main.rs": MAIN, "rust-toolchain": "1.82"}
    assert choice(planned(files, version="1.93"), "version") == ("1.93", "asked for")
    del files["rust-toolchain"]
    assert choice(planned(files), "version")[0] == "1.95"


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"rust-toolchain": "nightly\n"}, "rust-toolchain"),
        ({"rust-toolchain.toml": '[toolchain]\nchannel = "1.60"\n'}, "rust-toolchain.toml  toolchain.channel"),
        ({"Cargo.toml": PACKAGE + 'rust-version = "1.999"\n'}, "Cargo.toml  package.rust-version"),
    ],
)
def test_a_pin_that_cannot_be_met_lists_what_there_is(files: dict[str, str], where: str) -> None:
    error = refused({"Cargo.toml": PACKAGE, "src/main.rs": MAIN, **files})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", where)
    assert "1.95" in error.message


def test_features_are_checked_and_become_one_token() -> None:
    files = {"Cargo.toml": PACKAGE + "[features]\ntls = []\njson = []\n", "src/main.rs": MAIN}
    argv = planned(files, features="tls, json,no-default").steps[-1].argv
    assert argv[argv.index("--no-default-features") : argv.index("--bin")] == (
        "--no-default-features", "--features", "tls,json",
    )  # fmt: skip
    error = refused(files, features="tsl")
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.features")
    assert "json, tls" in error.message
    assert refused(files, features="a b").reason == "InvalidRequest"
    without = refused({"Cargo.toml": PACKAGE, "src/main.rs": MAIN}, features="tls")
    assert (without.message, without.next) == ("my-app has no feature tls; it has none", "Leave the argument out.")


def test_files_lie_beside_the_binary_and_start_names_it() -> None:
    files = {"Cargo.toml": PACKAGE, "src/main.rs": MAIN, "static/a.css": "", "static/b.js": ""}
    plan = planned(files, files="static/*.css", start='["./app", "serve"]')
    assert [(file.path, file.source) for file in plan.placed] == [("app/static/a.css", "static/a.css")]
    assert [layer.dest for layer in image_of(plan).layers] == ["/app/app", "/app"]
    assert image_of(plan).entrypoint == ("/app/app", "serve")
    assert refused(files, start='["sh"]').where == "buildArgs.start"


@pytest.mark.parametrize("name", ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_HOME", "LD_PRELOAD", "rustflags"])
def test_a_build_argument_that_would_inject_code_is_refused(name: str) -> None:
    assert refused({"main.rs": MAIN}, **{name: "x"}).reason == "BuildArgUnknown"


def test_comments_and_literals_mislead_nobody() -> None:
    text = '// #[ignite::main]\n/* #[ignite::main] */\nlet a = "#[ignite::main]"; let b = r##"#[ignite::main]"##;\n'
    assert handler_line(text) == 0
    assert handler_line(text + "let c = '\"';\n# [ ignite :: main ]\nfn f() {}\n") == 5
    assert not has_main('// fn main\nlet a = "fn main";\nfn other() {}')
    assert has_main("pub async fn main() {}")


def test_crates_are_found_where_a_path_names_them() -> None:
    files = {"src/a.rs": "use serde::{Serialize};\nfn f() { tokio :: spawn(x) }\nlet serde_json = 1;\n// ignite::x\n"}
    assert named(DictTree(files), ".", frozenset(INJECTED)) == {"serde", "tokio"}
    assert named(DictTree(files), "other", frozenset(INJECTED)) == frozenset()


def test_the_fetched_crates_are_those_of_the_lock() -> None:
    plan = planned({"Cargo.toml": WITH_ITOA, "src/main.rs": MAIN, "Cargo.lock": LOCK})
    found = rust.fetched(plan, DictTree({"app/Cargo.lock": LOCK}))
    assert found is not None
    (one,) = found.wanted
    assert (one.package, one.source) == ("pkg:cargo/itoa@1.0.15", "registry/cache/*/itoa-1.0.15.crate")
    assert one.digest == "sha256:" + one.path.split("/")[0]
    assert found.files[0].path == LIST
    assert found.files[0].content == f"/cache/crates/{one.path} itoa-1.0.15 {one.digest[7:]}\n"
    assert rust.fetched(plan, DictTree({"app/Cargo.toml": ""})) is None


def test_what_is_added_is_what_the_sdks_lock_pins() -> None:
    lock = tomllib.loads((runtimes_dir() / "rust/sdk/Cargo.lock").read_text())
    pinned = {(one["name"], one["version"], one["checksum"]) for one in lock["package"] if "source" in one}
    assert {(one.name, one.version, one.checksum) for one in CRATES} == pinned
    added = tomllib.loads((runtimes_dir() / "rust/sdk/injected/Cargo.toml").read_text())["dependencies"]
    assert {name: value for name, value in added.items() if name != "ignite"} == {
        name: value for name, value in INJECTED.items() if name != "ignite"
    }


def test_a_manifest_written_is_the_one_that_was_read() -> None:
    value = {
        "package": {"name": 'a"b\\', "version": "1", "publish": False, "n": 3, "f": 1.5},
        "dependencies": {"a": {"version": "1", "features": ["x", "\x7f\u00fc\U0001f600"]}, "b.c": "2"},
        "target": {"cfg(unix)": {"dependencies": {"l": "1"}}},
        "bin": [{"name": "x", "path": "y"}],
    }
    assert tomllib.loads(to_toml(value)) == value


@pytest.mark.parametrize(
    ("extra", "entry"),
    [
        ({}, "binary/src/main.rs"),
        ({"library/src/lib.rs": "#[ignite::main]\nasync fn handler() {}\n"}, ""),
        ({"library/src/bin/tool.rs": MAIN}, ""),
    ],
    ids=["one program", "a handler beside it", "a program beside it"],
)
def test_the_only_member_with_a_program_is_the_one_that_is_built(extra: dict[str, str], entry: str) -> None:
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["binary", "library"]\n',
        "binary/Cargo.toml": PACKAGE.replace("my-app", "binary"),
        "binary/src/main.rs": MAIN,
        "library/Cargo.toml": PACKAGE.replace("my-app", "library"),
        "library/src/lib.rs": "pub fn one() {}\n",
        **extra,
    }
    if entry:
        assert {one.name: one.value for one in planned(files).choices}["entry"] == entry
        return
    with pytest.raises(BuildError, match="the workspace has 2 members with a program: binary, library"):
        planned(files)


@pytest.mark.parametrize(
    ("beside", "runtime"),
    [({}, "rust"), ({"README.md": ""}, "rust"), ({"main.py": "print()\n"}, "python"), ({"main.ts": ""}, "deno")],
    ids=["alone", "text", "python", "deno"],
)
def test_a_source_without_its_manifest_is_rust_where_nothing_else_is_there(
    beside: dict[str, str], runtime: str
) -> None:
    files = {"src/main.rs": MAIN, **beside}
    assert pipelines.detect(DictTree(files)).runtime == runtime
    if runtime == "rust":
        with pytest.raises(BuildError, match=r"there is no Cargo\.toml") as caught:
            planned(files)
        assert (caught.value.reason, caught.value.where) == ("EntryPointMissing", "Cargo.toml")


BUILD = Step(name="compile", argv=(CARGO, "build"))
CRATES_STEP = Step(name="compile crates", argv=(CARGO, "build"))
RESOLVE = Step(name="resolve crates", argv=(CARGO, "fetch"))
CHECK = Step(name="check lock", argv=(CARGO, "fetch", "--locked", "--offline"))

# recording → (step, reason, where, what the message has, the first line of the tool)
EXPECTED: dict[str, tuple[Step, str, str, str, str]] = {
    "borrow": (BUILD, "CompileFailed", "src/main.rs:4:16", "borrow of moved value: `name`", "error[E0382]: borrow"),
    "edition": (RESOLVE, "ManifestInvalid", "Cargo.toml  package.edition", "but `2023` is unknown", "error: failed to"),
    "feature": (RESOLVE, "ManifestInvalid", "Cargo.toml  serde", "serde has no feature nonsense", "package `app`"),
    "import": (BUILD, "DependencyNotFound", "src/main.rs:1:5", "rand is used, but Cargo.toml", "error[E0432]: unres"),
    "link": (BUILD, "CompileFailed", "", "there is no library nowhere to link", "  = note: rust-lld: error: unable"),
    "module": (BUILD, "CompileFailed", "src/main.rs:1:1", "file not found for module `config`", "error[E0583]: file"),
    "names": (
        BUILD,
        "CompileFailed",
        "src/lib.rs:2:23  (first of 3)",
        "cannot find type `Request`",
        "error[E0425]: cann",
    ),
    "nomain": (BUILD, "EntryPointMissing", "src/main.rs:1:14", "no fn main", "error[E0601]: `main` function"),
    "result": (BUILD, "CompileFailed", "src/lib.rs:3:1", "#[ignite::main] returns no Result", "error[E0271]: expected"),
    "stale": (CHECK, "LockOutdated", "Cargo.lock", "does not fit Cargo.toml", "error: cannot update the lock file"),
    "syntax": (BUILD, "CompileFailed", "src/main.rs:2:13", "expected expression, found `;`", "error: expected expr"),
    "sys": (CRATES_STEP, "CompileFailed", "Cargo.toml  libz-sys", "libz-sys 1.", "error: failed to run custom"),
    "unknown": (RESOLVE, "DependencyNotFound", "Cargo.toml  serdee", "no crate serdee", "error: no matching package"),
    "untrusted": (RESOLVE, "PackageIndexUnavailable", "", "is not trusted here: [60] SSL", "  [60] SSL peer certif"),
    "version": (RESOLVE, "DependencyNotFound", "Cargo.toml  serde", 'no version "^9" of serde', "error: failed to sel"),
    "yanked": (RESOLVE, "DependencyNotFound", "Cargo.toml  half", "half 1.8.1 was yanked", "error: failed to select"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_cargo_printed_is_understood(name: str) -> None:
    step, reason, where, message, first = EXPECTED[name]
    lines = (SAID / f"rust-{name}.txt").read_text().splitlines()
    found = pipelines.diagnose("rust", step, 101, lines)
    assert (found.reason, found.where) == (reason, where)
    assert message in found.message
    assert found.said[0].startswith(first)
    assert 1 <= len(found.said) <= 6
    assert found.reason in REASONS and found.next
    assert "/work/" not in " ".join((found.message, found.where, found.next, *found.said))


@pytest.mark.parametrize(
    ("name", "words"),
    [("names", "use ignite::{Context, IntoResponse, Request, Result};"), ("result", "ignite::Result<")],
)
def test_a_handler_that_lacks_the_sdks_names_is_told_them(name: str, words: str) -> None:
    """rustc's own help is `use std::task::Context`."""
    assert words in rust.diagnose(BUILD, 101, (SAID / f"rust-{name}.txt").read_text().splitlines()).next


def test_every_recording_is_expected() -> None:
    assert {path.stem.removeprefix("rust-") for path in SAID.glob("rust-*.txt")} == set(EXPECTED)


def test_a_build_script_of_the_source_has_its_place() -> None:
    lines = [
        "error: failed to run custom build command for `text v0.1.0 (/work/src/crates/text)`",
        "  --- stderr",
        "  thread 'main' (18) panicked at crates/text/build.rs:21:5:",
        "  no such table",
    ]
    found = rust.diagnose(BUILD, 101, lines)
    assert (found.reason, found.where) == ("CompileFailed", "crates/text/build.rs:21:5")
    assert found.message == "the build script of text 0.1.0 failed" and "no such table" in found.said
    assert rust.diagnose(BUILD, 101, lines[:1]).where == "crates/text/build.rs"


def test_a_lock_that_lacks_a_crate_is_outdated() -> None:
    lines = [
        "error: no matching package named `memchr` found",
        "location searched: directory source `/work/fetch/vendor`",
    ]
    found = rust.diagnose(CHECK, 101, lines)
    assert (found.reason, found.message) == ("LockOutdated", "Cargo.lock does not fit Cargo.toml: it lacks memchr")


def test_an_index_that_does_not_answer_is_ours() -> None:
    lines = [
        "warning: spurious network error (3 tries remaining): [28] Timeout was reached",
        "error: failed to get `x`",
    ]
    assert rust.diagnose(RESOLVE, 101, lines).reason == "PackageIndexUnavailable"
    assert rust.diagnose(BUILD, 101, lines).reason == "StepFailed"


def test_what_is_not_known_is_the_tools_own_last_words() -> None:
    found = rust.diagnose(BUILD, 101, ["something new"])
    assert (found.reason, found.said) == ("StepFailed", ("something new",))
