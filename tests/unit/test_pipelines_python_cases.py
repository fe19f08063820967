"""Python sources that other tools accept, each with the right plan or the right words."""

from __future__ import annotations

import codecs
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, python
from builder.pipelines.base import PlanRequest
from builder.pipelines.python.versions import wanted_version
from builder.plan import Output, Plan
from builder.source.tree import DictTree
from tests.planned_image import image_of

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
HANDLER: dict[str, str | bytes] = {"handler.py": "def handler(payload, ctx): ...\n"}
IDNA = '[[package]]\nname = "idna"\nversion = "3.7"\nsource = { registry = "https://index.example/simple" }\n'


def planned(files: dict[str, str | bytes], **request: Any) -> Plan:
    tree = DictTree({**HANDLER, **files})
    found = python.detect(tree)
    assert found
    return python.plan(tree, found, PlanRequest(**request), CATALOG)


def refused(files: dict[str, str | bytes]) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files)
    return caught.value


def pyproject(*needs: str, python: str = ">=3.11", name: str = "svc", more: str = "") -> str:
    listed = ", ".join(f'"{need}"' for need in needs)
    return (
        f'[project]\nname = "{name}"\nversion = "0.1.0"\nrequires-python = "{python}"\n'
        f"dependencies = [{listed}]\n{more}"
    )


def backend(name: str, requires: str = "") -> str:
    return f'[build-system]\nrequires = ["{requires or name}"]\nbuild-backend = "{name}"\n'


def uv_lock(*entries: str, python: str = ">=3.11", source: str = "virtual", more: str = IDNA) -> str:
    """A lock whose root depends on idna and what `entries` say."""
    listed = "".join(f"    {entry},\n" for entry in ('{ name = "idna", specifier = "==3.7" }', *entries))
    edges = '{ name = "idna" }' + "".join(f", {entry.partition(',')[0]} }}" for entry in entries)
    return (
        f'version = 1\nrevision = 3\nrequires-python = "{python}"\n\n{more}\n[[package]]\nname = "svc"\n'
        f'version = "0.1.0"\nsource = {{ {source} = "." }}\ndependencies = [{edges}]\n\n'
        f"[package.metadata]\nrequires-dist = [\n{listed}]\n"
    )


def stub(plan: Plan, path: str) -> list[str]:
    """The lines of what a step with the network sees."""
    return next(file.content for file in plan.stubs if file.path == path).splitlines()


def path_of(plan: Plan) -> str:
    return dict(image_of(plan).env)["PYTHONPATH"]


def written(plan: Plan) -> dict[str, str]:
    return {file.path: file.content for file in plan.files}


def choice(plan: Plan, name: str) -> str:
    return next(one.value for one in plan.choices if one.name == name)


def test_programs_of_packages_are_on_the_path() -> None:
    made = planned({"requirements.txt": "ruff==0.6.9\n"})
    assert dict(image_of(made).env)["PATH"].split(":")[0] == "/app/deps/bin"
    assert "PATH" not in dict(image_of(planned({})).env)


