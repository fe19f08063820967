"""The programs of the test cluster, compiled from the two modules beside this file.

A module's folder of binaries is named by the digest of what decides them, outside the tree: only the first run on a
machine pays the compiler (about eight minutes on two cores).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from tests.kept import KEPT

HERE = Path(__file__).parent
CACHE = KEPT / "programs"
KUBERNETES = "v1.34.3"


@dataclass(frozen=True)
class Module:
    """A Go module of this folder, the packages built from it, and what the linker writes into them."""

    folder: str
    packages: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> Path:
        """Where its binaries are cached."""
        digest = hashlib.sha256(repr((self.packages, self.variables)).encode())
        for name in ("go.mod", "go.sum"):
            digest.update((HERE / self.folder / name).read_bytes())
        return CACHE / f"{self.folder}-{digest.hexdigest()[:16]}"

    @property
    def is_compiled(self) -> bool:
        return self.place.is_dir()

    def compiled(self) -> Path:
        """The folder of binaries, compiled by the first call. Raises `BuildError` ToolchainUnavailable."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{self.folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.is_compiled:
                self._compile()
        return self.place

    def _compile(self) -> None:
        print(f"compiling {', '.join(name_of(package) for package in self.packages)}", file=sys.stderr, flush=True)
        partial = Path(tempfile.mkdtemp(dir=CACHE, prefix=".partial-"))
        try:
            go_build(HERE / self.folder, self.packages, partial, self.variables)
            partial.chmod(0o755)
            partial.rename(self.place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def name_of(package: str) -> str:
    """What `go build` calls the program of a package."""
    return package.rpartition("/")[2]


def go_build(
    folder: Path,
    packages: tuple[str, ...],
    out: Path,
    variables: tuple[tuple[str, str], ...] = (),
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Compile static programs into the folder `out`, at low priority: a test machine has others at work.

    Raises `BuildError` ToolchainUnavailable without Go, or with the compiler's own words.
    """
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in variables)])
    argv = ["nice", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", f"{out}/", *packages]
    env = {**environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-p=2", "GOWORK": "off"}
    if shutil.which("go") is None:
        raise BuildError("ToolchainUnavailable", "the test cluster's programs are compiled by Go, which is not here")
    done = subprocess.run(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise BuildError("ToolchainUnavailable", f"go build failed: {done.stdout.decode(errors='replace')[-2000:]}")


CONTROL = Module(
    "kubernetes",
    tuple(
        f"k8s.io/kubernetes/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
    ),
    (
        ("k8s.io/component-base/version.gitVersion", KUBERNETES),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "34"),
    ),
)
BUILDERS = Module(
    "image",
    (
        "github.com/GoogleContainerTools/kaniko/cmd/executor",
        "github.com/buildpacks/lifecycle/cmd/launcher",
        "github.com/buildpacks/lifecycle/cmd/lifecycle",
    ),
)
DEBIAN = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "openssl": "openssl",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "docker-registry": "docker-registry",
    "mmdebstrap": "mmdebstrap",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Programs that Debian has, and their packages."""


def missing_packages() -> list[str]:
    """Debian packages that this machine lacks for a cluster."""
    return sorted({package for program, package in DEBIAN.items() if shutil.which(program) is None})


def install_missing() -> None:
    """Install them, as root with apt, through the one script that does such. Raises `BuildError` that names them."""
    missing = missing_packages()
    if not missing:
        return
    done = subprocess.run([str(HERE.parents[1] / "deploy" / "setup")], env={**os.environ, "CLUSTER": "1"}, check=False)
    if done.returncode or (missing := missing_packages()):
        raise BuildError(
            "ToolchainUnavailable",
            f"a test cluster needs {', '.join(missing)}",
            next=f"apt-get install -y {' '.join(missing)}",
        )
