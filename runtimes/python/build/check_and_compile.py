"""Run inside the sandbox by the runtime's own Python: check what starts, lay the source out, compile its bytecode.

    check_and_compile.py handler|server [--root FOLDER] [--entry FILE] [--name NAME] [--program WORD]
                         [FOLDER...]

--root: the folder of the source that is built, if not all of it. FILE: what is imported or run first (handler.py,
main.py), empty where nobody knows. NAME: what of it is the handler or the application. WORD: the program that a command
starts. FOLDER: folders of the source that are on the path beside its root, for packages that lie in it.

Packages are installed and compiled by install.py before; here they are read, and nothing is written among them.
"""

from __future__ import annotations

import ast
import csv
import importlib.machinery
import json
import os
import runpy
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compile_tree import compile_tree

WORK = Path(os.environ.get("IGNITE_WORK", "/work"))
MOST_WARNINGS = 20
SOURCE, PACKAGES, SERVER = WORK / "out/src", WORK / "fetch/deps", WORK / "out/server"
PLACES = {"/app/src": SOURCE, "/app/deps": PACKAGES, "/app/server": SERVER}
"""Where the image has what lies here."""
FRONT = Path(__file__).resolve().parents[1] / "front"
MOST_SHOWN = 6
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ELF_HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
PROGRAM = struct.Struct("<IIQQQQQQ")
DYNAMIC = struct.Struct("<qQ")
LOAD, DYNAMIC_PART = 1, 2
NEEDED, STRTAB, RPATH, RUNPATH = 1, 5, 15, 29
MOST_PARTS, MOST_ENTRIES, LONGEST_NAME = 64, 4096, 1024
LIBRARIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
MOST_LIBRARIES = 20_000
WRITTEN = (("fasthtml", ".sesskey"),)
"""(package, file that it writes into the working folder when it starts): the image's root is read-only, /tmp is not."""
SHELLS = ("sh", "bash", "dash", "zsh", "env")
CHANGES_LOOKUP = ("sys.path", "sys.meta_path", "sys.path_hooks", "sys.modules", "addsitedir", "__path__")
UNREAD = ("setup.py", "setup.cfg", "environment.yml", "requirements.in")


def fail(reason: str, message: str, where: str, said: list[str], hint: str) -> None:
    """One JSON line is the diagnosis; the words before it are for the log."""
    for line in said:
        print(line, file=sys.stderr)
    found = {"reason": reason, "message": message, "where": where, "said": said, "next": hint}
    print(json.dumps(found), file=sys.stderr)
    raise SystemExit(1)


def parse(root: Path, path: Path) -> ast.Module:
    """Parse and compile one file of the user's; a syntax error is the end.

    Compiling finds what parsing alone lets through: `return` outside a function, a name both global and local.
    """
    name = path.relative_to(root).as_posix()
    data = path.read_bytes()
    try:
        compile(data, name, "exec", dont_inherit=True)
        return ast.parse(data, name)
    except SyntaxError as error:
        where = f"{name}:{error.lineno or 1}:{error.offset or 1}"
        line = error.lineno or 1
        shown = error.text or data.decode("utf-8", "replace").splitlines()[line - 1]
        said = [f'File "{name}", line {line}', f"  {shown.strip()}", f"SyntaxError: {error.msg}"]
        fail("CompileFailed", f"{name} is no valid Python: {error.msg}", where, said, f"Correct {name}, build again.")
    except (ValueError, RecursionError, MemoryError) as error:
        fail("CompileFailed", f"{name} cannot be parsed: {error}", name, [str(error)], f"Correct {name}, build again.")
    raise AssertionError


