"""The plain and the live view over a fake clock."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, field

import pytest

from builder.cli import format as fmt
from builder.cli import ticker as cli_ticker
from builder.cli.live import CLEAR_BELOW, HIDE, SHOW, LiveView, Screen, frame, phase_row
from builder.cli.phases import Progress
from builder.cli.plain import PlainView, entry_line
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.cli_fixtures import START_MS, build, failed_build, line


@dataclass
class Ticker:
    """Milliseconds that pass when a test says so."""

    ms: int = 0

    def now(self) -> int:
        return self.ms


@dataclass
class Terminal:
    """What a terminal shows of the few sequences that the live view may send."""

    columns: int = 88
    rows: int = 24
    screen: list[str] = field(default_factory=list)
    cursor_visible: bool = True
    draws: int = 0
    tallest: int = 0

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows

    def write(self, text: str) -> None:
        self.draws += 1
        self.tallest = max(self.tallest, text.count("\n"))
        if text.startswith(HIDE):
            self.cursor_visible, text = False, text[len(HIDE) :]
        if found := re.match(r"\x1b\[(\d+)F" + re.escape(CLEAR_BELOW), text):
            up = int(found[1])
            assert up <= len(self.screen), "the cursor would leave the screen's top"
            del self.screen[len(self.screen) - up :]
            text = text[found.end() :]
        if text.endswith(SHOW):
            self.cursor_visible, text = True, text[: -len(SHOW)]
        bare = re.sub(r"\x1b\[\d+m", "", text)
        assert "\x1b" not in bare
        for row in bare.split("\n")[:-1]:
            assert fmt.cell_len(row) <= self.columns, row
            self.screen.append(row)


def test_plain_build_is_the_grammar_of_the_page() -> None:
    out: list[str] = []
    clock = Ticker()
    view = PlainView(write=out.append, look=Look(), now_ms=clock.now)
    view.open("build hello-go  folder, 14 files, 38.2 KiB  local")
    view.created(build(), "build k7m2xq9d, hello-go, organization acme")
    view.entry(line(1, "step 2 of 2, compile: go build", 3_000, stream="SYSTEM"))
    view.entry(line(2, "go: downloading golang.org/x/net v0.44.0", 3_512))
    clock.ms = 29_999
    view.tick()
    assert len(out) == 4
    clock.ms = 30_000
    view.tick()
    view.tick()
    clock.ms = 61_000
    view.tick()
    view.entry(line(3, "\x1b[31mred\x1b[0m\ttab", 61_500))
    clock.ms = 62_000
    view.tick()
    view.close(build(took_ms=65_400, size_bytes=9_856_614), "")
    assert out == [
        "  0.000 queued       # build hello-go  folder, 14 files, 38.2 KiB  local",
        "  0.000 queued       # build k7m2xq9d, hello-go, organization acme",
        "  3.000 build        # step 2 of 2, compile: go build",
        "  3.512 build        | go: downloading golang.org/x/net v0.44.0",
        " 30.000 build        # still in step 2 of 2, compile; 30s without output",
        " 61.000 build        # still in step 2 of 2, compile; 60s without output",
        " 61.500 build        | \\x1b[31mred\\x1b[0m\ttab",
        " 65.400 finalize     # SUCCEEDED k7m2xq9d 1m05s 9.4 MiB",
    ]


def test_the_verdict_of_the_log_is_not_printed_beside_the_verdict_of_the_view() -> None:
    for record, text in (
        (build(), "SUCCEEDED"),
        (failed_build("p2v8k5wn0000000000aa", 9, FAILURE), "FAILED StepFailed"),
    ):
        out: list[str] = []
        terminal = Terminal()
        screen = Screen(write=terminal.write, size=terminal.size)
        live = LiveView(screen=screen, look=Look(columns=88), now_ms=Ticker().now, verbose=True)
        plain = PlainView(write=out.append, look=Look(), now_ms=Ticker().now)
        for view in (live, plain):
            view.open("build")
            view.created(build(), "build")
            view.entry(line(1, text))  # a tool may print the same
            view.entry(line(2, text, stream="SYSTEM"))
            view.close(record, "")
        for rows in (out, terminal.screen):
            assert sum(text.split()[0] in row for row in rows) == 2, rows


FAILURE = pb.Failure(reason="StepFailed", error_class="user_code", phase=pb.BUILD_PHASE_BUILD)


@pytest.mark.parametrize(
    ("status", "mark", "style"),
    [(pb.BUILD_STATUS_FAILED, "failed", "31"), (pb.BUILD_STATUS_CANCELLED, "cancelled", "33")],
)
def test_a_step_that_was_stopped_has_no_tick_and_names_itself(
    status: pb.BuildStatus.ValueType, mark: str, style: str
) -> None:
    progress = Progress(created_ms=START_MS)
    progress.apply(line(1, "step 1 of 2, compile: go build", stream="SYSTEM"))
    progress.apply(line(2, "egress index.example.com:443 allowed", stream="SYSTEM"))
    records = [
        pb.PhaseRecord(phase=pb.BUILD_PHASE_PLAN, status=pb.PHASE_STATUS_SUCCEEDED),
        pb.PhaseRecord(phase=pb.BUILD_PHASE_BUILD, status=pb.PHASE_STATUS_FAILED, duration_ms=900),
    ]
    failure = FAILURE if status == pb.BUILD_STATUS_FAILED else pb.Failure(reason="Cancelled")
    plan, stopped = progress.rest(build(status=status, failure=failure, phases=records))
    assert (plan.mark, stopped.mark, stopped.detail) == ("done", mark, "step 1 of 2, compile")
    assert phase_row(stopped, Look(colour=True)) == f"\x1b[{style}m✗\x1b[0m build            0.9s  step 1 of 2, compile"
    running = frame(progress, Look(columns=88), elapsed_ms=5, in_phase_ms=3, rows=24, hint="")
    assert running[0].endswith("step 1 of 2, compile")


def test_plain_has_a_line_at_least_every_30_seconds() -> None:
    out: list[str] = []
    clock = Ticker()
    view = PlainView(write=out.append, look=Look(), now_ms=clock.now)
    view.open("build")
    spoken = 0
    for clock.ms in range(0, 600_000, 100):
        before = len(out)
        view.tick()
        if len(out) > before:
            spoken = clock.ms
        assert clock.ms - spoken <= 30_000


def test_plain_failure_ends_in_the_block_and_quiet_keeps_it() -> None:
    failure = pb.Failure(reason="CompileFailed", error_class="user_code", message="go build exited 1")
    record = failed_build("p2v8k5wn0000000000aa", 2_600, failure)
    for quiet in (False, True):
        out: list[str] = []
        view = PlainView(write=out.append, look=Look(), now_ms=Ticker().now, quiet=quiet)
        view.open("build")
        view.entry(line(1, "noise"))
        view.notice("connection lost after line 1; trying again in 1s")
        view.close(record, "")
        assert out[-4] == "FAILED  CompileFailed  p2v8k5wn  2.6s"
        assert out[-1] == "next   Correct the file named and build again."
        assert (len(out) == 4) is quiet


def test_status_is_said_once_for_each_change() -> None:
    out: list[str] = []
    view = PlainView(write=out.append, look=Look(), now_ms=Ticker().now)
    for place in (2, 2, 1):
        view.status(f"place {place} of 2")
    assert [row[-12:] for row in out] == ["place 2 of 2", "place 1 of 2"]


def test_an_entry_without_phase_keeps_its_columns() -> None:
    entry = pb.LogEntry(sequence=1, timestamp_ms=START_MS, stream=pb.LOG_STREAM_SYSTEM, line="owner lost")
    assert entry_line(entry, START_MS) == "  0.000              # owner lost"


def test_progress_reads_phases_steps_and_warnings() -> None:
    progress = Progress(created_ms=START_MS)
    ended = [
        progress.apply(entry)
        for entry in (
            line(1, "14 files", 200, "FETCH_SOURCE", "SYSTEM"),
            line(2, "go, because go.mod is at the root", 300, "DETECT", "SYSTEM"),
            line(3, "warning: go.mod has no toolchain line", 310, "PLAN", "SYSTEM"),
            line(31, "runtime go: go.mod is at the root", 320, "PLAN", "SYSTEM"),
            line(32, "version 1.26: go.mod:3 asks for it", 320, "PLAN", "SYSTEM"),
            line(33, "target native, linux/amd64: default", 320, "PLAN", "SYSTEM"),
            line(4, "step 1 of 2, download modules: go mod download", 400, stream="SYSTEM"),
            line(5, "10%\r100%", 500),
        )
    ]
    assert [(done.phase, done.duration_ms, done.detail) for done in ended if done] == [
        ("queued", 200, ""),
        ("fetch_source", 100, "14 files"),
        ("detect", 10, "go, because go.mod is at the root"),
        ("plan", 90, "go 1.26, native, linux/amd64"),
    ]
    assert progress.warnings == ["go.mod has no toolchain line"]
    assert progress.step == "step 1 of 2, download modules"
    assert list(progress.tail) == ["100%"]
    assert progress.ahead() == ("package", "push", "attest", "finalize")
    assert progress.apply(line(51, "FAILED CompileFailed", 800, "FETCH_SOURCE", "SYSTEM")) is None
    assert (progress.phase, progress.detail) == ("build", "step 1 of 2, download modules")
    again = progress.apply(line(6, "attempt 2", 900, "QUEUED", "SYSTEM"))
    assert again is not None and (again.phase, again.mark) == ("build", "failed")


def _drive(terminal: Terminal, colour: bool = True) -> tuple[LiveView, Ticker]:
    clock = Ticker()
    look = Look(colour=colour, columns=min(terminal.columns, 120))
    view = LiveView(screen=Screen(write=terminal.write, size=terminal.size), look=look, now_ms=clock.now)
    view.open("build hello-go  folder, 14 files, 38.2 KiB  on https://ignite.example.com")
    view.created(build(), "build k7m2xq9d  hello-go  organization acme on https://ignite.example.com")
    sequence = 0
    for phase, count in (("FETCH_SOURCE", 1), ("DETECT", 1), ("PLAN", 1), ("BUILD", 40), ("PACKAGE", 1)):
        for number in range(count):
            sequence += 1
            clock.ms += 37
            text = f"{phase} {number} " + "漢字 x" * number
            view.entry(line(sequence, text, clock.ms, phase, "STDOUT" if phase == "BUILD" else "SYSTEM"))
    return view, clock


@pytest.mark.parametrize(("columns", "rows"), [(60, 24), (88, 10), (88, 3), (88, 2), (200, 24)])
def test_live_never_wraps_nor_scrolls_and_leaves_final_lines_only(columns: int, rows: int) -> None:
    terminal = Terminal(columns=columns, rows=rows)
    view, _ = _drive(terminal)
    assert not terminal.cursor_visible
    phase = pb.PhaseRecord(phase=pb.BUILD_PHASE_PUSH, duration_ms=600)
    view.close(build(size_bytes=9_856_614, phases=[phase]), "")
    assert terminal.cursor_visible
    words = [row.split()[0:2] for row in terminal.screen]
    assert words[0][0] == "build"
    assert [row[1] for row in words[1:-2]] == ["queued", "fetch_source", "detect", "plan", "build", "push"]
    assert terminal.screen[-2:] == ["SUCCEEDED  k7m2xq9d  21.0s  9.4 MiB", "next   ignite-builder run k7m2xq9d"]


def test_live_region_fits_the_screen() -> None:
    progress = Progress(created_ms=0)
    for number in range(20):
        progress.apply(line(number + 1, f"row {number}"))
    for rows in range(1, 30):
        lines = frame(progress, Look(columns=88), elapsed_ms=5, in_phase_ms=3, rows=rows, hint="Ctrl-C cancels")
        assert 1 <= len(lines) <= max(rows - 1, 1)


def test_live_draws_at_most_ten_times_a_second() -> None:
    terminal = Terminal()
    clock = Ticker(ms=1_000)
    view = LiveView(screen=Screen(write=terminal.write, size=terminal.size), look=Look(columns=88), now_ms=clock.now)
    view.open("build")
    view.created(build(), "build")
    before = terminal.draws
    for number in range(10_000):
        if number % 10 == 0:
            clock.ms += 1
        view.entry(line(number + 1, f"line {number}", phase="QUEUED"))
    assert terminal.draws - before <= 11


def test_live_survives_a_window_that_becomes_narrower() -> None:
    terminal = Terminal(columns=120)
    view, _ = _drive(terminal, colour=False)
    drawn = view.screen.drawn
    terminal.columns = 60
    up = sum(max(-(-width // 60), 1) for width in drawn)
    assert view.screen._home() == f"\x1b[{up}F{CLEAR_BELOW}"
    assert up > len(drawn)


def test_abandon_gives_the_cursor_back() -> None:
    terminal = Terminal()
    view, _ = _drive(terminal)
    view.abandon()
    assert terminal.cursor_visible
    assert terminal.screen[-1].split()[1] == "build"


def test_frame_is_the_mock_up() -> None:
    progress = Progress(created_ms=START_MS)
    progress.apply(line(1, "step 2 of 2, compile: go build", stream="SYSTEM"))
    progress.apply(line(2, "golang.org/x/net/http2"))
    progress.apply(line(3, "github.com/google/cel-go/parser/gen"))
    rows = frame(progress, Look(columns=88), elapsed_ms=12_900, in_phase_ms=12_400, rows=24, hint="Ctrl-C cancels")
    assert rows == (
        "⠏ build           12.4s  step 2 of 2, compile",
        "    golang.org/x/net/http2",
        "    github.com/google/cel-go/parser/gen",
        "· package  push  attest  finalize" + " " * 33 + "12.9s; Ctrl-C cancels",
    )


def test_the_live_view_moves_and_shows_ctrl_c_before_there_is_a_record() -> None:
    drawn: list[str] = []
    clock = Ticker()
    live = LiveView(screen=Screen(write=drawn.append, size=lambda: (88, 24)), look=Look(columns=88), now_ms=clock.now)
    live.open("build hello-go  local")
    sent = iter(["packing 1 MiB of 9 MiB", "packing 2 MiB of 9 MiB"])
    live.doing(lambda: next(sent))
    assert "packing 1 MiB of 9 MiB" in drawn[-1] and "Ctrl-C cancels" in drawn[-1] and "hello-go" in drawn[-1]
    clock.ms += 1000
    live.tick()
    assert "packing 2 MiB of 9 MiB" in drawn[-1]


def test_the_clock_ticks_while_the_thread_waits_and_others_timers_go_on() -> None:
    ticks = []
    read, write = os.pipe()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            os.write(write, b"x")

    former = signal.getsignal(signal.SIGALRM)
    before = signal.getitimer(signal.ITIMER_REAL)
    with cli_ticker.Ticker(tick).running() as ticker:
        assert os.read(read, 1) == b"x"
        with ticker.held_back():
            seen = len(ticks)
            signal.raise_signal(signal.SIGALRM)
            assert len(ticks) == seen
    assert len(ticks) >= 3
    assert signal.getsignal(signal.SIGALRM) is former
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (before[0] > 0)
    os.close(read)
    os.close(write)
