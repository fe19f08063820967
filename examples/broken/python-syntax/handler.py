def handler(payload, ctx):
    return {"broken": (1 + 2}
