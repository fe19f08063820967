"""The commands and their options, as click parses them; what each does is in `builder/cli/commands/`.

Nothing of a command is imported before it runs: a help text or a mistyped word costs the parser alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click

from builder.cli.context import Context
from builder.cli.options import COMMON_HELP, COMMON_NAMES, arguments, environment
from builder.cli.parameters import (
    ARGUMENT_OPTIONS,
    LAST_SEQUENCE,
    Number,
    build_argument,
    exit_status_option,
    path_argument,
    source_options,
)
from builder.cli.stop import PROG, mistake

F = TypeVar("F", bound=Callable[..., int])


def _examples(*lines: str) -> str:
    rows = "\n".join(f"  {PROG} {line}" for line in lines)
    return f"\b\nExamples:\n{rows}\n\n\b\nEverywhere:\n  {COMMON_HELP}"


EXAMPLES: dict[str, tuple[str, ...]] = {
    "build": (
        "build .",
        "build service.zip --json",
        "build - --name thumbs < app.tar.gz",
        "build --git https://git.example.com/acme/app.git#v1.2:service",
        "build --image registry.example.com/acme/app:1 --secret hub",
        "build --rebase k7m2 --tag v1",
    ),
    "plan": ("plan .", "plan examples/go-hello --json"),
    "logs": ("logs -f k7m2", "logs k7m2 --failed"),
    "get": ("get k7m2", "get k7m2 --json"),
    "ls": ("ls --limit 100", "ls --label deploy=d-17 --json"),
    "cancel": ("cancel k7m2", "cancel k7m2 --json"),
    "run": ("run k7m2", "run"),
    "serve": ("serve", "serve -v"),
    "worker": ("worker", "worker --server=https://ignite.example.com"),
    "watch": ("watch", "watch --server=https://ignite.example.com"),
    "dev": ("dev", "dev -v"),
    "doctor": ("doctor", "doctor --json"),
    "runtimes": ("runtimes", "runtimes fetch go-1.24"),
    "runtimes fetch": ("runtimes fetch go-1.24", "runtimes fetch"),
    "bases": ("bases build", "bases build python-3.11"),
    "nodes": ("nodes ls", "nodes drain node-1"),
    "nodes ls": ("nodes ls", "nodes ls --json"),
    "nodes drain": ("nodes drain node-1", "nodes drain node-1 --undo"),
    "nodes forget": ("nodes forget node-1", "nodes forget node-1 --json"),
    "secret": ("secret ls", "secret set hub --type registry --username ada < password"),
    "secret set": (
        "secret set hub --type registry --username ada < password",
        "secret set deploy --type git --known-hosts known_hosts < id_ed25519",
    ),
    "secret ls": ("secret ls", "secret ls --json"),
    "secret rm": ("secret rm hub", "secret rm hub --json"),
    "config": ("config", "config --json"),
    "reasons": ("reasons", "reasons CompileFailed"),
    "completion": ("completion bash", "completion fish"),
}


@click.group(PROG, no_args_is_help=False)
def app() -> None:
    """Turn source code into a runnable artifact, and say how it went."""


@app.group("bases", no_args_is_help=False, epilog=_examples(*EXAMPLES["bases"]))
def bases() -> None:
    """Base images of this node."""


@app.group("runtimes", no_args_is_help=False, invoke_without_command=True, epilog=_examples(*EXAMPLES["runtimes"]))
@click.pass_context
def runtimes(click_context: click.Context) -> int:
    """Versions and targets of the catalog, and what of it this machine builds with."""
    if click_context.invoked_subcommand is not None:
        return 0
    from builder.cli.commands.runtimes import runtimes as show

    return show(click_context.obj)


@app.group("nodes", no_args_is_help=False, epilog=_examples(*EXAMPLES["nodes"]))
def nodes() -> None:
    """The build nodes of the server; needs a token with the scope operate."""


@app.group("secret", no_args_is_help=False, epilog=_examples(*EXAMPLES["secret"]))
def secret() -> None:
    """Logins and other secrets that builds may use; no value is ever shown."""


def _command(name: str, group: click.Group = app, examples: str = "") -> Callable[[F], click.Command]:
    return group.command(name, epilog=_examples(*EXAMPLES[examples or name]))


@_command("build")
@path_argument
@source_options
@click.option("--git", metavar="URL[#REF[:FOLDER]]", default="", help="build a commit, instead of PATH")
@click.option("--submodules", is_flag=True, help="fetch those of the commit, too")
@click.option("--history", is_flag=True, help="give the build .git with the commit's history and tags")
@click.option("--image", metavar="REF", default="", help="take an image that is there, instead of PATH")
@click.option("--rebase", metavar="BUILD", default="", help="put its image on the current run image, instead of PATH")
@click.option("--secret", metavar="NAME", default="", help="a stored secret, for what is private")
@click.option("--name", metavar="NAME", default="", help="default: the folder's or file's name")
@click.option("--repository", metavar="NAME", default="", help="below your organization's prefix")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="may be repeated; default: latest")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="your own mark; may be repeated")
@click.option("--platform", metavar="OS/ARCH", default="", help="default: linux/amd64")
@click.option("--no-cache", is_flag=True, help="build even what was built before")
@click.option("--timeout", metavar="TIME", default="", help="such as 90s, 10m")
@click.option("--detach", is_flag=True, help="print the id and leave; the build goes on")
@click.pass_obj
def _build(context: Context, /, path: str, version: str, **options: Any) -> int:
    """Build a folder, a file, an archive or stdin; print the artifact's reference by digest."""
    from builder.cli.commands.build import build
    from builder.cli.requests import BuildOptions

    if path == "-" and context.stdin_is_terminal():
        raise mistake("- reads stdin, and that is a terminal", where="PATH", next=f"See: {PROG} build --help")
    build_args = arguments(options.pop("build_args"), {name: options.pop(name) for name in ARGUMENT_OPTIONS})
    return build(context, BuildOptions(path=path, runtime_version=version, build_args=build_args, **options))


