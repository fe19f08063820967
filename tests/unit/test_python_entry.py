"""What a Python source starts with: found by reading it, or named; and how the image starts that."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import pipelines
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog, python
from builder.pipelines.base import PlanRequest
from builder.pipelines.python.servers import SERVERS
from builder.plan import Plan
from builder.sandbox import app
from builder.source.tree import DictTree
from tests.planned_image import image_of

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
FRONT = Path(runtimes_dir()) / "python/front"
SERVE: Any = SimpleNamespace(**runpy.run_path(str(FRONT / "serve_app.py"), run_name="serve_app"))
START: Any = SimpleNamespace(**runpy.run_path(str(FRONT / "start.py"), run_name="start"))
FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n"
FLASK = "import flask\napp = flask.Flask(__name__)\n"
MANAGE = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"
POETRY = """\
[tool.poetry]
name = "shop"
version = "1"
packages = [{ include = "shop", from = "src" }]
[tool.poetry.dependencies]
python = "^3.11"
flask = "*"
"""
SCRIPTS = '[project]\nname = "x"\nversion = "1"\n[project.scripts]\n'


def planned(files: Mapping[str, str], **arguments: str) -> Plan:
    tree = DictTree(files)
    found = python.detect(tree)
    assert found
    return python.plan(tree, found, PlanRequest(build_args=arguments), CATALOG)


def refused(files: Mapping[str, str], **arguments: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(files, **arguments)
    return caught.value


def started(plan: Plan) -> tuple[str, ...]:
    """What the interpreter is started with."""
    assert image_of(plan).entrypoint[:2] == ("/usr/bin/python3.11", "-B")
    return image_of(plan).entrypoint[2:]


def served(kind: str, target: str) -> tuple[str, ...]:
    return ("/ignite/serve_app.py", kind, target)


def own(file: str) -> tuple[str, ...]:
    return (f"/app/src/{file}",)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"main.py": FASTAPI}, served("asgi", "main:app")),
        ({"app.py": FLASK}, served("wsgi", "app:app")),
        ({"main.py": "from fasthtml.common import *\napp, rt = fast_app()\n"}, served("asgi", "main:app")),
        ({"main.py": "from fasthtml.common import *\napp = FastHTML()\n"}, served("asgi", "main:app")),
        ({"main.py": "import falcon.asgi\napi = falcon.asgi.App()\n"}, served("asgi", "main:api")),
        ({"main.py": "import falcon\napi = falcon.App()\n"}, served("wsgi", "main:api")),
        ({"main.py": "from dash import Dash\nd = Dash()\nserver = d.server\n"}, served("wsgi", "main:server")),
        ({"main.py": "async def app(scope, receive, send): ...\n"}, served("asgi", "main:app")),
        ({"wsgi.py": "def application(environ, start_response): ...\n"}, served("wsgi", "wsgi:application")),
        ({"asgi.py": "from elsewhere import make\napplication = make()\n"}, served("asgi", "asgi:application")),
        ({"main.py": FLASK + "if __name__ == '__main__':\n    app.run()\n"}, served("wsgi", "main:app")),
        ({"main.py": FLASK + "app = Wrapped(app)\n"}, served("wsgi", "main:app")),
        ({"main.py": "from core import app\n", "core.py": FASTAPI}, served("asgi", "main:app")),
        ({"main.py": "from core import build\nx = build()\n", "core.py": f"{FASTAPI}def build():\n  return app\n"},
         served("asgi", "main:x")),
        ({"app.py": "from flask import Flask\ndef create_app():\n    a = Flask('x')\n    return a\n"},
         served("wsgi", "app:create_app()")),
        ({"main.py": "import uvicorn\nif __name__ == '__main__':\n    uvicorn.run('api.web:app')\n",
          "api/__init__.py": "", "api/web.py": FASTAPI}, served("asgi", "api.web:app")),
        ({"app/__init__.py": "", "app/main.py": FASTAPI, "requirements.txt": ""}, served("asgi", "app.main:app")),
        ({"web.py": FLASK}, served("wsgi", "web:app")),
        ({"main.py": "from mcp.server.fastmcp import FastMCP\nm = FastMCP('x')\napp = m.streamable_http_app()\n"},
         served("asgi", "main:app")),
        ({"main.py": "import fastapi\nclass Mine(fastapi.FastAPI): ...\nsite = Mine()\n"}, served("asgi", "main:site")),
        ({"manage.py": MANAGE, "site1/settings.py": "", "site1/wsgi.py": ""}, served("wsgi", "site1.wsgi:application")),
        ({"manage.py": MANAGE, "site1/settings.py": "", "site1/wsgi.py": "", "site1/asgi.py": "",
          "requirements.txt": "daphne\n"}, served("asgi", "site1.asgi:application")),
        ({"manage.py": MANAGE, "site1/settings.py": ""}, served("wsgi", "django.core.wsgi:get_wsgi_application()")),
        ({"main.py": FLASK + "app.run(host='0.0.0.0')\n"}, own("main.py")),
        ({"main.py": FASTAPI + "if __name__ == '__main__':\n  import uvicorn, os\n"
          "  uvicorn.run(app, host='0.0.0.0', port=int(os.environ['PORT']))\n"}, own("main.py")),
        ({"main.py": FASTAPI + "if __name__ == '__main__':\n  import uvicorn, os\n"
          "  uvicorn.run(app, port=int(os.environ['PORT']))\n"}, served("asgi", "main:app")),
        ({"main.py": "print()\n", "app.py": FLASK}, own("main.py")),
        ({"main.py": "from http.server import HTTPServer\n"}, own("main.py")),
        ({"main.py": "def ("}, own("main.py")),
        ({"bot.py": "print()\n"}, own("bot.py")),
        ({"odd.py": "print()\n"}, own("odd.py")),
        ({"pyproject.toml": SCRIPTS + 'go = "pkg.cli:run"\n', "src/pkg/cli.py": "def run(): ...\n"},
         ("-c", "import sys; from pkg.cli import run; sys.exit(run())")),
        ({"Procfile": "release: ./migrate\nweb: A=1 gunicorn 'app:app' --bind 0.0.0.0:$PORT\n", "app.py": FLASK},
         ("/ignite/start.py", "A=1", "--", "gunicorn", "app:app", "--bind", "0.0.0.0:$PORT")),
        ({"Procfile": "web: exec python odd.py\n", "odd.py": "", "other.py": ""},
         ("/ignite/start.py", "--", "python", "odd.py")),
        ({"handler.py": "def handler(payload, ctx): ...\n", "main.py": FASTAPI}, ("/ignite/serve.py",)),
        ({"requirements.txt": "fastapi\n", "shop/__init__.py": "", "shop/main.py": FASTAPI, "tests/__init__.py": FLASK},
         served("asgi", "shop.main:app")),
        ({"pyproject.toml": POETRY, "src/shop/__init__.py": "", "src/shop/app.py": FLASK},
         served("wsgi", "shop.app:app")),
        ({"pyproject.toml": POETRY, "src/shop/__init__.py": "", "src/shop/app.py": FLASK,
          "src/admin/__init__.py": FLASK}, served("wsgi", "shop.app:app")),
        ({"pyproject.toml": '[project]\nname = "My-Shop"\nversion = "1"\n', "my_shop/__init__.py": FLASK,
          "admin/__init__.py": FLASK}, served("wsgi", "my_shop:app")),
        ({"pyproject.toml": '[project]\nname = "MyShop"\nversion = "1"\n', "MyShop/__init__.py": FLASK,
          "admin/__init__.py": FLASK}, served("wsgi", "MyShop:app")),
        ({"pyproject.toml": '[project]\nname = "tools"\nversion = "1"\n', "tools/__init__.py": FLASK},
         served("wsgi", "tools:app")),
        ({"requirements.txt": "flask\n", ".venv/__init__.py": FLASK, "odd.py": "print()\n"}, own("odd.py")),
        ({"pyproject.toml": SCRIPTS + 'go = "x.cli:run"\n', "x/cli.py": "def run(): ...\n", "x/__init__.py": FLASK},
         ("-c", "import sys; from x.cli import run; sys.exit(run())")),
    ],
)  # fmt: skip
def test_what_starts_is_found(files: dict[str, str], expected: tuple[str, ...]) -> None:
    assert started(planned(files)) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("shop.web:app", served("asgi", "shop.web:app")),
        ("shop/web.py", served("asgi", "shop.web:app")),
        ("shop.web", served("asgi", "shop.web:app")),
        ("shop.web:make", served("asgi", "shop.web:make()")),
        ("shop.web:make()", served("asgi", "shop.web:make()")),
        ("shop.web:mystery", served("app", "shop.web:mystery")),
        ("shop.web:answer", ("/ignite/serve.py", "shop.web:answer")),
        ("other.py", own("other.py")),
        ("tool", ("-c", "import sys; from shop.web import make; sys.exit(make())")),
        ("starlette.applications:Starlette", served("app", "starlette.applications:Starlette")),
    ],
)
def test_what_is_named_overrules(entry: str, expected: tuple[str, ...]) -> None:
    web = f"{FASTAPI}mystery = make_it()\ndef make():\n    return app\ndef answer(payload, ctx): ...\n"
    files = {"main.py": FLASK, "other.py": "", "shop/__init__.py": "", "shop/web.py": web}
    files["pyproject.toml"] = f'{SCRIPTS}tool = "shop.web:make"\n'
    assert started(planned(files, entry=entry)) == expected


def test_start_overrules_all() -> None:
    files = {"handler.py": "def handler(payload, ctx): ...\n", "Procfile": "web: x\n", "web.py": FLASK}
    made = planned(files, start='["python", "-m", "web", "--port=$PORT"]', entry="web.py")
    assert started(made) == ("/ignite/start.py", "--", "python", "-m", "web", "--port=$PORT")
    assert made.steps[-1].argv[-4:] == ("--entry", "web.py", "--program", "python")


def test_a_folder_of_the_source_is_built_alone() -> None:
    project = '[project]\nname = "x"\nversion = "1"\n[build-system]\nbuild-backend = "hatchling.build"\n'
    files = {
        "api/main.py": FASTAPI,
        "api/requirements.txt": "fastapi\n",
        "main.py": FLASK,
        "requirements.txt": "flask\n",
    }
    files |= {"api/pyproject.toml": project, "api/src/x/__init__.py": ""}
    tree = DictTree(files)
    found = pipelines.detect(tree, "python", sub_path="api")
    made = python.plan(tree, found, PlanRequest(build_args={"sub_path": "api"}), CATALOG)
    assert started(made) == served("asgi", "main:app")
    assert made.materials == ("api/requirements.txt",)
    assert [one.content for one in made.stubs if one.path == "requirements.txt"] == ["fastapi\n"]
    assert made.steps[-1].argv[-6:] == ("server", "--root", "api", "--name", "app", "src")
    assert [one.path for one in made.files] == ["api/src/x-1.dist-info/METADATA"]


@pytest.mark.parametrize("start", ["gunicorn app:app", "[]", '{"a": 1}', '["a", 1]', '[""]', "[" * 5000, '"x"'])
def test_a_start_that_is_no_list_of_words_is_refused(start: str) -> None:
    error = refused({"main.py": ""}, start=start)
    assert (error.reason, error.where) == ("InvalidRequest", "buildArgs.start")


@pytest.mark.parametrize(
    ("files", "arguments", "reason", "where", "words"),
    [
        ({"main.py": ""}, {"entry": "absent.py"}, "EntryPointMissing", "buildArgs.entry", "no file absent.py"),
        ({"main.py": FLASK}, {"entry": "main:appp"}, "EntryPointMissing", "buildArgs.entry", "it has app, flask"),
        ({"main.py": ""}, {"entry": "a b"}, "EntryPointMissing", "buildArgs.entry", "neither a file, a module"),
        ({"Procfile": "web: python manage.py migrate && gunicorn x:y\n", "a.py": ""}, {}, "ManifestInvalid",
         "Procfile:1", "needs a shell for &&"),
        ({"Procfile": "web: gunicorn 'x\n", "a.py": ""}, {}, "ManifestInvalid", "Procfile:1", "No closing quotation"),
        ({"Procfile": "\nweb:\n", "a.py": ""}, {}, "ManifestInvalid", "Procfile:2", "names no command"),
        ({"pyproject.toml": f'{SCRIPTS}a = "m:a"\nb = "m:b"\n'}, {}, "EntryPointMissing", "pyproject.toml", "a, b"),
        ({"app.py": FLASK, "app/__init__.py": ""}, {}, "EntryPointMissing", "app/__init__.py", "have one name"),
        ({"a.py": "", "b.py": ""}, {}, "EntryPointMissing", "", "there is a.py, b.py"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_refused_with_its_place(
    files: dict[str, str], arguments: dict[str, str], reason: str, where: str, words: str
) -> None:
    error = refused(files, **arguments)
    assert (error.reason, error.where) == (reason, where)
    assert words in error.message


def test_an_application_without_a_server_gets_ours_by_hash_and_apart_from_the_rest() -> None:
    made = planned({"main.py": FASTAPI, "requirements.txt": "fastapi\n"})
    (stub,) = [one for one in made.stubs if one.path == "server.txt"]
    assert all("--hash=sha256:" in line for line in stub.content.splitlines())
    names = [step.name for step in made.steps]
    assert names.index("resolve server") < names.index("download wheels") < names.index("install server")
    assert [layer.dest for layer in image_of(made).layers] == ["/ignite", "/app/server", "/app/deps", "/app/src"]


@pytest.mark.parametrize("server", SERVERS["asgi"])
def test_a_server_that_the_manifest_brings_is_the_one(server: str) -> None:
    made = planned({"main.py": FASTAPI, "requirements.txt": f"fastapi\n{server}\n"})
    assert not any(one.path == "server.txt" for one in made.stubs)


def test_the_front_has_the_servers_of_the_plan() -> None:
    assert SERVE.SERVERS == SERVERS


@pytest.mark.parametrize("server", sorted({name for names in SERVERS.values() for name in names}))
def test_every_server_listens_where_the_platform_asks(server: str) -> None:
    words = SERVE.words(server, "asgi", "main:app", "8123")
    assert "0.0.0.0" in " ".join(words) and "8123" in " ".join(words) and "main:app" in words


def test_what_an_application_is_shows_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_apps.py").write_text(
        "class A:\n    async def __call__(self, scope, receive, send): ...\n"
        "class W:\n    def __call__(self, environ, start_response): ...\n"
        "a, w = A(), W()\nasync def f(scope, receive, send): ...\ndef make(): return a\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds = {name: SERVE.kind_of(f"some_apps:{name}") for name in ("a", "w", "f", "make()")}
    assert kinds == {"a": "asgi", "w": "wsgi", "f": "asgi", "make()": "asgi"}


def test_a_word_of_a_command_stays_one() -> None:
    env = {"PORT": "8080", "NAME": "a b; c"}
    words = ["0.0.0.0:$PORT", "${NAME}", "${NONE:-x y}", "${NONE}", "$$", "${PORT"]
    assert [START.expanded(word, env) for word in words] == ["0.0.0.0:8080", "a b; c", "x y", "", "$$", "${PORT"]


def test_a_plan_is_the_same_text_every_time() -> None:
    files = {"main.py": FASTAPI, "requirements.txt": "fastapi\n"}
    assert json.dumps(planned(files).to_json()) == json.dumps(planned(files).to_json())


def test_what_the_launcher_cannot_start_counts_as_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.execvpe", refused)
    with pytest.raises(SystemExit) as caught:
        START.main(["--", "bin/web"])
    lines = tuple(capsys.readouterr().err.splitlines())
    assert isinstance(caught.value.code, int) and app.is_absent(caught.value.code, lines)
    assert app.not_started(lines) == ("bin/web", "Permission denied")
    assert not app.is_absent(1, lines), "the app may say what it likes"


@pytest.mark.parametrize("tool", ["setup.py", "conftest.py", "__init__.py", "noxfile.py"])
def test_a_file_that_starts_nothing_is_not_named_as_the_entry(tool: str) -> None:
    """The sdist of a library has setup.py alone: started as a service it prints its usage and ends."""
    with pytest.raises(BuildError, match=tool) as caught:
        planned({"requirements.txt": "flask\n", tool: ""})
    assert caught.value.reason == "EntryPointMissing" and "entry=" not in caught.value.next
    with pytest.raises(BuildError) as caught:
        planned({"requirements.txt": "flask\n", tool: "", "web.py": "", "worker.py": ""})
    assert "entry=web.py" in caught.value.next


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ({"requirements.txt": "flask\n", "one/__init__.py": FLASK, "two/__init__.py": FLASK, "two/app.py": FLASK},
         "name what starts: --build-arg entry=two/app.py"),
        ({"readme.md": "", "service/main.py": "", "pyproject.toml": ""}, "--build-arg entry=service/main.py"),
    ],
)  # fmt: skip
def test_a_file_below_is_named_by_what_keeps_its_dependencies(files: dict[str, str], hint: str) -> None:
    with pytest.raises(BuildError) as caught:
        planned(files)
    assert caught.value.reason == "EntryPointMissing" and hint in caught.value.next
    assert "Build the folder" not in caught.value.next
