"""Start and end of a one-node Kubernetes: etcd, API server, controllers, scheduler, and a node (`node.sh`).

Everything is private: free loopback ports, one folder, a bridge and a control group named after it, and namespaces of
its own for containerd and kubelet. So several clusters run on a machine, beside any container engine, and all of one is
ended by what `state.json` in its folder lists.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from builder.errors import BuildError
from builder.local.embedded import registry_argv
from builder.local.ports import free_port
from builder.process import process_start
from tests.build_fixtures import pause
from tests.cluster import images
from tests.cluster.programs import BUILDERS, CONTROL, install_missing

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
PLACE = Path("/var/tmp")
PREFIX = "ignite-cluster-"
START_S = 300.0
NODE = "localhost"
"""The node's name is where the API server reaches its kubelet."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
SHARED_PLACES = ("/run/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods")
"""Mount points of the node's private folders (node.sh); made where the machine has none."""


_children: dict[int, subprocess.Popen[bytes]] = {}
"""What this process started, to be waited for."""


@dataclass
class Cluster:
    """A running cluster. `registry` is "host:port" on the bridge, which pods and this machine reach."""

    folder: Path
    port: int
    bridge: str
    address: str
    registry: str
    token: str
    processes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Name → pid and start time."""

    owner: tuple[int, str] = (0, "")
    """The process whose end is the cluster's; none for one that stays until it is ended by command."""

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def subnet(self) -> str:
        return str(ipaddress.ip_network(f"{self.address}/24", strict=False))

    def save(self) -> None:
        """Write what ends the cluster; before each thing of it comes to be."""
        state = {**self.__dict__, "folder": str(self.folder)}
        partial = self.folder / "state.partial"
        partial.write_text(json.dumps(state), encoding="utf-8")
        partial.chmod(0o600)
        partial.rename(self.folder / "state.json")

    def kubectl(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl as the administrator; its output. Raises `AssertionError` with its words."""
        program = CONTROL.place / "kubectl"
        done = subprocess.run(
            [str(program), "--kubeconfig", str(self.kubeconfig), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(argv)}: {done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def deploy(self, namespace: str) -> None:
        """Apply the builder's manifests, and wait until `namespace` takes pods."""
        self.kubectl("apply", "-f", str(DEPLOY))

        def has_account() -> bool:
            return "default" in self.kubectl("get", "serviceaccounts", "-n", namespace, "-o", "name")

        if not wait_for(has_account, START_S):
            raise BuildError("Internal", f"the namespace {namespace} of the test cluster got no service account")

    def trust(self, host: str) -> None:
        """Let the node pull from this registry over plain HTTP."""
        hosts = self.folder / "registries" / host
        hosts.mkdir(parents=True, exist_ok=True)
        _write(hosts / "hosts.toml", f'server = "http://{host}"\n[host."http://{host}"]\n')

    def account(self, name: str, namespace: str) -> Path:
        """A kubeconfig with a token of one of the builder's accounts."""
        token = self.kubectl("create", "token", name, "-n", "ignite-builder", "--duration=1h").strip()
        path = self.folder / f"{name}.kubeconfig"
        _write_json(path, kubeconfig(self, token, namespace))
        return path

    def start_process(self, name: str, argv: Sequence[str]) -> None:
        """Start one part, its output in `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        _children[process.pid] = process
        self.processes[name] = (process.pid, process_start(process.pid))
        self.save()

    def is_running(self, name: str) -> bool:
        pid, start = self.processes[name]
        return bool(start) and process_start(pid) == start

    def end_process(self, name: str, patience_s: float = 10.0) -> None:
        """TERM, then KILL; only the very process that was started."""
        pid, _ = self.processes[name]
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.is_running(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
                wait_for(lambda: _reaped(pid) or not self.is_running(name), patience_s)
        if (child := _children.pop(pid, None)) is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(patience_s)
        del self.processes[name]
        self.save()

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready; again after `end_process("apiserver")` too."""
        self.start_process("apiserver", _api_server(self))
        headers = {"authorization": f"Bearer {self.token}"}

        def ready() -> bool:
            if not self.is_running("apiserver"):
                raise self.trouble("apiserver")
            with suppress(httpx.HTTPError):
                # The certificate is the one that this process wrote a moment ago, on a loopback port.
                answer = httpx.get(f"{self.server}/readyz", headers=headers, verify=False, trust_env=False, timeout=120)
                return answer.status_code == 200
            return False

        if not wait_for(ready, START_S):
            raise self.trouble("apiserver")

    def trouble(self, name: str) -> BuildError:
        words = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-5:]
        return BuildError("Internal", f"{name} of the test cluster does not work: " + " | ".join(words))


