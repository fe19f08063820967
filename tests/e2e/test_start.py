"""Artifacts that start, that need something, that listen where nobody reaches them; and `run` of the same."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.local import run
from tests.build_fixtures import GO_MAIN, PYTHON_HANDLER, Server, tar_gz_of

pytestmark = pytest.mark.e2e
NEEDS_KEY = "import os\nKEY = os.environ['API_KEY']\ndef handler(payload, ctx):\n    return KEY\n"
LOOPBACK = """\
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", 5000), SimpleHTTPRequestHandler).serve_forever()
"""
NO_LIBRARY = "import ctypes\nctypes.CDLL('libabsent.so.5')\ndef handler(payload, ctx):\n    return ''\n"
WHO = """\
import os
def handler(payload, ctx):
    try:
        open("/app/src/x", "w")
        root = "writable"
    except OSError as error:
        root = error.strerror
    return {"uid": os.getuid(), "gid": os.getgid(), "home": os.environ["HOME"], "root": root}
"""


def built(server: Server, name: str, text: str, mode: str = "warn", **fields: Any) -> pb.Build:
    return server.wait(server.submit(name, text, build_args={"start_check": mode}, **fields))


@pytest.mark.parametrize(("runtime", "text"), [("python", PYTHON_HANDLER), ("go", GO_MAIN)])
def test_cold_start_and_memory_join_the_record(server: Server, runtime: str, text: str) -> None:
    done = built(server, f"starts-{runtime}", text, "require", runtime=runtime)
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
    found = done.start_check
    assert found.status == pb.START_STATUS_LISTENS and not found.message
    assert found.cold_start_ms > 0 and found.memory_bytes > 256 * 1024
    assert "start check: listened on $PORT after" in server.log(done.build_id).text
    server.assert_nothing_left()


def test_a_variable_that_lacks_is_a_warning_and_run_takes_it(server: Server) -> None:
    done = built(server, "needs-key", NEEDS_KEY, runtime="python")
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
    assert done.start_check.status == pb.START_STATUS_EXITED
    assert done.start_check.message.endswith(": KeyError: 'API_KEY'")
    again = built(server, "needs-key", NEEDS_KEY, runtime="python")
    assert again.from_cache_of == done.build_id and again.start_check == done.start_check
    assert "start check: the program exited 1" in server.log(again.build_id).text
    required = built(server, "needs-key", NEEDS_KEY, "require", runtime="python")
    assert (required.failure.reason, required.failure.error_class) == ("StartFailed", "user_code")
    settings = server.embedded.settings
    with pytest.raises(BuildError) as caught, run.started(settings, done):
        pass
    assert caught.value.reason == "StartFailed" and caught.value.said[0] == "KeyError: 'API_KEY'"
    assert not [line for line in caught.value.said if "serve.py" in line or "importlib" in line]
    with run.started(settings, done, {"API_KEY": "k-1"}) as app:
        assert httpx.post(app.url, timeout=120, trust_env=False).text == "k-1"


def test_a_server_on_the_loopback_is_told_where_it_listens(server: Server) -> None:
    source = tar_gz_of({"main.py": LOOPBACK})
    done = server.wait(server.submit("loopback", source, "python", build_args={"start_check": "warn"}))
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
    assert done.start_check.status == pb.START_STATUS_SILENT and "127.0.0.1:5000" in done.start_check.message
    with pytest.raises(BuildError, match=r"listens on 127\.0\.0\.1:5000"), run.started(server.embedded.settings, done):
        pass


def test_a_shared_library_that_lacks_ends_the_build(server: Server) -> None:
    done = built(server, "no-library", NO_LIBRARY, runtime="python")
    assert done.failure.reason == "StartFailed" and "libabsent.so.5" in done.failure.message


def test_an_import_that_nothing_provides_ends_the_build_in_every_mode(server: Server) -> None:
    done = built(server, "no-module", "import absent_module\n" + PYTHON_HANDLER, "off", runtime="python")
    assert (done.failure.reason, done.failure.where) == ("StartFailed", "handler.py:1")


def test_an_unknown_mode_is_refused_before_there_is_a_build(server: Server) -> None:
    with pytest.raises(Exception, match="it takes off, warn, require"):
        built(server, "mode", PYTHON_HANDLER, "maybe")


def test_run_has_the_user_the_home_and_the_root_of_the_platform(server: Server) -> None:
    done = built(server, "who", WHO, "off", runtime="python")
    assert not done.HasField("start_check")
    with run.started(server.embedded.settings, done) as app:
        found = httpx.post(app.url, timeout=120, trust_env=False).json()
    assert found == {"uid": 65532, "gid": 65532, "home": "/home/nonroot", "root": "Read-only file system"}
