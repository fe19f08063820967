"""Arguments and options that several commands take, and the kinds of their values, as click parses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., int])

ARGUMENT_OPTIONS = ("sub_path", "entry", "start", "files", "start_check")
"""Build arguments that are options, too: those that several runtimes read."""
LAST_SEQUENCE = 10**18


class Number(click.ParamType[int]):
    """A whole number between two bounds. The message of a wrong one is a sentence of this program."""

    name = "number"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises `click.BadParameter`."""
        if isinstance(value, int):
            return value
        text = str(value)
        if text.isascii() and text.isdigit() and len(text) <= 18 and self.low <= int(text) <= self.high:
            return int(text)
        bounds = f"{self.low} or more" if self.high >= LAST_SEQUENCE else f"{self.low} to {self.high}"
        self.fail(f'is "{text}"; it takes a whole number, {bounds}', param, ctx)


class RuntimeOption(click.Option):
    """`--runtime`, whose help lists the runtimes. They are loaded when the help is printed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The row of the help."""
        from builder.cli.runtimes import RUNTIMES

        self.help = f"{', '.join(RUNTIMES)}; default: detected"
        return super().get_help_record(ctx)


def path_argument(function: F) -> F:
    """PATH, which is missing where another option names what is built."""
    text = "a folder, a file, an archive, or - for stdin"
    return click.argument("path", metavar="[PATH|-]", default="", help=text)(function)


def source_options(function: F) -> F:
    """The options by which `build` and `plan` choose a toolchain."""
    for decorate in (
        click.option("--no-ignore", is_flag=True, help="send what ignore files leave out; secrets stay out"),
        click.option("--include", metavar="GLOB", multiple=True, help="send what is left out; a secret by its path"),
        click.option(
            "--dockerfile", metavar="FILE", default="", help="make an image of it: a server's cluster, or docker_host"
        ),
        click.option("--buildpacks", is_flag=True, help="make an image by buildpacks, in a server's cluster"),
        click.option("--build-arg", "build_args", metavar="K=V", multiple=True, help="may be repeated"),
        click.option("--start-check", metavar="MODE", default="", help="off, warn or require"),
        click.option("--files", metavar="GLOB,…", default="", help="files that the program reads where it runs"),
        click.option("--start", metavar="COMMAND", default="", help="what starts the artifact"),
        click.option("--entry", metavar="NAME", default="", help="the package, file or module:attribute to build"),
        click.option("--sub-path", metavar="FOLDER", default="", help="the folder of the source that is built"),
        click.option("--target", metavar="NAME", default="", help="one that `runtimes` lists"),
        click.option(
            "--runtime-version",
            "version",
            metavar="VERSION",
            default="",
            help="a version of the catalog; default: from the source",
        ),
        click.option("--runtime", cls=RuntimeOption, metavar="NAME", default=""),
    ):
        function = decorate(function)
    return function


def build_argument(function: F) -> F:
    """BUILD, which is the last one where it is missing."""
    text = "an id or its start (4 or more); default: your last"
    return click.argument("build", metavar="[BUILD]", default="", help=text)(function)


def exit_status_option(function: F) -> F:
    """`--exit-status`."""
    return click.option("--exit-status", is_flag=True, help="exit with the build's own code")(function)
