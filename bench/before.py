"""What commit 4225d62 measured, row by row: the column that shows what became of it.

Its runs were its own, on a machine of the same kind, so ratios compare well and times roughly. P2, P4, P14, idle and
P11 had no place in `bench/` then; their figures are of the load and chaos trials of that commit. The statements are of
its review.
"""

from __future__ import annotations

from collections.abc import Mapping

COMMIT = "4225d62"
GO = "Go, a line of a vendored library"
PYTHON = "Python with pandas, pillow, requests"

FIGURES: Mapping[str, Mapping[str, str]] = {
    "P1": {
        f"{GO}: service / bare": "1.11×",
        f"{GO}: service / typed": "1.13×",
        f"{PYTHON}, a line of the handler: service / bare": "1.17×",
        f"{PYTHON}, a line of the handler: service / typed": "0.799×",
        "small Go service: service − bare": "332.6 ms",
        "small Go service: service − bare, 95th percentile": "431.2 ms",
        "Python handler alone: service − bare": "289.6 ms",
        "Python handler alone: service − bare, 95th percentile": "408.3 ms",
    },
    "P13": {
        "Go service, one line changed: service / ko": "0.901×",
        "Go service, one line changed: `ignite-builder build` / ko": "1.54×",
        "Go service, unchanged: service / ko": "0.109×",
        "Go service, unchanged: `ignite-builder build` / ko": "0.708×",
        "Go service, compiler cache empty, modules there: service / ko": "1.05×",
    },
    "P2": {
        "PENDING → claim": "24 ms",
        "PENDING → claim, 95th percentile": "31 ms (90th)",
        "plain Celery, delay → body": "3.5 ms",
        "PENDING → claim / plain Celery, of the medians": "6.8×",
    },
    "P4": {
        "store transactions of a build": "27.6",
        "Redis round trips of a build": "16",
        "API calls of a build": "4–5",
        "statements of `finish`": "17",
        "statements of `succeed`": "22",
        "statements of `append`": "8",
        "idle `serve`: one core": "3.4%",
    },
    "P14": {
        "Go service, unchanged: `ignite-builder build` without a server / ko": "3× or more (5.0–5.4 s)",
        "`ignite-builder --version` / `python -c pass`": "24–35×",
    },
    "P7": {
        "a build step (no network): sandbox − bare spawn": "29.3 ms",
        "a build step (no network): sandbox alone": "47.7 ms",
        "a fetch step (egress proxy): sandbox − bare spawn": "29.5 ms",
        "a fetch step (egress proxy): sandbox alone": "47.8 ms",
        "bare spawn alone": "18.2 ms (fork)",
        "a compile step of over a second: sandbox / bare": "1.05×",
    },
    "P8": {
        f"{GO}: identical rebuild / first": "4.5%",
        f"{PYTHON}: identical rebuild / first": "2.1%",
        f"{GO}: processes of the build users in all rebuilds": "0",
        f"{GO}: blob bytes uploaded in all rebuilds": "0",
        f"{PYTHON}: processes of the build users in all rebuilds": "0",
        f"{PYTHON}: blob bytes uploaded in all rebuilds": "0",
    },
    "P11": {
        "10,000 lines/s, 0 readers: another organization's list, p99": "94 ms (max)",
        "10,000 lines/s, 1 reader: another organization's list, p99": "116 ms (max)",
        "10,000 lines/s, 1 reader: age of a line, p50": "2,000 ms",
        "10,000 lines/s, 1 reader: age of a line, p99": "3,000 ms",
        "10,000 lines/s, 1 reader: the build slowed": "24 %",
        "10,000 lines/s, 50 readers: another organization's list, p99": "3,410 ms (max)",
        "10,000 lines/s, 50 readers: the most that the server held": "140 MiB",
        "10,000 lines/s, 50 readers: age of a line, p50": "146,000 ms",
        "10,000 lines/s, 50 readers: age of a line, p99": "270,000 ms",
        "10,000 lines/s, 50 readers: the build slowed": "over 1,700 %",
    },
    "P12": {
        "Go with cel-go and goldmark: 10 builds on each of 3 nodes": "1 digest (4 builds each)",
        "Python with pandas, pillow, requests: 10 builds on each of 3 nodes": "1 digest (4 builds each)",
    },
}


def figure(metric: str, what: str) -> str:
    """The figure of that commit beside a row of today, or a dash."""
    return FIGURES.get(metric, {}).get(what, "–")
