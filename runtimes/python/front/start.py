"""Become a command, with the variables that its words name: $NAME, ${NAME} and ${NAME:-default}. No shell.

    start.py [NAME=VALUE...] -- WORD...

A word stays one word whatever its variables hold. An unset variable is empty; PORT is 80 where the platform sets none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?-([^}]*))?\})", re.ASCII)


def expanded(word: str, env: Mapping[str, str]) -> str:
    """A word with its variables' values."""
    return VARIABLE.sub(lambda found: env.get(found[1] or found[2]) or found[3] or "", word)


def main(words: list[str]) -> None:
    """Replace this process."""
    env = {"PORT": "80", **os.environ}
    at = words.index("--")
    for name, _, value in (word.partition("=") for word in words[:at]):
        env[name] = expanded(value, env)
    argv = [expanded(word, env) for word in words[at + 1 :]]
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        print(f"ignite: cannot start {argv[0]}: {error.strerror}", file=sys.stderr)  # the start check knows the words
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None


if __name__ == "__main__":
    main(sys.argv[1:])
