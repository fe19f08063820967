"""What starts a Python artifact: a handler, an application behind a server, a program, a command. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from builder.errors import BuildError
from builder.pipelines.arguments import start_of
from builder.pipelines.limits import LINE_LIMIT, read_code
from builder.pipelines.python.applications import ASGI, FACTORIES, NAMES, TARGET, WSGI, Module, Modules
from builder.pipelines.python.manifest import MANIFESTS
from builder.pipelines.python.needs import canonical
from builder.pipelines.python.project import table
from builder.pipelines.python.servers import SERVERS
from builder.source.tree import Tree

HANDLER, SCRIPT, FUNCTION, COMMAND, ANY = "handler", "script", "function", "command", "app"
"""Kinds beside `ASGI` and `WSGI`. `ANY`: an application of which only its import shows which."""
NAMES_OF_ENTRIES = ("handler.py", "main.py", "manage.py", "app.py", "asgi.py", "wsgi.py")
"""Files at the root that mean a Python source."""
PROGRAMS = ("main.py", "app.py", "server.py", "run.py", "bot.py", "__main__.py")
"""Files at the root that are started as they are, by habit of their names."""
_FOLDERS = ("app", "src", "api", "backend", "server", "web")
_WHERE = ("asgi.py", "wsgi.py", "main.py", "app.py", "api.py", "server.py", "application.py", "run.py", "index.py")
_DJANGO = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s{0,20},\s{0,20}["']([\w.]{1,200})["']""")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_SHELL = re.compile(r"[;&|<>()`]+|\$\(|.*`.*", re.DOTALL)
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.ASCII | re.DOTALL)
_NO_APP = frozenset({"tests", "test", "docs", "examples", "scripts", "tools", "migrations", "alembic", "benchmarks"})
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is started. `file` is the file of the source that is imported or run first, "" where none is known.

    `target` is module:attribute of an application, function or handler; `argv` the words of a command; `folder` one
    that Python's path needs beside the root of the source.
    """

    kind: str
    why: str
    file: str = ""
    target: str = ""
    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    folder: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The entry as people name it."""
        return " ".join(self.argv) if self.kind == COMMAND else self.target or self.file

    @property
    def is_application(self) -> bool:
        """Whether a server has to be in front of it."""
        return self.kind in (ASGI, WSGI, ANY)


def entry_of(
    tree: Tree,
    whole: Mapping[str, Any],
    folders: Iterable[str] = (),
    arguments: Mapping[str, str] | None = None,
    installed: frozenset[str] = frozenset(),
) -> Entry:
    """The first that fits: `start`, `entry`, handler.py, a Procfile, Django, an application, a script, a program.

    `folders` are on Python's path beside the root; `installed` names the packages that are known to be there.
    Raises `BuildError` EntryPointMissing, and InvalidRequest or ManifestInvalid for what cannot be read.
    """
    arguments = arguments or {}
    search = _Search(tree, whole, tuple(folders), installed)
    if start := start_of(arguments):
        return search.command(start, "build argument start")
    if entry := arguments.get("entry", ""):
        return search.named(entry)
    if tree.has("handler.py"):
        return Entry(kind=HANDLER, file="handler.py", why="handler(payload, ctx)")
    found = search.procfile() or search.django() or search.application() or search.script() or search.program()
    if found := found or search.packaged():
        return found
    raise search.nothing()


