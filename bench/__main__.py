"""`python -m bench [METRIC …] [--pairs N]`: measure, keep the raw values, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    attack,
    compiled,
    document,
    kaniko,
    on_cluster,
    p1,
    p2,
    p4,
    p7,
    p8,
    p12,
    p14,
    p15,
    results,
    startcheck,
    tails,
    watched,
)
from bench.ko import VERSION
from bench.results import Row, Section
from bench.servers import KEPT

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks.md"
RAW = KEPT / "results.json"
METRICS: dict[str, Callable[[int], tuple[tuple[Row, ...], tuple[str, ...]]]] = {
    "P1": p1.measure,
    "P13": p1.measure_ko,
    "P13 Rust": compiled.measure_cargo,
    "P13 packages": compiled.measure_packages,
    "P9": compiled.measure_changed,
    "P2": p2.measure,
    "P4": p4.measure,
    "P14": p14.measure,
    "P7": p7.measure,
    "P8": p8.measure,
    "P15": p15.measure,
    "P11": tails.measure,
    "P12": p12.measure,
    "start check": startcheck.measure,
    "attack": attack.measure,
    "watcher": watched.measure,
    "Kaniko": kaniko.measure,
}
ON_CLUSTER = ("watcher", "Kaniko")
"""Measured where `make cluster` was made, or when they are named: then they start a cluster of their own."""


def main() -> int:
    """Measure what was asked for; the page is written after each metric, so an abort loses only one."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "metrics",
        nargs="*",
        metavar="METRIC",
        help=f"of {', '.join(METRICS)}; default: all, without a cluster all but {' and '.join(ON_CLUSTER)}",
    )
    parser.add_argument("--pairs", type=int, default=10, help="rounds of each comparison (default: 10)")
    asked = parser.parse_args()
    unknown = set(asked.metrics) - set(METRICS)
    if unknown or asked.pairs < 1:
        parser.error(f"there is no {', '.join(sorted(unknown))}" if unknown else "--pairs is at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and folders on memory go, too
    KEPT.mkdir(parents=True, exist_ok=True)
    sections, fresh = results.load(RAW), dict[str, Section]()
    measured, refused = commit(), list[str]()
    for name in asked.metrics or chosen(has_cluster=on_cluster.is_up()):
        began = time.monotonic()
        print(f"{name} …", flush=True)
        try:
            rows, notes = METRICS[name](asked.pairs)
        except PermissionError as error:  # of one metric; the others can do without
            print(f"{name}: not measured: {error}; next: run it as root", file=sys.stderr)
            refused.append(name)
            continue
        date = time.strftime("%Y-%m-%d", time.gmtime())
        fresh[name] = Section(metric=name, commit=measured, date=date, rows=rows, notes=notes)
        results.save(RAW, sections | fresh)
        PAGE.write_text(document.render(fresh, machine(), PAGE.read_text() if PAGE.is_file() else ""))
        for row in rows:
            print(f"  {row.what}: {row.measured} ({row.spread}), target {row.target}: {row.verdict}")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"wrote {PAGE.relative_to(ROOT)}; raw values in {RAW}")
    return 1 if refused else 0


def chosen(*, has_cluster: bool) -> list[str]:
    """What is measured when nothing is named."""
    return [name for name in METRICS if has_cluster or name not in ON_CLUSTER]


def commit() -> str:
    """The commit that is measured, and whether the checkout differs from it in anything but the page itself."""
    named = said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = said("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", f":(exclude){PAGE.relative_to(ROOT)}")
    return f"{named} with uncommitted changes" if changed else named


def machine() -> document.Machine:
    """What this machine is, without its name."""
    cpu = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        ":",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    go = said("go", "version").split()[2:3]
    tools = (*go, "Python " + platform.python_version(), "ko " + VERSION, said("skopeo", "--version"))
    return document.Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory / 2**30),
        cpu=cpu.partition(":")[2].strip(),
        system=f"Linux {platform.release().partition('-')[0]}",
        tools=", ".join(tools),
    )


def said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
