"""One run of the program: words in, exit code out. What each error becomes is decided here, once.

The parser and the commands are imported when one is needed: help and version are answered without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import builder
from builder.cli.context import Context, Out
from builder.cli.options import Common, split_common, wants_json
from builder.cli.stop import OUR_BUG, PROG, Stop, interrupted, no_temporary, of_disk, of_limit, of_store, refused_here
from builder.errors import BuildError

if TYPE_CHECKING:
    from builder.config import Loaded

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
          watch          follow the Kubernetes Jobs of image builds
          dev            all of it together, for a laptop
          doctor         what is missing on this machine, and the command that mends it
          runtimes       versions and targets of the catalog; fetch: get a toolchain
          bases build    make the base images
          nodes          ls, drain, forget: the build nodes of a server
          secret         set, ls, rm: logins that builds use by name
About     config         each setting, its value, where it comes from
          reasons        each failure reason; completion: for bash, zsh, fish
Options   --json  --plain  -q  -v  --color=WHEN  --ascii  --server=URL  --version
More      ignite-builder COMMAND --help, docs/cli.md"""


class _ValuedOptions:
    """The options of commands that take a value. The parser is loaded when the first unknown option appears."""

    def __contains__(self, word: object) -> bool:
        from builder.cli.app import valued_options

        return word in valued_options()


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
        context.common, rest = split_common(argv, _ValuedOptions())
        return _dispatch(context, rest)
    except Stop as stop:
        return _stopped(context, stop)
    except KeyboardInterrupt:
        return _stopped(context, interrupted())
    except BuildError as error:  # of a setting that is found wrong where it is first used
        return _stopped(context, refused_here(error))
    except Exception as error:
        if (found := of_limit(error) or _of_disk(context, error) or _of_store(context, error)) is not None:
            return _stopped(context, found)
        return _our_bug(context, error, argv)


def _of_disk(context: Context, error: Exception) -> Stop | None:
    """What an error means that a folder of the settings made; None for any other error."""
    if not isinstance(error, OSError):
        return None
    try:
        settings = context.loaded().settings
    except Exception:
        return None
    from tempfile import gettempdir

    try:
        temporary = gettempdir()
    except FileNotFoundError as none:  # its words name the folders that were tried
        return no_temporary(none)
    return of_disk(error, {"data_dir": settings.data_dir, "node_dir": settings.node_dir, "TMPDIR": temporary})


def _of_store(context: Context, error: Exception) -> Stop | None:
    """What an error of the store means to a command that has it in its own process; None for any other error."""
    if not type(error).__module__.startswith("sqlalchemy."):
        return None
    from builder.services.errors import is_store_full, is_store_outage  # loaded by whoever has a store

    if not is_store_outage(error):
        return None
    named = context.loaded().settings.store_url
    why = str(getattr(error, "orig", None) or error)
    return of_store(why, full=is_store_full(error), where="store_url" if named else "data_dir")


def _dispatch(context: Context, rest: list[str]) -> int:
    if context.common.version:
        context.out.line(f"{PROG} {builder.__version__}")
        return 0
    if not rest or rest in (["-h"], ["--help"], ["help"]):
        context.out.line(HELP)
        return 0
    from builder.cli.parse import run_command

    return run_command(context, [*rest[1:], "--help"] if rest[0] == "help" else rest)


def _stopped(context: Context, stop: Stop) -> int:
    if context.common.json:
        context.document(stop.to_json())
    from builder.cli.refusal import refused

    for line in refused(stop, context.look(context.err)):
        context.err.line(line)
    return stop.exit_code


def _our_bug(context: Context, error: Exception, argv: Sequence[str]) -> int:
    """Ours: one block, the trace in a file."""
    from builder.cli.report import write_report

    stop = Stop(
        "Internal",
        f"{type(error).__name__} in {PROG} itself; this is a bug of ours",
        exit_code=OUR_BUG,
        error_class="platform",
        next=f"Send us the report: {write_report(context, error, argv)}",
        verdict="BROKEN",
    )
    return _stopped(context, stop)
