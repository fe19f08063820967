"""The readers of builds in this process: begun first, since they load while this process loads its store."""

from __future__ import annotations

from builder import pipelines
from builder.attempt.reader import Readers
from builder.data import catalog_file
from builder.pipelines import catalog as catalogs
from builder.settings import Settings


def begin(settings: Settings) -> Readers:
    """The process that forks readers, begun. It holds no connection to the store, which is opened after it.

    Raises `BuildError` InvalidRequest for a setting `pipelines` or `default_versions` that cannot be.
    """
    known = pipelines.load(settings.pipelines)
    catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
    # Without an engine an image is made in a server's cluster.
    readers = Readers(known, catalog, images=bool(settings.docker_host))
    readers.start()
    return readers
