"""Plans of Python: loaded once a source of it is planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from builder.errors import BuildError
from builder.pipelines.arguments import SUB_PATH
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.python import NAME, wheels
from builder.pipelines.python.entry import COMMAND, FUNCTION, HANDLER, Entry, entry_of
from builder.pipelines.python.manifest import (
    manifest_of_stub,
    read_dependencies,
    stub_of,
)
from builder.pipelines.python.needs import NAME as NAME_OF_PACKAGE
from builder.pipelines.python.needs import Dependencies
from builder.pipelines.python.project import read_project
from builder.pipelines.python.servers import bundled
from builder.pipelines.python.versions import wanted_version
from builder.pipelines.python.wheels import (
    CACHE,
    CONSTRAINTS,
    DOWNLOAD,
    INSTALL,
    INSTALL_BUILT,
    LOCK,
    SERVER,
    SERVER_INSTALL,
    SERVER_LOCK,
)
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
from builder.source.tree import SubTree, Tree

SDK = "/opt/ignite/sdk/python"
UV = "/opt/ignite/toolchain/uv/uv"
LOCKED = "uv.lock.txt"
PROJECT = "project"
FETCH = "/work/fetch"
_PACKAGES = f"{FETCH}/deps"
_SERVER_FOLDER = "/work/out/server"
"""A copy for each build: its check empties the folder where the app brings a server."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Install dependencies (network, no code), then check and compile (no network)."""
    folder = folder_of(tree, request.build_args.get(SUB_PATH.name, ""))
    top = "" if folder == "." else f"{folder}/"
    tree = SubTree(tree, folder) if top else tree
    whole = read_project(tree)
    rows = tuple(row for row in catalog.rows if row.toolchain.runtime == NAME)
    wanted = wanted_version(tree, rows, catalog.find(NAME).version, request.version)
    row = catalog.find(NAME, wanted.version, request.target)
    release = next((one.release for one in rows if one.toolchain == row), "") or f"{row.version}.0"
    needs = read_dependencies(tree, release, _listed(request, "extras"), _listed(request, "groups"))
    paths = tuple(dict.fromkeys(path for one in needs.locals for path in one.paths if path != "."))
    entry = entry_of(tree, whole, paths, request.build_args, needs.names)
    paths = tuple(dict.fromkeys((*([entry.folder] if entry.folder else []), *paths)))
    _refuse_shadowed(tree, entry)
    python = f"/usr/bin/python{row.version}"
    server = bundled(entry.kind, needs.names) if entry.is_application else ()
    argv = (python, "-I", "-B", f"{SDK}/build/check_and_compile.py", *_checked(entry, folder), *paths)
    compile_step = Step(name="compile", argv=argv, runs_source=False, env=(("PYTHONHASHSEED", "0"),))
    stubs, copies = _stubs(needs)
    listed = f"{needs.count} in {needs.manifest}" if needs.manifest else "none"
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=wanted.why),
            Choice(name="entry", value=entry.shown, why=entry.why),
            *(
                (Choice(name="server", value=_served(entry, server), why="serves the application"),)
                if entry.is_application
                else ()
            ),
            Choice(name="dependencies", value=listed, why="wheels, else sdists that are built apart"),
            *((Choice(name="path", value=", ".join(paths), why="packages of the source"),) if paths else ()),
        ),
        steps=(*_install(needs, python, server), compile_step),
        output=Output(
            layers=tuple(_layers(needs, server)),
            entrypoint=(python, "-B", *_started(entry)),
            env=(*entry.env, *_environment(needs, paths)) if entry.kind != COMMAND else _environment(needs, paths),
            workdir="/app/src",
            summary=f"{entry.shown} on Python {row.version}, user 65532",
        ),
        stubs=(*stubs, *((WriteFile(path=SERVER, content="".join(f"{line}\n" for line in server)),) if server else ())),
        copies=tuple(replace(copy, source=top + copy.source) for copy in copies),
        files=tuple(replace(file, path=top + file.path) for one in needs.locals for file in one.files),
        warnings=(*wanted.warnings, *needs.warnings, *entry.warnings),
        materials=tuple(top + name for name in needs.files),
    )