@pytest.mark.parametrize(
    ("layout", "files", "path"),
    [
        (backend("hatchling.build"), ["src/svc/__init__.py"], "src"),
        (backend("hatchling.build"), ["svc/__init__.py"], ""),
        (
            backend("hatchling.build") + '[tool.hatch.build.targets.wheel]\npackages = ["python/other"]\n',
            ["python/other/__init__.py"],
            "python",
        ),
        (backend("uv_build"), ["src/svc/__init__.py"], "src"),
        (backend("uv_build") + '[tool.uv.build-backend]\nmodule-root = ""\n', ["svc/__init__.py"], ""),
        (backend("uv_build") + '[tool.uv.build-backend]\nmodule-root = "lib"\n', ["lib/svc/a.py"], "lib"),
        (backend("setuptools.build_meta"), ["src/other/__init__.py"], "src"),
        (
            backend("setuptools.build_meta") + '[tool.setuptools.packages.find]\nwhere = ["lib"]\n',
            ["lib/other/__init__.py"],
            "lib",
        ),
        (
            backend("setuptools.build_meta") + '[tool.setuptools.package-dir]\n"" = "lib"\n',
            ["lib/other/__init__.py"],
            "lib",
        ),
        ("", ["src/svc/__init__.py"], "src"),
        (backend("flit_core.buildapi", "flit_core"), ["src/svc.py"], "src"),
        (
            backend("poetry.core.masonry.api", "poetry-core")
            + '[tool.poetry]\npackages = [{ include = "svc", from = "lib" }]\n',
            ["lib/svc/__init__.py"],
            "lib",
        ),
        (backend("pdm.backend", "pdm-backend") + '[tool.pdm.build]\npackage-dir = "lib"\n', ["lib/svc.py"], "lib"),
        (backend("pdm.backend", "pdm-backend"), ["src/svc/a.py"], "src"),
        (backend("uv_build") + "[tool.uv]\npackage = false\n", ["src/svc/__init__.py"], ""),
        (backend("uv_build") + '[tool.uv.build-backend]\nmodule-root = "../up"\n', ["src/svc/__init__.py"], "src"),
    ],
)
def test_the_projects_own_package_is_on_the_path(layout: str, files: list[str], path: str) -> None:
    made = planned({"pyproject.toml": pyproject("idna==3.7", more=layout), **dict.fromkeys(files, "")})
    between = f"/app/src/{path}:" if path else ""
    assert path_of(made) == f"/app/src:/app/deps:{between}/ignite"
    assert made.steps[-1].argv[-1] == (path or "handler")


def test_a_package_of_the_source_has_metadata() -> None:
    """What says `importlib.metadata.version(__name__)` in its `__init__.py` is imported."""
    points = '[project.scripts]\nsvc = "svc:main"\n[project.entry-points."svc.plugins"]\none = "svc.one"\n'
    text = pyproject("idna==3.7", more=points + backend("uv_build"))
    made = planned({"pyproject.toml": text, "src/svc/__init__.py": ""})
    metadata = written(made)["src/svc-0.1.0.dist-info/METADATA"].splitlines()
    assert metadata[:3] == ["Metadata-Version: 2.1", "Name: svc", "Version: 0.1.0"]
    assert "Requires-Dist: idna==3.7" in metadata
    points = written(made)["src/svc-0.1.0.dist-info/entry_points.txt"]
    assert points == "[console_scripts]\nsvc = svc:main\n\n[svc.plugins]\none = svc.one\n\n"


def test_a_version_that_a_backend_computes_is_read_where_it_is_written() -> None:
    text = '[project]\nname = "svc"\ndynamic = ["version"]\n' + backend("hatchling.build")
    text += '[tool.hatch.version]\npath = "src/svc/about.py"\n'
    files: dict[str, str | bytes] = {"pyproject.toml": text, "src/svc/__init__.py": ""}
    assert "src/svc-1.2.dist-info/METADATA" in written(planned({**files, "src/svc/about.py": '__version__ = "1.2"\n'}))
    made = planned({**files, "src/svc/about.py": '__version__ = ".".join(VERSION)\n'})
    assert "src/svc-0.dist-info/METADATA" in written(made)
    assert made.warnings == (
        "svc has no version that can be read without its build backend (pyproject.toml:3); it is 0",
    )


def test_a_project_that_must_be_built_is_a_warning() -> None:
    made = planned({"pyproject.toml": pyproject("idna==3.7", more=backend("maturin")), "src/lib.rs": ""})
    assert len(made.warnings) == 1 and "svc itself is not built: it is built by maturin" in made.warnings[0]
    assert "an sdist step" in made.warnings[0]


LIB = {"libs/acme_lib/pyproject.toml": pyproject(name="acme-lib", more=backend("hatchling.build"))}
SOURCES = '[tool.uv.sources]\nacme-lib = { path = "libs/acme_lib" }\n'


