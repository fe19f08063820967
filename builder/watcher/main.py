"""`ignite-builder watch`: the process of a watcher."""

from __future__ import annotations

import asyncio
import signal

from builder.claims.calls import Refused
from builder.client.api import Api, check_token
from builder.errors import BuildError, PlatformError
from builder.kube.api import connect
from builder.kube.watch import Watch
from builder.logs import configure
from builder.mask import Mask
from builder.process import leave_no_core
from builder.settings import Settings
from builder.watcher.calls import ApiWatcherCalls
from builder.watcher.cluster import KubeCluster
from builder.watcher.watcher import Watcher


def watch(settings: Settings) -> int:
    """Watch until TERM or INT; the builds then go to another watcher. Raises `BuildError` InvalidRequest, and
    ClusterUnavailable without a cluster, or in one that refuses this process's credential."""
    if not settings.server or not settings.token:
        name = "token" if settings.server else "server"
        step = "Set server to the URL of the control side, and token to one with the scope watch."
        raise BuildError("InvalidRequest", f"a watcher needs the {name} of the control side", where=name, next=step)
    check_token(settings.token)
    leave_no_core()
    configure()
    asyncio.run(_watch(settings))
    return 0


def mask_of(settings: Settings) -> Mask:
    """What hides the passwords of Jobs: code of the source can read them there."""
    return Mask((settings.job_registry_password, *(one.password for one in settings.job_registry_logins)))


async def _watch(settings: Settings) -> None:
    draining, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, draining.set)
    kube = await connect(settings.kubeconfig, settings.kube_context)
    calls = ApiWatcherCalls(Api(settings.server, settings.token, ca_bundle=settings.ca_bundle))
    namespaces = dict.fromkeys(one for one in (settings.kaniko_namespace, settings.buildpacks_namespace) if one)
    clusters = [KubeCluster(api=kube, watch=Watch(kube, one), namespace=one) for one in namespaces]
    watcher = Watcher(
        settings.node_id,
        calls,
        clusters,
        lease_s=settings.lease_ms / 1000,
        beat_s=settings.heartbeat_ms / 1000,
        mask=mask_of(settings),
    )
    viewing = [asyncio.create_task(one.watch.run()) for one in clusters]
    for view in viewing:  # without a view no end is seen
        view.add_done_callback(lambda _: draining.set())
    try:
        await watcher.run(draining)
        for view in viewing:
            if view.done() and (error := view.exception()):
                raise broken(error) from error
    except Refused as error:
        step = "Use a token with the scope watch, and as node_id the name that this token has, if it has one."
        raise BuildError("InvalidRequest", f"the API refuses this watcher: {error}", where="token", next=step) from None
    finally:
        for view in viewing:
            view.cancel()
        await asyncio.gather(*viewing, return_exceptions=True)
        calls.close()
        await kube.close()


def broken(error: BaseException) -> BaseException:
    """Why a view of the cluster ended: what it says of itself, else a fault."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BuildError):
        return error
    return PlatformError("ClusterUnavailable", f"the view of the cluster broke: {error!r}")
