"""A dependency without a wheel: its sdist is built alone, beside nothing of this folder."""

import docopt

USAGE = "Usage: ship [--fast] <name>"


def handler(payload: bytes, ctx: dict) -> dict:
    found = docopt.docopt(USAGE, argv=payload.decode().split(), help=False)
    return {"name": found["<name>"], "fast": found["--fast"]}
