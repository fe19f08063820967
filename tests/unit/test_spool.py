"""The spool: numbered densely, on disk until it is acknowledged, found again after a crash, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.attempt.log import Log
from builder.claims.spool import Spool, left_behind, spool_path


def make(path: Path, cap: int = 1024 * 1024) -> Spool:
    return Spool(path, cap_bytes=cap)


def test_lines_leave_only_when_they_are_acknowledged(tmp_path: Path) -> None:
    spool = make(tmp_path / "b.1.jsonl")
    for text in "abc":
        spool.add(5, "BUILD", "STDOUT", text)
    assert [line.text for line in spool.batch(2)] == ["a", "b"]
    spool.acknowledge(1)
    assert not spool.acknowledged
    assert [line.index for line in spool.batch(9)] == [1, 2]
    spool.acknowledge(3)
    assert spool.acknowledged
    assert spool.close() == 3


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=300), max_size=200))
def test_a_crashed_claims_lines_are_found(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    path = spool_path(folder, "build", 7)
    spool = make(path)
    for text in texts:
        spool.add(5, "BUILD", "STDERR", text)
    spool.close()
    with path.open("a") as torn:
        torn.write('{"index": 99, "ti')
    [(build_id, claim, lines, _)] = left_behind(folder)
    assert (build_id, claim, [line.text for line in lines]) == ("build", 7, texts)


def test_at_the_cap_head_and_tail_stay_and_one_marker_counts_the_rest(tmp_path: Path) -> None:
    spool = make(tmp_path / "b.1.jsonl", cap=100_000)
    for number in range(5_000):
        spool.add(5, "BUILD", "STDOUT", f"line {number:05d} {'x' * 50}")
    count = spool.close()
    lines = spool.batch(10_000)
    assert len(lines) == count < 2_000
    assert [line.index for line in lines] == list(range(count))
    assert lines[0].text.startswith("line 00000")
    assert lines[-1].text.startswith("line 04999")
    markers = [line for line in lines if line.stream == "SYSTEM"]
    assert len(markers) == 1
    assert f"{5_000 - count + 1} lines left out" in markers[0].text


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(min_value=0, max_value=900), max_size=60))
def test_near_the_cap_lines_of_any_length_keep_their_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = make(spool_path(folder, "build", 1), cap=4_000)
    for number, size in enumerate(sizes):
        spool.add(5, "BUILD", "STDOUT", f"{number} {'x' * size}")
    spool.close()
    lines = spool.batch(1_000)
    numbers = [int(line.text.split()[0]) if line.stream == "STDOUT" else -1 for line in lines]
    kept = [number for number in numbers if number >= 0]
    assert kept == sorted(kept) and kept[-1:] == [len(sizes) - 1][: len(sizes)]
    if len(kept) < len(sizes):  # the marker stands exactly where the rest is missing
        at = numbers.index(-1)
        assert numbers[:at] == list(range(at))
        assert numbers[at + 1 :] == list(range(len(sizes) - (len(kept) - at), len(sizes)))


def test_a_disk_that_takes_no_lines_costs_no_line_and_no_build(tmp_path: Path) -> None:
    path = tmp_path / "b.1.jsonl"
    path.symlink_to("/dev/full")
    spool = Spool(path, cap_bytes=1 << 20)
    for number in range(3):
        spool.add(number, "BUILD", "STDOUT", f"line {number}")
    assert spool.close() == 3
    assert [line.text for line in spool.batch(10)] == ["line 0", "line 1", "line 2"]
    spool.acknowledge(1)
    path.unlink()
    assert spool.again(1) == 2, "what was not acknowledged is there"
    assert spool.again(0) == 0, "what was, is nowhere any more"
    spool.remove()


def test_a_folder_that_cannot_be_made_costs_no_line_either(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    spool = Spool(tmp_path / "spool" / "b.1.jsonl", cap_bytes=1 << 20)
    spool.add(0, "BUILD", "STDOUT", "x")
    assert spool.close() == 1 and len(spool.batch(10)) == 1


def test_what_acts_on_a_terminal_never_reaches_the_spool(tmp_path: Path) -> None:
    path = tmp_path / "b.1.jsonl"
    log = Log(spool=make(path))
    log.emit("STDOUT", "\x1b[31mred\x1b[0m\u202e\x00")
    log.system("\x9b1mours")
    assert [line.text for line in log.spool.batch(9)] == [r"red\u202e\x00", "ours"]
    log.spool.close()
    assert "u001b" not in path.read_text() and "u009b" not in path.read_text()
