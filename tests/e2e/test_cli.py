"""The program as a process against a real HTTP server on loopback: broken streams, signals, terminals, closed pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.cli import format as fmt
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.cli_fixtures import build, failed_build, line, sse

pytestmark = pytest.mark.e2e

BUILD_ID = "k7m2xq9d4t1zv6wh5r3p"
PROGRAM = [sys.executable, "-c", "import sys; from builder.cli import main; sys.exit(main())"]
REFERENCE = "reg.example.com/acme/hello-go@sha256:" + "3b" * 32
DONE = build(size_bytes=9_856_614, image_refs=[REFERENCE])
GONE = build(status=pb.BUILD_STATUS_CANCELLED)
PATIENCE_S = 300.0
"""For what surely comes, on a machine that does other things as well: a start alone may take 10 s there."""
PHASES = ("FETCH_SOURCE", "DETECT", "PLAN", "BUILD", "PACKAGE", "PUSH")


@dataclass
class Api:
    """A build service that plays a script. `drops` are the sequences after which a log connection breaks."""

    lines: list[pb.LogEntry]
    ended: pb.Build = field(default_factory=lambda: DONE)
    drops: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    hold: threading.Event = field(default_factory=threading.Event)
    """The log's end is sent once this is set; a cancel does, unless it is `cancel_is_slow`."""
    kept: int = 0
    """How many lines the record counts; 0: all of `lines`."""
    silent_s: float = 0.0
    """Before the first line of a log."""
    cancel_works: bool = True
    cancel_is_slow: bool = False
    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    over: bool = False
    url: str = ""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def record(self) -> pb.Build:
        count = self.kept or len(self.lines)
        return self.ended if self.over else build(status=pb.BUILD_STATUS_RUNNING, ended_at_ms=0, log_lines=count)

    def calls(self, part: str) -> int:
        return len([call for call in self.seen if part in call])


class Handler(BaseHTTPRequestHandler):
    """One request of the script."""

    api: Api
    timeout = PATIENCE_S
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.api.seen.append(f"GET {self.path}")
        if "/logs/stream" in self.path:
            self._stream()
        elif self.path.startswith(f"/v1/ignite/builds/{BUILD_ID[:4]}"):
            self._answer(200, codec.dump(self.api.record()))
        elif self.path.startswith("/v1/ignite/builds?"):
            self._answer(200, codec.dump(pb.ListBuildsResponse(builds=[self.api.record()])))
        else:
            self._answer(404, b'{"code": "NOT_FOUND", "message": "no such build", "details": []}')

    def do_POST(self) -> None:
        self.api.seen.append(f"POST {self.path}")
        body = self._body()
        self.api.bodies.append(body)
        if self.path.endswith("/contexts"):
            self._answer(200, json.dumps({"contextId": "c1", "sizeBytes": str(len(body))}).encode())
        elif self.path.endswith("/cancel"):
            if not self.api.cancel_works:
                # Not a 5xx: about a known build that is asked again for ten minutes.
                self._answer(403, b'{"code": "PERMISSION_DENIED", "message": "reads only", "details": []}')
                return
            self.api.ended = GONE
            self._answer(200, codec.dump(self.api.record()))
            if not self.api.cancel_is_slow:
                self.api.hold.set()
        else:
            self._answer(200, codec.dump(pb.CreateBuildResponse(build_id=BUILD_ID, build=self.api.record())))

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        after = self.headers.get("last-event-id", "")
        self.api.resumed.append(after)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.flush()
        time.sleep(self.api.silent_s)
        for entry in self.api.lines:
            if entry.sequence <= int(after or 0):
                continue
            data = sse([entry], eof=False)
            if self.api.drops and self.api.drops[0] == entry.sequence:
                self.api.drops.pop(0)
                self.wfile.write(data[: len(data) // 2])
                return
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(self.api.pause_s)
        self.api.hold.wait()
        self.api.over = True
        self.wfile.write(sse([]))


class Server(ThreadingHTTPServer):
    """Waits for its threads when it closes, so that none speaks into a later test; clients may go at any time."""

    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@pytest.fixture
def serve() -> Iterator[Callable[[Api], Api]]:
    servers = []

    def start(api: Api) -> Api:
        server = Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"api": api}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append((server, api))
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        return api

    yield start
    # A program that a failed test left running would keep its connection, and be the next test's warning.
    for server, api in servers:
        for process in api.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        api.hold.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "hello-go"
    root.mkdir()
    (root / "go.mod").write_text("module example.com/hello\n")
    (root / "main.go").write_text("package main\n")
    return root


def environ(api: Api, home: Path, **more: str) -> dict[str, str]:
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "IGNITE_BUILDER_SERVER": api.url,
        "IGNITE_BUILDER_TOKEN": "canary-token",
        **more,
    }


