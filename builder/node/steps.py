"""BUILD: the work folder as the plan wants it, then its steps in the sandbox, their lines into the log as they come."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from builder import sandbox
from builder.build import StepResult
from builder.errors import BuildError, PlatformError
from builder.node.attempt import Attempt
from builder.plan import Network, Plan, Step
from builder.sandbox.argv import PATH
from builder.source.tree import DirTree

TAIL_LINES = 400
CA_MOUNT = "/etc/ssl/certs/ca-certificates.crt"


def prepare(attempt: Attempt, plan: Plan) -> None:
    """Write the plan's files and make the folders of the work; what was sent is hashed before either changes it."""
    root = attempt.source
    sent = DirTree(root)
    attempt.materials += [(path, sent.sha256(path)) for path in plan.materials if sent.has(path)]
    for file in plan.files:
        path = root / file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _in_the_way(file.path, f"a file stands where the folder of {file.path} must be") from None
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            raise _in_the_way(file.path, f"{file.path} is a folder; the build writes a file of this name")
        path.write_text(file.content, encoding="utf-8")
        attempt.give(path)
    for name in ("out", "home", "tmp"):
        (attempt.work / name).mkdir(exist_ok=True)
        attempt.give(attempt.work / name)
    for folder in {path.parent for path in (root / file.path for file in plan.files)}:
        attempt.give(folder)


def _in_the_way(path: str, said: str) -> BuildError:
    return BuildError("ManifestInvalid", said, where=path, next=f"Rename it, or send a file {path} of your own.")


def run(attempt: Attempt, plan: Plan, step: Step) -> StepResult:
    """One step in the sandbox."""
    settings = attempt.node.settings
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def on_line(stream: sandbox.Stream, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        tail.append(text)
        attempt.held.spool.add("BUILD", stream.value, text)
        attempt.node.label("in-step")

    egress = sandbox_egress(attempt) if step.network is Network.INDEX else None
    sandboxed = functools.partial(sandbox.run, use_cgroups=settings.use_cgroups)
    result = (sandbox.Unsandboxed().run if settings.unsandboxed else sandboxed)(
        sandbox.Command(
            argv=step.argv,
            env=dict(_environment(attempt, step)),
            cwd=step.cwd,
            work=attempt.work,
            caches={name: _cache(attempt, name) for name in step.caches},
        ),
        _root(attempt, step),
        sandbox.Limits(
            memory=settings.memory_bytes,
            cpus=settings.cpus,
            pids=settings.pids,
            disk=settings.disk_bytes,
            wall_ms=max(1, int(attempt.deadline - attempt.now() * 1000)),
        ),
        uid=attempt.node.uid,
        gid=settings.build_uid,
        egress=egress,
        on_line=on_line,
        cancelled=attempt.held.must_stop,
        grace_ms=settings.stop_grace_ms,
    )
    for line in egress.said() if egress else ():
        attempt.held.spool.add("BUILD", sandbox.Stream.SYSTEM.value, line)
    reason = result.reason or ""
    if not reason and result.exit_code and egress is not None and egress.unreachable():
        hosts = ", ".join(sorted(egress.unreachable()))
        raise PlatformError("PackageIndexUnavailable", f"step {step.name}: {hosts} could not be reached")
    limit, peak, detail = limit_of(reason, result, attempt)
    return StepResult(
        exit_code=result.exit_code, tail=tuple(tail), reason=reason, detail=detail, limit=limit, peak=peak
    )


def _environment(attempt: Attempt, step: Step) -> Mapping[str, str]:
    settings = attempt.node.settings
    env = {"HOME": "/work/home", "TMPDIR": "/work/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1"}
    env["PATH"] = ":".join((*attempt.provided.path, PATH))
    env["SOURCE_DATE_EPOCH"] = "0"
    if step.network is Network.INDEX:
        env |= attempt.provided.indexes.environment(settings.index_env)
        if settings.ca_bundle:
            env["SSL_CERT_FILE"] = CA_MOUNT
    return env | dict(step.env)


def _root(attempt: Attempt, step: Step) -> sandbox.Root:
    root = attempt.provided.root
    bundle = attempt.node.settings.ca_bundle
    if step.network is Network.INDEX and bundle:
        mounts = (*root.mounts, sandbox.Mount(source=Path(bundle).resolve(), dest=CA_MOUNT))
        root = sandbox.Root(rootfs=root.rootfs, mounts=mounts)
    return root


def _cache(attempt: Attempt, name: str) -> Path:
    """A cache of this organization; owned by the build user of this slot."""
    folder = Path(attempt.node.settings.node_dir) / "caches" / attempt.granted.organization_name / name
    folder.mkdir(parents=True, exist_ok=True)
    if attempt.owner:
        for above in (folder.parent.parent, folder.parent):  # whatever the worker's umask: the build user passes
            above.chmod(0o755)
        os.chown(folder, *attempt.owner)
        folder.chmod(0o2775)
    return folder


def sandbox_egress(attempt: Attempt) -> sandbox.Egress:
    """The way out of a fetch step: the package indexes of its runtime and nothing else."""
    settings = attempt.node.settings
    return sandbox.Egress.for_indexes(
        attempt.provided.indexes,
        settings.index_env,
        upstream_proxy=settings.upstream_proxy,
        no_proxy=settings.no_proxy,
    )


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
        said = f"reached the time limit of the build after {result.duration_ms} ms"
        return attempt.timeout_ms, attempt.elapsed_ms, said
    return 0, 0, "cancelled on request" if reason == "Cancelled" else ""
