"""ASGI and WSGI applications that a module binds, found in its text. Pure; imports nothing of the source.

Known are the frameworks that people write services with. A name is followed through assignments, wrappers, factories
and imports of other modules of the source.
"""

from __future__ import annotations

import ast
import contextlib
import posixpath
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from builder.errors import BuildError
from builder.source.tree import Tree

ASGI, WSGI = "asgi", "wsgi"
NAMES = ("app", "application", "api", "asgi_app", "wsgi_app", "asgi", "wsgi", "server")
FACTORIES = ("create_app", "make_app", "get_app", "build_app", "create_application", "make_application")
TARGET = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)(\(\))?", re.ASCII)
"""module:attribute, or module:factory()."""
_MOST_FOLLOWED = 8
_MOST_MODULES = 200
_MOST_STARS = 8
_LONGEST_NAME = 200
_LARGEST = 512 * 1024

_ASGI_OF = (
    "fastapi.FastAPI",
    "starlette.applications.Starlette",
    "fasthtml.FastHTML",
    "fasthtml.fast_app",
    "litestar.Litestar",
    "quart.Quart",
    "sanic.Sanic",
    "blacksheep.Application",
    "falcon.asgi.App",
    "connexion.AsyncApp",
    "connexion.FlaskApp",
    "connexion.App",
    "django.core.asgi.get_asgi_application",
    "channels.routing.ProtocolTypeRouter",
    "socketio.ASGIApp",
    "engineio.ASGIApp",
    "asgiref.wsgi.WsgiToAsgi",
    "a2wsgi.WSGIMiddleware",
    "esmerald.Esmerald",
    "ravyn.Ravyn",
    "lilya.apps.Lilya",
    "strawberry.asgi.GraphQL",
    "ariadne.asgi.GraphQL",
)
_WSGI_OF = (
    "flask.Flask",
    "apiflask.APIFlask",
    "flask_openapi3.OpenAPI",
    "eve.Eve",
    "bottle.Bottle",
    "bottle.default_app",
    "falcon.App",
    "falcon.API",
    "django.core.wsgi.get_wsgi_application",
    "cherrypy.Application",
    "socketio.WSGIApp",
    "engineio.WSGIApp",
    "a2wsgi.ASGIMiddleware",
    "dash.Dash.server",
)
_OF = {**dict.fromkeys(_ASGI_OF, ASGI), **dict.fromkeys(_WSGI_OF, WSGI)}
_METHODS = {
    "make_wsgi_app": WSGI,
    "wsgifunc": WSGI,
    "http_app": ASGI,
    "streamable_http_app": ASGI,
    "sse_app": ASGI,
}
"""Methods that return an application, whatever object has them: Pyramid, web.py, FastMCP."""
_SERVE = ("run", "run_app", "run_simple", "serve", "serve_forever", "launch", "run_forever", "run_server")
"""Calls that serve and do not return: a module with one at its top cannot be imported by a server."""


@dataclass(kw_only=True)
class Module:
    """What is known of one module of the source. `found`: name → kind, in the order of the text."""

    path: str
    found: dict[str, str] = field(default_factory=dict)
    factories: dict[str, str] = field(default_factory=dict)
    handlers: set[str] = field(default_factory=set)
    """Functions that take two arguments and are no application: `(payload, ctx)`."""
    serves: bool = False
    """It serves by itself wherever it is imported."""
    has_port: bool = False
    """It names $PORT, and an address that others reach."""
    named: str = ""
    """The module:attribute that it passes to a server as text: `uvicorn.run("app.main:app")`."""
    is_relative: bool = False
    """It imports relative to its package."""
    bound: set[str] = field(default_factory=set)


class Modules:
    """The modules of a source, read once each."""

    def __init__(self, tree: Tree, folders: Iterable[str] = ()) -> None:
        self._tree = tree
        self._folders = tuple(dict.fromkeys(("", *(f"{one}/" for one in folders if one != "."))))
        self._known: dict[str, Module] = {}

    def read(self, path: str, depth: int = 0) -> Module:
        """What a file binds; nothing where it is no Python of this version."""
        if path in self._known:
            return self._known[path]
        module = self._known[path] = Module(path=path)
        if len(self._known) > _MOST_MODULES:
            return module
        try:
            parsed = ast.parse(self._tree.read_text(path, _LARGEST))
        except (BuildError, SyntaxError, ValueError, RecursionError, MemoryError):
            return module
        with contextlib.suppress(RecursionError):
            _Reader(self, module, depth).read(parsed)
        return module

    def file_of(self, name: str, package: str = "") -> str:
        """The file of a dotted module name; "" where the source has none."""
        stem = name.replace(".", "/")
        prefixes = (f"{package}/",) if package else self._folders
        for prefix in prefixes:
            for ending in (".py", "/__init__.py"):
                if stem and self._tree.has(f"{prefix}{stem}{ending}"):
                    return f"{prefix}{stem}{ending}"
        return ""


