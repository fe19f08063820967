"""BUILD: the work folder as the plan wants it, then its steps in the sandbox, their lines into the log as they come."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder import sandbox
from builder.attempt import hosts
from builder.attempt.attempt import DISCARDED, Attempt
from builder.attempt.downloads import cache_of, shared
from builder.attempt.inside import folder_in, write_in
from builder.attempt.verdict import of_sandbox
from builder.errors import BuildError, PlatformError
from builder.plan import Access, Network, Plan, Sees, Step
from builder.sandbox.argv import PATH
from builder.settings import Settings
from builder.source import below
from builder.source.tree import DirTree
from builder.toolchains.provider import Provided

TAIL_LINES = 400
SOME = 16
"""Entries of a cache that are looked at: a tool makes the folders of its cache at once."""
FOLDERS = ("download", "fetch", "home", "out", "tmp")
"""Folders of the work folder, beside `src`: all that a step of stubs sees."""
STORED = (Access.READ, Access.DOWNLOAD)
SETTING = re.compile(r"\$\{(\w+):-((?:\$\{\w+:-[^{}]*\}|[^{}])*)\}")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended: `reason` names a limit that stopped it, or is empty; `limit`, `peak`: bytes, ms, processes.

    `room` is the least that the file system of the work folder had left, `refused` each `host:port` that the egress
    policy refused.
    """

    exit_code: int
    tail: tuple[str, ...]
    reason: str = ""
    detail: str = ""
    limit: int = 0
    peak: int = 0
    room: sandbox.Room | None = None
    refused: tuple[str, ...] = ()


def prepare(attempt: Attempt, plan: Plan) -> None:
    """Write the plan's files into the working copy and make the folders of the work."""
    for file in plan.files:
        _write_file(attempt, file.path, file.content)
    for name in FOLDERS:
        with folder_in(attempt, name, make=True):
            attempt.chown_to_build_user(attempt.work / name)
    _write_stubs(attempt, plan)


def _write_file(attempt: Attempt, path: str, content: str) -> None:
    """A file of the plan in the source, which may have anything at its place."""
    above, _, name = path.rpartition("/")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(below.folder(attempt.source, above, attempt.chown_to_build_user))
        except (FileExistsError, NotADirectoryError):
            _refuse_links(attempt.source, above)
            raise _in_the_way(path, f"a file stands where the folder of {path} must be") from None
        try:
            below.write_file(folder, name, content.encode())
        except IsADirectoryError:
            raise _in_the_way(path, f"{path} is a folder; the build writes a file of this name") from None
        attempt.chown_to_build_user(name, folder)


def _write_stubs(attempt: Attempt, plan: Plan) -> None:
    """What a step of stubs sees, into a folder that has nothing else."""
    for stub in plan.stubs:
        write_in(attempt, f"fetch/{stub.path}", stub.content)
    sent = DirTree(attempt.source)
    for copy in plan.copies:
        above, _, name = f"fetch/{copy.path}".rpartition("/")
        with folder_in(attempt, above, make=True) as folder:
            sent.copy(copy.source, name, folder)
            attempt.chown_to_build_user(name, folder)


def place(attempt: Attempt, plan: Plan) -> None:
    """Files of the source that are a part of the output, with their executable bits.

    Before the first step that sees the source, and not earlier: until then they would be seen by a step with a network,
    or by one whose result is stored. Such a step may have put a link where they belong, so that whatever is there goes.
    They are made beside the work folder, where no step looks, and in its file system: a rename ends at a border of one.
    """
    if not plan.placed:
        return
    sent = DirTree(attempt.source)
    with tempfile.TemporaryDirectory(prefix=f"{attempt.work.name}.placed-", dir=attempt.work.parent) as folder:
        root = Path(folder)
        for copy in plan.placed:
            path = root / copy.path
            path.parent.mkdir(parents=True, exist_ok=True)
            sent.copy(copy.source, path)
        for above, folders, files in os.walk(root):
            for name in (*folders, *files):
                attempt.chown_to_build_user(Path(above, name))
        with folder_in(attempt, "out") as out:
            for name in os.listdir(root):
                sandbox.remove_in(out, name)
                os.rename(root / name, name, dst_dir_fd=out)


def _refuse_links(root: Path, path: str) -> None:
    """Name the link that a folder of the path is."""
    folder = root
    for part in Path(path).parts:
        folder = folder / part
        if folder.is_symlink():
            shown = folder.relative_to(root).as_posix()
            raise _in_the_way(shown, f"{shown} is a link; the build writes a folder of this name")


def _in_the_way(path: str, message: str) -> BuildError:
    return BuildError("ManifestInvalid", message, where=path, next=f"Rename it, or send a file {path} of your own.")


