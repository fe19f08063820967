"""Why a command ends without an answer, and its exit code. Pure.

A refused call ends with the contract's table (section 1), a build with its class's code (`builder/errors.py`).
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from builder.errors import EXIT_CANCELLED, EXIT_CODES, REASONS, BuildError, ErrorClass, limit_of

PROG = "ignite-builder"
OK = 0
LOST = 9
OUR_BUG = 10

# gRPC status name → exit code of a refused call. Contract, section 1; the last four rows are docs/cli.md's.
CALL_EXITS = {
    "INVALID_ARGUMENT": 2,
    "UNAUTHENTICATED": 3,
    "PERMISSION_DENIED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "RESOURCE_EXHAUSTED": 7,
    "DEADLINE_EXCEEDED": 8,
    "UNAVAILABLE": LOST,
    "ABORTED": LOST,
    "INTERNAL": OUR_BUG,
    "UNKNOWN": OUR_BUG,
    "DATA_LOSS": OUR_BUG,
    "FAILED_PRECONDITION": 2,
    "OUT_OF_RANGE": 2,
    "UNIMPLEMENTED": 2,
    "CANCELLED": EXIT_CANCELLED,
}

_NEXT = {
    "UNAUTHENTICATED": "Set IGNITE_BUILDER_TOKEN, or IGNITE_BUILDER_TOKEN_FILE to a file that holds the token.",
    "PERMISSION_DENIED": "Use a token with this right; see which one is taken: ignite-builder config",
    "NOT_FOUND": "See which builds there are: ignite-builder ls",
    "RESOURCE_EXHAUSTED": "Send less at once, or try again later.",
}


DISK_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EIO,
        errno.ELOOP,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)
"""What a machine answers whose disk is full, read-only or broken, or whose folder is another user's."""


class Stop(Exception):
    """A command ends here. `verdict` is REFUSED, LOST, LEFT, CANCELLED or BROKEN; `reason` a word of the table or of
    gRPC ("Unavailable"); `tool_output` lines of the tool that failed."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        exit_code: int,
        error_class: str = "client",
        where: str = "",
        next: str = "",
        verdict: str = "REFUSED",
        tool_output: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message, self.exit_code = reason, message, exit_code
        self.error_class, self.where, self.next, self.verdict = error_class, where, next, verdict
        self.tool_output = tool_output
        self.done: dict[str, object] = {}
        """What the command did before, for `--json`, whose document is one."""

    def to_json(self) -> dict[str, object]:
        """The error document of `--json`."""
        return {
            **self.done,
            "reason": self.reason,
            "errorClass": self.error_class,
            "message": self.message,
            "hint": self.next,
        }


def refused_call(code: str, message: str, detail: dict[str, object]) -> Stop:
    """A refusal of the server: gRPC status name, message, and the detail `{reason, errorClass, where, hint}` or {}."""
    code = code if code in CALL_EXITS else "UNKNOWN"
    reason = _text(detail, "reason") or reason_of(code)
    row = REASONS.get(reason)
    platform = CALL_EXITS[code] in (LOST, OUR_BUG)
    default = row.error_class if row else ErrorClass.PLATFORM if platform else ErrorClass.CLIENT
    return Stop(
        reason,
        message,
        exit_code=CALL_EXITS[code],
        error_class=_text(detail, "errorClass") or str(default),
        where=_text(detail, "where"),
        next=_text(detail, "hint") or (row.hint if row else "") or _NEXT.get(code, ""),
    )


def refused_by_machine(stop: Stop) -> Stop:
    """A refusal of the services in this process. Ours is 75: there is no server that could be lost."""
    if stop.error_class == str(ErrorClass.PLATFORM):
        stop.exit_code = EXIT_CODES[ErrorClass.PLATFORM]
    return stop


def refused_here(error: BuildError) -> Stop:
    """A failure met before there is a build. The request's fault: the contract's table; theirs 1; ours 75."""
    exits_by_call = error.error_class is ErrorClass.CLIENT
    return Stop(
        error.reason,
        error.message,
        exit_code=CALL_EXITS[error.row.grpc] if exits_by_call else build_exit("", error.reason, str(error.error_class)),
        error_class=str(error.error_class),
        where=error.where,
        next=error.next,
        tool_output=error.said,
    )


def missing_here(error: BuildError) -> Stop:
    """A part that building on this machine needs is not there: ours, 75, and `doctor` lists what is missing."""
    stop = refused_here(error)
    stop.exit_code, stop.error_class = EXIT_CODES[ErrorClass.PLATFORM], str(ErrorClass.PLATFORM)
    if error.next == error.row.hint:
        stop.next = "See what is missing: ignite-builder doctor"
    return stop


def unfit_node(stop: Stop) -> Stop:
    """A worker whose settings keep it from working: the platform's fault, 75, since no client asked for anything."""
    if stop.error_class == str(ErrorClass.CLIENT):
        stop.exit_code, stop.error_class = EXIT_CODES[ErrorClass.PLATFORM], str(ErrorClass.PLATFORM)
    return stop


