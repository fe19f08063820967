"""Images that run as pods of the cluster: pulled by its node, started, called."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.cluster import Cluster, wait_for

PATIENCE_S = 300
PORT = "8081"
_numbers = itertools.count(1)


def run(cluster: Cluster, reference: str, *argv: str) -> tuple[int, str]:
    """Run an image, or a command in it, to its end: the exit code and the output."""
    name = f"run-{next(_numbers)}"
    container: dict[str, Any] = {"name": "app", "image": reference}
    if argv:
        container["command"] = list(argv)
    _create(cluster, name, container, restartPolicy="Never")
    try:
        ended = "jsonpath={.status.containerStatuses[0].state.terminated}"
        cluster.kubectl("wait", f"pod/{name}", f"--for={ended}", f"--timeout={PATIENCE_S}s")
        status = json.loads(cluster.kubectl("get", "pod", name, "-o", "json"))["status"]
        state = status["containerStatuses"][0]["state"]
        return int(state["terminated"]["exitCode"]), cluster.kubectl("logs", name)
    finally:
        _delete(cluster, name)


@contextmanager
def serving(cluster: Cluster, reference: str, login: tuple[str, str, str] | None = None) -> Iterator[str]:
    """The URL of an image that runs, answering. `login`: (registry, user, password) that the node pulls it with."""
    name = f"app-{next(_numbers)}"
    fields: dict[str, Any] = {}
    if login:
        given = [
            f"--docker-{what}={value}" for what, value in zip(("server", "username", "password"), login, strict=True)
        ]
        cluster.kubectl("create", "secret", "docker-registry", name, *given)
        fields["imagePullSecrets"] = [{"name": name}]
    container = {"name": "app", "image": reference, "env": [{"name": "PORT", "value": PORT}]}
    _create(cluster, name, container, **fields)
    try:
        cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", f"--timeout={PATIENCE_S}s")
        url = f"http://{cluster.kubectl('get', 'pod', name, '-o', 'jsonpath={.status.podIP}')}:{PORT}"
        assert wait_for(lambda: _answers(url), PATIENCE_S), cluster.kubectl("logs", name)
        yield url
    finally:
        _delete(cluster, name)


def roots_of(word: str) -> list[Path]:
    """The root of the container of each process that has this word in its command line, as this machine sees it: a way
    into a RUN that needs no API server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(process / "root")
    return found


def _create(cluster: Cluster, name: str, container: dict[str, Any], **fields: Any) -> None:
    spec = {"automountServiceAccountToken": False, "containers": [container], **fields}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))


def _delete(cluster: Cluster, name: str) -> None:
    cluster.kubectl("delete", "pod", name, "--now", "--wait=false", check=False)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, verify=False, timeout=120).status_code == 200
    except httpx.HTTPError:
        return False