def imported(tree: ast.Module, package: list[str]) -> Iterator[list[str]]:
    """Dotted names, in parts, of what a module of `package` imports, in functions too.

    Not below `if` and `try`: what is imported there may be for another Python, and nobody misses it in this one.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: max(0, len(package) - node.level + 1)] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ([*base, alias.name] for alias in node.names)
        elif not isinstance(node, (ast.If, ast.Try, ast.TryStar)):
            waiting.extend(ast.iter_child_nodes(node))


def check_source(root: Path, entry: str, folders: Iterable[str] = ()) -> ast.Module | None:
    """Parse the entry file and every module that its imports lead to; all other files only if they can be.

    A template or a sample for another Python lies in many a project: it is told, packaged and not compiled.
    """
    files = {
        path.relative_to(root).as_posix() for path in root.rglob("*.py") if path.is_file() and not path.is_symlink()
    }
    prefixes = ["", *(f"{folder}/" for folder in folders)]
    trees: dict[str, ast.Module] = {}
    waiting = [entry] if entry else []
    while waiting:
        name = waiting.pop()
        if name in trees:
            continue
        trees[name] = parse(root, root / name)
        for parts in imported(trees[name], name.split("/")[:-1]):
            for end in range(1, len(parts) + 1):  # a.b.c runs a and a.b first
                stem = "/".join(parts[:end])
                places = (f"{place}{stem}{ending}" for place in prefixes for ending in ("/__init__.py", ".py"))
                found = next((file for file in places if file in files), "")
                waiting += [found] if found else []
    broken = []
    for name in sorted(files - trees.keys()):
        try:
            compile((root / name).read_bytes(), name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            broken.append(
                f"warning: {name} is packaged but not compiled; it is no Python {sys.version_info[0]}: {error}"
            )
    more = len(broken) - MOST_WARNINGS
    for line in (*broken[:MOST_WARNINGS], *((f"warning: and {more} more files",) if more > 0 else ())):
        print(line)
    return trees.get(entry)


def defined(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """(name, statement) of everything a module's statements bind, also inside if, try, with, for, while and match."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".", 1)[0], node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        yield name.id, node
        else:
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(node, field, [])
                blocks = [part.body if field in ("handlers", "cases") else [part] for part in inner]
                yield from defined(statement for block in blocks for statement in block)


def check_handler(tree: ast.Module, entry: str = "handler.py", wanted: str = "handler") -> None:
    """The entry must define or import the handler, and a plain function must take payload and ctx."""
    found = list(defined(tree.body))
    handlers = [node for name, node in found if name == wanted]
    if not handlers and not any(name == "*" for name, _ in found):
        names = list(dict.fromkeys(name for name, node in found if not isinstance(node, (ast.Import, ast.ImportFrom))))
        has = f"defines {', '.join(names[:5])}, but no {wanted}" if names else f"defines no {wanted}"
        hint = f"Rename one to `def {wanted}(payload, ctx)`." if names else f"Add `def {wanted}(payload, ctx)`."
        fail("EntryPointMissing", f"{entry} {has}", entry, [], hint)
    for node in handlers[-1:]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list:
            check_arguments(node, entry)
            check_returns(node, entry)


def check_arguments(node: ast.FunctionDef | ast.AsyncFunctionDef, entry: str) -> None:
    """It is called with (payload, ctx): two positional arguments."""
    takes = node.args
    most = len(takes.posonlyargs) + len(takes.args)
    least = most - len(takes.defaults)
    keyword_only = sum(default is None for default in takes.kw_defaults)
    if (most < 2 and not takes.vararg) or least > 2 or keyword_only:
        signature = f"def {node.name}({ast.unparse(takes)})"
        where = f"{entry}:{node.lineno}:{node.col_offset + 1}"
        hint = f"Make it `def {node.name}(payload, ctx)`."
        message = f"{node.name} is called with (payload, ctx), but is {signature}"
        fail("EntryPointMissing", message, where, [signature], hint)


def check_returns(node: ast.FunctionDef | ast.AsyncFunctionDef, entry: str) -> None:
    """A generator is neither bytes, text nor JSON."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, (ast.Yield, ast.YieldFrom)):
            where = f"{entry}:{inner.lineno}:{inner.col_offset + 1}"
            hint = "Return bytes, str or a value that JSON has; gather what is yielded first."
            fail("EntryPointMissing", f"{node.name} is a generator, which cannot be sent as an answer", where, [], hint)
        if not isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.GeneratorExp)):
            waiting.extend(ast.iter_child_nodes(inner))


def at_import(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run whenever the module does: in its body, and in the bodies of its classes.

    Not below `if`, `try`, `with`, a loop or a function: the module may well do without them.
    """
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.ClassDef):
            waiting += reversed(node.body)


