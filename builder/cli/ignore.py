"""What of a folder is left out: ignore files, what tools make again, secrets, litter of operating systems.

`.igniteignore`, where there is one, is the only ignore file; else it is `.dockerignore` by moby's rules; else each
`.gitignore` inside the folder by git's. `.igniteignore` has git's syntax. Of the other two only the file at the root
is read. Git's index is not: a file that is tracked although a line names it is left out, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.errors import BuildError
from builder.globs import GitPattern, MobyPattern, git_patterns, moby_pattern, moby_patterns
from builder.source.entry import LITTER_FOLDER, is_litter

IGNITE, DOCKER, GIT = ".igniteignore", ".dockerignore", ".gitignore"
DEFAULT, SECRETS, LITTER = "default list", "list of secrets", "litter of macOS and Windows"
READ_LIMIT = 1024 * 1024

# What tools make again; version control holds what was deleted, and is with the secrets for that.
MADE = frozenset({"__pycache__", "node_modules", "venv", ".venv"})
SECRET_NAMES = frozenset(
    {
        *(".git", ".git-credentials", ".env", ".envrc", ".npmrc", ".pypirc", ".netrc", "_netrc", ".dockercfg"),
        *(".ssh", ".aws", ".gnupg", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    }
)
SECRET_SUFFIXES = (".p12", ".pfx", ".jks", ".keystore", ".ppk", ".kdbx")
PUBLIC_ENV = frozenset({".example", ".sample", ".template", ".tmpl", ".dist", ".defaults", ".schema"})
"""What ends the name of an `.env.*` that shows only which variables there are."""
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
PUBLIC_PEM = re.compile(rb"-----BEGIN (?:[A-Z0-9 ]*CERTIFICATE|[A-Z0-9 ]*PUBLIC KEY|X509 CRL|DH PARAMETERS)-----")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Why something is left out: the file and line of an ignore file, or one of the lists."""

    source: str
    line: int = 0
    pattern: str = ""

    @property
    def name(self) -> str:
        return f"{self.source}:{self.line}" if self.line else f"the {self.source}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`--no-ignore` and `--include`, as they were typed."""

    no_ignore: bool = False
    include: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an ignore file rules for a path: the line that decides, and whether it leaves the path out."""

    rule: Rule
    out: bool


class Rules(Protocol):
    """Ignore files. A walk enters each folder before it asks for what the folder holds, and asks for each once."""

    def enter(self, folder: str, path: Path, names: frozenset[str]) -> None:
        """Begin with a folder: "" is the root; `names` are those of its regular files."""
        ...

    def verdict(self, path: str, *, is_folder: bool) -> Verdict | None:
        """What decides about a path, or None."""
        ...

    def may_hold(self, folder: str) -> bool:
        """Whether something below a folder that is left out may be sent all the same."""
        ...


def rules_of(root: Path, choice: Choice) -> Rules:
    """The ignore files of a folder. Raises `BuildError` InvalidRequest for one that cannot be read."""
    if choice.no_ignore:
        return GitRules(name="")
    if _is_file(root / IGNITE):
        return GitRules(name=IGNITE, nested=False)
    if _is_file(root / DOCKER):
        try:
            return MobyRules(patterns=moby_patterns(_read(root / DOCKER)))
        except ValueError as error:
            message = f"{DOCKER}: {error}"
            raise BuildError("InvalidRequest", message, where=DOCKER, next="Correct the line: a pattern each") from None
    return GitRules(name=GIT)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(READ_LIMIT + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise BuildError("InvalidRequest", message, where=str(path), next="Make it readable, or: --no-ignore") from None
    if len(data) > READ_LIMIT:
        message = f"{path} has more than {READ_LIMIT} bytes"
        raise BuildError("InvalidRequest", message, where=str(path), next="Make it shorter, or: --no-ignore")
    return data


class _GitFile:
    """The patterns of one file. Most paths match none of them, which one expression finds out."""

    def __init__(self, source: str, patterns: Sequence[GitPattern]) -> None:
        self._rows = [
            (re.compile(pattern.regex, re.DOTALL), pattern,
             Rule(source=source, line=pattern.line, pattern=pattern.text))
            for pattern in reversed(patterns)
        ]  # fmt: skip
        self._by_name = _one_of([pattern.regex for pattern in patterns if not pattern.anchored])
        self._by_path = _one_of([pattern.regex for pattern in patterns if pattern.anchored])

    def verdict(self, path: bytes, *, is_folder: bool) -> Verdict | None:
        name = path.rpartition(b"/")[2]
        if not self._by_name.fullmatch(name) and not self._by_path.fullmatch(path):
            return None
        for regex, pattern, rule in self._rows:
            if pattern.only_folders and not is_folder:
                continue
            if regex.fullmatch(path if pattern.anchored else name):
                return Verdict(rule=rule, out=not pattern.negated)
        return None


def _one_of(regexes: Sequence[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(b"(?:%s)" % regex for regex in regexes) or b"(?!)", re.DOTALL)


@dataclass(kw_only=True)
class GitRules:
    """Files of git's syntax: the nearest folder's last line that matches decides. Without a name there is none."""

    name: str
    nested: bool = True
    files: dict[str, _GitFile] = field(default_factory=dict)

    def enter(self, folder: str, path: Path, names: frozenset[str]) -> None:
        """Read the file of this folder."""
        if self.name in names and (self.nested or not folder):
            source = f"{folder}/{self.name}" if folder else self.name
            self.files[folder] = _GitFile(source, git_patterns(_read(path / self.name)))

    def verdict(self, path: str, *, is_folder: bool) -> Verdict | None:
        """By the files of all folders above."""
        if not self.files:
            return None
        folder = path.rpartition("/")[0]
        while True:
            file = self.files.get(folder)
            if file is not None:
                below = path[len(folder) + 1 :] if folder else path
                found = file.verdict(os.fsencode(below), is_folder=is_folder)
                if found is not None:
                    return found
            if not folder:
                return None
            folder = folder.rpartition("/")[0]

    def may_hold(self, folder: str) -> bool:
        """Never: git does not look into a folder that is ignored."""
        return False


@dataclass(kw_only=True)
class MobyRules:
    """A `.dockerignore`: lines in order, each for a path and for all below it; a later `!` takes paths back."""

    patterns: Sequence[MobyPattern]
    matched: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    """Which patterns match a folder or one above it."""

    def enter(self, folder: str, path: Path, names: frozenset[str]) -> None:
        """The file at the root is all there is."""

    def verdict(self, path: str, *, is_folder: bool) -> Verdict | None:
        """By every line that changes what those before it rule."""
        above = self.matched.get(path.rpartition("/")[0]) or (False,) * len(self.patterns)
        matches, decides = [], None
        for pattern, matched in zip(self.patterns, above, strict=True):
            is_match = matched or pattern.matches(path)
            matches.append(is_match)
            if is_match and pattern.negated == (decides is not None):
                decides = None if pattern.negated else pattern
        if is_folder:
            self.matched[path] = tuple(matches)
        if decides is None:
            return None
        return Verdict(rule=Rule(source=DOCKER, line=decides.line, pattern=decides.text), out=True)

    def may_hold(self, folder: str) -> bool:
        """Whether a `!` line may name something below."""
        return any(pattern.negated and may_match_below(pattern, folder) for pattern in self.patterns)


def may_match_below(pattern: MobyPattern, folder: str) -> bool:
    """Whether a pattern may match something inside a folder, by what stands before its first special character."""
    below = f"{folder}/"
    return pattern.literal.startswith(below) or (below.startswith(pattern.literal) and not pattern.is_exact)


class Includes:
    """The `--include` of a command: globs from the folder's root, by the rules of a line in `.dockerignore`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._patterns = []
        for text in texts:
            try:
                if text.startswith("!"):
                    raise ValueError("it begins with a !")
                self._patterns.append(moby_pattern(text.strip()))
            except ValueError as error:
                message = f'--include is "{text}": {error}'
                raise BuildError("InvalidRequest", message, where="--include", next="Name a path, or a glob") from None

    def names(self, path: str) -> bool:
        """Whether one is exactly this path."""
        return any(pattern.is_exact and pattern.literal == path for pattern in self._patterns)

    def match(self, path: str) -> bool:
        """Whether one matches the path or a folder above it."""
        if not self._patterns:
            return False
        parts = path.split("/")
        paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        return any(pattern.matches(each) for pattern in self._patterns for each in paths)

    def may_hold(self, folder: str) -> bool:
        """Whether one may match something inside this folder."""
        return any(may_match_below(pattern, folder) for pattern in self._patterns)


