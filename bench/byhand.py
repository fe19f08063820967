"""The same build by hand: the plan's own toolchain commands on this machine, no sandbox, no service, its own caches.

Two ways to end it. `bare`: the layer and the push by the builder's own code inside this process, which is the least
that this work can cost. `typed`: GNU tar, gzip -1 and `skopeo copy`, which is what a person would type.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.projects import Project
from builder import pipelines
from builder.attempt.downloads import cache_of
from builder.attempt.steps import SETTING
from builder.data import runtimes_dir
from builder.images import place
from builder.images.image import CONFIG_TYPE, MANIFEST_TYPE, Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from builder.images.store import ImageStore
from builder.pipelines import catalog as catalogs
from builder.pipelines.base import PlanRequest
from builder.plan import Output, Plan, Sees
from builder.source.tree import DirTree
from builder.toolchains.host import find_program


@dataclass
class Hand:
    """Builds one project by hand in a folder of its own, again and again."""

    project: Project
    folder: Path
    registry: str
    bases: ImageStore
    versions: dict[str, str]
    digest: str = ""
    """Digest of the last artifact."""
    _plan: Plan | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("src", "out", "home", "tmp", "blobs/sha256"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def plan(self) -> Plan:
        """As the node plans it."""
        if self._plan is None:
            known = pipelines.load(())
            catalog = catalogs.read(runtimes_dir() / "catalog.toml", self.versions)
            tree = DirTree(self.folder / "src")
            detection = pipelines.detect(tree, self.project.runtime, known)
            request = PlanRequest(runtime=self.project.runtime)
            self._plan = pipelines.plan(detection, tree, request, catalog, known)
        return self._plan

    @property
    def output(self) -> Output:
        """The image that it plans; no project measured here plans a component."""
        output = self.plan.output
        assert isinstance(output, Output)
        return output

    def prepare(self, number: int | str) -> None:
        """Lay the source out, and empty what an earlier build left."""
        self.project.write(self.folder / "src", number)
        shutil.rmtree(self.folder / "out")
        (self.folder / "out").mkdir()

    def bare(self, number: int | str) -> float:
        """Toolchain, layers and push by the builder's own code. Seconds."""
        self.prepare(number)
        plan = self.plan
        began = time.perf_counter()
        self.run_steps(plan)
        layers = tuple(
            write_layer([(self._host(source.source), source.dest)], self._out(index), created_by=source.created_by)
            for index, source in enumerate(self.output.layers)
        )
        image = build_image(self.bases.get(plan.toolchain.base), layers, self._config(plan))
        target = place.destination(self.registry, "")
        self.digest = target.push(image, f"byhand/{self.project.name}", f"bare-{number}").digest
        return time.perf_counter() - began

    def typed(self, number: int | str) -> float:
        """Toolchain, GNU tar, gzip -1, `skopeo copy`. Seconds."""
        self.prepare(number)
        plan = self.plan
        base = self.bases.get(plan.toolchain.base)
        for layer in base.layers if base else ():
            blob = self._blob(layer.digest)
            if not blob.exists():
                shutil.copy(layer.path, blob)
        began = time.perf_counter()
        self.run_steps(plan)
        layers = [self._tarred(index) for index in range(len(self.output.layers))]
        image = build_image(base, tuple(layers), self._config(plan))
        self._layout(image)
        target = f"docker://{self.registry}/byhand/{self.project.name}-typed:{number}"
        quiet = ("skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{self.folder}", target)
        subprocess.run(quiet, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def run_steps(self, plan: Plan) -> None:
        """The plan's commands; a download only while its files are not there, and then without a check of digests."""
        fetch = self.folder / "fetch"
        shutil.rmtree(fetch, ignore_errors=True)
        for stub in plan.stubs:
            (fetch / stub.path).parent.mkdir(parents=True, exist_ok=True)
            (fetch / stub.path).write_text(stub.content)
        for copy in plan.copies:
            (fetch / copy.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / "src" / copy.source, fetch / copy.path)
        for step in plan.steps:
            if step.sees is Sees.APART:  # once for each sdist; no project measured here has one
                continue
            if step.when and not ((fetch / step.when).exists() and (fetch / step.when).read_bytes()):
                continue
            if (name := cache_of(step)) and self._fetched(plan, name):
                continue
            argv = [self.translated(part) for part in step.argv]
            env = {**os.environ, **{name: self.translated(value) for name, value in step.env}}
            env |= {"IGNITE_WORK": str(self.folder), "HOME": str(self.folder / "home"), "SOURCE_DATE_EPOCH": "0"}
            done = subprocess.run(
                argv, cwd=self.translated(step.cwd), env=env, capture_output=True, text=True, check=False, umask=0o002
            )
            if done.returncode:
                raise RuntimeError(f"{self.project.name}, {step.name}: {done.stdout}{done.stderr}")
            if name:
                self._keep(plan, name)

    def _fetched(self, plan: Plan, name: str) -> bool:
        """Whether the cache has what the stubs name; the files and links for the next steps are written anyway."""
        found = pipelines.fetched(plan, DirTree(self.folder / "fetch"))
        for file in found.files if found else ():
            (self.folder / "fetch" / file.path).write_text(file.content)
        for link in found.links if found else ():
            path = self.folder / "fetch" / link.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(self.folder / "cache" / link.cache / link.target)
        (self.folder / "download" / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "cache" / name).mkdir(parents=True, exist_ok=True)
        return found is not None and all((self.folder / "cache" / name / one.path).exists() for one in found.wanted)

    def _keep(self, plan: Plan, name: str) -> None:
        found = pipelines.fetched(plan, DirTree(self.folder / "fetch"))
        for one in found.wanted if found else ():
            source, path = self.folder / "download" / name / one.source, self.folder / "cache" / name / one.path
            if source.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, path)
        self._fetched(plan, name)

    def translated(self, text: str) -> str:
        """A path of the sandbox as it is on this machine."""
        text = SETTING.sub(lambda match: os.environ.get(match[1]) or match[2], text)
        go = Path(find_program("go") or "go").resolve()
        here = {
            "/opt/ignite/toolchain/go": str(go.parent.parent),
            "/opt/ignite/toolchain/uv/uv": find_program("uv") or "uv",
            "/opt/ignite/sdk/python": str(runtimes_dir() / "python"),
            "/work": str(self.folder),
            "/cache": str(self.folder / "cache"),
        }  # in one pass: what replaces one may hold another
        return re.sub(rf"(?<![\w.-])(?<![\w.-]/)({'|'.join(here)})(?=[/,]|$)", lambda match: here[match[1]], text)

    def forget_compiler_cache(self) -> None:
        """Make the next Go build a cold one."""
        shutil.rmtree(self.folder / "cache" / "go-build", ignore_errors=True)

    def _host(self, inside: str) -> Path:
        return Path(self.translated(inside))

    def _out(self, index: int) -> Path:
        return self.folder / f"layer-{index}.tar.gz"

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _config(self, plan: Plan) -> ImageConfig:
        output = self.output
        return ImageConfig(entrypoint=output.entrypoint, env=output.env, workdir=output.workdir, user=output.user)

    def _tarred(self, index: int) -> Layer:
        source = self.output.layers[index]
        host, tar = self._host(source.source), self.folder / f"typed-{index}.tar"
        reproducible = ("--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner")
        moved = f"--transform=s,^{host.name},{source.dest.lstrip('/')},rSh"
        subprocess.run(("tar", *reproducible, moved, "-C", str(host.parent), "-cf", str(tar), host.name), check=True)
        with tar.open("rb") as file:
            diff_id = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        pressed = tar.with_suffix(".tar.gz")
        with pressed.open("wb") as out:
            subprocess.run(("gzip", "-1", "--no-name", "--stdout", str(tar)), stdout=out, check=True)
        with pressed.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        pressed.replace(self._blob(digest))
        return Layer(path=self._blob(digest), digest=digest, diff_id=diff_id, size=self._blob(digest).stat().st_size)

    def _layout(self, image: Image) -> None:
        """The image as an OCI layout folder (image-spec, image-layout.md)."""
        self._blob(image.digest).write_bytes(image.manifest)
        self._blob(image.config_digest).write_bytes(image.config)
        described = {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": len(image.manifest)}
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
        assert json.loads(image.manifest)["config"]["mediaType"] == CONFIG_TYPE
