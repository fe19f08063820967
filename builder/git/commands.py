"""Git's command lines and what their output means. Every value of a stranger stands behind `--`, or is a SHA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BuildError, PlatformError
from builder.git import ssh
from builder.git.history import HEAD, MOST_TAGS, PACK_BYTES, History
from builder.git.source import GitUrl, is_commit
from builder.text import visible

GIT = "/usr/bin/git"
FOLDER = "/work/git"
REPOSITORY, ARCHIVE, ASKPASS = f"{FOLDER}/repository", f"{FOLDER}/source.tar", f"{FOLDER}/askpass"
INDEX, OWN_INDEX = f"{FOLDER}/index", f"{FOLDER}/index-of-commit"
ASKPASS_TEXT = """\
#!/bin/sh
case "$1" in
    Username*) printf '%s' "$IGNITE_GIT_USERNAME" ;;
    *) printf '%s' "$IGNITE_GIT_TOKEN" ;;
esac
"""
ATTRIBUTES = "* -export-ignore -export-subst -text -eol -filter -ident -working-tree-encoding\n"
"""In the repository's own info/attributes, which wins: the commit's own would change what an archive has."""
SETTINGS = (
    "protocol.allow=never",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",
    "transfer.bundleURI=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",
)
HARMLESS = (
    "badDate", "badDateOverflow", "badEmail", "badName", "badTagName", "badTimezone", "missingEmail",
    "missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "missingTaggerEntry",
    "multipleAuthors", "nulInCommit", "zeroPaddedDate", "zeroPaddedFilemode",
)  # fmt: skip
"""What old tools wrote into honest histories, and no reader stumbles over."""
CHECKS = ("fetch.fsckObjects=true", *(f"fetch.fsck.{name}=ignore" for name in HARMLESS))
"""Each object of a history is judged as it comes: its form, its names and its modes, `.git` and `..` in a tree."""
ENVIRONMENT: Mapping[str, str] = {
    "HOME": FOLDER, "LANG": "C", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https", "GIT_PROTOCOL_FROM_USER": "0", "GIT_ASKPASS": ASKPASS,
    "GIT_NO_REPLACE_OBJECTS": "1", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_LITERAL_PATHSPECS": "1", "GIT_INDEX_FILE": INDEX,
}  # fmt: skip
_REF_LINE = re.compile(r"([0-9a-f]{40})\t(\S+)")
DEFAULT_USERNAME = "x-access-token"
"""What hosts take beside a token where the secret names no user."""
HELPER = (
    """!f() { test "$1" = get && """
    """printf 'username=%s\\npassword=%s\\n' "$IGNITE_GIT_USERNAME" "$IGNITE_GIT_TOKEN"; }; f"""
)
"""A credential helper (gitcredentials(7)) that reads the login of its environment and stores nothing."""
_OURS_ALONE = ("HOME", "GIT_ASKPASS", "GIT_INDEX_FILE")
"""Variables that name places of a folder of ours, where no program but ours runs git."""


AT = "gitSource"
"""The field of a request that an error names where its caller names none."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit: who wrote it, and when it was committed (ms). `branch` is empty where a tag or a commit was named."""

    sha: str
    author: str
    branch: str
    time_ms: int
    warning: str = ""
    """What of it was not fetched."""
    history: History | None = None
    """What the build gets beside its files."""


def protocol(url: GitUrl) -> str:
    """Git's name of the protocol of a URL."""
    return "ssh" if url.is_ssh else "https"


def allowing(name: str) -> str:
    """The setting that opens one protocol of git's; every other one is closed."""
    return f"protocol.{name}.allow=always"


def git(*words: str, url: GitUrl | None = None, ca_bundle: str = "") -> tuple[str, ...]:
    """A command line with all our settings before the command. `url`: what it asks, by the protocol of that alone."""
    allowed = (allowing(protocol(url)),) if url else ()
    settings = (*SETTINGS, *allowed, *((f"http.sslCAInfo={ca_bundle}",) if ca_bundle else ()))
    return (GIT, *(word for setting in settings for word in ("-c", setting)), *words)


def login_of(username: str, token: str) -> Mapping[str, str]:
    """The secret as variables of the one process that asks its host."""
    return {"IGNITE_GIT_USERNAME": username or DEFAULT_USERNAME, "IGNITE_GIT_TOKEN": token}


