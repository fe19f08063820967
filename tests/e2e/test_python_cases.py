"""Python programs that are easily served wrong, end to end: what only a real start shows."""

from __future__ import annotations

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
from tests.build_fixtures import Server, tar_gz_of

pytestmark = pytest.mark.e2e
PRINTS = """\
import multiprocessing, os, sys

print("start \\u00e9\\u4e2d")


def handler(payload, ctx):
    os.write(1, b"\\xff\\xfe\\x00bin\\n")
    sys.stdout.write("x" * (5 << 20))
    sys.stdout.flush()
    for number in range(20000):
        print("line", number)
    with multiprocessing.Lock(), multiprocessing.Pool(2) as pool:
        return pool.map(abs, [-1, int(payload)])
"""


def test_a_handler_may_use_processes_and_print_what_it_likes(server: Server) -> None:
    done = server.wait(server.submit("prints", PRINTS, "python", build_args={"start_check": "require"}))
    assert done.start_check.status == pb.START_STATUS_LISTENS, done.failure
    with run.started(server.embedded.settings, done) as app:
        for number in range(8):  # a pool ends its processes by a signal, most of the time
            answer = httpx.post(app.url, content=b"-%d" % number, trust_env=False, timeout=120)
            assert answer.json() == [1, number]


def test_a_program_that_ends_at_once_is_a_warning(server: Server) -> None:
    source = tar_gz_of({"main.py": "print('an object alone serves nothing')\n"})
    done = server.wait(server.submit("ends", source, "python", build_args={"start_check": "warn"}))
    assert (done.status, done.start_check.status) == (pb.BUILD_STATUS_SUCCEEDED, pb.START_STATUS_EXITED)
    assert "exited 0 before it listened on $PORT" in server.log(done.build_id).text
