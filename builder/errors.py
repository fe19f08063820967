"""The failure vocabulary: one table of reasons, and the one exception that carries them.

    BuildError            any failure with a reason of the table; `error_class` names whose fault it is
    └─ PlatformError      ours; retried where the table asks for it, after `retry_after_ms`

A reason is a stable CamelCase word (contract, section 4). Docs (`docs/errors.md`), HTTP status, gRPC code and exit
code all come from `REASONS`; nothing else lists them.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass


class ErrorClass(enum.StrEnum):
    """Whose fault it is; the vocabulary of `Execution.error_class`."""

    CLIENT = "client"
    USER_CODE = "user_code"
    PLATFORM = "platform"


EXIT_CODES = {ErrorClass.USER_CODE: 1, ErrorClass.CLIENT: 2, ErrorClass.PLATFORM: 75}
EXIT_CANCELLED = 130


@dataclass(frozen=True)
class Reason:
    """One row: the word, its class, whether the platform retries it, the wire codes and the default hint."""

    name: str
    error_class: ErrorClass
    hint: str
    retried: bool = False
    grpc: str = "INVALID_ARGUMENT"
    http: int = 400

    @property
    def exit_code(self) -> int:
        return EXIT_CANCELLED if self.name == "Cancelled" else EXIT_CODES[self.error_class]


def _client(name: str, hint: str, grpc: str = "INVALID_ARGUMENT", http: int = 400) -> Reason:
    return Reason(name, ErrorClass.CLIENT, hint, False, grpc, http)


def _user(name: str, hint: str) -> Reason:
    return Reason(name, ErrorClass.USER_CODE, hint, False, "FAILED_PRECONDITION", 422)


def _platform(name: str, hint: str, retried: bool = True) -> Reason:
    return Reason(name, ErrorClass.PLATFORM, hint, retried, "UNAVAILABLE" if retried else "INTERNAL", 503)


_NOT_YOURS = "Nothing to change in your code. Try again later."

REASONS: dict[str, Reason] = {
    reason.name: reason
    for reason in (
        _client("InvalidRequest", "Correct the field the message names."),
        _client("UnknownRuntimeVersion", "Take one of the versions listed, or leave the version out."),
        _client("UnsupportedTarget", "Take one of the targets listed."),
        _client(
            "NotAnArchive", "Send a ZIP or a tar (plain, gzip, xz, bzip2, zstd) as archive, or text as sourceCode."
        ),
        _client("ArchiveUnreadable", "Make the archive again and check it with: tar -tf FILE, or unzip -t FILE"),
        _client("ArchiveUnsafe", "Every entry must stay below the archive's root. List them: tar -tf FILE"),
        _client(
            "ArchiveTooLarge",
            "Leave large files out of the source; fetch them at run time.",
            "RESOURCE_EXHAUSTED",
            413,
        ),
        _client("SourceEmpty", "Send at least one file."),
        _client("SourceNotFound", "Upload the source first, then name its sha256 or contextId.", "NOT_FOUND", 404),
        _client("BuildArgUnknown", "Leave the argument out, or take one of those the message lists."),
        _client(
            "RepositoryForbidden",
            "Name a repository below your organization's prefix.",
            "PERMISSION_DENIED",
            403,
        ),
        # Of an image that a request names.
        _client("ImageNotFound", "Check repository, tag and digest; a private image takes a secret.", "NOT_FOUND", 404),
        _client(
            "ImageForbidden",
            "Name a registry secret whose login may pull this image: registrySecretRef.",
            "PERMISSION_DENIED",
            403,
        ),
        _client("ImagePlatformMismatch", "Build or name the image for the platform that the message names."),
        _client("ImageContractViolated", "Change the image's config as the message asks, and push it again."),
        _client("ImageHostUnknown", "Check the registry's name in the reference."),
        _client(
            "ImageHostRefused",
            "Name a registry with a public address, or ask the operator to list this one in private_registries.",
            "PERMISSION_DENIED",
            403,
        ),
        _client("GitUrlRefused", "Write the URL as https://HOST/PATH or ssh://USER@HOST/PATH."),
        _client("GitReferenceNotFound", "See which there are: git ls-remote URL", "NOT_FOUND", 404),
        _client("GitAuthFailed", "Name a git secret that may read this repository.", "PERMISSION_DENIED", 403),
        _client("LfsUnavailable", "Commit the files themselves, or fetch them at run time."),
        _client("SecretNotFound", "See which there are: ignite-builder secret ls", "NOT_FOUND", 404),
        _client("SecretWrongType", "Name a secret of the type that the message asks for: ignite-builder secret ls"),
        _client("Cancelled", "Build it again if this was not meant.", "CANCELLED", 499),
        # Of a call alone; their words are those of gRPC.
        _client(
            "QuotaExceeded",
            "Wait until some of yours have ended, at least as long as Retry-After says.",
            "RESOURCE_EXHAUSTED",
            429,
        ),
        _client(
            "UnsupportedMediaType",
            "Send a source as application/octet-stream, anything else as application/json, uncompressed.",
            http=415,
        ),
        _client(
            "Unauthenticated",
            "Set IGNITE_BUILDER_TOKEN, or IGNITE_BUILDER_TOKEN_FILE to a file that holds the token.",
            "UNAUTHENTICATED",
            401,
        ),
        _client(
            "PermissionDenied",
            "Use a token with this right; see which one is taken: ignite-builder config",
            "PERMISSION_DENIED",
            403,
        ),
        _client("NotFound", "See which builds there are: ignite-builder ls", "NOT_FOUND", 404),
        _client("AlreadyExists", "Take another idempotencyKey, or read the build named.", "ALREADY_EXISTS", 409),
        _client("FailedPrecondition", "Do first what the message names.", "FAILED_PRECONDITION"),
        _client("DeadlineExceeded", "Send it again, over a connection that is quicker.", "DEADLINE_EXCEEDED", 408),
        _client("Unimplemented", "See what there is in its place: docs/api.md", "UNIMPLEMENTED", 501),
        _user("EntryPointMissing", "Add the entry point the message names."),
        _user("ManifestInvalid", "Correct the manifest at the line named."),
        _user("DependencyNotFound", "Check the name and version; a private package needs its index named."),
        _user("DependencyConflict", "Loosen one of the versions named."),
        _user("LockOutdated", "Update the lock file and commit it."),
        _user(
            "CgoRefused",
            "Remove the C dependency, or allow it: --build-arg cgo=1, with a toolchain that has a C compiler.",
        ),
        _user("DockerfileInvalid", "Correct the Dockerfile at the line named."),
        _user("NoBuildpack", "Add what one of the buildpacks named looks for, or a Dockerfile."),
        _user("CompileFailed", "Correct the file named and build again."),
        _user("StartFailed", "Correct what keeps the program from starting, and build again."),
        _user("StepFailed", "Read the log of the step and correct what it names."),
        _user("OutOfMemory", "Use less memory at once, or ask the operator for a higher limit."),
        _user("DiskQuotaExceeded", "Write less during the build, or ask the operator for a higher limit."),
        _user("ProcessLimitExceeded", "Start fewer processes during the build."),
        _user("Timeout", "Make the build shorter, or ask for a longer timeoutSecs."),
        _user("ArtifactTooLarge", "Leave files out of the artifact."),
        _platform("RegistryUnavailable", _NOT_YOURS),
        _platform(
            "RegistryRefused",
            "An operator corrects registry_username and registry_password, or lets that user push to this repository.",
            retried=False,
        ),
        _platform("PackageIndexUnavailable", _NOT_YOURS),
        _platform(
            "SourceStoreUnavailable",
            "Nothing to change in your code. Whoever runs the server (without one: you) sees that its store of sources "
            "answers and has room.",
        ),
        _platform("GitUnavailable", _NOT_YOURS),
        _platform("NodeDiskFull", "Nothing to change in your code. An operator frees space on the node, or adds one."),
        _platform("CacheUnavailable", _NOT_YOURS),
        _platform("SandboxUnavailable", "An operator runs: ignite-builder doctor"),
        # Of a build that runs as a Kubernetes Job.
        _platform("ClusterUnavailable", _NOT_YOURS),
        _platform(
            "Unschedulable", "An operator adds a node that has room, or corrects what keeps builds off the nodes."
        ),
        _platform("Evicted", _NOT_YOURS),
        _platform("JobVanished", _NOT_YOURS),
        _platform(
            "ExecutorImageUnavailable",
            "An operator corrects the setting of this image (docs/image-builds.md), and sees that nodes can pull it.",
        ),
        _platform("Internal", _NOT_YOURS),
        _platform(
            "ToolchainUnavailable",
            "An operator adds a node with this toolchain: ignite-builder doctor",
            retried=False,
        ),
        _platform("WorkerLost", _NOT_YOURS, retried=False),
        Reason(
            "NodeForgotten",
            ErrorClass.PLATFORM,
            "An operator gives the node a new token (a row of tokens on the control side), or takes the machine away.",
            False,
            "UNAUTHENTICATED",
            401,
        ),
        _platform("QueueTimeout", "Try again later, or ask for a longer queueTimeoutSecs.", retried=False),
    )
}


class BuildError(Exception):
    """A failure with a reason of the table.

    `message` gives the value found and the limit, one cause; `where` is "file:line:col", an entry or a key;
    `said` the tool's own first diagnostic (at most 6 lines); `next` what to do (default: the reason's hint).
    `exit_code` is the tool's; `limit` and `peak` are of a limit that was reached (bytes, ms, processes).
    `error_class` is whose fault it is where that is not what the table says: of a manifest that names a host which the
    operator's policy refuses.
    Raises `KeyError` for a reason that the table does not know.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        where: str = "",
        said: tuple[str, ...] = (),
        next: str = "",
        exit_code: int = 0,
        phase: str = "",
        limit: int = 0,
        peak: int = 0,
        error_class: ErrorClass | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.row = REASONS[reason]
        self.reason = reason
        self.message = message
        self.where = where
        self.said = said
        self.next = next or self.row.hint
        self.exit_code = exit_code
        self.phase = phase
        self.limit = limit
        self.peak = peak
        self.error_class = error_class or self.row.error_class

    @property
    def retried(self) -> bool:
        return self.row.retried


