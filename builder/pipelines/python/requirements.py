"""requirements.txt and what it includes (pip, "Requirements File Format"), as flat lines of ours. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import LINE_LIMIT
from builder.pipelines.python.needs import MOST_FILES, Dependencies, by_name, pinned, refuse_count
from builder.source.tree import Tree

_NAMES_ONLY = "Name packages and versions only; further indexes are the operator's to configure."
_OUTSIDE = "Send the folder that has both, and name the entry's folder with it."
_REFUSED = (
    (
        re.compile(r"^(--index-url|--extra-index-url|-i|--find-links|-f|--trusted-host|--no-index)"),
        "an index of its own",
    ),
    (re.compile(r"^--no-binary\b"), "a build from source"),
    (re.compile(r"\$\{"), "a variable"),  # uv replaces it by the environment's value, in paths too
    (re.compile(r"^(-r|--requirement|-c|--constraint).*(file:|://)"), "an include by URL"),
    (re.compile(r"^(git|hg|svn|bzr)\+|://|@\s*(git\+|https?:|file:)"), "a package by URL"),
    (re.compile(r"^(\.{1,2}(/|$)|/|file:)|^[\w./-]+\.(whl|zip|tar\.gz)$"), "a local path"),
)
_OF_HOSTS = frozenset({"an index of its own", "an include by URL", "a package by URL"})
"""What names a host: only the operator's indexes are asked."""
_INCLUDE = re.compile(r"^(-r|--requirement|-c|--constraint)(?:\s+|=)?(.+)$")
# What pip and uv read as it stands: no quote, backslash, scheme or variable that one of them would resolve.
_PLAIN_PATH = re.compile(r"[\w./@+,=-]+(?: +[\w./@+,=-]+)*")
_OPTION = re.compile(r"(?:--pre|--prefer-binary|--require-hashes|(?:--only-binary|--use-feature)(?:\s+|=)[\w:,.-]+)")
_EDITABLE = re.compile(r"^(?:-e|--editable)(?:\s+|=)?(.*)$")
_FOLDER = re.compile(r"(\.{1,2}(?:/[\w.+-]+)*/?)(?:\[([\w., -]{1,200})\])?", re.ASCII)
_HASHES = re.compile(r"(?:--hash(?:=|\s+)\w+:[0-9A-Za-z_=-]+(?:\s+|$))*")
_SHA256 = re.compile(r"--hash(?:=|\s+)sha256:([0-9a-f]{64})(?=\s|$)")


def read_requirements(tree: Tree) -> Dependencies:
    """The requirements, and the files that hold them (pip, "Requirements File Format")."""
    seen: dict[tuple[str, bool], None] = {}
    needs: dict[bool, list[str]] = {False: [], True: []}
    waiting = [("requirements.txt", False)]
    folders: list[tuple[str, str, frozenset[str]]] = []
    options: dict[str, str] = {}
    unpinned = ""
    while waiting:
        name, constrains = waiting.pop()
        if (name, constrains) in seen:
            continue
        seen[name, constrains] = None
        if len(seen) > MOST_FILES:
            message = f"requirements.txt includes more than {MOST_FILES} files"
            raise BuildError("ManifestInvalid", message, where=name, next="Put the requirements into fewer files.")
        includes: list[tuple[str, bool]] = []
        for number, text in _logical_lines(name, tree.read_text(name)):
            where = f"{name}:{number}"
            if folder := _folder(text, where):
                folders.append(folder)
                continue
            _refuse_line(text, where)
            if include := _INCLUDE.match(text):
                below = _included(tree, name, include[2].strip(), where)
                includes.append((below, constrains or include[1] in ("-c", "--constraint")))
            elif not text.startswith("-"):
                refuse_count(sum(map(len, needs.values())) + 1, where)
                need, is_pinned = _requirement(text, where)
                needs[constrains].append(need)
                unpinned = unpinned or ("" if is_pinned or constrains else where)
            elif not _OPTION.fullmatch(text):
                message = f"this option is not taken here: {text[:80]}"
                raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
            else:
                options.setdefault(text.partition("=")[0].split()[0], where)
        waiting += reversed(includes)
    if "--require-hashes" in options and unpinned:
        message = f"{options['--require-hashes']} asks for hashes, and this requirement has none"
        hint = "Write the file again with hashes: uv pip compile --generate-hashes"
        raise BuildError("ManifestInvalid", message, where=unpinned, next=hint)
    pips_own = "is an option of pip's own and changes nothing here"
    return Dependencies(
        manifest="requirements.txt",
        count=len(needs[False]),
        requirements=tuple(needs[False]),
        constraints=tuple(needs[True]),
        prerelease="--pre" in options,
        files=tuple(dict.fromkeys(name for name, _ in seen)),
        folders=tuple(folders),
        warnings=tuple(f"{where}: {name} {pips_own}" for name, where in options.items() if name == "--use-feature"),
    )


