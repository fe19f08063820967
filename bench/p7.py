"""P7: what the sandbox costs: one command in it against the same command started bare, and a step of over a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import projects
from bench.byhand import Hand
from bench.pairs import differences, interleave, ratios, spread
from bench.results import Row, if_long, ratio_row, time_row
from bench.servers import KEPT, Place, place
from builder import config, indexes, sandbox
from builder.data import catalog_file
from builder.local.machine import ensure_bases, versions_here
from builder.pipelines import catalog as catalogs
from builder.plan import Plan, Step
from builder.settings import Settings
from builder.toolchains.providers import toolchains_of

Found = tuple[tuple[Row, ...], tuple[str, ...]]
UID = 61_990
SPAWNS = 10
MOST_MS, MOST_RATIO = 12, 1.03
TRUE = "/usr/bin/true"


def measure(rounds: int) -> Found:
    """Spawns and a step, each on the root that the worker composes for it, with its caches."""
    rows: list[Row] = []
    with place() as here:
        settings = _node(here)
        work = _work(here.folder / "spawn")
        shutil.copy(TRUE, work / "true")  # the root is an image without such small programs
        root, caches = _python(here, settings)
        for label, egress in (("a build step (no network)", False), ("a fetch step (egress proxy)", True)):
            took = interleave(
                {"sandbox": _spawn(work, root, caches, egress), "bare": _bare_spawn()}, rounds * SPAWNS, warm=3
            )
            more = differences(took["sandbox"], took["bare"])
            rows.append(time_row(f"{label}: sandbox − bare spawn", spread(more), more, MOST_MS))
            rows.append(time_row(f"{label}: sandbox alone", spread(took["sandbox"]), took["sandbox"], None))
        rows.append(time_row("bare spawn alone", spread(took["bare"]), took["bare"], None))
        compiled, medians = _compile(here, settings, rounds)
        rows.append(compiled)
    return tuple(rows), (medians,)


def _limits() -> sandbox.Limits:
    mib = 1024 * 1024
    return sandbox.Limits(memory=2048 * mib, cpus=2, pids=512, disk=4096 * mib, wall_ms=600_000)


def _work(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, UID, UID)
    return folder


def _user() -> dict[str, int]:
    """Who both arms of a step run as."""
    return {"user": UID, "group": UID} if os.geteuid() == 0 else {}


def _node(here: Place) -> Settings:
    """Settings of a node with the kept bases and toolchains, all bases made."""
    node = here.folder / "node"
    node.mkdir()
    for shared in ("bases", "toolchains"):
        (KEPT / shared).mkdir(exist_ok=True)
        (node / shared).symlink_to(KEPT / shared)
    settings = config.load({"node_dir": str(node)}).settings
    ensure_bases(settings)
    return settings


def _python(here: Place, settings: Settings) -> tuple[sandbox.Root, dict[str, Path]]:
    """A Python step's root and caches. Go's root has no C library, so no program of the host starts there."""
    row = catalogs.read(catalog_file(""), settings.default_versions).find("python")
    return toolchains_of(settings).provide(row).root, {"uv": _work(_made(here.folder / "caches" / "uv"))}


def _spawn(work: Path, root: sandbox.Root, caches: dict[str, Path], egress: bool) -> Callable[[int], float]:
    way_out = sandbox.Egress.for_indexes(indexes.shipped()["python"], config.load().settings.index_env)

    def spawn(_: int) -> float:
        began = time.perf_counter()
        _run(sandbox.Command(argv=("/work/true",), work=work, caches=caches), root, way_out if egress else None)
        return time.perf_counter() - began

    return spawn


def _bare_spawn() -> Callable[[int], float]:
    """As this process's own user: to become another one it would be forked, which costs more the larger it is."""

    def spawn(_: int) -> float:
        began = time.perf_counter()
        subprocess.run((TRUE,), check=True, capture_output=True)
        return time.perf_counter() - began

    return spawn


def _run(command: sandbox.Command, root: sandbox.Root, egress: sandbox.Egress | None) -> None:
    lines: list[bytes] = []
    result = sandbox.run(
        command,
        root,
        _limits(),
        uid=UID,
        gid=UID,
        egress=egress,
        on_line=lambda _, line: lines.append(line),
        cancelled=lambda: False,
    )
    if result.exit_code:
        raise RuntimeError(f"{command.argv}: {result} {b' '.join(lines[-5:])!r}")


def _compile(here: Place, settings: Settings, rounds: int) -> tuple[Row, str]:
    """The compile step of a Go build, both as the build user, each with its own warm cache."""
    project = projects.vendored(KEPT)
    inside = Hand(project, here.folder / "inside", here.registry, here.bases, versions_here(settings))
    outside = Hand(project, here.folder / "outside", here.registry, here.bases, versions_here(settings))
    inside.project.write(inside.folder / "src", 0)
    outside.project.write(outside.folder / "src", 0)
    plan: Plan = inside.plan
    step: Step = plan.steps[-1]
    root = toolchains_of(settings).provide(plan.toolchain).root
    caches = {name: _work(_made(here.folder / "caches" / name)) for name in ("go-build", "go-mod", "go-modules")}
    for hand in (inside, outside):
        _give(hand.folder)

    def sandboxed(number: int) -> float:
        inside.prepare(number)
        _give(inside.folder)
        env = {"HOME": "/work/home", "TMPDIR": "/work/tmp", "PATH": "/usr/bin:/bin", **dict(step.env)}
        command = sandbox.Command(argv=step.argv, env=env, cwd="/work/src", work=inside.folder, caches=caches)
        began = time.perf_counter()
        _run(command, root, None)
        return time.perf_counter() - began

    def bare(number: int) -> float:
        outside.prepare(number)
        _give(outside.folder)
        argv = [outside.translated(part) for part in step.argv]
        env = {name: outside.translated(value) for name, value in step.env}
        env |= {"HOME": str(outside.folder / "home"), "TMPDIR": str(outside.folder / "tmp"), "PATH": "/usr/bin:/bin"}
        began = time.perf_counter()
        subprocess.run(argv, cwd=outside.folder / "src", env=env, check=True, capture_output=True, **_user())  # type: ignore[call-overload]
        return time.perf_counter() - began

    took = interleave({"sandbox": sandboxed, "bare": bare}, rounds)
    found = ratios(took["sandbox"], took["bare"])
    medians = (
        f"step: sandbox {spread(took['sandbox']).median:.3f} s, bare {spread(took['bare']).median:.3f} s (medians)"
    )
    row = ratio_row("a compile step of over a second: sandbox / bare", spread(found), found, MOST_RATIO)
    return if_long(row, took["bare"]), medians


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _give(folder: Path) -> None:
    """All of it to the build user."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.lchown(path, UID, UID)