def refused_source(message: str, *, where: str, next: str, reason: str = "ManifestInvalid") -> BuildError:
    """A manifest takes something from a host that the operator's policy refuses: of the request, not of the code."""
    return BuildError(reason, message, where=where, next=next, error_class=ErrorClass.CLIENT)


class PlatformError(BuildError):
    """Ours. `retry_after_ms` is the other side's own wish (Retry-After), 0 when it had none."""

    def __init__(
        self, reason: str, message: str, *, retry_after_ms: int = 0, where: str = "", said: tuple[str, ...] = ()
    ) -> None:
        super().__init__(reason, message, where=where, said=said)
        self.retry_after_ms = retry_after_ms


_FILES = ("open files", "Raise the limit (ulimit -n), or end what holds many.")
_LIMITS = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: ("processes or threads", "Raise the limit (ulimit -u, pids of its container), or end what runs."),
    errno.ENOMEM: ("memory", "Raise the limit (ulimit -v, that of its container), or end what holds much."),
}
"""What a machine answers when it gives a process no more of something: what that is, and what mends it."""


def limit_of(error: BaseException) -> BuildError | None:
    """Internal, with what mends it, where a limit of this process or machine ended something: open files, processes,
    threads, memory. None for any other error."""
    number = error.errno if isinstance(error, OSError) else 0
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        number = errno.EAGAIN
    if number not in _LIMITS:
        return None
    what, step = _LIMITS[number]
    return BuildError("Internal", f"this machine gives this process no more {what}", next=step)
