"""`config`, `reasons`, `completion`: the settings, the reasons of failures, completion scripts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.cli import format as fmt
from builder.cli.context import Context, recent_path
from builder.cli.safe import shown
from builder.cli.stop import mistake
from builder.errors import REASONS

TAKES_ID = ("logs", "get", "cancel", "run")


def config(ctx: Context) -> int:
    """Each setting, its value, where it comes from. Secrets show as `***`."""
    rows = ctx.loaded().describe()
    if ctx.common.json:
        ctx.document({"settings": [{"name": name, "value": value, "from": origin} for name, value, origin in rows]})
        return 0
    table = [
        ("SETTING", "VALUE", "FROM"),
        *((name, shown(value) or "-", shown(origin)) for name, value, origin in rows),
    ]
    for line in fmt.table(table):
        ctx.out.line(line)
    return 0


def reasons(ctx: Context, reason: str) -> int:
    """Every failure reason: whose fault, whether it is retried, the exit code, what to do."""
    if reason and reason not in REASONS:
        raise mistake(f'"{reason}" is not a reason', where="REASON", next=f"See them all: {ctx.prog} reasons")
    rows = [REASONS[reason]] if reason else list(REASONS.values())
    if ctx.common.json:
        ctx.document(
            {
                "reasons": [
                    {
                        "reason": row.name,
                        "errorClass": str(row.error_class),
                        "retried": row.retried,
                        "exitCode": row.exit_code,
                        "httpStatus": row.http,
                        "grpcCode": row.grpc,
                        "hint": row.hint,
                    }
                    for row in rows
                ]
            }
        )
        return 0
    table = [("REASON", "CLASS", "RETRIED", "EXIT", "WHAT TO DO")]
    for row in rows:
        retried = "yes" if row.retried else "no"
        table.append((row.name, str(row.error_class), retried, str(row.exit_code), row.hint))
    for line in fmt.table(table, right=frozenset({3})):
        ctx.out.line(line)
    return 0


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a completion script offers: commands with options, values of options, and the file of recent ids. A command
    of a group has the words of both: `secret set`."""

    prog: str
    commands: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[str]]
    recent: str
    """A file of lines "ID NAME STATUS", quoted for a shell; it is read at each completion."""

    @property
    def first(self) -> list[str]:
        """What may stand behind the program's name."""
        return [name for name in self.commands if " " not in name]

    @property
    def groups(self) -> Mapping[str, list[str]]:
        """group → what may stand behind its name."""
        found: dict[str, list[str]] = {}
        for name in self.commands:
            group, _, inner = name.partition(" ")
            if inner:
                found.setdefault(group, []).append(inner)
        return found

    @property
    def inner_first(self) -> list[tuple[str, Sequence[str]]]:
        """The commands with their options, those of groups first: the first pattern that fits is taken."""
        return sorted(self.commands.items(), key=lambda row: " " not in row[0])


def completion(ctx: Context, shell: str, commands: Mapping[str, Sequence[str]]) -> int:
    """A completion script: commands, options, runtimes and versions, recent ids. Silent, and without network."""
    from builder.cli.commands.plan import catalog_of
    from builder.cli.runtimes import RUNTIMES

    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in scripts:
        raise mistake(f'"{shell}" has no completion here; it takes {", ".join(scripts)}', where="SHELL")
    settings = ctx.settings()
    versions = dict.fromkeys(row.version for row in catalog_of(settings).toolchains())
    targets = sorted({row.target for row in catalog_of(settings).toolchains() if row.target})
    values = {"--runtime": RUNTIMES, "--runtime-version": tuple(versions), "--target": tuple(targets)}
    words = Words(prog=ctx.prog, commands=commands, values=values, recent=shlex.quote(str(recent_path(settings))))
    ctx.out.line(scripts[shell](words))
    return 0


