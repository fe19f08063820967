"""`logs`, `get`, `ls`, `cancel`: what reads builds, and what stops one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.failure import cancelled, failed, reference, took_ms
from builder.cli.follow import Interrupts, QueueWatcher, entries_or_ticks
from builder.cli.options import check_id, pairs
from builder.cli.phases import is_verdict, word
from builder.cli.plain import entry_line
from builder.cli.safe import shown
from builder.cli.stop import Stop, build_exit, mistake
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1.ignite_common_pb2 import CODE_KIND_PREBUILT, VersionStatus
from builder.errors import EXIT_CANCELLED

if TYPE_CHECKING:
    from builder.cli.client import Client
    from builder.local.client import LocalClient

IDLE_MS = 3_000
"""How long `logs` without -f waits for a line that the record counts but the stream does not give …"""
FIRST_MS = 60_000
"""… and for the first line of a connection: a busy server is no empty log."""
ENDED = frozenset({pb.BUILD_STATUS_SUCCEEDED, pb.BUILD_STATUS_FAILED, pb.BUILD_STATUS_CANCELLED})


def status_word(build: pb.Build) -> str:
    """`SUCCEEDED` for BUILD_STATUS_SUCCEEDED."""
    return pb.BuildStatus.Name(build.status).removeprefix("BUILD_STATUS_")


def exit_of(build: pb.Build) -> int:
    """The build's own exit code; 0 while it has not ended."""
    if build.status not in ENDED:
        return 0
    return build_exit(pb.BuildStatus.Name(build.status), build.failure.reason, build.failure.error_class)


def get(ctx: Context, build_id: str, *, exit_status: bool = False) -> int:
    """Show one build."""
    settings = ctx.settings_for_builds()
    wanted = check_id(build_id) if build_id else ctx.last_started(settings)
    with ctx.client(settings) as client:
        build = client.get(wanted)
    if ctx.common.json:
        ctx.document(build)
    else:
        for line in described(build, ctx.look(ctx.out), now_ms=ctx.now_ms(), terminal=ctx.out.is_terminal):
            ctx.out.line(line)
    return exit_of(build) if exit_status else 0


def described(build: pb.Build, look: Look, *, now_ms: int, terminal: bool) -> tuple[str, ...]:
    """A record as rows; that of a failed build ends in the failure block."""
    when = fmt.local_time(build.created_at_ms) if terminal else fmt.utc_time(build.created_at_ms)
    report = VersionStatus.Name(build.version_status).removeprefix("VERSION_STATUS_") if build.version_status else ""
    head = [look.paint("bold", status_word(build)), build.build_id, shown(build.name), when]
    if report:
        head.append(f"reported {report}")
    rows = ["  ".join(head)]
    digest = build.code_hash or build.source_sha256
    about = [part for part in (shown(build.runtime), f"attempt {build.attempt}" if build.attempt else "") if part]
    if build.from_cache_of:
        about.append(f"from the cache of {fmt.short_id(build.from_cache_of)}")
    if build.attached_to:
        about.append(f"attached to {fmt.short_id(build.attached_to)}")
    source = fmt.short_digest(digest) if digest else "an image" if build.code_kind == CODE_KIND_PREBUILT else ""
    if source or about:
        plan = f"plan  {', '.join(about)}" if about else ""
        rows.append(f"source  {shown(source):<32}  {plan}".rstrip())
    if commit := build.provenance.commit_sha:
        of = (commit[:12], build.provenance.branch, build.provenance.author)
        rows.append("commit  " + "  ".join(shown(each) for each in of if each))
    if build.labels:
        rows.append(f"labels  {labels_of(build)}")
    rows += phase_rows(build)
    if reference(build):
        tags = f"  tags {', '.join(shown(tag) for tag in build.tags)}" if build.tags else ""
        rows.append(f"output  {shown(reference(build))}  {fmt.size(build.size_bytes)}{tags}")
    if start := start_row(build, look):
        rows.append(start)
    if build.status == pb.BUILD_STATUS_SUCCEEDED:
        rows.append(f"next    {look.paint('cyan', f'ignite-builder run {fmt.short_id(build.build_id)}')}")
    elif build.status == pb.BUILD_STATUS_FAILED:
        rows += failed(build, look)
    elif build.status == pb.BUILD_STATUS_CANCELLED:
        rows.append(cancelled(build, look))
    else:
        took = fmt.duration(took_ms(build, now_ms))
        follow = look.paint("cyan", f"ignite-builder logs -f {fmt.short_id(build.build_id)}")
        rows += [f"now     in {word(build.phase)}, {took} since it was asked for"]
        if build.stage == pb.BUILD_STAGE_JOB:
            who = f"watched by {shown(build.watcher)}" if build.watcher else "nobody watches it now"
            rows.append(f"job     {shown(build.job)}, {who}")
        rows.append(f"next    {follow}")
    return tuple(rows)