def start(api: Api, home: Path, *argv: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*PROGRAM, *argv],
        env=environ(api, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    api.processes.append(process)
    return process


def run(api: Api, home: Path, *argv: str) -> tuple[int, str, str]:
    out, err = (process := start(api, home, *argv)).communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def numbered(count: int) -> list[pb.LogEntry]:
    return [line(number, f"line {number}", number * 10) for number in range(1, count + 1)]


def finished(api: Api) -> Api:
    api.hold.set()
    return api


def test_a_log_dropped_twice_is_on_stdout_once_and_in_order(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(finished(Api(lines=numbered(60), drops=[20, 42])))
    code, out, err = run(api, tmp_path, "logs", "-f", "k7m2")
    assert code == 0
    assert re.findall(r"line (\d+)$", out, re.M) == [str(number) for number in range(1, 61)]
    assert api.resumed == ["", "19", "41"]
    assert err.splitlines() == [
        "-- connection lost after line 19; trying again in 1s",
        "-- connected again at line 20; none lost, none doubled",
        "-- connection lost after line 41; trying again in 1s",
        "-- connected again at line 42; none lost, none doubled",
    ]


def test_logs_from_raw_and_json(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(finished(Api(lines=numbered(9), over=True)))
    assert run(api, tmp_path, "logs", "k7m2", "--from", "8", "--raw") == (0, "line 8\nline 9\n", "")
    _, out, _ = run(api, tmp_path, "logs", "k7m2", "--json")
    assert [json.loads(row)["sequence"] for row in out.splitlines()] == [str(number) for number in range(1, 10)]


def test_logs_of_a_running_build_ends_where_the_log_ends(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(5)))
    code, out, _ = run(api, tmp_path, "logs", "k7m2")
    assert code == 0 and len(out.splitlines()) == 5


def test_logs_waits_for_a_server_that_takes_its_time(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(5), silent_s=5.0))
    code, out, err = run(api, tmp_path, "logs", "k7m2")
    assert code == 0 and len(out.splitlines()) == 5, err


def test_logs_says_when_it_got_less_than_there_is(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(5), kept=7))
    code, out, err = run(api, tmp_path, "logs", "k7m2")
    assert code == 0 and len(out.splitlines()) == 5
    assert err == f"-- stopped after line 5 of 7: no more came; go on: ignite-builder logs {BUILD_ID} --from 6\n"


def test_a_build_puts_one_line_on_stdout(serve: Callable[[Api], Api], tmp_path: Path, source: Path) -> None:
    api = serve(finished(Api(lines=numbered(3))))
    code, out, err = run(api, tmp_path, "build", str(source), "-vv")
    assert (code, out) == (0, REFERENCE + "\n")
    assert err.splitlines()[0].endswith(f"on {api.url}")
    assert "\x1b" not in err and "canary" not in out + err
    body = json.loads(api.bodies[0])
    assert body["name"] == "hello-go" and body["idempotencyKey"] and body["code"]["compile"]["archive"]
    code, out, _ = run(api, tmp_path, "get")
    assert code == 0 and out.startswith(f"SUCCEEDED  {BUILD_ID}"), "readers take the last build started here"


def test_a_large_source_goes_up_first(serve: Callable[[Api], Api], tmp_path: Path, source: Path) -> None:
    (source / "data.bin").write_bytes(os.urandom(5 * 1024 * 1024))
    api = serve(finished(Api(lines=numbered(1))))
    assert run(api, tmp_path, "build", str(source))[0] == 0
    assert len(api.bodies[0]) > 5 * 1024 * 1024
    assert json.loads(api.bodies[1])["sourceRef"] == {"contextId": "c1"}