def start(folder: Path, *, stays: bool = False) -> Cluster:
    """Start a cluster in `folder`, which is new. Raises `BuildError`; what was started by then is ended again."""
    if os.geteuid() != 0:
        raise BuildError("ToolchainUnavailable", "a test cluster needs root: it makes namespaces, mounts and a bridge")
    install_missing()
    binaries = CONTROL.compiled()
    images.prepare()
    sweep()
    folder.mkdir(mode=0o700)
    suffix = secrets.token_hex(3)
    owner = (0, "") if stays else (os.getpid(), process_start(os.getpid()))
    address = _free_subnet()
    cluster = Cluster(folder, free_port(), f"ign{suffix}", address, "", secrets.token_hex(16), owner=owner)
    cluster.save()
    try:
        # Without an address of its own a bridge takes the lowest of its ports', which changes with each pod.
        hardware = "02:" + ":".join(secrets.token_hex(1) for _ in range(5))
        _run("ip", "link", "add", cluster.bridge, "address", hardware, "type", "bridge")
        _run("ip", "address", "add", f"{address}/24", "dev", cluster.bridge)
        _run("ip", "link", "set", cluster.bridge, "up")
        registry, cluster.registry = registry_argv(folder / "registry", address)
        cluster.start_process("registry", registry)
        if not wait_for(lambda: _listens(cluster.registry), START_S):
            raise cluster.trouble("registry")
        pause = images.push_pause(cluster.registry)
        _write_files(cluster, pause)
        cluster.start_process("etcd", _etcd(cluster))
        cluster.start_api_server()
        cluster.start_process("controllers", _controllers(cluster, binaries))
        cluster.start_process("scheduler", _scheduler(cluster, binaries))
        _start_node(cluster, binaries)
        _await_node(cluster)
    except BaseException:
        stop(folder)
        raise
    return cluster


def stop(folder: Path) -> None:
    """End the cluster of this folder and delete what it left. Nothing happens where there is none."""
    cluster = load(folder)
    if cluster is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    # The node first: what others do while it goes would only be tried again.
    if "node" in cluster.processes:
        _end_node(cluster)
    for name in ("node", "scheduler", "controllers", "apiserver", "etcd", "registry"):
        if name in cluster.processes:
            cluster.end_process(name, patience_s=1)  # what it would still write is deleted
    subprocess.run(["ip", "link", "delete", cluster.bridge], capture_output=True, check=False)
    for hierarchy in _hierarchies():
        _remove_group(hierarchy / cluster.bridge)
    shutil.rmtree(folder)
    # A mount point that is removed takes the mounts along that other namespaces have on it.
    if not any(PLACE.glob(f"{PREFIX}*")):
        for place in SHARED_PLACES:
            with suppress(OSError):  # the machine's own
                os.rmdir(place)


def load(folder: Path) -> Cluster | None:
    """What `start` wrote in this folder."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    processes = {name: (pid, start) for name, (pid, start) in state["processes"].items()}
    return Cluster(**{**state, "folder": folder, "processes": processes, "owner": tuple(state["owner"])})


@contextmanager
def running() -> Iterator[Cluster]:
    """A cluster that ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
    folder.rmdir()
    cluster = start(folder)
    try:
        yield cluster
    finally:
        stop(folder)


def sweep() -> None:
    """End the clusters whose owner was killed."""
    for folder in PLACE.glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):
            pid, begun = json.loads((folder / "state.json").read_text(encoding="utf-8"))["owner"]
            if pid and process_start(pid) != begun:
                stop(folder)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true in time."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        if condition():
            return True
        pause(begun, 0.3)  # most looks start a kubectl
    return condition()


def _start_node(cluster: Cluster, binaries: Path) -> None:
    for hierarchy in _hierarchies():
        (hierarchy / cluster.bridge).mkdir()
    for place in SHARED_PLACES:
        Path(place).mkdir(parents=True, exist_ok=True)
    namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation=private")
    script = Path(__file__).with_name("node.sh")
    cluster.start_process("node", (*namespaces, "sh", str(script), str(cluster.folder), str(binaries), cluster.address))


