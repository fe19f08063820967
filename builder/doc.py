"""Write the generated parts of `docs/`: `python -m builder.doc [--check]`. The code is the source of every page."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from builder import pipelines
from builder.errors import REASONS
from builder.pipelines.arguments import INJECTS
from builder.store import transitions

PACKAGE = Path(__file__).resolve().parent
DOCS = PACKAGE.parent / "docs"
BEGIN, END = "<!-- modules -->", "<!-- /modules -->"
ARGUMENTS = ("<!-- build arguments -->", "<!-- /build arguments -->")


def errors_page() -> str:
    """`docs/errors.md`: one row for each reason."""
    rows = [
        f"| {reason.name} | {reason.error_class} | {'yes' if reason.retried else 'no'} | {reason.http} "
        f"| {reason.grpc} | {reason.exit_code} | {reason.hint} |"
        for reason in sorted(REASONS.values(), key=lambda one: (str(one.error_class), one.name))
    ]
    head = "| reason | whose | retried | HTTP | gRPC | exit code | what to do |\n|---|---|---|---|---|---|---|"
    intro = "# Reasons\n\nGenerated from `builder/errors.py` by `make generate`.\n"
    return "\n".join([intro, head, *rows]) + "\n"


@functools.cache
def parts() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each package or module below `builder/`: its first docstring sentence, and the others it imports."""
    found: dict[str, tuple[str, set[str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        name = relative.parts[0].removesuffix(".py")
        if name == "__init__" or "dodil" in relative.parts or "migrations" in relative.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_front = len(relative.parts) == 1 or relative.parts[1:] == ("__init__.py",)
        said = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ") if is_front else ""
        first, used = found.get(name, ("", set()))
        found[name] = (said or first, used | _imports(tree))
    return {name: (said, tuple(sorted(used - {name}))) for name, (said, used) in sorted(found.items())}


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement of a module, however deep it stands. Its expressions, which are most of a tree, have none."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):  # of a lambda or a conditional expression it is one expression
                waiting += inner
        yield node


def _imports(tree: ast.Module) -> set[str]:
    used = set()
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "builder":
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("builder."):
            used.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            used |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("builder.")}
    return used


def architecture_page(text: str) -> str:
    """`docs/architecture.md` with its table of modules and arrows."""
    rows = [f"| `{name}` | {said} | {', '.join(used)} |" for name, (said, used) in parts().items()]
    table = "\n".join(["| module | its one job | imports |", "|---|---|---|", *rows])
    return _between(text, (BEGIN, END), table)


def runtimes_page(text: str) -> str:
    """`docs/runtimes.md` with a table of build arguments for each runtime, and the names that are refused."""
    lines = []
    for runtime, rows in pipelines.argument_rows().items():
        lines += [f"### {runtime.capitalize()}", "", "| argument | meaning | example |", "|---|---|---|"]
        lines += [f"| `{row.name}` | {row.meaning} | `{row.example}` |" for row in rows]
        lines.append("")
    by_why: dict[str, list[str]] = {}
    for pattern, why in INJECTS:
        by_why.setdefault(why, []).append(f"`{pattern}`")
    lines += ["### Refused for every runtime", "", "| name | why |", "|---|---|"]
    lines += [f"| {', '.join(patterns)} | {why} |" for why, patterns in by_why.items()]
    return _between(text, ARGUMENTS, "\n".join(lines))


def _between(text: str, marks: tuple[str, str], made: str) -> str:
    """A page with a generated part between two marks."""
    begin, end = marks
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{made}\n{end}{rest.partition(end)[2]}"


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    architecture, runtimes = DOCS / "architecture.md", DOCS / "runtimes.md"
    return {
        DOCS / "errors.md": errors_page(),
        DOCS / "states.md": transitions.page(),
        architecture: architecture_page(architecture.read_text(encoding="utf-8")),
        runtimes: runtimes_page(runtimes.read_text(encoding="utf-8")),
    }


def main(arguments: list[str]) -> int:
    """Write, or with `--check` compare."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"stale: {path.name}; run: make generate", file=sys.stderr)
        else:
            path.write_text(pages()[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
