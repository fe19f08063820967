"""Debian packages as files: which mirror, which packages, what is in them. Installs nothing.

mmdebstrap resolves, downloads and verifies; dpkg-deb opens. The packages are read out of the root that mmdebstrap
makes, and the root is deleted. No maintainer script ever runs.

The sources of apt are parsed here, because `apt-get indextargets` does not print their `Signed-By`.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from builder.errors import BuildError, PlatformError

ARCHIVES = "./var/cache/apt/archives/"
MMDEBSTRAP_TIMEOUT_S = 1800
END_S = 5.0
VALID_UNTIL = "Acquire::Check-Valid-Until"
POCKETS = ("", "-updates", "-security")
BACKPORTS = "-backports"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a process ended: exit code, standard output, and standard error as text."""

    exit_code: int
    out: bytes
    err: str


Run = Callable[[Sequence[str], "Path | None"], Ran]
"""Runs argv, its output into a file where one is named. Raises `FileNotFoundError` when the program is absent."""


def run_process(argv: Sequence[str], out: Path | None = None) -> Ran:
    """The real `Run`. The process has a session of its own, since mmdebstrap sends HUP to all of its process group when
    it cannot write its output: to this one, and to the shell that waits for it. It ends with this call."""
    with out.open("wb") if out else nullcontext(subprocess.PIPE) as into:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=into, stderr=subprocess.PIPE, umask=0o022, start_new_session=True
        )
    try:
        said, err = process.communicate(timeout=MMDEBSTRAP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _end(process)
        return Ran(exit_code=-1, out=b"", err=f"no end after {MMDEBSTRAP_TIMEOUT_S} s")
    except BaseException:  # this one is to end
        _end(process)
        raise
    return Ran(exit_code=process.returncode, out=said or b"", err=err.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all of its session. At TERM mmdebstrap deletes what it has made."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=END_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """One downloaded package."""

    name: str
    version: str
    path: Path


def fetch_packages(
    suite: str, names: Sequence[str], mirrors: Sequence[str], into: Path, run: Run
) -> tuple[DebianPackage, ...]:
    """Download `names` and what they depend on into the folder `into`, sorted by name.

    Raises `BuildError` ToolchainUnavailable where mmdebstrap cannot run, `PlatformError` PackageIndexUnavailable when
    it fails.
    """
    archive = into / "root.tar"
    argv = ["mmdebstrap", "--variant=extract", "--format=tar", "--skip=cleanup/apt/cache,output/dev"]
    argv += _validity(run)
    argv += [f"--include={','.join(names)}", suite_of(suite), str(archive), *mirrors]
    done = _checked(argv, None, run)
    if done.exit_code and (lack := missing_for_mmdebstrap()):
        raise BuildError("ToolchainUnavailable", f"images cannot be made here: {lack.what}", next=lack.mend)
    if done.exit_code:
        _refuse_full(done, into)
        errors = tuple(line for line in done.err.splitlines() if line.startswith(("E:", "W:")))[-6:]
        raise PlatformError(
            "PackageIndexUnavailable",
            f"mmdebstrap could not fetch {', '.join(names)} of {suite}: {' '.join(errors) or done.err[-300:]}",
        )
    packages = tuple(_packages_in(archive, into))
    archive.unlink()
    return tuple(sorted(packages, key=lambda package: package.name))


def _validity(run: Run) -> tuple[str, ...]:
    """Whether an index past its date is taken is the machine's own decision, as it stands in apt's configuration: a
    mirror that is a copy of one day has no younger one. Signatures are verified whatever it says."""
    try:
        done = run(("apt-config", "dump", "--format=%v%n", VALID_UNTIL), None)
    except FileNotFoundError:
        return ()
    off = done.out.decode("ascii", "replace").strip().lower() in ("false", "no", "off", "0")
    return (f'--aptopt={VALID_UNTIL} "false"',) if off else ()


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What a machine lacks, and the step that mends it."""

    what: str
    mend: str


def missing_for_mmdebstrap(subordinate: Sequence[Path] = (Path("/etc/subuid"), Path("/etc/subgid"))) -> Lack | None:
    """What keeps mmdebstrap from making a root as this user; root needs nothing.

    Without root it unpacks in a user namespace, whose users newuidmap maps to the subordinate ones of this user, or
    under fakechroot.
    """
    if os.geteuid() == 0 or shutil.which("fakechroot"):
        return None
    if not shutil.which("newuidmap"):
        what = "mmdebstrap needs newuidmap when it does not run as root"
        return Lack(what=what, mend="An operator runs: apt-get install -y uidmap")
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user of a container's uid alone
        user = str(os.geteuid())
    for path in subordinate:
        try:
            owners = {
                line.partition(":")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            }
        except OSError:
            owners = set()
        if not owners & {user, str(os.geteuid())}:
            mend = f"An operator runs: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            return Lack(what=f"user {user} has no row in {path}, which mmdebstrap needs when it is not root", mend=mend)
    return None


def files_of(package: DebianPackage, tar: Path, run: Run) -> None:
    """Write the package's file tree as a tar to `tar`."""
    must(["dpkg-deb", "--fsys-tarfile", str(package.path)], tar, run)


def control_of(package: DebianPackage, run: Run) -> bytes:
    """The package's control fields, as scanners read them from /var/lib/dpkg/status.d."""
    return must(["dpkg-deb", "--field", str(package.path)], None, run).out


def mirror_lines(sources: Mapping[str, str], suite: str) -> tuple[str, ...]:
    """Lines for mmdebstrap from the machine's own apt sources (file name → text), main only.

    A suite that the machine does not use comes from the mirrors that it uses for its own; one of backports comes with
    the suite that it is for. Empty when the machine has no Debian sources; mmdebstrap knows a default then.
    """
    pocket, suite = suite, suite_of(suite)
    entries = [entry for name in sorted(sources) for entry in _entries(name, sources[name])]
    known = [entry for entry in entries if "debian" in entry.uri and "main" in entry.components]
    own = next((entry.suite for entry in known if "-" not in entry.suite and "/" not in entry.suite), "")
    wanted = suite if any(entry.suite == suite for entry in known) else own
    lines: dict[str, None] = {}
    for entry in known:
        behind = entry.suite.removeprefix(wanted)
        if wanted and entry.suite.startswith(wanted) and behind in POCKETS:
            signed = f"[signed-by={entry.signed_by}] " if entry.signed_by else ""
            lines[f"deb {signed}{entry.uri} {suite}{behind} main"] = None
            if pocket != suite and not behind:
                lines[f"deb {signed}{entry.uri} {pocket} main"] = None
    return tuple(lines)


def suite_of(pocket: str) -> str:
    """The suite that a pocket stands behind: "trixie" of "trixie-backports"."""
    return pocket.removesuffix(BACKPORTS)


def read_sources(folder: Path) -> dict[str, str]:
    """The texts of `sources.list` and `sources.list.d` below `folder` ("/etc/apt")."""
    paths = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    found = [path for path in paths if path.suffix in (".list", ".sources") and path.is_file()]
    return {path.name: path.read_text(errors="replace") for path in found}


@dataclass(frozen=True)
class _Source:
    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def _entries(name: str, text: str) -> Iterator[_Source]:
    """sources.list(5): one-line style, or deb822 in `.sources` files."""
    if name.endswith(".sources"):
        for stanza in _stanzas(text):
            if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes") in ("no", "false"):
                continue
            signed = stanza.get("signed-by", "")
            for uri in stanza.get("uris", "").split():
                for suite in stanza.get("suites", "").split():
                    components = tuple(stanza.get("components", "").split())
                    yield _Source(uri, suite, components, signed if _is_path(signed) else "")
        return
    for line in text.splitlines():
        words = line.partition("#")[0].replace("[", " [ ").replace("]", " ] ").split()
        if not words or words[0] != "deb":
            continue
        options: list[str] = []
        if len(words) > 1 and words[1] == "[" and "]" in words:
            options, words = words[2 : words.index("]")], [words[0], *words[words.index("]") + 1 :]]
        signed = next((value for key, _, value in (o.partition("=") for o in options) if key == "signed-by"), "")
        if len(words) >= 4:
            yield _Source(words[1], words[2], tuple(words[3:]), signed if _is_path(signed) else "")


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, key = {}, ""
        elif line[0] in " \t" and key:
            stanza[key] += "\n" + line.strip()
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            stanza[key] = value.strip()


def _is_path(text: str) -> bool:
    return text.startswith("/") and len(text.split()) == 1


def _packages_in(archive: Path, into: Path) -> Iterator[DebianPackage]:
    with tarfile.open(archive, mode="r|") as tar:
        for member in tar:
            file = member.name.removeprefix(ARCHIVES)
            if file == member.name or "/" in file or not file.endswith(".deb") or not member.isreg():
                continue
            source = tar.extractfile(member)
            assert source is not None
            path = into / file
            with path.open("wb") as out:
                while chunk := source.read(1024 * 1024):
                    out.write(chunk)
            name, version, _ = unquote(file).split("_")
            yield DebianPackage(name=name, version=version, path=path)


def must(argv: Sequence[str], out: Path | None, run: Run) -> Ran:
    """Run argv to success. Raises `BuildError` ToolchainUnavailable, `PlatformError` Internal with its last lines."""
    done = _checked(argv, out, run)
    if done.exit_code:
        _refuse_full(done, out)
        raise PlatformError("Internal", f"{argv[0]} failed with {done.exit_code}: {done.err[-300:]}")
    return done


@contextmanager
def full_is_ours(folder: Path) -> Iterator[None]:
    """A disk that is full beneath what happens inside is NodeDiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(str(error.filename or folder)) from error


def _refuse_full(done: Ran, where: Path | None) -> None:
    if any(words in done.err for words in ("No space left on device", "Disk quota exceeded")):
        raise _full(str(where or "/tmp"))


def _full(where: str) -> PlatformError:
    return PlatformError("NodeDiskFull", f"the image could not be made: the disk of {where} is full")


def _checked(argv: Sequence[str], out: Path | None, run: Run) -> Ran:
    try:
        return run(argv, out)
    except FileNotFoundError:
        package = {"bwrap": "bubblewrap", "dpkg-deb": "dpkg"}.get(argv[0], argv[0])
        raise BuildError(
            "ToolchainUnavailable",
            f"{argv[0]} is not installed on this machine; images are made with it",
            next=f"An operator runs: apt-get install -y {package}",
        ) from None
