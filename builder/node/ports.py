"""The effects of one attempt, handed to the line (`builder/build.py`); afterwards nothing is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from builder.build import Claim, Outcome, Ports, Source, run_build
from builder.claims.owner import Ownership
from builder.client.api import ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.contract.request import runtime_of
from builder.node.attempt import Attempt, NodeParts
from builder.node.fetch import open_source
from builder.node.package import package, push
from builder.node.steps import prepare, run
from builder.pipelines.base import PlanRequest
from builder.plan import Plan
from builder.sandbox import remove_tree


def run_claimed(granted: pb.ClaimBuildResponse, held: Ownership, node: NodeParts) -> Outcome:
    """Make the work folder and the ports, run the line, leave nothing behind."""
    work_root = Path(node.settings.node_dir) / "work"
    work_root.mkdir(parents=True, exist_ok=True)
    work_root.chmod(0o711)
    Path(node.settings.node_dir).chmod(0o755)
    work = work_root / f"{held.build_id}-{granted.claim}"
    work.mkdir(mode=0o700)
    attempt = Attempt(node=node, granted=granted, held=held, work=work)
    attempt.give(work)
    ports = Ports(
        open_source=partial(open_source, attempt),
        planned=partial(planned, attempt),
        toolchain_digests=partial(toolchain_digests, attempt),
        prepare=partial(prepare, attempt),
        run=partial(run, attempt),
        package_and_push=(partial(package, attempt), partial(push, attempt)),
        log=held,
        label=node.label,
    )
    try:
        return run_build(claim_of(granted), ports, node.catalog, node.known)
    finally:
        remove_tree(work)
        work.with_suffix(".source").unlink(missing_ok=True)


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


def toolchain_digests(attempt: Attempt, plan: Plan) -> Mapping[str, str]:
    """Bind the plan's catalog row to what this node has."""
    provided = attempt.node.toolchains.provide(plan.toolchain)
    attempt.bind(provided)
    return provided.digests


def planned(attempt: Attempt, claim: Claim, key: str, source: Source, plan: Plan) -> str:
    """Tell the store what this build is; it knows whether it was built before or is being built now."""
    request = pb.PlannedRequest(
        protocol=PROTOCOL,
        build_id=claim.build_id,
        claim=claim.number,
        key=key,
        code_hash=source.code_hash,
        runtime=plan.toolchain.runtime,
    )
    held = attempt.held
    request.phases.extend((*held.phases, held.current(pb.PHASE_STATUS_SUCCEEDED)))
    held.wait_until_kept()  # a reuse or an attachment ends this claim: its lines must be kept before
    while True:
        attempt.check()
        try:
            answer: pb.PlannedResponse = attempt.node.api.call("Planned", request)
        except ApiUnreachable:
            attempt.pause(0.2)
            continue
        return pb.PlannedVerdict.Name(answer.verdict).removeprefix("PLANNED_")
