"""`ko build` of the same project onto the same base into the same registry, with its own compiler cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.projects import Project
from bench.servers import KEPT
from builder.images import place
from builder.images.store import ImageStore

VERSION = "v0.19.1"
CONFIG = "builds:\n- main: .\n  ldflags: [-s, -w, -buildid=]\n"


def installed() -> Path:
    """The program; the first time it is compiled (about 80 s)."""
    program = KEPT / f"ko-{VERSION}" / "ko"
    if not program.is_file():
        env = {**os.environ, "GOBIN": str(program.parent)}
        subprocess.run(("go", "install", f"github.com/google/ko@{VERSION}"), env=env, check=True)
    return program


@dataclass
class Ko:
    """Builds one project with ko in a folder of its own."""

    project: Project
    folder: Path
    registry: str
    program: Path

    def prepare(self, bases: ImageStore, base: str) -> None:
        """Push the base image that both build on; ko reads it from the registry."""
        image = bases.image(base)
        assert image is not None, base
        place.destination(self.registry, "").push(image, "bases/go", "current")
        (self.folder / "src").mkdir(parents=True)
        (self.folder / "src" / ".ko.yaml").write_text(CONFIG)

    def build(self, number: int | str) -> float:
        """Seconds of `ko build`."""
        argv = (
            str(self.program),
            "build",
            "--bare",
            "--insecure-registry",
            "--sbom=none",
            "--platform=linux/amd64",
            ".",
        )
        return self._run(number, argv)

    def compile(self, number: int | str) -> float:
        """Seconds of the `go build` that ko runs, alone: into a file, with no layer and no push."""
        flags = ("-trimpath", "-ldflags=-s -w -buildid=", "-o", str(self.folder / "app"))
        return self._run(number, ("go", "build", *flags, "."))

    def _run(self, number: int | str, argv: tuple[str, ...]) -> float:
        self.project.write(self.folder / "src", number)
        env = {
            **os.environ,
            "KO_DOCKER_REPO": f"{self.registry}/ko/{self.project.name}",
            "KO_DEFAULTBASEIMAGE": f"{self.registry}/bases/go:current",
            "CGO_ENABLED": "0",
            "GOCACHE": str(self.folder / "go-build"),
            "GOMODCACHE": str(self.folder / "go-mod"),
            "GOTOOLCHAIN": "local",
        }
        began = time.perf_counter()
        done = subprocess.run(argv, cwd=self.folder / "src", env=env, capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {done.stderr}")
        return took

    def forget_compiler_cache(self) -> None:
        """Make the next build a cold one."""
        shutil.rmtree(self.folder / "go-build", ignore_errors=True)
