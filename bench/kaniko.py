"""A scratch image with one COPY: through the service, as a bare Job of the very same pod, and by Kaniko alone.

The bare Job's pod is that which the service's worker created in a round that does not count, with another source and
tag. Kaniko alone is that pod's one container; its context comes from a ConfigMap, so nothing fetches it.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from bench.on_cluster import on_cluster
from bench.pairs import interleave, ratios, spread
from bench.results import Row, ratio_row
from bench.servers import FIRST_UID
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.kaniko.manifest import CONTEXT
from builder.kube.api import Api, connect
from builder.kube.job import FETCH, SOURCE_VOLUME
from tests.build_fixtures import Files, until
from tests.cluster.service import Service, served
from tests.cluster_fixtures import NAMESPACE, Jobs

MOST = 1.1
PATIENCE_S = 300.0
LABEL = "ignite-bench"
"""Jobs that no watcher of ours knows have this name: without our labels none sweeps them."""

Pod = dict[str, Any]


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[tuple[Jobs, Path]]] = on_cluster
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The three take turns. The service is timed from the submission to the final record, a Job from its creation
    until it is Complete."""
    with opened() as (jobs, folder), ExitStack() as stack:
        service = stack.enter_context(served(jobs, folder))
        stack.enter_context(service.worker("bench-worker", UNSANDBOXED="false", BUILD_UID=str(FIRST_UID)))
        stack.enter_context(service.watcher("bench-watcher"))
        pod = created_pod(service)
        arms = {
            "service": lambda number: _built(service, number),
            "bare Job": lambda number: _bare(jobs, pod, number),
            "Kaniko alone": lambda number: _alone(jobs, pod, number),
        }
        took = interleave(arms, rounds)
    rows = []
    for against, most in (("bare Job", MOST), ("Kaniko alone", None)):
        found = ratios(took["service"], took[against])
        rows.append(ratio_row(f"scratch image, one COPY: service / {against}", spread(found), found, most))
    medians = ", ".join(f"{name} {spread(values).median:.2f} s" for name, values in took.items())
    return tuple(rows), (f"Medians: {medians}",)


def files(number: int) -> Files:
    return {"Dockerfile": "FROM scratch\nCOPY hello.txt /hello.txt\n", "hello.txt": f"hello {number}\n"}


def created_pod(service: Service) -> Pod:
    """The pod of a Job as the service's worker makes it."""
    build_id = service.submit("scratch", files(0))
    found: list[Pod] = []

    async def look() -> None:
        api = await connect(str(service.jobs.cluster.kubeconfig))
        try:
            if job := await api.get("jobs", NAMESPACE, service.job(build_id)):
                found.append(job["spec"]["template"]["spec"])
        finally:
            await api.close()

    if not until(lambda: asyncio.run(look()) or bool(found), PATIENCE_S):
        raise RuntimeError(f"there is no Job: {service.trouble(build_id)}")
    service.succeeded(build_id)
    return found[0]


def bare_pod(pod: Pod, url: str, digest: str, size: int, tag: str) -> Pod:
    """The same pod for another source and tag."""
    made = copy.deepcopy(pod)
    fetch = next(one for one in made["initContainers"] if one["name"] == FETCH)
    fetch["env"] = [{"name": "SOURCE_URL", "value": url}]
    fetch["args"] = [f"--digest={digest}", f"--max-bytes={size}", "--to=/source"]
    made["containers"][0]["args"] = [_tagged(one, tag) for one in made["containers"][0]["args"]]
    return made


def pod_alone(pod: Pod, config_map: str, names: tuple[str, ...], tag: str) -> Pod:
    """The same pod without the container that fetches: each file of the context is mounted from a ConfigMap."""
    made = copy.deepcopy(pod)
    del made["initContainers"]
    main = made["containers"][0]
    main["args"] = [_tagged(one, tag) for one in main["args"]]
    mounts = [one for one in main["volumeMounts"] if one["name"] != SOURCE_VOLUME]
    main["volumeMounts"] = mounts + [
        {"name": SOURCE_VOLUME, "mountPath": f"{CONTEXT}/{name}", "subPath": name, "readOnly": True} for name in names
    ]
    volumes = [one for one in made["volumes"] if one["name"] != SOURCE_VOLUME]
    made["volumes"] = [*volumes, {"name": SOURCE_VOLUME, "configMap": {"name": config_map}}]
    return made


def _tagged(argument: str, tag: str) -> str:
    flag, _, value = argument.partition("=")
    return f"{flag}={value.rpartition(':')[0]}:{tag}" if flag == "--destination" else argument


def _built(service: Service, number: int) -> float:
    began = time.perf_counter()
    build_id = service.submit("scratch", files(number))
    with service.serve.api("both") as api:
        for _ in api.log(build_id):  # to its end, as the command line waits
            pass
        build: pb.Build = api.call("GetBuild", pb.GetBuildRequest(build_id=build_id))
    took = time.perf_counter() - began
    if build.status != pb.BUILD_STATUS_SUCCEEDED:
        raise RuntimeError(f"a build failed: {build.failure}")
    return took


def _bare(jobs: Jobs, pod: Pod, number: int) -> float:
    source = jobs.sources.put(files(number))
    made = bare_pod(pod, source.url, source.digest, source.archive_bytes, f"bare-{number}")
    return asyncio.run(_complete(str(jobs.cluster.kubeconfig), f"bench-bare-{number}", made))


def _alone(jobs: Jobs, pod: Pod, number: int) -> float:
    name, context = f"bench-alone-{number}", files(number)
    jobs.cluster.kubectl("delete", "configmap", name, "-n", NAMESPACE, "--ignore-not-found")
    literals = [f"--from-literal={file}={content!s}" for file, content in context.items()]
    jobs.cluster.kubectl("create", "configmap", name, "-n", NAMESPACE, *literals)
    try:
        made = pod_alone(pod, name, tuple(context), f"alone-{number}")
        return asyncio.run(_complete(str(jobs.cluster.kubeconfig), name, made))
    finally:
        jobs.cluster.kubectl("delete", "configmap", name, "-n", NAMESPACE)


async def _complete(kubeconfig: str, name: str, pod: Pod) -> float:
    """Seconds from the creation of a Job until the API says that it is Complete. The Job is deleted."""
    api = await connect(kubeconfig)
    try:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}}
        spec = {"backoffLimit": 0, "template": {"metadata": {"labels": {LABEL: name}}, "spec": pod}}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
        await api.delete("jobs", NAMESPACE, name)
        began = time.perf_counter()
        created = await api.create("jobs", NAMESPACE, job)
        try:
            await asyncio.wait_for(_until_complete(api, name, created["metadata"]["resourceVersion"]), PATIENCE_S)
            return time.perf_counter() - began
        finally:
            await api.delete("jobs", NAMESPACE, name)
    finally:
        await api.close()


async def _until_complete(api: Api, name: str, version: str) -> None:
    async for _, job in api.watch("jobs", NAMESPACE, version, f"{LABEL}={name}"):
        for one in job.get("status", {}).get("conditions", ()):
            if one["status"] == "True" and one["type"] == "Complete":
                return
            if one["status"] == "True" and one["type"] == "Failed":
                raise RuntimeError(f"{name}: {one.get('message', '')}")
    raise RuntimeError(f"{name}: the watch ended before its Job")
