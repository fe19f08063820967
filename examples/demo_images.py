"""`make demo-images`: a Dockerfile, an app for buildpacks and a prebuilt image → built, pulled, started and called.

Everything is real and private: the one-node Kubernetes of tests/cluster with its registry, `serve`, a worker of the
queue `image` and a `watch`. The images to build on are made on the spot. Ends by itself, with all that it started. With
the folder of a cluster that runs as its argument it starts none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from builder.config import new_secret
from builder.errors import BuildError
from builder.local.embedded import end, free_port, private_redis
from tests.cluster import cluster as clusters
from tests.cluster import images, pods
from tests.cluster.cluster import Cluster
from tests.cluster.programs import BUILDERS, CONTROL, missing_packages

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).parent / "ignite-builder"
NAMESPACE = "ignite-kaniko"
ORGANIZATION = "demo"
START_S = 300.0
END_S = 30.0
MIB = 2**20
PREBUILT_PAGE = "<h1>An image that was there before</h1>\n"


@dataclass(frozen=True, kw_only=True)
class ImageExample:
    """What the command is called with, and what the image answers. `{base}` and `{prebuilt}` are the images of the
    cluster's registry."""

    name: str
    kind: str
    argv: tuple[str, ...]
    pages: Mapping[str, str]
    """Path → what is served there."""

    from_cache: bool = True
    """Whether the second build is answered from the cache; a registry is asked each time."""


DEMO = (
    ImageExample(
        name="image-dockerfile",
        kind="Dockerfile",
        argv=(str(HERE / "image-dockerfile"), "--build-arg", "BASE={base}", "--build-arg", "NAME=Ada"),
        pages={"/": "<h1>Hello Ada</h1>\n", "/about.html": "<h1>Pages of Ada</h1>\n"},
    ),
    ImageExample(
        name="image-buildpacks",
        kind="buildpacks",
        argv=(str(HERE / "image-buildpacks"), "--buildpacks"),
        pages={"/": (HERE / "image-buildpacks/index.html").read_text(encoding="utf-8"), "/greeting.txt": "hello"},
    ),
    ImageExample(
        name="image-prebuilt",
        kind="prebuilt",
        argv=("--image", "{prebuilt}", "--name", "image-prebuilt"),
        pages={"/": PREBUILT_PAGE},
        from_cache=False,
    ),
)


def lacking() -> str:
    """Why this machine cannot show it, with what to do; empty where it can. Root with apt lacks no package for long."""
    if os.geteuid() != 0:
        step = "sudo make demo-images; without root: make demo, which shows the runtimes"
        return f"the demo needs root: its Kubernetes makes namespaces, mounts and a bridge\nnext   {step}"
    packages = missing_packages()
    if packages and shutil.which("apt-get") is None:
        return f"the demo's Kubernetes needs {', '.join(packages)}\nnext   install what these packages of Debian have"
    if shutil.which("go") is None:
        return "the demo's Kubernetes and images are compiled by Go, which is not here\nnext   install Go 1.24 or later"
    return ""


