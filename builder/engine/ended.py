"""What a Docker engine streams of a build → its lines, its step, and what went wrong, with the Dockerfile's line. Pure.

The engine numbers its steps over the ARG before the first FROM and all instructions behind it, and ends a failed build
with one message. A program of the build can print what looks like the engine's own lines: it misleads its own failure
alone, since nothing is deleted by them that was there before (`api.py`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.kaniko.ended import Instruction, is_slip, mistyped_stage, not_answering
from builder.plan import Diagnosis

SAID_LINES = 6
MOST_LINES = 50
"""Lines of the last step that are read for its failure."""
MOST_ERROR = 4096
"""Characters of the engine's last message that are read."""
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"
"""What the engine puts around that which a program writes to stderr."""
_STEP = re.compile(r"Step (\d{1,9})/(\d{1,9}) : (\S*)")
_IMAGE = re.compile(r" ---> ([0-9a-f]{12,64})$")
_RUNNING = re.compile(r" ---> Running in ([0-9a-f]{12,64})$")
_OWN = re.compile(r" ---> |Removing intermediate container |Successfully (?:built|tagged) |Step \d+/\d+ : ")
_EXIT = re.compile(r"returned a non-zero code: (\d{1,9})$")
_COPY_FAILED = re.compile(r"(?:COPY|ADD) failed: ")
_ABSENT = re.compile(r": (?:file does not exist|no such file)")
_BUILD_FOLDER = re.compile(r"\S*/docker-builder\d+/")
_NO_PROGRAM = re.compile(r"runtime create failed|failed to create (?:shim|task)")
_PARSE = re.compile(r"[Dd]ockerfile parse error (?:on )?line (\d{1,9}): (.*)")
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_BUILDKIT = re.compile(r"requires? BuildKit|BuildKit (?:must be|is) ", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"manifest for \S+ not found|manifest unknown|name unknown|No such image|not found: does not exist"
)
_DENIED = re.compile(r"pull access denied|unauthorized|denied: |no basic auth credentials|403 Forbidden")
_NO_HOST = re.compile(r"no such host|server misbehaving|Temporary failure in name resolution")
_NO_PLATFORM = re.compile(r"no matching manifest for|no match for platform in manifest")
_REGISTRY = re.compile(
    r"dial tcp|Get \"?https?://|Head \"?https?://|i/o timeout|TLS handshake|connection re(?:fused|set)|"
    r"received unexpected HTTP status|toomanyrequests|Client\.Timeout|unexpected EOF"
)
_FROM = re.compile(r"^FROM\b|--from=", re.IGNORECASE)
_CHECK_SOURCE = "Check the path, .dockerignore, and that the file is part of the source."


@dataclass(kw_only=True)
class Transcript:
    """What the stream of one build had until now."""

    step: int = 0
    steps: int = 0
    images: list[str] = field(default_factory=list)
    """Images that its instructions made, by the start of their ids; of FROM none."""
    containers: list[str] = field(default_factory=list)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    """What the program of the last step printed."""
    error: str = ""
    image: str = ""
    """The id of the stage that ended last."""
    _makes: bool = False

    def heard(self, line: str) -> None:
        """A whole line of the stream."""
        if found := _STEP.match(line):
            self.step, self.steps = int(found[1]), int(found[2])
            self._makes = found[3].upper() != "FROM"
            self.lines.clear()
        elif found := _RUNNING.match(line):
            self.containers.append(found[1])
        elif found := _IMAGE.match(line):
            self.images += [found[1]] if self._makes else []
        elif line.strip() and not _OWN.match(line):
            self.lines.append(line)

    def message(self, message: Mapping[str, Any]) -> tuple[str, str]:
        """One message of the stream; what of it is text for the log, and of which stream of the program."""
        if error := message.get("error"):
            self.error = str(error)[:MOST_ERROR].strip()
            return "STDOUT", ""
        aux = message.get("aux")
        if isinstance(aux, dict) and isinstance(aux.get("ID"), str):
            self.image = aux["ID"]
            return "STDOUT", ""
        if "stream" in message:
            text = str(message["stream"])
            inner = text.removeprefix(_RED).removesuffix(_PLAIN)
            return ("STDERR", inner) if text.startswith(_RED) else ("STDOUT", text)
        if "status" in message and not message.get("progressDetail"):
            name = f"{message['id']}: " if message.get("id") else ""
            return "STDOUT", f"{name}{message['status']}\n"
        return "STDOUT", ""


def is_own(text: str) -> bool:
    """Whether a message of the stream begins a line of the engine itself."""
    return _OWN.match(text) is not None


def is_full(error: str) -> bool:
    """Whether the engine's own disk is full."""
    return _FULL.search(error) is not None


def exit_code(error: str) -> int:
    """What the program of a step ended with; 0 for another end."""
    found = _EXIT.search(error)
    return int(found[1]) if found else 0


def instruction(seen: Transcript, instructions: Sequence[Instruction]) -> Instruction | None:
    """The instruction that began last; None before the first FROM."""
    at = seen.step - 1 - (seen.steps - len(instructions))
    return instructions[at] if seen.step and 0 <= at < len(instructions) else None