@_command("plan")
@path_argument
@source_options
@click.option("--rebase", metavar="BUILD", default="", help="show the Job of `build --rebase`, instead of PATH")
@click.pass_obj
def _plan(
    context: Context,
    /,
    path: str,
    runtime: str,
    version: str,
    target: str,
    build_args: tuple[str, ...],
    dockerfile: str,
    include: tuple[str, ...],
    *,
    no_ignore: bool,
    buildpacks: bool,
    rebase: str,
    **options: str,
) -> int:
    """Show what would run, and why. Runs nothing, calls nobody."""
    from builder.cli.commands.plan import plan, plan_rebase
    from builder.cli.ignore import Choice

    given = arguments(build_args, options)
    if rebase:
        from builder.cli.requests import BuildOptions, check_sources

        asked = BuildOptions(
            path=path,
            rebase=rebase,
            runtime=runtime,
            runtime_version=version,
            target=target,
            build_args=given,
            include=include,
            no_ignore=no_ignore,
            dockerfile=dockerfile,
            buildpacks=buildpacks,
        )
        check_sources(asked)
        return plan_rebase(context, rebase)
    if not path:
        raise click.MissingParameter(param_hint="'PATH|-'", param_type="argument", ctx=click.get_current_context())
    choice = Choice(no_ignore=no_ignore, include=include)
    return plan(context, path, runtime, version, target, given, choice, dockerfile, buildpacks=buildpacks)


@_command("logs")
@build_argument
@click.option("-f", "--follow", is_flag=True, help="go on until the build ends")
@click.option("--from", "start", metavar="N", type=Number(0, LAST_SEQUENCE), default=0, help="begin at this line")
@click.option("--failed", is_flag=True, help="only the step that failed")
@click.option("--raw", is_flag=True, help="the bare lines")
@exit_status_option
@click.pass_obj
def _logs(context: Context, build: str, *, follow: bool, start: int, failed: bool, raw: bool, exit_status: bool) -> int:
    """Print a build's log; with -f follow it."""
    from builder.cli.commands.read import logs

    return logs(context, build, follow=follow, start=start, only_failed=failed, raw=raw, exit_status=exit_status)


