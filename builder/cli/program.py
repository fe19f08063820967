"""One run of the program: words in, exit code out. What each error becomes is decided here, once."""

from __future__ import annotations

import difflib
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import typer

from builder.cli.app import PROG, app, command_options, valued_options, version
from builder.cli.context import Context, Out
from builder.cli.failure import refused
from builder.cli.options import COMMON_NAMES, Common, split_common, wants_json
from builder.cli.safe import shown
from builder.cli.stop import OUR_BUG, Stop
from builder.config import Loaded
from builder.errors import EXIT_CANCELLED

BUILD_ARG = "--build-arg"
# Click's base of every mistake at the command line; reached over the public name, since Typer vendors click.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

HELP = """\
Turn source code into a runnable artifact, and say how it went.
  ignite-builder build .           build this folder; needs no server
  ignite-builder plan .            what would run, and why; runs nothing
  ignite-builder logs -f k7m2      follow a build (any unique start of its id)
Builds    build PATH|-   build a folder, a file, an archive or stdin
          plan PATH      show detection, version, steps, network, caches, output
          logs, get, ls  read the log, one build, all builds
          cancel, run    stop a build; start its artifact here and print its URL
Operate   serve, worker  the control side; a build node
          dev            all of it together, for a laptop
          doctor         what is missing on this machine, and the command that mends it
          runtimes       versions and targets of the catalog
          bases build    make the base images
About     config         each setting, its value, where it comes from
          reasons        each failure reason; completion: for bash, zsh, fish
Options   --json  --plain  -q  -v  --color=WHEN  --ascii  --server=URL  --version
More      ignite-builder COMMAND --help, docs/cli.md"""


def run_program(
    argv: Sequence[str],
    environ: Mapping[str, str],
    stdout: TextIO,
    stderr: TextIO,
    stdin: BinaryIO,
    load: Callable[[Mapping[str, Any], Mapping[str, str]], Loaded],
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> int:
    """The whole program over the effects it is handed; answers the exit code and never raises."""
    context = Context(
        common=Common(json=wants_json(argv)),
        environ=environ,
        out=Out(stdout, is_answer=True),
        err=Out(stderr),
        stdin=stdin,
        now_ms=now_ms,
        load=load,
    )
    try:
        context.common, rest = split_common(argv, valued_options())
        return _dispatch(context, rest)
    except Stop as stop:
        return _stopped(context, stop)
    except KeyboardInterrupt:
        return _stopped(context, Stop("Cancelled", "stopped", exit_code=EXIT_CANCELLED, verdict="CANCELLED"))
    except UsageError as error:
        return _mistyped(context, error, list(argv))
    except Exception as error:
        return _our_bug(context, error, argv)


def _dispatch(context: Context, rest: list[str]) -> int:
    if not rest or rest in (["-h"], ["--help"], ["help"]):
        context.out.line(HELP)
        return 0
    if rest == ["--version"]:
        context.out.line(f"{PROG} {version()}")
        return 0
    if rest[0] == "help":
        rest = [*rest[1:], "--help"]
    command: Any = typer.main.get_command(app)
    for word in ("--help", "-h"):
        if word in rest:
            return _command_help(context, command, rest[: rest.index(word)])
    # Not `command.main`: it would turn a KeyboardInterrupt into an exit without a word.
    with command.make_context(PROG, rest, obj=context) as made:
        answer = command.invoke(made)
    return answer if isinstance(answer, int) else 0


def _command_help(context: Context, command: Any, path: list[str]) -> int:
    """Print a command's help on our own stdout; words after the command are not looked at."""
    info = command.make_context(PROG, ["--help"], resilient_parsing=True)
    for name in path:
        found = command.commands.get(name) if hasattr(command, "commands") else None
        if found is None:
            if command is typer.main.get_command(app) or hasattr(command, "commands"):
                raise typer.BadParameter(f"No such command '{name}'.")
            break
        command = found
        info = command.context_class(command, info_name=name, parent=info)
    context.out.line(command.get_help(info))
    return 0


def _stopped(context: Context, stop: Stop) -> int:
    if context.common.json:
        context.document(stop.to_json())
    for line in refused(stop, context.look(context.err)):
        context.err.line(line)
    return stop.exit_code


def _mistyped(context: Context, error: Exception, argv: list[str]) -> int:
    """Three lines: what, the nearest name, where the help is."""
    words = [word for word in argv if not word.startswith("-")]
    commands = command_options()
    name = next((word for word in words if word in commands), "")
    what, near = _what_was_meant(error, name, words, commands)
    help_of = f"{PROG} {name} --help" if name else f"{PROG} --help"
    if context.common.json:
        stop = Stop("InvalidRequest", what, exit_code=2, next=f"See: {help_of}")
        context.document(stop.to_json())
    for line in (what, f"Is {near} meant?" if near else "", f"See: {help_of}"):
        if line:
            context.err.line(shown(line))
    return 2


def _what_was_meant(
    error: Exception, name: str, words: list[str], commands: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    option = getattr(error, "option_name", None)
    if option and "No such option" in _message(error):
        near = difflib.get_close_matches(option, commands.get(name, COMMON_NAMES), 1)
        return f"{name or PROG} has no option {option}", near[0] if near else ""
    if "No such command" in _message(error):
        typed = words[0] if words else ""
        near = difflib.get_close_matches(typed, list(commands), 1)
        return f'there is no command "{typed}"', f"{PROG} {near[0]}" if near else ""
    return f"{name or PROG}: {_message(error).rstrip('.')}", ""


def _message(error: Exception) -> str:
    formatted = getattr(error, "format_message", None)
    return str(formatted()) if callable(formatted) else str(error)


def _our_bug(context: Context, error: Exception, argv: Sequence[str]) -> int:
    """Ours: one block, the trace in a file. The report holds no token and no value of a build argument."""
    text = f"{PROG} {version()}\nargv: {without_values(argv)!r}\n\n" + "".join(traceback.format_exception(error))
    stop = Stop(
        "Internal",
        f"{type(error).__name__} in {PROG} itself; this is a bug of ours",
        exit_code=OUR_BUG,
        error_class="platform",
        next=f"Send us the report: {_report(context, text)}",
        verdict="BROKEN",
    )
    return _stopped(context, stop)


def without_values(argv: Sequence[str]) -> list[str]:
    """The command line with every value of `--build-arg` as `***`: people put secrets there, and send us reports."""
    kept: list[str] = []
    for word in argv:
        name, equals, pair = word.partition("=")
        if kept and kept[-1] == BUILD_ARG:
            kept.append(_masked(word))
        elif name == BUILD_ARG and equals:
            kept.append(f"{name}={_masked(pair)}")
        else:
            kept.append(word)
    return kept


def _masked(pair: str) -> str:
    return f"{pair.partition('=')[0]}=***" if "=" in pair else "***"


def _report(context: Context, text: str) -> str:
    try:
        folder = Path(context.settings().data_dir) / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{context.now_ms()}.txt"
        # A trace may quote what the program worked on: for this user alone, whatever the umask is.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except Exception:
        return "(it could not be written)"
    return str(path)
