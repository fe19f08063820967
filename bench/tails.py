"""P11: tails of a build that prints 10,000 lines a second: how old a line is when it arrives, and whom that delays."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results import NO_TARGET, Row, judged
from bench.servers import KEPT, ROOT, Served, cpu_s, place, served
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import tar_of

READER = ROOT / "bench/reader"
SECONDS, CHATTY, ORDINARY, WIDTH = 20, 10_000, 100, 60
READERS = (0, 1, 50)
SLOW_BYTES = 10 * 1024
MOST_MS = {CHATTY: (50, 250), ORDINARY: (10, 50)}  # p50 and p99 of the age of a line, by lines a second
MOST_SLOWED, MOST_ASKED_MS = 5, 50
SCRIPT = f"""\
import os, time
REVISION = "{{revision}}"
began, turns = time.monotonic(), min({{rate}}, 200)
for batch in range({SECONDS} * turns):
    wait = began + batch / turns - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    line = (str(time.time_ns()) + " " + "x" * {WIDTH - 20} + chr(10)).encode()
    data = line * ({{rate}} // turns)
    while data:
        data = data[os.write(1, data):]
open("/work/out/server.py", "w").close()
"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Lines a second, readers, and the bytes a second of one more that cannot keep up."""

    rate: int
    readers: int
    slow: int = 0

    @property
    def what(self) -> str:
        """As the table has it."""
        slow = f" and one of {self.slow // 1024} KB/s" if self.slow else ""
        return f"{self.rate:,} lines/s, {self.readers} reader{'s' if self.readers != 1 else ''}{slow}"


@dataclass(frozen=True)
class Run:
    """One build and its readers. `took_s` is the build's, from its claim to its end; `server_mib` the most that the
    server held, `server_cpu_s` what it used."""

    took_s: float
    lines: int
    server_mib: float
    server_cpu_s: float
    seen: dict[str, Any]


def measure(rounds: int) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """One build for each number of readers, one with a reader more that cannot keep up, an ordinary one. `rounds` plays
    no part: each build is 20 s of lines."""
    arms = [Arm(rate=CHATTY, readers=readers) for readers in READERS]
    arms += [Arm(rate=CHATTY, readers=READERS[-1], slow=SLOW_BYTES), Arm(rate=ORDINARY, readers=READERS[-1])]
    program = _reader()
    with place() as here, served(here) as running:
        running.until_ready()
        runs = {arm: _run(running, program, arm) for arm in arms}
    rows = [row for arm, run in runs.items() for row in _rows(arm, run, runs[arms[0]])]
    return tuple(rows), (_note(runs),)


def _rows(arm: Arm, run: Run, alone: Run) -> list[Row]:
    seen = run.seen
    if seen["errors"] or seen["lines"] != arm.readers * run.lines:
        raise RuntimeError(f"{arm.what}: {seen['lines']} of {arm.readers} × {run.lines} lines, {seen['errors'][:3]}")
    asked = seen["asked_ms"]
    rows = [
        _row(f"{arm.what}: another organization's list, p99", asked[int(len(asked) * 0.99)], MOST_ASKED_MS, "ms"),
        _row(f"{arm.what}: the most that the server held", run.server_mib, None, "MiB"),
    ]
    if arm.readers:
        most_p50, most_p99 = MOST_MS[arm.rate]
        cores = len(os.sched_getaffinity(0))
        # The readers run on this machine's cores; a user's do not.
        slowed = (run.took_s - alone.took_s - seen["cpu_s"] / cores) / alone.took_s * 100
        rows += [
            _row(f"{arm.what}: age of a line, p50", seen["age_p50_ms"], most_p50, "ms"),
            _row(f"{arm.what}: age of a line, p99", seen["age_p99_ms"], most_p99, "ms"),
            _row(f"{arm.what}: the build slowed", max(0.0, slowed), MOST_SLOWED, "%"),
        ]
    return rows


def _row(what: str, value: float, most: float | None, unit: str) -> Row:
    return Row(
        what=what,
        target=f"≤ {most:g} {unit}" if most is not None else NO_TARGET,
        measured=f"{value:.3g} {unit}",
        spread=NO_TARGET,
        pairs=1,
        verdict=judged(value, most) if most is not None else NO_TARGET,
        raw=(value,),
    )


def _note(runs: Mapping[Arm, Run]) -> str:
    parts = [
        f"{arm.what}: {run.took_s:.1f} s for {run.lines:,} lines, {run.server_cpu_s:.1f} s of the server's CPU, "
        f"{run.seen['cpu_s']:.1f} s of the readers'"
        for arm, run in runs.items()
    ]
    return "From the claim to the end of the build: " + "; ".join(parts)


def _reader() -> Path:
    """The compiled program of the readers."""
    program = KEPT / "reader"
    KEPT.mkdir(parents=True, exist_ok=True)
    subprocess.run(("go", "build", "-o", program, "."), cwd=READER, check=True)
    return program


def _run(running: Served, program: Path, arm: Arm) -> Run:
    """Submit, read, wait."""
    api, server = running.api, running.process
    request = pb.CreateBuildRequest(name="talks", idempotency_key=arm.what)
    request.code.compile.archive = tar_of({"build.py": SCRIPT.format(revision=arm.what, rate=arm.rate)})
    _peak(server.pid, forget=True)
    used = cpu_s(server.pid)
    created: pb.CreateBuildResponse = api.call("CreateBuild", request)
    argv = [str(program), "-server", api.server, "-token", running.token, "-build", created.build_id]
    argv += ["-readers", str(arm.readers), "-slow", str(arm.slow), "-other-token", running.other]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    asked = pb.GetBuildRequest(build_id=created.build_id)
    while (record := api.call("GetBuild", asked)).ended_at_ms == 0:
        time.sleep(0.5)
    out, _ = process.communicate()
    if record.status != pb.BUILD_STATUS_SUCCEEDED:
        raise RuntimeError(f"talks: {pb.BuildStatus.Name(record.status)} {record.failure}")
    took = (record.ended_at_ms - record.started_at_ms) / 1000
    return Run(took, record.log_lines, _peak(server.pid), cpu_s(server.pid) - used, json.loads(out))


def _peak(pid: int, *, forget: bool = False) -> float:
    """The most memory that a process held, in MiB, since it was last forgotten."""
    if forget:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        return 0.0
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
