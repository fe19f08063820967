"""Go: a module with package main, or a single main.go, becomes one static binary. Runs nothing.

`import "ignite"` is resolved to the bundled SDK by a `replace` in the working copy's go.mod (vendored modules: by an
overlay); the source as it was sent stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.pipelines.arguments import FILES, START, SUB_PATH, Argument, names
from builder.pipelines.base import Need, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.pipelines.private import PATHS, SECRET
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import Tree

NAME = "go"
EXTENSIONS: tuple[str, ...] = (".go",)
ARGUMENTS = (
    Argument(
        name="entry",
        meaning="the package main to build: its folder, its import path, or a file of it",
        example="./cmd/server",
    ),
    SUB_PATH,
    START,
    FILES,
    Argument(
        name="cgo",
        meaning="`1` builds files with cgo, into a static binary. The C compiler runs code of the source: what it "
        "writes to the compiler's cache ends with it. Takes the toolchain image of its version, which has a C compiler",
        example="1",
    ),
    Argument(name="tags", meaning="build tags, apart by commas", example="netgo,sqlite_omit"),
    Argument(
        name="ldflags_x",
        meaning="string variables that the linker sets (`-X`): `PACKAGE.NAME=VALUE`, apart by commas, or a JSON object",
        example="main.version=1.4.0,example.com/app/build.commit=7f3a9c",
    ),
    PATHS,
    SECRET,
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
MANIFESTS: tuple[str, ...] = ("go.mod",)
NO_PROGRAM = "The package that is built must be a program (package main) for linux/amd64."
NOT_STATIC = "Link it statically: leave out what says otherwise, such as -buildmode=pie."
SAMPLE = {"go.mod": "module sample\n\ngo 1.22\n", "main.go": "package main\n\nfunc main() {}\n"}


def detect(tree: Tree) -> Detection | None:
    """go.mod, go.work or a Go file at the root."""
    roots = ("go.mod", "go.work", "main.go", *(path for path in tree.glob("*.go") if not path.endswith("_test.go")))
    found = next((path for path in roots if tree.has(path)), "")
    return Detection(runtime=NAME, because=f"{found} is at the root") if found else None


def looks_like(source: bytes) -> bool:
    """A package clause of a program, at the start of a line."""
    return b"\npackage main" in b"\n" + source


def single_file_name(source: bytes) -> str:
    """A single Go file is main.go."""
    return "main.go"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Download modules (network) where any are needed, then look for cgo in them and compile (none)."""
    from builder.pipelines.go import planning

    return planning.plan(tree, detection, request, catalog)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What a failed step's last lines mean."""
    from builder.pipelines.go import diagnosis

    return diagnosis.diagnose(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The modules that the sums pin: the source's own, or the ones that `go` wrote beside the stubs."""
    from builder.pipelines.go import planning

    return planning.fetched(plan, stubs)


def required_files(tree: Tree) -> Iterator[Need]:
    """The files that a source embeds."""
    from builder.pipelines.go import required

    yield from required.required_files(tree)
