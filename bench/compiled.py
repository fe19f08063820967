"""P13 of Rust, Python and Deno, P9 of Rust and Deno: the service against the toolchain's own commands and a push.

By hand there is no sandbox, no service and no record: `cargo build --release`, `uv pip install`, or `deno install` and
`deno check`, then the layer and the push by the builder's own code inside this process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench import projects
from bench.pairs import interleave, ratios, spread
from bench.projects import Project
from bench.results import Row, ratio_row
from bench.servers import Place, Server, place
from builder.attempt.results import CACHE
from builder.data import runtimes_dir
from builder.images import place as places
from builder.images.image import ImageConfig, build_image
from builder.images.layer import write_layer
from builder.pipelines import catalog as catalogs
from builder.settings import Settings
from builder.toolchains.host import find_program
from builder.toolchains.providers import toolchains_of

Found = tuple[tuple[Row, ...], tuple[str, ...]]
TRIPLE = "x86_64-unknown-linux-gnu"
MOST_CHANGED, MOST_SAME, MOST_COLD = 1.2, 0.15, 1.15
PACKAGES = (
    ("python", "Python with pandas, pillow, requests", "uv + push", 1.0),
    ("deno", "Deno service", "deno + push", MOST_COLD),
)
"""Runtime, what its project is called, what it is compared with, and the most that a build without downloads takes."""


@dataclass
class Hand:
    """A project that is built by hand in a folder of its own, again and again."""

    project: Project
    folder: Path
    here: Place
    base: str
    commands: tuple[tuple[str, ...], ...]
    env: dict[str, str]
    layer: tuple[str, str]
    """What is packed, below the folder, and where it lies in the image."""
    caches: tuple[str, ...] = ()
    """What `forget` removes, below the folder."""
    pushed: int = field(default=0, init=False)

    def build(self, number: int | str) -> float:
        """Toolchain, layer and push. Seconds."""
        source = self.folder / "src"
        self.project.write(source, number)
        env = {**os.environ, **self.env}
        began = time.perf_counter()
        for argv in self.commands:
            done = subprocess.run(argv, cwd=source, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{self.project.name}, {' '.join(argv)}: {done.stdout}{done.stderr}")
        packed, dest = self.layer
        self.pushed += 1
        layer = write_layer([(self.folder / packed, dest)], self.folder / "layer.tar.gz", created_by="by hand")
        image = build_image(self.here.bases.get(self.base), (layer,), ImageConfig(entrypoint=(dest,)))
        target = places.destination(self.here.registry, "")
        target.push(image, f"byhand/{self.project.name}", f"hand-{self.pushed}")
        return time.perf_counter() - began

    def forget(self) -> None:
        """Make the next build a cold one; what was downloaded stays."""
        for name in self.caches:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def measure_cargo(rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place) -> Found:
    """What of P13 concerns Rust: crates to compile, unchanged, one line changed."""
    notes: list[str] = []
    with opened() as here, here.server("p13-rust") as server:
        project = projects.read("rust-service")
        hand = cargo(here, project)
        rows = _changed(server, project, hand, "Rust service", "cargo + push", MOST_CHANGED, rounds, notes)
        rows += _same(server, project, hand, "Rust service", "cargo + push", rounds, notes)

        def cold(number: int) -> float:
            results = Path(server.settings.node_dir) / "caches" / server.settings.organization / CACHE
            shutil.rmtree(results, ignore_errors=True)
            return server.build(project, project.archive(number))[0]

        def cold_by_hand(number: int) -> float:
            hand.forget()
            return hand.build(number)

        few = max(1, rounds // 3)  # each compiles every crate twice
        empty = interleave({"service": cold, "hand": cold_by_hand}, few, first=10_000, warm=0)
        rows.append(_row("Rust service, crates to compile: service / cargo + push", empty, MOST_COLD, notes))
    return tuple(rows), tuple(notes)


def measure_packages(rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place) -> Found:
    """What of P13 concerns Python and Deno: nothing downloaded, unchanged, one line changed."""
    rows: list[Row] = []
    notes: list[str] = []
    with opened() as here, here.server("p13-packages") as server:
        for name, label, tool, most in PACKAGES:
            project = projects.read(f"{name}-service")
            hand = uv(here, project) if name == "python" else deno_of(here, project, server)
            rows += _changed(server, project, hand, label, tool, MOST_CHANGED, rounds, notes)
            rows += _same(server, project, hand, label, tool, rounds, notes)
            caches = Path(server.settings.node_dir) / "caches" / server.settings.organization

            def cold(number: int, project: Project = project, caches: Path = caches) -> float:
                for each in caches.iterdir():
                    shutil.rmtree(each, ignore_errors=True)
                return server.build(project, project.archive(number))[0]

            def cold_by_hand(number: int, hand: Hand = hand) -> float:
                hand.forget()
                return hand.build(number)

            few = max(1, rounds // 3)  # each downloads every package twice
            empty = interleave({"service": cold, "hand": cold_by_hand}, few, first=10_000, warm=0)
            rows.append(_row(f"{label}, nothing downloaded: service / {tool}", empty, most, notes))
    return tuple(rows), tuple(notes)


def measure_changed(rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place) -> Found:
    """P9: one line of the source changed."""
    rows: list[Row] = []
    notes: list[str] = []
    with opened() as here, here.server("p9") as server:
        of_rust, of_deno = projects.read("rust-service"), projects.read("deno-service")
        hand = cargo(here, of_rust)
        rows += _changed(server, of_rust, hand, "Rust service", "cargo + push", MOST_CHANGED, rounds, notes)
        hand = deno(here, of_deno, server.settings)
        rows += _changed(server, of_deno, hand, "Deno service", "deno + push", MOST_CHANGED, rounds, notes)
    return tuple(rows), tuple(notes)


def cargo(here: Place, project: Project) -> Hand:
    """`cargo build --release` into a static binary, as the service builds one."""
    folder = here.folder / f"hand-{project.name}"
    folder.mkdir(exist_ok=True)
    argv = ("cargo", "build", "--release", "--locked", "--quiet", "--target", TRIPLE)
    env = {
        "CARGO_TARGET_DIR": str(folder / "target"),
        "CARGO_PROFILE_RELEASE_STRIP": "symbols",
        "RUSTFLAGS": "-Ctarget-feature=+crt-static",
    }
    binary = f"target/{TRIPLE}/release/service"
    return Hand(
        project=project, folder=folder, here=here, base="rust", commands=(argv,), env=env,
        layer=(binary, "/app/app"), caches=("target",),
    )  # fmt: skip


def uv(here: Place, project: Project) -> Hand:
    """`uv pip install` with a cache of its own, its packages beside the source, compiled as the service does."""
    folder = here.folder / f"hand-{project.name}"
    folder.mkdir(exist_ok=True)
    row = catalogs.read(runtimes_dir() / "catalog.toml").find(project.runtime)
    argv = (
        find_program("uv") or "uv", "pip", "install", "--quiet", "--no-config", "--only-binary", ":all:",
        "--python", row.version, "--target", "deps", "--compile-bytecode", "--cache-dir", str(folder / "uv"),
        "-r", "requirements.txt",
    )  # fmt: skip
    return Hand(
        project=project, folder=folder, here=here, base=row.base, commands=(argv,), env={}, layer=("src", "/app"),
        caches=("uv", "src/deps"),
    )  # fmt: skip


def deno_of(here: Place, project: Project, server: Server) -> Hand:
    """`deno`, once the service has got its program."""
    server.build(project, project.archive("first"))
    return deno(here, project, server.settings)


def deno(here: Place, project: Project, settings: Settings) -> Hand:
    """`deno install` and `deno check` with a cache of its own; Deno itself is in the registry after the first build."""
    folder = here.folder / f"hand-{project.name}"
    folder.mkdir(exist_ok=True)
    row = catalogs.read(runtimes_dir() / "catalog.toml").find(project.runtime)
    parts = toolchains_of(settings).find(row).parts
    program = next(str(part.source) for part in parts if part.source.name == project.runtime)
    env = {"DENO_DIR": str(folder / "deno"), "DENO_TLS_CA_STORE": "system", "NO_COLOR": "1"}
    commands = (
        (program, "install", "--frozen", "--quiet", "--node-modules-dir=auto"),
        (program, "check", "--frozen", "--quiet", "main.ts"),
    )
    return Hand(
        project=project, folder=folder, here=here, base=row.base, commands=commands, env=env, layer=("src", "/app"),
        caches=("deno", "src/node_modules"),
    )  # fmt: skip


def _changed(
    server: Server, project: Project, hand: Hand, label: str, tool: str, most: float, rounds: int, notes: list[str]
) -> list[Row]:
    def build(number: int) -> float:
        took, record = server.build(project, project.archive(number))
        if record.from_cache_of:
            raise RuntimeError("the cache answered a build that was to be measured")
        return took

    took = interleave({"service": build, "hand": hand.build}, rounds)
    return [_row(f"{label}, one line changed: service / {tool}", took, most, notes)]


def _same(
    server: Server, project: Project, hand: Hand, label: str, tool: str, rounds: int, notes: list[str]
) -> list[Row]:
    again = project.archive("same")
    server.build(project, again)
    hand.build("same")
    same = interleave(
        {"service": lambda _: server.build(project, again)[0], "hand": lambda _: hand.build("same")}, rounds
    )
    return [_row(f"{label}, unchanged: service / {tool}", same, MOST_SAME, notes)]


def _row(what: str, took: dict[str, list[float]], most: float, notes: list[str]) -> Row:
    found = ratios(took["service"], took["hand"])
    medians = ", ".join(f"{name} {spread(values).median:.3f} s" for name, values in took.items())
    notes.append(f"{what.partition(':')[0]}, medians: {medians}")
    return ratio_row(what, spread(found), found, most)