@pytest.mark.parametrize(
    ("reason", "error_class", "code"), [("CompileFailed", "user_code", 1), ("WorkerLost", "platform", 75)]
)
def test_a_failed_build_ends_in_next_and_puts_nothing_on_stdout(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path, reason: str, error_class: str, code: int
) -> None:
    record = failed_build(BUILD_ID, 900, pb.Failure(reason=reason, error_class=error_class, message="m"))
    api = serve(finished(Api(lines=numbered(3), ended=record)))
    got, out, err = run(api, tmp_path, "build", str(source))
    assert (got, out) == (code, "")
    assert err.splitlines()[-1].startswith("next   ")
    got, out, _ = run(api, tmp_path, "build", str(source), "--json")
    assert got == code
    assert codec.parse(pb.Build, out.encode()).failure.reason == reason
    assert run(api, tmp_path, "get", "k7m2")[0] == 0
    assert run(api, tmp_path, "get", "k7m2", "--exit-status")[0] == code


def test_detach_prints_the_id_only(serve: Callable[[Api], Api], tmp_path: Path, source: Path) -> None:
    api = serve(Api(lines=[]))
    code, out, _ = run(api, tmp_path, "build", str(source), "--detach")
    assert (code, out) == (0, BUILD_ID + "\n")
    assert api.calls("/cancel") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_build_cancels_it(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path, number: signal.Signals
) -> None:
    api = serve(Api(lines=numbered(3)))
    process = start(api, tmp_path, "build", str(source))
    until(lambda: api.calls("/logs/stream") == 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "")
    assert "cancelling k7m2xq9d; Ctrl-C again leaves now, the cancel goes on" in err
    assert err.splitlines()[-1].startswith("CANCELLED  k7m2xq9d")
    assert api.calls("/cancel") == 1


def test_a_second_interrupt_leaves_at_once_and_the_cancel_has_landed(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path
) -> None:
    api = serve(Api(lines=numbered(3), cancel_is_slow=True))
    process = start(api, tmp_path, "build", str(source))
    until(lambda: api.calls("/logs/stream") == 1)
    process.send_signal(signal.SIGINT)
    until(lambda: api.calls("/cancel") == 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130


def test_a_cancel_that_cannot_land_is_9_with_the_command(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path
) -> None:
    api = serve(Api(lines=numbered(3), cancel_works=False))
    process = start(api, tmp_path, "build", str(source))
    until(lambda: api.calls("/logs/stream") == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 9
    assert err.splitlines()[-1].endswith("ignite-builder cancel k7m2xq9d")


def test_a_gone_terminal_detaches(serve: Callable[[Api], Api], tmp_path: Path, source: Path) -> None:
    api = serve(Api(lines=numbered(3)))
    process = start(api, tmp_path, "build", str(source))
    until(lambda: api.calls("/logs/stream") == 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert api.calls("/cancel") == 0


def test_interrupting_logs_only_stops_watching(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(43)))
    process = start(api, tmp_path, "logs", "-f", "k7m2")
    assert process.stdout is not None
    seen = [process.stdout.readline() for _ in range(43)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and "line 43" in seen[-1]
    assert err == f"-- stopped after line 43; the build goes on: ignite-builder logs -f {BUILD_ID} --from 44\n"
    assert api.calls("/cancel") == 0


def test_a_closed_pipe_ends_silently(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(200), pause_s=0.01))
    process = start(api, tmp_path, "logs", "-f", "k7m2")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == ""


def test_cancel_waits_for_the_end_and_knows_one_that_was_over(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=numbered(2)))
    code, out, err = run(api, tmp_path, "cancel", "k7m2")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1].startswith("CANCELLED  k7m2xq9d")
    code, _, err = run(api, tmp_path, "cancel", "k7m2")
    assert code == 0 and err == "k7m2xq9d had ended before: CANCELLED\n"


def test_refused_and_lost_servers(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    api = serve(Api(lines=[]))
    code, out, _ = run(api, tmp_path, "get", "zzzz", "--json")
    assert code == 5 and json.loads(out)["reason"] == "NotFound"
    nowhere = Api(lines=[], url="http://127.0.0.1:9")
    code, out, err = run(nowhere, tmp_path, "ls", "--json")
    assert code == 9 and json.loads(out)["reason"] == "Unavailable"
    assert "LOST  Unavailable" in err


def test_a_settings_file_of_the_current_folder_changes_nothing(tmp_path: Path) -> None:
    for name in ("config.toml", "ignite-builder.toml", ".ignite-builder/config.toml"):
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('server = "http://evil.example.com"\n')
    env = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), "LANG": "C.UTF-8"}
    done = subprocess.run([*PROGRAM, "config"], env=env, cwd=tmp_path / "here", capture_output=True, check=True)
    assert b"evil" not in done.stdout