class _Search:
    def __init__(
        self, tree: Tree, whole: Mapping[str, Any], folders: tuple[str, ...], installed: frozenset[str]
    ) -> None:
        self._tree, self._folders = tree, tuple(one for one in folders if one != ".")
        self._brings = {kind: not installed.isdisjoint(names) for kind, names in SERVERS.items()}
        self._modules = Modules(tree, self._folders)
        self._scripts = {
            key: value
            for key, value in table(whole, "project", "scripts").items()
            if isinstance(value, str) and TARGET.fullmatch(value.partition("[")[0].strip())
        }
        self._name = str(table(whole, "project").get("name") or table(whole, "tool", "poetry").get("name") or "")

    def named(self, entry: str) -> Entry:
        """What the build argument `entry` names: a file, a module, a script of the project, or module:attribute."""
        why = "build argument entry"
        if found := TARGET.fullmatch(entry):
            return self._target(found, why)
        path = posixpath.normpath(entry)
        if entry.endswith(".py"):
            if not self._tree.has(path):
                raise self._unknown(entry, f"there is no file {path[:200]}")
            return self._of_file(path, why)
        if entry in self._scripts:
            return self._function(entry, why)
        own = self._modules.file_of(entry) if _MODULE.fullmatch(entry) else ""
        if own:
            return self._of_file(own, why)
        raise self._unknown(entry, f"{entry[:80]} is neither a file, a module nor a script of the source")

    def command(self, argv: tuple[str, ...], why: str, env: tuple[tuple[str, str], ...] = ()) -> Entry:
        """A command as it stands; the file that it names is the one whose imports are checked."""
        return Entry(kind=COMMAND, argv=argv, why=why, env=env, file=self._file_in(argv))

    def procfile(self) -> Entry | None:
        """The `web` process of a Procfile."""
        if not self._tree.has("Procfile"):
            return None
        warnings = []
        found: Entry | None = None
        for number, line in enumerate(self._tree.read_text("Procfile").splitlines(), 1):
            name, colon, text = line.partition(":")
            where, name = f"Procfile:{number}", name.strip()
            if not colon or not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
                continue
            if name == "web" and found is None:
                env, argv = _words(text.strip(), where)
                found = self.command(argv, where, env)
            elif name == "release":
                warnings.append(f"{where}: {name} is not run: an image is built without the services of its app")
        return replace(found, warnings=tuple(warnings)) if found else None

    def django(self) -> Entry | None:
        """The application of a Django project: that of its settings package, else one that Django makes."""
        if not self._tree.has("manage.py"):
            return None
        settings = _DJANGO.search(read_code(self._tree, "manage.py"))
        if settings is None:
            return None
        package, why = settings[1].partition(".")[0], f"manage.py names {settings[1]}"
        kinds = (ASGI, WSGI) if self._brings[ASGI] and not self._brings[WSGI] else (WSGI, ASGI)
        for kind in kinds:
            if own := self._modules.file_of(f"{package}.{kind}"):
                return Entry(kind=kind, file=own, target=f"{package}.{kind}:application", why=why)
        own = self._modules.file_of(settings[1])
        env = (("DJANGO_SETTINGS_MODULE", settings[1]),)
        return Entry(kind=WSGI, file=own, target="django.core.wsgi:get_wsgi_application()", env=env, why=why)

    def application(self) -> Entry | None:
        """An application in a file that is named for one, unless that file serves by itself."""
        places = ("", *(f"{one}/" for one in dict.fromkeys((*self._folders, *_FOLDERS))))
        paths = [f"{place}{name}" for place in places for name in _WHERE]
        paths += [f"{place}__init__.py" for place in places if place]
        roots = [path for path in self._tree.glob("*.py") if path not in paths and path not in _TOOLS]
        for path in (*paths, *(roots if len(roots) == 1 else ())):
            if not self._tree.has(path):
                continue
            if found := self._application(path, self._modules.read(path)):
                return found
            if path == "main.py":  # what starts, whatever else there is
                return None
        return None

    def packaged(self) -> Entry | None:
        """An application in the project's own package, else in the only one that has any, where nothing else starts."""
        found: dict[str, Entry] = {}
        for place in ("", *(f"{one}/" for one in self._folders)):
            for package in self._packages(place):
                paths = (f"{place}{package}/{name}" for name in (*_WHERE, "__init__.py"))
                entries = (self._application(path, self._modules.read(path)) for path in paths if self._tree.has(path))
                if entry := next((entry for entry in entries if entry), None):
                    found.setdefault(package, entry)
        own = next((entry for package, entry in found.items() if self._is_own(package)), None)
        return own or (next(iter(found.values())) if len(found) == 1 else None)

    def _is_own(self, package: str) -> bool:
        """Whether a package has the project's name."""
        return canonical(package) == canonical(self._name)

    def _packages(self, place: str) -> list[str]:
        """The packages in a folder that is on the path, by name; those that are of no app aside."""
        inside = (path.removeprefix(place) for path in self._tree.files() if path.startswith(place))
        parts = [path.split("/") for path in inside]
        names = (name for name, *rest in parts if rest == ["__init__.py"] and name.isidentifier())
        return sorted(name for name in names if name not in _NO_APP or self._is_own(name))

    def _application(self, path: str, module: Module) -> Entry | None:
        if module.serves or (module.has_port and path in PROGRAMS and self._is_program(path)):
            return None
        names = [*(name for name in NAMES if name in module.found)]
        names = names or list(module.found)
        if names:
            return self._entry(path, names[0], module.found[names[0]], f"{path} has an application", module)
        made = next((name for name in FACTORIES if name in module.factories), "")
        if made:
            kind = module.factories[made]
            return self._entry(path, f"{made}()", kind, f"{path} makes an application", module)
        if named := TARGET.fullmatch(module.named):
            return self._target(named, f"{path} names it")
        name = next((name for name in ("application", "app") if name in module.bound), "")
        kind = posixpath.basename(path).removesuffix(".py")
        if name and kind in (ASGI, WSGI):
            return self._entry(path, name, kind, f"{path} is named for it", module)
        return None

    def _is_program(self, path: str) -> bool:
        """Whether the file has a block for when it is the program."""
        return "__main__" in read_code(self._tree, path)

    def script(self) -> Entry | None:
        """The project's own script, where it has no program at the root; the one of its name among several."""
        if not self._scripts or any(self._tree.has(name) for name in PROGRAMS):
            return None
        own = [name for name in self._scripts if canonical(name) == canonical(self._name)]
        if len(self._scripts) == 1 or own:
            return self._function((own or list(self._scripts))[0], "project.scripts")
        names = ", ".join(list(self._scripts)[:_SHOWN])
        hint = f"Name the one to start: --build-arg entry={next(iter(self._scripts))}"
        raise BuildError(
            "EntryPointMissing", f"project.scripts has several: {names}", where="pyproject.toml", next=hint
        )

    def program(self) -> Entry | None:
        """A file that is started as it is."""
        roots = self._starting()
        paths = [name for name in (*PROGRAMS, *(f"src/{name}" for name in PROGRAMS)) if self._tree.has(name)]
        paths = paths or (roots if len(roots) == 1 else [])
        if not paths:
            return None
        why = "a program of its own, on $PORT"
        return Entry(kind=SCRIPT, file=paths[0], why=why)

    def _starting(self) -> list[str]:
        """The files at the root that may be a program: no tool's, and not the mark of a package."""
        return [path for path in self._tree.glob("*.py") if path not in (*_TOOLS, "__init__.py")]

    def nothing(self) -> BuildError:
        """The error where nothing can be started."""
        here = [path for path in self._tree.glob("*.py")]
        names = ("/handler.py", *(f"/{name}" for name in (*PROGRAMS, "manage.py")))
        deeper = [path for path in self._tree.files() if path.endswith(names)]
        has = f"; there is {', '.join(here[:4])}" if here else f"; {deeper[0]} is too deep" if deeper else ""
        is_whole = any(self._tree.has(name) for name in MANIFESTS)  # what a folder below needs is named here
        below = deeper[0] if deeper and not here else ""
        folder = f"Build the folder {below.rpartition('/')[0]}, or add" if below and not is_whole else "Add"
        named = next(iter(self._starting()), "") if here else below if is_whole else ""
        other = f", or name what starts: --build-arg entry={named}" if named else ""
        return BuildError(
            "EntryPointMissing",
            f"there is neither handler.py nor main.py at the root, nor an application or a script{has}",
            next=f"{folder} handler.py with `def handler(payload, ctx)`{other}.",
        )

    def _target(self, found: re.Match[str], why: str) -> Entry:
        """module:attribute as it was named, of whichever kind it is."""
        own = self._modules.file_of(found[1])
        if not own:
            return Entry(kind=ANY, target=found[0], why=why)  # of a package that is installed
        module = self._modules.read(own)
        name = found[2]
        if found[3]:
            return Entry(kind=module.factories.get(name, ANY), file=own, target=found[0], why=why)
        if module.bound and name not in module.bound and "__getattr__" not in module.bound:
            has = ", ".join(sorted(module.bound)[:_SHOWN])
            raise self._unknown(found[0], f"{own} binds no {name[:80]}; it has {has}")
        if name in module.handlers and name not in module.found:
            return Entry(kind=HANDLER, file=own, target=found[0], why=why)
        if name in module.factories:
            return Entry(kind=module.factories[name], file=own, target=f"{found[0]}()", why=why)
        return Entry(kind=module.found.get(name, ANY), file=own, target=found[0], why=why)

    def _of_file(self, path: str, why: str) -> Entry:
        """A file that was named: its handler if it is one, its application, else itself as a program."""
        module = self._modules.read(path)
        if posixpath.basename(path) == "handler.py" and "handler" in module.bound:
            return Entry(kind=HANDLER, file=path, target=f"{self._name_of(path)}:handler", why=why)
        found = self._application(path, module)
        return replace(found, why=why) if found else Entry(kind=SCRIPT, file=path, why=why)

    def _entry(self, path: str, name: str, kind: str, why: str, module: Module) -> Entry:
        """An application in a file. A folder that is no package is put on the path, as `python FILE` would do."""
        folder = posixpath.dirname(path)
        is_package = module.is_relative or self._tree.has(f"{folder}/__init__.py")
        if folder and folder not in self._folders and not is_package:
            stem = posixpath.basename(path).removesuffix(".py")
            return Entry(kind=kind, file=path, target=f"{stem}:{name}", why=why, folder=folder)
        return Entry(kind=kind, file=path, target=f"{self._name_of(path)}:{name}", why=why)

    def _name_of(self, path: str) -> str:
        """The dotted name of a file's module on the path."""
        inside = next((path.removeprefix(f"{one}/") for one in self._folders if path.startswith(f"{one}/")), path)
        return inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def _function(self, name: str, why: str) -> Entry:
        target = self._scripts[name].partition("[")[0].strip()
        own = self._modules.file_of(target.partition(":")[0])
        return Entry(kind=FUNCTION, file=own, target=target, why=f"{why}: {name}")

    def _file_in(self, argv: tuple[str, ...]) -> str:
        """The file of the source that a command starts, as far as its words show."""
        for number, word in enumerate(argv):
            if word.endswith(".py") and self._tree.has(posixpath.normpath(word)):
                return posixpath.normpath(word)
            if (found := TARGET.fullmatch(word)) and (own := self._modules.file_of(found[1])):
                return own
            if number and argv[number - 1] == "-m" and _MODULE.fullmatch(word):
                return self._modules.file_of(f"{word}.__main__") or self._modules.file_of(word)
        return ""

    def _unknown(self, entry: str, message: str) -> BuildError:
        where = "buildArgs.entry"
        hint = "Name a file (main.py), an object (module:app), a factory (module:create_app()) or a project's script."
        return BuildError("EntryPointMissing", message, where=where, next=hint)


_TOOLS = ("setup.py", "conftest.py", "manage.py", "noxfile.py", "tasks.py", "gunicorn.conf.py", "fabfile.py")


def _words(text: str, where: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """(variables, words) of a command line that needs no shell; the image has none."""
    if len(text) > LINE_LIMIT:
        raise BuildError("ManifestInvalid", f"the line has {len(text)} characters; {LINE_LIMIT} are taken", where=where)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError as error:
        raise BuildError("ManifestInvalid", f"web: {error}", where=where, next="Close the quotes.") from None
    if shell := next((word for word in words if _SHELL.fullmatch(word) or "$(" in word), ""):
        message = f"web needs a shell for {shell[:40]}, and the image has none"
        hint = "Name the server alone; what has to run before it (migrations) is a step of the deployment."
        raise BuildError("ManifestInvalid", message, where=where, next=hint)
    env: list[tuple[str, str]] = []
    while words and (found := _ASSIGNED.fullmatch(words[0])):
        env.append((found[1], found[2]))
        words.pop(0)
    words = words[1:] if words[:1] == ["exec"] else words
    if not words:
        raise BuildError("ManifestInvalid", "web names no command", where=where, next="Name the server to start.")
    return tuple(env), tuple(words)
