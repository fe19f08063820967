"""The work folder of a build, entered by descriptors: a step may have put a link where anything of ours belongs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from builder.attempt.attempt import Attempt
from builder.errors import BuildError
from builder.source import below

OF_STEPS = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.EXDEV))
"""Errors that only what a step left can cause, below a work folder that is there."""
OF_MODES = frozenset((errno.EACCES, errno.EPERM))
"""Errors that a step can cause by a folder's mode, which stops every node but one of root."""


@contextmanager
def folder_in(attempt: Attempt, path: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `/work/<path>`, no part of which is a link. `make`: what is missing is made.

    Raises `BuildError` StepFailed where something else stands, OSError where there is no work folder: that is no
    step's doing.
    """
    with ExitStack() as stack:
        work = stack.enter_context(below.folder(attempt.work))
        with blaming(path):
            made = attempt.chown_to_build_user if make else None
            found = stack.enter_context(below.folder(work, path, made))
        yield found


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Raise `BuildError` StepFailed in the place of an error that what a step left at `/work/<path>` causes."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_STEPS and (os.geteuid() == 0 or error.errno not in OF_MODES):
            raise
        where = f"/work/{path}"
        message = f"what the steps left is in the way of {where}: {error.strerror}"
        raise BuildError("StepFailed", message, where=where) from None


def write_in(attempt: Attempt, path: str, content: str) -> None:
    """Write the file `/work/<path>` anew, with its folders, for the build's user. Raises as `folder_in`."""
    above, _, name = path.rpartition("/")
    with folder_in(attempt, above, make=True) as folder, blaming(path):
        below.write_file(folder, name, content.encode())
        attempt.chown_to_build_user(name, folder)
