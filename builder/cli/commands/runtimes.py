"""`runtimes`, `runtimes fetch`: what this machine builds with, and getting what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.commands.plan import catalog_of
from builder.cli.context import Context
from builder.cli.safe import shown
from builder.cli.stop import mistake, refused_here
from builder.errors import BuildError
from builder.pipelines.catalog import Catalog
from builder.plan import Toolchain

Got = tuple[str, str, tuple[tuple[str, str], ...]]
"""(toolchain, where it is from, (name, digest) of its images)."""


def runtimes(ctx: Context) -> int:
    """Versions and targets of the catalog, where each toolchain comes from here, and else the command that gets it."""
    from builder.local.machine import here

    settings = ctx.settings()
    rows = [(row, *here(settings, row.toolchain)) for row in catalog_of(settings).rows]
    if ctx.common.json:
        facts = [
            asdict(row.toolchain)
            | {"default": row.is_default, "date": row.date, "ends": row.ends, "here": why is None, "from": where}
            | ({"why": why.message, "next": why.next} if why else {"why": "", "next": ""})
            for row, where, why in rows
        ]
        ctx.document({"runtimes": facts})
        return 0
    table = [("RUNTIME", "VERSION", "TARGET", "DEFAULT", "ENDS", "TOOLCHAIN", "HERE")]
    for row, where, why in rows:
        each = row.toolchain
        default = "yes" if row.is_default else "-"
        text = f"no: {shown(_reason_text(each, why))}" if why else shown(where)
        table.append((each.runtime, each.version, each.target or "-", default, row.ends or "-", each.name, text))
    for line in fmt.table(table):
        ctx.out.line(line)
    return 0


def _reason_text(row: Toolchain, why: BuildError) -> str:
    """What is missing, and the step that mends it where there is one for this row alone."""
    what = why.message.removeprefix(row.name + ": ")
    return what if why.next == why.row.hint else f"{what}: {why.next}"


def fetch(ctx: Context, names: tuple[str, ...], *, refresh: bool = False) -> int:
    """Get toolchains: a toolchain image where this machine has none of its own, and the base image.

    With one that makes components also what serves them, which has a name of its own, too. What is had before one fails
    is reported as well.
    """
    from builder.cli.commands.operate import ends_as_interrupted
    from builder.toolchains import wasmtime
    from builder.toolchains.fetch import fetch as get

    settings = ctx.settings()
    catalog = catalog_of(settings)
    planned = pipelines.names(pipelines.load(settings.pipelines))
    rows = [_row(ctx, catalog, name) for name in names or planned if name != wasmtime.COMMAND]
    got: list[Got] = []
    try:
        with ends_as_interrupted():
            for row in dict.fromkeys(rows):
                made = get(settings, row, refresh=refresh, progress=partial(_say, ctx, row.name))
                got.append((row.name, made.where, made.images))
            if wasmtime.COMMAND in names or not all(row.base for row in rows):  # a component stands on none
                where = wasmtime.fetch(settings, partial(_say, ctx, wasmtime.COMMAND))
                got.append((wasmtime.COMMAND, where, ()))
    except BuildError as error:
        stop = refused_here(error)
        if got and ctx.common.json:
            stop.done = _document(got)
        elif got:
            _table(ctx, got)  # a next call need not ask for these again
        raise stop from None
    if ctx.common.json:
        ctx.document(_document(got))
    else:
        _table(ctx, got)
    return 0


def _document(got: Sequence[Got]) -> dict[str, object]:
    return {
        "fetched": [
            {
                "toolchain": name,
                "from": where,
                "images": [{"name": image, "digest": digest} for image, digest in images],
            }
            for name, where, images in got
        ]
    }


def _table(ctx: Context, got: Sequence[Got]) -> None:
    table = [("TOOLCHAIN", "FROM", "IMAGE", "DIGEST")]
    for name, where, images in got:
        for image, digest in images or (("-", "-"),):
            table.append((name, where, image, digest))
    for line in fmt.table(table):
        ctx.out.line(line)


def _say(ctx: Context, name: str, line: str) -> None:
    ctx.say(f"{name}  {shown(line)}")


def _row(ctx: Context, catalog: Catalog, name: str) -> Toolchain:
    """The row that a toolchain's name names, or the default one of a runtime."""
    for row in catalog.toolchains():
        if row.name == name:
            return row
    if name in {row.runtime for row in catalog.toolchains()}:
        return catalog.find(name)
    raise mistake(f'"{name}" is no toolchain of the catalog', where="NAME", next=f"See: {ctx.prog} runtimes")