def start_row(build: pb.Build, look: Look) -> str:
    """What the start check saw; empty where there was none."""
    if not build.HasField("start_check"):
        return ""
    start = build.start_check
    if start.status == pb.START_STATUS_LISTENS:
        return f"start   {start.cold_start_ms} ms until it listened, {fmt.size(start.memory_bytes)} of memory"
    return f"start   {look.paint('yellow', look.symbols.warning)} {shown(start.message)}"


def labels_of(build: pb.Build) -> str:
    """`app=x deploy=d-17`, by key."""
    return shown(" ".join(f"{key}={value}" for key, value in sorted(build.labels.items())))


def phase_rows(build: pb.Build) -> list[str]:
    """`phases  queued 0.2s  build 19.8s  (others below 0.2s)`: what took less than 200 ms is not listed."""
    if not build.phases:
        return []
    long = [each for each in build.phases if each.duration_ms >= 200]
    parts = [f"{word(each.phase)} {fmt.duration(each.duration_ms)}" for each in long]
    if len(long) < len(build.phases):
        parts.append("(others below 0.2s)" if long else "each below 0.2s")
    return ["phases  " + "  ".join(parts)]


def ls(ctx: Context, limit: int, labels: Sequence[str] = ()) -> int:
    """List builds that have all of these labels, newest first."""
    label = [f"{key}={value}" for key, value in pairs(labels, "--label").items()]
    found: list[pb.Build] = []
    with ctx.client(ctx.settings_for_builds()) as client:
        cursor = ""
        while len(found) < limit:
            page = client.builds(min(limit - len(found), 100), cursor, label)
            found += page.builds
            cursor = page.next_cursor
            if not cursor or not page.builds:
                break
    found = found[:limit]
    if ctx.common.json:
        ctx.document(pb.ListBuildsResponse(builds=found, next_cursor=cursor))
        return 0
    for line in listed(found, ctx.look(ctx.out), now_ms=ctx.now_ms(), terminal=ctx.out.is_terminal):
        ctx.out.line(line)
    return 0


def listed(builds: list[pb.Build], look: Look, *, now_ms: int, terminal: bool) -> tuple[str, ...]:
    """The table of `ls`; with a column of labels where any build has some."""
    rows: list[tuple[str, ...]] = [("BUILD", "NAME", "RUNTIME", "STATUS", "PHASE OR REASON", "TOOK", "CREATED")]
    has_labels = any(build.labels for build in builds)
    if has_labels:
        rows[0] += ("LABELS",)
    for build in builds:
        is_over = build.status in ENDED
        what = shown(build.failure.reason) if is_over else word(build.phase) if build.phase else "queued"
        if build.stage == pb.BUILD_STAGE_JOB:
            what += ", a Job" if build.watcher else ", an unwatched Job"
        rows.append(
            (
                fmt.short_id(build.build_id),
                shown(build.name),
                shown(build.runtime) or "-",
                status_word(build),
                what or "-",
                fmt.duration(took_ms(build, 0 if is_over else now_ms)),
                fmt.created(build.created_at_ms, now_ms, terminal=terminal),
                *([labels_of(build) or "-"] if has_labels else []),
            )
        )
    lines = fmt.table(rows, right=frozenset({5}))
    return (
        lines if look.columns is None else tuple(fmt.cut(line, look.columns, look.symbols.ellipsis) for line in lines)
    )


def cancel(ctx: Context, build_id: str) -> int:
    """Stop a build; one that has ended stays as it is."""
    if not build_id:
        raise mistake("cancel needs the build named", where="BUILD", next=f"See which run: {ctx.prog} ls")
    look = ctx.look(ctx.err)
    with ctx.client(ctx.settings_for_builds()) as client:
        before = client.get(check_id(build_id))
        after = before if before.status in ENDED else _cancelled(ctx, client, before)
    if ctx.common.json:
        ctx.document(after)
    elif before.status in ENDED:
        ctx.say(f"{fmt.short_id(before.build_id)} had ended before: {status_word(before)}")
    elif after.status == pb.BUILD_STATUS_CANCELLED:
        ctx.err.line(cancelled(after, look))
    elif after.status in ENDED:
        ctx.err.line(f"{fmt.short_id(after.build_id)} was faster: {status_word(after)}")
    return 0


