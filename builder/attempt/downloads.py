"""What a fetch step leaves becomes part of a shared cache here: verified by its digest, copied by the node, or dropped.

A shared cache of downloads belongs to the node. No step writes to it, so what was verified once stays what it was.
The private folder is hostile until it is removed: it is walked by descriptor, and no link in it is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from builder import sandbox
from builder.attempt import dirhash
from builder.attempt.attempt import Attempt
from builder.attempt.inside import blaming, folder_in, write_in
from builder.claims.outcome import Material
from builder.errors import BuildError, PlatformError
from builder.key import digest_of
from builder.plan import Access, Fetched, Plan, Step, WantedFile
from builder.source import below
from builder.source.tree import DirTree

CHUNK = 1 << 20
LONGEST_NAME = 255
MATERIALS_MAX = 5000
MARKERS = ".complete"


def cache_of(step: Step) -> str:
    """The cache that a step downloads for; "" for a step that downloads nothing."""
    return next((cache.name for cache in step.caches if cache.access is Access.DOWNLOAD), "")


def left_out(attempt: Attempt, plan: Plan, step: Step) -> tuple[Material, ...] | None:
    """What a step would download, when the shared cache has all of it; None for a step that must run."""
    name = cache_of(step)
    if not name:
        return None
    found = named(attempt, plan)
    if found is None:
        return None
    store = shared(attempt, name)
    mine = [one for one in found.wanted if one.cache == name]
    if any(not _there(store, one) for one in mine if not one.optional):
        return None
    if any(one.optional for one in mine) and not (store / MARKERS / _marker(attempt, plan)).is_file():
        return None
    return _materials(attempt, store, mine)


def other_indexes(attempt: Attempt, plan: Plan, step: Step) -> frozenset[str]:
    """The other kinds of index that a step must reach: those of the files that it downloads and the cache lacks."""
    name = cache_of(step)
    found = named(attempt, plan) if name else None
    mine = [one for one in found.wanted if one.cache == name and one.index] if found else []
    return frozenset(one.index for one in mine if not _there(shared(attempt, name), one))


def keep(attempt: Attempt, plan: Plan, step: Step) -> tuple[Material, ...]:
    """After a step that downloads: what it fetched is verified and stored; returns what it is for.

    Raises `BuildError` PackageIndexUnavailable for a file that did not arrive, or arrived with other bytes.
    """
    name = cache_of(step)
    if not name:
        return ()
    found = named(attempt, plan)
    if found is None:
        _drop(attempt, name)
        return ()
    store = shared(attempt, name)
    mine = [one for one in found.wanted if one.cache == name]
    with folder_in(attempt, f"download/{name}", make=True) as private:
        for one in mine:
            attempt.check()
            if not _there(store, one):
                take(private, store, one, limit=attempt.node.settings.disk_bytes, check=attempt.check)
    if any(one.optional for one in mine):
        (store / MARKERS).mkdir(exist_ok=True)
        (store / MARKERS / _marker(attempt, plan)).touch()
    _drop(attempt, name)
    return _materials(attempt, store, mine)


def _drop(attempt: Attempt, name: str) -> None:
    """Remove the private folder of a cache."""
    with folder_in(attempt, "download", make=True) as folder:
        sandbox.remove_in(folder, name)


def _materials(attempt: Attempt, store: Path, mine: Sequence[WantedFile]) -> tuple[Material, ...]:
    packages = dict.fromkeys((one.package, one.digest) for one in mine if one.package and _there(store, one))
    if len(packages) > MATERIALS_MAX:
        attempt.log.system(f"warning: {len(packages)} packages were fetched; the provenance names only the lock file")
        return ()
    return tuple((package, dirhash.in_hex(digest)) for package, digest in packages)


def take(
    private: Path | int, store: Path, wanted: WantedFile, *, limit: int, check: Callable[[], None] = lambda: None
) -> None:
    """Copy one file out of a private folder (a path or a descriptor) into a shared cache, when its bytes are the ones
    that are wanted.

    It is a copy: the build's user may have the file open, or linked to another name, for as long as the build lives.
    An optional file that is not there is no error.
    """
    for path in (wanted.source, wanted.path):
        _require_plain(path)
    try:
        with opened(private, wanted.source) as file:
            _copy(file, store, wanted, limit, check)
    except (FileNotFoundError, NotADirectoryError):
        if not wanted.optional:
            raise PlatformError("PackageIndexUnavailable", f"{_named(wanted)} did not arrive") from None


def shared(attempt: Attempt, name: str) -> Path:
    """A cache of this organization that a step does not write, made for the node where it is new."""
    folder = attempt.node.folder / "caches" / attempt.grant.organization_name / name
    attempt.use(f"caches/{attempt.grant.organization_name}/{name}")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, folder.parent, folder.parent.parent):  # whatever the worker's umask: the build user passes
            each.chmod(0o755)
    return folder


def named(attempt: Attempt, plan: Plan) -> Fetched | None:
    """What the stubs name, with the files for later steps written beside them; read once between two steps that run."""
    if attempt.named is not None:
        return attempt.named[0]
    with attempt.reading() as reading:
        found = reading.fetched(plan)
    for file in found.files if found else ():
        _require_plain(file.path)
        write_in(attempt, f"fetch/{file.path}", file.content)
    for link in found.links if found else ():
        _require_plain(link.path)
        _require_plain(link.target)
        root = shared(attempt, link.cache) if attempt.node.settings.unsandboxed else Path("/cache", link.cache)
        path = f"fetch/{link.path}"
        above, _, name = path.rpartition("/")
        with folder_in(attempt, above, make=True) as folder, blaming(path):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.symlink(root / link.target, name, dir_fd=folder)
    attempt.named = (found,)
    return found


def is_there(attempt: Attempt, path: str) -> bool:
    """Whether the stubs have a file that is not empty."""
    _require_plain(path)
    above, _, name = f"fetch/{path}".rpartition("/")
    try:
        with below.folder(attempt.work, above) as folder:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _marker(attempt: Attempt, plan: Plan) -> str:
    """The name under which a finished download is remembered: the digest of all that its step saw."""
    argv = [step.argv for step in plan.steps if cache_of(step)]
    return digest_of({"toolchain": plan.toolchain.name, "argv": argv, **stubs_of(attempt, plan)})[7:]


def stubs_of(attempt: Attempt, plan: Plan) -> dict[str, dict[str, str]]:
    """Everything that a step of stubs finds at its start, for a digest of it."""
    tree = DirTree(attempt.source)
    copies = {copy.path: tree.sha256(copy.source) for copy in plan.copies}
    return {"copies": copies, "stubs": {stub.path: stub.content for stub in plan.stubs}}


def _there(store: Path, wanted: WantedFile) -> bool:
    _require_plain(wanted.path)
    try:
        return stat.S_ISREG((store / wanted.path).lstat().st_mode)
    except OSError:
        return False


def _require_plain(path: str) -> None:
    """Raise for a path that could lead out of its folder. Pipelines make paths of names in an index or a lock."""
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") or len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        raise BuildError("ManifestInvalid", f"this names no file that can be downloaded: {path[:200]!r}")


@contextmanager
def opened(folder: Path | int, path: str) -> Iterator[IO[bytes]]:
    """A regular file below a folder (a path or a descriptor), no part of whose path is a link. A part `*` is the one
    entry of its folder."""
    *above, name = path.split("/")
    here = os.open(folder, below.FOLDER) if isinstance(folder, Path) else os.dup(folder)
    try:
        for piece in above:
            part = piece
            if piece == "*":
                with os.scandir(here) as entries:
                    names = [entry.name for entry, _ in zip(entries, range(2), strict=False)]
                if len(names) != 1:
                    raise FileNotFoundError(path)
                (part,) = names
            inner = os.open(part, below.FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        fd = os.open(name, below.FILE, dir_fd=here)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) or not error.errno:
            raise
        raise NotADirectoryError(error.errno, f"{path} is no file") from None  # ELOOP: a link
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotADirectoryError(path)
    with open(fd, "rb") as file:
        yield file


def _copy(file: IO[bytes], store: Path, wanted: WantedFile, limit: int, check: Callable[[], None]) -> None:
    algorithm = wanted.digest.partition(":")[0]
    hasher, size = hashlib.new("sha256" if algorithm == "h1" else algorithm), 0
    fd, partial = tempfile.mkstemp(prefix=".partial-", dir=store)
    try:
        with open(fd, "w+b") as out:
            while chunk := file.read(CHUNK):
                check()
                size += len(chunk)
                if size > limit:
                    message = f"{_named(wanted)} is larger than the limit of {limit} bytes on disk"
                    raise BuildError("DiskQuotaExceeded", message, limit=limit, peak=size)
                hasher.update(chunk)
                out.write(chunk)
            out.flush()
            found = f"{algorithm}:{hasher.hexdigest()}"
            if wanted.digest.startswith("h1:"):
                out.seek(0)
                found = dirhash.of(out, wanted.source, limit, check)
        if found != wanted.digest:
            message = f"{_named(wanted)} arrived with the digest {found}, not with {wanted.digest}"
            raise PlatformError("PackageIndexUnavailable", message)
        os.chmod(partial, 0o444)
        (store / wanted.path).parent.mkdir(parents=True, exist_ok=True)
        for above in Path(wanted.path).parents:  # whatever the worker's umask
            (store / above).chmod(0o755)
        os.rename(partial, store / wanted.path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _named(wanted: WantedFile) -> str:
    return wanted.package or wanted.source