def _end_node(cluster: Cluster) -> None:
    """KILL `unshare`, which takes the node's process 1 and so all of the node along; wait until its groups empty."""
    pid, _ = cluster.processes["node"]
    if cluster.is_running("node"):
        os.kill(pid, signal.SIGKILL)
    group = _hierarchies()[0] / cluster.bridge

    def is_empty() -> bool:
        found = (path.read_text() for path in (group, *group.rglob("*")) if path.name == "cgroup.procs")
        return not any(text.strip() for text in found)

    wait_for(is_empty, 10)


def _await_node(cluster: Cluster) -> None:
    def ready() -> bool:
        if not cluster.is_running("node"):
            raise cluster.trouble("kubelet")
        path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        account = cluster.kubectl("get", "serviceaccounts", "-o", "name")  # no pod is admitted without its own
        return cluster.kubectl("get", "nodes", "-o", f"jsonpath={path}") == "True" and bool(account)

    if not wait_for(ready, START_S):
        raise cluster.trouble("kubelet")


def _write_files(cluster: Cluster, pause: str) -> None:
    folder = cluster.folder
    pki = folder / "pki"
    pki.mkdir()
    subject = ("-subj", "/O=system:masters/CN=ignite-test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
    _run("openssl", "req", "-x509", *curve, "-keyout", str(pki / "key.pem"), "-out", str(pki / "cert.pem"), *subject)
    accounts = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    _run("openssl", "genpkey", *accounts, "-out", str(pki / "accounts.pem"))
    _run("openssl", "pkey", "-in", str(pki / "accounts.pem"), "-pubout", "-out", str(pki / "accounts.pub"))
    rows = []
    for name, user, group in (
        ("admin", "admin", "system:masters"),
        ("controllers", "system:kube-controller-manager", ""),
        ("scheduler", "system:kube-scheduler", ""),
        ("kubelet", f"system:node:{NODE}", "system:nodes"),
    ):
        token = cluster.token if name == "admin" else secrets.token_hex(16)
        rows.append(f'{token},{user},{name},"{group}"\n')
        _write_json(folder / f"{name}.kubeconfig", kubeconfig(cluster, token))
    _write(folder / "tokens.csv", "".join(rows))
    _write_json(folder / "kubelet.json", _kubelet(cluster))
    _write(folder / "containerd.toml", _containerd(cluster, pause))
    cluster.trust(cluster.registry)
    (folder / "cni").mkdir()
    _write_json(folder / "cni" / "10-bridge.conflist", _network(cluster))
    # Pods resolve names nowhere.
    _write(folder / "resolv.conf", "")


def kubeconfig(cluster: Cluster, token: str, namespace: str = "default") -> dict[str, Any]:
    """A kubeconfig with a bearer token."""
    certificate = str(cluster.folder / "pki" / "cert.pem")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": cluster.server, "certificate-authority": certificate}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }


def _etcd(cluster: Cluster) -> list[str]:
    folder, peer = cluster.folder, free_port()
    client = free_port()
    _write(folder / "etcd.port", str(client))
    pair = []
    for kind in ("", "peer-"):
        pair += [f"--{kind}cert-file={folder}/pki/cert.pem", f"--{kind}key-file={folder}/pki/key.pem"]
        pair += [f"--{kind}trusted-ca-file={folder}/pki/cert.pem", f"--{kind}client-cert-auth"]
    return [
        "etcd",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls=https://127.0.0.1:{client}",
        f"--advertise-client-urls=https://127.0.0.1:{client}",
        f"--listen-peer-urls=https://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=https://127.0.0.1:{peer}",
        f"--initial-cluster=default=https://127.0.0.1:{peer}",
        *pair,
    ]


def _api_server(cluster: Cluster) -> list[str]:
    folder = cluster.folder
    pair = (f"{folder}/pki/cert.pem", f"{folder}/pki/key.pem")
    return [
        str(CONTROL.place / "kube-apiserver"),
        f"--etcd-servers=https://127.0.0.1:{(folder / 'etcd.port').read_text()}",
        f"--etcd-cafile={pair[0]}",
        f"--etcd-certfile={pair[0]}",
        f"--etcd-keyfile={pair[1]}",
        "--bind-address=127.0.0.1",
        f"--secure-port={cluster.port}",
        f"--cert-dir={folder}/pki",
        f"--tls-cert-file={pair[0]}",
        f"--tls-private-key-file={pair[1]}",
        f"--kubelet-client-certificate={pair[0]}",
        f"--kubelet-client-key={pair[1]}",
        "--kubelet-preferred-address-types=Hostname",
        f"--service-account-key-file={folder}/pki/accounts.pub",
        f"--service-account-signing-key-file={folder}/pki/accounts.pem",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/24",
        f"--token-auth-file={folder}/tokens.csv",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=none",
    ]


def _controllers(cluster: Cluster, binaries: Path) -> list[str]:
    return [
        str(binaries / "kube-controller-manager"),
        f"--kubeconfig={cluster.folder}/controllers.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        f"--cert-dir={cluster.folder}/pki/controllers",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={cluster.folder}/pki/accounts.pem",
    ]


def _scheduler(cluster: Cluster, binaries: Path) -> list[str]:
    return [
        str(binaries / "kube-scheduler"),
        f"--kubeconfig={cluster.folder}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        f"--cert-dir={cluster.folder}/pki/scheduler",
    ]


def _kubelet(cluster: Cluster) -> dict[str, Any]:
    folder = cluster.folder
    one = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": free_port(),
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{folder}/pki/cert.pem"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cluster.bridge}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": dict.fromkeys(one, "1%"),
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "makeIPTablesUtilChains": False,
        "podLogsDir": f"{folder}/node/logs",
        "resolvConf": f"{folder}/resolv.conf",
        "serializeImagePulls": False,
        "volumePluginDir": f"{folder}/node/plugins",
    }