def push_images(host: str) -> dict[str, str]:
    """Push the images to build on, and one that is there before any build; name → reference."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        base, prebuilt = images.debian(work), images.page(PREBUILT_PAGE, work)
        reference = images.push(host, f"{ORGANIZATION}/prebuilt", prebuilt)
        # By its tag: which digest that is, the build finds out.
        tagged = reference.replace(f"@{prebuilt.digest}", ":latest")
        return {"base": images.push(host, f"{ORGANIZATION}/base", base), "prebuilt": tagged}


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts that build images over a cluster, and the command as their client."""

    cluster: Cluster
    folder: Path
    url: str
    token: str
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, **settings: str) -> Iterator[None]:
        """`ignite-builder <name>` as a process of its own, ended on the way out."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.parts[name] = subprocess.Popen(
                (PROGRAM, name), env=self._environ(settings), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which ends its parts in order
            )  # fmt: skip
        try:
            yield
        finally:
            end(self.parts.pop(name), END_S)

    def require_parts(self) -> None:
        """Raises `SystemExit` with the words of a part that has ended."""
        for name, process in self.parts.items():
            if process.poll() is not None:
                words = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise SystemExit(f"{name} ended with {process.returncode}:\n{words}")

    def await_api(self) -> None:
        """Wait until the control side answers."""

        def answers() -> bool:
            self.require_parts()
            with suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/healthz", trust_env=False, timeout=120).is_success
            return False

        if not clusters.wait_for(answers, START_S):
            raise SystemExit(f"the control side does not answer after {START_S:.0f} s")

    def build(
        self, example: ImageExample, references: Mapping[str, str], *, show: bool
    ) -> tuple[dict[str, Any], float]:
        """`ignite-builder build` to its end, its log shown or not: the record and the seconds that it took."""
        argv = [argument.format(**references) for argument in example.argv]
        command = [str(PROGRAM), "build", *argv, "--json", "--plain", *(["-v"] if show else ["-q"])]
        began = time.monotonic()
        environ = self._environ({"SERVER": self.url, "TOKEN": self.token})
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            while True:
                try:
                    out = process.communicate(timeout=1)[0]
                    break
                except subprocess.TimeoutExpired:
                    self.require_parts()
        finally:
            end(process, END_S)
        if process.returncode:
            raise SystemExit(f"{example.name}: the build ended with {process.returncode}\n{out.decode()}")
        return json.loads(out), time.monotonic() - began

    def _environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process with these settings, and none of the machine's."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
        environ |= {f"IGNITE_BUILDER_{name}": value for name, value in settings.items()}
        return environ | {"XDG_CONFIG_HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder)}


@contextmanager
def service(cluster: Cluster, folder: Path) -> Iterator[Service]:
    """The control side, a worker of the queue `image` and a watcher, with the rights of deploy/kubernetes."""
    host = cluster.registry
    cluster.deploy(NAMESPACE)
    client, worker, watcher = new_secret(), new_secret(), new_secret()
    tokens = (
        f'{{ token = "{client}", organization = "{ORGANIZATION}", scopes = ["submit", "read"] }}',
        f'{{ token = "{worker}", scopes = ["worker"] }}',
        f'{{ token = "{watcher}", scopes = ["watch"] }}',
    )
    listen = f"{cluster.address}:{free_port()}"
    made = Service(cluster=cluster, folder=folder, url=f"http://{listen}", token=client)
    with ExitStack() as stack:
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        key = new_secret()
        control = {
            "LISTEN": listen,
            "DATA_DIR": str(folder / "data"),
            "REDIS_URL": redis_url,
            "MESSAGE_KEY": key,
            "REGISTRY": host,
            "REGISTRY_INSECURE": "true",
            "TOKENS": f"[{', '.join(tokens)}]",
        }
        node = {
            "SERVER": made.url,
            "TOKEN": worker,
            "REDIS_URL": redis_url,
            "NODE_ID": "demo-worker",
            "NODE_DIR": str(folder / "node"),
            "QUEUES": "image",
            "KUBECONFIG": str(cluster.account("worker", NAMESPACE)),
            "KANIKO_EXECUTOR": images.push_executor(host),
            "FETCH_IMAGE": images.push_fetcher(host),
            "BUILDPACKS_BUILDER": images.push_builder(host),
            "BUILDPACKS_RUN_IMAGE": images.push_run(host, "demo\n"),
            "CPUS": "1",
            "MEMORY_BYTES": str(512 * MIB),
            "DISK_BYTES": str(1024 * MIB),
            "DRAIN_MS": "0",
        }
        follower = {
            "SERVER": made.url,
            "TOKEN": watcher,
            "NODE_ID": "demo-watcher",
            "KUBECONFIG": str(cluster.account("watcher", NAMESPACE)),
        }
        stack.enter_context(made.part("serve", **control))
        made.await_api()
        stack.enter_context(made.part("worker", **node))
        stack.enter_context(made.part("watch", **follower))
        yield made


def call(cluster: Cluster, example: ImageExample, reference: str) -> float:
    """Have the node pull and start an image, and call it; the seconds until it answered."""
    began = time.monotonic()
    with pods.serving(cluster, reference) as url:
        took = time.monotonic() - began
        for path, page in example.pages.items():
            answer = httpx.get(url + path, trust_env=False, timeout=120).text
            if answer != page:
                raise SystemExit(f"{example.name} answered {answer!r} at {path}, expected {page!r}")
            print(f"   GET {path} -> {answer.strip()}", flush=True)
    return took


def show(made: Service, example: ImageExample, references: Mapping[str, str]) -> tuple[str, ...]:
    """One example from its source to its answer, and once more; the row with its times."""
    print(f"\n== {example.name}, {example.kind}", flush=True)
    record, first = made.build(example, references, show=True)
    reference = record["imageRefs"][0]
    print(f"   {reference}", flush=True)
    started = call(made.cluster, example, reference)
    repeated, again = made.build(example, references, show=False)
    if repeated["imageDigest"] != record["imageDigest"]:
        raise SystemExit(f"{example.name}: the second build has another digest, {repeated['imageDigest']}")
    if example.from_cache and not repeated.get("fromCacheOf"):
        raise SystemExit(f"{example.name}: the second build was not answered from the cache")
    size = f"{int(record['sizeBytes']) / MIB:.1f} MiB"
    row = (example.name, example.kind, f"{first:.2f}s", f"{started:.2f}s", f"{again:.2f}s", size)
    print(f"   built in {row[2]}, pulled and started in {row[3]}, again in {row[4]}", flush=True)
    return row


def end_once(number: int, _: object) -> None:
    """The first signal ends the demo; a further one does not stop what ends its parts."""
    ignore_signals()
    raise SystemExit(128 + number)


def ignore_signals() -> None:
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def cluster_of(folder: str) -> Iterator[Cluster]:
    """The cluster of this folder, which runs and stays; without one a cluster that ends with the block."""
    if not folder:
        with clusters.running() as started:
            yield started
        return
    found = clusters.load(Path(folder))
    if found is None:
        step = "Name the folder of one that runs: that of the KUBECONFIG which make cluster prints."
        raise BuildError("InvalidRequest", f"there is no cluster in {folder}", next=step)
    yield found


def main(argv: Sequence[str]) -> int:
    """The demo, on the cluster whose folder is named."""
    if reason := lacking():
        print(reason, file=sys.stderr)
        return 1
    for number in ENDS:
        signal.signal(number, end_once)
    rows: list[tuple[str, ...]] = [("EXAMPLE", "SOURCE", "FIRST", "STARTED", "AGAIN", "SIZE")]
    began = time.monotonic()
    if not (CONTROL.is_compiled and BUILDERS.is_compiled):
        print(
            "the first run on a machine compiles Kubernetes, Kaniko and the lifecycle: about eight minutes", flush=True
        )
    print(f"starting {'' if argv else 'Kubernetes and a registry, then '}serve, worker and watch", flush=True)
    try:
        with ExitStack() as stack:
            # What is on the stack is ended undisturbed.
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="ignite-demo-images-", dir="/var/tmp"))
            )
            try:
                cluster = stack.enter_context(cluster_of("".join(argv[:1])))
                made = stack.enter_context(service(cluster, folder))
                references = push_images(cluster.registry)
                print(f"they work after {time.monotonic() - began:.0f} s", flush=True)
                rows += [show(made, example, references) for example in DEMO]
            finally:
                ignore_signals()
                print("\nending what was started", flush=True)
    except BuildError as error:
        print(f"{error.message}\nnext   {error.next}", file=sys.stderr)
        return 1
    for name, kind, *times in rows:
        print(f"{name:<18}{kind:<12}" + "".join(f"{text:>10}" for text in times))
    print(f"all in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
