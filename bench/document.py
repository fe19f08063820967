"""`docs/benchmarks.md`: the tables of a run, and the prose around them. Pure: from sections to text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench import before
from bench.results import SHORT, Row, Section


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured on. No names: whoever reads this has another one."""

    cores: int
    memory_gib: int
    cpu: str
    system: str
    tools: str


@dataclass(frozen=True)
class Prose:
    """What a metric is about, how it is measured, and why it falls short where it does."""

    title: str
    how: str
    short: str


HEAD = """\
# Benchmarks

Written by `make bench` (`python -m bench P7` measures one metric again); do not edit, the prose is in
`bench/document.py`. A shortfall is printed like a success.

All arms of a comparison run in one process on one machine. In P1, P13, P14 and P7 they take turns round by round in
alternating order and are compared inside a round, as in P9 and P15; in P8 the identical rebuild always follows its
first build, P11 has one build for each number of readers, and P12 goes node by node, for it compares digests and no
times. Work folders, caches and the registry are on tmpfs. A verdict is about the median. "Service" is the real thing:
a build submitted over HTTP to the API, dispatched through Celery and Redis, built by a worker in the sandbox, pushed
to Debian's docker-registry, attested, and waited for on the log stream until the record is final.

"Before" is commit 4225d62, measured in runs of its own on a machine of the same kind: ratios compare well, times
roughly. P2, P4, P11 and P14 are of the load and chaos trials and the review of that commit (`bench/before.py`).

Each section names its commit and day. The machine is a virtual one whose host is shared: at some hours the bare arms
take up to 1.6 times as long, and a plain Celery task three times. So ratios compare; milliseconds of two sections do
not, and what is about milliseconds (P1, P2, P7) is measured at an hour in which a plain Celery task takes under 5 ms.
"""

