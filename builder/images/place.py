"""From settings or a claim's answer to a `Destination`: a registry, or an OCI layout folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from builder.images.destination import Destination
from builder.images.layout import Layout
from builder.images.mounts import Mounts

if TYPE_CHECKING:
    from builder.images.transport import Patience


def destination(
    host: str,
    layout: str,
    *,
    username: str = "",
    password: str = "",
    insecure: bool = False,
    ca_bundle: str = "",
    check: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
    patience: Patience | None = None,
    mounts: Mounts | None = None,
) -> Destination:
    """The registry at `host`, or the folder `layout` where `host` is empty. The rest is as of `registry.connect`."""
    if not host:
        return Layout(Path(layout))
    from builder.images import registry, transport  # with the HTTP client, which a folder does without

    return registry.connect(
        host,
        username=username,
        password=password,
        insecure=insecure,
        ca_bundle=ca_bundle,
        check=check,
        sleep=sleep,
        patience=patience or transport.PATIENT,
        mounts=mounts,
    )