SHELLS = {
    # Each answers what Tab would offer after these words, one offer a line.
    "bash": "source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
    ' _ignite_builder; printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": "compdef() {{ :; }}; compadd() {{ while [[ $1 != -- ]]; do shift; done; shift; print -l -- $@; }};"
    " source {script}; words=({words}); CURRENT=$#words; PREFIX=$words[-1]; _ignite_builder",
    "fish": "source {script}; complete -C '{line}'",
}


@pytest.mark.parametrize("shell", sorted(SHELLS))
@pytest.mark.parametrize(
    ("typed", "offers"),
    [
        (("bu",), "build"),
        (("build", "--no-c"), "--no-cache"),
        (("build", "--runtime", "g"), "go"),
        (("build", "--runtime-version", "1.2"), "1.26"),
        (("get", "k7m2"), BUILD_ID),
        (("secret", "s"), "set"),
        (("secret", "''"), "ls"),
        (("secret", "set", "--us"), "--username"),
        (("secret", "--js"), "--json"),
        (("nodes", "drain", "--un"), "--undo"),
    ],
)
def test_completion_offers(shell: str, typed: tuple[str, ...], offers: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    data = tmp_path / "data"
    data.mkdir()
    (data / "recent").write_text(f"{BUILD_ID} hello-go SUCCEEDED\n")
    script = tmp_path / "completion"
    env = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "IGNITE_BUILDER_DATA_DIR": str(data),
    }
    done = subprocess.run([*PROGRAM, "completion", shell], env=env, capture_output=True, check=True)
    script.write_bytes(done.stdout)
    words = " ".join(("ignite-builder", *typed))
    asked = SHELLS[shell].format(script=script, words=words, line=words)
    loaded = subprocess.run([program, "-c", asked], env=env, capture_output=True, text=True, check=True)
    assert offers in [line.split("\t")[0] for line in loaded.stdout.splitlines()], loaded
    assert loaded.stderr == ""
    if shell == "fish" and offers == BUILD_ID:
        assert "hello-go SUCCEEDED" in loaded.stdout


@dataclass
class Screen:
    """A terminal of a given size: keeps rows, fails when a row wraps or the cursor leaves the top."""

    columns: int
    rows: int
    lines: list[str] = field(default_factory=list)
    row: str = ""
    visible: bool = True
    sequences: set[str] = field(default_factory=set)
    lowest_top: int = 0

    def feed(self, text: str) -> None:
        for part in re.split(r"(\x1b\[[?0-9;]*[A-Za-z]|\r?\n)", text):
            if part.startswith("\x1b"):
                self._sequence(part)
            elif part in ("\n", "\r\n"):
                self.lines.append(self.row)
                self.row = ""
            else:
                self.row += part
                assert "\x1b" not in self.row
                assert fmt.cell_len(self.row) <= self.columns, f"a row of the live view wraps: {self.row!r}"

    def _sequence(self, part: str) -> None:
        self.sequences.add(part[-1])
        if part in ("\x1b[?25l", "\x1b[?25h"):
            self.visible = part.endswith("h")
        elif part.endswith("F"):
            up = int(part[2:-1])
            assert up <= min(len(self.lines), self.rows - 1), "the region is higher than the screen"
            del self.lines[len(self.lines) - up :]
        else:
            assert part == "\x1b[J" or part.endswith("m"), f"an unexpected sequence {part!r}"