PROSE: Mapping[str, Prose] = {
    "P1": Prose(
        "P1: a build through the service",
        """\
*Bare* is the least this work can cost: the plan's own toolchain commands without sandbox, then the layer and the push
by the builder's own code inside the measuring process. *Typed* is what a person would type instead: the same commands,
GNU tar, `gzip -1`, `skopeo copy`. Every round builds a revision that nobody has built; package and compiler caches are
warm, each arm's its own; the whole-build cache does not answer. Where the bare artifact has the service's digest, both
made the same. What the service stores of a lock (Python's packages, installed and packed) is done again by hand, as
there the commands are all that there is. A ratio has no verdict where what it is compared with took under a second: its
target is for longer builds. The server is a process of its own, as everywhere: a client in its process would share an
interpreter's lock with it, which cost 8 ms a build while the bench had it so (up to commit 93faf0ef).""",
        """\
The service does what no bare command does: it unpacks and checks the source, starts a sandbox for each step, keeps
every log line, talks to the store at each transition, attests the result. That is a fixed price of a build, so it shows
in the small builds and fades in the long ones. The notes say which phases it goes into: the way through the queue,
planning, attesting and tagging are about half of it. The step before these targets was 100 ms and, at the 95th
percentile, 200 ms.""",
    ),
    "P13": Prose(
        "P13: Go against ko",
        """\
*ko* is v0.19.1 onto the same base image in the same registry, without SBOM, with `-s -w`. `ko build` is timed as a
whole program, which starts and reads the source; the service is timed from the submission of an archive that is packed
already. `ignite-builder build` is the same service asked by a whole program, packing included.""",
        """\
Where a ratio is missed for a changed line, the service's fixed price (P1) is what is above the linker's time. A whole
`ignite-builder build` is above all the start of a Python program and its imports, which ko does not have.""",
    ),
    "P13 Rust": Prose(
        "P13: Rust against cargo",
        """\
By hand: `cargo build --release --locked` into a static binary with a target folder of its own, then the layer and the
push by the builder's own code inside the measuring process. "Crates to compile" begins without a compiled crate on
either side; what was downloaded is there.""",
        """\
The service compiles the crates in a step of their own, for stubs in the place of the source, and the source after it:
so crates are compiled by code that a lock pins alone. By hand cargo compiles both at once.""",
    ),
    "P13 packages": Prose(
        "P13: Python against uv, Deno against deno",
        """\
By hand: `uv pip install --compile-bytecode` of the same requirements, or `deno install --frozen` and `deno check`, each
with a cache of its own; then the layer and the push by the builder's own code inside the measuring process. "Nothing
downloaded" begins with empty caches on either side, so it has the registry's own time in it.""",
        """\
The service resolves, downloads, checks each file against its hash and installs in steps of their own, each in a
sandbox, and stores what came of a lock for later builds, which install and pack nothing: the first build pays for that.
Above, for a changed line: the fixed price (P1), and for Python the index, which is asked what an unpinned requirement
means today.""",
    ),
    "P9": Prose(
        "P9: one line changed",
        """\
The same project with one line of it changed in each round, dependencies as they were, against the toolchain's own
commands and a push: `cargo build --release --locked` with its target folder, `deno install --frozen` and `deno check`
with a cache of its own.""",
        """\
Nothing that a step wrote in which the app's own code ran outlives its build, so there is no incremental state of the
app: a build has a copy of the compiled crates (124 MB here, a tenth of a second of processor time) and compiles the
app's own code anew. For Deno it lays the packages of the lock again and starts Deno three times (copy, install, check)
where by hand it starts twice. Above: the fixed price (P1).""",
    ),
    "P2": Prose(
        "P2: dispatch",
        """\
From the commit of PENDING to the claim, by the store's clock, with nothing else queued and two slots, beside a plain
Celery task (acks_late, prefetch 1) on the same Redis from `delay` to its body; they take turns.""",
        """\
Above the plain task: the dispatcher's transaction, which marks the offer, and the claim, an HTTP call with a
transaction of its own. 10 ms were asked beside a plain task of 3.5 ms: 2.86×.""",
    ),
    "P4": Prose(
        "P4: transactions, round trips and calls of a build",
        """\
Thirty builds at once on one node with two slots, cache miss, no retry, a receiver of reports; the idle rate of the same
run is subtracted. Log batches are not part of it: each is a transaction and a call. Idle is `serve` as a process of its
own with a worker registered and nothing queued, its CPU time over a minute. The statements are of the store alone, on
SQLite, for a build that succeeds and a log within its limit; a node ends a claim with the last lines of its log.""",
        "Tests assert transactions, round trips, calls and statements, so a miss there is a defect.",
    ),
    "P14": Prose(
        "P14: a local build against ko",
        """\
`ignite-builder build` without a server (services, store, line and finalizer in its own process) and `ko build`, both as
whole programs: same project, base image and registry, caches warm, each arm's its own. What ko does not do is in it:
the sandbox, a record with its log, the statement of what was built from what, the user's tag.""",
        """\
What is above the target is the start of the interpreter and its imports. Of a changed line the compiler alone takes
most of ko's time (its row). What it leaves below 0.9× is less than this program takes to load.""",
    ),
    "P7": Prose(
        "P7: the sandbox",
        """\
The same program started by `builder.sandbox.run`, as the worker does it (limits, seccomp filter, uid, supervision),
and bare: the host's `true` on the root and with the cache that the worker gives a Python step. A fetch step has the
egress proxy in addition. Bare is vfork(2) and exec, the least that a process of this size can do. The step of over a
second is the compile step of a Go build as the same user, with its own warm cache on each side.""",
        """\
A spawn here is more than bubblewrap: prlimit before it, the namespaces' set-up, control group where there is one, disk
watch, and the wait until nothing of the sandbox lives.""",
    ),
    "P8": Prose(
        "P8: an identical rebuild",
        """\
The same archive again, answered from the whole-build cache, against the first build with warm caches (so the first is
as short as it gets). Programs are counted by the kernel's process connector for the node's build users, bytes by a
meter between the service and the registry. Where the kernel lost events or a program was gone too soon, a count of 0
proves nothing: "not known".""",
        """\
The rebuild is dispatched, fetched, unpacked and planned before its key is known, and the first build is measured with
warm caches: the shorter the first, the larger the part.""",
    ),
    "P15": Prose(
        "P15: start to first 200",
        """\
A hello of each runtime in `ignite-builder run`'s sandbox, from before the sandbox starts to the first answer of
/healthz; unpacked before, and a component compiled ahead of time. Runtimes take turns.""",
        """\
About 10 ms are bubblewrap's; the rest is the interpreter's or the program's own start. A look each 5 ms adds to it.""",
    ),
    "P11": Prose(
        "P11: tails of a build that prints",
        """\
One build prints 200,000 lines of 60 bytes in 20 s, another 2,000: 10,000 and 100 lines a second. Each line begins with
the time at which it was printed; a compiled program reads all streams, checks that each has every sequence once and the
end, and takes the age of each line of four of them. Meanwhile it asks for another organization's list every 20 ms. API,
worker and readers share this machine's cores: what the readers use is subtracted from what the build took. "Before"
printed for 12 s instead of 20.""",
        """\
A line travels through the worker's spool, a batch of up to 500 lines, the store's transaction and a page for all
readers. On few cores the sandbox, the worker, the API and the readers take turns.""",
    ),
    "start check": Prose(
        "The start check",
        """\
The same revision built by two servers, one with `start_check = "warn"` (the default), one with `off`, in turns. All
other builds of this page but those of P14 are made with `off`, as what they are compared with starts nothing.""",
        """\
The app starts beside packaging and push; a build waits for the rest of its start. On few cores both take longer.""",
    ),
    "attack": Prose(
        "A node under attack",
        """\
A small build on a node with two slots and two cores; three kinds of rounds take turns. In the first the other slot's
limited reader works without an end on a hostile source (a parser that never returns; its limit is 10 s of processor
time). In the second the other slot gets one hostile source after the other: manifests whose reading once took minutes
or gigabytes and is refused within a fraction of a second by now, so that this measures whole failing builds with their
submissions, claims and records. In the third the build is alone. The attacker's archives are packed before.""",
        """\
A reader stands back, with its scheduling group, after a tenth of a second of processor time. What is left of the
stream's price is that of any other build in the second slot: both share the cores, the API and the store.""",
    ),
    "watcher": Prose(
        "A watcher with 100 Jobs",
        """\
Builds of the service on the one-node Kubernetes of `make cluster`, whose executor only sleeps and prints a line every
ten seconds. `ignite-builder watch` is a process of its own: a minute with one Job, then a minute with a hundred. It
takes root and a cluster: `make bench` measures it where `make cluster` was made; `python -m bench watcher` starts its
own.""",
        """\
Each Job costs its object and its pod's as the watch has them, and a connection for its log.""",
    ),
    "Kaniko": Prose(
        "A Dockerfile on Kubernetes",
        """\
A scratch image with one COPY. The service is timed from the submission to the final record. The bare Job has the pod
that the service's worker makes, and is timed from its creation until it is Complete; Kaniko alone is that pod without
the container that fetches, its context from a ConfigMap. The three take turns on the cluster of `make cluster`; like
the watcher it is measured where there is one, or by `python -m bench Kaniko`.""",
        """\
Before its Job a build is submitted, claimed, fetched and checked; behind it its record becomes final.""",
    ),
    "P12": Prose(
        "P12: the same source, the same digest",
        """\
Builds with `no_cache` on three nodes, each with folders, build users and caches of its own; the third runs on one core.
The digest is of the pushed manifest, so it covers every byte of every layer and the configuration.""",
        "More than one digest means that something of the machine got into an artifact: a defect.",
    ),
}