def _folder(text: str, where: str) -> tuple[str, str, frozenset[str]] | None:
    """(folder, where it is named, extras) of a line that names a package of the source: `-e .`, `./libs/x[extra]`.

    pip resolves the path against the folder it is started in, which is the root, not against the file that has it.
    """
    editable = _EDITABLE.match(text)
    target = editable[1].strip() if editable else text
    found = _FOLDER.fullmatch(target)
    if editable and not found and re.fullmatch(r"[\w.+-]+(?:/[\w.+-]+)*/?", target, re.ASCII):
        found = _FOLDER.fullmatch(f"./{target}")
    if not found:
        if not editable:
            return None
        message = f"an editable install of what is no folder of the source is not taken here: {text[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
    folder = posixpath.normpath(found[1])
    if folder.startswith(".."):
        raise BuildError("ManifestInvalid", f"{folder[:200]} is not in the source", where=where, next=_OUTSIDE)
    return folder, where, frozenset(part.strip() for part in (found[2] or "").split(",") if part.strip())


def _refuse_line(text: str, where: str) -> None:
    for pattern, what in _REFUSED:
        if pattern.search(text):
            message = f"{what} is not taken here: {text[:80]}"
            if what in _OF_HOSTS and "file:" not in text:
                raise refused_source(message, where=where, next=_NAMES_ONLY)
            raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)


def _included(tree: Tree, name: str, target: str, where: str) -> str:
    """The file that `name` includes, as a path of the source."""
    if not _PLAIN_PATH.fullmatch(target):
        message = f"this is no plain path of a file: {target[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next="Write the path without quotes or escapes.")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if path.startswith("..") or not tree.has(path):
        raise BuildError("ManifestInvalid", f"{path[:200]} is not in the source", where=where)
    return path


def _requirement(text: str, where: str) -> tuple[str, bool]:
    """A requirement by name and version (PEP 508) as a line of ours, with the sha256 hashes behind it, if any."""
    need, *options = re.split(r"\s(?=--)", text, maxsplit=1)
    if options and not _HASHES.fullmatch(options[0]):
        message = f"only --hash is taken behind a requirement: {text[:80]}"
        raise BuildError("ManifestInvalid", message, where=where, next=_NAMES_ONLY)
    if not (line := by_name(need)):
        raise BuildError("ManifestInvalid", f"this is no requirement (PEP 508): {need[:80]}", where=where)
    hashes = _SHA256.findall(options[0]) if options else []
    if options and not hashes:
        hint = "Write it again with a tool that pins by sha256, as the indexes do."
        raise BuildError("ManifestInvalid", f"no --hash=sha256:… pins {need[:80]}", where=where, next=hint)
    return pinned(line, hashes), bool(hashes)


def _logical_lines(name: str, text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) without comments, with continued lines joined."""
    start = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        part = _COMMENT.sub("", line)
        if len(part) > LINE_LIMIT:
            message = f"the line has {len(part)} characters; {LINE_LIMIT} are taken"
            raise BuildError("ManifestInvalid", message, where=f"{name}:{number}", next="Write it as several lines.")
        if part.endswith("\\"):
            parts.append(part[:-1])
            continue
        if joined := "".join((*parts, part)).strip():
            yield start, joined
        start, parts = 0, []
    if joined := "".join(parts).strip():
        yield start, joined


_COMMENT = re.compile(r"(^|\s)#.*$")
