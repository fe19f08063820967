"""The image of the init container that brings the source into a Job: one static program (`fetch/`) on nothing.

Its flags are the fixed set below, so the same Go and source give the same digest.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from builder.errors import BuildError
from builder.images.image import Image, ImageConfig, build_image
from builder.images.layer import write_layer

SOURCE = Path(__file__).with_name("fetch")
PROGRAM = "/fetch"


def compile_fetcher(compiler: str, work: Path, environ: Mapping[str, str]) -> Path:
    """Compile the program into the folder `work` with Go's own command. Raises `BuildError` ToolchainUnavailable."""
    out = work / "fetch"
    argv = [compiler, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", str(out), "."]
    env = {**environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOOS": "linux", "GOARCH": "amd64", "GOWORK": "off"}
    try:
        done = subprocess.run(argv, cwd=SOURCE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except FileNotFoundError:
        raise BuildError("ToolchainUnavailable", "the image that fetches sources is compiled by Go") from None
    if done.returncode:
        words = done.stdout.decode(errors="replace")[-1000:]
        raise BuildError("ToolchainUnavailable", f"the image that fetches sources was not compiled: {words}")
    return out


def fetcher_image(program: Path, work: Path) -> Image:
    """The image with the compiled `program`; its layer is written into the folder `work`."""
    program.chmod(0o755)
    layer = write_layer([(program, PROGRAM)], work / "fetch.tar.gz", created_by="ignite: go build")
    return build_image(None, (layer,), ImageConfig(entrypoint=(PROGRAM,), ports=()))
