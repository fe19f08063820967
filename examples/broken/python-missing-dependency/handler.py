import numpyy


def handler(payload, ctx):
    return numpyy.__version__