class Lookup:
    """Finds modules in the image as its interpreter does, without running any (importlib, PathFinder)."""

    def __init__(self, source: Path, dependencies: Path, folders: Iterable[str] = ()) -> None:
        self.source = source
        packages = (source / folder for folder in folders)
        standard = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]
        # Our server is on the path where nothing else serves the application.
        self.path = [*map(str, (source, dependencies, *packages, FRONT)), *standard, str(SERVER)]
        self.trees: dict[Path, ast.Module] = {}
        self.names: dict[Path, set[str]] = {}

    def find(self, parts: list[str]) -> importlib.machinery.ModuleSpec | None:
        """The spec of a dotted name. Below a package that decides for itself what it holds, that of the package."""
        if parts[0] in sys.builtin_module_names or importlib.machinery.FrozenImporter.find_spec(parts[0]):
            return importlib.machinery.ModuleSpec(parts[0], None)
        found, path = None, list(self.path)
        for end in range(1, len(parts) + 1):
            found = importlib.machinery.PathFinder.find_spec(parts[end - 1], path)
            if found is None or end == len(parts) or self.is_opaque(found):
                return found
            if found.loader is None:  # its own list asks sys.modules for its parent, which is not there
                path = [folder for entry in path if os.path.isdir(folder := os.path.join(entry, parts[end - 1]))]
            else:
                path = list(found.submodule_search_locations or ())
        return found

    def is_opaque(self, found: importlib.machinery.ModuleSpec) -> bool:
        """Whether nothing is known about what lies below: a regular package of others, or one that is code."""
        if found.loader is None:  # a namespace package is its folders
            return False
        own = self.own(found)
        if own is None:
            return True
        return found.submodule_search_locations is not None and changes_lookup(own)

    def own(self, found: importlib.machinery.ModuleSpec) -> Path | None:
        """The source's own file of a module."""
        file = Path(found.origin) if found.origin else None
        return file if file and file.suffix == ".py" and file.is_relative_to(self.source) else None

    def tree(self, file: Path) -> ast.Module:
        """The module of a file of the source; an empty one where it cannot be parsed, which the check reports."""
        if file not in self.trees:
            try:
                self.trees[file] = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                self.trees[file] = ast.Module(body=[], type_ignores=[])
            self.names[file] = {name for name, _ in defined(self.trees[file].body)}
        return self.trees[file]

    def defines(self, file: Path, name: str) -> bool:
        """Whether a package's own file binds a name, so that no module of this name is sought."""
        self.tree(file)
        return bool(self.names[file] & {name, "*", "__getattr__"})


def changes_lookup(file: Path) -> bool:
    """Whether a module's text names what decides where modules are found."""
    text = file.read_bytes()
    return any(word.encode() in text for word in CHANGES_LOOKUP)


def check_imports(source: Path, dependencies: Path, entry: str, folders: Iterable[str] = ()) -> set[str]:
    """Every import that runs with the entry must be found: the entry's own, and those of the modules it leads to.

    Returns the dotted names that are imported, with those of their packages.
    """
    imports: set[str] = set()
    lookup = Lookup(source, dependencies, folders)
    waiting: list[tuple[Path, list[str]]] = [(source / entry, [])]
    seen: set[Path] = set()
    missing: list[tuple[str, int, str]] = []
    while waiting:
        file, package = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        for node in at_import(lookup.tree(file)):
            for parts, needed in wanted(node, package, lookup):
                found = lookup.find(parts) if parts else None
                imports.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
                if found is None and needed:
                    missing.append((file.relative_to(source).as_posix(), node.lineno, ".".join(parts) or "."))
                    break
                for end in range(1, len(parts) + 1) if found else ():
                    part = lookup.find(parts[:end])
                    own = lookup.own(part) if part else None
                    if own:
                        is_package = part is not None and part.submodule_search_locations is not None
                        waiting.append((own, parts[:end] if is_package else parts[: end - 1]))
    if not missing:
        return imports
    if any(changes_lookup(file) for file in seen):  # whoever changes the path at run time may find more than we do
        for name, line, module in missing[:MOST_WARNINGS]:
            print(f"warning: {name}:{line} imports {module}, which was not found; the source changes where is sought")
        return imports
    refuse(source, missing)
    return imports


