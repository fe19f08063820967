"""`python -m tests.chaos --seed 7` plays one history; `--count 200` as many, two at a time, from `--first` on.

A history that breaks a promise prints its seed and the command that repeats it; the exit code is 1.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from tests.chaos.judge import judge, judge_left
from tests.chaos.parts import running
from tests.chaos.play import Broken, Play
from tests.chaos.schedule import history
from tests.crash_fixtures import ROOT
from tests.kept import keeping

AT_ONCE = 2
LIMIT_S = 900.0


def play(seed: int, kept: Path, lane: int) -> int:
    """One history; the exit code. Its log and the parts' are printed where a promise is broken."""
    planned = history(seed)
    told: list[str] = []
    started = time.monotonic()
    with running(planned, kept, lane) as parts:
        playing = Play(planned, parts, told.append)
        try:
            playing.run()
            wrong = judge(playing)
        except Broken as error:
            wrong = [str(error)]
        playing.over.set()
        logs = {part.name: part.said() for part in parts.every}
        statuses = sorted(row["status"] for row in playing.seen().values())
        for part in (*parts.workers, *parts.apis, parts.redis, parts.registry):
            part.close()
        if not wrong:
            wrong = judge_left(playing)
        if wrong:
            kept_logs = Path(f"/var/tmp/ignite-builder-chaos-{seed}")
            shutil.rmtree(kept_logs, ignore_errors=True)
            kept_logs.mkdir()
            for name, said in logs.items():
                (kept_logs / f"{name}.log").write_text(said)
    counts = ", ".join(f"{statuses.count(one)} {one}" for one in sorted(set(statuses)))
    store = "PostgreSQL" if planned.postgres else "SQLite"
    head = f"seed {seed}: {store}, {planned.apis} serve, {counts}, {time.monotonic() - started:.0f} s"
    if not wrong:
        print(f"{head}: every promise holds")
        return 0
    print(f"{head}: BROKEN", *told, *(f"broken: {one}" for one in wrong), sep="\n")
    print(f"the parts' logs: {kept_logs}\nagain: make chaos SEED={seed}")
    return 1


def play_many(seeds: Sequence[int], kept: Path) -> int:
    """Play them all and print each; the number of broken ones."""
    broken = 0
    with ThreadPoolExecutor() as pool:
        for future in as_completed(submit_all(pool, seeds, kept).values()):
            code, out = future.result()
            broken += code != 0
            print(out, end="", flush=True)
    return broken


def submit_all(pool: Executor, seeds: Sequence[int], kept: Path) -> dict[int, Future[tuple[int, str]]]:
    """Play histories, `AT_ONCE` of them at once, each in a process of its own. Seed → what `run` answers."""
    lanes: SimpleQueue[int] = SimpleQueue()
    for lane in range(AT_ONCE):
        lanes.put(lane)

    def in_a_lane(seed: int) -> tuple[int, str]:
        lane = lanes.get()
        try:
            return run(seed, kept, lane)
        finally:
            lanes.put(lane)

    return {seed: pool.submit(in_a_lane, seed) for seed in seeds}


def run(seed: int, kept: Path, lane: int) -> tuple[int, str]:
    """Play a history in a process of its own: its exit code and what it printed."""
    argv = [sys.executable, "-m", "tests.chaos", "--seed", str(seed), "--kept", str(kept), "--lane", str(lane)]
    done = subprocess.run(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="play this one")
    parser.add_argument("--count", type=int, default=200, help="play so many (default 200)")
    parser.add_argument("--first", type=int, help="the first seed of many; default: drawn, and printed")
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)  # whoever names it holds its lock
    parser.add_argument("--lane", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.seed is not None and asked.kept is not None:
        return play(asked.seed, asked.kept, asked.lane)
    with keeping() as kept:
        if asked.seed is not None:
            return play(asked.seed, kept, asked.lane)
        first = secrets.randbelow(10**9) if asked.first is None else asked.first
        print(f"{asked.count} histories, seeds {first} to {first + asked.count - 1}", flush=True)
        broken = play_many(range(first, first + asked.count), kept)
        print(f"{broken} of {asked.count} histories are broken")
        return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