def on_terminal(
    api: Api, home: Path, columns: int, rows: int, *argv: str, interrupt_at: bytes = b"", **more: str
) -> tuple[int, str]:
    """Run with stderr on a terminal of this size and stdout in a file; answers the code and what the terminal got.

    The program gets SIGINT once the terminal showed `interrupt_at`.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with (home / "stdout").open("wb") as stdout:
        process = subprocess.Popen(
            [*PROGRAM, *argv], env=environ(api, home, **more), stdout=stdout, stderr=follower, stdin=subprocess.DEVNULL
        )
    os.close(follower)
    data = b""
    while process.poll() is None or select.select([leader], [], [], 0.2)[0]:
        try:
            if select.select([leader], [], [], 0.2)[0]:
                data += os.read(leader, 65536)
                if interrupt_at and interrupt_at in data:
                    process.send_signal(signal.SIGINT)
                    interrupt_at = b""
        except OSError:
            break
    os.close(leader)
    return process.wait(), data.decode()


def test_a_build_outlives_the_terminal_it_was_started_on(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path
) -> None:
    api = serve(Api(lines=numbered(3)))
    leader, follower = pty.openpty()
    # The terminal of a session of its own, as a shell's is: whoever closes it sends HUP and makes writing an error.
    owning = "import fcntl, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); " + PROGRAM[-1]
    process = subprocess.Popen(
        [*PROGRAM[:-1], owning, "build", str(source)],
        env=environ(api, tmp_path),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    until(lambda: api.calls("/logs/stream") == 1)
    os.close(leader)
    assert process.wait(PATIENCE_S) == 0
    assert api.calls("/cancel") == 0
    assert not list(tmp_path.rglob("reports/*")), "it took this for a bug"


def test_an_answer_for_a_full_disk_is_no_bug_of_ours(serve: Callable[[Api], Api], tmp_path: Path, source: Path) -> None:
    api = serve(finished(Api(lines=numbered(1))))
    with Path("/dev/full").open("wb") as full:
        argv = [*PROGRAM, "build", str(source)]
        done = subprocess.run(argv, env=environ(api, tmp_path), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 7 and b"No space left on device" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_before_the_start_is_missed_by_nobody(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path, closed: str
) -> None:
    api = serve(finished(Api(lines=numbered(1))))
    argv = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "build", str(source)]
    done = subprocess.run(argv, env=environ(api, tmp_path), capture_output=True, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done


def story() -> list[pb.LogEntry]:
    entries, sequence = [], 0
    for phase in PHASES:
        count = 60 if phase == "BUILD" else 2
        for number in range(count):
            sequence += 1
            text = f"{phase} {number} " + "漢字 and a long line of tool output " * (number % 7) + "\x1b[2J\r\x9b31m"
            entries.append(line(sequence, text, sequence * 20, phase, "STDOUT" if phase == "BUILD" else "SYSTEM"))
    return entries


@pytest.mark.parametrize(("columns", "rows"), [(60, 24), (88, 10), (88, 4), (200, 24)])
def test_the_live_view_neither_wraps_nor_scrolls(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path, columns: int, rows: int
) -> None:
    api = serve(finished(Api(lines=story(), pause_s=0.01)))
    code, text = on_terminal(api, tmp_path, columns, rows, "build", str(source))
    assert code == 0
    assert (tmp_path / "stdout").read_text() == REFERENCE + "\n"
    screen = Screen(columns=columns, rows=rows)
    screen.feed(text)
    assert screen.visible and "F" in screen.sequences
    assert screen.lines[0].startswith("build k7m2xq9d  hello-go")
    assert [row.split()[1] for row in screen.lines[1:-2]] == ["queued", *(phase.lower() for phase in PHASES[:-1])]
    assert screen.lines[-2].startswith("SUCCEEDED  k7m2xq9d")


def test_a_narrow_a_dumb_and_a_ci_terminal_get_plain_lines(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path
) -> None:
    terminals: tuple[tuple[int, dict[str, Any]], ...] = (
        (40, {"NO_COLOR": "1"}),
        (88, {"TERM": "dumb"}),
        (88, {"CI": "true", "NO_COLOR": "1"}),
    )
    for columns, more in terminals:
        api = serve(finished(Api(lines=numbered(3))))
        code, text = on_terminal(api, tmp_path, columns, 24, "build", str(source), **more)
        assert code == 0 and "\x1b" not in text
        assert re.search(r"^ +0\.010 build +\| line 1\r$", text, re.M)


def test_a_terminal_after_an_interrupt_has_its_cursor(
    serve: Callable[[Api], Api], tmp_path: Path, source: Path
) -> None:
    api = serve(Api(lines=story()))
    code, text = on_terminal(api, tmp_path, 88, 24, "build", str(source), interrupt_at=b"PUSH 1")
    screen = Screen(columns=88, rows=24)
    screen.feed(text)
    assert code == 130 and screen.visible
    assert screen.lines[-1].startswith("CANCELLED  k7m2xq9d")