def test_a_package_by_path_is_on_the_path_with_what_it_needs() -> None:
    files: dict[str, str | bytes] = {
        "pyproject.toml": pyproject("acme-lib[fast]", "six", more=SOURCES),
        "libs/acme_lib/pyproject.toml": pyproject("idna==3.7", name="acme-lib", more=backend("hatchling.build"))
        + '[project.optional-dependencies]\nfast = ["certifi"]\n',
        "libs/acme_lib/acme_lib/__init__.py": "",
    }
    made = planned(files)
    assert path_of(made) == "/app/src:/app/deps:/app/src/libs/acme_lib:/ignite"
    assert stub(made, "pyproject.toml.txt") == ["six", "idna==3.7", "certifi"]
    assert "libs/acme_lib/acme_lib-0.1.0.dist-info/METADATA" in written(made)
    assert choice(made, "path") == "libs/acme_lib"


def test_packages_of_the_source_alone_install_nothing() -> None:
    made = planned({"pyproject.toml": pyproject("acme-lib", more=SOURCES), **LIB, "libs/acme_lib/acme_lib.py": ""})
    assert [step.name for step in made.steps] == ["compile"]
    assert path_of(made) == "/app/src:/app/deps:/app/src/libs/acme_lib:/ignite"


def test_packages_of_the_source_may_need_each_other() -> None:
    back = '[tool.uv.sources]\nsvc = { path = "../.." }\n'
    lib = pyproject("svc", name="acme-lib", more=backend("hatchling.build") + back)
    made = planned({"pyproject.toml": pyproject("acme-lib", more=SOURCES), "libs/acme_lib/pyproject.toml": lib})
    assert path_of(made) == "/app/src:/app/deps:/app/src/libs/acme_lib:/ignite"


def test_a_member_of_the_workspace_is_found_by_its_name() -> None:
    more = '[tool.uv.sources]\nacme-lib = { workspace = true }\n[tool.uv.workspace]\nmembers = ["packages/*"]\n'
    files: dict[str, str | bytes] = {
        "pyproject.toml": pyproject("acme-lib", "idna==3.7", more=more),
        "packages/other/pyproject.toml": pyproject(name="other"),
        "packages/lib/pyproject.toml": pyproject(name="acme_lib", more=backend("uv_build")),
        "packages/lib/src/acme_lib/__init__.py": "",
    }
    assert path_of(planned(files)) == "/app/src:/app/deps:/app/src/packages/lib/src:/ignite"
    del files["packages/lib/pyproject.toml"]
    error = refused(files)
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:7")
    assert "no member of the workspace is acme-lib" in error.message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{ path = "../acme_lib" }', "which is no folder of what is sent"),
        ('{ path = "libs/none" }', "libs/none is no Python project"),
        ('{ path = "acme-1-py3-none-any.whl" }', "which is no folder of what is sent"),
    ],
)
def test_a_path_that_is_no_package_of_the_source_is_refused(entry: str, words: str) -> None:
    error = refused({"pyproject.toml": pyproject("acme-lib", more=f"[tool.uv.sources]\nacme-lib = {entry}\n")})
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:7") and words in error.message


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        (backend("maturin"), {}, "it is built by maturin"),
        (backend("setuptools.build_meta", "cython>=3"), {}, "its build takes cython>=3"),
        (backend("hatchling.build") + "[tool.hatch.build.hooks.vcs]\nversion-file = 'v.py'\n", {}, "it has tool.hatch"),
        (backend("poetry.core.masonry.api") + "[tool.poetry.build]\nscript = 'b.py'\n", {}, "it has tool.poetry.build"),
        (
            backend("setuptools.build_meta") + "[[tool.setuptools.ext-modules]]\nname = 'x'\n",
            {},
            "it has an extension",
        ),
        (
            backend("setuptools.build_meta"),
            {"libs/acme_lib/setup.py": "setup(ext_modules=[])"},
            "its setup.py compiles or generates files",
        ),
        (backend("own") + 'backend-path = ["."]\n', {}, "it is built by own"),
        (backend("pdm.backend"), {"libs/acme_lib/pdm_build.py": ""}, "it has a build hook"),
    ],
)
def test_a_package_of_the_source_that_must_be_built_is_refused(text: str, more: dict[str, str], words: str) -> None:
    lib = pyproject(name="acme-lib", more=text)
    error = refused(
        {"pyproject.toml": pyproject("acme-lib", more=SOURCES), "libs/acme_lib/pyproject.toml": lib, **more}
    )
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:7")
    assert words in error.message and "needs an sdist step" in error.message