def _bash(words: Words) -> str:
    prog = words.prog
    cases = "\n".join(f'    "{name} "*) words="{" ".join(options)}" ;;' for name, options in words.inner_first)
    groups = "\n".join(
        f'    "2 {group} "|"2 {group} "[!-]*) COMPREPLY=( $(compgen -W "{" ".join(inner)}" -- "$current") ); return ;;'
        for group, inner in words.groups.items()
    )
    values = "\n".join(
        f'    {option}) COMPREPLY=( $(compgen -W "{" ".join(known)}" -- "$current") ); return ;;'
        for option, known in words.values.items()
    )
    return f"""# bash completion of {prog}; load it with: source <({prog} completion bash)
_ignite_builder() {{
  local words="" current="${{COMP_WORDS[COMP_CWORD]}}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=( $(compgen -W "{" ".join(words.first)}" -- "$current") )
    return
  fi
  case "$COMP_CWORD ${{COMP_WORDS[1]}} $current" in
{groups}
  esac
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
  esac
  case "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}} " in
{cases}
  esac
  case "${{COMP_WORDS[1]}} $current" in
    *" -"*) COMPREPLY=( $(compgen -W "$words" -- "$current") ) ;;
    {"|".join(f'"{name} "*' for name in TAKES_ID)})
      COMPREPLY=( $(compgen -W "$(cut -d ' ' -f 1 {words.recent} 2>/dev/null)" -- "$current") ) ;;
    *) COMPREPLY=( $(compgen -f -- "$current") ) ;;
  esac
}}
complete -o filenames -F _ignite_builder {prog}"""


def _zsh(words: Words) -> str:
    prog = words.prog
    cases = "\n".join(f'    "{name} "*) options=({" ".join(options)}) ;;' for name, options in words.inner_first)
    groups = "\n".join(
        f'    "3 {group} "|"3 {group} "[^-]*) compadd -- {" ".join(inner)}; return ;;'
        for group, inner in words.groups.items()
    )
    values = "\n".join(
        f"    {option}) compadd -- {' '.join(known)}; return ;;" for option, known in words.values.items()
    )
    return f"""#compdef {prog}
# zsh completion of {prog}; load it with: source <({prog} completion zsh)
_ignite_builder() {{
  local -a options ids lines
  if (( CURRENT == 2 )); then
    compadd -- {" ".join(words.first)}
    return
  fi
  case "$CURRENT $words[2] $PREFIX" in
{groups}
  esac
  case "$words[CURRENT-1]" in
{values}
  esac
  case "$words[2] $words[3] " in
{cases}
  esac
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $options
  elif [[ "$words[2]" == ({"|".join(TAKES_ID)}) ]]; then
    lines=(${{(f)"$(cat {words.recent} 2>/dev/null)"}})
    ids=(${{lines%% *}})
    compadd -d lines -- $ids
  else
    _files
  fi
}}
compdef _ignite_builder {prog}"""


def _fish(words: Words) -> str:
    prog = words.prog
    lines = [f"# fish completion of {prog}; load it with: {prog} completion fish | source"]
    lines.append(f"complete -c {prog} -n __fish_use_subcommand -f -a '{' '.join(words.first)}'")
    groups, inner = words.groups, {each for names in words.groups.values() for each in names}
    for group, names in groups.items():
        lines.append(f"complete -c {prog} -n '{_seen(group)}; and not {_seen(*names)}' -f -a '{' '.join(names)}'")
    for name, options in words.commands.items():
        group, _, rest = name.partition(" ")
        seen = f"{_seen(group)}; and {_seen(rest)}" if rest else _seen(group)
        if name in inner:  # `ls` is not what `secret ls` is
            seen += f"; and not {_seen(*groups)}"
        for option in options:
            known = words.values.get(option)
            takes = f" -x -a '{' '.join(known)}'" if known else ""
            if option.startswith("--"):
                lines.append(f"complete -c {prog} -n '{seen}' -l {option[2:]}{takes}")
    # A tab stands between a word and its description.
    lines.append(f"function __ignite_builder_recent; cat {words.recent} 2>/dev/null | string replace ' ' \\t; end")
    lines.append(f"complete -c {prog} -n '{_seen(*TAKES_ID)}' -f -a '(__ignite_builder_recent)'")
    return "\n".join(lines)


def _seen(*names: str) -> str:
    """fish: one of these words stands in the line."""
    return f"__fish_seen_subcommand_from {' '.join(names)}"
