"""What end-to-end sessions keep between them, and share by turns: bases, toolchains and package caches."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder import config
from builder.local.machine import ensure_bases
from tests import uids

KEPT = Path(os.environ.get("TEST_KEPT", "/var/tmp/ignite-builder-tests"))
"""`TEST_KEPT` moves it, beside `TEST_BUILD_UID`: such a session does not wait for its turn."""
SHARED = ("bases", "toolchains", "caches")
OF_ALL_LANES = ("bases", "toolchains")


@contextmanager
def keeping() -> Iterator[Path]:
    """The folder, with the bases made; ours alone until the way out.

    A second lane (`tests.uids.LANE`) has a folder below it: package caches and turns of its own, and the same bases and
    toolchains, which are made by whoever is first, as by the workers of one node.
    """
    folder = KEPT / f"lane-{uids.LANE}" if uids.LANE else KEPT
    for each in (KEPT, folder):
        each.mkdir(parents=True, exist_ok=True)
        each.chmod(0o755)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        filler = folder / "caches-of"
        if not filler.is_file() or filler.read_text() != str(uids.SERVER):  # another session's users filled them
            shutil.rmtree(folder / "caches", ignore_errors=True)
            filler.write_text(str(uids.SERVER))
        for name in SHARED:
            (KEPT / name).mkdir(exist_ok=True)
            if folder != KEPT and name in OF_ALL_LANES and not (folder / name).exists():
                (folder / name).symlink_to(f"../{name}")
            (folder / name).mkdir(exist_ok=True)
        ensure_bases(config.load({"node_dir": str(folder)}).settings)
        yield folder
