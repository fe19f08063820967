"""Every file of end-to-end tests belongs to one session of `make test`, and each lane has users of its own."""

from __future__ import annotations

from tests import lanes, uids
from tests.chaos.__main__ import AT_ONCE
from tests.chaos.parts import LANE_UIDS
from tests.conftest import bytes_of, parts_of


def test_each_file_is_in_one_session_and_no_session_is_empty() -> None:
    files = {lanes.E2E / path.name for path in (lanes.ROOT / lanes.E2E).glob("test_*.py")}
    apart = {lanes.E2E / name for name in lanes.APART}
    named = [path for group in lanes.groups() for path in group]
    assert apart < files and sorted(named) == sorted(files - apart)
    assert all(lanes.groups())


def test_the_files_apart_are_run_by_the_makefile() -> None:
    (line,) = [line for line in (lanes.ROOT / "Makefile").read_text().splitlines() if "-m pytest tests/slow" in line]
    named = [word for word in line.split() if word.startswith("tests/")]
    assert named == ["tests/slow", *(f"{lanes.E2E}/{name}" for name in lanes.APART)]


def test_make_test_runs_the_slow_tests() -> None:
    (line,) = [line for line in (lanes.ROOT / "Makefile").read_text().splitlines() if line.startswith("test:")]
    assert {"test-unit", "test-apart"} <= set(line.split())


def test_each_unit_test_is_run_by_the_unit_sessions_or_apart() -> None:
    apart = [line for line in (lanes.ROOT / "Makefile").read_text().splitlines() if line.endswith("-m slow tests/unit")]
    assert len(apart) == 1 and all(command[4:6] == ("-m", "not slow") for command in lanes.unit_sessions())


def test_what_takes_longest_comes_first() -> None:
    first, *others = lanes.sessions(["tests/cluster"])
    assert first[3:] == ("tests/cluster",) and others == lanes.sessions()


def test_each_file_of_unit_tests_is_in_one_part_and_no_part_is_small() -> None:
    folder = lanes.ROOT / "tests/unit"
    parts = parts_of(folder, lanes.UNIT_LANES)
    assert parts.keys() == set(folder.glob("test_*.py"))
    sizes = [sum(bytes_of(path) for path in parts if parts[path] == part) for part in range(lanes.UNIT_LANES)]
    assert min(sizes) > 0.9 * max(sizes)
    assert bytes_of(folder / "test_store_contract.py") > 100_000, "the tests that it runs are those of another folder"
    assert [command[-1] for command in lanes.unit_sessions()] == [
        "--part=1/4",
        "--part=2/4",
        "--part=3/4",
        "--part=4/4",
    ]


def test_the_users_of_a_lane_are_its_own() -> None:
    every = [value for name, value in vars(uids).items() if name.isupper() and isinstance(value, int)]
    users = [value for value in [*every, *uids.SERVERS] if value not in (uids.LANE, uids.LANE_UIDS)]
    assert max(users) + AT_ONCE * LANE_UIDS - min(users) < uids.LANE_UIDS