def environment_for(hosts: Sequence[str], ca_bundle: str) -> Mapping[str, str]:
    """Variables of a program that runs git by itself: all our settings, and a login for these hosts over https alone.

    Git compares the URL that it is about to log in to with each host, also behind a redirect. It finds no helper for
    another one, and asks nobody.
    """
    ours = (*SETTINGS, allowing("https"), f"http.sslCAInfo={ca_bundle}")
    settings = [tuple(setting.split("=", 1)) for setting in ours]
    settings += [(f"credential.https://{host}.helper", HELPER) for host in hosts]
    found = {name: value for name, value in ENVIRONMENT.items() if name not in _OURS_ALONE}
    for number, (name, value) in enumerate(settings):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return found | {"GIT_CONFIG_COUNT": str(len(settings))}


def list_remote(url: GitUrl, reference: str, ca_bundle: str) -> tuple[str, ...]:
    """Ask which commit a branch or tag is; of what may be a commit, every branch and tag."""
    patterns = () if is_commit(reference) else tuple(names_of(reference))
    return git("ls-remote", "--", url.text, *patterns, url=url, ca_bundle=ca_bundle)


def names_of(reference: str) -> Iterable[str]:
    """The full names that a reference may stand for; the first that is there wins, as in git."""
    return (f"refs/tags/{reference}^{{}}", f"refs/tags/{reference}", f"refs/heads/{reference}")


def init() -> tuple[str, ...]:
    return git("init", "--quiet", "--bare", "--template=", REPOSITORY)


