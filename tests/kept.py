"""What end-to-end sessions keep between them, and share by turns: bases, toolchains and package caches."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder import config
from builder.local import embedded
from tests import uids

KEPT = Path(os.environ.get("TEST_KEPT", "/var/tmp/ignite-builder-tests"))
"""`TEST_KEPT` moves it, beside `TEST_BUILD_UID`: such a session does not wait for its turn."""
SHARED = ("bases", "toolchains", "caches")


@contextmanager
def keeping() -> Iterator[Path]:
    """The folder, with the bases made; ours alone until the way out."""
    KEPT.mkdir(parents=True, exist_ok=True)
    KEPT.chmod(0o755)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        filler = KEPT / "caches-of"
        if not filler.is_file() or filler.read_text() != str(uids.SERVER):  # another session's users filled them
            shutil.rmtree(KEPT / "caches", ignore_errors=True)
            filler.write_text(str(uids.SERVER))
        for name in SHARED:
            (KEPT / name).mkdir(exist_ok=True)
        embedded.ensure_bases(config.load({"node_dir": str(KEPT)}).settings)
        yield KEPT
