"""The Deployment of watchers gives their process what it reads."""

from __future__ import annotations

import re
from pathlib import Path

from builder.settings import NAMES
from builder.watcher import main
from tests.unit.test_kaniko_manifest import ROOT

TEXT = (ROOT / "deploy/kubernetes/watcher/watcher.yaml").read_text(encoding="utf-8")
LEFT_OUT = {
    "kubeconfig": "the cluster that it runs in",
    "kube_context": "the same",
    "kaniko_namespace": "that of deploy/kubernetes",
    "buildpacks_namespace": "the same",
    "ca_bundle": "that of its image; a server with a certificate of your own takes one that has its authority",
    "lease_ms": "the control side names its own",
    "heartbeat_ms": "the same",
    "job_registry_logins": "a login of all organizations is given; an operator of several gives the table in its place",
}


def given() -> set[str]:
    """The settings that are variables of the container."""
    names = re.findall(r"name: IGNITE_BUILDER_(\w+)", TEXT)
    return {name.lower().removesuffix("_file") for name in names}


def test_each_setting_that_a_watcher_reads_is_given_or_left_out_for_a_reason() -> None:
    read = set(re.findall(r"\bsettings\.(\w+)", Path(main.__file__).read_text(encoding="utf-8"))) & set(NAMES)
    assert {"server", "token", "job_registry_password"} <= read
    assert read == given() | LEFT_OUT.keys()


def test_what_jobs_push_with_comes_from_a_secret_that_must_be_there() -> None:
    """Without it a watcher would hide nothing, and nobody would know."""
    (file,) = re.findall(r"name: IGNITE_BUILDER_JOB_REGISTRY_PASSWORD_FILE, value: (\S+)}", TEXT)
    (folder,) = re.findall(r"{name: job-registry, mountPath: (\S+), readOnly: true}", TEXT)
    (secret,) = re.findall(r"{name: job-registry, secret: {(.*)}}", TEXT)
    assert file == f"{folder}/password"
    assert secret == "secretName: job-registry, items: [{key: password, path: password}]", "the file, and not optional"
