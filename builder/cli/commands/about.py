"""`config`, `reasons`, `completion`: what this program is set to, what its words mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.safe import shown
from builder.cli.stop import mistake
from builder.errors import REASONS


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


def completion(ctx: Context, shell: str, commands: Mapping[str, Sequence[str]]) -> int:
    """A completion script: commands and their options. Silent, and without network."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in scripts:
        raise mistake(f'"{shell}" has no completion here; it takes {", ".join(scripts)}', where="SHELL")
    ctx.out.line(scripts[shell](ctx.prog, commands))
    return 0


def _bash(prog: str, commands: Mapping[str, Sequence[str]]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(options)}" ;;' for name, options in commands.items())
    return f"""# bash completion of {prog}; load it with: source <({prog} completion bash)
_ignite_builder() {{
  local words="" current="${{COMP_WORDS[COMP_CWORD]}}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=( $(compgen -W "{" ".join(commands)}" -- "$current") )
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$current" in
    -*) COMPREPLY=( $(compgen -W "$words" -- "$current") ) ;;
    *) COMPREPLY=( $(compgen -f -- "$current") ) ;;
  esac
}}
complete -o filenames -F _ignite_builder {prog}"""


def _zsh(prog: str, commands: Mapping[str, Sequence[str]]) -> str:
    cases = "\n".join(f"    {name}) options=({' '.join(options)}) ;;" for name, options in commands.items())
    return f"""#compdef {prog}
# zsh completion of {prog}; load it with: source <({prog} completion zsh)
_ignite_builder() {{
  local -a options
  if (( CURRENT == 2 )); then
    compadd -- {" ".join(commands)}
    return
  fi
  case "$words[2]" in
{cases}
  esac
  if [[ "$PREFIX" == -* ]]; then
    compadd -- $options
  else
    _files
  fi
}}
compdef _ignite_builder {prog}"""


def _fish(prog: str, commands: Mapping[str, Sequence[str]]) -> str:
    lines = [f"# fish completion of {prog}; load it with: {prog} completion fish | source"]
    lines.append(f"complete -c {prog} -n __fish_use_subcommand -f -a '{' '.join(commands)}'")
    for name, options in commands.items():
        for option in options:
            if option.startswith("--"):
                lines.append(f"complete -c {prog} -n '__fish_seen_subcommand_from {name}' -l {option[2:]}")
    return "\n".join(lines)
