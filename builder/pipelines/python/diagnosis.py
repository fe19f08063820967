"""What uv, our downloader and our check print when they fail, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.limits import LINE_LIMIT
from builder.pipelines.output import SAID, cut_root, index_trouble, step_failed, word_before
from builder.pipelines.python.manifest import manifest_of_stub
from builder.plan import Diagnosis, Step
from builder.text import strangers_json

_MISSING = re.compile(
    r"Because (\S{1,256}) was not found in the package registry"
    r"|there (?:is|are) no versions? of ([A-Za-z0-9._-]{1,256}(?:[=<>!~]=?\S{1,256})?)"
    r"|no versions? of ([A-Za-z0-9._-]{1,256}(?:[=<>!~]=?\S{1,256})?)"
)
# Every expression starts with a literal and bounds what it captures: a tool repeats the source's own words.
_NO_WHEEL = re.compile(
    r" has no (?:usable )?wheels|Wheels are required for `([^`]{1,256})`|building from source is disabled|`--no-build`"
)
_NO_TAG = re.compile(r" has no wheels with a matching (platform|Python \w{1,20}) tag \(e\.g\., `([^`]{1,80})`\)")
_AVAILABLE = re.compile(
    r"(?:on the following platforms?|with the following Python \w{1,20} tags?): (`[^`]{1,80}`(?:, `[^`]{1,80}`){0,50})"
)
_NO_TOOL = re.compile(
    r"command '(?:/usr/bin/)?([\w.+-]{1,60})' failed: No such file"
    r"|(?:error|failed|unable).{0,80}?\b(gcc|g\+\+|clang|cargo|rustc|cmake|ninja|pg_config|pkg-config|make)\b"
    r"|No such file or directory: '([\w.+-]{1,60})'",
    re.IGNORECASE,
)
_NOT_NAMED = re.compile(r"error: the wheel needs ([\w.-]{1,128}), which its sdist does not name")
_UNPACKED = re.compile(r"building the sdist ([A-Za-z0-9][\w.+!-]{0,200})")
_ERROR_LINE = re.compile(r"\s{0,20}(?:error|\w{1,60}Error)\b", re.IGNORECASE)
_MANYLINUX = re.compile(r"manylinux_(\d{1,3}_\d{1,3})_(\w{1,20})")
_MOST_TAGS = 6
_OTHER_PYTHON = re.compile(r"the current Python version \(([^)]{1,64})\) does not satisfy Python([^\s,]{1,256})")
_NEEDER = re.compile(r"(?<!\S)([A-Za-z0-9][^\s,]{0,255}) depends on Python")
_HASH = re.compile(r"Hash mismatch for `([^`]{1,256})`|hashes? (?:is|are) required|In `--require-hashes` mode")
_CONFLICT = re.compile(
    r"requirements are unsatisfiable|are incompatible|No solution found|Requirements contain conflicting"
)
_PARSE = re.compile(r"Couldn't parse requirement in `([^`]{1,256})`|error: Couldn't parse|TOML parse error")


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What uv, or our check, printed."""
    if step.name == "compile":
        return _compile(step, exit_code, lines)
    said = [cut_root(line) for line in lines]
    if step.name == "build sdists":
        return _sdist(step, exit_code, [line for line in said if line])
    if step.name == "resolve server":
        return _server(step, exit_code, said)
    start = next((at for at, line in enumerate(said) if re.match(r"\s*error\b", line)), 0)
    said = [line for line in said[start:] if line]
    found = _uv(_manifest_of(step), exit_code, said)
    return found or index_trouble(said) or _conflict(_manifest_of(step), said) or step_failed(step, exit_code, said)


def _sdist(step: Step, exit_code: int, said: Sequence[str]) -> Diagnosis:
    """Why an sdist does not build: what it misses, where its backend's words show it."""
    tool = next((found for line in said if (found := _NO_TOOL.search(line))), None)
    asked = next((found for line in said if (found := _NOT_NAMED.search(line))), None)
    errors = [at for at, line in enumerate(said) if _ERROR_LINE.match(line)]
    words = tuple(said[errors[-1] :][:SAID] if errors else said[-SAID:])
    name = "a package"
    built = next((found for line in said if (found := _UNPACKED.search(line))), None)
    if built:
        name = built[1]
    if asked:
        return Diagnosis(
            reason="DependencyNotFound", message=f"{name} has no wheel, and its sdist does not name {asked[1]}",
            where=name, said=words, next=f"List {asked[1]} in the requirements too.",
        )  # fmt: skip
    if tool:
        what = next(one for one in tool.groups() if one)
        return Diagnosis(
            reason="DependencyNotFound",
            message=f"{name} has no wheel that fits, and building it needs {what}, which is not there",
            where=name, said=words, next=_with_tool(step, what),
        )  # fmt: skip
    return Diagnosis(
        reason="DependencyNotFound", message=f"{name} has no wheel that fits, and its sdist does not build",
        where=name, said=words, next="Take a version that has a wheel, or one whose sdist builds by itself.",
    )  # fmt: skip


def _with_tool(step: Step, tool: str) -> str:
    """What to do where a build lacks a tool; a C compiler is the operator's to add."""
    python = (step.argv[0] if step.argv else "").rpartition("/")[2].replace("python", "python-")
    hint = "Take a version that has a wheel, or its `-binary` twin where there is one."
    if re.search(r"cargo|rustc", tool, re.IGNORECASE):
        rust = "ignite-builder runtimes fetch rust-1.97"
        return f"{hint} The operator adds Rust to a node with: {rust} && ignite-builder bases build {python}-build"
    if not re.search(r"gcc|g\+\+|clang|cc$", tool):
        return hint
    return f"{hint} The operator adds a C compiler to a node with: ignite-builder bases build {python}-build"


