"""Plans of Deno: loaded once a source of it is planned."""

from __future__ import annotations

import posixpath
import re

from builder.errors import BuildError
from builder.pipelines.arguments import start_of
from builder.pipelines.base import PlanRequest, folder_of
from builder.pipelines.catalog import Catalog
from builder.pipelines.deno import NAME
from builder.pipelines.deno import lock as locks
from builder.pipelines.deno import remote as modules
from builder.pipelines.deno.jsonc import read_json, table
from builder.pipelines.deno.lock import CACHE, LIST, LOCK
from builder.pipelines.deno.project import (
    SDK_NAME,
    Need,
    Project,
    Reached,
    configurations_above,
    entry_of,
    npm_needs,
    reach,
    read_project,
)
from builder.pipelines.deno.remote import Remote, remote_of
from builder.pipelines.deno.versions import wanted_version
from builder.pipelines.launcher import names_variables
from builder.pipelines.limits import LOCK_LIMIT
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

DENO = "/opt/ignite/toolchain/deno/deno"
SDK = "/opt/ignite/sdk/deno"
MOD = f"file://{SDK}/sdk/mod.ts"
FETCH = "/work/fetch"
STUB = "imports.ts"
DENO_DIR = "/work/out/deno"
"""Deno's cache in the step that installs and checks."""
RUN = "/opt/deno/bin/deno"
"""Deno's own place in an artifact."""
_PATH = "/opt/deno/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALLOWED = (
    "--allow-env",
    "--allow-net",
    "--allow-read=/app,/opt/ignite,/tmp",
    "--allow-sys=cpus,gid,homedir,hostname,networkInterfaces,osRelease,systemMemoryInfo,uid",
    "--allow-write=/tmp",
)
"""What every app may: nothing of `run`, `ffi` and `import`."""
_MORE = {
    "ffi": "--allow-ffi",
    "read": "--allow-read",
    "run": "--allow-run",
    "sys": "--allow-sys",
    "write": "--allow-write",
}
_QUIET = (("DENO_NO_PROMPT", "1"), ("DENO_NO_UPDATE_CHECK", "1"))
_LAUNCHER = (
    RUN, "run", "--no-prompt", "--no-config", "--no-lock", "--no-npm", "--cached-only", "--allow-env", "--allow-ffi",
    "/ignite/start.js", "--",
)  # fmt: skip
"""What becomes a start command: what that one may is for its own words to say."""
_LAUNCHES = "ignite: launcher"
_SCRIPT = re.compile(r"(?:@[\w.~-]{1,214}/)?[\w.~-]{1,214}")


def plan(tree: Tree, detection: Detection, request: PlanRequest, catalog: Catalog) -> Plan:
    """Lock and download (network, stubs), unpack, then install and check (none)."""
    home = folder_of(tree, request.build_args.get("sub_path", ""))
    project = read_project(tree, home)
    entry, why = entry_of(project, request.build_args.get("entry", ""))
    rows = tuple(row for row in catalog.rows if row.toolchain.runtime == NAME)
    wanted = wanted_version(tree, home, rows, catalog.find(NAME).version, request.version)
    row = catalog.find(NAME, wanted.version, request.target)
    reached = reach(project, entry)
    needs = npm_needs(project, reached)
    warnings = list(wanted.warnings)
    lock = read_json(project.tree, project.lock, LOCK_LIMIT, comments=False) if project.lock else {}
    remote = remote_of(project, reached, lock, request.import_hosts, entry)
    packaged = bool(needs or (remote.allowed and table(lock, "npm")))  # a module may import a package
    if project.lock:
        locks.check_format(project.tree, lock, project.lock, row.version)
    elif needs:
        warnings.append(
            f"{LOCK} is absent: took the newest versions that fit; commit {LOCK} to pin them (deno install)"
        )
    if any(project.tree.has(name) for name in (".npmrc",)):
        warnings.append(".npmrc is not read: the operator's settings name the registry")
    if remote.skipped:
        skipped = ", ".join(host.removesuffix(":443") for host in remote.skipped[:4])
        warnings.append(f"{project.lock} pins modules of {skipped}, not in {modules.SETTING}: they are not fetched")
    scripts = _scripts(request)
    mode = _mode(project, reached, entry)
    main = (
        [f"{SDK}/sdk/serve.ts", f"/app/{_below(home, entry)}"] if mode == "fetch" else [f"/app/{_below(home, entry)}"]
    )
    named = [f"{len(needs)} npm packages named"] if needs else []
    named += [f"modules of {host.removesuffix(':443')}" for host in remote.hosts]
    named += ["packages of JSR"] if remote.jsr else []
    named += ["modules of vendor/"] if remote.vendored else []
    fetches, vendor = packaged or remote.fetched, bool(remote.allowed)
    configuration = project.configuration(MOD, lax=request.single_file, vendor=vendor)
    above = configurations_above(tree, home, vendor=vendor)
    start, before = start_of(request.build_args), 0
    why = f"the build argument start: {' '.join(start)[:200]}" if start else f"{why}; {_MODES[mode]}"
    if names_variables(start):
        start, before = (*_LAUNCHER, *start), len(_LAUNCHER)
    return Plan(
        detection=detection,
        toolchain=row,
        choices=(
            Choice(name="runtime", value=NAME, why=detection.because),
            Choice(name="version", value=row.version, why=wanted.why),
            Choice(name="entry", value=entry, why=why),
            Choice(
                name="dependencies",
                value=", ".join(named) or "none",
                why=f"pinned by {project.lock}" if project.lock else "no lock",
            ),
        ),
        steps=_steps(project, packaged, remote, home, entry, row.version, scripts),
        output=Output(
            layers=(
                LayerSource(source=DENO, dest=RUN, created_by=f"ignite: deno {row.version}"),
                LayerSource(source=f"{SDK}/sdk", dest=f"{SDK}/sdk", created_by="ignite: deno front"),
                *((LayerSource(source=f"{SDK}/launch", dest="/ignite", created_by=_LAUNCHES),) if before else ()),
                LayerSource(source="/work/out/app", dest="/app", created_by="ignite: source and node_modules"),
            ),
            entrypoint=start or (RUN, "run", *_run_flags(home, request, remote), *main),
            launcher=before,
            env=(("DENO_DIR", "/tmp/deno"), *_QUIET, ("PATH", _PATH)),
            workdir=_folder("/app", home),
            summary=f"{entry} on Deno {row.version}, user 65532",
        ),
        files=(
            WriteFile(path=_below(home, "deno.json"), content=configuration),
            *(WriteFile(path=path, content=content) for path, content in above),
        ),
        stubs=_stubs(project, needs, remote),
        copies=(CopyFile(path=LOCK, source=_below(home, project.lock)),) if project.lock and fetches else (),
        warnings=tuple(warnings),
        materials=(_below(home, project.lock),) if project.lock else (),
    )