@pytest.mark.parametrize(
    "line", ["-e ./libs/acme_lib", "./libs/acme_lib", "-e libs/acme_lib", "--editable=./libs/acme_lib/"]
)
def test_a_requirement_by_path_is_on_the_path(line: str) -> None:
    files: dict[str, str | bytes] = {**LIB, "libs/acme_lib/acme_lib.py": "", "requirements.txt": f"six\n{line}\n"}
    made = planned(files)
    assert path_of(made) == "/app/src:/app/deps:/app/src/libs/acme_lib:/ignite"
    assert stub(made, "requirements.txt") == ["six"]


def test_the_project_itself_as_a_requirement_brings_what_it_needs() -> None:
    made = planned(
        {
            "requirements.txt": "-e .[web]\n",
            "pyproject.toml": pyproject("idna==3.7", more=backend("uv_build"))
            + '[project.optional-dependencies]\nweb = ["six"]\n',
            "src/svc/__init__.py": "",
        }
    )
    assert stub(made, "requirements.txt") == ["idna==3.7", "six"]
    assert path_of(made) == "/app/src:/app/deps:/app/src/src:/ignite"


def test_a_lock_of_a_workspace_puts_its_members_on_the_path() -> None:
    member = '[[package]]\nname = "acme-lib"\nversion = "0.1.0"\nsource = { editable = "packages/lib" }\n'
    files: dict[str, str | bytes] = {
        "pyproject.toml": pyproject("acme-lib", "idna==3.7"),
        "uv.lock": uv_lock('{ name = "acme-lib", editable = "packages/lib" }', more=member + IDNA),
        "packages/lib/pyproject.toml": pyproject(name="acme-lib", more=backend("uv_build")),
        "packages/lib/src/acme_lib/__init__.py": "",
    }
    made = planned(files)
    assert path_of(made) == "/app/src:/app/deps:/app/src/packages/lib/src:/ignite"
    assert choice(made, "dependencies") == "1 in uv.lock"
    assert "--no-emit-local" in made.steps[0].argv
    files["packages/lib/pyproject.toml"] = pyproject("six", name="acme-lib", more=backend("uv_build"))
    error = refused(files)
    assert (error.reason, error.where) == ("LockOutdated", "packages/lib/pyproject.toml:5")


@pytest.mark.parametrize(
    ("needs", "python", "lock", "words"),
    [
        (["idna==3.7", "certifi"], ">=3.11", uv_lock(), "needs certifi; uv.lock does not have it"),
        (["idna==3.8"], ">=3.11", uv_lock(), "needs idna==3.8; uv.lock has it as idna==3.7"),
        (["idna[all]==3.7"], ">=3.11", uv_lock(), "needs idna[all]==3.7"),
        ([], ">=3.11", uv_lock(), "uv.lock has idna as a dependency, and pyproject.toml has not"),
        (["idna==3.7"], ">=3.10", uv_lock(), "requires-python is '>=3.10', and uv.lock was made for '>=3.11'"),
        (["idna==3.7"], ">=3.11", uv_lock().replace('"svc"', '"old"'), "uv.lock is of old, and pyproject.toml of svc"),
    ],
)
def test_a_lock_that_is_not_of_its_manifest_is_outdated(needs: list[str], python: str, lock: str, words: str) -> None:
    error = refused({"pyproject.toml": pyproject(*needs, python=python), "uv.lock": lock})
    assert error.reason == "LockOutdated" and words in error.message
    assert error.where.startswith("pyproject.toml:") and error.next.startswith("Run: uv lock")