def wanted(node: ast.Import | ast.ImportFrom, package: list[str], lookup: Lookup) -> Iterator[tuple[list[str], bool]]:
    """(dotted name in parts, whether it must be there) of what a statement imports. No parts: beyond its package."""
    if isinstance(node, ast.Import):
        yield from ((alias.name.split("."), True) for alias in node.names)
        return
    if node.level > len(package):
        yield [], True
        return
    base = package[: len(package) - node.level + 1] if node.level else []
    base += node.module.split(".") if node.module else []
    yield base, True
    found = lookup.find(base)
    own = lookup.own(found) if found else None
    is_namespace = found is not None and found.loader is None and found.submodule_search_locations is not None
    for alias in node.names:
        if alias.name != "*" and (is_namespace or (own and not lookup.defines(own, alias.name))):
            yield [*base, alias.name], is_namespace  # a name of a regular package may be anything


def refuse(source: Path, missing: list[tuple[str, int, str]]) -> None:
    """StartFailed at the first import that nothing provides; all of them as lines."""
    name, line, module = missing[0]
    top = module.partition(".")[0]
    unread = [one for one in UNREAD if (source / one).is_file()]
    unread += sorted(path.name for path in source.glob("requirements*.txt") if path.name != "requirements.txt")
    message = f"nothing in the image provides the module {module}, which {name} imports"
    if module == ".":
        message, hint = f"{name} imports relative to a package and is in none", "Write the import without the dot."
    elif top in sys.stdlib_module_names:
        hint = f"{top} is of Python's standard library, but not in this image. Import it inside try, or do without it."
    elif unread:
        hint = f"{unread[0]} is not read. List the package of {top} in requirements.txt or project.dependencies."
    else:
        hint = f"List the package of {top} in requirements.txt or project.dependencies, or send the file."
    said = [f"{file}:{number}: import {what}" for file, number, what in missing[:MOST_SHOWN]]
    fail("StartFailed", message, f"{name}:{line}", said, hint)


