"""FETCH_SOURCE of a repository: its commit resolved, fetched and packed by git in the sandbox (`gitrun.py`).

What the steps that ask the host fetched is packed by a step without a network. The archive is as hostile as an upload,
and is unpacked as one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from builder.attempt.attempt import Attempt
from builder.attempt.gitrun import FOLDER, MOST_TEXT, Named, offline, online, run, write
from builder.attempt.hosts import CA_MOUNT
from builder.attempt.inside import folder_in, write_in
from builder.attempt.verdict import FULL
from builder.contract.request import Repository
from builder.errors import BuildError, PlatformError
from builder.git import commands
from builder.git.commands import Commit
from builder.git.history import MOST_BYTES, PACK, History, check_head, check_objects, history_of, too_large
from builder.git.source import GitUrl, check_reference, is_commit, parse_url
from builder.git.submodules import (
    DEPTH,
    FILE,
    MOST,
    MOST_LISTED,
    Submodule,
    left_out,
    links_in,
    named_in,
    too_many,
    url_of,
)
from builder.sandbox.remove import remove_tree
from builder.settings import MIB
from builder.source import below
from builder.text import visible

HISTORY = "history"
MOST_NAMES = MIB
"""Bytes of the names in a `.gitmodules`."""
CHUNK = 1024 * 1024


def fetch_commit(attempt: Attempt, asked: Repository) -> Commit:
    """The commit that a request names; its tree is in `attempt.blob` then, as a tar. Raises `BuildError`."""
    named = Named(
        url=parse_url(asked.url, asked.where("url")),
        reference=check_reference(asked.reference, asked.where("reference")),
        at=asked.at,
    )
    folder = attempt.work / FOLDER
    folder.mkdir()
    attempt.chown_to_build_user(folder)
    write(attempt, folder / "askpass", commands.ASKPASS_TEXT, 0o755)
    try:
        sha, branch = _resolve(attempt, named)
        attempt.log.system(f"{visible(named.reference, limit=80)} of {named.url.text} is the commit {sha}")
        _fetch(attempt, named, sha, branch, history=asked.history)
        history = _history(attempt, sha, branch, named.at) if asked.history else None
        tree, warning = sha, ""
        if asked.submodules:
            tree = _with_submodules(attempt, named, sha)
        else:
            warning = _left_out(attempt, sha)
        (folder / "askpass").unlink()
        write_in(attempt, f"{FOLDER}/repository/info/attributes", commands.ATTRIBUTES)
        commit = commands.commit_of(offline(attempt, commands.describe(sha)).out, sha, branch, named.at)
        offline(attempt, commands.archive(tree))
        _take(attempt, named.at)
        return replace(commit, warning=warning, history=history)
    finally:
        remove_tree(folder)


def _resolve(attempt: Attempt, named: Named) -> tuple[str, str]:
    """(commit, branch)."""
    url, reference = named.url, named.reference
    listing = online(attempt, named, commands.list_remote(url, reference, CA_MOUNT))
    sha, branch = commands.found_in(listing.out, reference, named.at)
    offline(attempt, commands.init())
    if not sha and is_commit(reference):
        online(attempt, named, commands.fetch(url, "", CA_MOUNT, shallow=False))
        found = run(attempt, commands.expand(reference), None)
        sha = found.out[0] if found.code == 0 and found.out else ""
        remove_tree(attempt.work / FOLDER / "repository")  # it has commits without their files
        offline(attempt, commands.init())
    if not sha:
        message = f'{url.text} has no branch, tag or commit "{visible(reference, limit=80)}"'
        raise BuildError("GitReferenceNotFound", message, where=f"{named.at}.reference")
    return sha, branch


def _fetch(attempt: Attempt, named: Named, sha: str, branch: str, *, history: bool) -> None:
    """Fetch one commit, with its `history` or without. Raises `BuildError`."""
    command = commands.fetch_history if history else commands.fetch
    try:
        online(attempt, named, command(named.url, sha, CA_MOUNT))
    except BuildError as error:
        if not named.url.is_ssh or is_commit(named.reference) or error.reason != "GitReferenceNotFound":
            raise
        # sshd lets few clients choose git's protocol, and the first one has no tag by the commit that it is of. Should
        # the name be of another commit by now, then this one is not there, and the next attempt resolves it again.
        name = f"refs/heads/{branch}" if branch else f"refs/tags/{named.reference}"
        online(attempt, named, command(named.url, name, CA_MOUNT))


def _history(attempt: Attempt, sha: str, branch: str, at: str) -> History:
    """The history of a commit that was fetched with it; its packs, and the index of its files, wait in a folder that no
    step sees. Raises `BuildError` ArchiveTooLarge, GitReferenceNotFound."""
    check_head(run(attempt, commands.head(), None).out, sha, at)
    check_objects(offline(attempt, commands.count_objects()).out, at)
    listed = offline(attempt, commands.tags())
    if listed.cut:
        raise too_large(f"more than {MOST_TEXT // MIB} MiB of names of tags", at)
    found = history_of(listed.out, sha, branch, at)
    offline(attempt, commands.repack())
    offline(attempt, commands.read_tree(sha), {"GIT_INDEX_FILE": commands.OWN_INDEX})
    kept = attempt.private / HISTORY
    kept.mkdir()
    try:
        size = 0
        with below.folder(attempt.work, FOLDER) as top, below.folder(top, "repository/objects/pack") as packs:
            places = [(top, Path(commands.OWN_INDEX).name, "index")]
            places += [(packs, name, name) for name in sorted(os.listdir(packs)) if PACK.fullmatch(name)]
            for folder, name, new in places:
                with os.fdopen(below.regular_file(folder, name), "rb") as source, (kept / new).open("xb") as out:
                    size += os.fstat(source.fileno()).st_size
                    if size > MOST_BYTES:
                        raise too_large(f"more than {MOST_BYTES // MIB} MiB", at)
                    shutil.copyfileobj(source, out, CHUNK)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise PlatformError("GitUnavailable", "git packed no history") from None
    return found


def place_history(attempt: Attempt, history: History) -> None:
    """Write `.git` into the unpacked source: what git packed of checked objects, and files of ours. Nothing in it was
    a file of the host's. Raises `BuildError` ArchiveUnsafe for a commit that has something of this name."""
    kept = attempt.private / HISTORY
    with below.folder(attempt.source) as source:
        if any(name.lower() == ".git" for name in os.listdir(source)):
            raise BuildError("ArchiveUnsafe", "the commit has a .git of its own", where=".git")
        for path, content in history.files.items():
            write_in(attempt, f"src/.git/{path}", content)
        for name in sorted(os.listdir(kept)):
            above = ".git" if name == "index" else ".git/objects/pack"
            with folder_in(attempt, f"src/{above}", make=True) as folder:
                with (
                    (kept / name).open("rb") as packed,
                    open(os.open(name, below.NEW, 0o644, dir_fd=folder), "wb") as out,
                ):
                    shutil.copyfileobj(packed, out, CHUNK)
                    os.fchmod(out.fileno(), 0o644)
                attempt.chown_to_build_user(name, folder)
    shutil.rmtree(kept)