@pytest.mark.parametrize(
    ("needs", "entries", "python", "locked"),
    [
        (["idna==3.7"], (), ">=3.11", ">=3.11"),
        (["IDNA ==3.7"], (), "~=3.11", ">=3.11, <4"),
        (["idna (==3.7)", "Zope.A>= 5,<7"], ('{ name = "zope-a", specifier = ">=5,<7" }',), ">=3.11", ">=3.11"),
        (
            ["idna==3.7", "six[a,b]~=1.16.0; python_version<'3.13'"],
            (
                '{ name = "six", extras = ["a", "b"], marker = "python_full_version < \'3.13\'", '
                'specifier = "~=1.16.0" }',
            ),
            ">=3.11",
            ">=3.11",
        ),
        (
            ["idna==3.7", "six>=1;sys_platform=='linux'", "six>=2;sys_platform=='win32'"],
            (
                '{ name = "six", marker = "sys_platform == \'win32\'", specifier = ">=2" }',
                '{ name = "six", marker = "sys_platform == \'linux\'", specifier = ">=1" }',
            ),
            ">=3.11",
            ">=3.11",
        ),
        (
            ["idna==3.7"],
            ('{ name = "six", marker = "extra == \'more\'", specifier = ">=1" }',),
            ">=3.11,<3.14",
            ">=3.11, <3.14",
        ),
    ],
)  # fmt: skip
def test_a_lock_as_uv_writes_it_is_of_its_manifest(
    needs: list[str], entries: tuple[str, ...], python: str, locked: str
) -> None:
    assert planned({"pyproject.toml": pyproject(*needs, python=python), "uv.lock": uv_lock(*entries, python=locked)})


def test_a_lock_of_a_workspace_without_a_project_at_its_root_is_refused() -> None:
    files: dict[str, str | bytes] = {
        "pyproject.toml": '[tool.uv.workspace]\nmembers = ["app"]\n',
        "app/pyproject.toml": pyproject(),
        "uv.lock": f'version = 1\n{IDNA}\n[[package]]\nname = "svc"\nsource = {{ editable = "app" }}\n',
    }
    error = refused(files)
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml")
    assert "the root of this workspace is no project" in error.message


def test_a_package_that_only_development_needs_may_come_from_anywhere() -> None:
    other = '[[package]]\nname = "tool"\nversion = "1"\nsource = { git = "https://example.com/tool" }\n'
    files: dict[str, str | bytes] = {"pyproject.toml": pyproject("idna==3.7"), "uv.lock": uv_lock(more=other + IDNA)}
    assert choice(planned(files), "dependencies") == "1 in uv.lock"
    files["uv.lock"] = uv_lock(more=other + IDNA + 'dependencies = [{ name = "tool" }]\n')
    error = refused(files)
    assert (error.reason, error.where) == ("ManifestInvalid", "uv.lock:6") and "tool comes from git" in error.message
    files["pyproject.toml"] = pyproject("idna==3.7", "tool @ git+https://example.com/tool")
    files["uv.lock"] = uv_lock('{ name = "tool", git = "https://example.com/tool" }', more=other + IDNA)
    assert "tool comes from git" in refused(files).message


PYLOCK = (
    'lock-version = "1.0"\ncreated-by = "x"\nrequires-python = ">=3.11"\n[[packages]]\nname = "idna"\nversion = "3.7"\n'
    'wheels = [{ url = "https://mirror.corp.example/idna-3.7-py3-none-any.whl", hashes = { sha256 = "'
    + "8" * 64 + '" } }]\n'
)  # fmt: skip


def test_the_hosts_of_a_lock_do_not_decide_its_hashes_do() -> None:
    made = planned({"pylock.toml": PYLOCK})
    assert stub(made, "pylock.toml.txt") == [f"idna==3.7 --hash=sha256:{'8' * 64}"]
    assert "corp" not in str(made.to_json())


def test_a_pylock_is_compared_with_its_manifest() -> None:
    assert planned({"pylock.toml": PYLOCK, "pyproject.toml": pyproject("idna>=3", "pywin32; sys_platform=='win32'")})
    error = refused({"pylock.toml": PYLOCK, "pyproject.toml": pyproject("idna>=3", "certifi")})
    assert (error.reason, error.where) == ("LockOutdated", "pyproject.toml:5")
    assert "needs certifi; pylock.toml does not have it" in error.message and "uv export" in error.next
    error = refused({"pylock.toml": PYLOCK, "pyproject.toml": pyproject("idna>=3.8")})
    assert "pylock.toml has 3.7" in error.message


