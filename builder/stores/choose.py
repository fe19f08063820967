"""Which store of sources the settings name."""

from __future__ import annotations

from pathlib import Path

from builder.settings import Settings
from builder.stores.folder import FolderStore, SourceStore


def store_of(settings: Settings) -> SourceStore:
    """The store of sources of a control process. Raises `BuildError` InvalidRequest for a bucket without boto3."""
    folder = Path(settings.data_dir) / "sources"
    if not settings.source_store:
        return FolderStore(folder, settings.api_url, settings.source_free_bytes)
    from builder.stores.s3 import BucketStore, require_boto3

    require_boto3()
    return BucketStore(settings.source_store, folder, settings.s3_endpoint, settings.s3_region, settings.ca_bundle)