@_command("get")
@build_argument
@exit_status_option
@click.pass_obj
def _get(context: Context, build: str, *, exit_status: bool) -> int:
    """Show one build; a failed one with what to do."""
    from builder.cli.commands.read import get

    return get(context, build, exit_status=exit_status)


@_command("ls")
@click.option("--limit", metavar="N", type=Number(1, 10_000), default=20, help="1 to 10000; default: 20")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="only builds with it; may be repeated")
@click.pass_obj
def _ls(context: Context, limit: int, labels: tuple[str, ...]) -> int:
    """List builds, newest first."""
    from builder.cli.commands.read import ls

    return ls(context, limit, labels)


@_command("cancel")
@click.argument("build", metavar="BUILD", default="", help="an id or its start (4 or more)")
@click.pass_obj
def _cancel(context: Context, build: str) -> int:
    """Stop a build; reports one that had ended before."""
    from builder.cli.commands.read import cancel

    return cancel(context, build)


@_command("run")
@build_argument
@click.option("--env", "env", metavar="K=V", multiple=True, help="a variable of the app; may be repeated")
@click.option("--env-file", "env_files", metavar="FILE", multiple=True, help="lines K=V, or K of here; --env wins")
@click.pass_obj
def _run(context: Context, build: str, env: tuple[str, ...], env_files: tuple[str, ...]) -> int:
    """Start a build's artifact here, sandboxed, and print its URL."""
    from builder.cli.commands.operate import run

    return run(context, build, environment(env, env_files, context.environ))


@_command("serve")
@click.pass_obj
def _serve(context: Context) -> int:
    """The control side: API, dispatcher, reconciler."""
    from builder.cli.commands.operate import serve

    return serve(context)


@_command("worker")
@click.pass_obj
def _worker(context: Context) -> int:
    """A build node: takes builds from the server and runs them."""
    from builder.cli.commands.operate import worker

    return worker(context)


@_command("watch")
@click.pass_obj
def _watch(context: Context) -> int:
    """Follow the Kubernetes Jobs of image builds, and finish the builds."""
    from builder.cli.commands.operate import watch

    return watch(context)


@_command("dev")
@click.pass_obj
def _dev(context: Context) -> int:
    """Server and worker together, for a laptop; prints the URL."""
    from builder.cli.commands.operate import dev

    return dev(context)


@_command("doctor")
@click.pass_obj
def _doctor(context: Context) -> int:
    """What is missing on this machine, and the command that mends it."""
    from builder.cli.commands.operate import doctor

    return doctor(context)


@_command("fetch", runtimes, "runtimes fetch")
@click.argument("names", metavar="[NAME]...", nargs=-1, help="a toolchain or a runtime; default: each runtime")
@click.option("--refresh", is_flag=True, help="anew, with the packages or the public image of now")
@click.pass_obj
def _runtimes_fetch(context: Context, names: tuple[str, ...], *, refresh: bool) -> int:
    """Get toolchains onto this machine.

    Makes or fetches the toolchain image where the machine has no toolchain of its own, and the base image.
    """
    from builder.cli.commands.runtimes import fetch

    return fetch(context, names, refresh=refresh)


@_command("build", bases, "bases")
@click.argument("names", metavar="[NAME]...", nargs=-1, help="default: the bases of the default versions")
@click.pass_obj
def _bases_build(context: Context, names: tuple[str, ...]) -> int:
    """Make the base images that this node needs."""
    from builder.cli.commands.operate import bases_build

    return bases_build(context, list(names))


@_command("ls", nodes, "nodes ls")
@click.pass_obj
def _nodes_ls(context: Context) -> int:
    """List the nodes and what each does."""
    from builder.cli.commands.nodes import ls

    return ls(context)