def test_a_lock_alone_says_which_python_it_is_for() -> None:
    error = refused({"pylock.toml": PYLOCK.replace(">=3.11", "==3.11.9")})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "pylock.toml:3")


def test_poetrys_table_beside_a_project_says_only_where_packages_come_from() -> None:
    text = pyproject("idna (>=3.7,<4)", more="[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\n")
    made = planned({"pyproject.toml": text + 'idna = { source = "pypi" }\n'})
    assert stub(made, "pyproject.toml.txt") == ["idna<4,>=3.7"]
    error = refused({"pyproject.toml": text + 'idna = { source = "corp" }\n'})
    assert (error.reason, error.where) == (
        "ManifestInvalid",
        "pyproject.toml:9",
    ) and "an index of its own" in error.message


def test_an_index_of_the_sources_own_is_refused_when_it_is_planned() -> None:
    more = (
        '[tool.uv.sources]\nidna = { index = "corp" }\n[[tool.uv.index]]\nname = "corp"\nurl = "https://corp.example"\n'
    )
    error = refused({"pyproject.toml": pyproject("idna==3.7", more=more)})
    assert (error.reason, error.where) == ("ManifestInvalid", "pyproject.toml:7")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"setup.py": "setup(install_requires=['idna'])"}, "setup.py is not used: nothing is installed"),
        ({"setup.py": "setup()", "pyproject.toml": backend("setuptools.build_meta")}, "setup.py is not used"),
        ({"setup.cfg": "[options]\ninstall_requires = idna"}, "setup.cfg is not used: nothing is installed"),
        ({"Requirements.txt": "idna"}, "only requirements.txt at the root is read; rename it"),
        ({"requirements/prod.txt": "idna"}, "write `-r requirements/prod.txt` into it"),
        ({"requirements-prod.txt": "idna"}, "requirements-prod.txt is not used"),
        ({"requirements.in": "idna"}, "requirements.in is not used"),
        ({"environment.yml": ""}, "environment.yml is not used"),
        ({"requirements.txt": "idna", "poetry.lock": ""}, "poetry.lock is not used: requirements.txt decides"),
    ],
)
def test_a_manifest_that_is_not_used_is_a_warning(files: dict[str, str | bytes], words: str) -> None:
    (warning,) = planned(files).warnings
    assert words in warning


def test_files_for_development_are_no_warning_where_something_decides() -> None:
    files: dict[str, str | bytes] = {"requirements.txt": "idna", "requirements-dev.txt": "six"}
    assert planned(files).warnings == ()


def test_a_requirements_file_without_requirements_does_not_decide() -> None:
    made = planned({"requirements.txt": "# see pyproject\n", "pyproject.toml": pyproject("idna==3.7")})
    assert stub(made, "pyproject.toml.txt") == ["idna==3.7"]
    assert made.warnings == ("requirements.txt names nothing: pyproject.toml decides the dependencies",)


def test_constraints_alone_install_nothing() -> None:
    made = planned({"requirements.txt": "-c constraints.txt\n", "constraints.txt": "idna==3.7\n"})
    assert [step.name for step in made.steps] == ["compile"] and made.warnings == ()


def test_lines_of_windows_are_continued() -> None:
    text = f"# deps\r\nidna==3.7 \\\r\n    --hash=sha256:{'8' * 64}\r\n"
    assert stub(planned({"requirements.txt": text}), "requirements.txt") == [f"idna==3.7 --hash=sha256:{'8' * 64}"]


def test_options_are_honoured_or_named() -> None:
    made = planned({"requirements.txt": "--prefer-binary\n--pre\n--use-feature=fast-deps\nidna==3.7\n"})
    resolve = next(step for step in made.steps if step.name == "resolve dependencies")
    assert resolve.argv[resolve.argv.index("--prerelease") + 1] == "allow"
    assert made.warnings == ("requirements.txt:3: --use-feature is an option of pip's own and changes nothing here",)


