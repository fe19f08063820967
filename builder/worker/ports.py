"""The effects of one build on this node: made here once for each claim, handed to the line (`builder/build.py`)."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from builder import pipelines, sandbox
from builder.api.client import Api, ApiError, ApiUnreachable
from builder.build import Artifact, Claim, Outcome, Ports, Source, StepResult, run_build, working_copy
from builder.config import Settings
from builder.errors import BuildError, PlatformError
from builder.oci.base import BaseStore
from builder.oci.destination import Destination
from builder.oci.image import Image, ImageConfig, build_image
from builder.oci.layer import Layer, write_layer
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import LayerSource, Network, Plan, Step
from builder.proto.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.sandbox.argv import PATH
from builder.source.digest import code_hash
from builder.source.tree import DirTree
from builder.source.unpack import Limits, unpack, write_single
from builder.worker.owner import PROTOCOL, Ownership
from builder.worker.request import runtime_of
from builder.worker.spool import is_owned, spool_path
from builder.worker.toolchains import Provided, Toolchains

TAIL_LINES = 400
RESOLVED_MAX = 5000


@dataclass(frozen=True, kw_only=True)
class NodeParts:
    """What all builds of this process share."""

    settings: Settings
    api: Api
    catalog: Catalog
    known: tuple[ModuleType, ...]
    toolchains: Toolchains
    bases: BaseStore
    destination: Callable[[pb.Destination], Destination]
    label: Callable[[str], None]
    uid: int


@dataclass
class BuildEffects:
    """One claim's effects; each method is a port of `Ports`."""

    node: NodeParts
    granted: pb.ClaimBuildResponse
    held: Ownership
    work: Path
    provided: Provided | None = None
    sent: tuple[tuple[str, str], ...] = ()
    """The plan's material files as they were sent, with their digests."""
    resolved: tuple[tuple[str, str], ...] = ()
    """What the resolver took from the package index."""
    now: Callable[[], float] = time.monotonic
    deadline: float = 0.0
    """When the time of this attempt is over, ms of `now`."""

    def __post_init__(self) -> None:
        limit = int(self.granted.limits.timeout_ms) or self.node.settings.timeout_ms
        self.deadline = self.now() * 1000 + limit

    @property
    def _sandboxed(self) -> Callable[..., sandbox.Result]:
        return functools.partial(sandbox.run, use_cgroups=self.node.settings.use_cgroups)

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who the working copy belongs to: the build user where we may give it away."""
        return (self.node.uid, self.node.settings.build_uid) if os.geteuid() == 0 else None

    def open_source(self, claim: Claim) -> Source:
        """Fetch by digest, verify, unpack under limits."""
        blob = self.work.with_suffix(".source")
        size = self._download(claim, blob)
        dest = working_copy(self.work)
        try:
            if claim.single_file:
                data = blob.read_bytes()
                name = pipelines.single_file_name(claim.request.runtime, data, self.node.known)
                write_single(name, data, dest, self.owner)
                warnings: tuple[str, ...] = ()
                count = 1
            else:
                unpacked = unpack(blob, dest, Limits(), self.owner)
                warnings, count = unpacked.warnings, unpacked.files
        finally:
            blob.unlink(missing_ok=True)
        digest = code_hash(dest)
        summary = f"{count} file{'s' if count != 1 else ''}, {size} bytes, {digest}"
        return Source(tree=DirTree(dest), code_hash=digest, summary=summary, warnings=warnings)

    def _download(self, claim: Claim, dest: Path) -> int:
        hasher, size = hashlib.sha256(), 0
        path = f"/v1/ignite/worker/builds/{claim.build_id}/source?claim={claim.number}"
        try:
            with dest.open("wb") as out:
                for chunk in self.node.api.download(path):
                    hasher.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
        except (ApiUnreachable, ApiError) as error:
            raise PlatformError("SourceStoreUnavailable", f"the source could not be fetched: {error}") from error
        if hasher.hexdigest() != claim.source_sha256.removeprefix("sha256:"):
            raise PlatformError("SourceStoreUnavailable", "the source arrived with another digest than was stored")
        return size

    def planned(self, claim: Claim, key: str, source: Source, plan: Plan) -> str:
        """Tell the store what this build is; it knows whether it was built before or is being built now."""
        request = pb.PlannedRequest(
            protocol=PROTOCOL,
            build_id=claim.build_id,
            claim=claim.number,
            key=key,
            code_hash=source.code_hash,
            runtime=plan.toolchain.runtime,
        )
        self.held.wait_until_kept()  # a reuse or an attachment ends this claim: its lines must be kept before
        while not self.held.must_stop():
            try:
                answer: pb.PlannedResponse = self.node.api.call("Planned", request)
            except ApiUnreachable:
                self.held.lost.wait(0.2)
                continue
            return pb.PlannedVerdict.Name(answer.verdict).removeprefix("PLANNED_")
        raise BuildError("Cancelled", "stopped while it was planned")

    def toolchain_digests(self, plan: Plan) -> Mapping[str, str]:
        """Bind the plan's catalog row to what this node has."""
        self.provided = self.node.toolchains.find(plan.toolchain)
        return self.provided.digests

    def prepare(self, plan: Plan) -> None:
        """Write the plan's files and make the folders of the work; what was sent is hashed before either changes it."""
        root = working_copy(self.work)
        sent = DirTree(root)
        self.sent = tuple((path, sent.sha256(path)) for path in plan.materials if sent.has(path))
        for file in plan.files:
            path = root / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                path.unlink()
            path.write_text(file.content)
            self._give(path)
        for name in ("out", "home", "tmp"):
            (self.work / name).mkdir(exist_ok=True)
            self._give(self.work / name)
        for folder in {path.parent for path in (root / file.path for file in plan.files)}:
            self._give(folder)

    def _give(self, path: Path) -> None:
        if self.owner:
            os.lchown(path, *self.owner)

    def run(self, plan: Plan, step: Step) -> StepResult:
        """One step in the sandbox, its lines into the log as they come."""
        assert self.provided is not None, "toolchain_digests comes first"
        settings = self.node.settings
        tail: deque[str] = deque(maxlen=TAIL_LINES)

        def on_line(stream: sandbox.Stream, data: bytes) -> None:
            text = data.decode("utf-8", "replace")
            tail.append(text)
            self.held.spool.add("BUILD", stream.value, text)

        egress = sandbox_egress(settings) if step.network is Network.INDEX else None
        run = sandbox.Unsandboxed().run if settings.unsandboxed else self._sandboxed
        result = run(
            sandbox.Command(
                argv=step.argv,
                env=dict(self._environment(step)),
                cwd=step.cwd,
                work=self.work,
                caches={name: self._cache(name) for name in step.caches},
            ),
            self._root(step),
            sandbox.Limits(
                memory=settings.memory_bytes,
                cpus=settings.cpus,
                pids=settings.pids,
                disk=settings.disk_bytes,
                wall_ms=max(1, int(self.deadline - self.now() * 1000)),
            ),
            uid=self.node.uid,
            gid=self.node.settings.build_uid,
            egress=egress,
            on_line=on_line,
            cancelled=self.held.must_stop,
            grace_ms=settings.stop_grace_ms,
        )
        reason = result.reason or ""
        if not reason and result.exit_code and egress is not None and egress.unreachable():
            hosts = ", ".join(sorted(egress.unreachable()))
            raise PlatformError("PackageIndexUnavailable", f"step {step.name}: {hosts} could not be reached")
        return StepResult(
            exit_code=result.exit_code, tail=tuple(tail), reason=reason, detail=limit_text(reason, result, settings)
        )

    def _environment(self, step: Step) -> Mapping[str, str]:
        env = {"HOME": "/work/home", "TMPDIR": "/work/tmp", "LANG": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1"}
        assert self.provided is not None
        env["PATH"] = ":".join((*self.provided.path, PATH))
        env["SOURCE_DATE_EPOCH"] = "0"
        if step.network is Network.INDEX:
            env |= self.node.settings.index_env
            if self.node.settings.ca_bundle:
                env["SSL_CERT_FILE"] = CA_MOUNT
        return env | dict(step.env)

    def _root(self, step: Step) -> sandbox.Root:
        assert self.provided is not None
        root = self.provided.root
        bundle = self.node.settings.ca_bundle
        if step.network is Network.INDEX and bundle:
            mounts = (*root.mounts, sandbox.Mount(source=Path(bundle).resolve(), dest=CA_MOUNT))
            root = sandbox.Root(rootfs=root.rootfs, mounts=mounts)
        return root

    def _cache(self, name: str) -> Path:
        """A cache of this organization; owned by the build user of this slot."""
        folder = Path(self.node.settings.node_dir) / "caches" / self.granted.organization_name / name
        folder.mkdir(parents=True, exist_ok=True)
        if self.owner:
            for above in (folder.parent.parent, folder.parent):  # whatever the worker's umask: the build user passes
                above.chmod(0o755)
            os.chown(folder, self.node.uid, self.node.settings.build_uid)
            folder.chmod(0o2775)
        return folder

    def package(self, claim: Claim, plan: Plan) -> object:
        """Layers of the output over the base, as one image."""
        base = self.node.bases.get(plan.toolchain.base)
        self.resolved = self._resolved(plan)
        layers: list[Layer] = []
        left = self.node.settings.artifact_bytes
        for index, source in enumerate(plan.output.layers):
            layers.append(self._layer(index, source, left))
            left = max(0, left - layers[-1].unpacked)
        output = plan.output
        config = ImageConfig(
            entrypoint=output.entrypoint, env=output.env, workdir=output.workdir, user=output.user, labels=()
        )
        return build_image(base, tuple(layers), config)

    def _resolved(self, plan: Plan) -> tuple[tuple[str, str], ...]:
        found = pipelines.resolved(plan.detection.runtime, DirTree(working_copy(self.work)), self.node.known)
        if len(found) > RESOLVED_MAX:
            self.held.said(f"warning: {len(found)} packages were resolved; the provenance names only the lock file")
            return ()
        return found

    def _layer(self, index: int, source: LayerSource, limit: int) -> Layer:
        """One layer; what lies below the work folder may be hostile and is walked without following a link."""
        host = self._host_path(source.source)
        out = self.work / f"layer-{index}.tar.gz"
        below = self.work if host.is_relative_to(self.work) else None
        layer = write_layer([(host, source.dest)], out, created_by=source.created_by, limit=limit, below=below)
        for warning in layer.warnings:
            self.held.said(f"warning: {warning}")
        return layer

    def _host_path(self, inside: str) -> Path:
        """A path of the sandbox on this host: below /work, or in a mounted folder of ours."""
        assert self.provided is not None
        if inside.startswith("/work/"):
            return self.work / inside.removeprefix("/work/")
        for mount in self.provided.root.mounts:
            if inside == mount.dest or inside.startswith(mount.dest + "/"):
                return mount.source / inside.removeprefix(mount.dest).lstrip("/")
        raise BuildError("Internal", f"{inside} is nowhere on this node")

    def push(self, claim: Claim, image: object) -> Artifact:
        """By digest, and to this attempt's tag."""
        assert isinstance(image, Image)
        target = self.granted.destination
        pushed = self.node.destination(target).push(image, target.repository, target.tag)
        assert self.provided is not None
        summary = f"{pushed.reference}: {pushed.uploaded_blobs} blobs sent, {pushed.existing_blobs} were there"
        return Artifact(
            digest=pushed.digest,
            reference=pushed.reference,
            size_bytes=pushed.size_bytes,
            summary=summary,
            materials=(*sorted(self.provided.digests.items()), *self.sent, *self.resolved),
        )


CA_MOUNT = "/etc/ssl/certs/ca-certificates.crt"


def sandbox_egress(settings: Settings) -> sandbox.Egress:
    """The way out of a fetch step: the operator's package indexes and nothing else."""
    return sandbox.Egress.for_indexes(settings.index_env, upstream_proxy=settings.upstream_proxy)


def limit_text(reason: str, result: sandbox.Result, settings: Settings) -> str:
    """The limit that was reached and the peak, for people."""
    mib = 1024 * 1024
    texts = {
        "OutOfMemory": f"reached its limit of {settings.memory_bytes // mib} MiB memory"
        f" (peak {result.peak_memory // mib} MiB)",
        "DiskQuotaExceeded": f"reached its limit of {settings.disk_bytes // mib} MiB on disk"
        f" (peak {result.peak_disk // mib} MiB)",
        "ProcessLimitExceeded": f"reached its limit of {settings.pids} processes (peak {result.peak_pids})",
        "Timeout": f"reached the time limit of the build after {result.duration_ms} ms",
        "Cancelled": "cancelled on request",
    }
    return texts.get(reason, "")


def run_claimed(granted: pb.ClaimBuildResponse, held: Ownership, node: NodeParts) -> Outcome:
    """Make the work folder and the ports, run the line, leave nothing behind."""
    work_root = Path(node.settings.node_dir) / "work"
    work_root.mkdir(parents=True, exist_ok=True)
    work_root.chmod(0o711)
    Path(node.settings.node_dir).chmod(0o755)
    work = work_root / f"{held.build_id}-{granted.claim}"
    work.mkdir(mode=0o700)
    effects = BuildEffects(node=node, granted=granted, held=held, work=work)
    effects._give(work)
    ports = Ports(
        open_source=effects.open_source,
        planned=effects.planned,
        toolchain_digests=effects.toolchain_digests,
        prepare=effects.prepare,
        run=effects.run,
        package_and_push=(effects.package, effects.push),
        log=held,
        label=node.label,
    )
    try:
        return run_build(claim_of(granted), ports, node.catalog, node.known)
    finally:
        remove_tree(work)
        work.with_suffix(".source").unlink(missing_ok=True)


def remove_left_behind(node_dir: Path) -> int:
    """End and remove what killed owners left in the work folder; claims with a live process keep theirs.

    An owner writes its pid before it makes its folder and withdraws it after it removed the folder. Returns how many
    entries were removed.
    """
    removed = 0
    for path in sorted((node_dir / "work").glob("*-*")):
        name = path.name.partition(".")[0]
        build_id, _, claim = name.rpartition("-")
        if not claim.isdigit() or is_owned(spool_path(node_dir / "spool", build_id, int(claim))):
            continue
        _kill_those_in(name)
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
        removed += 1
    return removed


def _kill_those_in(name: str) -> None:
    """KILL every process that has the work folder `name` mounted (proc(5), mountinfo, field 4).

    bubblewrap binds the life of a sandbox to its owner only once it is set up; an owner that is killed before leaves
    it running.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines = process.joinpath("mountinfo").read_text().splitlines()
            roots = (line.split()[3].removesuffix("//deleted") for line in lines)
            if any(root.endswith("/" + name) for root in roots):
                os.kill(int(process.name), signal.SIGKILL)


def claim_of(granted: pb.ClaimBuildResponse) -> Claim:
    """The claim's answer as the line's value."""
    request = granted.request
    source = request.code.compile
    runtime = source.runtime.WhichOneof("runtime")
    version, target = runtime_of(source.runtime)
    single = source.WhichOneof("body") == "source_code"
    return Claim(
        build_id=granted.build_id,
        number=granted.claim,
        attempt=granted.attempt,
        organization=granted.organization_name,
        request=PlanRequest(
            runtime=runtime,
            version=version,
            target=target,
            build_args=dict(source.build_args or request.build_args),
            single_file=single,
        ),
        source_sha256=granted.source.sha256,
        single_file=single,
        no_cache=request.no_cache,
        timeout_ms=int(granted.limits.timeout_ms),
    )


def remove_tree(root: Path) -> None:
    """Remove a hostile tree: folders may have been made unreadable; links are never followed."""

    def allow(function: Callable[..., object], path: str, error: object) -> None:
        parent = Path(path).parent
        for folder in (parent, Path(path)):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(stat.S_IRWXU)
        try:
            if Path(path).is_dir() and not Path(path).is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)
        except OSError:
            return

    shutil.rmtree(root, onerror=allow)
