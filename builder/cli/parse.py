"""From typed words to one command's function; a mistake is three lines: what, the nearest name, where the help is."""

from __future__ import annotations

import difflib

import click

from builder.cli.app import app, options_of
from builder.cli.context import Context
from builder.cli.safe import shown
from builder.cli.stop import PROG, Stop


def run_command(context: Context, words: list[str]) -> int:
    """Parse the words and run the command; answers its exit code, 2 for a mistake. Raises what the command raises."""
    try:
        for word in ("--help", "-h"):
            if word in words:
                context.out.line(help_text(words[: words.index(word)]))
                return 0
        # Not `app.main`: that would turn a KeyboardInterrupt into an exit without a word.
        with app.make_context(PROG, list(words), obj=context) as root:
            code = app.invoke(root)
    except click.UsageError as error:
        return _mistake(context, error, error.ctx or context_of(words))
    return code if isinstance(code, int) else 0


def help_text(path: list[str]) -> str:
    """The help of the command that `path` names; words after the command are ignored. Raises `click.NoSuchCommand`."""
    ctx = context_of(path)
    depth = len(ctx.command_path.split()) - 1
    if isinstance(ctx.command, click.Group) and path[depth:]:
        raise click.NoSuchCommand(path[depth], possibilities=ctx.command.commands, ctx=ctx)
    return ctx.command.get_help(ctx)


def context_of(words: list[str]) -> click.Context:
    """The innermost command that the words begin with."""
    ctx = click.Context(app, info_name=PROG)
    for word in words:
        found = ctx.command.get_command(ctx, word) if isinstance(ctx.command, click.Group) else None
        if found is None:
            break
        ctx = click.Context(found, info_name=word, parent=ctx)
    return ctx


def _mistake(context: Context, error: click.UsageError, ctx: click.Context) -> int:
    what, near = _describe(error, ctx)
    help_command = f"{ctx.command_path} --help"
    if context.common.json:
        stop = Stop("InvalidRequest", what, exit_code=2, next=f"See: {help_command}")
        context.document(stop.to_json())
    for line in (what, f"Is {near} meant?" if near else "", f"See: {help_command}"):
        if line:
            context.err.line(shown(line))
    return 2


def _describe(error: click.UsageError, ctx: click.Context) -> tuple[str, str]:
    """(what is wrong, the nearest name or nothing)."""
    path = ctx.command_path
    name = path.removeprefix(PROG).strip() or PROG
    if isinstance(error, click.NoSuchCommand):
        typed = error.command_name if name == PROG else f"{name} {error.command_name}"
        return f'there is no command "{typed}"', f"{path} {error.possibilities[0]}" if error.possibilities else ""
    if isinstance(error, click.NoSuchOption):
        # The parser's own possibilities lack the common options, which leave the line before it.
        near = difflib.get_close_matches(error.option_name, options_of(ctx.command), 1)
        return f"{name} has no option {error.option_name}", near[0] if near else ""
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        return f"{name}: {error.param.opts[-1]} {error.message}", ""
    return f"{name}: {error.format_message().rstrip('.')}", ""
