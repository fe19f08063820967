"""Which modules of its own a Python source cannot start without."""

from __future__ import annotations

from collections.abc import Iterator

from builder.errors import BuildError
from builder.pipelines.base import Need
from builder.pipelines.limits import read_code
from builder.pipelines.python.entry import entry_of
from builder.pipelines.python.project import read_project
from builder.source.tree import Tree


def required_files(tree: Tree) -> Iterator[Need]:
    """The imports of the entry, and of the modules that it imports, file by file. What installs provide is among them;
    who asks knows which files there might have been."""
    try:
        entry = entry_of(tree, read_project(tree)).file
    except BuildError:  # the plan reports it
        return
    seen, pending = {entry}, [entry] if entry else []
    while pending:
        path = pending.pop()
        for number, module in _imported(read_code(tree, path)):
            base, top = module.replace(".", "/"), module.partition(".")[0]
            yield Need(where=f"{path}:{number}", what=f"imports {module}", paths=(f"{top}.py", top))
            for inner in (f"{base}.py", f"{base}/__init__.py"):
                if tree.has(inner) and inner not in seen:
                    seen.add(inner)
                    pending.append(inner)


def _imported(text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of the imports at the top of a module, outside of any `try` and `if`."""
    import ast  # nothing else here needs it

    try:
        parsed = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # whoever compiles it reports it
        return
    for node in parsed.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
