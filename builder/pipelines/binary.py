"""One static binary as an artifact: what lies beside it in /app, and what starts it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from builder.errors import BuildError
from builder.pipelines.arguments import beside, start_of
from builder.plan import CopyFile
from builder.source.tree import Tree


def files_beside(tree: Tree, folder: str, arguments: Mapping[str, str]) -> tuple[CopyFile, ...]:
    """The files that the build argument `files` puts beside the binary, which is the file `app` among them.

    Raises `BuildError` InvalidRequest.
    """
    placed = beside(tree, folder, arguments, "app")
    if any(file.path == "app/app" or file.path.startswith("app/app/") for file in placed):
        message = "files names app, which is where the binary is put"
        hint = "Rename it in the source, or name less: files=templates"
        raise BuildError("InvalidRequest", message, where="buildArgs.files", next=hint)
    return placed


def entrypoint(placed: tuple[CopyFile, ...], arguments: Mapping[str, str]) -> tuple[str, ...]:
    """The binary, or the build argument `start`. Its program is in /app: the base has none.

    Raises `BuildError` InvalidRequest.
    """
    words = start_of(arguments)
    if not words:
        return ("/app/app",)
    program = posixpath.normpath(posixpath.join("/app", words[0]))
    if program not in ("/app/app", *(f"/{file.path}" for file in placed)):
        message = f"start names {words[0][:80]}, which the image does not have"
        hint = """Name the binary, such as ["./app", "serve"], or a program that files puts beside it."""
        raise BuildError("InvalidRequest", message, where="buildArgs.start", next=hint)
    return (program, *words[1:])
