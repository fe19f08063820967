"""The commands and their options, as Typer parses them; what each does is in `builder/cli/commands/`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from builder.cli.context import Context
from builder.cli.options import COMMON_HELP, COMMON_NAMES, pairs
from builder.cli.runtimes import RUNTIMES
from builder.cli.stop import mistake

PROG = "ignite-builder"

app = typer.Typer(
    name=PROG, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False
)
bases = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=False)

BuildId = Annotated[str, typer.Argument(metavar="BUILD", help="an id or its start (4 or more); default: your last")]
ExitStatus = Annotated[bool, typer.Option("--exit-status", help="exit with the build's own code")]
Runtime = Annotated[str, typer.Option("--runtime", help=f"{', '.join(RUNTIMES)}; default: detected")]
Version = Annotated[str, typer.Option("--runtime-version", help="a version of the catalog; default: from the source")]
Target = Annotated[str, typer.Option("--target", help="native or wasm")]
BuildArg = Annotated[list[str] | None, typer.Option("--build-arg", metavar="K=V", help="may be repeated")]


def _examples(*lines: str) -> str:
    rows = "\n".join(f"  {PROG} {line}" for line in lines)
    return f"\b\nExamples:\n{rows}\n\n\b\nEverywhere:\n  {COMMON_HELP}"


EXAMPLES: dict[str, tuple[str, ...]] = {
    "build": ("build .", "build handler.py --runtime python --json", "build - --name thumbs < app.tar.gz"),
    "plan": ("plan .", "plan examples/go-hello --json"),
    "logs": ("logs -f k7m2", "logs k7m2 --failed"),
    "get": ("get k7m2", "get k7m2 --json"),
    "ls": ("ls", "ls --limit 100 --json"),
    "cancel": ("cancel k7m2", "cancel k7m2 --json"),
    "run": ("run k7m2", "run"),
    "serve": ("serve", "serve -v"),
    "worker": ("worker", "worker --server=https://ignite.example.com"),
    "dev": ("dev", "dev -v"),
    "doctor": ("doctor", "doctor --json"),
    "runtimes": ("runtimes", "runtimes --json"),
    "bases": ("bases build", "bases build python-3.11"),
    "config": ("config", "config --json"),
    "reasons": ("reasons", "reasons CompileFailed"),
    "completion": ("completion bash", "completion fish"),
}


app.add_typer(bases, name="bases", help="Base images of this node.", epilog=_examples(*EXAMPLES["bases"]))


def _command(name: str) -> Callable[[Any], Any]:
    return app.command(name, epilog=_examples(*EXAMPLES[name]))


@_command("build")
def _build(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH|-", help="a folder, a file, an archive, or - for stdin")],
    runtime: Runtime = "",
    runtime_version: Version = "",
    target: Target = "",
    build_arg: BuildArg = None,
    name: Annotated[str, typer.Option("--name", help="default: the folder's or file's name")] = "",
    repository: Annotated[str, typer.Option("--repository", help="below your organization's prefix")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="may be repeated; default: latest")] = None,
    platform: Annotated[str, typer.Option("--platform", help="default: linux/amd64")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="build even what was built before")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="such as 90s, 10m")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="print the id and leave; the build goes on")] = False,
) -> int:
    """Build a folder, a file, an archive or stdin; print the artifact's reference by digest."""
    from builder.cli.commands.build import Asked, build

    context: Context = ctx.obj
    if path == "-" and context.stdin_is_terminal():
        raise mistake("- reads stdin, and that is a terminal", where="PATH", next=f"See: {PROG} build --help")
    asked = Asked(
        path=path,
        runtime=runtime,
        runtime_version=runtime_version,
        target=target,
        build_args=build_arg or (),
        name=name,
        repository=repository,
        tags=tag or (),
        platform=platform,
        no_cache=no_cache,
        timeout=timeout,
        detach=detach,
    )
    return build(context, asked)


@_command("plan")
def _plan(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH|-")],
    runtime: Runtime = "",
    runtime_version: Version = "",
    target: Target = "",
    build_arg: BuildArg = None,
) -> int:
    """Show what would run, and why. Runs nothing, calls nobody."""
    from builder.cli.commands.plan import plan

    return plan(ctx.obj, path, runtime, runtime_version, target, pairs(build_arg or (), "--build-arg"))


