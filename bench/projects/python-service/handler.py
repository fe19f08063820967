"""A handler with the dependencies that many have, used by the measurements."""

import io

import pandas
import requests
from PIL import Image

REVISION = "0"


def handler(payload, ctx):
    frame = pandas.read_csv(io.BytesIO(payload))
    size = Image.new("RGB", (8, 8)).size
    return {"rows": len(frame), "size": size, "requests": requests.__version__, "revision": REVISION}
