"""From settings or a claim's answer to a `Destination`: a registry, or an OCI layout folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from builder.images import registry
from builder.images.destination import Destination
from builder.images.layout import Layout
from builder.images.transport import PATIENT, Patience


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
    patience: Patience = PATIENT,
) -> Destination:
    """The registry at `host` (`check`, `sleep` and `patience` as of `transport.Transport`), or where that is empty the
    folder."""
    if not host:
        return Layout(Path(layout))
    return registry.connect(
        host,
        username=username,
        password=password,
        insecure=insecure,
        ca_bundle=ca_bundle,
        check=check,
        sleep=sleep,
        patience=patience,
    )
