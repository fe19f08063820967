"""`python -m bench.serving`: an embedded server in a process of its own, with the settings that it is handed.

It prints a line of JSON, {"url", "token", "default_versions"}, once a node lives, and ends with its standard input.
"""

from __future__ import annotations

import json
import sys

from builder import config
from builder.local import embedded


def main() -> None:
    """Serve until standard input ends."""
    with embedded.start(config.load({}).settings) as running:
        found = {"url": running.url, "token": running.token, "default_versions": running.settings.default_versions}
        print(json.dumps(found), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