def execute_step(attempt: Attempt, toolchain: Provided, step: Step, work: Path | None = None) -> StepResult:
    """Run one step in the sandbox, its lines into the log as they come. `work`: another `/work` than the build's."""
    settings = attempt.node.settings
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def emit(stream: str, line: str) -> None:
        tail.append(line)  # the diagnosis and a stored output have no secret either
        attempt.log.emit(stream, line)

    if name := cache_of(step):
        _make_download(attempt, name)
    egress = sandbox_egress(attempt, toolchain, step) if step.network is Network.INDEX else None
    shown = dict(attempt.shown) if work is None else {}
    for place in shown:  # what is shown is mounted over a folder of the build's, which is no link
        with folder_in(attempt, place.removeprefix("/work/"), make=True):
            pass
    with _overlays(attempt, step) as overlays, attempt.log.output(emit) as output:

        def on_line(stream: sandbox.Stream, data: bytes) -> None:
            output.add(stream.value, data)
            attempt.node.label("in-step")

        try:
            result = sandbox.run(
                sandbox.Command(
                    argv=step.argv,
                    env=dict(_environment(attempt, toolchain, step)),
                    cwd=step.cwd,
                    work=work or attempt.work,
                    folders=FOLDERS if step.sees is Sees.STUBS else (),
                    caches={
                        each.name: _cache(attempt, each.name) for each in step.caches if each.access is Access.WRITE
                    },
                    stores={each.name: shared(attempt, each.name) for each in step.caches if each.access in STORED},
                    overlays=overlays,
                    shown=shown,
                ),
                _root(attempt, toolchain, step),
                step_limits(attempt),
                uid=attempt.node.uid,
                gid=settings.build_uid,
                egress=egress,
                on_line=on_line,
                cancelled=attempt.lease.must_stop,
                grace_ms=settings.stop_grace_ms,
                released=lambda: attempt.node.label("step-runs"),
                use_cgroups=settings.use_cgroups,
                launcher=step_launcher(settings),
            )
        except PlatformError as error:
            found = of_sandbox(attempt, error)
            raise found from (None if found is error else error)  # nothing is its own cause
    for line in egress.summary_lines() if egress else ():
        attempt.log.system(line)
    reason = result.reason or ""
    if not reason and result.exit_code and egress is not None and egress.unreachable():
        names = ", ".join(sorted(egress.unreachable()))
        of_git = egress.unreachable().intersection(hosts.private_hosts(attempt, step))
        unavailable = "GitUnavailable" if of_git else "PackageIndexUnavailable"
        raise PlatformError(unavailable, f"step {step.name}: {names} could not be reached")
    limit, peak, detail = limit_of(reason, result, attempt)
    return StepResult(
        exit_code=result.exit_code,
        tail=tuple(tail),
        reason=reason,
        detail=detail,
        limit=limit,
        peak=peak,
        room=result.room,
        refused=tuple(sorted(egress.refused())) if egress else (),
    )


def step_limits(attempt: Attempt) -> sandbox.Limits:
    """What a step may take, in the time that is left to its build."""
    settings = attempt.node.settings
    return sandbox.Limits(
        memory=settings.memory_bytes,
        cpus=settings.cpus,
        pids=settings.pids,
        disk=settings.disk_bytes,
        wall_ms=max(1, attempt.time_limit.left_ms(attempt.now())),
    )


def step_launcher(settings: Settings) -> sandbox.Launcher:
    """What starts a step: the sandbox, or nothing of it where the operator has set `unsandboxed`."""
    return sandbox.on_host if settings.unsandboxed else sandbox.in_sandbox


@contextmanager
def _overlays(attempt: Attempt, step: Step) -> Iterator[Mapping[str, sandbox.Overlay]]:
    """The caches that a step may write for itself, which end with the block. Beside the work folder, which the step
    sees: what an overlay stands on is changed through it alone."""
    names = [cache.name for cache in step.caches if cache.access is Access.OVERLAY]
    folder = attempt.work.with_suffix(".overlay")
    try:
        if names:
            folder.mkdir()
            folder.chmod(0o755)  # whatever the worker's umask: the build user passes
        yield {name: sandbox.make_overlay(_cache(attempt, name), folder / name, attempt.build_user) for name in names}
    finally:
        if names:
            sandbox.remove_tree(folder)


def _environment(attempt: Attempt, toolchain: Provided, step: Step) -> Mapping[str, str]:
    settings = attempt.node.settings
    env = dict(toolchain.env)
    env |= {"HOME": "/work/home", "TMPDIR": "/work/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1"}
    env["PATH"] = ":".join((*toolchain.path, PATH))
    env["SOURCE_DATE_EPOCH"] = "0"
    if step.network is Network.INDEX:
        env |= toolchain.indexes.environment(settings.index_env)
        if settings.ca_bundle:
            env["SSL_CERT_FILE"] = hosts.CA_MOUNT
    env |= hosts.private_environment(attempt, step)
    return env | {name: _with_index(value, env) for name, value in step.env}


