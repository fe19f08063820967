"""What the API server itself makes of our manifests: dry run, Pod Security, the rights of the two accounts."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import pytest

from builder.kaniko.manifest import EXEMPTIONS
from tests.cluster import cluster as clusters
from tests.cluster.cluster import Cluster
from tests.cluster_fixtures import NAMESPACE, Jobs
from tests.golden import jobs as golden

KINDS = (
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"},
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "low"}, "value": 1},
)
"""What the golden Job with every option names."""


def as_pod(job: dict[str, Any], namespace: str = NAMESPACE) -> dict[str, Any]:
    """The pod that the Job controller would create: only a pod itself is held to the enforced level."""
    template = job["spec"]["template"]
    metadata = {**template["metadata"], "name": job["metadata"]["name"], "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def dry_run(cluster: Cluster, value: dict[str, Any]) -> str:
    """What the server answers, with its warnings; nothing is stored."""
    return cluster.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=json.dumps(value), check=False)


@pytest.mark.parametrize("name", sorted(golden.manifests()))
def test_a_manifest_passes_every_check_of_the_server_and_baseline(jobs: Jobs, name: str) -> None:
    job = golden.manifests()[name]
    job["metadata"]["namespace"] = NAMESPACE
    for kind in KINDS:
        jobs.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(kind))
    accepted = dry_run(jobs.cluster, job)
    assert f"job.batch/{job['metadata']['name']}" in accepted.splitlines(), accepted
    assert "unknown field" not in accepted
    pod = dry_run(jobs.cluster, as_pod(job))
    assert f"pod/{job['metadata']['name']}" in pod.splitlines(), pod
    worse = as_pod(job)
    worse["spec"]["hostPID"] = True
    assert 'violates PodSecurity "baseline:latest": host namespaces' in dry_run(jobs.cluster, worse)


def test_the_deployment_of_watchers_passes_every_check_of_the_server_and_restricted(jobs: Jobs) -> None:
    answer = jobs.cluster.kubectl("apply", "--dry-run=server", "-f", str(clusters.DEPLOY / "watcher"), check=False)
    assert answer.splitlines() == ["deployment.apps/watcher created (server dry run)"], answer


def test_what_restricted_refuses_is_the_table_of_exemptions(jobs: Jobs) -> None:
    job = golden.manifests()["plain"]
    job["metadata"]["namespace"] = NAMESPACE
    warned = re.search(r'would violate PodSecurity "restricted:latest": (.*)', dry_run(jobs.cluster, as_pod(job)))
    assert warned
    found = {
        (container, control)
        for control, words in re.findall(r"([\w != ]+?) \(((?:[^()]|\([^()]*\))*)\)(?:, |$)", warned[1])
        for container in re.findall(r'"(fetch|kaniko)"', words)
    }
    assert found == {(one.container, one.control) for one in EXEMPTIONS}, warned[1]


def rights(cluster: Cluster, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of what an account may do, beside what every authenticated user may."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    argv = ("create", "--validate=false", "-f", "-", "-o", "json", f"--as=system:serviceaccount:{account}")
    rules = json.loads(cluster.kubectl(*argv, stdin=json.dumps(review)))["status"]["resourceRules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group not in ("authorization.k8s.io", "authentication.k8s.io")
    }


WORKER = {("batch", "jobs", verb) for verb in ("create", "get", "delete")} | {("", "secrets", "create")}
WATCHER = (
    {("batch", "jobs", verb) for verb in ("get", "list", "watch", "delete")}
    | {("", "pods", verb) for verb in ("list", "watch")}
    | {("", "pods/log", "get"), ("", "events", "list")}
)


@pytest.mark.parametrize(("name", "expected"), [("worker", WORKER), ("watcher", WATCHER)])
def test_an_account_may_do_what_its_calls_need_in_the_builds_namespace_alone(
    jobs: Jobs, name: str, expected: set[tuple[str, str, str]]
) -> None:
    account = f"ignite-builder:{name}"
    assert rights(jobs.cluster, account, NAMESPACE) == expected
    for namespace in ("default", "kube-system", "ignite-builder"):
        assert rights(jobs.cluster, account, namespace) == set()


PAGE = Path(__file__).parents[2] / "docs/image-builds.md"
PLAIN = "the test cluster's plain bridge does not enforce them"


def test_whether_this_network_enforces_policies_is_what_the_page_says(jobs: Jobs) -> None:
    """The source of each Job lies at an address that the policy of builds shuts: who gets it there is not stopped."""
    policy = json.loads(jobs.cluster.kubectl("get", "networkpolicy", "builds", "-n", NAMESPACE, "-o", "json"))["spec"]
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to]
    address = ipaddress.ip_address(jobs.cluster.address)

    def holds(cidr: str) -> bool:
        return address in ipaddress.ip_network(cidr)

    assert not any(holds(one["cidr"]) and not any(map(holds, one.get("except", ()))) for one in blocks)
    job = golden.manifests()["plain"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= job.items(), "it chooses the pods of builds"
    ran = jobs.run({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}, jobs.build("policy"))
    is_enforced = not ran.ended.succeeded
    assert not is_enforced or ran.ended.container == "fetch", (ran.ended, ran.lines)
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert (PLAIN in text) is not is_enforced


def test_a_build_has_no_account(jobs: Jobs) -> None:
    assert rights(jobs.cluster, f"{NAMESPACE}:default", NAMESPACE) == set()
