"""What the builds of a history build, and what becomes of it when nothing dies."""

from __future__ import annotations

import base64

from tests.build_fixtures import tar_of
from tests.chaos.schedule import Submit
from tests.crash_fixtures import handler

LINES = {"quick": 3, "slow": 30, "failing": 5, "chatty": 3000, "stubborn": 10}
"""Lines that a script prints, numbered from 0."""

_PAUSE_S = {"slow": 0.1, "stubborn": 0.1}
_SCRIPT = """\
# {mark}
import os, signal, sys, time
if {stubborn} and os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        while True:
            time.sleep(60)
    os._exit(0)
for number in range({lines}):
    print("line", number, flush=True)
    time.sleep({pause})
if {failing}:
    sys.exit("this source has to fail")
with open("/work/out/server.py", "w") as server:
    server.write("MARK = {mark}")
"""


def has_to_fail(submit: Submit) -> bool:
    """Whether the source is at fault."""
    return submit.script == "failing"


def compiled(submit: Submit) -> dict[str, object]:
    """`code.compile` of the request."""
    if submit.script == "python":
        source = handler(str(submit.mark), functions=50)
        return {"runtime": {"python": {}}, "sourceCode": base64.b64encode(source.encode()).decode()}
    script = _SCRIPT.format(
        mark=submit.mark,
        stubborn=submit.script == "stubborn",
        failing=submit.script == "failing",
        lines=LINES[submit.script],
        pause=_PAUSE_S.get(submit.script, 0),
    )
    return {"archive": base64.b64encode(tar_of({"build.py": script})).decode()}
