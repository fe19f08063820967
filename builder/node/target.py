"""Where the artifact of an attempt goes."""

from __future__ import annotations

from pathlib import Path

from builder.attempt.attempt import Attempt
from builder.images import place
from builder.images.destination import Destination
from builder.images.mounts import Mounts


def destination_of(attempt: Attempt) -> Destination:
    """The place that the grant names; its waits end when the attempt must stop."""
    target = attempt.grant.destination
    return place.destination(
        target.registry,
        target.layout_path,
        username=target.username,
        password=target.password,
        insecure=target.insecure,
        ca_bundle=attempt.node.settings.ca_bundle,
        check=attempt.check,
        sleep=attempt.pause,
        mounts=Mounts(
            folder=Path(attempt.node.settings.node_dir) / "pushed",
            host=target.registry,
            organization=attempt.grant.organization_name,
        ),
    )