def _with_index(value: str, env: Mapping[str, str]) -> str:
    """A value of a step with the operator's setting, or the toolchain's variable, in the place of `${NAME:-default}`;
    a default may be another."""
    return SETTING.sub(lambda match: env.get(match[1]) or _with_index(match[2], env), value)


def _root(attempt: Attempt, toolchain: Provided, step: Step) -> sandbox.Root:
    root = toolchain.apart if step.sees is Sees.APART and toolchain.apart else toolchain.root
    if step.private:
        # Go needs nothing of an image, whose own files below /usr would be another git's.
        return sandbox.Root(mounts=(*hosts.machine_git(attempt), *root.mounts))
    bundle = attempt.node.settings.ca_bundle
    if step.network is Network.INDEX and bundle:
        mounts = (*root.mounts, sandbox.Mount(source=Path(bundle).resolve(), dest=hosts.CA_MOUNT))
        root = sandbox.Root(rootfs=root.rootfs, mounts=mounts)
    return root


def _make_download(attempt: Attempt, name: str) -> None:
    """The private folder of a step that downloads."""
    with folder_in(attempt, f"download/{name}", make=True):
        pass


def _cache(attempt: Attempt, name: str) -> Path:
    """A cache of this organization that steps write; owned by the build user of this slot."""
    folder = attempt.node.folder / "caches" / attempt.grant.organization_name / name
    attempt.use(f"caches/{attempt.grant.organization_name}/{name}")
    _put_aside_of_others(attempt, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if attempt.build_user:
        for above in (folder.parent.parent, folder.parent):  # whatever the worker's umask: the build user passes
            above.chmod(0o755)
        os.chown(folder, *attempt.build_user)
        folder.chmod(0o2775)
    return folder


def _put_aside_of_others(attempt: Attempt, folder: Path) -> None:
    """Begin a cache anew that builds of another `build_uid` filled: users of this one may not write everywhere in it,
    which tools report as something that the source lacks."""
    try:
        with os.scandir(folder) as entries:
            some = [entry.stat(follow_symlinks=False).st_gid for entry in itertools.islice(entries, SOME)]
        groups = {folder.stat().st_gid, *some}
    except OSError:  # it is new, or what is wrong with it is found by whoever uses it
        return
    if attempt.build_user and groups != {attempt.build_user[1]}:
        with suppress(OSError):  # another build did it; a build that has it mounted goes on
            folder.rename(attempt.beside(f".{folder.name}{DISCARDED}"))
            attempt.log.system(f"the cache {folder.name} of another build_uid is put aside")


def sandbox_egress(attempt: Attempt, toolchain: Provided, step: Step) -> sandbox.Egress:
    """The way out of a fetch step: the package indexes of its runtime, listed hosts of modules, the hosts of private
    modules where it has any, and nothing else."""
    settings = attempt.node.settings
    egress = sandbox.Egress.for_indexes(
        toolchain.indexes,
        settings.index_env,
        upstream_proxy=settings.upstream_proxy,
        no_proxy=settings.no_proxy,
        import_hosts=settings.import_hosts,
    )
    egress.policy = hosts.policy_of(settings, hosts.private_addresses(attempt, step), egress.policy.hosts)
    return egress


def limit_of(reason: str, result: sandbox.Result, attempt: Attempt) -> tuple[int, int, str]:
    """(limit, peak, both for people) of the reason that ended a step; bytes, processes, ms of the whole attempt."""
    settings, mib = attempt.node.settings, 1024 * 1024
    if reason == "OutOfMemory":
        limit, peak = settings.memory_bytes, result.peak_memory
        return limit, peak, f"reached its limit of {limit // mib} MiB memory (peak {peak // mib} MiB)"
    if reason == "DiskQuotaExceeded":
        limit, peak = settings.disk_bytes, result.peak_disk
        return limit, peak, f"reached its limit of {limit // mib} MiB on disk (peak {peak // mib} MiB)"
    if reason == "ProcessLimitExceeded":
        limit, peak = settings.pids, result.peak_pids
        return limit, peak, f"reached its limit of {limit} processes (peak {peak})"
    if reason == "Timeout":
        limit, peak = attempt.time_limit.limit_ms, attempt.time_limit.elapsed_ms(attempt.now())
        return limit, peak, f"reached the time limit of the build after {result.duration_ms} ms"
    return 0, 0, "cancelled on request" if reason == "Cancelled" else ""