_MODES = {
    "handler": f'start(handler) of "{SDK_NAME}"',
    "fetch": "its default export answers",
    "server": "its own HTTP server",
}


def _mode(project: Project, reached: Reached, entry: str) -> str:
    if reached.uses_sdk:
        return "handler"
    source = reached.files.get(entry)
    serves = any(each.serves for each in reached.files.values())
    return "fetch" if source and source.exports_default and not serves else "server"


def _run_flags(home: str, request: PlanRequest, remote: Remote) -> tuple[str, ...]:
    """What an app may. Modules of `import` are those that lie beside it, since nothing is fetched when it starts."""
    imports = {"": (), "*": ("--allow-import",)}.get(remote.allowed, (f"--allow-import={remote.allowed}",))
    flags = [*_ALLOWED, *imports]
    for one in _words(request, "allow"):
        if one not in _MORE:
            message = f"{one[:40]} is no permission that can be asked for; there are {', '.join(_MORE)}"
            raise BuildError("InvalidRequest", message, where="buildArgs.allow")
        flags = [flag for flag in flags if flag.partition("=")[0] != _MORE[one]] + [_MORE[one]]
    config = f"--config={_folder('/app', home)}/deno.json"
    return (
        "--no-prompt",
        "--cached-only",
        "--no-lock",
        "--no-code-cache",
        "--node-modules-dir=manual",
        config,
        *sorted(flags),
    )


def _scripts(request: PlanRequest) -> tuple[str, ...]:
    """The npm packages whose lifecycle scripts may run."""
    wanted = _words(request, "allow_scripts")
    for name in wanted:
        if not _SCRIPT.fullmatch(name):
            message = f"{name[:80]} is no name of an npm package"
            raise BuildError("InvalidRequest", message, where="buildArgs.allow_scripts")
    return wanted


def _words(request: PlanRequest, name: str) -> tuple[str, ...]:
    text = request.build_args.get(name, "")
    return tuple(dict.fromkeys(word.strip().removeprefix("npm:") for word in text.split(",") if word.strip()))


def _stubs(project: Project, needs: tuple[Need, ...], remote: Remote) -> tuple[WriteFile, ...]:
    """What a step with the network sees where the source has no lock: the packages, as imports of one file. Beside a
    lock the hosts of modules."""
    if project.lock or not needs:
        return (modules.stub(remote),) if remote.fetched else ()
    lines = "".join(f'import "{need.specifier}";\n' for need in needs)
    return (WriteFile(path=STUB, content=lines), WriteFile(path="deno.json", content='{"nodeModulesDir":"none"}\n'))