def _server(step: Step, exit_code: int, said: Sequence[str]) -> Diagnosis:
    """Our own server is not to be had: nothing of the source's, and it can bring one of its own."""
    found = index_trouble(said)
    if found:
        return found
    return Diagnosis(
        reason="PackageIndexUnavailable", message="no index of this node has the server for applications without one",
        said=tuple(line for line in said if line)[:SAID], next="List a server in the dependencies: uvicorn, gunicorn.",
    )  # fmt: skip


def _manifest_of(step: Step) -> str:
    """The manifest a step reads, as its author knows it."""
    return manifest_of_stub(step.argv[-1].rpartition("/")[2] if step.argv else "")


def _uv(manifest: str, exit_code: int, said: Sequence[str]) -> Diagnosis | None:
    whole = " ".join(part.strip() for part in said)
    words = tuple(said[:SAID])
    if found := _NO_TAG.search(whole):
        has = _AVAILABLE.search(whole)
        tags = re.findall(r"`([^`]{1,80})`", has[1])[:_MOST_TAGS] if has else []
        name = word_before(whole, found).strip("`,") or "a dependency"
        why = _unfit(found[1], found[2], tags)
        return Diagnosis(
            reason="DependencyNotFound", message=f"{name} has no wheel that fits: {why}", where=f"{manifest}  {name}",
            said=words, next="Take a version that has a wheel for it, or ask for the Python that it has one for.",
        )  # fmt: skip
    if found := _NO_WHEEL.search(whole):
        before = word_before(whole, found) if found[0].startswith(" has no") else ""
        name = (before or found[1] or "a dependency").strip("`,")
        return Diagnosis(
            reason="DependencyNotFound",
            message=f"{name} has no wheel for this Python; only wheels are taken for now, nothing is built from source",
            where=f"{manifest}  {name}", said=words, next="Take a version that has a wheel for it.",
        )  # fmt: skip
    if found := _MISSING.search(whole):
        name = next(part for part in found.groups() if part).strip(",.")
        private = "If it is private, its index must be configured by the operator."
        return Diagnosis(
            reason="DependencyNotFound", message=f"uv pip install exited {exit_code}: no index has {name}",
            where=f"{manifest}  {_asked(name, whole)}", said=words,
            next=f'Is "{name}" spelled right, and is there such a version? {private}',
        )  # fmt: skip
    if found := _OTHER_PYTHON.search(whole):
        needer = _NEEDER.search(whole, found.end(), found.end() + LINE_LIMIT)
        who = needer[1] if needer else "a dependency"
        return Diagnosis(
            reason="DependencyConflict", message=f"{who} needs Python {found[2]}, this is {found[1]}",
            where=f"{manifest}  {who}" if needer else manifest, said=words,
            next="Take an older version of it, or ask for a newer Python.",
        )  # fmt: skip
    if found := _HASH.search(whole):
        which = f"{found[1]} is not the one" if found[1] else "there is more than"
        return Diagnosis(
            reason="LockOutdated", message=f"{which} {manifest} pins by hash", where=manifest, said=words,
            next=f"Write {manifest} again with the tool that made it, and commit it.",
        )  # fmt: skip
    if _PARSE.search(whole):
        return Diagnosis(
            reason="ManifestInvalid", message=f"{manifest} cannot be read", where=manifest, said=words,
            next=f"Correct {manifest}.",
        )  # fmt: skip
    return None


def _unfit(kind: str, ours: str, tags: Sequence[str]) -> str:
    """Why none of the wheels with these tags fits the base, which takes `ours`."""
    shown = ", ".join(tags) or "others"
    if "platform" not in kind:
        return f"there are some for {shown}, this Python is {ours}"
    glibc = [tag for tag in tags if (found := _MANYLINUX.fullmatch(tag)) and found[2] == "x86_64"]
    if glibc and (base := _MANYLINUX.fullmatch(ours)):
        wants = ".".join(min(glibc).split("_")[1:3])
        return f"{min(glibc)} wants glibc {wants} or newer, the base has {base[1].replace('_', '.')}"
    return f"there are some for {shown}, the base is {ours}"


def _asked(name: str, whole: str) -> str:
    """The requirement as it was asked for ("you require numpyy==1.2"), or the name."""
    found = re.search(rf"you require ({re.escape(name)}[^\s,]*)", whole)
    return found[1] if found else name


def _conflict(manifest: str, said: Sequence[str]) -> Diagnosis | None:
    whole = " ".join(part.strip() for part in said)
    if not _CONFLICT.search(whole):
        return None
    return Diagnosis(
        reason="DependencyConflict", message="the requirements exclude each other", where=manifest,
        said=tuple(said[:SAID]), next="Loosen one of the versions named.",
    )  # fmt: skip


def _compile(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """The check prints one JSON line {reason, message, where, next, said} for what it found, longer than others."""
    for line in lines:
        try:
            found = strangers_json(line) if line.startswith("{") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.get("reason") in ("CompileFailed", "EntryPointMissing", "StartFailed"):
            texts = {key: cut_root(str(found.get(key, "")))[:500] for key in ("reason", "message", "where", "next")}
            said = found.get("said", ())
            words = tuple(cut_root(str(text))[:200] for text in said[:SAID]) if isinstance(said, list) else ()
            return Diagnosis(
                reason=texts["reason"], message=texts["message"], where=texts["where"], next=texts["next"], said=words
            )
    return step_failed(step, exit_code, [cut_root(line) for line in lines])
