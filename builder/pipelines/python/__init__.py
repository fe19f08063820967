"""Python: handler.py (or main.py as its own server) with wheels from what the source names. Runs nothing.

With the network, and no file of the source but a lock: uv resolves requirements that this package wrote from what it
parsed, and a program of ours downloads the wheels. Without it: uv installs the wheels that the node verified, then the
runtime's own Python checks and compiles the source, so that its syntax decides. None of these runs code of the source;
the last one sees all of it and has no cache.
"""

from __future__ import annotations

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.pipelines.python import wheels
from builder.pipelines.python.diagnosis import diagnose as diagnose
from builder.pipelines.python.manifest import MANIFESTS, read_dependencies
from builder.pipelines.python.needs import Dependencies
from builder.pipelines.python.required import required_files as required_files
from builder.pipelines.python.versions import wanted_version
from builder.pipelines.python.wheels import CACHE, CONSTRAINTS, DOWNLOAD, INSTALL, LOCK
from builder.plan import (
    Access,
    Cache,
    Choice,
    CopyFile,
    Detection,
    Fetched,
    LayerSource,
    Network,
    Output,
    Plan,
    Sees,
    Step,
    WriteFile,
)
from builder.source.tree import Tree

NAME = "python"
EXTENSIONS: tuple[str, ...] = (".py",)
BUILD_ARGS: tuple[str, ...] = ()
SDK = "/opt/ignite/sdk/python"
UV = "/opt/ignite/toolchain/uv/uv"
LOCKED = "uv.lock.txt"
PROJECT = "project"
FETCH = "/work/fetch"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def detect(tree: Tree) -> Detection | None:
    """handler.py, main.py, or a manifest of dependencies at the root."""
    for name in ("handler.py", "main.py", *MANIFESTS):
        if tree.has(name):
            return Detection(runtime=NAME, because=f"{name} is at the root")
    return None


def looks_like(source: bytes) -> bool:
    """Any text may be Python, so this runtime stands last in the list."""
    return True


def single_file_name(source: bytes) -> str:
    """A single Python file is handler.py."""
    return "handler.py"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Install dependencies (network, no code), then check and compile (no network)."""
    entry = next((name for name in ("handler.py", "main.py") if tree.has(name)), "")
    if not entry:
        raise _no_entry(tree)
    _refuse_shadowed(tree, entry)
    rows = tuple(row for row in catalog.rows if row.toolchain.runtime == NAME)
    wanted = wanted_version(tree, rows, catalog.find(NAME).version, request.version)
    row = catalog.find(NAME, wanted.version, request.target)
    python = f"/usr/bin/python{row.version}"
    needs = read_dependencies(tree)
    paths = tuple(dict.fromkeys(path for one in needs.locals for path in one.paths if path != "."))
    mode = "handler" if entry == "handler.py" else "server"
    argv = (python, "-I", "-B", f"{SDK}/build/check_and_compile.py", mode, *paths)
    compile_step = Step(name="compile", argv=argv, runs_source=False, env=(("PYTHONHASHSEED", "0"),))
    front = LayerSource(source=f"{SDK}/front", dest="/ignite", created_by="ignite: python front")
    deps = LayerSource(source="/work/out/deps", dest="/app/deps", created_by="ignite: dependencies")
    app = LayerSource(source="/work/out/src", dest="/app/src", created_by="ignite: source")
    start = "/ignite/serve.py" if mode == "handler" else "/app/src/main.py"
    stubs, copies = _stubs(needs)
    names = f"{needs.count} in {needs.manifest}" if needs.manifest else "none"
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=wanted.why),
            Choice(
                name="entry", value=entry, why="handler(payload, ctx)" if mode == "handler" else "its own HTTP server"
            ),
            Choice(name="dependencies", value=names, why="wheels only, by uv"),
            *((Choice(name="path", value=", ".join(paths), why="packages of the source"),) if paths else ()),
        ),
        steps=(*_install(needs, python), compile_step),
        output=Output(
            layers=(front, deps, app) if needs.manifest else (front, app),
            entrypoint=(python, "-B", start),
            env=_environment(needs, paths),
            workdir="/app/src",
            summary=f"{entry} on Python {row.version}, user 65532",
        ),
        stubs=stubs,
        copies=copies,
        files=tuple(file for one in needs.locals for file in one.files),
        warnings=(*wanted.warnings, *needs.warnings),
        materials=needs.files,
    )


def _environment(needs: Dependencies, paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Packages of the source come behind those of indexes, as with editable installs; PATH has their programs."""
    places = ("/app/src", "/app/deps", *(f"/app/src/{path}" for path in paths), "/ignite")
    programs = (("PATH", f"/app/deps/bin:{_PATH}"),) if needs.manifest else ()
    return (*programs, ("PYTHONPATH", ":".join(places)), ("PYTHONUNBUFFERED", "1"))


