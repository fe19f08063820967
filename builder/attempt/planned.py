"""PLAN: bind the plan to what this node has, and ask the store whether its key was built or is being built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.attempt.attempt import Attempt
from builder.claims.calls import Refused, Unanswered
from builder.claims.outcome import Material, Verdict
from builder.claims.requests import planned_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.logs import logger
from builder.plan import Plan, Toolchain
from builder.toolchains.provider import LENT, Provided

log = logger("worker")

AGAIN_S = 0.2
TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A plan with the toolchain and the base image that PLAN bound to it. PACKAGE builds on these and looks up none."""

    plan: Plan
    toolchain: Provided
    materials: tuple[Material, ...]
    """Toolchain, base and lock files, these as they were sent: the build itself changes some."""


def bind(attempt: Attempt, plan: Plan, files: tuple[Material, ...]) -> Bound:
    """Bind the catalog row of a plan to what this node has. Raises `BuildError` ToolchainUnavailable."""
    node = attempt.node
    try:
        toolchain = _provided(attempt, plan)
    except BuildError as error:
        if error.reason != "ToolchainUnavailable" or node.fetch is None:
            raise
        attempt.log.system(f"{error.message}; it is fetched now, as fetch_toolchains has it")
        node.fetch(plan.toolchain, attempt.log.system)
        toolchain = _provided(attempt, plan)
    return Bound(plan=plan, toolchain=toolchain, materials=(*sorted(toolchain.digests.items()), *files))


def _provided(attempt: Attempt, plan: Plan) -> Provided:
    """The toolchain, with all of it in use from here on; what the disk budget took just before is made again."""
    node = attempt.node
    for _ in range(TRIES):
        toolchain = node.toolchains.provide(plan.toolchain, compiles_c=plan.compiles_c)
        roots = [root for root in (toolchain.root, toolchain.apart) if root is not None]
        sources = [mount.source for root in roots for mount in root.mounts]
        sources += [root.rootfs for root in roots if root.rootfs]
        images = [digest for name, digest in toolchain.digests.items() if name in ("apart", "base", "toolchain", LENT)]
        attempt.use(*(f"images/{digest}" for digest in images))
        attempt.use(
            *(f"roots/{digest.removeprefix('sha256:')}" for digest in images)
        )  # the start check stands on the base
        attempt.use(*_units(node.folder, sources))
        if all(source.exists() for source in sources):
            break
    return toolchain


def _units(node_dir: Path, sources: Iterable[Path]) -> Iterator[str]:
    """The unpacked roots and copies of the node that these are of, or below."""
    tops = (("roots", (node_dir / "bases/rootfs").resolve()), ("toolchains", (node_dir / "toolchains").resolve()))
    for place in (source.resolve() for source in sources):
        for kind, top in tops:
            if place.is_relative_to(top):
                yield f"{kind}/{place.relative_to(top).parts[0]}"


def report_key(
    attempt: Attempt,
    key: str,
    code_hash: str,
    toolchain: Toolchain,
    warnings: Sequence[str] = (),
    provenance: pb.SourceProvenance | None = None,
    *,
    unchanged: bool = False,
) -> Verdict:
    """Send the key; returns what the store decides. All of it is a wait for the control side. `unchanged`: of a rebase
    onto the run image that the image is on."""
    phases = (*attempt.log.phases, attempt.log.current(pb.PHASE_STATUS_SUCCEEDED))
    request = functools.partial(
        planned_request,
        attempt.lease,
        key=key,
        code_hash=code_hash,
        toolchain=toolchain,
        warnings=[attempt.log.mask.text(line) for line in warnings],
        phases=phases,
        provenance=provenance,
        unchanged=unchanged,
    )
    with attempt.waiting():
        if attempt.grant.takes_planned_lines:
            with suppress(Refused):  # by a control process of an earlier version, to which a plan has no lines
                return _with_lines(attempt, request)
        attempt.wait_until_acknowledged()  # a reuse or an attachment ends this claim, and with it its log
        return Verdict(_answered(attempt, request()).verdict)


def _with_lines(attempt: Attempt, request: Callable[..., pb.PlannedRequest]) -> Verdict:
    """The verdict of a call that carries the newest lines of the log: they cost no call of their own."""
    spool = attempt.log.spool
    with attempt.leaving() as batch:
        while True:
            count, last = batch()
            answer = _answered(attempt, request(log_count=count, last=last))
            if not answer.log_incomplete:
                spool.acknowledge(count)
                return Verdict(answer.verdict)
            if not spool.again(answer.kept_until_index):
                log.error("lines are gone from the spool", action="spool-damaged", build_id=attempt.lease.build_id)
                return Verdict.STALE


def _answered(attempt: Attempt, request: pb.PlannedRequest) -> pb.PlannedResponse:
    while True:
        attempt.check()
        try:
            return attempt.node.calls.planned(request)
        except Unanswered:
            attempt.pause(AGAIN_S)
