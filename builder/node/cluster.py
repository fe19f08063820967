"""The cluster as a build node uses it: it creates Jobs, and deletes its own where nobody wants it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import PlatformError
from builder.kube.api import Api, ClusterRefused, connect
from builder.settings import Settings

SecretOf = Callable[[str], Mapping[str, Any]]
"""The uid of a Job → the Secret that it owns."""


@dataclass(frozen=True, kw_only=True)
class KubeCluster:
    """One cluster, connected anew for each Job: a node creates few, and its processes are forked."""

    kubeconfig: str
    context: str

    def create(self, job: Mapping[str, Any], secret_of: SecretOf | None = None) -> str:
        """Create the Job, or adopt the one that has its name; then its Secret. The Job's uid.

        Raises `PlatformError` ClusterUnavailable, Unschedulable.
        """
        return asyncio.run(self._create(job, secret_of))

    def delete(self, namespace: str, name: str, uid: str = "") -> None:
        """Delete a Job and what it owns. Raises `PlatformError` ClusterUnavailable."""
        asyncio.run(self._delete(namespace, name, uid))

    async def _create(self, job: Mapping[str, Any], secret_of: SecretOf | None) -> str:
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        api = await connect(self.kubeconfig, self.context)
        try:
            found = await _once(api, "jobs", namespace, job) or await api.get("jobs", namespace, name)
            if found is None:
                raise PlatformError("JobVanished", "the build's Job was deleted while it was created")
            if secret_of is not None:
                await _once(api, "secrets", namespace, secret_of(found["metadata"]["uid"]))
            return str(found["metadata"]["uid"])
        except ClusterRefused as refused:
            reason = "Unschedulable" if "quota" in refused.message else "ClusterUnavailable"
            raise PlatformError(reason, f"the cluster refuses the build's Job: {refused.message}") from None
        finally:
            await api.close()

    async def _delete(self, namespace: str, name: str, uid: str) -> None:
        api = await connect(self.kubeconfig, self.context)
        try:
            await api.delete("jobs", namespace, name, uid=uid)
        except ClusterRefused as refused:
            raise PlatformError("ClusterUnavailable", f"the Job {name} cannot be deleted: {refused.message}") from None
        finally:
            await api.close()


async def _once(api: Api, kind: str, namespace: str, manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object; None where one has its name already."""
    try:
        return await api.create(kind, namespace, manifest)
    except ClusterRefused as refused:
        if refused.code == 409 and refused.why == "AlreadyExists":
            return None
        raise


def cluster_of(settings: Settings) -> KubeCluster:
    """The cluster of the settings."""
    return KubeCluster(kubeconfig=settings.kubeconfig, context=settings.kube_context)
