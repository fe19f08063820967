"""The sources that are built: folders of `bench/projects`, and how a revision of one differs from another."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent / "projects"
REVISION = re.compile(r'(?i)(revision = )"0"')
EDITED = {"go": "main.go", "python": "handler.py", "rust": "src/main.rs", "deno": "main.ts"}
"""Runtime → the file in which a revision changes one line."""
DEEP = "vendor/github.com/google/cel-go/common/types/bool.go"


@dataclass(frozen=True, kw_only=True)
class Project:
    """Files as they are sent; `edited` is the one in which a revision changes one line."""

    name: str
    runtime: str
    files: dict[str, bytes]
    edited: str

    def revision(self, number: int | str) -> dict[str, bytes]:
        """All files of one revision. No two revisions give the same artifact."""
        text = self.files[self.edited].decode()
        line, found = REVISION.subn(f'\\1"{number}"', text)
        if not found:
            raise ValueError(f"{self.name}: {self.edited} has no revision to change")
        return {**self.files, self.edited: line.encode()}

    def write(self, folder: Path, number: int | str) -> None:
        """Lay a revision out; only the edited file is written where the rest is there already."""
        for path, data in self.revision(number).items():
            target = folder / path
            if path == self.edited or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)

    def archive(self, number: int | str) -> bytes:
        """A revision as tar.gz."""
        return self.packed(self.revision(number))

    def packed(self, files: dict[str, bytes]) -> bytes:
        """Files as tar.gz."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size, info.mtime = len(data), 1_700_000_000
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue()


def read(name: str) -> Project:
    """A folder of `bench/projects`."""
    runtime = name.partition("-")[0]
    return Project(name=name, runtime=runtime, files=_files(HERE / name), edited=EDITED[runtime])


def vendored(kept: Path) -> Project:
    """go-service with its modules vendored, and an exported line deep in one of them that changes.

    30 packages above it are compiled again for each revision: a build that takes more than a second although every
    cache is warm.
    """
    folder = kept / "go-vendored"
    if not (folder / "vendor/modules.txt").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(HERE / "go-service", folder)
        subprocess.run(("go", "mod", "vendor"), cwd=folder, check=True)
        (folder / "main.go").write_bytes((HERE / "go-service/main.go").read_bytes())
    files = _files(folder)
    files[DEEP] += b'\nconst BenchRevision = "0"\n'
    return Project(name="go-vendored", runtime="go", files=files, edited=DEEP)


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