class _Reader:
    """One pass over a module's own statements."""

    def __init__(self, modules: Modules, module: Module, depth: int) -> None:
        self._modules, self._module, self._depth = modules, module, depth
        self._names: dict[str, str] = {}
        self._stars: list[str] = []

    def read(self, parsed: ast.Module) -> None:
        module = self._module
        texts: set[str] = set()
        for node in ast.walk(parsed):
            if isinstance(node, ast.Constant) and node.value in ("PORT", "0.0.0.0", "::"):
                texts.add(node.value)
            elif isinstance(node, ast.ImportFrom):
                module.is_relative = module.is_relative or node.level > 0
            elif isinstance(node, ast.Call) and _last(node.func) == "run" and node.args and not module.named:
                first = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
                module.named = first if isinstance(first, str) and TARGET.fullmatch(first) else ""
        module.has_port = "PORT" in texts and len(texts) > 1
        for statement in _statements(parsed.body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(statement)
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
                self._assign(statement)
            elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._function(statement)
            elif isinstance(statement, ast.ClassDef):
                self._class(statement)
            elif isinstance(statement, ast.Expr):
                call = statement.value
                call = call.value if isinstance(call, ast.Await) else call
                module.serves = module.serves or (isinstance(call, ast.Call) and _last(call.func) in _SERVE)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                self._names[name] = alias.name if alias.asname else name
                self._module.bound.add(name)
            return
        package = posixpath.dirname(self._module.path)
        for _ in range(node.level - 1):
            package = posixpath.dirname(package)
        for alias in node.names:
            if alias.name == "*":
                self._stars += [node.module or ""] if len(self._stars) < _MOST_STARS else []
                continue
            name = alias.asname or alias.name
            self._module.bound.add(name)
            self._names[name] = f"{node.module or ''}.{alias.name}"
            own = self._modules.file_of(node.module or "", package if node.level else "")
            if not own and node.level and not node.module:
                own = f"{package}/__init__.py" if package else ""
            if own and self._depth < _MOST_FOLLOWED:
                other = self._modules.read(own, self._depth + 1)
                if alias.name in other.found:
                    self._module.found[name] = other.found[alias.name]
                elif alias.name in other.factories:
                    self._module.factories[name] = other.factories[alias.name]
                elif alias.name in other.handlers:
                    self._module.handlers.add(name)

    def _assign(self, node: ast.Assign | ast.AnnAssign) -> None:
        kind = self._kind(node.value, self._module.found) if node.value is not None else ""
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
            if isinstance(first, ast.Name):
                self._module.bound.add(first.id)
                name = self._dotted(node.value.func) if isinstance(node.value, ast.Call) and not kind else ""
                if name and len(name) <= _LONGEST_NAME:
                    self._names[first.id] = name  # `app = Dash()`, then `server = app.server`
                if kind:
                    self._module.found[first.id] = kind
                else:
                    self._module.found.pop(first.id, None)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._module.bound.add(node.name)
        names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
        needed = len(names) - len(node.args.defaults)
        if names[:3] == ["scope", "receive", "send"] and isinstance(node, ast.AsyncFunctionDef):
            self._module.found[node.name] = ASGI
        elif names[:2] in (["environ", "start_response"], ["env", "start_response"]):
            self._module.found[node.name] = WSGI
        elif needed <= 2 <= len(names) and not any(one is None for one in node.args.kw_defaults):
            self._module.handlers.add(node.name)
        is_called_bare = not needed and not any(one is None for one in node.args.kw_defaults)
        if is_called_bare and (kind := self._returned(node)):
            self._module.factories[node.name] = kind

    def _returned(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        """The kind of what a function returns, by its body, else by its annotation."""
        local: ChainMap[str, str] = ChainMap({}, self._module.found)
        for statement in _statements(node.body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(statement)
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                local[statement.targets[0].id] = self._kind(statement.value, local)
            elif isinstance(statement, ast.Return) and statement.value is not None:
                kind = self._kind(statement.value, local)
                if kind:
                    return kind
        return self._known(self._dotted(node.returns)) if node.returns is not None else ""

    def _class(self, node: ast.ClassDef) -> None:
        """A class of the source whose base is an application makes applications, and so is called like its base."""
        self._module.bound.add(node.name)
        for base in node.bases:
            if self._known(name := self._dotted(base)):
                self._names[node.name] = name
                return

    def _kind(self, value: ast.expr, found: Mapping[str, str]) -> str:
        """The kind of an expression's value; "" for what is none, or not known."""
        if isinstance(value, ast.Name):
            return found.get(value.id, "")
        if isinstance(value, ast.Attribute):
            return self._known(self._dotted(value))
        if not isinstance(value, ast.Call):
            return ""
        if isinstance(value.func, ast.Name) and value.func.id in self._module.factories:
            return self._module.factories[value.func.id]
        if kind := self._known(self._dotted(value.func)) or _METHODS.get(_last(value.func), ""):
            return kind
        # A wrapper is what it wraps: `CORSMiddleware(app)`, `app = ProxyFix(app)`.
        inner = [*value.args[:1], *(one.value for one in value.keywords if one.arg in ("app", "application"))]
        return next((kind for one in inner if (kind := self._kind(one, found))), "")

    def _dotted(self, node: ast.expr | None) -> str:
        """The name that an expression has in the module that defines it."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        first = self._names.get(node.id, "")
        if not first:
            star = next((one for one in self._stars if self._known(f"{one}.{node.id}")), "")
            first = f"{star}.{node.id}" if star else node.id
        return ".".join((first, *reversed(parts)))

    def _known(self, name: str) -> str:
        """The kind of what a framework's name makes, whichever of its modules it is imported from."""
        if name in _OF:
            return _OF[name]
        return _OF.get(f"{name.partition('.')[0]}.{name.rpartition('.')[2]}", "")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order, also inside `if`, `try` and `with`, but for the block of `__name__ == "__main__"`."""
    waiting = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If):
            waiting += reversed([*([] if _is_main(node.test) else node.body), *node.orelse])
        elif isinstance(node, (ast.Try, ast.With, ast.AsyncWith)):
            inner = [*node.body, *(node.orelse if isinstance(node, ast.Try) else ())]
            waiting += reversed([*inner, *(node.finalbody if isinstance(node, ast.Try) else ())])
        else:
            yield node


def _is_main(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
