"""Build arguments: what a pipeline reads of a request beside runtime, version and target. Pure.

Each is a row with its meaning and an example, from which `docs/runtimes.md` has its tables. An argument becomes a word
of an argv or a file of ours, never a variable of a step: a variable can make a tool load code that nobody looked at.
The one exception is a list that is parsed to its last character (`private.py`).
"""

from __future__ import annotations

import difflib
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.globs import name_glob
from builder.plan import CopyFile
from builder.source.tree import Tree, match
from builder.text import strangers_json

MOST_WORDS = 1000
"""Words of a list: patterns, the words of a start command."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """A build argument as it is documented: `meaning` is a sentence fragment, `example` a value."""

    name: str
    meaning: str
    example: str


SUB_PATH = Argument(
    name="sub_path",
    meaning="the folder of the source that is built; the rest of what was sent stays readable (`../sibling`)",
    example="services/api",
)
START = Argument(
    name="start",
    meaning="the whole command that starts the artifact, as a JSON list of words, over whatever the plan chooses; "
    "`$NAME`, `${NAME}` and `${NAME:-default}` are replaced where it runs",
    example='["./app", "serve", "--listen=:$PORT"]',
)
FILES = Argument(
    name="files",
    meaning="files that the program reads at run time, put beside it at the same paths: files, folders and patterns "
    "(`*`, `?`, `**/`), apart by commas or as a JSON list. What starts with a dot is matched by name alone",
    example="templates,static/**/*.css",
)
START_CHECK = Argument(
    name="start_check",
    meaning="whether the artifact is started once beside the push: `off`, `warn` or `require`, over the server's "
    "setting of this name",
    example="require",
)
COMMON = (START_CHECK,)
"""Arguments of every runtime. They decide nothing of the artifact, and no plan reads them."""
COMMON_ARGS = tuple(one.name for one in COMMON)

_VARIABLE = "a program that runs later gets its variables where it runs (run --env K=V)"
_LINKER = "the dynamic linker loads what it names into every program of a step"
_SHELL = "a shell runs what it names before anything else"
_COMPILER = "it names a compiler or its options, which can run programs"
_INSTALLER = "it configures an installer, its indexes and its scripts"
_PROXY = "it leads the network of a step past the egress policy"
INJECTS: tuple[tuple[str, str], ...] = (
    ("LD_*", _LINKER),
    ("DYLD_*", _LINKER),
    ("GLIBC_TUNABLES", _LINKER),
    ("BASH_*", _SHELL),
    ("ENV", _SHELL),
    ("SHELLOPTS", _SHELL),
    ("PROMPT_COMMAND", _SHELL),
    ("PATH", "it decides which programs a step runs"),
    ("NODE_*", "node loads the modules that it names"),
    ("NPM_*", _INSTALLER),
    ("npm_*", _INSTALLER),
    ("DENO_*", "it configures deno, its permissions and its certificates"),
    ("PYTHON*", "the interpreter loads code by it"),
    ("PIP_*", _INSTALLER),
    ("UV_*", _INSTALLER),
    ("RUSTC*", "cargo runs the program that it names in the compiler's place"),
    ("RUSTFLAGS", _COMPILER),
    ("RUSTDOC*", _COMPILER),
    ("RUSTUP_*", "it decides which toolchain runs"),
    ("CARGO_*", "it configures cargo, with the programs that it runs"),
    ("CARGO", "it names the program that runs in cargo's place"),
    ("GO[A-Z]*", "it configures go, with its module proxy and the programs that it runs"),
    ("CGO_*", _COMPILER),
    ("CC", _COMPILER),
    ("CXX", _COMPILER),
    ("AR", _COMPILER),
    ("LD", _COMPILER),
    ("C*FLAGS", _COMPILER),
    ("LDFLAGS", _COMPILER),
    ("MAKEFLAGS", "make runs what it defines"),
    ("GIT_*", "git runs the programs that it names"),
    ("SSH_*", "ssh runs the programs that it names"),
    ("PERL5*", "the interpreter loads code by it"),
    ("RUBY*", "the interpreter loads code by it"),
    ("*JAVA*_OPTIONS", "the virtual machine loads code by it"),
    ("*_PROXY", _PROXY),
    ("*_proxy", _PROXY),
)
"""Names of variables by which code is injected, and how. No pipeline reads one, whatever its `BUILD_ARGS`."""


def names(rows: Sequence[Argument]) -> tuple[str, ...]:
    """The names of rows, as `BUILD_ARGS` has them."""
    return tuple(one.name for one in rows)


def check_values(given: Mapping[str, str]) -> None:
    """Refuse names that inject code, and values that are more than one word. A value may be a secret and is not shown.

    Raises `BuildError` BuildArgUnknown, InvalidRequest.
    """
    for name, value in sorted(given.items()):
        shown = name[:80]
        where = f"buildArgs.{shown}"
        for pattern, why in INJECTS:
            if name_glob(pattern).matches(name):
                raise BuildError("BuildArgUnknown", f'"{shown}" is refused as a build argument: {why}', where=where,
                                 next=f"Leave it out; {_VARIABLE}.")  # fmt: skip
        what = ""
        if any(unicodedata.category(character) == "Cc" for character in value):
            what = "holds a line end or another control character; a value is one word"
        elif value.startswith("-"):
            what = "starts with a dash, which a tool takes for an option"
        if what:
            raise BuildError("InvalidRequest", f"the build argument {shown} {what}", where=where)


def check_arguments(runtime: str, known: Sequence[str], given: Mapping[str, str]) -> None:
    """Refuse a build argument that no plan of the runtime reads, by its name only, and what `check_values` refuses.

    Raises `BuildError` BuildArgUnknown, InvalidRequest.
    """
    check_values(given)
    known = (*known, *COMMON_ARGS)
    if unknown := sorted(set(given) - set(known)):
        message = f'{runtime} has no build argument "{unknown[0][:80]}"; it takes {", ".join(known)}'
        asked = unknown[0][:80].lower().replace("-", "_")
        nearest = next(iter(difflib.get_close_matches(asked, known, n=1)), "")
        hint = f"Did you mean {nearest}?" if nearest else ""
        raise BuildError("BuildArgUnknown", message, where=f"buildArgs.{unknown[0][:80]}", next=hint)


def start_of(given: Mapping[str, str]) -> tuple[str, ...]:
    """The words of the argument `start`; none where it is absent. Raises `BuildError` InvalidRequest."""
    if START.name not in given:
        return ()
    words = _json_words(START.name, given[START.name])
    if not words or not words[0]:
        raise _no_list(START.name, "it has no program")
    if any("\0" in word for word in words):
        raise _no_list(START.name, "a word holds NUL")
    return words


def patterns_of(given: Mapping[str, str]) -> tuple[str, ...]:
    """The patterns of the argument `files`. Raises `BuildError` InvalidRequest for one that leads out of the source."""
    text = given.get(FILES.name, "").strip()
    words = _json_words(FILES.name, text) if text.startswith("[") else tuple(text.split(",")) if text else ()
    found = []
    for word in words:
        pattern = posixpath.normpath(word.strip()) if word.strip() else ""
        if not pattern or pattern.startswith(("/", "../")) or pattern == ".." or pattern.count("**") > 3:
            raise _no_list(FILES.name, f'"{word[:80]}" is no path or pattern below the folder that is built')
        found.append(pattern)
    return tuple(dict.fromkeys(found))


def beside(tree: Tree, folder: str, given: Mapping[str, str], out: str) -> tuple[CopyFile, ...]:
    """The files that `files` names of a folder of the source, for `Plan.placed`: at the same paths below `out`.

    Raises `BuildError` InvalidRequest where a pattern matches nothing.
    """
    top = "" if folder == "." else f"{folder}/"
    inside = tuple(path.removeprefix(top) for path in tree.files() if path.startswith(top))
    found: dict[str, None] = {}
    for pattern in patterns_of(given):
        # A folder stands for all that it holds; the root is no folder that anybody means by `*`.
        below = inside if pattern == "." else (*match(inside, pattern), *match(inside, f"{pattern}/**"))
        named = [path for path in below if not _is_hidden(path, pattern)]
        if not named:
            message = f'"{pattern[:80]}" matches no file of what was sent'
            hint = "Name files below the folder that is built, and send them: a folder is sent without what its "
            raise BuildError("InvalidRequest", message, where=f"buildArgs.{FILES.name}",
                             next=f"{hint}ignore rules leave out.")  # fmt: skip
        found |= dict.fromkeys(named)
    return tuple(CopyFile(path=f"{out}/{path}", source=top + path) for path in sorted(found))


def _is_hidden(path: str, pattern: str) -> bool:
    """Whether a part of the path starts with a dot that no part of the pattern names, as in a shell."""
    dotted = {part for part in pattern.split("/") if part.startswith(".") and part != "."}
    return any(
        part.startswith(".") and not any(name_glob(one).matches(part) for one in dotted) for part in path.split("/")
    )


def _json_words(name: str, text: str) -> tuple[str, ...]:
    try:
        value = strangers_json(text)
    except (ValueError, RecursionError):
        raise _no_list(name, "it is no JSON") from None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _no_list(name, "it is no list of strings")
    if len(value) > MOST_WORDS:
        raise _no_list(name, f"it has {len(value)} words, limit {MOST_WORDS}")
    return tuple(value)


def _no_list(name: str, why: str) -> BuildError:
    example = START.example if name == START.name else FILES.example
    message = f"the build argument {name} cannot be read: {why}"
    return BuildError("InvalidRequest", message, where=f"buildArgs.{name}", next=f"For example {name}={example}")