def diagnose(
    seen: Transcript,
    instructions: Sequence[Instruction],
    dockerfile: str,
    *,
    out_of_memory: int = 0,
    mistyped: Sequence[tuple[str, str]] = (),
) -> Diagnosis:
    """What a person needs of a build that failed with `seen.error`. `out_of_memory`: the limit that a container of it
    was ended for, in bytes. `mistyped`: (image, the stage that may be meant)."""
    error, last = seen.error, instruction(seen, instructions)
    what = last.text.split(maxsplit=1)[0].upper() if last else "the build"
    where = f"{dockerfile}:{last.line}" if last else dockerfile
    said = (error,)
    if is_full(error):
        return Diagnosis(reason="NodeDiskFull", message="the disk of the Docker engine is full", where=where, said=said)
    if out_of_memory:
        message = f"{what} reached the memory limit of {out_of_memory} bytes"
        return Diagnosis(reason="OutOfMemory", message=message, where=where, said=_cut(seen.lines))
    if code := exit_code(error):
        return Diagnosis(
            reason="StepFailed",
            message=f"{what} ended with exit code {code}",
            where=where,
            said=_cut(seen.lines) or said,
        )
    if parsed := _PARSE.search(error):
        return Diagnosis(reason="StepFailed", message=parsed[2], where=f"{dockerfile}:{parsed[1]}", said=said)
    if absent := _absent(error):
        other = _copied_from(last.text) if last else ""
        step = f"Check the path, and what {other} has." if other else _CHECK_SOURCE
        message = f"{absent} is not in {other or 'the source'}"
        return Diagnosis(reason="StepFailed", message=message, where=where, said=said, next=step)
    if _BUILDKIT.search(error):
        step = "Write it without what BuildKit alone has, or name a server that has a cluster: --server=URL"
        message = f"{what} needs BuildKit, and the engine's own builder is asked here"
        return Diagnosis(reason="StepFailed", message=message, where=where, said=said, next=step)
    if (last is None or _FROM.search(last.text)) and (found := _pull(error, last, where, dict(mistyped))):
        return found
    if program := _no_program(error):
        return Diagnosis(reason="StepFailed", message=f"{what} could not start: {program}", where=where, said=said)
    return Diagnosis(reason="StepFailed", message=error or "the engine gave no reason", where=where, said=said)


def _absent(error: str) -> str:
    """The path that COPY or ADD did not find. Each part is looked for once: an expression of all tries each pair."""
    for line in error.split("\n"):
        if not (failed := _COPY_FAILED.search(line)):
            continue
        _, stat, rest = line[failed.end() :].partition("stat ")
        if stat and (end := _ABSENT.search(rest)):
            path = rest[: end.start()]
            folder = _BUILD_FOLDER.match(path)
            return path[folder.end() :] if folder else path
    return ""


def _no_program(error: str) -> str:
    """What the runtime could not start, which ends the message."""
    line = error.rpartition("\n")[2]
    failed = _NO_PROGRAM.search(line)
    at = line.find("exec: ", failed.end()) if failed else -1
    return line[at:].removesuffix(": unknown") if at >= 0 else ""


def _pull(error: str, last: Instruction | None, where: str, mistyped: Mapping[str, str]) -> Diagnosis | None:
    """An image that the Dockerfile names, in `FROM` or `COPY --from`."""
    image = _named(last.text) if last else "of the Dockerfile"
    if stage := mistyped.get(image):
        if any(one.search(error) for one in (_DENIED, _NO_HOST, _UNKNOWN)):
            return mistyped_stage(image, stage, where, error)
        if _REGISTRY.search(error):
            if is_slip(image, stage):
                return mistyped_stage(image, stage, where, error)
            message = f'{not_answering(image)}; it is no stage: is "{stage}" meant?'
            return Diagnosis(reason="RegistryUnavailable", message=message, where=where, said=(error,))
    if _NO_PLATFORM.search(error):
        message, step = f"image {image} is not there for linux/amd64", "Name an image for linux/amd64."
    elif _DENIED.search(error):
        message = f"image {image} may not be pulled"
        step = "Check its name; for a private image log in to its registry: docker login"
    elif _NO_HOST.search(error):
        message, step = f"the registry of image {image} has no address", "Check the registry's name in the reference."
    elif _UNKNOWN.search(error):
        message, step = f"there is no image {image}", "Check the image's registry, name and tag."
    elif _REGISTRY.search(error):
        message = f"the registry of image {image} does not answer"
        return Diagnosis(reason="RegistryUnavailable", message=message, where=where, said=(error,))
    else:
        return None
    return Diagnosis(reason="StepFailed", message=message, where=where, said=(error,), next=step)


def _named(text: str) -> str:
    """The image of `FROM [--platform=P] IMAGE` or `COPY --from=IMAGE`."""
    return _copied_from(text) or next((word for word in text.split()[1:] if not word.startswith("--")), "")


def _copied_from(text: str) -> str:
    """The stage or image of `--from`."""
    return next((word.partition("=")[2] for word in text.split() if word.startswith("--from=")), "")


def _cut(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(lines)[-SAID_LINES:]
