"""Plans of Python sources: entry points, every kind of manifest, versions, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, python
from builder.pipelines.base import PlanRequest
from builder.pipelines.python import diagnosis
from builder.pipelines.python.planning import LOCKED, SDK
from builder.plan import Network, Plan
from builder.source.tree import DictTree
from tests.planned_image import image_of

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
HANDLER = {"handler.py": "def handler(payload, ctx): ...\n"}
PROJECT = (
    '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.11"\n'
    'dependencies = [\n  "idna==3.10",\n  "six>=1",\n]\n'
)
LOCK = (
    'version = 1\n\n[[package]]\nname = "x"\nversion = "1"\nsource = { virtual = "." }\n'
    'dependencies = [{ name = "idna" }, { name = "six" }]\n'
    '[package.metadata]\nrequires-dist = [{ name = "idna", specifier = "==3.10" }, '
    '{ name = "six", specifier = ">=1" }]\n\n'
    '[[package]]\nname = "six"\nversion = "1.16.0"\nsource = { registry = "https://pypi.org/simple" }\n\n'
    '[[package]]\nname = "idna"\nversion = "3.10"\nsource = { registry = "https://pypi.org/simple" }\n'
)
ZEROS, ONES = "0" * 64, "1" * 64
FROM_GIT = 'dependencies = [{ name = "y" }]\n[[package]]\nname = "y"\nsource = { git = "https://y" }\n'
PYLOCK = (
    'lock-version = "1.0"\n\n[[packages]]\nname = "six"\nversion = "1.16.0"\n\n'
    '[[packages]]\nname = "idna"\nversion = "3.10"\n'
)


def planned(files: dict[str, str], **request: Any) -> Plan:
    tree = DictTree(HANDLER | files)
    found = python.detect(tree)
    assert found
    return python.plan(tree, found, PlanRequest(**request), CATALOG)


def refused(files: dict[str, str]) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files)
    return caught.value


def choice(plan: Plan, name: str) -> tuple[str, str]:
    (found,) = [one for one in plan.choices if one.name == name]
    return found.value, found.why


def installed(plan: Plan) -> str:
    """What uv resolves."""
    (step,) = [step for step in plan.steps if step.name == "resolve dependencies"]
    assert step.network is Network.INDEX and step.cwd == "/work/fetch"
    assert step.argv[step.argv.index("--only-binary") + 1] == ":all:"
    return step.argv[-1]


def test_a_handler_alone_needs_one_step_and_no_network() -> None:
    made = planned({})
    (step,) = made.steps
    assert step.argv == ("/usr/bin/python3.11", "-I", "-B", f"{SDK}/build/check_and_compile.py", "handler")
    assert step.network is Network.NONE
    assert [layer.dest for layer in image_of(made).layers] == ["/ignite", "/app/src"]
    assert image_of(made).entrypoint == ("/usr/bin/python3.11", "-B", "/ignite/serve.py")
    assert made.materials == ()


def test_a_server_of_its_own_is_started_as_it_is() -> None:
    tree = DictTree({"main.py": "…"})
    found = python.detect(tree)
    assert found
    made = python.plan(tree, found, PlanRequest(), CATALOG)
    assert image_of(made).entrypoint[-1] == "/app/src/main.py" and made.steps[-1].argv[-1] == "server"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"requirements.txt": "idna"}, "neither handler.py nor main.py at the root"),
        ({"requirements.txt": "idna", "lib.py": "", "util.py": ""}, "there is lib.py, util.py"),
        ({"pyproject.toml": PROJECT, "src/handler.py": ""}, "src/handler.py is too deep"),
    ],
)
def test_a_missing_entry_point_says_what_there_is(files: dict[str, str], words: str) -> None:
    tree = DictTree(files)
    found = python.detect(tree)
    assert found
    with pytest.raises(BuildError) as caught:
        python.plan(tree, found, PlanRequest(), CATALOG)
    assert caught.value.reason == "EntryPointMissing" and words in caught.value.message


@pytest.mark.parametrize(
    ("files", "source", "value", "materials"),
    [
        ({"requirements.txt": "idna\nsix"}, "requirements.txt", "2 in requirements.txt", ("requirements.txt",)),
        ({"pyproject.toml": PROJECT}, "pyproject.toml.txt", "2 in pyproject.toml", ("pyproject.toml",)),
        ({"pyproject.toml": PROJECT, "uv.lock": LOCK}, LOCKED, "2 in uv.lock", ("uv.lock",)),
        ({"pyproject.toml": PROJECT, "pylock.toml": PYLOCK}, "pylock.toml.txt", "2 in pylock.toml", ("pylock.toml",)),
        (
            {
                "requirements.txt": "-r more/base.txt\nidna\n",
                "more/base.txt": "-c pins.txt\nsix\n",
                "more/pins.txt": "six<2\n",
            },
            "requirements.txt",
            "2 in requirements.txt",
            ("requirements.txt", "more/base.txt", "more/pins.txt"),
        ),
    ],
)  # fmt: skip
def test_every_kind_of_manifest(files: dict[str, str], source: str, value: str, materials: tuple[str, ...]) -> None:
    made = planned(files)
    assert installed(made) == source
    assert choice(made, "dependencies")[0] == value
    assert made.materials == materials
    assert [layer.dest for layer in image_of(made).layers] == ["/ignite", "/app/deps", "/app/src"]


def test_a_lock_of_uv_is_read_without_the_network() -> None:
    made = planned({"pyproject.toml": PROJECT, "uv.lock": LOCK})
    assert [(step.name, step.network) for step in made.steps] == [
        ("read lock", Network.NONE),
        ("resolve dependencies", Network.INDEX),
        ("download wheels", Network.INDEX),
        ("build sdists", Network.NONE),
        ("install dependencies", Network.NONE),
        ("compile", Network.NONE),
    ]
    assert made.warnings == ()


def test_a_step_that_fails_names_a_manifest_and_no_word_of_its_command() -> None:
    made = planned({"handler.py": "", "requirements.txt": "idna==3.10\n"})
    for step in made.steps:
        if step.name in ("resolve dependencies", "install dependencies"):
            found = python.diagnose(step, 1, ["error: No solution found when resolving dependencies:", "Because x"])
            assert found.where.partition(" ")[0].partition(":")[0] in ("", "requirements.txt"), step.name
            assert diagnosis._manifest_of(step) == "requirements.txt"


def test_a_manifest_that_does_not_decide_is_named() -> None:
    made = planned({"requirements.txt": "idna", "pyproject.toml": PROJECT, "uv.lock": LOCK})
    assert installed(made) == "requirements.txt"
    assert made.warnings == (
        "uv.lock is not used: requirements.txt decides the dependencies",
        "pyproject.toml is not used: requirements.txt decides the dependencies",
    )


@pytest.mark.parametrize(
    "files",
    [
        {"requirements.txt": "# nothing\n\n"},
        {"pyproject.toml": "[tool.ruff]\nline-length = 100\n"},
        {"pyproject.toml": '[project]\nname = "x"\nversion = "1"\n'},
    ],
)
def test_manifests_without_dependencies_install_nothing(files: dict[str, str]) -> None:
    assert [step.name for step in planned(files).steps] == ["compile"]


@pytest.mark.parametrize(
    "line",
    [
        "idna",
        "idna==3.10",
        "idna >= 3, <4",
        "idna~=3.10.0 ; python_version < '3.13'",
        "uvicorn[standard]==0.30.*",
        "zope.interface",
        "idna (>=3)",
        "idna==3.10 --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000",
        f"idna==3.10 \\\n    --hash=sha256:{ZEROS} \\\n    --hash=sha256:{ONES}",
        "idna  # comment with git+https://example.com",
        "--pre",
        "--only-binary :all:",
        "--prefer-binary",
        "--use-feature=fast-deps",
        "idna==3.10\t--hash sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "idna" + " \\\n    --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000" * 500,
        "idna  # " + "comment " * 500,
    ],
)
def test_honest_requirements_are_taken(line: str) -> None:
    assert planned({"requirements.txt": f"six\n{line}\n"}).steps


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-e .", ". is no Python project of the source"),
        ("--editable=git+https://x", "an editable install"),
        ("git+https://example.com/x", "a package by URL"),
        ("x @ git+https://example.com/x", "a package by URL"),
        ("x @ https://example.com/x.whl", "a package by URL"),
        ("https://example.com/x.whl", "a package by URL"),
        ("./x", "x is no Python project of the source"),
        (".", ". is no Python project of the source"),
        ("/x", "a local path"),
        ("wheels/x-1-py3-none-any.whl", "a local path"),
        ("--index-url https://example.com", "an index of its own"),
        ("-i https://example.com", "an index of its own"),
        ("--extra-index-url=https://example.com", "an index of its own"),
        ("--find-links x", "an index of its own"),
        ("--no-binary :all:", "a build from source"),
        ("-r ../up.txt", "../up.txt is not in the source"),
        ("-r missing.txt", "missing.txt is not in the source"),
        ("-epkg", "pkg is no Python project of the source"),
        ("-r ${HOME}/../src/evil.txt", "a variable"),
        ("-c ${HOME}/evil.txt", "a variable"),
        ("evil @ ${HOME}/pkg", "a variable"),
        ("idna${X}", "a variable"),
        ("-r file:///work/src/evil.txt", "an include by URL"),
        ("-rfile:/work/src/evil.txt", "an include by URL"),
        ("--constraint=https://example.com/evil.txt", "an include by URL"),
        ("--requirement ftp://example.com/evil.txt", "an include by URL"),
        ("idna @ ftp://example.com/x.whl", "a package by URL"),
        ("-ihttps://example.com", "an index of its own"),
        ("idna @ pkg", "this is no requirement"),
        ('-r "a.txt"', "this is no plain path"),
        ("-r a\\b.txt", "this is no plain path"),
        (
            "idna==3.10 --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000 -e ./pkg",
            "only --hash is taken",
        ),
        ("idna==3.10 --config-settings=a=b", "only --hash is taken"),
        ("--unknown-option", "this option is not taken"),
        ("idna; " + "(" * 1000, "this is no requirement"),
        ("a" * 3000, "the line has 3000 characters; 2048 are taken"),
        ("idna==", "this is no requirement"),
        ("idna 3.10", "this is no requirement"),
        ("import idna", "this is no requirement"),
    ],
)
def test_what_is_not_taken_is_told_with_its_line(line: str, words: str) -> None:
    error = refused({"requirements.txt": f"# first\nsix==1.16.0 \\\n  --hash=sha256:{ZEROS}\n{line}\n"})
    assert (error.reason, error.where) == ("ManifestInvalid", "requirements.txt:4")
    assert words in error.message


def test_a_line_of_an_included_file_is_told_with_that_file() -> None:
    error = refused({"requirements.txt": "-r deps/a.txt\n", "deps/a.txt": "idna\n-e .\n"})
    assert error.where == "deps/a.txt:2"


def test_an_include_that_two_readers_read_differently_is_refused_though_the_source_has_it() -> None:
    """uv takes quotes, escapes and variables off; a decoy of the literal name would pass a check of the name alone."""
    for decoy in ("${HOME}/../src/evil.txt", '"e\\vil.txt"', "file:/work/src/evil.txt"):
        written = decoy.replace("file:/", "file:///")
        files = {"requirements.txt": f"-r {written}\n", decoy: "six\n", "evil.txt": "-e /work/src/pkg\n"}
        error = refused(files)
        assert (error.reason, error.where) == ("ManifestInvalid", "requirements.txt:1")


def test_uv_is_asked_to_take_no_source_of_the_project() -> None:
    (step,) = [step for step in planned({"pyproject.toml": PROJECT}).steps if step.name == "resolve dependencies"]
    assert "--no-sources" in step.argv


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ('{ git = "https://example.com/x" }', "git"),
        ('{ url = "https://example.com/x.whl" }', "url"),
        ('{ index = "corp" }', "an index of its own"),
        ('[{ index = "corp", marker = "sys_platform == \'linux\'" }, { path = "pkg" }]', "path"),
        ("{ editable = true }", "editable"),
        ('{ other = "x" }', "no source that uv knows"),
    ],
)
def test_sources_of_uv_are_refused_with_their_line(entry: str, kind: str) -> None:
    error = refused({"pyproject.toml": PROJECT + f"\n[tool.uv.sources]\nidna = {entry}\n"})
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:11")
    assert f"tool.uv.sources takes idna from {kind};" in error.message and "Remove idna" in error.next


def test_sources_of_uv_are_found_however_they_are_written() -> None:
    for text in ('[tool]\nuv.sources.idna.git = "pkg"\n', '[tool.uv.sources.idna]\ngit = "pkg"\n'):
        error = refused({"pyproject.toml": PROJECT + text})
        assert error.reason == "ManifestInvalid" and "takes idna from git" in error.message


def test_sources_of_uv_do_no_harm_where_another_manifest_decides() -> None:
    files = {"pyproject.toml": PROJECT + '[tool.uv.sources]\nidna = { path = "pkg" }\n', "requirements.txt": "idna\n"}
    assert installed(planned(files)) == "requirements.txt"


def test_files_that_include_each_other_end() -> None:
    assert planned({"requirements.txt": "-r a.txt\n", "a.txt": "-r requirements.txt\nidna\n"}).steps


@pytest.mark.parametrize(
    ("files", "where", "words"),
    [
        ({"pyproject.toml": "[project\n"}, "pyproject.toml:1:9", "is no TOML"),
        ({"pyproject.toml": '[project]\ndynamic = ["dependencies"]\n'}, "pyproject.toml:2", "project.dynamic"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\nidna = '1 || 2'\n"}, "pyproject.toml:2", "no constraint"),
        ({"pyproject.toml": '[project]\ndependencies = [\n  "x @ git+https://y",\n]\n'}, "pyproject.toml:3", "by name"),
        ({"uv.lock": LOCK}, "uv.lock", "needs its pyproject.toml"),
        (
            {"pyproject.toml": PROJECT, "uv.lock": LOCK + FROM_GIT},
            "uv.lock:20",
            "y comes from git",
        ),
        ({"pylock.toml": PYLOCK + '[packages.vcs]\ntype = "git"\n'}, "pylock.toml", "idna comes from vcs"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be_used(files: dict[str, str], where: str, words: str) -> None:
    error = refused(files)
    assert (error.reason, error.where) == ("ManifestInvalid", where)
    assert words in error.message


@pytest.mark.parametrize(
    ("files", "version", "why"),
    [
        ({}, "3.11", "the catalog's default"),
        ({".python-version": "# pinned\n3.12.4\n"}, "3.12", ".python-version:2"),
        ({".python-version": "cpython-3.11"}, "3.11", ".python-version:1"),
        ({".python-version": "pypy@3.10 3.12.1"}, "3.12", ".python-version:1"),
        ({"mise.toml": "[tools]\nuv = '1'\npython = '3.12'\n"}, "3.12", "mise.toml:3"),
        ({"mise.toml": "[tools]\npython = { version = '3.12.1' }\n"}, "3.12", "mise.toml:2"),
        ({"mise.toml": "[tools]\npython = ['3.12', '3.11']\n"}, "3.12", "mise.toml:2"),
        ({"mise.toml": "[tools]\npython = 'latest'\n"}, "3.11", "the catalog's default"),
        ({".config/mise.toml": "[tools]\npython = 'prefix:3.12'\n"}, "3.12", ".config/mise.toml:2"),
        ({"mise.toml": "[tools]\npython = 'latest'\n", ".tool-versions": "python 3.12\n"}, "3.12", ".tool-versions:1"),
        (
            {".tool-versions": "python 3\n", "Pipfile": "[requires]\npython_version = '3.12'\n"},
            "3.11",
            "the catalog's default",
        ),
        ({".tool-versions": "uv 0.7.22\npython 3.12.1 system\n"}, "3.12", ".tool-versions:2"),
        ({".tool-versions": "nodejs 22\n"}, "3.11", "the catalog's default"),
        ({"Pipfile": "[requires]\npython_version = '3.12'\n"}, "3.12", "Pipfile:2"),
        ({".python-version": "3.11", ".tool-versions": "python 3.12\n"}, "3.11", ".python-version:1"),
    ],
)
def test_the_source_decides_the_version(files: dict[str, str], version: str, why: str) -> None:
    made = planned(files)
    assert choice(made, "version") == (version, why)
    assert image_of(made).entrypoint[0] == f"/usr/bin/python{version}"


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        (">=3.9", "3.11"),
        (">=3.12", "3.14"),
        (">=3", "3.11"),
        ("~=3.11", "3.11"),
        ("~=3.12.1", "3.12"),
        ("==3.12.*", "3.12"),
        (">3.11.1,<4", "3.11"),
        ("!=3.11.*", "3.14"),
        ("!=3.11.1", "3.11"),
        ("<3.12.4", "3.11"),
        (">3.11", "3.11"),
        (">3.11,<3.12", "3.11"),
        (">3.11.30,!=3.11.*", "3.14"),
        ("==3.11.2", "3.11"),
        ("===3.12.4", "3.12"),
        ("~=3.12", "3.14"),
        ("<=3.12", "3.11"),
        (">=3.11,", "3.11"),
    ],
)
def test_requires_python_decides_the_version(wanted: str, version: str) -> None:
    made = planned({"pyproject.toml": f'[project]\nrequires-python = "{wanted}"\n'})
    assert choice(made, "version") == (version, f"pyproject.toml:2 asks for {wanted}")


@pytest.mark.parametrize("wanted", ['"^3.11"', '"3.11"', '">=3.11;"', '">=3.11 <4"', '"python>=3.11"', "3.11"])
def test_a_requires_python_that_is_no_specifier_is_refused_with_its_line(wanted: str) -> None:
    error = refused({"pyproject.toml": f'[project]\nname = "x"\nrequires-python = {wanted}\n'})
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:3")
    assert "no version specifier" in error.message


def test_the_request_is_stronger_than_the_source() -> None:
    assert choice(planned({".python-version": "3.12"}, version="3.11"), "version") == ("3.11", "asked for")


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({".python-version": "3.9"}, ".python-version:1"),
        ({"pyproject.toml": '[project]\nname = "x"\nrequires-python = "<3.11"\n'}, "pyproject.toml:3"),
    ],
)
def test_a_version_nobody_has_is_told_with_its_line(files: dict[str, str], where: str) -> None:
    error = refused(files)
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", where)
    assert "3.11 (3.11.2), 3.12" in error.message
