"""What Poetry, PDM, Pipenv and a script's own metadata name, as the flat requirements that uv resolves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, python
from builder.pipelines.base import PlanRequest
from builder.pipelines.python.constraints import specifiers
from builder.plan import Plan
from builder.source.tree import DictTree

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
A, B = "a" * 64, "b" * 64
HANDLER = "def handler(payload, ctx): ...\n"
POETRY = (
    '[tool.poetry]\nname = "x"\nversion = "1"\npackage-mode = false\n[tool.poetry.dependencies]\npython = ">=3.11"\n'
)


def planned(files: Mapping[str, str | bytes], **arguments: str) -> Plan:
    tree = DictTree({"handler.py": HANDLER} | dict(files))
    found = python.detect(tree)
    assert found
    return python.plan(tree, found, PlanRequest(build_args=arguments), CATALOG)


def refused(files: Mapping[str, str | bytes], **arguments: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files, **arguments)
    return caught.value


def resolved(plan: Plan) -> list[str]:
    """The lines that uv resolves."""
    (step,) = [one for one in plan.steps if one.name == "resolve dependencies"]
    (stub,) = [one for one in plan.stubs if one.path == step.argv[-1]]
    return stub.content.splitlines()


def package(name: str, version: str, more: str = "", digest: str = A) -> str:
    files = f'files = [{{ file = "x.whl", hash = "sha256:{digest}" }}]\n'
    return f'[[package]]\nname = "{name}"\nversion = "{version}"\n{files}{more}\n'


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("*", ""), ("^1.2.3", ">=1.2.3,<2"), ("^0.2.3", ">=0.2.3,<0.3"), ("^0.0.3", ">=0.0.3,<0.0.4"), ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"), ("~1", ">=1,<2"), ("1.2", "==1.2"), ("1.2.*", "==1.2.*"), (">= 1, <2", ">=1,<2"),
        (">=1 <2", ">=1,<2"), ("~=1.4", "~=1.4"), ("!=1.5", "!=1.5"), ("^1 || ^2", None), ("latest", None), (3, None),
    ],
)  # fmt: skip
def test_a_constraint_of_poetry_is_one_of_pep_440(constraint: object, expected: str | None) -> None:
    assert specifiers(constraint) == expected


def test_poetrys_own_table_is_resolved() -> None:
    needs = (
        'flask = "^3.1"\nrich = { version = "~13.1", extras = ["jupyter"] }\nold = { version = "*", python = "<3.8" }\n'
    )
    made = planned({"pyproject.toml": f'{POETRY}{needs}opt = {{ version = "1", optional = true }}\n'})
    assert resolved(made) == [
        "flask<4,>=3.1", "rich[jupyter]<13.2,>=13.1", 'old; python_full_version < "3.8"',
    ]  # fmt: skip


def test_a_poetry_lock_is_walked_from_what_the_project_names() -> None:
    lock = (
        package("flask", "3.1.0", '[package.dependencies]\nclick = ">=8"\n'
                'colorama = { version = "*", markers = "sys_platform == \\"win32\\"" }\n'
                'asgiref = { version = "*", optional = true }\n[package.extras]\nasync = ["asgiref (>=3.2)"]\n')
        + package("click", "8.1.8", digest=B) + package("colorama", "0.4") + package("asgiref", "3.8")
        + package("pytest", "8.0")
    )  # fmt: skip
    files = {"pyproject.toml": f'{POETRY}flask = "^3.1"\n', "poetry.lock": lock}
    made = planned(files)
    assert resolved(made) == [f"flask==3.1.0 --hash=sha256:{A}", f"click==8.1.8 --hash=sha256:{B}"]
    assert "--no-deps" in made.steps[0].argv and made.materials == ("poetry.lock",)
    files["pyproject.toml"] = f'{POETRY}flask = {{ version = "^3.1", extras = ["async"] }}\n'
    assert f"asgiref==3.8 --hash=sha256:{A}" in resolved(planned(files))


PDM_PROJECT = '[project]\nname = "x"\nversion = "1"\ndependencies = ["idna>=3", "six; python_version < \'3\'"]\n'


def test_a_pdm_lock_names_what_is_installed() -> None:
    lock = package("idna", "3.7", 'groups = ["default"]') + package("pytest", "8.0", 'groups = ["dev"]')
    made = planned({"pyproject.toml": PDM_PROJECT, "pdm.lock": lock})
    assert resolved(made) == [f"idna==3.7 --hash=sha256:{A}"]


def test_a_pipfile_lock_names_what_is_installed() -> None:
    lock = (
        f'{{"default": {{"idna": {{"version": "==3.7", "hashes": ["sha256:{A}"], "index": "pypi"}},'
        '"six": {"version": "==1.16", "markers": "python_version >= \'3\'"}}, "develop": {"pytest": {}}}'
    )
    made = planned({"Pipfile": '[packages]\nidna = ">=3"\n', "Pipfile.lock": lock})
    assert resolved(made) == [f"idna==3.7 --hash=sha256:{A}", 'six==1.16; python_version >= "3"']
    assert made.warnings == ()


def test_a_pipfile_alone_is_resolved() -> None:
    made = planned({"Pipfile": '[packages]\ncowsay = "*"\nrich = { version = ">=13", extras = ["jupyter"] }\n'})
    assert resolved(made) == ["cowsay", "rich[jupyter]>=13"]


SCRIPT = '# /// script\n# requires-python = ">=3.11"\n# dependencies = [\n#   "idna==3.7",\n# ]\n# ///\n'


def test_a_single_file_names_what_it_needs() -> None:
    made = planned({"handler.py": SCRIPT + HANDLER})
    assert resolved(made) == ["idna==3.7"]
    assert [(one.value, one.why) for one in made.choices if one.name == "version"] == [
        ("3.11", "handler.py:1 asks for >=3.11")
    ]
    assert made.materials == ("handler.py",)


def test_a_script_that_needs_another_python_is_refused() -> None:
    error = refused({"handler.py": SCRIPT.replace("3.11", "3.99") + HANDLER})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "handler.py:1")


GROUPS = (
    '[project]\nname = "x"\nversion = "1"\ndependencies = ["idna"]\n[project.optional-dependencies]\nfast = ["six"]\n'
    '[dependency-groups]\nprod = ["rich", { include-group = "base" }]\nbase = ["attrs"]\n'
)


def test_extras_and_groups_are_installed_where_they_are_asked_for() -> None:
    files = {"pyproject.toml": GROUPS}
    assert resolved(planned(files)) == ["idna"]
    assert resolved(planned(files, extras="fast", groups="prod")) == ["idna", "rich", "attrs", "six"]


def test_a_uv_lock_is_asked_for_extras_and_groups() -> None:
    lock = (
        'version = 1\nrequires-python = ">=3.11"\n[[package]]\nname = "x"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [{ name = "idna" }]\n[package.optional-dependencies]\nfast = [{ name = "six" }]\n'
        '[package.metadata]\nrequires-dist = [{ name = "idna" }]\n'
        '[[package]]\nname = "idna"\nversion = "3"\nsource = { registry = "https://index.example" }\n'
        '[[package]]\nname = "six"\nversion = "1"\nsource = { registry = "https://index.example" }\n'
    )
    made = planned({"pyproject.toml": GROUPS, "uv.lock": lock}, extras="fast")
    assert made.steps[0].argv[made.steps[0].argv.index("--extra") + 1] == "fast"
    assert '"fast" = []' in made.stubs[0].content
    assert [one.value for one in made.choices if one.name == "dependencies"] == ["2 in uv.lock"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_uv_lock_with_a_byte_order_mark_reaches_uv_as_utf_8(encoding: str) -> None:
    lock = (
        'version = 1\n[[package]]\nname = "x"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [{ name = "idna" }]\n[package.metadata]\nrequires-dist = [{ name = "idna" }]\n'
        '[[package]]\nname = "idna"\nversion = "3"\nsource = { registry = "https://index.example" }\n'
    )
    made = planned({"pyproject.toml": GROUPS, "uv.lock": lock.encode(encoding)})
    (stub,) = [one for one in made.stubs if one.path == "project/uv.lock"]
    assert stub.content == lock and made.copies == ()


@pytest.mark.parametrize(
    ("files", "reason", "where", "words"),
    [
        ({"pyproject.toml": f'{POETRY}flask = "^3.1"\n', "poetry.lock": package("flask", "2.0")},
         "LockOutdated", "pyproject.toml:7", "poetry.lock has 2.0"),
        ({"pyproject.toml": f'{POETRY}flask = "^3.1"\n', "poetry.lock": ""}, "LockOutdated", "pyproject.toml:7",
         "does not have it"),
        ({"pyproject.toml": f'{POETRY}flask = {{ git = "y" }}\n'}, "ManifestInvalid", "pyproject.toml:7", "git"),
        ({"pyproject.toml": f'{POETRY}y = "*"\n', "poetry.lock": package("y", "1", '[package.source]\ntype = "git"')},
         "ManifestInvalid", "poetry.lock:2", "comes from git"),
        ({"pyproject.toml": PDM_PROJECT, "pdm.lock": package("idna", "2.0")}, "LockOutdated", "pyproject.toml:4",
         "pdm.lock has 2.0"),
        ({"Pipfile": '[packages]\nidna = ">=3"\n', "Pipfile.lock": '{"default": {}}'}, "LockOutdated", "Pipfile:2",
         "does not have it"),
        ({"Pipfile.lock": "{"}, "ManifestInvalid", "Pipfile.lock", "no JSON"),
        ({"Pipfile.lock": '{"default": {"y": {"git": "https://y"}}}'}, "ManifestInvalid", "Pipfile.lock:1", "from git"),
        ({"Pipfile": '[packages]\ny = { path = "." }\n'}, "ManifestInvalid", "Pipfile:2", "from path"),
        ({"handler.py": "# /// script\n# dependencies = [\n"}, "ManifestInvalid", "handler.py:1", "has no end"),
        ({"handler.py": "x = 1\n# /// script\n#\n# dependencies = [\n# ///\n"}, "ManifestInvalid", "handler.py:2",
         "is no TOML"),
        ({"handler.py": '# /// script\n# dependencies = ["x @ git+https://y"]\n# ///\n'}, "ManifestInvalid",
         "handler.py:1", "by name"),
        ({".python-version": "pypy3.10"}, "UnknownRuntimeVersion", ".python-version:1", "pypy3.10"),
        ({".python-version": "2.7.18"}, "UnknownRuntimeVersion", ".python-version:1", "2.7.18"),
        ({".python-version": "3.14t"}, "UnknownRuntimeVersion", ".python-version:1", "3.14t"),
        ({"mise.toml": "[tools]\npython = '3.7'\n"}, "UnknownRuntimeVersion", "mise.toml:2", "3.7"),
        ({".tool-versions": "python 3.9.23\n"}, "UnknownRuntimeVersion", ".tool-versions:1", "3.9"),
    ],
)  # fmt: skip
def test_what_cannot_be_installed_is_refused_with_its_place(
    files: dict[str, str | bytes], reason: str, where: str, words: str
) -> None:
    error = refused(files)
    assert (error.reason, error.where) == (reason, where)
    assert words in error.message


@pytest.mark.parametrize(
    ("arguments", "reason", "where"),
    [
        ({"groups": "absent"}, "ManifestInvalid", "pyproject.toml:7"),
        ({"extras": "a b"}, "InvalidRequest", "buildArgs.extras"),
    ],
)
def test_an_extra_or_group_that_is_none_is_refused(arguments: dict[str, str], reason: str, where: str) -> None:
    error = refused({"pyproject.toml": GROUPS}, **arguments)
    assert (error.reason, error.where) == (reason, where)
