"""Packages with C code and without a wheel that fits: built from their sdists in the image with a C compiler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from builder.bases.make import build_base
from builder.data import runtimes_dir
from builder.images.store import images_of
from builder.local import run
from tests.build_fixtures import CALLER, Server, zip_of
from tests.e2e.conftest import Start

pytestmark = pytest.mark.e2e

VERSIONS = ("3.13", "3.14")
UJSON = "ujson==5.8.0 --hash=sha256:78e318def4ade898a461b3d92a79f9441e7e0e4d2ad5419abed4336d702c7425\n"
HANDLER = """\
import sys, ujson

def handler(payload, ctx):
    found = ujson.loads('{"a": [1, 2.5, "\\\\u00e9"]}')
    return ["%d.%d" % sys.version_info[:2], ujson.__file__.endswith(".so"), found]
"""


@pytest.fixture(scope="module")
def server(start: Start, kept: Path) -> Iterator[Server]:
    """A server whose node has the images in which sdists are built."""
    for version in VERSIONS:
        for name in (f"python-{version}", f"python-{version}-build"):
            build_base(images_of(str(kept)), name, runtimes_dir() / "python")
    with start(own_caches=False, slots=1) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
def test_c_code_is_built_for_the_python_that_runs_it(server: Server, version: str) -> None:
    """The releases of ujson before 5.9 have wheels up to Python 3.12."""
    files = {"handler.py": HANDLER, "requirements.txt": UJSON, ".python-version": version}
    build = server.build(f"compiled-{version.replace('.', '-')}", zip_of(files), "python")
    with run.started(server.embedded.settings, build) as running:
        answer = httpx.post(running.url + "/", content="", headers=CALLER, timeout=120, trust_env=False)
    assert answer.json() == [version, True, {"a": [1, 2.5, "é"]}]