@_command("logs")
def _logs(
    ctx: typer.Context,
    build: BuildId = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the build ends")] = False,
    start: Annotated[int, typer.Option("--from", metavar="N", min=0, help="begin at this line")] = 0,
    failed: Annotated[bool, typer.Option("--failed", help="only the step that failed")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="the bare lines")] = False,
    exit_status: ExitStatus = False,
) -> int:
    """Print a build's log; with -f follow it."""
    from builder.cli.commands.read import logs

    return logs(ctx.obj, build, follow=follow, start=start, only_failed=failed, raw=raw, exit_status=exit_status)


@_command("get")
def _get(ctx: typer.Context, build: BuildId = "", exit_status: ExitStatus = False) -> int:
    """Show one build; a failed one with what to do."""
    from builder.cli.commands.read import get

    return get(ctx.obj, build, exit_status=exit_status)


@_command("ls")
def _ls(ctx: typer.Context, limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 20) -> int:
    """List builds, newest first."""
    from builder.cli.commands.read import ls

    return ls(ctx.obj, limit)


@_command("cancel")
def _cancel(ctx: typer.Context, build: Annotated[str, typer.Argument(metavar="BUILD")] = "") -> int:
    """Stop a build; says so when it had ended before."""
    from builder.cli.commands.read import cancel

    return cancel(ctx.obj, build)


@_command("run")
def _run(ctx: typer.Context, build: BuildId = "") -> int:
    """Start a build's artifact here, sandboxed, and print its URL."""
    from builder.cli.commands.operate import run

    return run(ctx.obj, build)


@_command("serve")
def _serve(ctx: typer.Context) -> int:
    """The control side: API, dispatcher, reconciler."""
    from builder.cli.commands.operate import serve

    return serve(ctx.obj)


@_command("worker")
def _worker(ctx: typer.Context) -> int:
    """A build node: takes builds from the server and runs them."""
    from builder.cli.commands.operate import worker

    return worker(ctx.obj)


@_command("dev")
def _dev(ctx: typer.Context) -> int:
    """Server and worker together, for a laptop; prints the URL."""
    from builder.cli.commands.operate import dev

    return dev(ctx.obj)


@_command("doctor")
def _doctor(ctx: typer.Context) -> int:
    """What is missing on this machine, and the command that mends it."""
    from builder.cli.commands.operate import doctor

    return doctor(ctx.obj)


@_command("runtimes")
def _runtimes(ctx: typer.Context) -> int:
    """Versions and targets of the catalog."""
    from builder.cli.commands.operate import runtimes

    return runtimes(ctx.obj)


@bases.command("build", epilog=_examples(*EXAMPLES["bases"]))
def _bases_build(ctx: typer.Context, names: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None) -> int:
    """Make the base images that this node needs."""
    from builder.cli.commands.operate import bases_build

    return bases_build(ctx.obj, names or [])


@_command("config")
def _config(ctx: typer.Context) -> int:
    """Each setting, its value, where it comes from."""
    from builder.cli.commands.about import config

    return config(ctx.obj)


@_command("reasons")
def _reasons(ctx: typer.Context, reason: Annotated[str, typer.Argument(metavar="REASON")] = "") -> int:
    """Each failure reason: whose fault, exit code, what to do."""
    from builder.cli.commands.about import reasons

    return reasons(ctx.obj, reason)


@_command("completion")
def _completion(ctx: typer.Context, shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish")]) -> int:
    """Print a completion script for a shell."""
    from builder.cli.commands.about import completion

    return completion(ctx.obj, shell, command_options())


def version() -> str:
    """The installed version of this program."""
    return importlib.metadata.version(PROG)


def command_options() -> Mapping[str, tuple[str, ...]]:
    """Every command and its long options."""
    group: Any = typer.main.get_command(app)
    return {
        name: tuple(
            sorted({opt for param in command.params for opt in param.opts if opt.startswith("--")} | set(COMMON_NAMES))
        )
        for name, command in group.commands.items()
    }


def valued_options() -> frozenset[str]:
    """Every option of a command that takes a value, so that the value is never read as an option of ours."""
    group: Any = typer.main.get_command(app)
    params = [param for command in group.commands.values() for param in command.params]
    return frozenset(opt for param in params if opt_takes_value(param) for opt in param.opts if opt.startswith("-"))


def opt_takes_value(param: Any) -> bool:
    """Whether a parameter is an option with a value."""
    return not getattr(param, "is_flag", True) and param.param_type_name == "option"