def _steps(
    project: Project, packaged: bool, remote: Remote, home: str, entry: str, version: str, scripts: tuple[str, ...]
) -> tuple[Step, ...]:
    steps: tuple[Step, ...] = ()
    if packaged:
        steps = (*(() if project.lock else (_resolve(version),)), _download("packages", LIST, CACHE))
        steps = (*steps, _lay("unpack packages", "unpack.ts", LIST, CACHE, result=f"{DENO_DIR}/npm"))
    if remote.fetched:
        lay = _lay("lay modules", "modules.ts", modules.LIST, modules.CACHE, result=f"{DENO_DIR}/remote")
        steps = (*_modules(remote), *steps, lay)
    env = (*_QUIET, ("DENO_DIR", DENO_DIR))
    flags = ("frozen",) if project.lock else ()
    imports = (f"imports={remote.allowed}",) if remote.allowed else ()
    locked = remote.fetched or (remote.vendored and project.lock)
    modes = (*(("install",) if packaged or locked else ()), *flags, *imports)
    script = f"./{entry}" if entry.startswith("-") else entry  # no option of Deno's
    argv = _ours("check.ts", home, project.lock or LOCK, script, *modes)
    if not scripts:
        return (*steps, Step(name="check", argv=argv, runs_source=False, env=env))
    allowed = ",".join(f"npm:{name}" for name in scripts)
    argv = (*argv, f"scripts={allowed}")
    return (*steps, Step(name="check", argv=argv, env=env))


def _modules(remote: Remote) -> tuple[Step, ...]:
    """Modules; of JSR first the metadata that the lock pins, then the files that it pins."""
    if not remote.jsr:
        return (_download(_MODULES, modules.LIST, modules.CACHE),)
    return (
        _download("modules and metadata of JSR", modules.LIST, modules.CACHE),
        _lay("read metadata of JSR", "metadata.ts", modules.LIST, modules.CACHE, "."),
        _download(_MODULES, modules.LIST, modules.CACHE),
    )


_MODULES = "modules"


def _ours(script: str, *arguments: str) -> tuple[str, ...]:
    """One of our own programs, by the same Deno."""
    return (
        DENO,
        "run",
        "-A",
        "--no-config",
        "--no-lock",
        "--no-npm",
        "--cached-only",
        f"{SDK}/build/{script}",
        *arguments,
    )


def _resolve(version: str) -> Step:
    """Deno chooses versions and writes the lock. Before 2.4 it also downloads what it locks."""
    only = ("--lockfile-only",) if tuple(int(part) for part in version.split(".")[:2]) >= _LOCKS_ONLY else ()
    return Step(
        name="lock packages",
        argv=(DENO, "install", *only, "--entrypoint", STUB),
        network=Network.INDEX,
        sees=Sees.STUBS,
        runs_source=False,
        env=(*_QUIET, _CERTIFICATES, ("DENO_DIR", "/work/tmp/deno")),
        cwd=FETCH,
    )


_LOCKS_ONLY = (2, 5)
_CERTIFICATES = ("DENO_CERT", "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}")


def _download(what: str, names: str, cache: str) -> Step:
    return Step(
        name=f"download {what}",
        argv=_ours("download.ts", names, f"/cache/{cache}", f"/work/download/{cache}"),
        network=Network.INDEX,
        sees=Sees.STUBS,
        runs_source=False,
        caches=(Cache(name=cache, access=Access.DOWNLOAD),),
        env=(*_QUIET, _CERTIFICATES, ("DENO_DIR", "/work/tmp/deno")),
        cwd=FETCH,
    )


def _lay(name: str, script: str, names: str, cache: str, into: str = DENO_DIR, result: str = "") -> Step:
    return Step(
        name=name,
        argv=_ours(script, names, f"/cache/{cache}", into),
        sees=Sees.STUBS,
        runs_source=False,
        caches=(Cache(name=cache, access=Access.READ),),
        env=(*_QUIET, ("DENO_DIR", "/work/tmp/deno")),
        cwd=FETCH,
        result=result,
    )


def fetched(plan: Plan, stubs: Tree) -> Fetched | None:
    """What the lock pins: the source's own, or the one that Deno wrote beside the stubs."""
    steps, name = {step.name for step in plan.steps}, plan.materials[0] if plan.materials else LOCK
    found = [
        reader(stubs, name)
        for step, reader in (("download packages", locks.fetched), ("download modules", modules.fetched))
        if step in steps
    ]
    known = [each for each in found if each]
    if not known:
        return None
    return Fetched(
        wanted=tuple(one for each in known for one in each.wanted),
        files=tuple(file for each in known for file in each.files),
    )


def _below(home: str, name: str) -> str:
    return name if home == "." else posixpath.join(home, name)


def _folder(root: str, home: str) -> str:
    return root if home == "." else posixpath.join(root, home)
