"""Which store of sources the settings name."""

from __future__ import annotations

from pathlib import Path

from builder.settings import Settings
from builder.stores.folder import FolderStore, SourceStore


def store_of(settings: Settings) -> SourceStore:
    """The store of sources of a control process."""
    return FolderStore(Path(settings.data_dir) / "sources", settings.api_url)
