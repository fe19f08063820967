def main(payload, ctx):
    return payload


def run():
    pass