def litter_rule(name: str, *, is_folder: bool) -> Rule | None:
    """The rule for what operating systems add, or None."""
    if name == LITTER_FOLDER if is_folder else is_litter(name):
        return Rule(source=LITTER, pattern=name)
    return None


def secret_rule(name: str, path: Path) -> Rule | None:
    """The rule for what is a secret by its name, a `.pem` or `.key` also by what it holds, or None."""
    lower = name.lower()
    suffix = os.path.splitext(lower)[1]
    if lower in SECRET_NAMES or suffix in SECRET_SUFFIXES:
        return Rule(source=SECRETS, pattern=name)
    if lower.startswith(".env.") and suffix not in PUBLIC_ENV:
        return Rule(source=SECRETS, pattern=name)
    if suffix in (".pem", ".key"):
        head = _head(path)
        is_public = PUBLIC_PEM.search(head) is not None if suffix == ".pem" else True
        if PRIVATE_KEY.search(head) or not is_public:
            return Rule(source=SECRETS, pattern=f"*{suffix}")
    return None


def _head(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(READ_LIMIT)
    except OSError:
        return b""


def default_rule(name: str, path: Path, beside: frozenset[str], *, is_folder: bool) -> Rule | None:
    """The rule for what tools make again, or None. `beside`: the names of the files in the same folder."""
    if name in MADE:
        return Rule(source=DEFAULT, pattern=name)
    if is_folder and name == "target" and "Cargo.toml" in beside:
        return Rule(source=DEFAULT, pattern="target beside Cargo.toml")
    if is_folder and (path / "pyvenv.cfg").is_file():
        return Rule(source=DEFAULT, pattern="pyvenv.cfg")
    return None


# What looks like a credential of a service, or a key, wherever it stands.
TOKENS = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
    rb"|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}\b"
    rb"|\bgithub_pat_[A-Za-z0-9_]{60}"
    rb"|\bglpat-[A-Za-z0-9_-]{20}\b"
    rb"|\bxox[abprs]-[0-9]{8,}-[A-Za-z0-9-]{10}"
    rb"|\bAIza[A-Za-z0-9_-]{35}\b"
    rb"|\b[sr]k_live_[A-Za-z0-9]{20}"
    rb"|\bnpm_[A-Za-z0-9]{36}\b"
    rb"|\bpypi-AgEIcHlwaS[A-Za-z0-9_-]{50}"
)
SUSPECT_NAMES = frozenset({"credentials.json", "secrets.json", "secrets.yaml", "secrets.yml", "secrets.toml",
                           "service-account.json", ".htpasswd", ".vault-token", "terraform.tfstate"})  # fmt: skip


def looks_secret(name: str, head: bytes) -> bool:
    """Whether a file that is sent looks like one that should not be: by its name, or a token in its first bytes."""
    return name.lower() in SUSPECT_NAMES or TOKENS.search(head) is not None
