"""The examples of docs/api.md, each run as it stands there, in order, against a real `ignite-builder serve`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from builder.contract import routes
from builder.local import embedded
from tests.serve_fixtures import TOKENS, serving

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
OPERATOR = '{ token = "t-operator", scopes = ["operate"] }'


def test_every_route_has_an_example_that_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    script = "\n".join(["set -eu -o pipefail", *blocks])
    with embedded.private_redis(tmp_path / "redis") as (_, url):
        tokens = f"[{', '.join([*TOKENS.values(), OPERATOR])}]"
        with serving(tmp_path / "serve", url, {"tokens": tokens}) as serve:
            environ = {
                "PATH": os.environ["PATH"],
                "API": serve.url,
                "TOKEN": "t-both",
                "NODE_TOKEN": "t-worker-1",
                "WATCH_TOKEN": "t-watch",
                "OPERATOR_TOKEN": "t-operator",
            }
            (tmp_path / "here").mkdir()
            ran = subprocess.run(
                ["bash", "-xc", script],
                check=False,
                cwd=tmp_path / "here",
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            called = set(re.findall(r'ignite_api_calls_total\{rpc="(\w+)"', serve.ask("GET", "/metrics").text))
    names = {method.name for service in routes.services() for method in service.methods}
    assert called == (names - routes.NOT_YET) | {"Source", "Archive", "SourceUrl"}
    assert "event: eof" in ran.stdout and "COMPILE_FAILED" not in ran.stdout
    for path in ("/version", "/healthz", "/readyz", "/metrics"):
        assert path in script
