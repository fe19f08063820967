"""`make demo`: what the machine can build is built, run, called and answered from the cache; the rest is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from examples.demo import DEMO
from tests import uids
from tests.kept import SHARED

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1800)  # seven builds of empty caches, on a machine that has others at work
def test_the_demo_shows_each_example_or_says_why_not(kept: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ignite-builder-demo-", dir="/var/tmp") as name:
        node = Path(name) / "node"
        node.mkdir()
        for folder in (node.parent, node):  # the build user enters both
            folder.chmod(0o755)
        for shared in SHARED:
            (node / shared).symlink_to(kept / shared)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("IGNITE_BUILDER_")}
        environ |= {"IGNITE_BUILDER_NODE_DIR": str(node), "IGNITE_BUILDER_BUILD_UID": str(uids.SERVER)}
        demo = subprocess.Popen(
            [sys.executable, "-m", "examples.demo"],
            cwd=ROOT,
            env=environ | {"XDG_CONFIG_HOME": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = demo.communicate()
        finally:
            if demo.poll() is None:  # it ends what it started
                demo.send_signal(signal.SIGINT)
                demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    table = said.rpartition("EXAMPLE")[2].splitlines()[1:]
    shown = {line.split()[0] for line in table if line.strip()}
    named = re.search(r"no toolchain for ([^(\n]+)", said)
    left = set(named[1].strip().split(", ")) if named else set()
    assert shown | left == {one.name for one in DEMO} and "python-hello" in shown - left, said
    assert said.count("POST / -> ") == len(shown)
