"""Rust: a package, a member of a workspace or a single file becomes one static binary or one component. Runs nothing.

With the network, and no line of the source: cargo resolves and downloads crates for stubs, manifests with empty
targets. Without it: crates that the node verified are unpacked, cargo compiles them for the stubs (code that a lock
pins by hash; the node stores the result), then the source with them, in a copy of that result that ends with the build.
"""

from __future__ import annotations

from collections.abc import Sequence

from builder.pipelines.arguments import FILES, START, SUB_PATH, Argument, names
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Diagnosis, Fetched, Plan, Step
from builder.source.tree import Tree

NAME = "rust"
EXTENSIONS: tuple[str, ...] = (".rs",)
ARGUMENTS = (
    Argument(
        name="entry",
        meaning="the program to build: a member of the workspace by name or folder, or a program by name or file",
        example="api",
    ),
    SUB_PATH,
    Argument(
        name="features",
        meaning="features of the package, apart by commas; `no-default` among them leaves the default ones out",
        example="tls,json",
    ),
    FILES,
    START,
)
BUILD_ARGS: tuple[str, ...] = names(ARGUMENTS)
NO_PROGRAM = "The target that is built must be a program for linux/amd64."
NOT_STATIC = "Link it statically: leave out what says otherwise, such as -crt-static in .cargo/config.toml."
_OTHERS = (
    ".py", "pyproject.toml", "requirements.txt", "Pipfile", ".ts", ".js", ".json", ".jsonc", ".mod", ".go", ".work",
)  # fmt: skip
"""What names another runtime at the root, beside which src/ holds a part in Rust."""
SAMPLE = {
    "Cargo.toml": '[package]\nname = "sample"\nversion = "0.1.0"\nedition = "2021"\n',
    "src/main.rs": "fn main() {}\n",
}


def detect(tree: Tree) -> Detection | None:
    """Cargo.toml, main.rs or lib.rs at the root; src/main.rs or src/lib.rs where no manifest of another is beside it.

    A source without its Cargo.toml is refused by that name.
    """
    from builder.pipelines.rust.manifest import MANIFEST

    for name in (MANIFEST, "main.rs", "lib.rs"):
        if tree.has(name):
            return Detection(runtime=NAME, because=f"{name} is at the root")
    if any("/" not in path and path.endswith(_OTHERS) for path in tree.files()):
        return None
    found = next((name for name in ("src/main.rs", "src/lib.rs") if tree.has(name)), "")
    return Detection(runtime=NAME, because=f"{found} is there") if found else None


def looks_like(source: bytes) -> bool:
    """The macro, or a `fn main` at the start of a line."""
    text = b"\n" + source
    return b"#[ignite::main]" in text or b"\nfn main(" in text or b"\npub fn main(" in text


def single_file_name(source: bytes) -> str:
    """A single Rust file is main.rs: the macro makes its program."""
    return "main.rs"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Fetch crates (network, stubs), unpack and compile them (none), then compile the source (none)."""
    from builder.pipelines.rust import planning

    return planning.plan(tree, detection, request, catalog)


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What a failed step's last lines mean."""
    from builder.pipelines.rust import diagnosis

    return diagnosis.diagnose(step, exit_code, lines)


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The crates that the stubs' lock pins, and those of the SDK's."""
    from builder.pipelines.rust import planning

    return planning.fetched(plan, stubs)
