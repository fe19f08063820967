"""A cache as a step sees it whose code may do anything to it: what it writes goes into a folder that is thrown away.

As root the launcher mounts an overlay in a mount namespace of the sandbox's own, and bubblewrap (0.8 makes none) binds
it in. Where that cannot be, without root or on a file system that carries no overlay, the step gets an empty folder.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UPPER, SCRATCH, MERGED = "upper", "work", "merged"
TRIAL_S = 10.0
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"
_SEPARATORS = frozenset(':,\\"\n')
_MOUNT = 'while [ "$1" != -- ]; do mount -t overlay -o "$1" overlay "$2" || exit 1; shift 2; done; shift; exec "$@"'
"""Options and place by turns, then what is started in their place."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """`lower` is what is seen and never written. `folder` has what is written; the caller makes and removes it."""

    lower: Path
    folder: Path

    @property
    def upper(self) -> Path:
        return self.folder / UPPER

    @property
    def merged(self) -> Path:
        """Where the launcher mounts it. Outside of the sandbox's namespace it is an empty folder."""
        return self.folder / MERGED

    @property
    def options(self) -> str:
        return f"lowerdir={self.lower},upperdir={self.upper},workdir={self.folder / SCRATCH},xino=off"


def make(lower: Path, folder: Path, user: tuple[int, int] | None) -> Overlay:
    """The folders of an overlay; `user` owns what is written, None: as we are."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in (UPPER, SCRATCH, MERGED):
        (folder / name).mkdir(mode=0o755)
    if user:
        os.chown(folder / UPPER, *user)
    return Overlay(lower=lower, folder=folder)


def mounting(shell: str, overlays: Sequence[Overlay]) -> list[str]:
    """What stands before a command line that root starts in a mount namespace of its own."""
    places = [word for each in overlays for word in (each.options, str(each.merged))]
    return [shell, "-c", f"PATH={PROGRAMS}; {_MOUNT}", "overlay", *places, "--"]


def can_mount(overlays: Sequence[Overlay]) -> bool:
    """Whether these can be mounted here."""
    return bool(overlays) and all(
        not _SEPARATORS & set(f"{each.lower}{each.folder}") and lacks(str(each.folder.parent)) == ""
        for each in overlays
    )


def lacks(folder: str) -> str:
    """Why no overlay can be mounted that writes below `folder`; "" where one can. Looked up once for each folder's
    file system, by a real one in a mount namespace that ends with it."""
    if os.geteuid() != 0:
        return "the worker is not root"
    device = os.stat(folder).st_dev
    if device not in _known:
        try:
            _known[device] = _tried(folder)
        except (OSError, subprocess.TimeoutExpired) as error:  # of this moment: the next step tries again
            late = isinstance(error, subprocess.TimeoutExpired)
            return f"no overlay can be mounted: {f'it takes longer than {TRIAL_S:.0f} s' if late else error}"[:300]
    return _known[device]


_known: dict[int, str] = {}
"""Device of a file system → why it carries none, or ""."""


def _tried(above: str) -> str:
    with tempfile.TemporaryDirectory(prefix="overlay-", dir=above) as folder:
        (Path(folder) / "lower").mkdir()
        trial = make(Path(folder) / "lower", Path(folder) / "trial", None)
        line = ["unshare", "--mount", "--", *mounting("/bin/sh", [trial]), "true"]
        ended = subprocess.run(
            line, capture_output=True, text=True, timeout=TRIAL_S, check=False, env={"PATH": PROGRAMS}
        )
    return f"no overlay can be mounted: {ended.stderr.strip()}"[:300] if ended.returncode else ""
