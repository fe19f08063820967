"""The smallest handler: what is left of a build when the toolchain has little to do."""

REVISION = "0"


def handler(payload, ctx):
    return {"revision": REVISION}
