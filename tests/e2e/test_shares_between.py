"""Two control processes over one store: what they have in common is counted together, what each brings is its own."""

from __future__ import annotations

import multiprocessing
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from builder import pipelines
from builder.data import catalog_file
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.errors import QuotaExceeded
from builder.services.parts import Parts
from builder.services.uploads import Uploads
from builder.settings import Settings
from builder.store.engine import open_store
from builder.stores.folder import FolderStore

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
ACME = Caller(organization="acme", scopes=frozenset({"submit"}))
PATIENCE_S = 300


def uploads_at(folder: Path) -> Uploads:
    return Uploads(
        Parts(
            settings=Settings(open_uploads=2, kept_upload_bytes=MIB),
            store=open_store(f"sqlite:///{folder}/builder.db"),
            sources=FolderStore(folder / "sources"),
            catalog=catalog.read(catalog_file("")),
            runtimes=pipelines.arguments(),
            wake=lambda: None,
            changed=lambda build_id: None,
            stale=lambda call: None,
            dropped=lambda count: None,
        )
    )


def other_process(folder: Path, orders: Connection) -> None:
    """An upload is begun; "finish" ends it, and what comes next is the process's end in the middle of another."""
    uploads = uploads_at(folder)
    with uploads.share.one("acme"):
        upload = uploads.begin(ACME)
        upload.write(b"a" * (MIB - 1))
        orders.send("begun")
        assert orders.recv() == "finish"
        upload.finish()
        second = uploads.begin(ACME)
        second.write(b"b")
        orders.send("again")
        orders.recv()


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "sources").rglob("*") if path.is_file()]


def test_bytes_are_counted_for_all_processes_and_open_uploads_for_each(tmp_path: Path) -> None:
    uploads = uploads_at(tmp_path)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=other_process, args=(tmp_path, theirs), daemon=True)
    other.start()
    theirs.close()
    try:
        assert ours.poll(PATIENCE_S) and ours.recv() == "begun"
        with ExitStack() as stack:
            for _ in range(2):  # the other's upload takes nothing of this process's share
                stack.enter_context(uploads.share.one("acme"))
            with pytest.raises(QuotaExceeded):
                uploads.share.take("acme")
        mine = uploads.begin(ACME)  # neither is recorded yet, so that both find room
        mine.write(b"m" * (MIB - 1))
        ours.send("finish")
        assert ours.poll(PATIENCE_S) and ours.recv() == "again"
        with pytest.raises(QuotaExceeded, match="uploads that no build names"):
            mine.finish()
        mine.close()
        with pytest.raises(QuotaExceeded):
            uploads.begin(ACME, announced=2)
    finally:
        other.kill()
        other.join(PATIENCE_S)
    # What the killed process had of its own share went with it; what it left on the disk goes by age.
    with uploads.share.one("acme"), uploads.share.one("acme"):
        assert len(files(tmp_path)) == 2
        assert uploads._parts.sources.delete_unfinished(-1) == 1
        assert len(files(tmp_path)) == 1