def _cancelled(ctx: Context, client: Client | LocalClient, build: pb.Build) -> pb.Build:
    """Ask, then wait for the end: CANCELLED is only true once nothing of it runs any more."""
    answered = client.cancel(build.build_id)
    if answered.status in ENDED:
        return answered
    ctx.say(f"cancelling {fmt.short_id(build.build_id)}; it ends once nothing of it runs any more")
    for entry in client.follow(build.build_id, max(answered.log_lines, 0)):
        if entry.eof:
            break
    return client.get(build.build_id)


def logs(
    ctx: Context, build_id: str, *, follow: bool, start: int, only_failed: bool, raw: bool, exit_status: bool
) -> int:
    """The log of a build: stdout is the lines, stderr the notices."""
    settings = ctx.settings_for_builds()
    wanted = check_id(build_id) if build_id else ctx.last_started(settings)
    interrupts = Interrupts(raises=True)
    with interrupts.installed(), ctx.client(settings, QueueWatcher(interrupts.events.put)) as client:
        # Only a log that is being read has a line to go on from; before and after it a signal just ends the program.
        build = client.get(wanted)
        if only_failed:
            return _failed_lines(ctx, client, build, raw=raw, exit_status=exit_status)
        interrupts.raises = False
        last = _stream(ctx, client, build, interrupts, follow=follow, start=start, raw=raw)
        if interrupts.stops:
            goes_on = f"{ctx.prog} logs -f {build.build_id} --from {last + 1}"
            ctx.notice(f"stopped after line {last}; the build goes on: {goes_on}")
            return EXIT_CANCELLED
        interrupts.raises = True
        return exit_of(client.get(build.build_id)) if exit_status else 0


def _stream(
    ctx: Context,
    client: Client | LocalClient,
    build: pb.Build,
    interrupts: Interrupts,
    *,
    follow: bool,
    start: int,
    raw: bool,
) -> int:
    """Print entries until the end (or until every stored line is shown); answers the last sequence."""
    last = max(start - 1, 0)
    until = None if follow or build.status in ENDED else build.log_lines
    if until is not None and last >= until:
        return last
    last_event, patience = ctx.now_ms(), FIRST_MS
    for event in entries_or_ticks(client, build.build_id, last, interrupts):
        if isinstance(event, str):
            ctx.notice(event)
            last_event, patience = ctx.now_ms(), FIRST_MS
        elif event is None:
            if until is not None and ctx.now_ms() - last_event > patience:
                goes_on = f"{ctx.prog} logs {build.build_id} --from {last + 1}"
                ctx.notice(f"stopped after line {last} of {until}: no more came; go on: {goes_on}")
                break
        elif not event.eof:
            last_event, patience, last = ctx.now_ms(), IDLE_MS, event.sequence
            print_entry(ctx, event, build.created_at_ms, raw=raw)
            if ctx.out.closed or (until is not None and last >= until):
                break
    return last


def print_entry(ctx: Context, entry: pb.LogEntry, created_ms: int, *, raw: bool) -> None:
    """One line of the log: JSON, bare, or the plain grammar. Only a pipe gets the bare bytes of a stranger."""
    if ctx.common.json:
        ctx.document_line(entry)
    elif raw:
        ctx.out.line(shown(entry.line, tabs=True) if ctx.out.is_terminal else entry.line)
    else:
        ctx.out.line(entry_line(entry, created_ms))


def _failed_lines(ctx: Context, client: Client | LocalClient, build: pb.Build, *, raw: bool, exit_status: bool) -> int:
    """The log of the step that failed: the lines of its phase since the last step began."""
    if build.status not in ENDED:
        raise Stop(
            "FailedPrecondition",
            f"{fmt.short_id(build.build_id)} has not ended",
            exit_code=2,
            next=f"Follow it: {ctx.prog} logs -f {build.build_id}",
        )
    if build.status != pb.BUILD_STATUS_FAILED:
        ctx.notice(f"nothing of {fmt.short_id(build.build_id)} failed: {status_word(build)}")
        return exit_of(build) if exit_status else 0
    step: list[pb.LogEntry] = []
    for entry in client.follow(build.build_id):
        if entry.eof:
            break
        if entry.phase != build.failure.phase or is_verdict(entry):
            continue
        if entry.stream == pb.LOG_STREAM_SYSTEM and entry.line.startswith("step "):
            step = []
        step.append(entry)
    for entry in step:
        print_entry(ctx, entry, build.created_at_ms, raw=raw)
    return exit_of(build) if exit_status else 0