def _refuse_shadowed(tree: Tree, entry: str) -> None:
    """Python imports the folder of two that have one name, so the front would start another file than the one read."""
    folder = entry.removesuffix(".py")
    if entry == "handler.py" and tree.has(f"{folder}/__init__.py"):
        message = f"{entry} and the package {folder}/ have one name, and Python imports the package"
        hint = f"Rename the folder {folder}/, and the imports of it."
        raise BuildError("EntryPointMissing", message, where=f"{folder}/__init__.py", next=hint)


def _no_entry(tree: Tree) -> BuildError:
    here = [path for path in tree.glob("*.py")]
    deeper = [path for path in tree.files() if path.endswith(("/handler.py", "/main.py"))]
    has = f"; there is {', '.join(here[:4])}" if here else f"; {deeper[0]} is too deep" if deeper else ""
    folder = f"Build the folder {deeper[0].rpartition('/')[0]}, or add" if deeper and not here else "Add"
    return BuildError(
        "EntryPointMissing",
        f"there is neither handler.py nor main.py at the root{has}",
        next=f"{folder} handler.py with `def handler(payload, ctx)`.",
    )


def _stub(manifest: str) -> str:
    """The file of requirements that a manifest becomes: uv's messages name it."""
    return manifest if manifest == "requirements.txt" else f"{manifest}.txt"


def _stubs(needs: Dependencies) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """What a step with the network sees: flat requirements of ours, or a `uv.lock` beside a manifest of ours."""
    if not needs.manifest:
        return (), ()
    if needs.project:
        project = WriteFile(path=f"{PROJECT}/pyproject.toml", content=needs.project)
        return (project,), (CopyFile(path=f"{PROJECT}/uv.lock", source="uv.lock"),)
    made = [WriteFile(path=_stub(needs.manifest), content="".join(f"{line}\n" for line in needs.requirements))]
    if needs.constraints:
        made.append(WriteFile(path=CONSTRAINTS, content="".join(f"{line}\n" for line in needs.constraints)))
    return tuple(made), ()


def _install(needs: Dependencies, python: str) -> tuple[Step, ...]:
    """Resolve and download with the network, install without. Only a `uv.lock` is turned into requirements first."""
    if not needs.manifest:
        return ()
    common = ("--no-config", "--python", python)
    binary = ("--only-binary", ":all:", *common)
    groups = tuple(word for group in needs.groups for word in ("--group", group))
    steps: tuple[Step, ...] = ()
    if needs.project:
        argv: tuple[str, ...] = (
            UV, "export", "--quiet", "--frozen", "--offline", *common, "--no-dev", *groups, "--no-emit-local",
            "--no-header", "--no-annotate", "--cache-dir", "/cache/uv-index", "--output-file", f"{FETCH}/{LOCKED}",
        )  # fmt: skip
        cwd = f"{FETCH}/{PROJECT}"
        steps = (_stub_step("read lock", argv, caches=(Cache(name="uv-index", access=Access.WRITE),), cwd=cwd),)
    argv = (
        UV, "pip", "compile", "--quiet", "--no-sources", *binary, "--no-header", "--format", "pylock.toml",
        *(("--no-deps",) if needs.complete else ()), *(("--prerelease", "allow") if needs.prerelease else ()),
        *(("--constraint", CONSTRAINTS) if needs.constraints else ()),
        "--cache-dir", "/cache/uv-index", "--output-file", LOCK, _stub(needs.manifest),
    )  # fmt: skip
    index = Cache(name="uv-index", access=Access.WRITE)
    resolve = _stub_step("resolve dependencies", argv, network=Network.INDEX, caches=(index,))
    argv = (
        python, "-I", "-S", "-B", f"{SDK}/build/download.py", DOWNLOAD, "/cache/wheels", "/work/download/wheels",
    )  # fmt: skip
    downloaded = Cache(name=CACHE, access=Access.DOWNLOAD)
    download = _stub_step("download wheels", argv, network=Network.INDEX, caches=(downloaded,))
    argv = (
        UV, "pip", "install", "--offline", "--no-index", "--no-deps", "--require-hashes", *binary,
        "--target", "/work/out/deps", "--link-mode", "copy", "--cache-dir", "/cache/uv-wheels", "-r", INSTALL,
    )  # fmt: skip
    install = _stub_step(
        "install dependencies",
        argv,
        caches=(Cache(name=CACHE, access=Access.READ), Cache(name="uv-wheels", access=Access.WRITE)),
        env=(("WHEELS", "/cache/wheels"),),
    )
    return (*steps, resolve, download, install)


def _stub_step(
    name: str,
    argv: tuple[str, ...],
    *,
    caches: tuple[Cache, ...],
    network: Network = Network.NONE,
    env: tuple[tuple[str, str], ...] = (),
    cwd: str = FETCH,
) -> Step:
    return Step(
        name=name, argv=argv, network=network, sees=Sees.STUBS, runs_source=False, caches=caches, env=env, cwd=cwd
    )


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """The wheels that the resolver chose, once it has."""
    if not any(step.name == "download wheels" for step in plan.steps):
        return None
    manifest = next(name for name in MANIFESTS if name in plan.materials)
    return wheels.fetched(stubs, _stub(manifest), manifest, plan.toolchain.version)