def _listed(request: PlanRequest, name: str) -> tuple[str, ...]:
    """A build argument that lists names, apart by commas. Raises `BuildError` InvalidRequest."""
    listed = [one.strip() for one in request.build_args.get(name, "").split(",") if one.strip()]
    if odd := next((one for one in listed if len(one) > 100 or not NAME_OF_PACKAGE.fullmatch(one)), ""):
        message = f"{name} takes names apart by commas; {odd[:40]} is none"
        raise BuildError("InvalidRequest", message, where=f"buildArgs.{name}")
    return tuple(dict.fromkeys(listed))


def _layers(needs: Dependencies, server: tuple[str, ...]) -> Iterator[LayerSource]:
    yield LayerSource(source=f"{SDK}/front", dest="/ignite", created_by="ignite: python front")
    if server:
        yield LayerSource(source=_SERVER_FOLDER, dest="/app/server", created_by="ignite: python server")
    if needs.manifest:
        yield LayerSource(source=_PACKAGES, dest="/app/deps", created_by="ignite: dependencies")
    yield LayerSource(source="/work/out/src", dest="/app/src", created_by="ignite: source")


def _started(entry: Entry) -> tuple[str, ...]:
    """What the interpreter of the image is started with."""
    if entry.kind == HANDLER:
        return ("/ignite/serve.py", *((entry.target,) if entry.target else ()))
    if entry.is_application:
        return ("/ignite/serve_app.py", entry.kind, entry.target)
    if entry.kind == FUNCTION:
        module, _, name = entry.target.partition(":")
        return ("-c", f"import sys; from {module} import {name}; sys.exit({name}())")
    if entry.kind == COMMAND:
        return ("/ignite/start.py", *(f"{name}={value}" for name, value in entry.env), "--", *entry.argv)
    return (f"/app/src/{entry.file}",)


def _checked(entry: Entry, folder: str) -> tuple[str, ...]:
    """What the check learns of the entry: how it starts, its folder, its file, its name and its program."""
    words = [HANDLER if entry.kind == HANDLER else "server"]
    if folder != ".":
        words += ["--root", folder]
    usual = "handler.py" if entry.kind == HANDLER else "main.py"
    if entry.file != usual:
        words += ["--entry", entry.file]
    name = entry.target.removesuffix("()").partition(":")[2]
    if name and not (entry.kind == HANDLER and name == HANDLER):
        words += ["--name", name]
    if entry.kind == COMMAND:
        words += ["--program", entry.argv[0]]
    return tuple(words)


def _served(entry: Entry, server: tuple[str, ...]) -> str:
    ours = " or ".join(line.partition("==")[0] for line in server if line.partition("==")[0] in ("uvicorn", "waitress"))
    return f"the app's own, else {ours}" if ours else "the app's own"


