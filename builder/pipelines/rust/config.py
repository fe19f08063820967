"""`.cargo/config.toml` of a source: what of it a build takes. Pure.

cargo runs what this file names (wrappers, linkers, runners) and sends requests where it points. A build writes its own
in its place, with the keys that change what is compiled and start nothing; any other that would matter is an error.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError
from builder.pipelines.limits import read_toml
from builder.pipelines.rust.manifest import below, table, to_toml
from builder.source.tree import Tree

TRIPLES = {"native": "x86_64-unknown-linux-gnu", "wasm": "wasm32-wasip2"}
"""Target of the catalog → target of rustc."""
NAMES = (".cargo/config.toml", ".cargo/config")
_IGNORED = frozenset({
    "alias", "cargo-new", "doc", "future-incompat-report", "install", "net", "term", "http", "cache",
    "credential-alias",
})  # fmt: skip
"""What concerns a person at a keyboard, or the way to an index, which is the node's."""
_BUILD = frozenset({"rustflags", "incremental", "jobs", "target", "target-dir", "rustdocflags", "dep-info-basedir",
                    "build-dir", "warnings"})  # fmt: skip
_VARIABLE = re.compile(
    r"(?:CARGO|COMPILER|GCC|RUST\w*|LD|DYLD|BASH|IGNITE|GIT|SSH|CC|CXX|AR|AS|LINKER|HOST|TARGET)(?:_.*)?|.*(?:_PROXY|_proxy)|"
    r"PATH|HOME|IFS|ENV|SHELL|TMPDIR|PERL5LIB|PERL5OPT|PYTHONSTARTUP|PYTHONPATH|NODE_OPTIONS|(?:CC|CXX|AR)_\w+|MAKEFLAGS"
)
"""Variables that name a program, inject code into one, or direct cargo."""
_CODEGEN = frozenset({
    "target-cpu", "target-feature", "opt-level", "codegen-units", "debuginfo", "debug-assertions", "overflow-checks",
    "embed-bitcode", "force-frame-pointers", "inline-threshold", "symbol-mangling-version",
})  # fmt: skip
_CONDITIONS = {
    TRIPLES["native"]: ("cfg(unix)", 'cfg(target_os = "linux")'),
    TRIPLES["wasm"]: ('cfg(target_family = "wasm")', 'cfg(target_arch = "wasm32")'),
}
_LINTS = ("-A", "-W", "-D", "-F", "--allow", "--warn", "--deny", "--forbid", "--cap-lints")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a build takes of the source's own: `text` of the file in its place, flags of rustc, files to write over."""

    text: str
    flags: tuple[str, ...]
    files: tuple[str, ...]


def read_config(tree: Tree, root: str, folder: str, triple: str) -> Config:
    """The files that cargo would read from `folder` up to the source's root. Raises `BuildError` ManifestInvalid."""
    env: dict[str, Any] = {}
    profile: dict[str, Any] = {}
    flags: tuple[str, ...] = ()
    files: list[str] = []
    while True:
        found = [path for name in NAMES if tree.has(path := below(folder, name))]
        files += found
        for path in found[:1]:
            value = read_toml(tree, path)
            _check(path, value, triple)
            own = _flags(path, value, triple)
            flags = flags or own
            env = {name: value for name, value in _variables(path, value)} | env
            profile = {**table(value, "profile"), **profile}
        if folder == ".":
            break
        folder = posixpath.dirname(folder) or "."
    kept = {**({"env": env} if env else {}), **({"profile": profile} if profile else {})}
    return Config(text=to_toml(kept) if kept else "", flags=flags, files=tuple(files))


def _check(path: str, value: Mapping[str, Any], triple: str) -> None:
    for key in value:
        if key not in _IGNORED | {"build", "env", "profile", "target"}:
            raise _refused(path, key, "directs cargo to other sources or programs")
    for key in table(value, "build"):
        if key not in _BUILD:
            raise _refused(path, f"build.{key}", "names a program that cargo would start")
    wanted = table(value, "build").get("target")
    if wanted not in (None, triple):
        message = f"build.target is {str(wanted)[:80]}; this build is for {triple}"
        target = next((name for name, one in TRIPLES.items() if one == wanted), "")
        hint = f"Ask for it: --target {target}" if target else "Take the key out."
        raise BuildError("UnsupportedTarget", message, where=f"{path}  build.target", next=hint)
    for name, one in table(value, "target").items():
        for key in one if isinstance(one, dict) else ():
            if key != "rustflags":
                raise _refused(path, f"target.{str(name)[:80]}.{str(key)[:80]}", "names a program or a library")


def _refused(path: str, key: str, why: str) -> BuildError:
    hint = "Take the key out, or leave the file out of what is sent."
    return BuildError(
        "ManifestInvalid", f"{key[:120]} {why}; a build takes none", where=f"{path}  {key[:120]}", next=hint
    )


def _variables(path: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, one in table(value, "env").items():
        if _VARIABLE.fullmatch(name):
            raise _refused(path, f"env.{name[:80]}", "directs a program of the build")
        text = one.get("value") if isinstance(one, dict) else one
        if not isinstance(text, str) or (isinstance(one, dict) and one.get("relative")):
            raise _refused(path, f"env.{name[:80]}", "is no plain text")
        yield name, text


def _flags(path: str, value: Mapping[str, Any], triple: str) -> tuple[str, ...]:
    """The flags of rustc that cargo would take: those of the target, else those of every build."""
    names = (triple, *_CONDITIONS[triple])
    own = [table(table(value, "target"), name) for name in names]
    lists = [one["rustflags"] for one in own if "rustflags" in one] or [table(value, "build").get("rustflags", [])]
    words: list[str] = []
    for one in lists:
        parts = one.split() if isinstance(one, str) else one
        words += [str(part) for part in parts] if isinstance(parts, list) else []
    if odd := next((word for word in words if not word.isprintable()), ""):
        # what separates the flags for rustc, too, would be a flag of its own that nobody looked at
        raise _refused(path, f"rustflags {odd[:80]!r}", "has a character that no flag has")
    taken: list[str] = []
    waiting = iter(words)
    for word in waiting:
        option, text = _option(word, waiting)
        if option == "-C" and text.partition("=")[0] in _CODEGEN:
            taken.append(f"-C{text}")
        elif option in ("--cfg", "--check-cfg"):
            taken += [option, text]
        elif option not in _LINTS:  # what lints print fails no build here
            raise _refused(path, f"rustflags {option} {text[:80]}", "decides how a program is linked or compiled")
    return tuple(taken)


def _option(word: str, waiting: Iterator[str]) -> tuple[str, str]:
    """An option of rustc and its value, which is a part of the word or the next one."""
    if word.startswith("--"):
        option, sign, text = word.partition("=")
        option = "-C" if option == "--codegen" else option
        return option, text if sign else next(waiting, "")
    return word[:2], word[2:] or next(waiting, "")