def test_hashes_that_are_asked_for_are_there() -> None:
    error = refused({"requirements.txt": f"--require-hashes\nidna==3.7 --hash=sha256:{'8' * 64}\nsix==1\n"})
    assert (error.reason, error.where) == ("ManifestInvalid", "requirements.txt:3")
    assert "requirements.txt:1 asks for hashes" in error.message


ENCODINGS = {
    "utf-8": b"",
    "utf-8 with a mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "# für\r\nidna==3.7\r\n"),
        ("pyproject.toml", pyproject("idna==3.7")),
        ("pylock.toml", PYLOCK),
        (".python-version", "3.12\n"),
    ],
)
def test_the_mark_of_a_file_decides_its_encoding(encoding: str, name: str, text: str) -> None:
    data = ENCODINGS[encoding] + text.encode(encoding.removesuffix(" with a mark"))
    marked, plain = planned({name: data}), planned({name: text})
    assert marked.to_json() == plain.to_json()


def test_a_package_beside_the_handler_with_its_name_is_refused() -> None:
    error = refused({"handler/__init__.py": "", "handler/logic.py": ""})
    assert (error.reason, error.where) == ("EntryPointMissing", "handler/__init__.py")
    assert "Python imports the package" in error.message and "Rename the folder handler/" in error.next
    assert planned({"handler/logic.py": ""})  # a folder without __init__.py comes after handler.py


@pytest.mark.parametrize(
    ("manifest", "step"),
    [({"setup.cfg": ""}, "Build the folder svc,"), ({"requirements.txt": "idna"}, "--build-arg entry=svc/handler.py")],
    ids=["no manifest", "below its manifest"],
)
def test_a_handler_that_is_too_deep_has_a_next_step(manifest: dict[str, str], step: str) -> None:
    tree = DictTree({"svc/handler.py": "def handler(payload, ctx): return 1", "svc/util.py": "", **manifest})
    found = python.detect(tree)
    assert found
    with pytest.raises(BuildError) as caught:
        python.plan(tree, found, PlanRequest(), CATALOG)
    assert caught.value.reason == "EntryPointMissing" and step in caught.value.next
    plan = python.plan(tree, found, PlanRequest(build_args={"entry": "svc/handler.py"}), CATALOG)
    assert isinstance(plan.output, Output) and plan.output.summary.startswith("svc.handler:handler on ")


def test_the_package_that_needs_a_newer_python_is_named() -> None:
    step = next(step for step in planned({"requirements.txt": "Django>=6.0"}).steps if step.name.startswith("resolve"))
    said = [
        "error: No solution found when resolving dependencies",
        "  cause: Because the current Python version (3.11.2) does not satisfy Python>=3.12 and django>=6.0 depends on "
        "Python>=3.12, we can conclude that django>=6.0 cannot be used.",
        "         And because you require django>=6.0, we can conclude that your requirements are unsatisfiable.",
    ]
    found = python.diagnose(step, 1, said)
    assert (found.reason, found.where) == ("DependencyConflict", "requirements.txt  django>=6.0")
    assert found.message == "django>=6.0 needs Python >=3.12, this is 3.11.2"


def test_requirements_for_other_systems_are_resolved_as_they_are() -> None:
    made = planned({"requirements.txt": 'pywin32==306 ; sys_platform == "win32"\n'})
    assert stub(made, "requirements.txt") == ['pywin32==306; sys_platform == "win32"']


CARRIED = catalog.parse(
    "".join(
        f'[[row]]\nruntime = "python"\nversion = "{version}"\ntoolchain = "p"\nbase = "b"\n{more}\n'
        for version, more in (
            ("3.11", 'release = "3.11.2"\ndefault = true'),
            ("3.13", 'release = "3.13.5"'),
            ("3.14", 'release = "3.14.0"'),
        )
    )
)
WISHES = [
    *(f"{operator}3.{minor}{patch}" for operator in ("==", "!=", ">=", "<=", ">", "<", "~=", "===")
      for minor in (10, 11, 13, 14) for patch in ("", ".0", ".2", ".5", ".9")),
    "==3.11.*", "!=3.11.*", "==3.13.*", ">=3.11.4,<3.13.9", ">3.11.2,!=3.13.5", ">=3", "~=3.11", ">=3.14.0rc1", "",
]  # fmt: skip