def fetch(url: GitUrl, wanted: str, ca_bundle: str, *, shallow: bool = True) -> tuple[str, ...]:
    """Fetch one commit; without `shallow` the commits alone of all branches and tags, to find a short SHA in."""
    how = ("--depth=1",) if shallow else ("--filter=tree:0",)
    refs = (wanted,) if shallow else ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    common = ("--git-dir", REPOSITORY, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc")
    return git(*common, *how, "--", url.text, *refs, url=url, ca_bundle=ca_bundle)


def fetch_history(url: GitUrl, wanted: str, ca_bundle: str) -> tuple[str, ...]:
    """Fetch one commit with all that is before it, and the tags that are there. Each object is checked."""
    common = ("--git-dir", REPOSITORY, "fetch", "--quiet", "--no-write-fetch-head", "--no-auto-gc")
    checks = tuple(word for setting in CHECKS for word in ("-c", setting))
    return git(*checks, *common, "--", url.text, f"+{wanted}:{HEAD}", url=url, ca_bundle=ca_bundle)


def head() -> tuple[str, ...]:
    """The commit that was fetched with its history; it fails where git took none."""
    return expand(HEAD)


def tags() -> tuple[str, ...]:
    """The tags that were fetched, one more than a history may have."""
    rows = ("for-each-ref", f"--count={MOST_TAGS + 1}", "--format=%(objectname) %(refname)", "refs/tags/")
    return git("--git-dir", REPOSITORY, *rows)


def count_objects() -> tuple[str, ...]:
    return git("--git-dir", REPOSITORY, "count-objects", "-v")


def repack() -> tuple[str, ...]:
    """What the refs reach into packs of a bounded size, and nothing else."""
    settings = (f"pack.packSizeLimit={PACK_BYTES}", "repack.writeBitmaps=false", "pack.writeReverseIndex=false")
    words = tuple(word for setting in settings for word in ("-c", setting))
    return git(*words, "--git-dir", REPOSITORY, "repack", "-a", "-d", "-q", "-n")


def expand(short: str) -> tuple[str, ...]:
    """The whole SHA of the commit that a short one or a ref is, in what was fetched."""
    return git("--git-dir", REPOSITORY, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{short}^{{commit}}")


def describe(sha: str) -> tuple[str, ...]:
    return git("--git-dir", REPOSITORY, "log", "-1", "--no-show-signature", "--format=%H%n%ct%n%an <%ae>", sha, "--")


def archive(tree: str) -> tuple[str, ...]:
    return git("--git-dir", REPOSITORY, "archive", "--format=tar", f"--output={ARCHIVE}", tree)


def submodules(sha: str) -> tuple[str, ...]:
    """The folders and URLs that the commit's `.gitmodules` has, and none of a file that it includes; it fails where
    there is none."""
    names = ("--get-regexp", r"^submodule\..*\.(path|url)$")
    return git("--git-dir", REPOSITORY, "config", f"--blob={sha}:.gitmodules", "--no-includes", "-z", *names)


def links(sha: str, folders: Sequence[str]) -> tuple[str, ...]:
    """What the commit has at these folders."""
    return git("-c", "core.quotePath=false", "--git-dir", REPOSITORY, "ls-tree", sha, "--", *folders)


def read_tree(sha: str, folder: str = "") -> tuple[str, ...]:
    """Into the index: the files of a commit, below a folder where it is a submodule's."""
    return git("--git-dir", REPOSITORY, "read-tree", "-i", *((f"--prefix={folder}/",) if folder else ("-m",)), sha)


def unlink(folder: str) -> tuple[str, ...]:
    """Out of the index: the link to a submodule, whose files take its place. Git demands a work tree and reads none."""
    return git("--git-dir", REPOSITORY, "--work-tree", FOLDER, "update-index", "--force-remove", "--", folder)


def write_tree() -> tuple[str, ...]:
    """The index as a tree, whose SHA is printed."""
    return git("--git-dir", REPOSITORY, "write-tree")


def found_in(lines: Sequence[str], reference: str, at: str = AT) -> tuple[str, str]:
    """(commit, branch) of a reference among the lines of `ls-remote`; empty where it is none of them.

    Raises `BuildError` GitReferenceNotFound for a short SHA that several tips have.
    """
    refs = {found[2]: found[1] for line in lines if (found := _REF_LINE.fullmatch(line))}
    for name in names_of(reference):
        if name in refs:
            return refs[name], reference if name.startswith("refs/heads/") else ""
    if not is_commit(reference):
        return "", ""
    if len(reference) == 40:
        return reference, ""
    tips = {sha for sha in refs.values() if sha.startswith(reference)}
    if len(tips) > 1:
        message = f'"{reference}" is the start of several commits'
        raise BuildError("GitReferenceNotFound", message, where=f"{at}.reference")
    return next(iter(tips), ""), ""


def commit_of(lines: Sequence[str], sha: str, branch: str, at: str = AT) -> Commit:
    """What `describe` printed."""
    if len(lines) < 3 or lines[0] != sha or not lines[1].isdecimal():
        raise BuildError("GitReferenceNotFound", f"{sha} is no commit", where=f"{at}.reference")
    return Commit(sha=sha, time_ms=int(lines[1][:12]) * 1000, author=visible(lines[2], limit=200), branch=branch)


def failed(
    url: GitUrl, lines: Sequence[str], *, refused: bool, unreachable: bool, login: bool, at: str = AT
) -> BuildError:
    """What the end of a command that asked the host means, by its words."""
    words = [visible(line, limit=200) for line in lines if line.strip()][-6:]
    text, where = "\n".join(lines).lower(), f"{at}.url"
    name, said = visible(url.text, limit=200), tuple(words)
    if refused:
        away = "" if url.is_ssh else f", or {name} was redirected to another one"
        message = f"{url.host}:{url.port} is not a public host{away}"
        step = "Name a host with a public address, or ask the operator to list it in git_hosts."
        return BuildError("GitUrlRefused", message, where=where, next=step, said=said)
    if unreachable:
        return PlatformError("GitUnavailable", f"{url.host}:{url.port} could not be reached", where=where)
    if url.is_ssh and (known := ssh.failure(url, lines, at, said)):
        return known
    if any(each in text for each in ("could not read username", "could not read password", "authentication failed")):
        message = f"{name} refused " + ("the secret's login" if login else "to answer without a login")
        return BuildError("GitAuthFailed", message, where=where, said=said)
    if wrong := next((line for line in words if "error: object " in line), "") if "fsck error" in text else "":
        message = f"git refuses an object of the history: {wrong.partition('error: ')[2]}"
        step = "Build the commit without its history, or take that object out of the repository's history."
        return BuildError("ArchiveUnsafe", message, where=f"{at}.history", next=step, said=said)
    if "error: 403" in text:
        return BuildError("GitAuthFailed", f"{name} answered 403: no permission", where=where, said=said)
    if "not found" in text or "does not appear to be a git repository" in text:
        return BuildError("GitReferenceNotFound", f"there is no repository at {name}", where=where, said=said)
    if "certificate" in text:
        message, step = (
            f"the certificate of {name} is not trusted here",
            "The operator of the node adds who signed it: ca_bundle.",
        )
        return BuildError("GitUrlRefused", message, where=where, next=step, said=said)
    if any(each in text for each in ("redirect", "not supported or disabled")):  # the last: by a protocol
        return BuildError("GitUrlRefused", f"{name} is not what it names: {(*words, '')[0]}", where=where, said=said)
    if "not our ref" in text or "unadvertised object" in text or "remote ref" in text:
        message = f"{name} does not have this commit any more, or gives none that no branch or tag is at"
        return BuildError("GitReferenceNotFound", message, where=f"{at}.reference", said=said)
    return PlatformError("GitUnavailable", f"git could not read {name}", where=where, said=said)