def render(sections: Mapping[str, Section], machine: Machine, page: str = "") -> str:
    """The whole document; metrics in their order, those never measured are left out.

    `page`: the document as it is, whose other sections stay as they are, wherever they were measured.
    """
    parts = [HEAD, _machine(machine)]
    for name, prose in PROSE.items():
        if name in sections:
            parts.append(_section(sections[name], prose))
        elif kept := _kept(page, prose.title):
            parts.append(kept)
    return "\n".join(parts)


def _kept(page: str, title: str) -> str:
    """A section of the page, from its heading to the next one."""
    _, heading, rest = page.partition(f"\n## {title}\n")
    return heading[1:] + rest.partition("\n## ")[0].rstrip("\n") + "\n" if heading else ""


def _machine(machine: Machine) -> str:
    return (
        f"Machine: {machine.cores} cores of {machine.cpu}, {machine.memory_gib} GiB memory, {machine.system}; "
        f"{machine.tools}.\n\nRepeat: `make bench` (about an hour and a half, root for the count of processes).\n"
    )


def _section(section: Section, prose: Prose) -> str:
    short = [row.what for row in section.rows if row.verdict == SHORT]
    lines = [
        f"## {prose.title}",
        "",
        f"Commit {section.commit}, {section.date}.",
        "",
        prose.how,
        "",
        "| what | target | before | measured (median) | spread | pairs | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_row(section.metric, row) for row in section.rows),
        "",
    ]
    if short:
        lines += [
            f"**{len(short)} of {len(section.rows)} fall{'s' if len(short) == 1 else ''} short.** {prose.short}",
            "",
        ]
    if section.notes:
        lines += [*(f"- {note}." for note in section.notes), ""]
    return "\n".join(lines)


def _row(metric: str, row: Row) -> str:
    verdict = f"**{row.verdict}**" if row.verdict == SHORT else row.verdict
    then = before.figure(metric, row.what)
    cells = (row.what, row.target, then, row.measured, row.spread, str(row.pairs), verdict)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