@pytest.mark.parametrize("wanted", WISHES)
def test_versions_are_judged_as_packaging_judges_the_bases_releases(wanted: str) -> None:
    rows = CARRIED.rows
    fitting = [row.toolchain.version for row in rows if SpecifierSet(wanted).contains(row.release, prereleases=True)]
    tree = DictTree({"pyproject.toml": f'[project]\nrequires-python = "{wanted}"\n'})
    if fitting:
        expected = "3.11" if "3.11" in fitting else fitting[-1]
        assert wanted_version(tree, rows, "3.11").version == expected
        return
    with pytest.raises(BuildError) as caught:
        wanted_version(tree, rows, "3.11")
    assert (caught.value.reason, caught.value.where) == ("UnknownRuntimeVersion", "pyproject.toml:2")
    assert "3.11 (3.11.2), 3.13 (3.13.5), 3.14 (3.14.0)" in caught.value.message


def test_a_patch_that_the_base_does_not_have_is_refused_when_it_is_planned() -> None:
    error = refused({"pyproject.toml": pyproject("idna==3.7", python=">=3.11.4,<3.12")})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "pyproject.toml:4")
    assert error.message.startswith("requires-python is '>=3.11.4,<3.12'; the catalog has 3.11 (3.11.2), 3.12")


@pytest.mark.parametrize(
    ("name", "text", "version", "warned"),
    [
        (".python-version", "3.11", "3.11", ""),
        (".python-version", "3.11.2\n", "3.11", ""),
        (".python-version", "3.11.9\n", "3.11", ".python-version:1 names Python 3.11.9; the base has 3.11.2"),
        (".python-version", "cpython-3.12.4-linux-x86_64-gnu", "3.12", ""),
        (".python-version", "cpython@3.12", "3.12", ""),
        (".python-version", "python3.12", "3.12", ""),
        (".python-version", "3.12.*", "3.12", ""),
        (".python-version", "3.12.4/envs/my-app\n", "3.12", ""),
        (".python-version", "my-app\n3.12.1 3.11.4\n", "3.12", ""),
        (".python-version", "system\n", "3.11", ""),
        ("runtime.txt", "python-3.12.4\n", "3.12", ""),
        ("runtime.txt", "python-3.11.x\n", "3.11", ""),
        ("runtime.txt", " Python 3.12\n", "3.12", ""),
    ],
)
def test_a_pin_is_read_in_all_its_spellings(name: str, text: str, version: str, warned: str) -> None:
    made = planned({name: text})
    assert choice(made, "version") == version
    assert made.warnings == ((warned,) if warned else ())


def test_a_pin_that_the_manifest_excludes_is_refused() -> None:
    error = refused({".python-version": "3.11", "pyproject.toml": pyproject(python=">=3.12")})
    assert (error.reason, error.where) == ("UnknownRuntimeVersion", "pyproject.toml:4")
    assert error.message == ".python-version:1 asks for 3.11, which is 3.11.2 here; pyproject.toml:4 needs >=3.12"


def test_a_version_that_was_asked_for_and_the_manifest_excludes_is_a_warning() -> None:
    made = planned({"pyproject.toml": pyproject(python=">=3.12")}, version="3.11")
    assert made.warnings == ("pyproject.toml:4 needs Python >=3.12, and 3.11.2 was asked for",)


@pytest.mark.parametrize("mebibytes", [2, 17])
@pytest.mark.parametrize("name", ["handler.py", "main.py", "manage.py", "app.py"])
def test_no_size_of_code_is_a_fault(name: str, mebibytes: int) -> None:
    table = f"TABLE = {'x' * (mebibytes * 1024 * 1024)!r}\n"
    code = {"handler.py": "def handler(payload, ctx):\n    return payload\n", name: table}
    if name == "handler.py":
        code[name] = table + "def handler(payload, ctx):\n    return payload\n"
    assert planned({**code}).toolchain.runtime == "python"
