"""The lifecycle's log and exit codes → what went wrong, with the buildpacks that were tried. Pure.

The codes are those of the platform specification: 11 and 12 an API that it does not have, 20 to 29 detect, 30 analyze,
40 restore, 50 build, 60 export, 70 rebase. The last line of a phase that failed is `ERROR: failed to …`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence

from builder.buildpacks.manifest import ANALYZE, BUILD, DETECT, EXPORT, REBASE, RESTORE
from builder.contract.request import REBUILD
from builder.kube.ended import FAIR_S, Ended
from builder.plan import Diagnosis

NO_GROUP, NO_GROUP_WITH_ERRORS = 20, 21
BUILDPACK_FAILED = 51
WRONG_APIS = (11, 12)
SAID_LINES = 6
EXPLAINED = ("StepFailed", "OutOfMemory")
"""Reasons of an end that the log explains."""
MOST_FINAL = 4096
"""Characters of a phase's last words that are read: what a buildpack prints can look like them, at any length."""

_FINAL = re.compile(r"^ERROR: (failed to .*)")
_OURS = re.compile(r"^ERROR: (?:failed to |No buildpack groups passed detection|Please check that you are running)")
_NOTE = re.compile(r"^target distro name/version labels not found, reading \S+ file$")
"""What the lifecycle says on its other stream before it runs a buildpack; the kubelet may deliver it behind the
buildpack's own last line."""
_EXIT = re.compile(r"exit status (\d+)$")
_SIGNAL = re.compile(r"signal: (.*)$")
_RESULT = re.compile(r"^(pass|fail|skip|err): +([^\s@]+@\S+)(?: (.*))?$")
_PART = re.compile(r"^([A-Za-z0-9][A-Za-z0-9./-]*) +(\d[A-Za-z0-9.+-]*)$")
_OUTPUT = re.compile(r"^======== (?:Output|Error): (\S+) ========$")
_HEADING = re.compile(r"^======== .* ========$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NO_RUN_IMAGE = "run image not found in analyzed metadata"
_DENIED = re.compile(r"UNAUTHORIZED|DENIED|unauthorized|401 Unauthorized|403 Forbidden|ensure registry read")
_NOT_THERE = re.compile(
    r"no such host|connection refused|connection reset|i/o timeout|TLS handshake timeout|EOF"
    r"|status code (?:429|5\d\d)|TOOMANYREQUESTS"
)
_RUN_IMAGE = re.compile(
    r"validating registry read access|(?:access|find|identify|pull|get).*run image|run image config"
)
_APP_IMAGE_ABSENT = re.compile(r"failed to access image to rebase(?:$|.*(?:NAME|MANIFEST|BLOB)_UNKNOWN)")
"""Without an error behind it the registry answered 404 or 401 to the lifecycle, which takes both for the same."""
_REFUSES_REBASE = re.compile(r"provide -force to override|not defined on|incompatible stack|missing required mixin")


def diagnose(ended: Ended, lines: Mapping[str, Sequence[str]], run_image: str = "") -> Diagnosis:
    """What a person needs of a Job that ended with a failure: `lines` by container, `run_image` as the Job named it."""
    own = lines.get(ended.container) or ended.said.splitlines()
    if ended.reason == "OutOfMemory":
        return Diagnosis(reason=ended.reason, message=f"{ended.container}: {ended.message}", said=_output(own))
    if ended.reason == "Timeout" and _waited_for_registry(ended):
        message = f"a registry did not give {ended.container} its answers within the build's {ended.limit // 1000} s"
        return Diagnosis(reason="RegistryUnavailable", message=message)
    if ended.reason != "StepFailed":
        return Diagnosis(reason=ended.reason, message=ended.message, said=_cut(ended.said.splitlines()))
    final = _final(own)
    if ended.exit_code in WRONG_APIS:
        message = f"the builder image's lifecycle does not have what is asked of it: {final}"
        return Diagnosis(reason="ExecutorImageUnavailable", message=message, said=_cut(own))
    if ended.container == DETECT:
        return _detect(ended, own, final)
    if ended.container == BUILD:
        return _build(ended, own, final, participants(lines.get(DETECT, ())))
    if ended.container == EXPORT and _NO_RUN_IMAGE in final:
        # Analyze only notes it.
        noted = [line for line in lines.get(ANALYZE, ()) if "not found" in line]
        said = _cut([*noted, final])
        return Diagnosis(reason="ExecutorImageUnavailable", message="the run image is not in its registry", said=said)
    if ended.container == REBASE and (found := _rebase(own, final)):
        return found
    return _connected(ended, own, final, run_image)


def _waited_for_registry(ended: Ended) -> bool:
    """Whether a build's time was over in a phase that runs the lifecycle alone and waits for a registry: before code of
    the build began, or, behind the short detection, in a restore that took most of it."""
    if ended.limit < FAIR_S * 1000:
        return False
    return ended.container in (ANALYZE, REBASE) or (ended.container == RESTORE and 2 * ended.ran_ms >= ended.limit)


def pushed_digest(said: str) -> str:
    """The digest of the image in the report that is the Job's termination message; empty where there is none."""
    try:
        found = tomllib.loads(said)["image"]["digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) and _DIGEST.fullmatch(found) else ""


def tried(lines: Sequence[str]) -> dict[str, str]:
    """Buildpack → how its detection ended (pass, fail, skip, err), as a failed detection logs it."""
    found: dict[str, str] = {}
    for line in lines:
        if result := _RESULT.match(line):
            found[result[2]] = result[1]
    return found


def participants(lines: Sequence[str]) -> tuple[str, ...]:
    """The buildpacks of the group that passed, as a detection that succeeds logs it."""
    return tuple(f"{part[1]}@{part[2]}" for line in lines if (part := _PART.match(line)))


def _detect(ended: Ended, lines: Sequence[str], final: str) -> Diagnosis:
    results = tried(lines)
    if ended.exit_code == NO_GROUP:
        words = "no group of buildpacks takes this source"
        named = ", ".join(f"{name} ({_WORDS[result]})" for name, result in results.items())
        message = f"{words}; tried: {named}" if named else words
        return Diagnosis(reason="NoBuildpack", message=message, said=_missing(lines))
    if ended.exit_code == NO_GROUP_WITH_ERRORS:
        broken = [name for name, result in results.items() if result == "err"]
        message = f"the detection of {', '.join(broken) or 'a buildpack'} failed"
        return Diagnosis(reason="StepFailed", message=message, said=_detect_output(lines, broken) or _cut([final]))
    return Diagnosis(reason="StepFailed", message=final or ended.message, said=_cut(lines))


_WORDS = {"pass": "passed", "fail": "does not match", "skip": "does not match", "err": "failed"}


def _missing(lines: Sequence[str]) -> tuple[str, ...]:
    """What groups failed for beside a buildpack that did not match: one that needs what none provides."""
    return _cut([line for line in lines if (found := _RESULT.match(line)) and found[3]])


def _detect_output(lines: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """What the detection of these buildpacks printed."""
    found: list[str] = []
    is_theirs = False
    for line in lines:
        if heading := _OUTPUT.match(line):
            is_theirs = heading[1] in names
        elif _HEADING.match(line) or _OURS.match(line):
            is_theirs = False
        elif is_theirs:
            found.append(line)
    return _cut(found)


def _build(ended: Ended, lines: Sequence[str], final: str, group: Sequence[str]) -> Diagnosis:
    who = "a buildpack" if len(group) != 1 else f"buildpack {group[0]}"
    among = f" (the group is {', '.join(group)})" if len(group) > 1 else ""
    if ended.exit_code == BUILDPACK_FAILED:
        for pattern, words in ((_EXIT, "ended with exit code"), (_SIGNAL, "was ended by signal")):
            if found := pattern.search(final):
                message = f"{who} {words} {found[1]}{among}"
                return Diagnosis(reason="StepFailed", message=message, said=_output(lines) or _cut([final]))
        return Diagnosis(reason="StepFailed", message=f"{who} could not run{among}: {final}", said=_output(lines))
    return Diagnosis(reason="StepFailed", message=(final or ended.message) + among, said=_cut(lines))


def _rebase(lines: Sequence[str], final: str) -> Diagnosis | None:
    """A rebase that cannot be: its image is gone since the plan, or the lifecycle refuses it. None: something else."""
    if _APP_IMAGE_ABSENT.search(final):
        message = "the image to rebase is not in its registry any more"
        return Diagnosis(reason="ImageNotFound", message=message, said=_cut(lines), next=REBUILD)
    if _REFUSES_REBASE.search(final):
        message = f"the lifecycle does not rebase this image: {final.removeprefix('failed to ')}"
        return Diagnosis(reason="StepFailed", message=message, said=_cut(lines), next=REBUILD)
    return None


def _connected(ended: Ended, lines: Sequence[str], final: str, run_image: str) -> Diagnosis:
    """A phase that speaks to a registry."""
    said = _cut(lines)
    if _NOT_THERE.search(final):
        return Diagnosis(reason="RegistryUnavailable", message="a registry does not answer", said=said)
    if _RUN_IMAGE.search(final) or (run_image and run_image in final):
        message = f"the run image cannot be read: {final}"
        return Diagnosis(reason="ExecutorImageUnavailable", message=message, said=said)
    if _DENIED.search(final):
        return Diagnosis(reason="RegistryRefused", message="the registry does not let this build in", said=said)
    if ended.container in (EXPORT, REBASE):
        # What it exports is what buildpacks left: layers, processes, slices.
        return Diagnosis(reason="StepFailed", message=final or ended.message, said=said)
    return Diagnosis(reason="Internal", message=final or ended.message, said=said)


def _final(lines: Sequence[str]) -> str:
    return next((found[1] for line in reversed(lines) if (found := _FINAL.match(line[:MOST_FINAL]))), "")


def _output(lines: Sequence[str]) -> tuple[str, ...]:
    """What a buildpack wrote last, without the lifecycle's own words."""
    return _cut([line for line in lines if not (_OURS.match(line) or _NOTE.match(line))])


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if line.strip())[-SAID_LINES:]