def _submodules(attempt: Attempt, sha: str) -> tuple[Submodule, ...]:
    """The submodules that a commit names. Raises `BuildError` ManifestInvalid."""
    ran = run(attempt, commands.submodules(sha), None, most=MOST_NAMES)
    if ran.code and (wrong := next((line for line in ran.err if "bad config" in line), "")):
        message = f"the {FILE} of {sha} cannot be read: {visible(wrong, limit=200)}"
        raise BuildError("ManifestInvalid", message, where=FILE)
    if ran.cut:
        message = f"the {FILE} of {sha} has more than {MOST_NAMES // MIB} MiB of names"
        raise BuildError("ManifestInvalid", message, where=FILE)
    return named_in(ran.out) if ran.code == 0 else ()


def _linked(attempt: Attempt, sha: str, modules: tuple[Submodule, ...]) -> list[tuple[Submodule, str]]:
    """Those that the commit has in their folders, each with its own commit: a name may be a leftover."""
    links = links_in(offline(attempt, commands.links(sha, [one.path for one in modules])).out) if modules else {}
    return [(one, links[one.path]) for one in modules if one.path in links]


def _left_out(attempt: Attempt, sha: str) -> str:
    """A warning that names the submodules of a commit, which is built also where their names cannot be read."""
    try:
        modules = _submodules(attempt, sha)
    except BuildError as error:
        if error.reason != "ManifestInvalid":
            raise
        return f"{error.message}; its submodules, if it has any, are empty folders in this build"
    return left_out([one for one, _ in _linked(attempt, sha, modules[:MOST_LISTED])])


def _with_submodules(attempt: Attempt, named: Named, sha: str) -> str:
    """The tree of a commit with the files of its submodules, and of theirs. Raises `BuildError`."""
    modules = _submodules(attempt, sha)
    if not modules:
        return sha
    offline(attempt, commands.read_tree(sha))
    levels, count = [(named.url, "", sha, modules)], 0
    for depth in range(DEPTH + 1):
        below: list[tuple[GitUrl, str, str, tuple[Submodule, ...]]] = []
        for above, prefix, commit, some in levels:
            if not some:
                continue
            if depth == DEPTH:
                raise too_many(f"{DEPTH} in one another", named.at)
            if len(some) > MOST_LISTED:
                raise too_many(f"{MOST_LISTED} names in one {FILE}", named.at)
            for one, wanted in _linked(attempt, commit, some):
                count += 1
                if count > MOST:
                    raise too_many(str(MOST), named.at)
                url, folder = url_of(above, one), f"{prefix}{one.path}"
                attempt.log.system(f"submodule {folder} is the commit {wanted} of {url.text}")
                at = f"{FILE}: submodule.{visible(one.name, limit=80)}"
                of_one = Named(url=url, reference=wanted, at=at)
                known = (url.host, url.port) == (named.url.host, named.url.port)
                online(attempt, of_one, commands.fetch(url, wanted, CA_MOUNT), login=known)
                offline(attempt, commands.unlink(folder))
                offline(attempt, commands.read_tree(wanted, folder))
                below.append((url, f"{folder}/", wanted, _submodules(attempt, wanted)))
        levels = below
    return offline(attempt, commands.write_tree()).out[0]


def _take(attempt: Attempt, at: str) -> None:
    """Copy the archive to where an upload would lie. Raises `BuildError` ArchiveTooLarge."""
    limit = attempt.node.settings.upload_bytes
    try:
        with below.folder(attempt.work, FOLDER) as folder:
            archive = below.regular_file(folder, "source.tar")
    except OSError:
        raise PlatformError("GitUnavailable", "git packed no archive") from None
    with os.fdopen(archive, "rb") as source:
        found = os.fstat(source.fileno())
        if found.st_size > limit:
            message = f"the commit's tree has {found.st_size} bytes, {limit} are allowed"
            raise BuildError("ArchiveTooLarge", message, where=at)
        with attempt.blob.open("wb") as out:
            shutil.copyfileobj(source, out, CHUNK)