def _containerd(cluster: Cluster, pause: str) -> str:
    folder = cluster.folder
    return f"""\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE no process may lower its score, and no sandbox would start.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def _network(cluster: Cluster) -> dict[str, Any]:
    """Pods and the bridge's own address reach each other; without forwarding nothing else does."""
    subnet = ipaddress.ip_network(cluster.subnet)
    addresses = {"subnet": cluster.subnet, "rangeStart": str(subnet[10]), "gateway": cluster.address}
    bridge = {
        "type": "bridge",
        "bridge": cluster.bridge,
        "ipam": {"type": "host-local", "dataDir": f"{cluster.folder}/node/networks", "ranges": [[addresses]]},
    }
    return {"cniVersion": "1.0.0", "name": cluster.bridge, "plugins": [bridge]}


def _free_subnet() -> str:
    """An address whose /24 no route of this machine names."""
    rows = json.loads(_run("ip", "-json", "route", "show", "table", "all") or "[]")
    taken = []
    for row in rows:
        with suppress(ValueError):
            taken.append(ipaddress.ip_network(row["dst"], strict=False))
    while True:
        address = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}.1"
        wanted = ipaddress.ip_network(f"{address}/24", strict=False)
        if not any(wanted.version == one.version and wanted.overlaps(one) for one in taken):
            return address


def _hierarchies() -> list[Path]:
    """Where control groups are made: each controller's tree (v1), or the one tree."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS]
    return sorted(path for path in CONTROL_GROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


def _listens(host: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://{host}/v2/", trust_env=False, verify=False, timeout=120).status_code == 200
    return False


def _reaped(pid: int) -> bool:
    """Whether our own child has ended; a process of an earlier command is nobody's child here."""
    child = _children.get(pid)
    return child is not None and child.poll() is not None


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("Internal", f"{' '.join(argv[:4])}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=1))


def of_checkout() -> Path:
    """The folder of the cluster that `up` starts."""
    checkout = Path(__file__).parents[2]
    return PLACE / f"{PREFIX}of-{checkout.stat().st_ino:x}"


def up() -> Cluster | None:
    """The cluster that `up` started, if it runs."""
    cluster = load(of_checkout())
    return cluster if cluster and all(cluster.is_running(name) for name in cluster.processes) else None


def main(argv: Sequence[str]) -> int:
    """`up` or `down`: the cluster of this checkout. `compiled`: whether one can start without minutes of compiling."""
    if argv == ["compiled"]:
        return _compiled()
    folder = of_checkout()
    if argv == ["down"]:
        stop(folder)
        return 0
    if argv != ["up"]:
        print("up, down or compiled", file=sys.stderr)
        return 2
    cluster = up()
    if cluster is None:
        stop(folder)
        cluster = start(folder, stays=True)
    print(f"export KUBECONFIG={cluster.kubeconfig}\nexport PATH={CONTROL.place}:$PATH\nregistry {cluster.registry}")
    return 0


def _compiled() -> int:
    if os.geteuid() == 0 and CONTROL.is_compiled and BUILDERS.is_compiled:
        return 0
    why = "its programs are not compiled yet" if os.geteuid() == 0 else "it needs root"
    print(f"tests/cluster is left out: {why}; `make test-cluster`, as root, compiles them and runs it", file=sys.stderr)
    return 1