def lost_server(server: str, why: str, next: str) -> Stop:
    """The server cannot be reached (any more); `next` is the command that goes on."""
    return Stop("Unavailable", f"{server} {why}", exit_code=LOST, error_class="platform", next=next, verdict="LOST")


def mistake(message: str, *, where: str = "", next: str = "") -> Stop:
    """A request that cannot be right: exit 2."""
    return Stop("InvalidRequest", message, exit_code=2, where=where, next=next)


def interrupted(message: str = "stopped") -> Stop:
    """Ctrl-C or TERM while there is no build that a cancel could name."""
    return Stop("Cancelled", message, exit_code=EXIT_CANCELLED, verdict="CANCELLED")


def unwritten(error: OSError) -> Stop:
    """The answer could not be written where stdout leads; what was done stays done."""
    return Stop(
        "ResourceExhausted",
        f"the answer could not be written: {error.strerror or error}",
        exit_code=CALL_EXITS["RESOURCE_EXHAUSTED"],
        where="stdout",
        next="Make room, or write elsewhere. What was done is kept; see it again: ignite-builder get",
    )


def build_exit(status: str, reason: str, error_class: str) -> int:
    """The exit code of an ended build; a class we do not know is not blamed on the user."""
    if status == "BUILD_STATUS_SUCCEEDED":
        return OK
    if status == "BUILD_STATUS_CANCELLED":
        return EXIT_CANCELLED
    row = REASONS.get(reason)
    if row is not None and row.exit_code == EXIT_CANCELLED:
        return EXIT_CANCELLED
    known = {str(each): code for each, code in EXIT_CODES.items()}  # the record's class goes before the reason's
    return known.get(error_class, row.exit_code if row is not None else EXIT_CODES[ErrorClass.PLATFORM])


def _text(detail: dict[str, object], name: str) -> str:
    value = detail.get(name)
    return value if isinstance(value, str) else ""


def reason_of(code: str) -> str:
    """A gRPC status name as a reason: `NOT_FOUND` is NotFound."""
    return re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), code.lower())


def of_disk(error: OSError, folders: Mapping[str, str]) -> Stop | None:
    """What keeps this machine from writing into a folder of the settings, or above it, where it must be made; None for
    any other error. `folders`: setting, or variable in capitals → path."""
    if error.errno not in DISK_ERRORS:
        return None
    named = [Path(name) for name in (error.filename2, error.filename) if isinstance(name, str)]  # a copy names both
    for at, (name, path) in itertools.product(named, folders.items()):
        folder = Path(path)
        if path and (at.is_relative_to(folder) or folder.is_relative_to(at)):
            variable = name if name.isupper() else f"IGNITE_BUILDER_{name.upper()}"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return _of_machine(
                "NodeDiskFull" if full else "Internal",
                f"{at} cannot be written: {error.strerror}",
                where=name,
                next="Free space on its disk." if full else f"Name a folder that you may write: {variable}=FOLDER",
            )
    return None


def no_temporary(error: OSError) -> Stop:
    """This machine has no folder for temporary files."""
    step = "Free space there, or name a folder that you may write: TMPDIR=FOLDER"
    return _of_machine("Internal", str(error.strerror or error), where="TMPDIR", next=step)


def of_limit(error: Exception) -> Stop | None:
    """What an error means that a limit of this process or machine is; None for any other."""
    limit = limit_of(error)
    return _of_machine("Internal", limit.message, where="", next=limit.next) if limit else None


def of_store(why: str, *, full: bool, where: str) -> Stop:
    """The store of this machine takes or gives nothing; `why` in its own words, `where` names its setting."""
    return _of_machine(
        "NodeDiskFull" if full else "Internal",
        f"the store does not answer: {why}",
        where=where,
        next="Free space on its disk." if full else "See that nothing holds or damages it, and try again.",
    )


def _of_machine(reason: str, message: str, *, where: str, next: str) -> Stop:
    """A condition of this machine: 75, the platform's."""
    code = EXIT_CODES[ErrorClass.PLATFORM]
    return Stop(reason, message, exit_code=code, error_class="platform", where=where, next=next)