def _environment(needs: Dependencies, paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Packages of the source come behind those of indexes, as with editable installs; PATH has their programs."""
    places = ("/app/src", "/app/deps", *(f"/app/src/{path}" for path in paths), "/ignite")
    programs = (("PATH", f"/app/deps/bin:{_PATH}"),) if needs.manifest else ()
    return (*programs, ("PYTHONPATH", ":".join(places)), ("PYTHONUNBUFFERED", "1"))


def _refuse_shadowed(tree: Tree, entry: Entry) -> None:
    """Python imports the folder of two that have one name, so the front would start another file than the one read."""
    folder = entry.file.removesuffix(".py")
    imported = entry.kind == HANDLER or entry.is_application
    if imported and entry.file.endswith(".py") and tree.has(f"{folder}/__init__.py"):
        message = f"{entry.file} and the package {folder}/ have one name, and Python imports the package"
        hint = f"Rename the folder {folder}/, and the imports of it."
        raise BuildError("EntryPointMissing", message, where=f"{folder}/__init__.py", next=hint)


def _stubs(needs: Dependencies) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """What a step with the network sees: flat requirements of ours, or a `uv.lock` beside a manifest of ours."""
    if not needs.manifest:
        return (), ()
    if needs.project:
        project = WriteFile(path=f"{PROJECT}/pyproject.toml", content=needs.project)
        if needs.text:
            return (project, WriteFile(path=f"{PROJECT}/uv.lock", content=needs.text)), ()
        return (project,), (CopyFile(path=f"{PROJECT}/uv.lock", source="uv.lock"),)
    made = [WriteFile(path=stub_of(needs.manifest), content="".join(f"{line}\n" for line in needs.requirements))]
    if needs.constraints:
        made.append(WriteFile(path=CONSTRAINTS, content="".join(f"{line}\n" for line in needs.constraints)))
    return tuple(made), ()


def _install(needs: Dependencies, python: str, server: tuple[str, ...]) -> tuple[Step, ...]:
    """Resolve and download with the network, install without. Only a `uv.lock` is turned into requirements first.

    A server of ours is resolved and installed by itself, so that it changes no version of the source's packages.
    """
    common = ("--no-config", "--python", python)
    binary = ("--only-binary", ":all:", *common)
    groups = tuple(word for group in needs.groups for word in ("--group", group))
    groups += tuple(word for extra in needs.extras for word in ("--extra", extra))
    steps: list[Step] = []
    index = Cache(name="uv-index", access=Access.WRITE)
    if needs.manifest and needs.project:
        argv: tuple[str, ...] = (
            UV, "export", "--quiet", "--frozen", "--offline", *common, "--no-dev", *groups, "--no-emit-local",
            "--no-header", "--no-annotate", "--cache-dir", "/cache/uv-index", "--output-file", f"{FETCH}/{LOCKED}",
        )  # fmt: skip
        steps.append(_stub_step("read lock", argv, caches=(index,), cwd=f"{FETCH}/{PROJECT}"))
    resolving = ("pip", "compile", "--quiet", "--no-sources", *binary, "--no-header", "--format", "pylock.toml")
    if needs.manifest:
        argv = (
            python, "-I", "-S", "-B", f"{SDK}/build/resolve.py", "--", UV, *resolving,
            *(("--no-deps",) if needs.complete else ()),
            *(("--prerelease", "allow") if needs.prerelease else ()),
            *(("--constraint", CONSTRAINTS) if needs.constraints else ()),
            "--cache-dir", "/cache/uv-index", "--output-file", LOCK, stub_of(needs.manifest),
        )  # fmt: skip
        steps.append(_stub_step("resolve dependencies", argv, network=Network.INDEX, caches=(index,)))
    if server:
        argv = (UV, *resolving, "--no-deps", "--cache-dir", "/cache/uv-index", "--output-file", SERVER_LOCK, SERVER)
        steps.append(_stub_step("resolve server", argv, network=Network.INDEX, caches=(index,)))
    if not steps:
        return ()
    argv = (
        python, "-I", "-S", "-B", f"{SDK}/build/download.py", DOWNLOAD, "/cache/wheels", "/work/download/wheels",
    )  # fmt: skip
    downloaded = Cache(name=CACHE, access=Access.DOWNLOAD)
    steps.append(_stub_step("download wheels", argv, network=Network.INDEX, caches=(downloaded,)))
    if needs.manifest:
        argv = (python, "-I", "-B", f"{SDK}/build/build_sdist.py", UV)
        build = Step(
            name="build sdists", argv=argv, sees=Sees.APART, caches=(Cache(name=CACHE, access=Access.READ),),
            env=(("WHEELS", "/cache/wheels"),), cwd="/work/home",
        )  # fmt: skip
        steps.append(build)
    # The server first: a result that is made, not found, turns what is shown into a copy.
    if server:
        steps.append(_install_step("install server", python, _SERVER_FOLDER, "/app/server", (SERVER_INSTALL,)))
    if needs.manifest:
        lists = (INSTALL, INSTALL_BUILT)
        steps.append(_install_step("install dependencies", python, _PACKAGES, "/app/deps", lists))
    return tuple(steps)


def _install_step(name: str, python: str, folder: str, place: str, lists: tuple[str, ...]) -> Step:
    """Install into a folder and compile there: all that follows from wheels, and so is made once for each lock."""
    argv = (
        python, "-I", "-B", f"{SDK}/build/install.py", folder, place,
        UV, "pip", "install", "--offline", "--no-index", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--no-config", "--python", python, "--", *lists,
    )  # fmt: skip
    caches = tuple(Cache(name=cache, access=Access.READ) for cache in (CACHE, "built"))
    env = (("BUILT", "/cache/built"), ("WHEELS", "/cache/wheels"))
    step = _stub_step(name, argv, caches=caches, env=env)
    return replace(step, result=folder, shown=folder == _PACKAGES)


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
    resolved = next((step.argv[-1] for step in plan.steps if step.name == "resolve dependencies"), "")
    with_server = any(stub.path == SERVER for stub in plan.stubs)
    stub, manifest = resolved, manifest_of_stub(resolved)
    return wheels.fetched(stubs, stub, manifest, plan.toolchain.version, with_server=with_server)
