"""Run inside the sandbox by the runtime's own Python: install wheels into a folder, and compile them there.

    install.py FOLDER PLACE UV... -- LIST...

FOLDER is made, PLACE is what the image has it as. UV: the command that installs, to which the rest is added. LIST:
requirements with hashes; one that is not there, or empty, is left out.

The node stores the folder for later builds, so all that is in it follows from the wheels: uv unpacks them into no cache
of others, and what an installer writes about one install is removed.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compile_tree import compile_tree

INSTALLS_OWN = ("REQUESTED", "direct_url.json", "uv_cache.json")


def clean(folder: Path) -> None:
    """Remove what an installer writes about this one install, with a clock or a path of this machine in it.

    RECORD is of the package: `importlib.metadata` answers from it what files and modules a package has.
    """
    (folder / ".lock").unlink(missing_ok=True)
    for metadata in folder.glob("*.dist-info"):
        for name in INSTALLS_OWN:
            (metadata / name).unlink(missing_ok=True)
        record = metadata / "RECORD"
        if record.is_file() and not record.is_symlink():
            record.write_text(rewritten(record.read_text(encoding="utf-8")), encoding="utf-8", newline="")


def rewritten(record: str) -> str:
    """The rows of a RECORD (PEP 376) for files that are in the image, sorted: an installer's order may change."""
    rows = [row for row in csv.reader(record.splitlines()) if row and row[0].rpartition("/")[2] not in INSTALLS_OWN]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(rows))
    return text.getvalue()


def main(folder: Path, place: str, uv: list[str], lists: list[str]) -> None:
    """Install, clean, compile. Ends as uv does where it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    unpacked = folder.with_name(".unpacked")  # beside it: uv links files from one to the other, instead of a copy
    wanted = [word for listed in lists if os.path.isfile(listed) and os.path.getsize(listed) for word in ("-r", listed)]
    if wanted:
        argv = [*uv, "--cache-dir", str(unpacked), "--link-mode", "hardlink", "--target", str(folder), *wanted]
        code = subprocess.run(argv, check=False).returncode
        if code:
            raise SystemExit(code if code > 0 else 128 - code)
    shutil.rmtree(unpacked, ignore_errors=True)
    clean(folder)
    print(f"{compile_tree(folder, place)} files compiled")


if __name__ == "__main__":
    border = sys.argv.index("--")
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:border], sys.argv[border + 1 :])