@_command("drain", nodes, "nodes drain")
@click.argument("name", metavar="NAME", default="", help="as nodes ls shows it")
@click.option("--undo", is_flag=True, help="take builds again")
@click.pass_obj
def _nodes_drain(context: Context, name: str, *, undo: bool) -> int:
    """Let a node take no more builds.

    What it runs ends as ever. It holds after a restart, until --undo.
    """
    from builder.cli.commands.nodes import drain

    return drain(context, name, undo=undo)


@_command("forget", nodes, "nodes forget")
@click.argument("name", metavar="NAME", default="", help="as nodes ls shows it")
@click.pass_obj
def _nodes_forget(context: Context, name: str) -> int:
    """Delete a node and revoke its token.

    Only one that is drained and runs nothing, or was not seen for a lease.
    """
    from builder.cli.commands.nodes import forget

    return forget(context, name)


@_command("set", secret, "secret set")
@click.argument("name", metavar="NAME", default="", help="up to 63 letters, digits, . _ -")
@click.option("--type", "kind", metavar="TYPE", default="", help="registry, git or build")
@click.option("--username", metavar="NAME", default="", help="of a registry; of a git host that asks for one")
@click.option("--host", metavar="HOST", default="", help="the only host that it is sent to; default: any")
@click.option("--known-hosts", metavar="FILE", default="", help="of an SSH key: lines of ssh-keyscan HOST")
@click.pass_obj
def _secret_set(context: Context, /, name: str, **options: str) -> int:
    """Store a secret, or a new value of one, read from stdin.

    Of a registry: the password. Of git: a token, or an SSH key.
    """
    from builder.cli.commands.secret import save

    if context.stdin_is_terminal():
        step = f"Send it there: {PROG} secret set NAME --type TYPE < FILE"
        raise mistake("the value is read from stdin, and that is a terminal", where="stdin", next=step)
    return save(context, name, **options)


@_command("ls", secret, "secret ls")
@click.pass_obj
def _secret_ls(context: Context) -> int:
    """List the secrets; not their values."""
    from builder.cli.commands.secret import ls

    return ls(context)


@_command("rm", secret, "secret rm")
@click.argument("name", metavar="NAME", default="", help="as secret ls shows it")
@click.pass_obj
def _secret_rm(context: Context, name: str) -> int:
    """Delete a secret; builds that name it fail from now on."""
    from builder.cli.commands.secret import remove

    return remove(context, name)


@_command("config")
@click.pass_obj
def _config(context: Context) -> int:
    """Each setting, its value, where it comes from."""
    from builder.cli.commands.about import config

    return config(context)


@_command("reasons")
@click.argument("reason", metavar="[REASON]", default="", help="default: all")
@click.pass_obj
def _reasons(context: Context, reason: str) -> int:
    """Each failure reason: whose fault, exit code, what to do."""
    from builder.cli.commands.about import reasons

    return reasons(context, reason)


@_command("completion")
@click.argument("shell", metavar="bash|zsh|fish", help="the shell that loads it")
@click.pass_obj
def _completion(context: Context, shell: str) -> int:
    """Print a completion script for a shell."""
    from builder.cli.commands.about import completion

    return completion(context, shell, command_options())


def options_of(command: click.Command) -> tuple[str, ...]:
    """The long options of a command, the common ones included."""
    return tuple(sorted({opt for param in command.params for opt in param.opts if opt[:2] == "--"} | set(COMMON_NAMES)))


def commands_of(group: click.Group = app, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group with the words that name it, a group before its own."""
    for name, command in group.commands.items():
        yield path + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path}{name} ")


def command_options() -> Mapping[str, tuple[str, ...]]:
    """Every command and its long options; `secret set` is one, as `secret` is."""
    return {name: options_of(command) for name, command in commands_of()}


def valued_options() -> frozenset[str]:
    """Every option of a command that takes a value, so that the value is never read as a common option."""
    params = [param for _, command in commands_of() for param in command.params]
    options = [param for param in params if isinstance(param, click.Option) and not param.is_flag]
    return frozenset(opt for option in options for opt in option.opts)