def elf_needs(path: Path) -> tuple[list[str], list[str]]:
    """(libraries, folders where they are sought) that an ELF file of this machine names (elf(5)); none of other files.

    Nothing is loaded: header, program headers, the dynamic section and names are read, each up to a bound.
    """
    needed: list[int] = []
    places: list[int] = []
    with path.open("rb") as file:
        head = file.read(ELF_HEADER.size)
        if len(head) < ELF_HEADER.size or head[:4] != b"\x7fELF":
            return [], []
        _, size, order, _, machine, _, _, at, _, _, _, each, count, *_ = ELF_HEADER.unpack(head)
        if (size, order, machine) != (2, 1, 62) or each != PROGRAM.size or count > MOST_PARTS:
            return [], []
        file.seek(at)
        data = file.read(each * count)
        parts = list(PROGRAM.iter_unpack(data[: len(data) // PROGRAM.size * PROGRAM.size]))
        loads = [(start, start + length, offset) for kind, _, offset, start, _, length, _, _ in parts if kind == LOAD]
        table = next(((offset, length) for kind, _, offset, _, _, length, _, _ in parts if kind == DYNAMIC_PART), None)
        if table is None:
            return [], []
        file.seek(table[0])
        data = file.read(min(table[1], MOST_ENTRIES * DYNAMIC.size))
        strings = 0
        for tag, value in DYNAMIC.iter_unpack(data[: len(data) // DYNAMIC.size * DYNAMIC.size]):
            if tag == 0:
                break
            if tag == NEEDED:
                needed.append(value)
            elif tag in (RPATH, RUNPATH):
                places.append(value)
            elif tag == STRTAB:
                strings = next((offset + value - start for start, end, offset in loads if start <= value < end), 0)

        def text(value: int) -> str:
            file.seek(strings + value)
            return file.read(LONGEST_NAME).split(b"\0", 1)[0].decode("utf-8", "replace")

        folders = [folder for value in places for folder in text(value).split(":")] if strings else []
        return [text(value) for value in needed] if strings else [], folders


def missing_libraries(deps: Path) -> dict[Path, list[str]]:
    """Extension modules and libraries of the packages, with the libraries that they need and the image has nowhere.

    What a library of the packages needs in turn is among them. One that lies anywhere among the packages counts as
    there: some load what they bring before it is needed.
    """
    found = []
    for folder, _, names in os.walk(deps):
        found += [Path(folder, name) for name in names if name.endswith(".so") or ".so." in name]
        if len(found) > MOST_LIBRARIES:
            return {}
    there = {path.name: path for path in found}
    lacks: dict[Path, set[str]] = {}
    needed_by: dict[Path, list[Path]] = {}
    known: dict[str, bool] = {}
    for path in sorted(found):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            needs, folders = elf_needs(path)
        except (OSError, ValueError, struct.error):
            continue
        origin = [folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(path.parent)) for folder in folders]
        for name in needs:
            if name in there:
                needed_by.setdefault(there[name], []).append(path)
                continue
            if name not in known:
                known[name] = any(os.path.exists(os.path.join(place, name)) for place in LIBRARIES)
            if not known[name] and not any(os.path.exists(os.path.join(folder, name)) for folder in origin):
                lacks.setdefault(path, set()).add(name)
    waiting = list(lacks)
    while waiting:
        path = waiting.pop()
        for other in needed_by.get(path, ()):
            if not lacks[path] <= lacks.setdefault(other, set()):
                lacks[other] |= lacks[path]
                waiting.append(other)
    return {path: sorted(names) for path, names in sorted(lacks.items())}


def check_libraries(deps: Path, imports: set[str]) -> None:
    """StartFailed for a library that the base lacks and the entry cannot do without; a warning for any other.

    A package that is imported cannot do without an extension module that its own `__init__` names, nor without the one
    that is imported by name.
    """
    packages = owners(deps)
    told: dict[str, tuple[str, set[str]]] = {}
    for path, libraries in missing_libraries(deps).items():
        inside = path.relative_to(deps).as_posix()
        package = packages.get(inside, inside.partition("/")[0])
        module = inside.partition(".")[0].replace("/", ".")
        top, stem = module.rpartition(".")[0] or module, module.rpartition(".")[2]
        init = deps / top.replace(".", "/") / "__init__.py"
        named = top in imports and init.is_file() and stem.encode() in init.read_bytes()
        if module in imports or named:
            message = f"{package} needs the shared library {libraries[0]}, which is not in the image"
            hint = f"Take a package that brings {libraries[0]} along, as many `-binary` and `-headless` ones do."
            said = [f"{inside} needs {library}" for library in libraries[:MOST_SHOWN]]
            fail("StartFailed", message, inside, said, hint)
        told.setdefault(package, (inside, set()))[1].update(libraries)
    for package, (inside, libraries) in list(told.items())[:MOST_WARNINGS]:
        names = ", ".join(sorted(libraries)[:MOST_SHOWN])
        print(f"warning: {package} needs {names}, not in the image; what imports {inside} or its like fails")


def owners(deps: Path) -> dict[str, str]:
    """File → the package that it came with, "name version"."""
    found: dict[str, str] = {}
    for record in sorted(deps.glob("*.dist-info/RECORD")):
        name = " ".join(record.parent.name.removesuffix(".dist-info").split("-", 1))
        for row in csv.reader(record.read_text(encoding="utf-8", errors="replace").splitlines()):
            if row:
                found[row[0]] = name
    return found


def drop_server() -> None:
    """Empty the folder of our own server where the dependencies bring one that serves the same."""
    servers = runpy.run_path(str(FRONT / "serve_app.py"), run_name="serve_app")["SERVERS"].values()
    needed = [names for names in servers if any((SERVER / name).is_dir() for name in names)]
    if all(any((PACKAGES / name).is_dir() for name in names) for names in needed):
        shutil.rmtree(SERVER)
        SERVER.mkdir()


def check_program(word: str, places: Mapping[str, Path]) -> None:
    """The program that a command starts must be in the image: in the source, the dependencies or the base. A script
    of the source must be one that the kernel starts. `places`: folder of the image → where it is here."""
    if "$" in word:
        return
    host = None
    if "/" in word:
        path = os.path.normpath(os.path.join("/app/src", word))
        host = next((places[one] / path[len(one) + 1 :] for one in places if path.startswith(one + "/")), None)
        there = (host or Path(path)).is_file()
    else:
        there = shutil.which(word, path=f"{places['/app/deps'] / 'bin'}:{BASE_PATH}") is not None
    if not there:
        hint = f"List the package that brings {word} in the dependencies, or start another program."
        if os.path.basename(word) in SHELLS:
            hint = "There is no shell in the image: start the program itself."
        fail("StartFailed", f"there is no program {word} in the image", "", [], hint)
    if host is not None:
        check_script(word, host)


def check_script(word: str, file: Path) -> None:
    """A file of the source that is started by itself: it may be run, and the interpreter of its first line is there."""
    with file.open("rb") as start:
        line = start.readline(LONGEST_NAME)
    words = line[2:].split() if line.startswith(b"#!") else []
    interpreter = os.fsdecode(words[0]) if words and not words[0].startswith(b"/app/") else ""
    by = "python " + word if word.endswith(".py") or "python" in os.fsdecode(line) else ""
    hint = f"Start it by its interpreter: {by}" if by else "There is no shell in the image: start the program itself."
    if words and line.endswith(b"\r\n"):
        hint = "Write it again with the line ends of Unix (LF)."
        fail("StartFailed", f"the first line of {word} ends as on Windows, so no interpreter is found", word, [], hint)
    if interpreter and not os.access(interpreter, os.X_OK):
        fail("StartFailed", f"{word} names {interpreter} in its first line, which is not in the image", word, [], hint)
    if not os.access(file, os.X_OK):
        hint = hint if by else "Mark it as executable (chmod +x) where it is sent from."
        fail("StartFailed", f"{word} is started by itself, and is not marked as executable", word, [], hint)
    if not words and not line.startswith(b"\x7fELF"):
        fail("StartFailed", f"{word} is no program, and names no interpreter in its first line (#!)", word, [], hint)


def read_arguments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options with their values, and what stands behind them."""
    options: dict[str, str] = {}
    while words and words[0].startswith("--"):
        options[words[0]] = words[1]
        words = words[2:]
    return options, words


def main(mode: str, words: list[str]) -> None:
    """Check, copy, compile."""
    options, folders = read_arguments(words)
    root = WORK / "src" / options.get("--root", ".")
    entry = options.get("--entry", "handler.py" if mode == "handler" else "main.py")
    tree = check_source(root, entry, folders)
    if mode == "handler" and tree is not None:
        check_handler(tree, entry, options.get("--name", "handler"))
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".git")
    shutil.copytree(root, SOURCE, symlinks=True, ignore=ignored)
    for package, name in WRITTEN:
        if (PACKAGES / package).is_dir() and not os.path.lexists(SOURCE / name):
            (SOURCE / name).symlink_to(f"/tmp/{name}")
    if SERVER.is_dir():
        drop_server()
    imports = check_imports(SOURCE, PACKAGES, entry, folders) if entry else set()
    if PACKAGES.is_dir():
        check_libraries(PACKAGES, imports)
    if "--program" in options:
        check_program(options["--program"], PLACES)
    print(f"{compile_tree(SOURCE, '/app/src')} files compiled")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
